//! The workers of this database, the replication slot, and what they share.

use super::{Row, error, ok, warning};
use crate::shmem::{self, CaptureState, DbShared, MAX_DATABASES, MAX_SOURCES, MAX_STREAM_TABLES};
use crate::{catalog, settings};
use pgtrickle_pg::worker;
use std::sync::atomic::Ordering::Relaxed;

/// A writing transaction that is open for longer is told.
const LONG_TRANSACTION_S: u64 = 60;
/// A change buffer of more bytes is told, however few its rows.
const LARGE_BUFFER_BYTES: u64 = 1 << 30;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = match shmem::my_db() {
        None => vec![unserved()],
        Some(db) => vec![
            state(db.capture_state()),
            scheduler(db),
            workers(db),
            pending(db),
            buffers(db),
            open_transactions(db),
            refreshing(db),
        ],
    };
    rows.extend([places(), slot()]);
    rows
}

fn unserved() -> Row {
    if shmem::is_full() {
        let detail = format!(
            "All {MAX_DATABASES} places for databases are taken, so that nothing serves this one: drop the extension where it is not used."
        );
        return error("capture", detail);
    }
    error(
        "capture",
        "No worker serves this database yet. If this stays so, raise max_worker_processes and restart the server (preflight() counts what is needed), and look into the server log.",
    )
}

fn state(state: CaptureState) -> Row {
    match state {
        CaptureState::Running => ok("capture", "running"),
        CaptureState::Starting => warning(
            "capture",
            "Starting. A new replication slot waits for every transaction that was open when its creation began; see pg_stat_activity and pg_prepared_xacts.",
        ),
        CaptureState::None => error("capture", "The capture workers are not running; the server log says why."),
        CaptureState::Failing => error(
            "capture",
            "The capture workers keep failing; the server log says why. Common causes: no free replication slot (raise max_replication_slots), no free worker (raise max_worker_processes), a full disk.",
        ),
    }
}

fn scheduler(db: &DbShared) -> Row {
    match db.scheduler_pid.load(Relaxed) {
        0 => error(
            "scheduler",
            "The scheduler is not running: no stream table is refreshed by itself. The launcher starts it again; the server log says why it ended.",
        ),
        _ => ok("scheduler", "running"),
    }
}

fn workers(db: &DbShared) -> Row {
    match db.workers_short.load(Relaxed) {
        true => error(
            "workers",
            "No background worker was free for this database when one was to be started: raise max_worker_processes and restart the server; preflight() counts what is needed. It is tried again every 30 s.",
        ),
        false if shmem::shared().pools_rest_until.load(Relaxed) > worker::now_us() => warning(
            "workers",
            "Background workers are short: the pools have made room for capture and creations, and refreshes run one after the other meanwhile. Raise max_worker_processes and restart the server; preflight() counts what is needed.",
        ),
        false => ok("workers", "all that are needed were started"),
    }
}

/// Whether anything is refreshed by itself at all.
fn refreshing(db: &DbShared) -> Row {
    if !settings::ENABLED.get() {
        return warning(
            "refreshing",
            "Turned off: nothing is refreshed by itself. Set pg_trickle.enabled = on and reload.",
        );
    }
    match db.draining.load(Relaxed) {
        true => warning("refreshing", "Drained: nothing is refreshed by itself until pgtrickle.resume_all()."),
        false => ok("refreshing", "on"),
    }
}

fn pending(db: &DbShared) -> Row {
    let pending = db.pending_records.load(Relaxed);
    match pending > settings::PENDING_RECORDS_ALERT_THRESHOLD.get() as u64 {
        true => warning(
            "pending_records",
            format!(
                "{pending} captured records wait to be written: the apply worker is behind. Is the disk slow, or a change buffer locked (pg_locks)? Nothing is lost: capture waits."
            ),
        ),
        false => ok("pending_records", format!("{pending} waiting")),
    }
}

/// What there is a fixed number of places for.
fn places() -> Row {
    let (tables, sources) = (shmem::stream_tables_counted(), shmem::sources_measured());
    let databases = shmem::shared().databases.iter().filter(|db| db.dboid.load(Relaxed) != 0).count();
    let count = format!(
        "{tables} of {MAX_STREAM_TABLES} stream tables, {sources} of {MAX_SOURCES} sources, {databases} of {MAX_DATABASES} databases"
    );
    let mut full = Vec::new();
    if tables >= MAX_STREAM_TABLES {
        full.push("Further stream tables work, but have no metrics.");
    }
    if sources >= MAX_SOURCES {
        full.push("Change buffers of further sources are not measured.");
    }
    if databases >= MAX_DATABASES {
        full.push("Further databases are not served.");
    }
    match full.is_empty() {
        true => ok("shared_memory", format!("places in use: {count}")),
        false => {
            warning("shared_memory", format!("No place is left ({count}). {} Drop what is not used.", full.join(" ")))
        }
    }
}

