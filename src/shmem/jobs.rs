//! Jobs: connected components of due stream tables on their way from the scheduler to whoever refreshes them and back.
//!
//! | state | set by | means |
//! |---|---|---|
//! | `Asked` | scheduler | it waits for the dispatcher to open a round |
//! | `Ready` | dispatcher | to be refreshed under the round's snapshot |
//! | `Alone` | dispatcher, scheduler | to be refreshed under a snapshot of its own |
//! | `Taken` | executor | is joining the round |
//! | `Running` | executor | is being refreshed, needs the round no more |
//! | `Done` | executor | each stream table's result is there |
//! | `Returned` | anyone | nothing was done: it is due as before |
//!
//! A job that gets lost with its executor is returned by it; nothing depends on it, as frontiers are stored by the refresh itself.

use super::DbShared;
use pgtrickle_pg::shared_struct;
use std::ops::Range;
use std::sync::atomic::*;

/// Stream tables of one database that can be in jobs at the same time.
pub const JOB_PLACES: usize = 1024;
/// Bytes of a snapshot that is handed over; one with thousands of transactions in progress does not fit.
pub const SNAPSHOT_BYTES: usize = 16 << 10;
/// Workers of one database's pool at most.
pub const MAX_POOL: usize = 32;

shared_struct! {
    /// A stream table in a job. A job is a run of places; its first one tells of the job.
    pub struct JobPlace {
        pub pgt_id: AtomicI64,
        /// A hash of the sources that the dispatcher holds locked for it.
        pub sources: AtomicU64,
        /// See [`JobResult`].
        pub result: AtomicU32,
        /// See [`JobState`]; free in all places of a job but the first.
        pub state: AtomicU32,
        pub length: AtomicU32,
        /// The round that it belongs to.
        pub round: AtomicU64,
    }
}

shared_struct! {
    /// What the dispatcher offers: a snapshot, everything that committed before it being in the buffers.
    pub struct RoundShared {
        /// Number of the round that is open, 0 if none is. Never the same again.
        pub open: AtomicU64,
        pub last: AtomicU64,
        pub lsn: AtomicU64,
        pub snapshot_at: AtomicI64,
        pub generation: AtomicI64,
        pub barrier_us: AtomicU64,
        pub length: AtomicU32,
        pub snapshot: [AtomicU8; SNAPSHOT_BYTES],
    }
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum JobState {
    Free = 0,
    Asked,
    Ready,
    Alone,
    Taken,
    Running,
    Done,
    Returned,
}

impl JobState {
    const ALL: [JobState; 8] = {
        use JobState::*;
        [Free, Asked, Ready, Alone, Taken, Running, Done, Returned]
    };
}

/// What became of one stream table in a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JobResult {
    /// The refresh failed, and that is recorded.
    pub failed: bool,
    /// Changes leave no trace: it is to be recomputed on schedule.
    pub blind: bool,
    /// Changes are in the buffers that are not visible yet.
    pub leftover: bool,
    /// It has been refreshed, perhaps to no effect.
    pub refreshed: bool,
    /// Its readers have been given changes.
    pub fed: bool,
    /// Somebody else is refreshing it, or altering it.
    pub busy: bool,
    /// It was stopped by another one of its job and is due as before.
    pub stopped: bool,
}

impl JobResult {
    fn to_bits(self) -> u32 {
        [self.failed, self.blind, self.leftover, self.refreshed, self.fed, self.busy, self.stopped]
            .iter()
            .rev()
            .fold(0, |bits, &b| bits << 1 | u32::from(b))
    }

    fn from_bits(bits: u32) -> JobResult {
        let bit = |n: u32| bits >> n & 1 == 1;
        JobResult {
            failed: bit(0),
            blind: bit(1),
            leftover: bit(2),
            refreshed: bit(3),
            fed: bit(4),
            busy: bit(5),
            stopped: bit(6),
        }
    }
}

/// A job, by its first place.
#[derive(Clone, Copy)]
pub struct Job {
    places: &'static [JobPlace; JOB_PLACES],
    pub number: usize,
}

