//! What is shown: plain values, taken together when somebody asks.

/// Everything that `/metrics` and `/health` show.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When it was taken, in microseconds.
    pub at_us: i64,
    /// The extension's version.
    pub version: &'static str,
    /// Each database with the extension.
    pub databases: Vec<Database>,
    /// Age of changes when a refresh made them visible; none while there are no samples.
    pub cdc_lag: Option<Lag>,
    /// The cache of refresh programs.
    pub template_cache: TemplateCache,
    /// The workers that refresh.
    pub pool: Pool,
    /// For how many stream tables there is room.
    pub stream_tables_limit: u64,
}

/// What a snapshot is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// `/metrics`: a peak that is told starts anew.
    Scrape,
    /// Anything else: leaves everything as it is.
    Look,
}

/// One database.
#[derive(Debug, Clone, Default)]
pub struct Database {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// What capture is doing.
    pub capture: CaptureState,
    /// Whether its scheduler runs.
    pub scheduler_running: bool,
    /// Why it refreshes nothing by itself, if somebody wants that.
    pub at_rest: Option<&'static str>,
    /// Its capture in numbers.
    pub wal_decoder: WalDecoder,
    /// Its replication slot, once there is one.
    pub slot: Option<Slot>,
    /// For how long the oldest open transaction has held the frontier back.
    pub frontier_holdback_seconds: f64,
    /// Age of changes when a refresh made them visible; none while there are no samples.
    pub lag: Option<Lag>,
    /// Its change buffers.
    pub buffers: Vec<Buffer>,
    /// Its stream tables.
    pub stream_tables: Vec<StreamTable>,
}

/// What capture of a database is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureState {
    /// Nothing: there is nothing to capture.
    #[default]
    None,
    /// Its workers are starting.
    Starting,
    /// It captures.
    Running,
    /// A worker keeps failing.
    Failing,
}

/// Capture in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalDecoder {
    /// Rows received and not yet committed to change buffers.
    pub pending_records: u64,
    /// The most there have been since the last scrape.
    pub pending_records_max: u64,
    /// Frames in the queue.
    pub queue_depth: u64,
    /// Bytes in the queue.
    pub queue_bytes: u64,
    /// Rows received.
    pub records_total: u64,
    /// Bytes received.
    pub bytes_total: u64,
    /// Transactions received.
    pub transactions_total: u64,
}

/// A replication slot.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// WAL that is kept for it.
    pub retained_wal_bytes: u64,
    /// Whether a process uses it.
    pub active: bool,
}

/// A source and its change buffer.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    /// That table's oid.
    pub relid: u32,
    /// That table's name.
    pub source: String,
    /// Whether it has a change buffer.
    pub buffered: bool,
    /// Rows in it that some stream table has not seen yet.
    pub pending_rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// A stream table.
#[derive(Debug, Clone, Default)]
pub struct StreamTable {
    /// Its id in the catalog.
    pub pgt_id: i64,
    /// The relation that holds it.
    pub relid: u32,
    /// The relations that it reads.
    pub sources: Vec<u32>,
    /// INITIALIZING, ACTIVE, PAUSED, SUSPENDED or ERROR.
    pub status: &'static str,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Refreshes that were completed.
    pub refreshes_total: u64,
    /// Refreshes that failed.
    pub refresh_failures_total: u64,
    /// Rows that refreshes inserted, updated or deleted.
    pub rows_changed_total: u64,
    /// Failures since the last success.
    pub consecutive_errors: u64,
    /// Whether it is refreshed (neither paused nor suspended).
    pub active: bool,
    /// Age of its data; none before the first fill.
    pub staleness_seconds: Option<f64>,
    /// Whether it is to be refreshed and its data is older than its schedule allows.
    pub stale: bool,
    /// How long refreshes took.
    pub refresh_durations: Durations,
    /// Refreshes that applied a delta.
    pub differential_refreshes_total: u64,
    /// Refreshes that recomputed.
    pub full_refreshes_total: u64,
    /// The last refresh that changed something or recomputed.
    pub last_refresh: Option<LastRefresh>,
    /// The last failure.
    pub last_error: Option<LastError>,
}

/// A refresh.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastRefresh {
    /// How long ago it ended.
    pub seconds_ago: f64,
    /// How long it took.
    pub duration_seconds: f64,
    /// Rows of its change.
    pub rows: u64,
}

/// A failed refresh.
#[derive(Debug, Clone, Default)]
pub struct LastError {
    /// How long ago it was.
    pub seconds_ago: f64,
    /// Its SQLSTATE.
    pub sqlstate: String,
    /// Message, detail and hint. May contain values of rows.
    pub text: String,
}

/// A histogram of durations.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// Upper bounds of the buckets, rising; one more bucket has none.
    pub bounds_seconds: &'static [f64],
    /// How many fell in each bucket.
    pub counts: Vec<u64>,
    /// All durations together.
    pub sum_seconds: f64,
}

/// Percentiles of an age.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lag {
    /// Half are below.
    pub p50_seconds: f64,
    /// 95 % are below.
    pub p95_seconds: f64,
    /// 99 % are below.
    pub p99_seconds: f64,
}

impl Lag {
    /// Percentiles of `samples`, by nearest rank; none if there are none. Sorts them.
    pub fn of_seconds(samples: &mut [f64]) -> Option<Lag> {
        samples.sort_unstable_by(f64::total_cmp);
        let last = samples.len().checked_sub(1)?;
        let rank = |percent: usize| samples[(samples.len() * percent).div_ceil(100).saturating_sub(1).min(last)];
        Some(Lag { p50_seconds: rank(50), p95_seconds: rank(95), p99_seconds: rank(99) })
    }
}

/// The cache of refresh programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateCache {
    /// Found.
    pub hits: u64,
    /// Made.
    pub misses: u64,
    /// Dropped to make room.
    pub evictions: u64,
}

/// The workers that refresh.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pool {
    /// Refreshes that are due and wait for a worker.
    pub queue_depth: u64,
    /// Workers that refresh something now.
    pub busy: u64,
    /// Workers.
    pub workers: u64,
    /// Time that workers spent waiting for something to do.
    pub idle_ms_total: u64,
}
