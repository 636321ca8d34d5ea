//! What the scheduler writes besides refreshes: failures, the slot's figures, the end of capture and of old history.

use super::track;
use crate::catalog::{self, Frontier, StreamTable};
use crate::error::{policy, sqlstate};
use crate::refresh::sources;
use crate::settings;
use crate::shmem::{self, DbShared, Status};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, Literal, QualifiedName};
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::xact::{self, Failure};
use pgtrickle_pg::{lock, worker};
use std::sync::atomic::Ordering;

const READ_ON: &str = "last_error_message in pgtrickle.pg_stat_stream_tables says more.";

/// Notes a failed refresh, and suspends the stream table when it has failed too often in a row.
pub fn record_failure(st: &StreamTable, failure: &Failure) {
    let corrupt = failure.code == PgSqlErrorCode::ERRCODE_DATA_CORRUPTED;
    let policy = policy(failure.code);
    let mut message = failure.message.clone();
    // What PostgreSQL advises does not say what becomes of the refresh.
    for more in [failure.detail.as_deref(), failure.hint.as_deref(), policy.hint].into_iter().flatten() {
        message.push_str(". ");
        message.push_str(more.trim_end_matches('.'));
    }
    let errors = catalog::write_scalar::<i32>(
        "UPDATE pgtrickle.pgt_stream_tables
            SET consecutive_errors = consecutive_errors + $5, last_error_message = $2, last_error_at = now(),
                needs_reinit = needs_reinit OR $3,
                -- Who has paused it meanwhile wants it paused.
                status = CASE WHEN status = 'PAUSED' THEN status
                              WHEN consecutive_errors + $5 >= $4 THEN 'SUSPENDED' ELSE 'ERROR' END
          WHERE pgt_id = $1 RETURNING consecutive_errors",
        &[
            st.pgt_id.into(),
            message.clone().into(),
            policy.recompute.into(),
            settings::MAX_CONSECUTIVE_ERRORS.get().into(),
            i32::from(!policy.passes).into(),
        ],
    )
    .unwrap_or_default();
    catalog::execute(
        "INSERT INTO pgtrickle.pgt_refresh_history (pgt_id, start_time, end_time, action, status, initiated_by, error_message)
         VALUES ($1, now(), clock_timestamp(), 'SKIP', 'FAILED', 'SCHEDULER', $2)",
        &[st.pgt_id.into(), message.clone().into()],
    );
    let suspended = errors >= settings::MAX_CONSECUTIVE_ERRORS.get();
    // Anybody may listen, so what the error says of values is not told.
    let told = format!("SQLSTATE {}. {}", sqlstate(failure.code as i32), policy.hint.unwrap_or(READ_ON));
    alert(if suspended { "auto_suspended" } else { "refresh_failed" }, Some(st), &told);
    if corrupt {
        catalog::doubt(st);
        alert("reinitialize_needed", Some(st), &told);
    }
    if let Some(counters) = st.counters() {
        counters.failures.fetch_add(1, Ordering::Relaxed);
        counters.consecutive_errors.store(errors.max(0) as u64, Ordering::Relaxed);
        counters.set_status(if suspended { Status::Suspended } else { Status::Error });
        counters.note_error(failure.code as i32, &message, worker::now_us());
    }
    catalog::changed();
}

/// Sends an event on the channel `pg_trickle_alert`. Its payload is less than 8000 bytes whatever the message is made of:
/// JSON writes some characters with six.
pub fn alert(event: &str, st: Option<&StreamTable>, message: &str) {
    catalog::scalar::<String>(
        "SELECT pg_catalog.pg_notify('pg_trickle_alert', pg_catalog.json_strip_nulls(pg_catalog.json_build_object(
             'event', $1, 'schema', $2, 'name', $3, 'message', nullif(pg_catalog.left($4, 1000), '')))::text)::text",
        &[event.into(), st.map(|s| s.schema.clone()).into(), st.map(|s| s.name.clone()).into(), message.into()],
    );
}

/// Looks after capture and history, every few seconds.
pub fn keep_house(db: &DbShared) {
    read_slot(db);
    if shmem::shared().origins_dirty.swap(false, Ordering::SeqCst) {
        drop_lost_origins();
    }
    // One at a time, and never in the way of others: a buffer that is in use (by a creation, say) is left for later.
    let free = |relid: &&pg_sys::Oid| {
        sources::buffer_of(relid.to_u32())
            .is_none_or(|b| std::iter::once(&b.relid).chain(&b.segments).all(|&part| lock::try_access_exclusive(part)))
    };
    // Whoever had it until now may have committed a reader meanwhile.
    if let Some(relid) = captured_for_nobody().iter().find(free).filter(|relid| captured_for_nobody().contains(relid)) {
        catalog::scalar::<String>("SELECT pg_catalog.set_config('lock_timeout', '500ms', true)", &[]);
        track::untrack(relid.to_u32());
    }
    crate::immediate::triggers::remove_unused();
    catalog::execute(
        "DELETE FROM pgtrickle.pgt_refresh_history
          WHERE start_time < now() - pg_catalog.make_interval(days => $1)
            AND refresh_id < (SELECT min(refresh_id) + 10000 FROM pgtrickle.pgt_refresh_history)",
        &[settings::HISTORY_RETENTION_DAYS.get().into()],
    );
}

