//! The launcher: one per cluster. It looks for databases that have the extension and keeps their workers alive.
//!
//! Whether a database has the extension can only be seen from inside it, so its scheduler is started to look; it claims
//! the database's place in shared memory when it finds the extension, and ends when it does not.

use super::away;
use super::capture::socket_path;
use super::metrics::Endpoint;
use super::seat::{Role, STABLE, Seat};
use crate::shmem;
use pgrx::prelude::*;
use pgtrickle_pg::{databases, wait, worker};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest time between two looks at databases and workers.
const LOOK: Duration = Duration::from_secs(5);
/// New databases are looked for this often even when nobody said that there are any.
const LOOK_FOR_DATABASES: Duration = Duration::from_secs(60);
/// How long workers of an earlier launcher may take to end.
const ORPHANS_END: Duration = Duration::from_secs(10);
/// Failures in a row after which capture counts as failing.
const FAILING_AFTER: u32 = 3;

/// The workers of one database.
struct Database {
    scheduler: Seat,
    capture: [Seat; 2],
    /// Whether its scheduler has been sent to look for the extension.
    probed: bool,
}

impl Database {
    fn new() -> Database {
        Database {
            scheduler: Seat::new(Role::needed("pg_trickle_scheduler", "pgtrickle_scheduler_main")),
            capture: [
                Seat::new(Role::needed("pg_trickle_apply", "pgtrickle_apply_main")),
                Seat::new(Role::needed("pg_trickle_wal_decoder", "pgtrickle_wal_decoder_main")),
            ],
            probed: false,
        }
    }

    fn tend(&mut self, dboid: u32) {
        self.scheduler.look();
        self.capture.iter_mut().for_each(Seat::look);
        match shmem::db(dboid) {
            _ if away::wanted(dboid) => self.capture.iter_mut().chain([&mut self.scheduler]).for_each(Seat::stop),
            Some(db) if db.retired.load(Ordering::SeqCst) => self.capture.iter_mut().for_each(|seat| {
                seat.stop();
                seat.pardon();
            }),
            Some(db) => {
                self.scheduler.fill(dboid);
                self.capture.iter_mut().for_each(|seat| seat.fill(dboid));
                let refused = self.capture.iter().chain([&self.scheduler]).any(|seat| seat.refused);
                db.workers_short.store(refused, Ordering::Relaxed);
                let failing =
                    self.capture.iter().any(|seat| seat.failures >= FAILING_AFTER && seat.started.elapsed() < STABLE);
                if failing {
                    db.fail_unless_running();
                }
            }
            None if !self.probed => {
                self.probed = true;
                self.scheduler.next_start = Instant::now();
                self.scheduler.fill(dboid);
            }
            None => {}
        }
    }

    /// How long until a worker that ended is to be started again. Where the extension is not installed none will be.
    fn next_start(&self, dboid: u32) -> Option<Duration> {
        let served = shmem::db(dboid).is_some_and(|db| !db.retired.load(Ordering::SeqCst) && !away::wanted(dboid));
        let seats = self.capture.iter().chain([&self.scheduler]).filter(|_| served);
        let waiting = seats.filter(|seat| !seat.is_filled() && seat.failures > 0);
        let until = |seat: &Seat| seat.next_start.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        waiting.map(until).min()
    }
}

/// Gives back what a database had that was dropped. PostgreSQL has dropped its slot with it; origins are shared by all
/// databases, and only from inside of one can they be dropped.
fn forget(dboid: u32) {
    if let Some(db) = shmem::db(dboid) {
        shmem::release_db(db);
        shmem::shared().origins_dirty.store(true, Ordering::SeqCst);
    }
    // That there is none is fine.
    let _ = std::fs::remove_file(socket_path(dboid));
}

/// Ends the workers of a launcher that has ended: nobody looks after them, and ours would find their places taken.
fn end_orphans() {
    let served = || shmem::shared().databases.iter().filter(|db| db.dboid.load(Ordering::Acquire) != 0);
    let pids = || served().flat_map(|db| [&db.scheduler_pid, &db.apply_pid, &db.decoder_pid]);
    let alive = || pids().map(|pid| pid.load(Ordering::SeqCst)).filter(|&pid| pid != 0 && worker::is_backend(pid));
    alive().for_each(worker::terminate);
    let deadline = Instant::now() + ORPHANS_END;
    while alive().next().is_some() && Instant::now() < deadline {
        worker::attend();
        wait::sleep(Duration::from_millis(20));
    }
}

/// Main function of the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_launcher_main(_arg: pg_sys::Datum) {
    worker::handle_signals();
    worker::connect(0);
    worker::set_config(c"application_name", c"pg_trickle_launcher");
    let shared = shmem::shared();
    shared.launcher_latch.publish();
    worker::before_exit(|| shmem::shared().launcher_latch.clear());
    end_orphans();
    let mut known: HashMap<u32, Database> = HashMap::new();
    let mut looked: Option<Instant> = None;
    let mut endpoint = Endpoint::default();
    loop {
        worker::attend();
        endpoint.tend();
        let told = shared.databases_dirty.swap(false, Ordering::SeqCst);
        if told || looked.is_none_or(|at| at.elapsed() > LOOK_FOR_DATABASES) {
            looked = Some(Instant::now());
            let present = databases::all();
            known.keys().filter(|dboid| !present.contains(dboid)).for_each(|&dboid| forget(dboid));
            known.retain(|dboid, _| present.contains(dboid));
            for dboid in present {
                let database = known.entry(dboid).or_insert_with(Database::new);
                database.probed &= !told;
            }
        }
        known.iter_mut().for_each(|(&dboid, database)| database.tend(dboid));
        let next = known.iter().filter_map(|(&dboid, database)| database.next_start(dboid)).min();
        wait::sleep(next.unwrap_or(LOOK).min(LOOK));
    }
}
