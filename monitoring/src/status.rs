//! The status page and its data.

use crate::health;
use crate::history::History;
use crate::json::{array, number, object, optional, string};
use crate::snapshot::{Buffer, CaptureState, Database, Lag, LastError, Snapshot, StreamTable};

/// The page itself: it asks for `/status.json` again and again.
pub const PAGE: &str = include_str!("status.html");

/// Everything that the page shows. Without `details` no text that may contain values of rows or parts of queries.
pub fn data(s: &Snapshot, history: &History, details: bool) -> String {
    let errors = health::errors(s);
    let reasons = errors.iter().map(|r| string(&format!("{}: {}", r.database, r.detail)));
    object([
        ("version", string(s.version)),
        ("healthy", errors.is_empty().to_string()),
        ("details", details.to_string()),
        ("reasons", array(reasons)),
        ("lag", lag(s.cdc_lag)),
        ("workers", number(s.pool.workers as f64)),
        ("busy", number(s.pool.busy as f64)),
        ("queued", number(s.pool.queue_depth as f64)),
        ("databases", array(s.databases.iter().map(|d| database(d, details)))),
        ("history", history.json(s.at_us)),
    ])
}

fn database(d: &Database, details: bool) -> String {
    let capture = match d.capture {
        CaptureState::None => "stopped",
        CaptureState::Starting => "starting",
        CaptureState::Running => "running",
        CaptureState::Failing => "failing",
    };
    object([
        ("name", string(&d.name)),
        ("capture", string(capture)),
        ("scheduler", d.scheduler_running.to_string()),
        ("at_rest", optional(d.at_rest, string)),
        ("lag", lag(d.lag)),
        ("pending_records", number(d.wal_decoder.pending_records as f64)),
        ("retained_wal_bytes", optional(d.slot.as_ref(), |slot| number(slot.retained_wal_bytes as f64))),
        ("holdback_seconds", number(d.frontier_holdback_seconds)),
        ("sources", array(d.buffers.iter().map(buffer))),
        ("tables", array(d.stream_tables.iter().map(|t| stream_table(t, details)))),
    ])
}

fn lag(lag: Option<Lag>) -> String {
    optional(lag, |lag| {
        object([("p50", number(lag.p50_seconds)), ("p95", number(lag.p95_seconds)), ("p99", number(lag.p99_seconds))])
    })
}

fn buffer(b: &Buffer) -> String {
    object([
        ("id", number(f64::from(b.relid))),
        ("name", string(&b.source)),
        ("buffered", b.buffered.to_string()),
        ("pending_rows", number(b.pending_rows as f64)),
        ("bytes", number(b.bytes as f64)),
    ])
}

fn stream_table(t: &StreamTable, details: bool) -> String {
    object([
        ("id", number(f64::from(t.relid))),
        ("schema", string(&t.schema)),
        ("name", string(&t.name)),
        ("status", string(t.status)),
        ("sources", array(t.sources.iter().map(|&relid| number(f64::from(relid))))),
        ("staleness_seconds", optional(t.staleness_seconds, number)),
        ("stale", t.stale.to_string()),
        ("refreshes", number(t.refreshes_total as f64)),
        ("failures", number(t.refresh_failures_total as f64)),
        ("consecutive_errors", number(t.consecutive_errors as f64)),
        ("differential", number(t.differential_refreshes_total as f64)),
        ("full", number(t.full_refreshes_total as f64)),
        (
            "last_refresh",
            optional(t.last_refresh, |r| {
                object([
                    ("ago", number(r.seconds_ago)),
                    ("seconds", number(r.duration_seconds)),
                    ("rows", number(r.rows as f64)),
                ])
            }),
        ),
        ("last_error", optional(t.last_error.as_ref(), |e| error(e, t, details))),
    ])
}

fn error(e: &LastError, t: &StreamTable, details: bool) -> String {
    object([
        ("ago", number(e.seconds_ago)),
        ("sqlstate", string(&e.sqlstate)),
        ("text", if details { string(&e.text) } else { "null".into() }),
        ("hint", string(hint(t))),
    ])
}

/// What to do about it, whatever it is.
fn hint(t: &StreamTable) -> &'static str {
    match t.status {
        "SUSPENDED" => {
            "Mend the cause (last_error_message in pgtrickle.pg_stat_stream_tables), then pgtrickle.resume_stream_table()."
        }
        "ERROR" => {
            "It is tried again with growing pauses; last_error_message in pgtrickle.pg_stat_stream_tables says why it fails."
        }
        _ => "It has been refreshed since.",
    }
}
