//! One database's place in shared memory: who serves it, how far capture is, and what its workers count.

use super::failing::{FAILING_SOURCES, FailingSource};
use super::jobs::{JOB_PLACES, JobPlace, MAX_POOL, RoundShared};
use super::lag::{self, LAG_RINGS, LagRing};
use pgtrickle_pg::shared_struct;
use pgtrickle_pg::shmem::LatchSlot;
use std::sync::atomic::*;

/// Places for change counts of sources.
const SOURCE_PLACES: usize = 1024;
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
        pub failing: [FailingSource; FAILING_SOURCES],
        /// Where decoding failed by no source's fault, and how often in a row.
        pub stuck_at: AtomicU64,
        pub stuck_count: AtomicU32,
        /// Set when the extension is gone from the database: capture is to stop and the slot to be dropped.
        pub retired: AtomicBool,
        /// Set by drain(): no refresh is begun by the scheduler until resume_all().
        pub draining: AtomicBool,
        /// Set when the catalog of stream tables changed and the scheduler must read it again.
        pub catalog_dirty: AtomicBool,
        /// Set once a transaction was prepared that had changed the catalog of stream tables or one of them.
        pub prepared: AtomicBool,
        /// Stream tables whose schedule is "as soon as changes arrive"; while 0 the apply worker does not wake the scheduler.
        pub immediate_tables: AtomicU32,
        /// Counts per source what was written to its change buffer; sources share a place by OID modulo the size, so a
        /// moved count may be another's, never the reverse.
        pub source_changes: [AtomicU64; SOURCE_PLACES],
        /// Age of changes when they became visible.
        pub lags: [LagRing; LAG_RINGS],
        /// A ring of recent applied transactions: its next place, their end LSN and commit time (µs since 2000-01-01).
        pub commit_next: AtomicU64,
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
        /// Processes that are refreshing, or are about to look whether they may.
        pub jobs_running: AtomicU64,
        /// Jobs that the scheduler hands over, and the round in which they share a snapshot; see `shmem/jobs.rs`.
        pub job_places: [JobPlace; JOB_PLACES],
        pub round: RoundShared,
        pub dispatcher_pid: AtomicI32,
        pub dispatcher_latch: LatchSlot,
        pub pool_pids: [AtomicI32; MAX_POOL],
        pub pool_latches: [LatchSlot; MAX_POOL],
        /// Counts how often the scheduler has read the catalog anew; the dispatcher follows.
        pub catalog_reads: AtomicU64,
        /// Rounds that were opened, and stream tables that were refreshed in them.
        pub rounds_total: AtomicU64,
        pub round_refreshes_total: AtomicU64,
        /// Barriers that refreshes of any kind have waited for.
        pub barriers_total: AtomicU64,
        /// Time that refresh workers have waited for something to do, in microseconds.
        pub idle_us: AtomicU64,
        /// Looks at all change buffers so far; see `workers/watch.rs`.
        pub health_cycles: AtomicU64,
        /// Set while one of the database's workers cannot be started because no background worker is free.
        pub workers_short: AtomicBool,
    }
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

    /// Any source may have changed, whatever is in its buffer.
    pub fn note_change_of_all(&self) {
        for count in &self.source_changes {
            count.fetch_add(1, Ordering::AcqRel);
        }
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
        lag::note(&self.lags, lag_us, now);
    }

    /// The lag samples of the last 15 minutes before `now`, in seconds.
    pub fn recent_lags(&self, now: i64) -> impl Iterator<Item = f64> {
        lag::recent(&self.lags, now)
    }

    /// Sets the state of capture.
    pub fn set_capture_state(&self, state: CaptureState) {
        self.capture_state.store(state as u32, Ordering::Release);
    }

    /// Its workers have failed time and again. The decoder knows better, as it says that it runs only once.
    pub fn fail_unless_running(&self) {
        let state = |now| (now != CaptureState::Running as u32).then_some(CaptureState::Failing as u32);
        let _ = self.capture_state.fetch_update(Ordering::AcqRel, Ordering::Acquire, state);
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
