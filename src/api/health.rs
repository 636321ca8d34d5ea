//! `health_check`: every condition that the extension can detect, with what to do about it.

use crate::shmem::{self, CaptureState, DbShared};
use crate::{catalog, settings};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_pg::{wal, worker};
use std::sync::atomic::Ordering;

/// A writing transaction that is open for longer is told.
const LONG_TRANSACTION_S: u64 = 60;

/// Name of a check, OK, WARNING or ERROR, and what is wrong and how to mend it.
type Row = (String, String, String);

fn row(check: &str, severity: &str, detail: impl Into<String>) -> Row {
    (check.into(), severity.into(), detail.into())
}

/// One row per check of the extension's health in this database.
#[pg_extern]
fn health_check() -> TableIterator<'static, (name!(check_name, String), name!(severity, String), name!(detail, String))>
{
    let mut rows = server();
    if worker::in_recovery() {
        rows.push(row(
            "standby",
            "OK",
            "This is a standby: the workers start after promotion, and a lost slot is made anew.",
        ));
    } else if shmem::available() && wal::is_logical() {
        rows.extend(capture());
        rows.extend(slot());
    }
    rows.extend(sources());
    rows.extend(stream_tables());
    TableIterator::new(rows)
}

fn server() -> Vec<Row> {
    let level = match wal::is_logical() {
        true => row("wal_level", "OK", "logical"),
        false => row("wal_level", "ERROR", "Set wal_level = logical in postgresql.conf and restart the server."),
    };
    let preload = match shmem::available() {
        true => row("shared_preload_libraries", "OK", "pg_trickle is preloaded"),
        false => row(
            "shared_preload_libraries",
            "ERROR",
            "Add pg_trickle to shared_preload_libraries and restart the server.",
        ),
    };
    let allowed = pgtrickle_pg::spi::setting(c"output_plugin_libraries")
        .is_none_or(|list| list.split(',').any(|name| name.trim().trim_matches('"') == "pg_trickle"));
    let plugin = match allowed {
        true => row("output_plugin_libraries", "OK", "the output plugin may be used by hand, too"),
        false => row(
            "output_plugin_libraries",
            "WARNING",
            "pg_trickle's own capture works, but slots made by hand with the plugin are refused: add pg_trickle to output_plugin_libraries.",
        ),
    };
    vec![level, preload, plugin]
}

fn capture() -> Vec<Row> {
    let Some(db) = shmem::my_db() else {
        return vec![row(
            "capture",
            "ERROR",
            "No worker serves this database yet. If this stays so, raise max_worker_processes (one for the cluster, three per database) and look into the server log.",
        )];
    };
    let state = match db.capture_state() {
        CaptureState::Running => row("capture", "OK", "running"),
        CaptureState::Starting => row(
            "capture",
            "WARNING",
            "Starting. A new replication slot waits for every transaction that was open when its creation began; see pg_stat_activity.",
        ),
        CaptureState::None => row("capture", "ERROR", "The capture workers are not running; the server log says why."),
        CaptureState::Failing => row(
            "capture",
            "ERROR",
            "The capture workers keep failing; the server log says why. Common causes: no free replication slot (raise max_replication_slots), no free worker (raise max_worker_processes), a full disk.",
        ),
    };
    let scheduler = match db.scheduler_pid.load(Ordering::Relaxed) {
        0 => row(
            "scheduler",
            "ERROR",
            "The scheduler is not running; the launcher restarts it, the server log says why it ended.",
        ),
        _ if !settings::ENABLED.get() => {
            row("scheduler", "WARNING", "Refreshing is turned off: set pg_trickle.enabled = on.")
        }
        _ => row("scheduler", "OK", "running"),
    };
    let pending = db.pending_records.load(Ordering::Relaxed);
    let threshold = settings::PENDING_RECORDS_ALERT_THRESHOLD.get() as u64;
    let pending = match pending > threshold {
        true => row(
            "pending_records",
            "WARNING",
            format!("{pending} captured records wait to be written; the apply worker is behind."),
        ),
        false => row("pending_records", "OK", format!("{pending} waiting")),
    };
    let counted = shmem::stream_tables_counted();
    let counters = match counted < shmem::MAX_STREAM_TABLES {
        true => row("counters", "OK", format!("{counted} of {} places are taken", shmem::MAX_STREAM_TABLES)),
        false => row(
            "counters",
            "WARNING",
            format!(
                "All {counted} places for counters are taken: further stream tables work, but have no metrics. Drop what is not used."
            ),
        ),
    };
    vec![state, scheduler, pending, counters, buffers(db), open_transactions(db)]
}

/// The fullest change buffer, as the last health cycle found it.
fn buffers(db: &DbShared) -> Row {
    let dboid = db.dboid.load(Ordering::Relaxed);
    let mine = shmem::shared().sources.iter().filter(|s| s.dboid.load(Ordering::Relaxed) == dboid);
    let fullest = mine.max_by_key(|s| s.pending_rows.load(Ordering::Relaxed));
    let rows = fullest.map_or(0, |s| s.pending_rows.load(Ordering::Relaxed));
    match fullest.filter(|_| rows > settings::BUFFER_ALERT_THRESHOLD.get() as u64) {
        Some(source) => row(
            "change_buffers",
            "WARNING",
            format!(
                "{rows} changes of {} wait for refreshes. pgtrickle.change_buffer_sizes() tells which stream tables have not read them: refresh, resume or drop those.",
                shmem::load_text(&source.name)
            ),
        ),
        None => row("change_buffers", "OK", format!("at most {rows} changes of a source wait for refreshes")),
    }
}

