//! What the processes of pg_trickle share: per database the state of capture, per stream table its counters.

use pgrx::{pg_guard, pg_sys};
use pgtrickle_pg::shmem::LatchSlot;
use pgtrickle_pg::{shared_static, shared_struct};
use std::sync::atomic::*;

/// Databases of one cluster that can have stream tables at the same time.
pub const MAX_DATABASES: usize = 64;
/// Stream tables of one cluster whose counters are kept.
pub const MAX_STREAM_TABLES: usize = 1024;
/// Samples of the lag ring.
pub const LAG_SAMPLES: usize = 256;
/// Sources whose failures to be decoded are counted at the same time.
pub const FAILING_SOURCES: usize = 8;
/// Places for change counts of sources.
pub const SOURCE_PLACES: usize = 1024;
/// Sources of one cluster whose change buffers are measured.
pub const MAX_SOURCES: usize = 1024;
/// Sources of one stream table that are told to whoever draws the graph.
pub const EDGES: usize = 32;
/// Long commands whose progress is told at the same time.
pub const MAX_PROGRESS: usize = 64;
/// Lag samples older than this no longer count.
const LAG_WINDOW_US: i64 = 15 * 60 * 1_000_000;
/// Apply transactions whose commit times are remembered, to tell the age of what a refresh made visible.
pub const COMMIT_TIMES: usize = 1024;

shared_struct! {
    /// One database's capture: who serves it, how far it is, and what it has done.
    pub struct DbShared {
        /// Database OID, 0 while the slot is free.
        pub dboid: AtomicU32,
        /// The database's name as NUL-padded UTF-8.
        pub name: [AtomicU8; 64],
        pub decoder_latch: LatchSlot,
        pub apply_latch: LatchSlot,
        pub scheduler_latch: LatchSlot,
        pub decoder_pid: AtomicI32,
        pub apply_pid: AtomicI32,
        pub scheduler_pid: AtomicI32,
        /// Set by the decoder before it sleeps; a commit sets its latch only then.
        pub decoder_sleeping: AtomicBool,
        /// Newest commit of any backend; the decoder flushes up to it, as asynchronous commits do not.
        pub want_flush_lsn: AtomicU64,
        /// All that committed before this LSN is durably in the change buffers.
        pub applied_lsn: AtomicU64,
        pub sent_lsn: AtomicU64,
        /// Records received but not yet committed to change buffers.
        pub pending_records: AtomicU64,
        /// Largest value of `pending_records` since it was last scraped.
        pub pending_records_max: AtomicU64,
        /// Frames in the queue, and their bytes.
        pub queue_depth: AtomicU64,
        pub queue_bytes: AtomicU64,
        pub records_total: AtomicU64,
        pub bytes_total: AtomicU64,
        pub transactions_total: AtomicU64,
        /// See [`CaptureState`].
        pub capture_state: AtomicU32,
        /// Sources at whose changes decoding failed, 0 where none is, and how often in a row.
        pub failing_relids: [AtomicU32; FAILING_SOURCES],
        pub failing_counts: [AtomicU32; FAILING_SOURCES],
        /// Set when the extension is gone from the database: capture is to stop and the slot to be dropped.
        pub retired: AtomicBool,
        /// Set by drain(): no refresh is begun by the scheduler until resume_all().
        pub draining: AtomicBool,
        /// Set when the catalog of stream tables changed and the scheduler must read it again.
        pub catalog_dirty: AtomicBool,
        /// Stream tables whose schedule is "as soon as changes arrive"; while 0 the apply worker does not wake the scheduler.
        pub immediate_tables: AtomicU32,
        /// Counts per source what was written to its change buffer; sources share a place by OID modulo the size, so a
        /// moved count may be another's, never the reverse.
        pub source_changes: [AtomicU64; SOURCE_PLACES],
        /// Next places in the rings below.
        pub lag_next: AtomicU64,
        pub commit_next: AtomicU64,
        pub lag_us: [AtomicU64; LAG_SAMPLES],
        /// When each lag sample was taken, microseconds since 2000-01-01.
        pub lag_at: [AtomicI64; LAG_SAMPLES],
        /// End LSN and commit time (µs since 2000-01-01) of recent applied transactions.
        pub commit_lsn: [AtomicU64; COMMIT_TIMES],
        pub commit_time: [AtomicI64; COMMIT_TIMES],
        /// Barrier waiters: process latches to wake when `applied_lsn` moves.
        pub waiters: [LatchSlot; 32],
        /// Program cache.
        pub cache_hits: AtomicU64,
        pub cache_misses: AtomicU64,
        pub cache_evictions: AtomicU64,
        /// Age of the oldest transaction that holds the frontier back, in microseconds.
        pub holdback_us: AtomicU64,
        /// Retained WAL of the database's slot, in bytes, and whether a process uses the slot.
        pub slot_retained_bytes: AtomicU64,
        pub slot_active: AtomicBool,
        /// Refreshes that are due and wait for a worker, and those that run.
        pub jobs_queued: AtomicU64,
        pub jobs_running: AtomicU64,
        /// Time that refresh workers have waited for something to do, in microseconds.
        pub idle_us: AtomicU64,
        /// Looks at all change buffers so far; see `workers/watch.rs`.
        pub health_cycles: AtomicU64,
    }
}