impl Job {
    fn first(&self) -> &'static JobPlace {
        &self.places[self.number]
    }

    /// The places of its stream tables, parents first.
    pub fn members(&self) -> &'static [JobPlace] {
        &self.places[self.number..][..self.first().length.load(Ordering::Acquire) as usize]
    }

    /// Ids of its stream tables, parents first.
    pub fn ids(&self) -> Vec<i64> {
        self.members().iter().map(|m| m.pgt_id.load(Ordering::Acquire)).collect()
    }

    pub fn state(&self) -> JobState {
        let state = self.first().state.load(Ordering::SeqCst);
        JobState::ALL.into_iter().find(|&s| s as u32 == state).unwrap_or(JobState::Free)
    }

    /// The round whose snapshot it is to be refreshed under.
    pub fn round(&self) -> u64 {
        self.first().round.load(Ordering::Acquire)
    }

    /// Goes from one state to another, unless somebody else was quicker.
    pub fn change(&self, from: JobState, to: JobState) -> bool {
        self.first().state.compare_exchange(from as u32, to as u32, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Makes it part of a round.
    pub fn join(&self, round: u64) {
        self.first().round.store(round, Ordering::Release);
        self.change(JobState::Asked, JobState::Ready);
    }

    /// Notes what became of its stream tables, in their order.
    pub fn finish(&self, from: JobState, results: &[JobResult]) {
        for (member, result) in self.members().iter().zip(results) {
            member.result.store(result.to_bits(), Ordering::Release);
        }
        self.change(from, JobState::Done);
    }

    /// What [`Job::finish`] noted.
    pub fn results(&self) -> Vec<JobResult> {
        self.members().iter().map(|m| JobResult::from_bits(m.result.load(Ordering::Acquire))).collect()
    }

    /// Gives its places back.
    pub fn free(&self) {
        self.first().state.store(JobState::Free as u32, Ordering::SeqCst);
    }
}

impl DbShared {
    /// All jobs.
    pub fn jobs(&'static self) -> impl Iterator<Item = Job> {
        let all = (0..JOB_PLACES).map(|number| Job { places: &self.job_places, number });
        all.filter(|job| job.state() != JobState::Free)
    }

    /// Jobs in one of these states.
    pub fn jobs_in(&'static self, states: &'static [JobState]) -> impl Iterator<Item = Job> {
        self.jobs().filter(move |job| states.contains(&job.state()))
    }

    /// Makes a job of these stream tables. None when there is no room. Only the scheduler does that.
    pub fn ask(&'static self, members: &[i64], state: JobState) -> Option<Job> {
        let number = self.room_for(members.len())?.start;
        for (place, &pgt_id) in self.job_places[number..].iter().zip(members) {
            place.pgt_id.store(pgt_id, Ordering::Release);
            place.result.store(0, Ordering::Release);
        }
        self.job_places[number].length.store(members.len() as u32, Ordering::Release);
        self.job_places[number].state.store(state as u32, Ordering::SeqCst);
        Some(Job { places: &self.job_places, number })
    }

    fn room_for(&'static self, length: usize) -> Option<Range<usize>> {
        let mut start = 0;
        for job in self.jobs() {
            if job.number - start >= length {
                break;
            }
            start = job.number + job.members().len();
        }
        (start + length <= JOB_PLACES).then_some(start..start + length)
    }

    /// Without a dispatcher: what it was asked for is to be done under snapshots of one's own.
    pub fn do_without_round(&'static self) {
        for job in self.jobs_in(&[JobState::Asked]) {
            job.change(JobState::Asked, JobState::Alone);
        }
    }

    /// Jobs that wait to be picked up.
    pub fn jobs_queued(&'static self) -> u64 {
        self.jobs_in(&[JobState::Asked, JobState::Ready, JobState::Alone]).count() as u64
    }

    /// Workers of the pool that are there.
    pub fn pool_workers(&self) -> usize {
        self.pool_pids.iter().filter(|pid| pid.load(Ordering::Relaxed) != 0).count()
    }

    /// Wakes the pool's workers.
    pub fn wake_pool(&self) {
        self.pool_latches.iter().for_each(|latch| latch.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtrickle_pg::shmem::Shareable;

    #[test]
    fn jobs_take_what_room_there_is() {
        static DB: DbShared = DbShared::ZERO;
        let ask = |n: usize| DB.ask(&(0..n as i64).collect::<Vec<_>>(), JobState::Asked).map(|job| job.number);
        assert_eq!((ask(3), ask(2), ask(1)), (Some(0), Some(3), Some(5)));
        DB.jobs().nth(1).unwrap().free();
        assert_eq!((ask(3), ask(2)), (Some(6), Some(3)));
        assert_eq!((ask(JOB_PLACES), ask(JOB_PLACES - 9), ask(1)), (None, Some(9), None));
        assert_eq!(DB.jobs_queued(), 5);
    }

    #[test]
    fn results_come_back() {
        static DB: DbShared = DbShared::ZERO;
        let job = DB.ask(&[7, 9, 8, 3], JobState::Alone).unwrap();
        assert!(job.change(JobState::Alone, JobState::Running) && !job.change(JobState::Alone, JobState::Running));
        let results = [
            JobResult { refreshed: true, leftover: true, fed: true, ..JobResult::default() },
            JobResult { failed: true, blind: true, ..JobResult::default() },
            JobResult { busy: true, ..JobResult::default() },
            JobResult { stopped: true, ..JobResult::default() },
        ];
        job.finish(JobState::Running, &results);
        assert_eq!((job.state(), job.ids(), job.results()), (JobState::Done, vec![7, 9, 8, 3], results.to_vec()));
    }
}
