//! What the two capture workers of a database have in common: names, start and end, alerts.

use super::away;
use crate::error::Error;
use crate::shmem::{self, CaptureState, DbShared};
use pgrx::PgSqlErrorCode;
use pgtrickle_pg::worker;
use std::ffi::{CStr, CString};
use std::fmt;

/// Name of a database's slot and of its replication origin.
pub fn slot_name(dboid: u32) -> String {
    format!("pg_trickle_{dboid}")
}

/// The apply worker's socket: in that directory within the data directory whose contents base backups leave out.
pub fn socket_path(dboid: u32) -> String {
    format!("pg_stat_tmp/pg_trickle.{dboid}.sock")
}

/// First steps of a capture worker: signals, database, identity, shared memory.
pub fn start(dboid: u32, name: &CStr) -> &'static DbShared {
    worker::handle_signals();
    away::connect(dboid, name);
    if pgtrickle_pg::spi::setting(c"wal_level").as_deref() != Some("logical") {
        Error::wal_level().raise();
    }
    shmem::db(dboid).unwrap_or_else(|| {
        let message = format!("database {dboid} is not served by pg_trickle");
        Error::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).raise()
    })
}

/// A worker of this database failed; until it works again health_check() says so.
pub fn note_failure() {
    if let Some(db) = shmem::my_db() {
        db.set_capture_state(CaptureState::Failing);
    }
}

/// An LSN in PostgreSQL's notation.
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// Tells listeners on `pg_trickle_alert` when the current transaction commits.
pub fn alert(json: &str) {
    if let Ok(json) = CString::new(json) {
        worker::notify(c"pg_trickle_alert", &json);
    }
}

/// Text as a JSON string.
pub fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
