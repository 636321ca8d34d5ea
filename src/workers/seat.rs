//! A place for a worker that is to be there: started when it is missing, after a pause that grows while it keeps failing.

use crate::shmem;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::prelude::*;
use pgtrickle_pg::worker;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A worker that has run for this long starts with the first backoff again.
pub const STABLE: Duration = Duration::from_secs(60);
/// For so long pools leave the server's worker slots to others who found none free.
const POOLS_REST: Duration = Duration::from_secs(60);
/// They need this long to give theirs back.
pub const GIVING_BACK: Duration = Duration::from_secs(1);

/// A worker that a database needs.
pub struct Role {
    pub name: String,
    pub function: &'static str,
    /// Which of several of the same function.
    pub number: u32,
    /// It makes refreshes quicker, but all goes on without it.
    pub optional: bool,
}

impl Role {
    /// The one of its function, which the database cannot do without.
    pub fn needed(name: &str, function: &'static str) -> Role {
        Role { name: name.to_owned(), function, number: 0, optional: false }
    }
}

/// Database and number from the argument of a worker's main function.
pub fn argument(argument: pg_sys::Datum) -> (u32, usize) {
    (argument.value() as u32, argument.value() >> 32)
}

/// One role in one database, and how it fared.
pub struct Seat {
    role: Role,
    running: Option<DynamicBackgroundWorker>,
    pub started: Instant,
    pub failures: u32,
    pub next_start: Instant,
    /// Whether no background worker was free for it when it was last to be started.
    pub refused: bool,
}

impl Seat {
    pub fn new(role: Role) -> Seat {
        let now = Instant::now();
        Seat { role, running: None, started: now, failures: 0, next_start: now, refused: false }
    }

    /// Whether the worker is there or is being started, as far as known.
    pub fn is_filled(&self) -> bool {
        self.running.is_some()
    }

    /// Notices that the worker has ended.
    pub fn look(&mut self) {
        let ended = self.running.as_ref().is_some_and(|w| matches!(w.pid(), Err(BackgroundWorkerStatus::Stopped)));
        if ended {
            self.running = None;
            self.failures = if self.started.elapsed() > STABLE { 1 } else { self.failures + 1 };
            let backoff = FIRST_BACKOFF * 2u32.saturating_pow(self.failures.min(16) - 1);
            self.next_start = Instant::now() + backoff.min(LONGEST_BACKOFF);
        }
    }

    /// Starts the worker if it is not there and its backoff is over.
    pub fn fill(&mut self, dboid: u32) {
        if self.running.is_some() || Instant::now() < self.next_start {
            return;
        }
        self.started = Instant::now();
        let worker = BackgroundWorkerBuilder::new(&self.role.name)
            .set_type(&self.role.name)
            .set_library("pg_trickle")
            .set_function(self.role.function)
            .set_argument(Some(pg_sys::Datum::from(dboid as usize | (self.role.number as usize) << 32)))
            .set_notify_pid(worker::pid())
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(None)
            .load_dynamic();
        self.refused = worker.is_err();
        match worker {
            Ok(worker) => self.running = Some(worker),
            Err(_) => self.found_no_slot(dboid),
        }
    }

    fn found_no_slot(&mut self, dboid: u32) {
        self.failures += 1;
        let (consequence, pause) = match (self.role.optional, ask_pools_for_room()) {
            (true, _) => ("Refreshes go on without it.", POOLS_REST),
            (false, true) => ("Workers of the pool give way; it is tried again at once.", GIVING_BACK),
            (false, false) => ("It is tried again.", LONGEST_BACKOFF),
        };
        self.next_start = Instant::now() + pause;
        ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            format!("could not start {} for database {dboid}: no free worker slot", self.role.name),
            format!(
                "{consequence} Raise max_worker_processes: pg_trickle needs one, three more per database, a dispatcher and \
                 pg_trickle.max_dynamic_refresh_workers per database that refreshes in parallel, and some for creations."
            )
        );
    }

    /// Forgets that the worker ended, as it was meant to.
    pub fn pardon(&mut self) {
        self.failures = 0;
        self.next_start = Instant::now();
    }

    pub fn stop(&mut self) {
        if let Some(worker) = self.running.take() {
            let _ending = worker.terminate();
        }
    }
}

/// Whether pools leave worker slots to others now.
pub fn pools_rest() -> bool {
    worker::now_us() < shmem::shared().pools_rest_until.load(Ordering::Relaxed)
}

/// Makes dispatchers and pools give their worker slots back for a while: capture goes before parallelism. Says whether any have.
pub fn ask_pools_for_room() -> bool {
    let shared = shmem::shared();
    let served = shared.databases.iter().filter(|db| db.dboid.load(Ordering::Relaxed) != 0);
    let having: Vec<_> =
        served.filter(|db| db.dispatcher_pid.load(Ordering::Relaxed) != 0 || db.pool_workers() > 0).collect();
    if having.is_empty() {
        return false;
    }
    shared.pools_rest_until.store(worker::now_us() + POOLS_REST.as_micros() as i64, Ordering::Relaxed);
    for db in having {
        db.dispatcher_latch.wake();
        db.wake_pool();
    }
    true
}