/// The captured tables that no stream table reads.
fn captured_for_nobody() -> Vec<pg_sys::Oid> {
    // A creation in progress has not committed its dependency yet.
    const UNUSED: &str = "
        SELECT array(SELECT t.source_relid::oid FROM pgtrickle.pgt_change_tracking t
                      WHERE t.tracked_at < now() - interval '10 s'
                        AND NOT EXISTS (SELECT FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
                                         WHERE d.source_relid = t.source_relid AND s.refresh_mode <> 'IMMEDIATE'))";
    Snapshot::latest().active(|| catalog::scalar(UNUSED, &[])).unwrap_or_default()
}

fn read_slot(db: &DbShared) {
    let retained = catalog::scalar::<i64>(
        "SELECT coalesce((pg_catalog.pg_current_wal_lsn() - restart_lsn)::bigint, 0) * CASE WHEN active THEN 1 ELSE -1 END
           FROM pg_catalog.pg_replication_slots
          WHERE slot_name = 'pg_trickle_' || $1::text",
        &[i64::from(db.dboid.load(Ordering::Relaxed)).into()],
    );
    // Only what writes holds a frontier back: the changes of a transaction that is still open, or prepared.
    let holdback = catalog::scalar::<f64>(
        "SELECT extract(epoch FROM pg_catalog.clock_timestamp() - least(
                    (SELECT min(xact_start) FROM pg_catalog.pg_stat_activity
                      WHERE datname = current_database() AND backend_xid IS NOT NULL
                        AND backend_type IN ('client backend', 'logical replication worker')),
                    (SELECT min(prepared) FROM pg_catalog.pg_prepared_xacts WHERE database = current_database())))::float8",
        &[],
    );
    db.holdback_us.store((holdback.unwrap_or(0.0).max(0.0) * 1e6) as u64, Ordering::Relaxed);
    db.slot_active.store(retained.is_some_and(|r| r >= 0), Ordering::Relaxed);
    db.slot_retained_bytes.store(retained.unwrap_or(0).unsigned_abs(), Ordering::Relaxed);
}

/// Drops the slot and the origin of a database that has lost the extension.
pub fn drop_capture(dboid: u32) {
    let name = format!("pg_trickle_{dboid}");
    Spi::connect(|client| {
        let run = |sql| client.select(sql, None, &[name.as_str().into()]).map(drop).unwrap_or_report();
        run(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
        );
        run(
            "SELECT pg_catalog.pg_replication_origin_drop(roname) FROM pg_catalog.pg_replication_origin WHERE roname = $1",
        );
    });
}

/// Drops the origins of databases that are gone.
pub fn drop_lost_origins() {
    const DROP: &str = "SELECT pg_catalog.pg_replication_origin_drop(roname) FROM pg_catalog.pg_replication_origin
         WHERE roname ~ '^pg_trickle_[0-9]+$'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE oid::text = pg_catalog.substr(roname, 12))";
    Spi::connect(|client| client.select(DROP, None, &[]).map(drop).unwrap_or_report());
}

/// Whether the buffer of a source has rows that are not visible in a frontier. A parent's rows that the refresh itself
/// wrote are part of it.
pub fn has_rows_beyond(source: u32, from_parent: bool, frontier: &Frontier) -> bool {
    if sources::buffer_of(source).is_none() {
        return false;
    }
    let buffer =
        QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(format!("changes_{source}")) };
    let query = sql!(
        "SELECT FROM {} WHERE xid <> {}::xid8 AND NOT pg_catalog.pg_visible_in_snapshot(xid, {}::pg_snapshot) LIMIT 1",
        buffer,
        Literal::text(if from_parent { frontier.xid } else { 0 }.to_string()),
        Literal::text(frontier.visible.to_string())
    );
    let look = || {
        let _owner = catalog::as_owner();
        Snapshot::latest()
            .active(|| Spi::connect(|client| client.select(query.as_str(), Some(1), &[]).map(|rows| !rows.is_empty())))
            .unwrap_or_report()
    };
    // A lock that were kept until the caller's transaction ends would keep the segments from being emptied.
    xact::undone(look)
}
