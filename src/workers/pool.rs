//! A worker of the pool: it picks up one job after another and stays when there is none, with its plans.

use super::{away, executor, seat};
use crate::settings::{self, ParallelRefresh};
use crate::shmem::{self, DbShared, MAX_POOL};
use pgrx::prelude::*;
use pgtrickle_pg::{wait, worker};
use std::cell::Cell;
use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest time between two looks for a job, in case a wake-up got lost; so often idle time is counted.
const NAP: Duration = Duration::from_secs(1);

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// Workers that a database's pool is to have.
pub fn wanted() -> usize {
    match settings::PARALLEL_REFRESH_MODE.get() {
        ParallelRefresh::Off => 0,
        ParallelRefresh::On => settings::MAX_DYNAMIC_REFRESH_WORKERS.get().clamp(0, MAX_POOL as i32) as usize,
    }
}

/// Main function of a worker of the pool.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_pool_main(argument: pg_sys::Datum) {
    worker::handle_signals();
    let (dboid, number) = seat::argument(argument);
    let name = CString::new(format!("pg_trickle_pool_{number}")).unwrap_or_default();
    away::connect(dboid, &name);
    worker::commit_asynchronously();
    let (Some(db), place) = (shmem::db(dboid), number - 1) else { return };
    if db.pool_pids[place].compare_exchange(0, worker::pid(), Ordering::SeqCst, Ordering::Relaxed).is_err() {
        return;
    }
    PLACE.set(place);
    shmem::use_ring_of(number);
    db.pool_latches[place].publish();
    worker::before_exit(|| {
        executor::give_back();
        if let Some(db) = shmem::my_db() {
            db.pool_latches[PLACE.get()].clear();
            db.pool_pids[PLACE.get()].store(0, Ordering::SeqCst);
            db.scheduler_latch.wake();
        }
    });
    // The scheduler counts on those who are there.
    db.scheduler_latch.wake();
    while is_wanted(db, place) {
        if !executor::work(db, |pgt_id| pgt_id as usize % db.pool_workers().max(1) == place) {
            rest(db);
        }
        worker::attend();
    }
}

fn is_wanted(db: &DbShared, place: usize) -> bool {
    place < wanted() && !db.retired.load(Ordering::SeqCst) && !seat::pools_rest()
}

fn rest(db: &DbShared) {
    worker::report_activity(c"waiting for a job", false);
    worker::report_statistics();
    let since = Instant::now();
    wait::sleep(NAP);
    db.idle_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
}
