//! Whether all is well, for probes: `/health`.

use crate::json::{array, object, string};
use crate::snapshot::{CaptureState, Database, Snapshot};

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The database that it is about.
    pub database: String,
    /// As `pgtrickle.health_check()` names it.
    pub check: String,
    /// What is wrong and where to look.
    pub detail: String,
}

impl Reason {
    fn new(database: &Database, check: impl Into<String>, detail: impl Into<String>) -> Reason {
        Reason { database: database.name.clone(), check: check.into(), detail: detail.into() }
    }
}

/// What keeps stream tables from being maintained at all: with any of these the answer is 503.
pub fn errors(snapshot: &Snapshot) -> Vec<Reason> {
    let mut found = Vec::new();
    for d in &snapshot.databases {
        if !d.scheduler_running {
            found.push(Reason::new(d, "scheduler", "the scheduler does not run; the server log says why"));
        }
        match d.capture {
            CaptureState::Failing => {
                found.push(Reason::new(d, "capture", "the capture workers keep failing; the server log says why"));
            }
            CaptureState::None => found.push(Reason::new(d, "capture", "the capture workers do not run")),
            CaptureState::Starting | CaptureState::Running => {}
        }
    }
    found
}

/// What is wrong with single stream tables. A probe that restarts servers for this would do harm, so it is only told.
pub fn warnings(snapshot: &Snapshot) -> Vec<Reason> {
    let mut found = Vec::new();
    for d in &snapshot.databases {
        if d.capture == CaptureState::Starting {
            found.push(Reason::new(d, "capture", "starting; a new slot waits for transactions that are open"));
        }
        if let Some(why) = d.at_rest {
            found.push(Reason::new(d, "refreshing", why));
        }
        for t in d.stream_tables.iter().filter(|t| matches!(t.status, "SUSPENDED" | "ERROR")) {
            let state = t.last_error.as_ref().map(|e| format!(", SQLSTATE {}", e.sqlstate)).unwrap_or_default();
            let detail = format!("{} after {} failed refreshes{state}", t.status.to_lowercase(), t.consecutive_errors);
            found.push(Reason::new(d, format!("stream table {}.{}", t.schema, t.name), detail));
        }
    }
    let counted: usize = snapshot.databases.iter().map(|d| d.stream_tables.len()).sum();
    if snapshot.stream_tables_limit > 0 && counted as u64 >= snapshot.stream_tables_limit {
        let detail = format!("all {counted} places for counters are taken; further stream tables have no metrics");
        found.push(Reason { database: String::new(), check: "shared_memory".into(), detail });
    }
    found
}

/// The answer's body.
pub fn body(errors: &[Reason], warnings: &[Reason]) -> String {
    let list = |reasons: &[Reason]| {
        array(reasons.iter().map(|r| {
            object([("database", string(&r.database)), ("check", string(&r.check)), ("detail", string(&r.detail))])
        }))
    };
    let status = if errors.is_empty() { "ok" } else { "failing" };
    object([("status", string(status)), ("reasons", list(errors)), ("warnings", list(warnings))]) + "\n"
}
