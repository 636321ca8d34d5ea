//! The background workers: the launcher keeps those of each database alive.
//!
//! | worker | per | does |
//! |---|---|---|
//! | `pg_trickle_launcher` | cluster | finds databases with the extension, starts and restarts their workers, serves metrics |
//! | `pg_trickle_wal_decoder` | database | reads the WAL and sends change records |
//! | `pg_trickle_apply` | database | writes change records to change buffers |
//! | `pg_trickle_scheduler` | database | decides which stream tables are due; refreshes what is due alone and quick |
//! | `pg_trickle_dispatcher` | database | holds the snapshot that the refreshes of a tick share |
//! | `pg_trickle_pool_N` | database | refreshes what is handed over, several at a time |
//! | `pg_trickle_tracker` | creation | starts capture of a source in a transaction of its own |

mod apply;
mod apply_buffers;
mod apply_sink;
mod away;
mod capture;
mod capture_slot;
mod crew;
mod current;
mod diamonds;
mod dispatcher;
mod entry;
mod executor;
mod launcher;
mod metrics;
mod pool;
mod scheduler;
mod seat;
pub mod tracker;
mod wal_decoder;
mod watch;

use crate::refresh::PATIENCE;
use crate::shmem::{self, DbShared};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgtrickle_pg::spi::LocalSettings;
use pgtrickle_pg::xact::Failure;
use pgtrickle_pg::{wal, worker, xact};
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;
use std::time::Duration;

thread_local! {
    static MY_DB: Cell<Option<&'static DbShared>> = const { Cell::new(None) };
    static LAST_COMMIT: Cell<u64> = const { Cell::new(0) };
    static CATALOG_CHANGED: Cell<bool> = const { Cell::new(false) };
    static DATABASES_CHANGED: Cell<bool> = const { Cell::new(false) };
    /// A prepared transaction that this backend commits may have changed anything.
    static PREPARED_COMMITS: Cell<bool> = const { Cell::new(false) };
    static PARENTS_CHANGED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Registers what the postmaster starts by itself, and the hook that wakes the decoder after commits.
pub fn register() {
    xact::after_commit(committed);
    xact::after_prepare(prepared);
    if worker::upgrading() {
        return;
    }
    away::register();
    BackgroundWorkerBuilder::new("pg_trickle_launcher")
        .set_type("pg_trickle_launcher")
        .set_library("pg_trickle")
        .set_function("pgtrickle_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// Runs `work` in a transaction of its own. When it fails, or somebody's lock is in its way for long, that is logged, after
/// `complaint`, and nothing else happens.
pub fn or_warn<T>(complaint: &str, work: impl FnOnce() -> T) -> Option<T> {
    let done = xact::attempt(|| {
        let _patience = LocalSettings::new(&[PATIENCE]);
        Ok::<_, Failure>(work())
    });
    done.inspect_err(|failure| pgrx::warning!("{complaint}: {}", failure.message)).ok()
}

/// Makes the scheduler of this database read the catalog again once this transaction commits.
pub fn on_commit_reread_catalog() {
    CATALOG_CHANGED.set(true);
}

/// Makes the launcher look for databases with the extension once this transaction commits.
pub fn on_commit_look_for_databases() {
    DATABASES_CHANGED.set(true);
}

/// Tells the scheduler that a stream table's change buffer has new rows, once this transaction commits.
pub fn on_commit_note_parent_change(relid: u32) {
    PARENTS_CHANGED.with_borrow_mut(|relids| relids.push(relid));
}

/// Whoever commits what was prepared will not know what that did; a prepared transaction that concerns nobody costs nothing.
fn prepared() {
    let concerns = CATALOG_CHANGED.take() | !PARENTS_CHANGED.take().is_empty();
    if let Some(db) = shmem::my_db().filter(|_| concerns) {
        db.prepared.store(true, Ordering::SeqCst);
    }
}

/// Ahead of COMMIT PREPARED.
fn prepared_commits() {
    let concerns = shmem::my_db().is_some_and(|db| db.prepared.load(Ordering::SeqCst));
    PREPARED_COMMITS.set(concerns);
}

/// Runs in every backend after each of its commits, so it must cost next to nothing.
fn committed() {
    let end = wal::last_commit_end();
    let wrote = LAST_COMMIT.replace(end) != end;
    if DATABASES_CHANGED.take() {
        shmem::shared().databases_dirty.store(true, Ordering::SeqCst);
        shmem::shared().launcher_latch.wake();
    }
    let db = MY_DB.get().or_else(|| {
        let found = shmem::my_db();
        MY_DB.set(found);
        found
    });
    let Some(db) = db.filter(|db| db.dboid.load(Ordering::Relaxed) == pgtrickle_pg::spi::my_database_id()) else {
        MY_DB.set(None);
        return;
    };
    if wrote && db.apply_pid.load(Ordering::Relaxed) != worker::pid() {
        db.want_flush_lsn.fetch_max(end, Ordering::SeqCst);
        if db.decoder_sleeping.load(Ordering::SeqCst) {
            db.decoder_latch.wake();
        }
    }
    if PREPARED_COMMITS.take() {
        db.note_change_of_all();
        CATALOG_CHANGED.set(true);
    }
    let parents = PARENTS_CHANGED.take();
    if !parents.is_empty() {
        parents.iter().for_each(|&relid| db.note_source_change(relid));
        db.scheduler_latch.wake();
    }
    if CATALOG_CHANGED.take() {
        db.catalog_dirty.store(true, Ordering::SeqCst);
        db.scheduler_latch.wake();
    }
}
