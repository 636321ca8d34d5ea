//! The dispatcher: for the jobs of a tick it takes one snapshot, waits for one barrier, and holds both until all have begun.
//!
//! It is a process of its own because a snapshot is held by a transaction, and those who refresh need theirs.

use super::{away, executor, seat};
use crate::catalog::{self, StreamTable};
use crate::error::Error;
use crate::refresh::round::{self, Candidate};
use crate::shmem::{self, DbShared, Job, JobState};
use pgrx::prelude::*;
use pgtrickle_pg::xact::{self, Failure};
use pgtrickle_pg::{wait, worker};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest time between two looks for jobs.
const NAP: Duration = Duration::from_secs(5);
/// So long a round waits for busy workers: it holds the sources against TRUNCATE and rewriting ALTER, and VACUUM back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Main function of a dispatcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_dispatcher_main(argument: pg_sys::Datum) {
    worker::handle_signals();
    let (dboid, _) = seat::argument(argument);
    away::connect(dboid, c"pg_trickle_dispatcher");
    let Some(db) = shmem::db(dboid) else { return };
    if db.dispatcher_pid.compare_exchange(0, worker::pid(), Ordering::SeqCst, Ordering::Relaxed).is_err() {
        return;
    }
    round::close(db);
    db.dispatcher_latch.publish();
    worker::before_exit(|| {
        if let Some(db) = shmem::my_db() {
            round::close(db);
            db.dispatcher_latch.clear();
            db.dispatcher_pid.store(0, Ordering::SeqCst);
            // What it was asked for is done without it.
            db.do_without_round();
            db.wake_pool();
            db.scheduler_latch.wake();
        }
    });
    let mut dispatcher = Dispatcher { db, known: HashMap::new(), read: None };
    while !db.retired.load(Ordering::SeqCst) && !seat::pools_rest() {
        let asked: Vec<Job> = db.jobs_in(&[JobState::Asked]).collect();
        if asked.is_empty() {
            worker::report_activity(c"waiting for a tick", false);
            wait::sleep(NAP);
        } else {
            dispatcher.dispatch(asked);
        }
        worker::attend();
    }
}

struct Dispatcher {
    db: &'static DbShared,
    known: HashMap<i64, StreamTable>,
    /// Which reading of the catalog by the scheduler is known.
    read: Option<u64>,
}

impl Dispatcher {
    fn dispatch(&mut self, jobs: Vec<Job>) {
        worker::report_activity(c"opening a round", true);
        let read = self.db.catalog_reads.load(Ordering::SeqCst);
        if self.read != Some(read)
            && let Some(all) = super::or_warn("the catalog could not be read", catalog::all)
        {
            self.known = all.into_iter().map(|st| (st.pgt_id, st)).collect();
            self.read = Some(read);
        }
        let candidates: Vec<Candidate> = jobs
            .iter()
            .map(|&job| {
                let known = job.ids().iter().filter_map(|id| self.known.get(id).cloned()).collect();
                Candidate { job, stream_tables: known }
            })
            .collect();
        if let Err(failure) = xact::attempt(|| self.hold(candidates)) {
            self.failed(&jobs, &failure);
        }
    }

    /// Opens a round and keeps it open until every job has joined it.
    fn hold(&self, candidates: Vec<Candidate>) -> Result<(), Error> {
        let (open, sharing, alone) = round::open(self.db, candidates)?;
        for candidate in &alone {
            candidate.job.change(JobState::Asked, JobState::Alone);
        }
        if open.is_some() {
            self.db.rounds_total.fetch_add(1, Ordering::Relaxed);
        }
        self.wake_executors();
        let deadline = Instant::now() + PATIENCE;
        worker::report_activity(c"holding the snapshot of a round", true);
        while sharing.iter().any(|c| matches!(c.job.state(), JobState::Ready | JobState::Taken))
            && Instant::now() < deadline
        {
            wait::sleep(deadline.saturating_duration_since(Instant::now()));
            check_for_interrupts!();
        }
        drop(open);
        // The workers are busy: these are due again, with whatever else is by then.
        if sharing.iter().filter(|c| c.job.change(JobState::Ready, JobState::Returned)).count() > 0 {
            self.db.scheduler_latch.wake();
        }
        Ok(())
    }

    /// No round could be opened. When capture started anew or the like, each job may do better by itself; otherwise (capture does not
    /// catch up, say) it could not either.
    fn failed(&self, jobs: &[Job], failure: &Failure) {
        let hopeless = !crate::error::is_conflict(failure.code);
        if hopeless {
            warning!("a round of refreshes could not be opened: {}", failure.message);
        }
        for job in jobs {
            job.change(JobState::Ready, JobState::Alone);
            if hopeless && job.change(JobState::Asked, JobState::Running) {
                let results: Vec<_> = job.ids().iter().map(|&id| executor::failed(id, failure)).collect();
                job.finish(JobState::Running, &results);
            } else {
                job.change(JobState::Asked, JobState::Alone);
            }
        }
        self.wake_executors();
    }

    fn wake_executors(&self) {
        self.db.wake_pool();
        self.db.scheduler_latch.wake();
    }
}