/// The fullest change buffer, as the last health cycle found it.
fn buffers(db: &DbShared) -> Row {
    let dboid = db.dboid.load(Relaxed);
    let mine = shmem::shared().sources.iter().filter(|s| s.dboid.load(Relaxed) == dboid);
    let buffers = mine.map(|s| (s.pending_rows.load(Relaxed), s.buffer_bytes.load(Relaxed), shmem::load_text(&s.name)));
    fullest(buffers, settings::BUFFER_ALERT_THRESHOLD.get() as u64)
}

/// Of buffers with so many rows and bytes, of sources of these names.
fn fullest(buffers: impl Iterator<Item = (u64, u64, String)>, many_rows: u64) -> Row {
    let too_full = |&(rows, bytes, _): &(u64, u64, String)| rows > many_rows || bytes > LARGE_BUFFER_BYTES;
    let Some(fullest) = buffers.max_by_key(|buffer| (too_full(buffer), buffer.0, buffer.1)) else {
        return ok("change_buffers", "there are none");
    };
    let (rows, bytes, name) = &fullest;
    if !too_full(&fullest) {
        return ok("change_buffers", format!("at most {rows} changes of a source wait for refreshes"));
    }
    let detail = format!(
        "{rows} changes of {name} wait for refreshes ({} MB). pgtrickle.change_buffer_sizes() tells which stream tables have not read them: refresh, resume or drop those.",
        bytes >> 20
    );
    warning("change_buffers", detail)
}

/// A transaction that has written and stays open keeps its changes, and WAL, waiting.
fn open_transactions(db: &DbShared) -> Row {
    let seconds = db.holdback_us.load(Relaxed) / 1_000_000;
    if seconds < LONG_TRANSACTION_S {
        return ok("open_transactions", format!("the oldest that has written is open for {seconds} s"));
    }
    let oldest: Option<String> = catalog::scalar(
        "SELECT who FROM (
             SELECT xact_start, 'process ' || pid || coalesce(' (' || nullif(application_name, '') || ')', '')
                    || ', pg_terminate_backend(' || pid || ') ends it'
               FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL
              UNION ALL
             SELECT prepared, 'prepared transaction, COMMIT PREPARED ' || quote_literal(gid) || ' or ROLLBACK PREPARED ends it'
               FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()) AS w (since, who)
          ORDER BY since LIMIT 1",
        &[],
    );
    let who = oldest.map(|who| format!(" It is {who}.")).unwrap_or_default();
    let detail = format!(
        "A transaction that has written is open for {seconds} s; its changes show after its commit, and WAL is kept for it.{who} idle_in_transaction_session_timeout prevents forgotten sessions."
    );
    warning("open_transactions", detail)
}

fn slot() -> Row {
    let check = "replication_slot";
    let slot: Option<String> = catalog::scalar(
        "SELECT CASE WHEN s.wal_status IN ('unreserved', 'lost') THEN s.wal_status
                     ELSE (pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn) / 1048576)::bigint::text END
           FROM pg_catalog.pg_replication_slots s JOIN pg_catalog.pg_database d ON s.slot_name = 'pg_trickle_' || d.oid
          WHERE d.datname = current_database()",
        &[],
    );
    let Some(slot) = slot else {
        return error(
            check,
            "The slot does not exist or was invalidated; it is made anew by itself, and stream tables are compared then. If that does not happen: raise max_replication_slots.",
        );
    };
    let Ok(mb) = slot.parse::<i64>() else {
        let detail = format!(
            "WAL of the slot is {slot}: it lags by more than max_slot_wal_keep_size. A lost slot is made anew by itself and stream tables are compared then; raise max_slot_wal_keep_size if it happens again."
        );
        return error(check, detail);
    };
    let retained = format!("{mb} MB of WAL are retained");
    let advice = "A transaction that stays open (row open_transactions) or a capture worker that fails (row capture) holds WAL back; set max_slot_wal_keep_size to bound it.";
    match mb {
        _ if mb >= settings::SLOT_LAG_CRITICAL_THRESHOLD_MB.get().into() => {
            error(check, format!("{retained}. {advice}"))
        }
        _ if mb >= settings::SLOT_LAG_WARNING_THRESHOLD_MB.get().into() => {
            warning(check, format!("{retained}. {advice}"))
        }
        _ => ok(check, retained),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_too_full_by_its_rows_or_by_its_bytes() {
        let of = |buffers: &[(u64, u64, &str)]| {
            let row = fullest(buffers.iter().map(|&(rows, bytes, name)| (rows, bytes, name.to_owned())), 1000);
            (row.severity.name(), row.detail.chars().take_while(|&c| c != '.').collect::<String>())
        };
        assert_eq!(of(&[]), ("OK", "there are none".into()));
        let well = "at most 1000 changes of a source wait for refreshes";
        assert_eq!(of(&[(7, 1 << 30, "a"), (1000, 5, "b")]), ("OK", well.into()));
        let wide = "7 changes of a wait for refreshes (1024 MB)";
        assert_eq!(of(&[(7, (1 << 30) + 1, "a"), (1000, 5, "b")]), ("WARNING", wide.into()));
        let many = "1001 changes of b wait for refreshes (0 MB)";
        assert_eq!(of(&[(7, 1 << 30, "a"), (1001, 5, "b")]), ("WARNING", many.into()));
    }
}