shared_struct! {
    /// The change buffer of one source, as the last health cycle of its database's scheduler found it.
    pub struct SourceShared {
        /// 0 while the slot is free.
        pub relid: AtomicU32,
        pub dboid: AtomicU32,
        /// Schema-qualified name as NUL-padded UTF-8.
        pub name: [AtomicU8; 136],
        pub pending_rows: AtomicU64,
        pub buffer_bytes: AtomicU64,
    }
}

shared_struct! {
    /// Counters of one stream table.
    pub struct StreamTableShared {
        /// 0 while the slot is free.
        pub pgt_id: AtomicI64,
        pub dboid: AtomicU32,
        /// Schema and name as NUL-padded UTF-8, written once when the slot is taken.
        pub schema: [AtomicU8; 64],
        pub name: [AtomicU8; 64],
        pub differential_refreshes: AtomicU64,
        pub full_refreshes: AtomicU64,
        pub failures: AtomicU64,
        pub consecutive_errors: AtomicU64,
        pub rows_changed: AtomicU64,
        pub active: AtomicBool,
        /// See [`Status`].
        pub status: AtomicU32,
        /// The relation that holds it, and those that it reads (0 where there is none).
        pub relid: AtomicU32,
        pub sources: [AtomicU32; EDGES],
        /// The last refresh: when it ended (µs since 2000-01-01), how long it took, how many rows it changed.
        pub refreshed_at: AtomicI64,
        pub last_duration_us: AtomicU64,
        pub last_rows: AtomicU64,
        /// The last failure: when it was, its packed SQLSTATE, and what was said as NUL-padded UTF-8.
        pub error_at: AtomicI64,
        pub error_code: AtomicI32,
        pub error_text: [AtomicU8; 512],
        /// Commit time up to which the stream table is known to be current, µs since 2000-01-01.
        pub fresh_until: AtomicI64,
        /// Refreshes by duration; upper bounds in [`DURATION_BOUNDS_S`], last one open.
        pub duration_counts: [AtomicU64; DURATION_BUCKETS],
        pub duration_sum_us: AtomicU64,
        /// What the last recomputation, or the first fill, has taken; 0 if that is not known.
        pub recompute_us: AtomicU64,
        /// Recomputations since the last refresh by deltas.
        pub recomputed_since: AtomicU64,
        /// What the last two refreshes by deltas have taken, and how many changes they applied.
        pub delta_us: [AtomicU64; 2],
        pub delta_changes: [AtomicU64; 2],
    }
}

pub const DURATION_BUCKETS: usize = 12;
/// Upper bounds of the histogram's buckets, in seconds; the last bucket has none.
pub const DURATION_BOUNDS_S: [f64; DURATION_BUCKETS - 1] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

shared_struct! {
    /// How far a fill or a recomputation is.
    pub struct ProgressShared {
        /// 0 while the place is free.
        pub pid: AtomicI32,
        pub dboid: AtomicU32,
        pub relid: AtomicU32,
        /// What is being done, as NUL-padded UTF-8.
        pub phase: [AtomicU8; 64],
        pub step: AtomicU32,
        pub steps: AtomicU32,
        pub rows: AtomicU64,
        pub started_at: AtomicI64,
    }
}

shared_struct! {
    /// A request to start capture of a table, from a creating backend to the worker that it starts for this.
    pub struct TrackRequest {
        /// 0 free, 1 asked, 2 done, 3 failed.
        pub state: AtomicU32,
        pub dboid: AtomicU32,
        pub relid: AtomicU32,
        /// One bit per attribute number.
        pub columns: [AtomicU64; 26],
        /// Why it failed: the packed SQLSTATE, and the message as NUL-padded UTF-8.
        pub code: AtomicI32,
        pub message: [AtomicU8; 256],
    }
}

