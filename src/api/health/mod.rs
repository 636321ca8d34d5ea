//! `health_check`: every condition that the extension can detect, with what to do about it. `server` looks at the server and its
//! settings, `capture` at the workers of this database and what they share, `tables` at sources and stream tables.

mod capture;
mod server;
mod tables;

use crate::shmem;
use pgrx::prelude::*;
use pgtrickle_pg::{wal, worker};

/// How bad it is; what is worst is shown first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Error,
    Warning,
    Ok,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Ok => "OK",
        }
    }
}

/// Name of a check, how bad it is, and what is wrong and how to mend it.
struct Row {
    check: String,
    severity: Severity,
    detail: String,
}

fn row(severity: Severity, check: impl Into<String>, detail: impl Into<String>) -> Row {
    Row { check: check.into(), severity, detail: detail.into() }
}

fn ok(check: &str, detail: impl Into<String>) -> Row {
    row(Severity::Ok, check, detail)
}

fn warning(check: &str, detail: impl Into<String>) -> Row {
    row(Severity::Warning, check, detail)
}

fn error(check: &str, detail: impl Into<String>) -> Row {
    row(Severity::Error, check, detail)
}

/// Everything that pg_trickle can tell of its health in this database, the worst first; `detail` says what is wrong and how to
/// mend it. Sources and stream tables have a row each only if something is to be said of them.
#[pg_extern]
fn health_check() -> TableIterator<'static, (name!(check_name, String), name!(severity, String), name!(detail, String))>
{
    let mut rows = server::rows();
    if worker::in_recovery() {
        let detail = "This is a standby: the workers start after promotion, and a lost slot is made anew.";
        rows.push(ok("standby", detail));
    } else if shmem::available() && wal::is_logical() {
        rows.extend(capture::rows());
    }
    rows.extend(tables::rows());
    rows.sort_by_key(|row| row.severity);
    TableIterator::new(rows.into_iter().map(|row| (row.check, row.severity.name().into(), row.detail)))
}
