//! A round: one snapshot S, and the certainty that the buffers hold whatever committed before it. What all stream tables of a
//! refresh share, and, when the dispatcher offers it, all refreshes of a tick.
//!
//! The dispatcher locks the sources, takes S, waits for the barrier ([`open`]) and keeps its transaction, and with it S and the
//! locks, until whoever was to join has joined ([`SharedRound::join`]) with locks of its own. So between S and the commit of a
//! refresh there is no moment in which a source could be truncated or rewritten, or what S shows be vacuumed. Joining waits
//! for nothing: where a lock is not to be had at once, or where the stream table has changed since S, the refresh takes a
//! snapshot of its own, as it does without a dispatcher.

use super::barrier;
use crate::api::{guard, source_changed_by_us};
use crate::catalog::{self, SourceType, StreamTable};
use crate::error::{Error, Result};
use crate::shmem::{DbShared, Job, SNAPSHOT_BYTES};
use pgtrickle_pg::snapshot::{self, Snapshot, XidSet};
use pgtrickle_pg::{class, inherit, lock, worker};
use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// So often a round is begun anew when capture was.
const ATTEMPTS: usize = 3;

/// What all stream tables of one refresh share.
pub(super) struct Round {
    pub snapshot: Snapshot,
    pub visible: XidSet,
    pub lsn: u64,
    pub snapshot_at: i64,
    pub generation: i64,
    pub degraded: Vec<u32>,
    pub barrier: Duration,
    /// This transaction has written before: it may have refreshed stream tables already.
    pub written: bool,
    /// Triggers of users, which may write what others of the stream tables read, have been fired.
    disturbed: Cell<bool>,
}

impl Round {
    /// For stream tables whose sources are locked.
    pub(super) fn begin(stream_tables: &[StreamTable]) -> Result<Round> {
        Round::over(bases(stream_tables.iter()))
    }

    fn over(bases: Vec<u32>) -> Result<Round> {
        let attempts = (0..ATTEMPTS).map(|_| Round::attempt(&bases));
        attempts.filter_map(Result::transpose).next().unwrap_or_else(|| Err(Error::capture_restarted()))
    }

    /// None if capture has started anew meanwhile, as it does when its slot is new or was lost.
    fn attempt(bases: &[u32]) -> Result<Option<Round>> {
        // Read before the snapshot, so that whatever that does not show is captured: in this generation, of these sources.
        let mut generation = catalog::generation();
        if generation == 0 && !bases.is_empty() {
            // The slot is still being made.
            barrier::wait_for_capture()?;
            generation = catalog::generation();
        }
        let mut degraded = degraded(bases);
        // Before the snapshot, too: who has seen a commit end, and has since read a position of the WAL, may compare.
        let lsn = snapshot::insert_lsn();
        let snapshot = Snapshot::latest();
        let visible = snapshot.xids();
        let snapshot_at = worker::now_us();
        let (barrier, written) = (Duration::ZERO, snapshot::current_xid().is_some());
        let disturbed = Cell::new(false);
        let mut round = Round {
            snapshot,
            visible,
            lsn,
            snapshot_at,
            generation,
            degraded: Vec::new(),
            barrier,
            written,
            disturbed,
        };
        if !bases.is_empty() {
            round.barrier = barrier::wait_for_capture()?;
            if catalog::generation() != generation {
                return Ok(None);
            }
            // Capture of a source may have stopped meanwhile.
            degraded.extend(self::degraded(bases));
            round.degraded = degraded;
        }
        Ok(Some(round))
    }
}

impl Round {
    /// After rows of a stream table were written.
    pub(super) fn note_triggers(&self, st: &StreamTable) {
        if class::has_triggers_besides(st.relid, guard::NAME) {
            self.disturbed.set(true);
        }
    }

