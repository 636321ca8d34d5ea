//! Commands that PostgreSQL runs only on a database that nobody is connected to: DROP, RENAME and SET TABLESPACE of it, and
//! CREATE DATABASE with it as TEMPLATE. Our workers leave for as long as the transaction of such a command lasts.

use crate::shmem::{self, DbShared};
use pgtrickle_pg::{databases, spi, utility, wait, worker, xact};
use std::cell::Cell;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Workers that have not left by then are PostgreSQL's to complain of.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

thread_local! {
    /// Whose workers this backend has sent away.
    static EMPTIED: Cell<Option<&'static DbShared>> = const { Cell::new(None) };
}

/// Sets the hooks. While the library is preloaded.
pub fn register() {
    utility::watch_commands(leave, super::prepared_commits);
    xact::at_end(come_back);
}

/// Whether the workers of a database shall be away. A process that died over its command wants nothing any more.
pub fn wanted(db: &DbShared) -> bool {
    let pid = db.emptied_by.load(Acquire);
    if pid != 0 && !worker::is_backend(pid) {
        let _ = db.emptied_by.compare_exchange(pid, 0, AcqRel, Relaxed);
    }
    db.emptied_by.load(Acquire) != 0
}

/// Connects a worker to its database, or ends it if workers shall be away.
pub fn connect(dboid: u32) {
    let attend = || shmem::db(dboid).filter(|db| wanted(db)).map_or((), |_| worker::end());
    attend();
    worker::connect(dboid);
    attend();
}

/// Sends the workers of a database away and waits until they have left. Whoever may not run the command changes nothing.
fn leave(database: &str) {
    // There may be a new database to look into.
    super::on_commit_look_for_databases();
    let owned = databases::owned(database).filter(|&dboid| dboid != spi::my_database_id());
    let Some((dboid, db)) = owned.and_then(|dboid| Some((dboid, shmem::db(dboid)?))) else { return };
    if db.emptied_by.compare_exchange(0, worker::pid(), AcqRel, Relaxed).is_ok() {
        EMPTIED.set(Some(db));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let there = databases::workers(dboid, c"pg_trickle_");
        if there.is_empty() || Instant::now() > deadline {
            return;
        }
        there.into_iter().for_each(worker::terminate);
        wait::sleep(LOOK);
        pgrx::check_for_interrupts!();
    }
}

/// At the end of every transaction: the workers may come back, if there still is a database.
fn come_back() {
    if let Some(db) = EMPTIED.take() {
        let _ = db.emptied_by.compare_exchange(worker::pid(), 0, SeqCst, Relaxed);
        shmem::shared().databases_dirty.store(true, SeqCst);
        shmem::shared().launcher_latch.wake();
    }
}