shared_struct! {
    /// All shared memory of pg_trickle.
    pub struct Shared {
        pub launcher_latch: LatchSlot,
        /// Set when a database may have gained or lost the extension.
        pub databases_dirty: AtomicBool,
        pub track_requests: [TrackRequest; 16],
        pub databases: [DbShared; MAX_DATABASES],
        pub stream_tables: [StreamTableShared; MAX_STREAM_TABLES],
        pub sources: [SourceShared; MAX_SOURCES],
        pub progress: [ProgressShared; MAX_PROGRESS],
    }
}

shared_static! {
    pub static SHARED: Shared = c"pg_trickle"
}

/// What capture of a database is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum CaptureState {
    /// Nothing serves the database.
    None = 0,
    /// Workers are starting, or the slot is being created.
    Starting = 1,
    /// Changes are being captured.
    Running = 2,
    /// A worker keeps failing; the server log says why.
    Failing = 3,
}

/// What `pgt_stream_tables.status` says, as a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    Initializing = 0,
    Active = 1,
    Paused = 2,
    Suspended = 3,
    Error = 4,
}

impl Status {
    const ALL: [Status; 5] = [Status::Initializing, Status::Active, Status::Paused, Status::Suspended, Status::Error];

    /// As the catalog spells it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Initializing => "INITIALIZING",
            Status::Active => "ACTIVE",
            Status::Paused => "PAUSED",
            Status::Suspended => "SUSPENDED",
            Status::Error => "ERROR",
        }
    }

    /// The status of this name.
    pub fn named(name: &str) -> Status {
        Status::ALL.into_iter().find(|s| s.name() == name).unwrap_or(Status::Initializing)
    }
}

/// Whether the library was preloaded, so that shared memory exists.
pub fn available() -> bool {
    AVAILABLE.load(Ordering::Relaxed)
}

static AVAILABLE: AtomicBool = AtomicBool::new(false);

/// Requests the shared memory. Only while `shared_preload_libraries` is processed.
pub fn init() {
    pgrx::pg_shmem_init!(SHARED = ());
    AVAILABLE.store(true, Ordering::Relaxed);
}

/// The whole of shared memory; panics unless [`available`].
pub fn shared() -> &'static Shared {
    SHARED.get()
}

/// The slot of a database, if one was taken for it.
pub fn db(dboid: u32) -> Option<&'static DbShared> {
    shared().databases.iter().find(|d| dboid != 0 && d.dboid.load(Ordering::Acquire) == dboid)
}

/// The slot of the database that this process is connected to.
pub fn my_db() -> Option<&'static DbShared> {
    db(pgtrickle_pg::spi::my_database_id())
}

