//! What the processes of pg_trickle share: per database the state of capture, per stream table its counters.

use pgrx::{pg_guard, pg_sys};
use pgtrickle_pg::shmem::{LatchSlot, Shareable};
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
        /// Commit time up to which the stream table is known to be current, µs since 2000-01-01.
        pub fresh_until: AtomicI64,
        /// Refreshes by duration; upper bounds in [`DURATION_BOUNDS_S`], last one open.
        pub duration_counts: [AtomicU64; DURATION_BUCKETS],
        pub duration_sum_us: AtomicU64,
    }
}

pub const DURATION_BUCKETS: usize = 12;
/// Upper bounds of the histogram's buckets, in seconds; the last bucket has none.
pub const DURATION_BOUNDS_S: [f64; DURATION_BUCKETS - 1] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

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

/// Whether the library was preloaded, so that shared memory exists.
pub fn available() -> bool {
    AVAILABLE.load(Ordering::Relaxed)
}

static AVAILABLE: AtomicBool = AtomicBool::new(false);

/// Requests the shared memory. Only while `shared_preload_libraries` is processed.
pub fn init() {
    pgrx::pg_shmem_init!(SHARED = Shared::ZERO);
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

/// Gives the counters of a dropped stream table back.
pub fn release_stream_table(dboid: u32, pgt_id: i64) {
    for s in shared().stream_tables.iter() {
        if s.pgt_id.load(Ordering::Acquire) == pgt_id && s.dboid.load(Ordering::Acquire) == dboid {
            for counter in [&s.differential_refreshes, &s.full_refreshes, &s.failures, &s.consecutive_errors]
                .into_iter()
                .chain([&s.rows_changed, &s.duration_sum_us])
                .chain(s.duration_counts.iter())
            {
                counter.store(0, Ordering::Relaxed);
            }
            s.active.store(false, Ordering::Relaxed);
            s.fresh_until.store(0, Ordering::Relaxed);
            s.dboid.store(0, Ordering::Release);
            s.pgt_id.store(0, Ordering::Release);
        }
    }
}

/// Stores a text, cut where the place ends.
pub fn store_text(to: &[AtomicU8], text: &str) {
    let bytes = text.bytes().take(to.len() - 1).chain(std::iter::repeat(0));
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
