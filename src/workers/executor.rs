//! Refreshing components of stream tables, each in one transaction: what the pool's workers do, and the scheduler where it
//! does without them.

use crate::api;
use crate::catalog;
use crate::refresh::round::SharedRound;
use crate::refresh::{self, Outcome, Together, blame};
use crate::shmem::{self, DbShared, Job, JobResult, JobState};
use pgrx::prelude::*;
use pgtrickle_pg::worker;
use pgtrickle_pg::xact::{self, Failure};
use std::cell::Cell;
use std::sync::atomic::Ordering;

thread_local! {
    static JOB: Cell<Option<Job>> = const { Cell::new(None) };
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// As long as it lives, this process counts as refreshing.
pub struct Busy(&'static DbShared);

impl Busy {
    /// None while the database is being drained. Told first: who drains and then finds nobody busy may be sure that nothing
    /// begins.
    pub fn begin(db: &'static DbShared) -> Option<Busy> {
        db.jobs_running.fetch_add(1, Ordering::SeqCst);
        BUSY.set(true);
        let busy = Busy(db);
        (!db.draining.load(Ordering::SeqCst)).then_some(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(false);
        self.0.jobs_running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// When the process ends in the midst of it: the job is due as before.
pub fn give_back() {
    let Some(db) = shmem::my_db() else { return };
    if BUSY.take() {
        db.jobs_running.fetch_sub(1, Ordering::SeqCst);
    }
    if let Some(job) = JOB.take() {
        let _ = job.change(JobState::Taken, JobState::Returned) || job.change(JobState::Running, JobState::Returned);
        db.scheduler_latch.wake();
        db.dispatcher_latch.wake();
    }
}

/// Picks up a job and does it, the first that this process `prefers` or else the last there is. Says whether there was any.
pub fn work(db: &'static DbShared, prefers: impl Fn(i64) -> bool) -> bool {
    let Some(job) = pick_up(db, prefers) else { return false };
    JOB.set(Some(job));
    match Busy::begin(db) {
        Some(_busy) => {
            let results = perform(db, &job);
            job.finish(JobState::Running, &results);
        }
        None => {
            let _ =
                job.change(JobState::Taken, JobState::Returned) || job.change(JobState::Running, JobState::Returned);
        }
    }
    JOB.set(None);
    db.scheduler_latch.wake();
    true
}

fn pick_up(db: &'static DbShared, prefers: impl Fn(i64) -> bool) -> Option<Job> {
    let ours =
        |job: &Job| job.change(JobState::Ready, JobState::Taken) || job.change(JobState::Alone, JobState::Running);
    let waiting = || db.jobs_in(&[JobState::Ready, JobState::Alone]);
    let preferred = |job: &Job| job.members().first().is_some_and(|m| prefers(m.pgt_id.load(Ordering::Acquire)));
    // Taken from the end, those that belong to others are the same ones again and again, and so are the plans kept of them.
    waiting().filter(preferred).find(ours).or_else(|| waiting().collect::<Vec<_>>().into_iter().rev().find(ours))
}

/// Refreshes the stream tables of a job, under the dispatcher's snapshot if that is offered and can be.
fn perform(db: &'static DbShared, job: &Job) -> Vec<JobResult> {
    let ids = job.ids();
    if job.state() != JobState::Taken {
        return refresh(&ids);
    }
    worker::report_activity(c"refreshing stream tables", true);
    let shared = SharedRound::of(db, job);
    let joined = || {
        job.change(JobState::Taken, JobState::Running);
        db.dispatcher_latch.wake();
    };
    let refreshed = xact::attempt(|| refresh::refresh_in(&shared, joined));
    joined();
    match refreshed {
        Ok(Some(outcomes)) => {
            db.round_refreshes_total.fetch_add(outcomes.len() as u64, Ordering::Relaxed);
            results(&ids, &outcomes)
        }
        Ok(None) => refresh(&ids),
        Err(failure) => failure_of(&ids, &failure),
    }
}

/// Refreshes a component under a snapshot of its own; the result of each stream table.
pub fn refresh(component: &[i64]) -> Vec<JobResult> {
    worker::report_activity(c"refreshing stream tables", true);
    match xact::attempt(|| refresh::refresh_if_free(component)) {
        Ok(Together::Refreshed(outcomes)) => results(component, &outcomes),
        Ok(Together::Busy(busy)) => without(component, &busy, |_| JobResult { busy: true, ..JobResult::default() }),
        Err(failure) => failure_of(component, &failure),
    }
}

/// Records a failure of a component with those whose it is.
fn failure_of(component: &[i64], failure: &Failure) -> Vec<JobResult> {
    without(component, &blame::blamed(component), |id| failed(id, failure))
}

/// The results of a component that some of its own have stopped. The scheduler goes on without these at once.
fn without(component: &[i64], those: &[i64], result: impl Fn(i64) -> JobResult) -> Vec<JobResult> {
    let stopped = JobResult { stopped: true, ..JobResult::default() };
    component.iter().map(|&id| if those.contains(&id) { result(id) } else { stopped }).collect()
}

fn results(component: &[i64], outcomes: &[Outcome]) -> Vec<JobResult> {
    outcomes.iter().for_each(Outcome::committed);
    let of = |pgt_id: &i64| match outcomes.iter().find(|o| o.st.pgt_id == *pgt_id) {
        Some(o) => {
            let (blind, leftover, fed) = (o.blind, o.changes.leftover, o.fed);
            JobResult { refreshed: true, blind, leftover, fed, ..JobResult::default() }
        }
        // Dropped or paused meanwhile.
        None => JobResult::default(),
    };
    component.iter().map(of).collect()
}

/// Records that a stream table could not be refreshed.
pub fn failed(pgt_id: i64, failure: &Failure) -> JobResult {
    let complaint = format!("the failure of stream table {pgt_id} ({}) could not be recorded", failure.message);
    super::or_warn(&complaint, || {
        if let Some(st) = catalog::by_id(pgt_id) {
            warning!("refresh of stream table {} failed: {}", st.label(), failure.message);
            api::record_failure(&st, failure);
        }
    });
    JobResult { failed: true, ..JobResult::default() }
}