/// Takes a slot for a database. None when all are taken.
pub fn claim_db(dboid: u32) -> Option<&'static DbShared> {
    db(dboid).or_else(|| {
        shared()
            .databases
            .iter()
            .find(|d| d.dboid.compare_exchange(0, dboid, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    })
}

/// The counters of a stream table, taking a slot for it at first use. None when all are taken.
pub fn stream_table(dboid: u32, pgt_id: i64, schema: &str, name: &str) -> Option<&'static StreamTableShared> {
    let slots = &shared().stream_tables;
    let mine =
        |s: &&StreamTableShared| s.pgt_id.load(Ordering::Acquire) == pgt_id && s.dboid.load(Ordering::Acquire) == dboid;
    if let Some(found) = slots.iter().find(mine) {
        return Some(found);
    }
    let free =
        slots.iter().find(|s| s.pgt_id.compare_exchange(0, pgt_id, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    store_text(&free.schema, schema);
    store_text(&free.name, name);
    free.dboid.store(dboid, Ordering::Release);
    Some(free)
}

/// Gives the counters of a database's stream tables back that are not among `present`.
pub fn retain_stream_tables(dboid: u32, present: impl Fn(i64) -> bool) {
    for s in shared().stream_tables.iter() {
        let pgt_id = s.pgt_id.load(Ordering::Acquire);
        if pgt_id != 0 && s.dboid.load(Ordering::Acquire) == dboid && !present(pgt_id) {
            s.clear();
            s.dboid.store(0, Ordering::Release);
            s.pgt_id.store(0, Ordering::Release);
        }
    }
}

/// Stream tables that have a place for their counters, in all databases.
pub fn stream_tables_counted() -> usize {
    shared().stream_tables.iter().filter(|s| s.pgt_id.load(Ordering::Acquire) != 0).count()
}

impl StreamTableShared {
    fn clear(&self) {
        let counters = [&self.differential_refreshes, &self.full_refreshes, &self.failures, &self.consecutive_errors]
            .into_iter()
            .chain([&self.rows_changed, &self.duration_sum_us, &self.last_duration_us, &self.last_rows])
            .chain([&self.recompute_us, &self.recomputed_since])
            .chain(self.duration_counts.iter().chain(&self.delta_us).chain(&self.delta_changes));
        counters.for_each(|counter| counter.store(0, Ordering::Relaxed));
        [&self.fresh_until, &self.refreshed_at, &self.error_at]
            .into_iter()
            .for_each(|at| at.store(0, Ordering::Relaxed));
        self.sources.iter().for_each(|relid| relid.store(0, Ordering::Relaxed));
        self.relid.store(0, Ordering::Relaxed);
        self.active.store(false, Ordering::Relaxed);
    }

    /// Which relations it reads, as far as there is room.
    pub fn set_sources(&self, relids: impl Iterator<Item = u32>) {
        for (place, relid) in self.sources.iter().zip(relids.chain(std::iter::repeat(0))) {
            place.store(relid, Ordering::Relaxed);
        }
    }

    /// Its status, and with it whether it counts as refreshed.
    pub fn set_status(&self, status: Status) {
        self.status.store(status as u32, Ordering::Relaxed);
        self.active.store(!matches!(status, Status::Paused | Status::Suspended), Ordering::Relaxed);
    }

    /// See [`StreamTableShared::set_status`].
    pub fn status(&self) -> Status {
        let status = self.status.load(Ordering::Relaxed);
        Status::ALL.into_iter().find(|&s| s as u32 == status).unwrap_or(Status::Initializing)
    }

    /// Remembers why a refresh failed.
    pub fn note_error(&self, code: i32, text: &str, at: i64) {
        self.error_code.store(code, Ordering::Relaxed);
        store_text(&self.error_text, text);
        self.error_at.store(at, Ordering::Release);
    }
}

/// What is known of a source's change buffer, taking a place for it at first use. None when all are taken.
pub fn source(dboid: u32, relid: u32) -> Option<&'static SourceShared> {
    let slots = &shared().sources;
    let mine = |s: &&SourceShared| s.relid.load(Ordering::Acquire) == relid && s.dboid.load(Ordering::Acquire) == dboid;
    slots.iter().find(mine).or_else(|| {
        let free = |s: &&SourceShared| s.relid.compare_exchange(0, relid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let taken = slots.iter().find(free)?;
        taken.dboid.store(dboid, Ordering::Release);
        Some(taken)
    })
}

/// Forgets a database's sources that are not among `present`.
pub fn retain_sources(dboid: u32, present: impl Fn(u32) -> bool) {
    for s in shared().sources.iter() {
        let relid = s.relid.load(Ordering::Acquire);
        if relid != 0 && s.dboid.load(Ordering::Acquire) == dboid && !present(relid) {
            s.pending_rows.store(0, Ordering::Relaxed);
            s.buffer_bytes.store(0, Ordering::Relaxed);
            s.dboid.store(0, Ordering::Release);
            s.relid.store(0, Ordering::Release);
        }
    }
}

/// Stores a text, cut where the place ends.
pub fn store_text(to: &[AtomicU8], text: &str) {
    let mut end = text.len().min(to.len() - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = text[..end].bytes().chain(std::iter::repeat(0));
    for (slot, byte) in to.iter().zip(bytes) {
        slot.store(byte, Ordering::Relaxed);
    }
}

/// Reads back what [`stream_table`] stored.
pub fn load_text(from: &[AtomicU8]) -> String {
    let bytes: Vec<u8> = from.iter().map(|b| b.load(Ordering::Relaxed)).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl DbShared {
    /// Publishes how far the buffers are and wakes everyone who waits for that.
    pub fn advance_applied(&self, lsn: u64) {
        self.applied_lsn.fetch_max(lsn, Ordering::SeqCst);
        for waiter in &self.waiters {
            waiter.wake();
        }
    }

    /// Remembers that changes up to `end_lsn` committed at `commit_time` (µs since 2000-01-01) are in the buffers.
    pub fn note_commit(&self, end_lsn: u64, commit_time: i64) {
        let at = self.commit_next.fetch_add(1, Ordering::AcqRel) as usize % COMMIT_TIMES;
        self.commit_time[at].store(commit_time, Ordering::Relaxed);
        self.commit_lsn[at].store(end_lsn, Ordering::Release);
        if self.immediate_tables.load(Ordering::Relaxed) > 0 {
            self.scheduler_latch.wake();
        }
    }

    /// Counts a change of a source's buffer, once it is committed and before [`DbShared::note_commit`].
    pub fn note_source_change(&self, relid: u32) {
        self.source_changes[relid as usize % SOURCE_PLACES].fetch_add(1, Ordering::AcqRel);
    }

    /// The count of changes of a source's buffer: as long as it is the same, there are no new ones.
    pub fn source_change_count(&self, relid: u32) -> u64 {
        self.source_changes[relid as usize % SOURCE_PLACES].load(Ordering::Acquire)
    }

    /// When the transaction committed whose commit record is at `lsn`, if it is remembered: the first one to end behind it.
    pub fn commit_time_of(&self, lsn: u64) -> Option<i64> {
        (0..COMMIT_TIMES)
            .map(|i| (self.commit_lsn[i].load(Ordering::Acquire), self.commit_time[i].load(Ordering::Relaxed)))
            .filter(|&(end, _)| end > lsn)
            .min()
            .map(|(_, time)| time)
    }

    /// Adds a lag sample: a change became visible `lag_us` microseconds after it was committed.
    pub fn note_lag(&self, lag_us: u64, now: i64) {
        let at = self.lag_next.fetch_add(1, Ordering::AcqRel) as usize % LAG_SAMPLES;
        self.lag_us[at].store(lag_us, Ordering::Relaxed);
        self.lag_at[at].store(now, Ordering::Release);
    }

    /// The lag samples of the last 15 minutes before `now`, in seconds.
    pub fn recent_lags(&self, now: i64) -> impl Iterator<Item = f64> {
        (0..LAG_SAMPLES)
            .map(|i| (self.lag_at[i].load(Ordering::Acquire), self.lag_us[i].load(Ordering::Relaxed)))
            .filter(move |&(at, _)| at != 0 && now - at <= LAG_WINDOW_US)
            .map(|(_, lag_us)| lag_us as f64 / 1e6)
    }

    /// Sets the state of capture.
    pub fn set_capture_state(&self, state: CaptureState) {
        self.capture_state.store(state as u32, Ordering::Release);
    }

    /// The state of capture.
    pub fn capture_state(&self) -> CaptureState {
        match self.capture_state.load(Ordering::Acquire) {
            1 => CaptureState::Starting,
            2 => CaptureState::Running,
            3 => CaptureState::Failing,
            _ => CaptureState::None,
        }
    }
}

/// This process's place among those that tell their progress, given back when dropped.
pub struct Progress(Option<&'static ProgressShared>);

impl Progress {
    /// Tells that this process begins `phase` of something that ends up in `relid`. Without a free place nothing is told.
    pub fn begin(relid: u32, phase: &str, steps: usize) -> Progress {
        let pid = pgtrickle_pg::worker::pid();
        let places = if available() { shared().progress.as_slice() } else { &[] };
        // What an earlier command of this process left when it failed is as good as free.
        let mine = places.iter().find(|p| p.pid.load(Ordering::Acquire) == pid);
        let place = mine.or_else(|| {
            let free =
                |p: &&ProgressShared| p.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            places.iter().find(free)
        });
        if let Some(place) = place {
            place.dboid.store(pgtrickle_pg::spi::my_database_id(), Ordering::Relaxed);
            place.relid.store(relid, Ordering::Relaxed);
            store_text(&place.phase, phase);
            place.step.store(0, Ordering::Relaxed);
            place.steps.store(steps as u32, Ordering::Relaxed);
            place.rows.store(0, Ordering::Relaxed);
            place.started_at.store(pgtrickle_pg::worker::now_us(), Ordering::Relaxed);
        }
        Progress(place)
    }

    /// Tells that step `step` begins, counted from 1, after `rows` rows so far.
    pub fn step(&self, step: usize, rows: u64) {
        if let Some(place) = self.0 {
            place.step.store(step as u32, Ordering::Relaxed);
            place.rows.store(rows, Ordering::Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.pid.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtrickle_pg::shmem::Shareable;

    static DB: DbShared = DbShared::ZERO;

    #[test]
    fn lags_are_of_the_last_samples_and_minutes() {
        let (now, minute) = (i64::from(u32::MAX) * 1_000_000, 60_000_000);
        DB.note_lag(9_000_000, now - 16 * minute);
        DB.note_lag(1_000_000, now - 14 * minute);
        assert_eq!(DB.recent_lags(now).collect::<Vec<_>>(), [1.0]);
        assert_eq!(DB.recent_lags(now + 2 * minute).count(), 0);
        for _ in 0..LAG_SAMPLES {
            DB.note_lag(2_000_000, now);
        }
        let lags: Vec<_> = DB.recent_lags(now).collect();
        assert_eq!((lags.len(), lags.iter().all(|&lag| lag == 2.0)), (256, true));
    }
}
