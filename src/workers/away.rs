//! Commands that PostgreSQL runs only on a database that nobody is connected to: DROP, RENAME and SET TABLESPACE of it, and
//! CREATE DATABASE with it as TEMPLATE. Our workers leave for as long as the transaction of such a command lasts.

use crate::shmem;
use pgtrickle_pg::{databases, spi, utility, wait, worker, xact};
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Workers that have not left by then are PostgreSQL's to complain of.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether this backend has sent workers away in its transaction.
    static EMPTIED: Cell<bool> = const { Cell::new(false) };
}

/// What [`shmem::Shared::emptied`] holds for a database and the backend that wants it empty.
fn entry(dboid: u32, pid: i32) -> u64 {
    u64::from(dboid) << 32 | pid as u64
}

fn holder(entry: u64) -> i32 {
    entry as u32 as i32
}

/// Sets the hooks. While the library is preloaded.
pub fn register() {
    utility::watch_commands(leave, super::prepared_commits);
    xact::at_end(come_back);
}

/// Whether the workers of a database shall be away. A process that died over its command wants nothing any more.
pub fn wanted(dboid: u32) -> bool {
    let entries = shmem::shared().emptied.iter().map(|place| place.load(SeqCst));
    entries.filter(|entry| (entry >> 32) as u32 == dboid).any(|entry| worker::is_backend(holder(entry)))
}

/// Connects a worker to its database, or ends it if workers shall be away. Only by its name is it found to be sent away.
pub fn connect(dboid: u32, name: &CStr) {
    let attend = || {
        if wanted(dboid) {
            worker::end()
        }
    };
    attend();
    worker::connect(dboid);
    worker::set_config(c"application_name", name);
    attend();
    worker::neutralise_settings();
}

/// Sends the workers of a database away and waits until they have left. Whoever may not run the command changes nothing.
fn leave(database: &str) {
    // There may be a new database to look into.
    super::on_commit_look_for_databases();
    let owned = databases::owned(database).filter(|&dboid| dboid != spi::my_database_id());
    let Some(dboid) = owned else { return };
    // Also where none are known of: the first may be about to look whether the extension is there.
    let free =
        |entry: u64| (entry == 0 || !worker::is_backend(holder(entry))).then(|| self::entry(dboid, worker::pid()));
    EMPTIED.set(true);
    // When all places are taken, workers are only asked to leave.
    let _ = shmem::shared().emptied.iter().find(|place| place.fetch_update(SeqCst, SeqCst, free).is_ok());
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
    if EMPTIED.take() {
        let mine = |entry: u64| (holder(entry) == worker::pid()).then_some(0);
        for place in &shmem::shared().emptied {
            let _ = place.fetch_update(SeqCst, SeqCst, mine);
        }
        shmem::shared().databases_dirty.store(true, SeqCst);
        shmem::shared().launcher_latch.wake();
    }
}