/// A transaction that has written and stays open keeps its changes, and WAL, waiting.
fn open_transactions(db: &DbShared) -> Row {
    let seconds = db.holdback_us.load(Ordering::Relaxed) / 1_000_000;
    match seconds >= LONG_TRANSACTION_S {
        true => row(
            "open_transactions",
            "WARNING",
            format!(
                "A transaction that has written is open for {seconds} s; its changes show after its commit, and WAL is kept for it. See pg_stat_activity by xact_start; idle_in_transaction_session_timeout ends such sessions."
            ),
        ),
        false => row("open_transactions", "OK", format!("the oldest that has written is open for {seconds} s")),
    }
}

fn slot() -> Vec<Row> {
    let lost: Option<String> = catalog::scalar(
        "SELECT s.wal_status FROM pg_catalog.pg_replication_slots s
           JOIN pg_catalog.pg_database d ON s.slot_name = 'pg_trickle_' || d.oid
          WHERE d.datname = current_database() AND s.wal_status IN ('unreserved', 'lost')",
        &[],
    );
    if let Some(status) = lost {
        let detail = format!(
            "WAL of the slot is {status}: it lags by more than max_slot_wal_keep_size. A lost slot is made anew by itself and stream tables are compared then; raise max_slot_wal_keep_size if it happens again."
        );
        return vec![row("replication_slot", "ERROR", detail)];
    }
    let found: Option<i64> = catalog::scalar(
        "SELECT (pg_catalog.pg_current_wal_lsn() - restart_lsn)::bigint / 1048576 FROM pg_catalog.pg_replication_slots s
           JOIN pg_catalog.pg_database d ON s.slot_name = 'pg_trickle_' || d.oid WHERE d.datname = current_database()",
        &[],
    );
    let (warning, critical) =
        (settings::SLOT_LAG_WARNING_THRESHOLD_MB.get().into(), settings::SLOT_LAG_CRITICAL_THRESHOLD_MB.get().into());
    let advice = "A transaction that stays open, or a capture worker that fails, holds WAL back; set max_slot_wal_keep_size to bound it.";
    vec![match found {
        None => row(
            "replication_slot",
            "ERROR",
            "The slot does not exist or was invalidated; it is made anew by itself, and stream tables are compared then.",
        ),
        Some(mb) if mb >= critical => {
            row("replication_slot", "ERROR", format!("{mb} MB of WAL are retained. {advice}"))
        }
        Some(mb) if mb >= warning => {
            row("replication_slot", "WARNING", format!("{mb} MB of WAL are retained. {advice}"))
        }
        Some(mb) => row("replication_slot", "OK", format!("{mb} MB of WAL are retained")),
    }]
}

fn list(sql: &'static str) -> Vec<Row> {
    Spi::connect(|client| {
        client
            .select(sql, None, &[])
            .unwrap_or_report()
            .map(|r| {
                let text = |i| r.get::<String>(i).unwrap_or_report().unwrap_or_default();
                (text(1), text(2), text(3))
            })
            .collect()
    })
}

fn sources() -> Vec<Row> {
    list(
        "SELECT 'source ' || t.source_relid::regclass::text,
                CASE WHEN t.state <> 'ACTIVE' OR c.relreplident <> 'f' AND c.relkind = 'r' THEN 'ERROR' ELSE 'OK' END,
                CASE WHEN t.state <> 'ACTIVE' THEN 'Capture stopped: ' || coalesce(t.detail, '')
                          || '. Its stream tables are recomputed at each refresh until pgtrickle.repair_stream_table().'
                     WHEN c.relreplident <> 'f' AND c.relkind = 'r'
                     THEN 'Old rows are missing from the WAL: ALTER TABLE ' || t.source_relid::regclass::text || ' REPLICA IDENTITY FULL.'
                     ELSE 'captured' END
           FROM pgtrickle.pgt_change_tracking t JOIN pg_catalog.pg_class c ON c.oid = t.source_relid ORDER BY 1",
    )
}

fn stream_tables() -> Vec<Row> {
    list(
        "SELECT 'stream table ' || pgt_relid::text,
                CASE WHEN status IN ('SUSPENDED', 'ERROR') OR home_relid <> pgt_relid THEN 'ERROR'
                     WHEN status <> 'ACTIVE' OR needs_reinit OR frontier IS NULL OR degraded THEN 'WARNING' ELSE 'OK' END,
                CASE CASE WHEN home_relid <> pgt_relid THEN 'RESTORED' ELSE status END
                            WHEN 'RESTORED' THEN 'Restored from a dump and not followed yet: SELECT pgtrickle.repair_stream_table('
                                                  || quote_literal(pgt_relid::text) || ')'
                            WHEN 'SUSPENDED' THEN 'Suspended after ' || consecutive_errors || ' failures; mend the cause, then pgtrickle.resume_stream_table(). Last: '
                                                  || coalesce(last_error_message, '')
                            WHEN 'ERROR' THEN 'Failing, tried again with growing pauses. Last: ' || coalesce(last_error_message, '')
                            WHEN 'PAUSED' THEN 'Paused; pgtrickle.resume_stream_table() goes on.'
                            ELSE CASE WHEN needs_reinit OR frontier IS NULL THEN 'Recomputed at its next refresh.'
                                      WHEN degraded THEN 'Recomputed at each refresh, as capture of a source has stopped; pgtrickle.repair_stream_table() starts it again.'
                                      ELSE 'following' END END
           FROM pgtrickle.pgt_stream_tables s
          CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pgtrickle.pgt_dependencies d
                                               JOIN pgtrickle.pgt_change_tracking t USING (source_relid)
                                              WHERE d.pgt_id = s.pgt_id AND t.state <> 'ACTIVE') AS degraded) AS capture
          ORDER BY 1",
    )
}
