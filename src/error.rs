//! What can go wrong in the extension itself, and what its reader is told: SQLSTATE, message, detail, hint.

use crate::shmem::MAX_DATABASES;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code, ereport};
use pgtrickle_pg::xact::Failure;

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

    /// The same, saying which stream table it is about.
    pub fn naming(mut self, name: &str) -> Error {
        self.message = format!("{} (stream table {name})", self.message);
        self
    }

    /// Raises it as a PostgreSQL error.
    pub fn raise(self) -> ! {
        Failure::from(self).raise()
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

    pub fn unserved(full: bool) -> Error {
        let error = Error::new(Code::ERRCODE_CANNOT_CONNECT_NOW, "no worker of pg_trickle serves this database");
        match full {
            true => error
                .detail(format!("It serves {MAX_DATABASES} databases already, which is all it can."))
                .hint("Drop the extension in databases where it is not used."),
            false => error
                .detail("The launcher starts its workers a moment after CREATE EXTENSION or a start of the server.")
                .hint("If this stays so, raise max_worker_processes: pgtrickle.preflight() counts what is needed."),
        }
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

    pub fn refreshing() -> Error {
        Error::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "a stream table is being refreshed")
            .detail("What a refresh calls, such as a trigger on a stream table, cannot itself compute stream tables.")
            .hint(
                "A refresh brings what it reads up to date by itself, and the scheduler refreshes readers together with what they read.",
            )
    }

    pub fn restored(name: &str) -> Error {
        Error::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("stream table {name} was restored from a dump and is not followed yet"),
        )
        .hint(format!("SELECT pgtrickle.repair_stream_table('{}');", name.replace('\'', "''")))
    }

    pub fn concurrent_change(name: &str) -> Error {
        Error::new(
            Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("could not serialize access to stream table {name} due to concurrent changes of its sources"),
        )
        .detail("It is maintained by whoever writes to its sources, and has changed since this transaction's snapshot.")
        .hint("The transaction might succeed if retried.")
    }

    pub fn concurrent_refresh(name: &str) -> Error {
        Error::new(
            Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("could not serialize access to stream table {name} due to a concurrent refresh"),
        )
        .detail("This transaction keeps to its snapshot, and the stream table has been refreshed since.")
        .hint("The transaction might succeed if retried.")
    }

    pub fn unseen_change(name: &str) -> Error {
        Error::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("stream table {name} cannot follow changes that replication applies to its sources"),
        )
        .detail("Its refresh_mode is IMMEDIATE, which needs statements; a subscription applies rows.")
        .hint(format!("SELECT pgtrickle.alter_stream_table('{}', refresh_mode => 'AUTO');", name.replace('\'', "''")))
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
            Error::unserved(false),
            Error::unserved(true),
            Error::capture_restarted(),
            Error::own_changes("…"),
            Error::refreshing(),
            Error::restored("…"),
            Error::concurrent_change("…"),
            Error::concurrent_refresh("…"),
            Error::unseen_change("…"),
            Error::corrupt_state("…", "…"),
        ]
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: error.code, message: error.message, detail: error.detail, hint: error.hint }
    }
}

/// What the kind of an error means for the stream table whose refresh it ended.
pub struct Policy {
    /// It is likely to pass by itself: the refresh is tried again, with growing pauses, and never suspends.
    pub passes: bool,
    /// The next try recomputes the stream table.
    pub recompute: bool,
    /// What its operator reads where the error has no hint of its own.
    pub hint: Option<&'static str>,
}

/// The policy for each kind of error, in one place.
pub fn policy(code: Code) -> Policy {
    let state = sqlstate(code as i32);
    let passes = |hint| Policy { passes: true, recompute: false, hint: Some(hint) };
    let counts = |hint| Policy { passes: false, recompute: false, hint: Some(hint) };
    // What the stream table holds may be in doubt, or the change be at fault and not the query.
    let recompute = |hint| Policy { passes: false, recompute: true, hint };
    match (&state[..2], &state[2..]) {
        ("40", _) => passes("It was in conflict with another transaction and is tried again."),
        ("55", "P03") => {
            passes("Another session holds a lock that the refresh needs: see pg_locks. It is tried again.")
        }
        ("57", "014") => passes("It was cancelled and is tried again; pgtrickle.pause_stream_table() stops it."),
        ("57", "P03") => passes("See pgtrickle.health_check(). It is tried again."),
        ("57", _) => passes("The server or an operator ended it; it is tried again."),
        ("53", "100") => passes("The disk is full: make room. It is tried again."),
        ("53", "400") => counts(
            "A limit of the server is too low for it: raise that (temp_file_limit, say), then pgtrickle.resume_stream_table().",
        ),
        ("53", _) => passes("The server lacks memory, connections or the like. It is tried again."),
        // A row that came and went, or rows that were never there together, may have a value that cannot be computed; the query
        // itself never sees them. Nor do its functions, which raise 38, 39 and P0, nor its subqueries of one row (21).
        ("21" | "22" | "38" | "39" | "P0", _) => {
            recompute(Some("A value cannot be computed: change the row, or the query so that it can be."))
        }
        ("23", _) => recompute(Some("If a constraint or unique index was added to the stream table, drop it.")),
        ("42", "501") => counts("The stream table's owner lacks a privilege: grant it. Refreshes run as the owner."),
        ("XX", "001") => recompute(None),
        _ => Policy { passes: false, recompute: false, hint: None },
    }
}

/// A packed SQLSTATE, six bits a character and the first one lowest, as it is written.
pub fn sqlstate(code: i32) -> String {
    (0..5).map(|i| char::from(b'0' + (code >> (6 * i) & 0x3f) as u8)).collect()
}

/// Whether an error comes of what others did at the same time (class 40).
pub fn is_conflict(code: Code) -> bool {
    sqlstate(code as i32).starts_with("40")
}

/// Whether an error is one that PostgreSQL did not expect (class XX).
pub fn is_internal(code: Code) -> bool {
    sqlstate(code as i32).starts_with("XX")
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