    /// Before a stream table is computed: what triggers, or cascades, of those before it have written to its sources is seen, and will
    /// be told as a change after our commit. So it is asked for another comparison, which stays asked for.
    pub(super) fn compare_if_disturbed(&self, st: &mut StreamTable) {
        if self.disturbed.get() && source_changed_by_us(st).is_some() {
            let ask = "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true WHERE pgt_id = $1";
            catalog::execute(ask, &[st.pgt_id.into()]);
            catalog::changed();
            st.row_version = 0;
        }
    }
}

/// Whether a stream table's sources are captured.
pub(super) fn reads_tables(st: &StreamTable) -> bool {
    st.sources.iter().any(|s| s.kind == SourceType::Table)
}

/// The base tables that these stream tables read.
fn bases<'a>(stream_tables: impl Iterator<Item = &'a StreamTable>) -> Vec<u32> {
    let sources = stream_tables.flat_map(|st| &st.sources);
    let mut bases: Vec<u32> = sources.filter(|s| s.kind == SourceType::Table).map(|s| s.relid).collect();
    bases.sort_unstable();
    bases.dedup();
    bases
}

/// Those of the sources whose changes are not, or not completely, captured.
fn degraded(bases: &[u32]) -> Vec<u32> {
    let tracked = catalog::tracking(bases);
    let captured = |relid| {
        let complete = tracked.iter().any(|t| t.relid == relid && t.degraded.is_none());
        complete && !inherit::is_detaching(relid)
    };
    bases.iter().copied().filter(|&relid| !captured(relid)).collect()
}

/// Tells sets of sources apart.
fn hash_of_sources(st: &StreamTable) -> u64 {
    let mut relids: Vec<u32> = st.sources.iter().map(|s| s.relid).collect();
    relids.sort_unstable();
    let mut hasher = DefaultHasher::new();
    relids.hash(&mut hasher);
    hasher.finish()
}

/// A job for a round, as the dispatcher sees it: its stream tables, as far as they are known.
pub struct Candidate {
    pub job: Job,
    pub stream_tables: Vec<StreamTable>,
}

/// An open round. It is closed before the transaction that holds its snapshot ends, whatever ends that.
pub struct Open {
    db: &'static DbShared,
    _round: Round,
}

/// Opens a round for those of the candidates that can share one; the others are to be refreshed alone.
pub fn open(
    db: &'static DbShared,
    candidates: Vec<Candidate>,
) -> Result<(Option<Open>, Vec<Candidate>, Vec<Candidate>)> {
    let lockable = |st: &StreamTable| st.sources.iter().all(|s| lock::try_access_share(s.relid));
    let (mut sharing, mut alone): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| {
        c.stream_tables.len() == c.job.members().len()
            && !bases(c.stream_tables.iter()).is_empty()
            && c.stream_tables.iter().all(lockable)
    });
    if sharing.is_empty() {
        return Ok((None, sharing, alone));
    }
    let round = Round::over(bases(sharing.iter().flat_map(|c| &c.stream_tables)))?;
    let whole = |c: &Candidate| !bases(c.stream_tables.iter()).iter().any(|relid| round.degraded.contains(relid));
    let (whole, broken): (Vec<_>, Vec<_>) = sharing.into_iter().partition(whole);
    (sharing, _) = (whole, alone.extend(broken));
    let Some(bytes) = round.snapshot.to_bytes(SNAPSHOT_BYTES) else {
        alone.append(&mut sharing);
        return Ok((None, sharing, alone));
    };
    publish(db, &round, &bytes);
    let number = db.round.open.load(Ordering::SeqCst);
    let open = Open { db, _round: round };
    for candidate in &sharing {
        for (place, st) in candidate.job.members().iter().zip(&candidate.stream_tables) {
            place.sources.store(hash_of_sources(st), Ordering::Release);
        }
        candidate.job.join(number);
    }
    Ok((Some(open), sharing, alone))
}

