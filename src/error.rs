//! What can go wrong in the extension itself, and what its reader is told: SQLSTATE, message, detail, hint.

use pgrx::{PgLogLevel, PgSqlErrorCode as Code, ereport, pg_sys::panic::ErrorReport};

/// An error of the extension. Errors of PostgreSQL itself pass through unchanged.
#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), detail: None, hint: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Raises it as a PostgreSQL error.
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.code, self.message, "pg_trickle");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("reporting an error does not return")
    }

    pub fn not_preloaded() -> Error {
        Error::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "pg_trickle is not loaded at server start")
            .hint("Add pg_trickle to shared_preload_libraries and restart the server.")
    }

    pub fn wal_level() -> Error {
        Error::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "pg_trickle needs wal_level = logical")
            .hint("Set wal_level = logical in postgresql.conf and restart the server.")
    }

    pub fn standby() -> Error {
        Error::new(
            Code::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "stream tables cannot be changed or waited for on a standby",
        )
        .hint("Do so on the primary. After promotion the workers start by themselves.")
    }

    pub fn no_such_stream_table(name: &str) -> Error {
        Error::new(Code::ERRCODE_UNDEFINED_TABLE, format!("there is no stream table \"{name}\""))
            .hint("SELECT pgt_schema, pgt_name FROM pgtrickle.pgt_stream_tables lists those that exist.")
    }

    pub fn not_owner(name: &str) -> Error {
        Error::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of stream table {name}"))
    }

    pub fn capture_timeout(seconds: u64, state: &str) -> Error {
        Error::new(Code::ERRCODE_CANNOT_CONNECT_NOW, format!("change capture did not catch up within {seconds} s"))
            .detail(format!("Capture is {state}."))
            .hint("SELECT * FROM pgtrickle.health_check() and the server log say what is wrong.")
    }

    pub fn capture_restarted() -> Error {
        Error::new(Code::ERRCODE_T_R_SERIALIZATION_FAILURE, "change capture started anew during the refresh")
            .hint("Refresh again; the stream table is recomputed then.")
    }

    pub fn own_changes(source: &str) -> Error {
        Error::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("cannot refresh: this transaction has changed or locked source table {source}"),
        )
        .detail("A stream table shows committed changes only.")
        .hint("Commit first, then refresh.")
    }

    pub fn restored(name: &str) -> Error {
        Error::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("stream table {name} was restored from a dump and is not followed yet"),
        )
        .hint(format!("SELECT pgtrickle.repair_stream_table('{}');", name.replace('\'', "''")))
    }

    pub fn corrupt_state(name: &str, what: &str) -> Error {
        Error::new(Code::ERRCODE_DATA_CORRUPTED, format!("stream table {name} does not match its stored frontier"))
            .detail(what.to_owned())
            .hint("Its next refresh recomputes it. Was it changed by hand?")
    }

    /// One of each kind, with placeholders, for `error_catalog()`.
    pub fn examples() -> Vec<Error> {
        vec![
            Error::not_preloaded(),
            Error::wal_level(),
            Error::standby(),
            Error::no_such_stream_table("…"),
            Error::not_owner("…"),
            Error::capture_timeout(60, "…"),
            Error::capture_restarted(),
            Error::own_changes("…"),
            Error::restored("…"),
            Error::corrupt_state("…", "…"),
        ]
    }
}

impl From<Error> for pgtrickle_pg::xact::Failure {
    fn from(error: Error) -> Self {
        Self { code: error.code, message: error.message, detail: error.detail, hint: error.hint }
    }
}

/// Whether an error is likely to pass by itself: conflicts (class 40), locks that others hold (55P03), lack of resources
/// (53), interventions of an operator (57). Such a refresh is tried again and never suspends its stream table.
pub fn is_transient(code: Code) -> bool {
    code == Code::ERRCODE_LOCK_NOT_AVAILABLE || ["40", "53", "57"].iter().any(|class| is_of(code, class))
}

/// Whether an error says that some value is wrong (class 22): a division by zero, an overflow.
pub fn is_about_data(code: Code) -> bool {
    is_of(code, "22")
}

/// Whether an error is one that PostgreSQL did not expect (class XX).
pub fn is_internal(code: Code) -> bool {
    is_of(code, "XX")
}

/// Whether an error is of a class, the first two characters of its SQLSTATE.
fn is_of(code: Code, class: &str) -> bool {
    // SQLSTATEs are packed six bits a character, the first one lowest.
    let packed = class.bytes().rev().fold(0, |packed, c| packed << 6 | i32::from(c - b'0'));
    code as i32 & 0xfff == packed
}

/// Results whose error is ours.
pub type Result<T> = std::result::Result<T, Error>;

/// Unwraps a result by raising its error to PostgreSQL.
pub fn or_raise<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| e.raise())
}

/// Raises a NOTICE.
pub fn notice(message: &str, detail: Option<&str>) {
    match detail {
        Some(detail) => {
            ereport!(PgLogLevel::NOTICE, Code::ERRCODE_SUCCESSFUL_COMPLETION, message.to_owned(), detail.to_owned())
        }
        None => ereport!(PgLogLevel::NOTICE, Code::ERRCODE_SUCCESSFUL_COMPLETION, message.to_owned()),
    }
}
