//! `pg_trickle_wal_decoder`: decodes the database's slot and sends what it finds to the apply worker.

use super::capture::{self, slot_name, socket_path};
use super::capture_slot;
use crate::error::is_internal;
use crate::settings;
use crate::shmem::{CaptureState, DbShared};
use pgrx::prelude::*;
use pgtrickle_decoder::relations::Quarantine;
use pgtrickle_decoder::session::blamed_relation;
use pgtrickle_decoder::stream::{self, Config, Monitor};
use pgtrickle_pg::xact::failure_code;
use pgtrickle_pg::{origin, wait, worker};
use std::ffi::CString;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::time::Duration;

/// Failures in a row after which capture starts anew.
const FAILURES_MAX: u32 = 3;
/// Pause between two attempts to reach the apply worker.
const RETRY: Duration = Duration::from_millis(50);

/// Entry of the worker; its argument is the database's oid.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_wal_decoder_main(argument: pg_sys::Datum) {
    let dboid = argument.value() as u32;
    let db = capture::start(dboid, c"pg_trickle_wal_decoder");
    db.decoder_latch.publish();
    db.decoder_pid.store(worker::pid(), Release);
    db.set_capture_state(CaptureState::Starting);
    worker::before_exit(leave);
    PgTryBuilder::new(|| work(dboid, db))
        .catch_others(|error| {
            match blamed_relation() {
                Some(relid) => blame(db, relid),
                None if is_internal(failure_code(&error)) => blame_slot(db),
                None => {}
            }
            capture::note_failure();
            error.rethrow()
        })
        .execute();
}

/// Nobody shall wake or look for a process that is gone.
fn leave() {
    if let Some(db) = crate::shmem::my_db() {
        let gone = db.decoder_pid.compare_exchange(worker::pid(), 0, AcqRel, Relaxed);
        if gone.is_ok() {
            db.decoder_latch.clear();
            db.decoder_sleeping.store(false, SeqCst);
            if db.capture_state() != CaptureState::Failing {
                db.set_capture_state(CaptureState::None);
            }
        }
    }
}

fn work(dboid: u32, db: &'static DbShared) {
    let name = slot_name(dboid);
    let slot = CString::new(name.as_str()).expect("digits and letters");
    allow_own_plugin();
    set_work_mem();
    let stuck = db.stuck_count.load(Acquire) >= FAILURES_MAX;
    capture_slot::ensure(&name, stuck);
    if stuck {
        db.stuck_count.store(0, Release);
    }
    worker::report_activity(c"waiting for the apply worker", true);
    let greeted = stream::greet(connect(dboid), &slot);
    capture_slot::check_position(&name, greeted.start_lsn);
    if db.stuck_at.swap(greeted.start_lsn, AcqRel) != greeted.start_lsn {
        db.stuck_count.store(0, Release);
        db.forget_failures();
    }
    let own_origin = worker::in_transaction(|| origin::find(&slot))
        .unwrap_or_else(|| error!("replication origin {name} does not exist"));
    let quarantined = quarantined(db);
    worker::report_activity(c"decoding", true);
    db.set_capture_state(CaptureState::Running);
    stream::run(greeted, Config { slot, own_origin, quarantined, monitor: db });
}

/// Recent servers decode only with plugins that are listed. For this process it is we who decide.
fn allow_own_plugin() {
    let listed = pgtrickle_pg::spi::setting(c"output_plugin_libraries");
    if let Some(listed) = listed.filter(|l| !l.split(',').any(|name| name.trim() == "pg_trickle")) {
        let all = if listed.trim().is_empty() { "pg_trickle".into() } else { format!("{listed}, pg_trickle") };
        let all = CString::new(all).expect("settings contain no NUL");
        worker::set_config(c"output_plugin_libraries", &all);
    }
}

fn set_work_mem() {
    let value = format!("{}kB", settings::DECODING_WORK_MEM.get());
    worker::set_config(c"logical_decoding_work_mem", &CString::new(value).expect("digits and letters"));
}

fn connect(dboid: u32) -> UnixStream {
    loop {
        if let Ok(stream) = UnixStream::connect(socket_path(dboid)) {
            return stream;
        }
        worker::attend();
        wait::sleep(RETRY);
    }
}

/// Counts a failure, of decoding or of writing to the change buffer, against a source.
pub fn blame(db: &DbShared, relid: u32) {
    let failures = db.count_failure(relid, worker::now_us());
    pgrx::warning!("pg_trickle: capture failed at a change of relation {relid}, {failures} times so far");
}

/// Counts a failure that is no source's fault: WAL that nobody can decode (any more), as after a move of the whole database
/// to another tablespace.
fn blame_slot(db: &DbShared) {
    let failures = db.stuck_count.fetch_add(1, AcqRel) + 1;
    pgrx::warning!("pg_trickle: the WAL could not be decoded, {failures} times so far");
}

/// Sources that are given up until somebody repairs them.
fn quarantined(db: &DbShared) -> Vec<Quarantine> {
    let reason = "capturing its changes failed again and again; the server log says how";
    db.given_up().map(|(relid, at)| Quarantine { relid, at, reason: reason.into() }).collect()
}

impl Monitor for DbShared {
    fn wanted_flush(&self) -> u64 {
        self.want_flush_lsn.load(SeqCst)
    }

    fn set_sleeping(&self, sleeping: bool) {
        self.decoder_sleeping.store(sleeping, SeqCst);
    }

    fn sent(&self, lsn: u64) {
        self.sent_lsn.fetch_max(lsn, AcqRel);
    }

    fn reloaded(&self) {
        set_work_mem();
    }

    fn quarantine_over(&self, relid: u32) {
        self.forget_source(relid);
    }
}
