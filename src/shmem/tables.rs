//! Counters of each stream table, and what is known of each change buffer.

use super::{shared, store_text};
use pgtrickle_pg::shared_struct;
use std::sync::atomic::*;

/// Stream tables of one cluster whose counters are kept.
pub const MAX_STREAM_TABLES: usize = 1024;
/// Sources of one cluster whose change buffers are measured.
pub const MAX_SOURCES: usize = 1024;
/// Sources of one stream table that are told to whoever draws the graph.
pub const EDGES: usize = 32;

shared_struct! {
    /// The change buffer of one source, as the last health cycle of its database's scheduler found it.
    pub struct SourceShared {
        /// 0 while the slot is free.
        pub relid: AtomicU32,
        pub dboid: AtomicU32,
        /// Schema-qualified name as NUL-padded UTF-8.
        pub name: [AtomicU8; 136],
        /// Whether it has a change buffer: what is compared, or maintained at once, has none.
        pub buffered: AtomicBool,
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
        /// When its data begins to count as stale, as its schedule allows; 0 if that is not known.
        pub stale_at: AtomicI64,
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

/// All places, from the one on where this id is found when it had the choice.
fn places<T>(all: &'static [T], id: usize) -> impl Iterator<Item = &'static T> + Clone {
    let (before, from) = all.split_at(id % all.len());
    from.iter().chain(before)
}

/// The counters of a stream table, taking a slot for it at first use. None when all are taken.
pub fn stream_table(dboid: u32, pgt_id: i64, schema: &str, name: &str) -> Option<&'static StreamTableShared> {
    let mut slots = places(&shared().stream_tables, pgt_id as usize);
    let mine =
        |s: &&StreamTableShared| s.pgt_id.load(Ordering::Acquire) == pgt_id && s.dboid.load(Ordering::Acquire) == dboid;
    if let Some(found) = slots.clone().find(mine) {
        return Some(found);
    }
    let free = slots.find(|s| s.pgt_id.compare_exchange(0, pgt_id, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
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

/// Sources whose change buffers have a place, in all databases.
pub fn sources_measured() -> usize {
    shared().sources.iter().filter(|s| s.relid.load(Ordering::Acquire) != 0).count()
}

impl StreamTableShared {
    fn clear(&self) {
        let counters = [&self.differential_refreshes, &self.full_refreshes, &self.failures, &self.consecutive_errors]
            .into_iter()
            .chain([&self.rows_changed, &self.duration_sum_us, &self.last_duration_us, &self.last_rows])
            .chain([&self.recompute_us, &self.recomputed_since])
            .chain(self.duration_counts.iter().chain(&self.delta_us).chain(&self.delta_changes));
        counters.for_each(|counter| counter.store(0, Ordering::Relaxed));
        [&self.fresh_until, &self.stale_at, &self.refreshed_at, &self.error_at]
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

    /// Whether it is to be refreshed and its data is older than its schedule allows.
    pub fn is_stale(&self, now: i64) -> bool {
        let stale_at = self.stale_at.load(Ordering::Relaxed);
        stale_at != 0 && now >= stale_at && self.active.load(Ordering::Relaxed)
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
    let mut slots = places(&shared().sources, relid as usize);
    let mine = |s: &&SourceShared| s.relid.load(Ordering::Acquire) == relid && s.dboid.load(Ordering::Acquire) == dboid;
    slots.clone().find(mine).or_else(|| {
        let free = |s: &&SourceShared| s.relid.compare_exchange(0, relid, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let taken = slots.find(free)?;
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