fn publish(db: &DbShared, round: &Round, bytes: &[u8]) {
    let shared = &db.round;
    shared.lsn.store(round.lsn, Ordering::Relaxed);
    shared.snapshot_at.store(round.snapshot_at, Ordering::Relaxed);
    shared.generation.store(round.generation, Ordering::Relaxed);
    shared.barrier_us.store(round.barrier.as_micros() as u64, Ordering::Relaxed);
    shared.length.store(bytes.len() as u32, Ordering::Relaxed);
    shared.snapshot.iter().zip(bytes).for_each(|(place, &byte)| place.store(byte, Ordering::Relaxed));
    shared.open.store(shared.last.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
}

/// Nobody can join any more. For the dispatcher's exit, too.
pub fn close(db: &DbShared) {
    db.round.open.store(0, Ordering::SeqCst);
}

impl Drop for Open {
    fn drop(&mut self) {
        close(self.db);
    }
}

/// What the dispatcher offers for a job.
pub struct SharedRound {
    db: &'static DbShared,
    number: u64,
    /// Per stream table of the job, its id and the hash of the sources that are locked for it.
    locked: Vec<(i64, u64)>,
}

impl SharedRound {
    pub fn of(db: &'static DbShared, job: &Job) -> SharedRound {
        let locked = |place: &crate::shmem::JobPlace| {
            (place.pgt_id.load(Ordering::Acquire), place.sources.load(Ordering::Acquire))
        };
        SharedRound { db, number: job.round(), locked: job.members().iter().map(locked).collect() }
    }

    /// Locks the stream tables, if nobody has them, and reads them: they are as the snapshot shows them, or it is `None`.
    pub(super) fn join(&self) -> Option<(Vec<StreamTable>, Round)> {
        let pgt_ids: Vec<i64> = self.locked.iter().map(|&(pgt_id, _)| pgt_id).collect();
        if !super::try_lock_all(&pgt_ids) {
            return None;
        }
        let stream_tables: Vec<StreamTable> =
            self.locked.iter().map(|&(pgt_id, _)| catalog::by_id(pgt_id)).collect::<Option<_>>()?;
        let same = |(st, &(_, hash)): (&StreamTable, &(i64, u64))| hash_of_sources(st) == hash;
        let locked = |st: &StreamTable| st.sources.iter().all(|s| lock::try_access_share(s.relid));
        if !stream_tables.iter().zip(&self.locked).all(same) || !stream_tables.iter().all(locked) {
            return None;
        }
        let round = self.take()?;
        // Whoever wrote a stream table has changed its row of the catalog.
        let seen = round.snapshot.active(|| catalog::row_versions(&pgt_ids));
        let unchanged = stream_tables.iter().all(|st| seen.contains(&(st.pgt_id, st.row_version)));
        unchanged.then_some((stream_tables, round))
    }

    /// The round, if it is open still after its snapshot has become ours.
    fn take(&self) -> Option<Round> {
        let shared = &self.db.round;
        let is_open = || shared.open.load(Ordering::SeqCst) == self.number;
        if !is_open() {
            return None;
        }
        let length = (shared.length.load(Ordering::Relaxed) as usize).min(SNAPSHOT_BYTES);
        let bytes: Vec<u8> = shared.snapshot[..length].iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let (lsn, snapshot_at) = (shared.lsn.load(Ordering::Relaxed), shared.snapshot_at.load(Ordering::Relaxed));
        let generation = shared.generation.load(Ordering::Relaxed);
        let barrier = Duration::from_micros(shared.barrier_us.load(Ordering::Relaxed));
        // Bytes of a round that was closed meanwhile mean nothing.
        if !is_open() {
            return None;
        }
        let snapshot = Snapshot::held_by(self.db.dispatcher_pid.load(Ordering::SeqCst), &bytes)?;
        let visible = snapshot.xids();
        // What kept the sources locked until we had our own locks was this round's transaction.
        let (degraded, written, disturbed) = (Vec::new(), false, Cell::new(false));
        let round = Round { snapshot, visible, lsn, snapshot_at, generation, degraded, barrier, written, disturbed };
        is_open().then_some(round)
    }
}
