//! What the processes of pg_trickle share: per database the state of capture, per stream table its counters.

mod database;
mod failing;
mod history;
mod jobs;
mod lag;
mod progress;
mod tables;

pub use database::{CaptureState, DbShared};
pub use history::History;
pub use jobs::{Job, JobPlace, JobResult, JobState, MAX_POOL, SNAPSHOT_BYTES};
pub use lag::use_ring_of;
pub use progress::Progress;
pub use tables::*;

use history::HistoryShared;
use pgrx::{pg_guard, pg_sys};
use pgtrickle_pg::shmem::LatchSlot;
use pgtrickle_pg::{shared_static, shared_struct};
use progress::{MAX_PROGRESS, ProgressShared};
use std::sync::atomic::*;

/// Databases of one cluster that can have stream tables at the same time.
pub const MAX_DATABASES: usize = 64;

shared_struct! {
    /// A request to start capture of a table, from a creating backend to the worker that it starts for this.
    pub struct TrackRequest {
        /// The process that asks, 0 while the place is free.
        pub pid: AtomicI32,
        /// Counts requests in this place: a worker whose request is gone leaves the next one alone.
        pub ticket: AtomicU32,
        /// 1 asked, 2 done, 3 failed.
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
        /// Set while the endpoint of `metrics_port` is wanted and cannot be served.
        pub endpoint_failed: AtomicBool,
        /// Set when a database may have gained or lost the extension.
        pub databases_dirty: AtomicBool,
        /// Set when a database was dropped, whose replication origin some scheduler has to drop.
        pub origins_dirty: AtomicBool,
        /// Until then (µs since 2000-01-01) pools start no workers: somebody else found no free one.
        pub pools_rest_until: AtomicI64,
        pub track_requests: [TrackRequest; 16],
        /// Databases that nobody may be connected to for the command of a backend: OID and, in the lower half, process id; see
        /// `workers/away.rs`.
        pub emptied: [AtomicU64; 16],
        pub databases: [DbShared; MAX_DATABASES],
        pub stream_tables: [StreamTableShared; MAX_STREAM_TABLES],
        pub sources: [SourceShared; MAX_SOURCES],
        pub progress: [ProgressShared; MAX_PROGRESS],
        pub history: HistoryShared,
    }
}

shared_static! {
    pub static SHARED: Shared = c"pg_trickle"
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

/// Whether all places for databases are taken.
pub fn is_full() -> bool {
    shared().databases.iter().all(|db| db.dboid.load(Ordering::Relaxed) != 0)
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

/// Gives a database's slot back, with all that was counted for it.
pub fn release_db(db: &DbShared) {
    let someone_may_wait = is_full();
    db.forget_all_failures();
    let dboid = db.dboid.swap(0, Ordering::SeqCst);
    if someone_may_wait {
        shared().databases_dirty.store(true, Ordering::SeqCst);
        shared().launcher_latch.wake();
    }
    retain_stream_tables(dboid, |_| false);
    retain_sources(dboid, |_| false);
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
