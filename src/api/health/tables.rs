//! Sources and stream tables: a row for each of which something is to be said, and one for all others.

use super::{Row, Severity, ok, row};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = unwell("source", "sources", "are captured", SOURCES);
    rows.extend(unwell("stream table", "stream_tables", "are followed", STREAM_TABLES));
    rows
}

/// Those with an error or a warning, and how many are well. The query gives severity, name and what is wrong.
fn unwell(one: &str, all: &str, well: &str, query: &'static str) -> Vec<Row> {
    let (mut rows, mut total) = (Vec::new(), 0);
    Spi::connect(|client| {
        for found in client.select(query, None, &[]).unwrap_or_report() {
            total += 1;
            let text = |i| found.get::<String>(i).unwrap_or_report().unwrap_or_default();
            let severity = match text(1).as_str() {
                "ERROR" => Severity::Error,
                "WARNING" => Severity::Warning,
                _ => continue,
            };
            rows.push(row(severity, format!("{one} {}", text(2)), text(3)));
        }
    });
    rows.push(ok(all, format!("{} of {total} {well}", total - rows.len())));
    rows
}

const SOURCES: &str = "
    SELECT CASE WHEN t.state <> 'ACTIVE' OR blind THEN 'ERROR' END, t.source_relid::text,
           CASE WHEN c.oid IS NULL THEN 'The table no longer exists.'
                WHEN t.state <> 'ACTIVE'
                THEN 'Capture stopped: ' || coalesce(rtrim(t.detail, '.'), 'no reason is known') || '. What reads it is recomputed at each refresh until pgtrickle.repair_stream_table() starts capture again.'
                WHEN blind THEN 'Old rows are missing from the WAL: ALTER TABLE ' || t.source_relid::text || ' REPLICA IDENTITY FULL.' END
      FROM pgtrickle.pgt_change_tracking t
      LEFT JOIN pg_catalog.pg_class c ON c.oid = t.source_relid
     CROSS JOIN LATERAL (SELECT c.relreplident <> 'f' AND c.relkind = 'r') AS identity (blind)
     ORDER BY 2";

const STREAM_TABLES: &str = "
    SELECT CASE WHEN state IN ('RESTORED', 'SUSPENDED', 'ERROR') THEN 'ERROR' WHEN state <> 'ACTIVE' THEN 'WARNING' END, label,
           CASE state
             WHEN 'RESTORED' THEN 'Restored from a dump and not followed yet: SELECT pgtrickle.repair_stream_table(' || quote_literal(label) || ').'
             WHEN 'SUSPENDED' THEN 'Suspended after ' || consecutive_errors || ' failed refreshes in a row. Mend the cause, then SELECT pgtrickle.resume_stream_table('
                                   || quote_literal(label) || '). The last error: ' || coalesce(last_error_message, '')
             WHEN 'ERROR' THEN 'Its refresh fails and is tried again with growing pauses. The last error: ' || coalesce(last_error_message, '')
             WHEN 'PAUSED' THEN 'Paused; its changes are kept meanwhile. SELECT pgtrickle.resume_stream_table(' || quote_literal(label) || ') goes on.'
             WHEN 'WAITS' THEN 'It waits for ' || stopped || ', as it is refreshed only together with all that it reads over several ways (pgtrickle.diamond_groups()), so that it shows one moment.'
             WHEN 'EMPTY' THEN 'Not filled yet: its first refresh does that.'
             WHEN 'RECOMPUTE' THEN 'Its next refresh recomputes it and applies the difference: what is known of it does not fit its sources any more.'
             WHEN 'DEGRADED' THEN 'Recomputed at each refresh, as capture of a source has stopped: SELECT pgtrickle.repair_stream_table('
                                  || quote_literal(label) || ').'
             WHEN 'STALE' THEN 'Its data is ' || round(extract(epoch FROM staleness)) || ' s old, more than schedule ' || quote_literal(schedule)
                               || ' allows. Is refreshing on (rows scheduler, refreshing), do refreshes take long (pgtrickle.st_refresh_stats()), does one wait for a lock (pg_stat_activity), does capture lag (rows capture, pending_records, replication_slot)?'
           END
      FROM (SELECT s.pgt_relid::text AS label, s.consecutive_errors, v.last_error_message, s.schedule, v.staleness, stopped,
                   CASE WHEN s.home_relid <> s.pgt_relid THEN 'RESTORED'
                        WHEN s.status IN ('SUSPENDED', 'ERROR', 'PAUSED') THEN s.status
                        WHEN stopped IS NOT NULL THEN 'WAITS'
                        WHEN EXISTS (SELECT FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_change_tracking t USING (source_relid)
                                      WHERE d.pgt_id = s.pgt_id AND s.refresh_mode <> 'IMMEDIATE' AND t.state <> 'ACTIVE') THEN 'DEGRADED'
                        WHEN NOT s.is_populated THEN 'EMPTY'
                        WHEN v.is_stale THEN 'STALE'
                        WHEN s.needs_reinit OR s.frontier IS NULL THEN 'RECOMPUTE'
                        ELSE 'ACTIVE' END AS state
              FROM pgtrickle.pgt_stream_tables s
              LEFT JOIN pgtrickle.pg_stat_stream_tables v USING (pgt_id)
              LEFT JOIN (SELECT d.tip, string_agg(DISTINCT m.pgt_relid::text, ', ') AS stopped
                           FROM pgtrickle._diamonds() d JOIN pgtrickle.pgt_stream_tables m ON m.pgt_relid = ANY (d.members)
                          WHERE m.pgt_relid <> d.tip AND (m.status IN ('SUSPENDED', 'ERROR', 'PAUSED') OR m.home_relid <> m.pgt_relid)
                          GROUP BY d.tip) AS w ON w.tip = s.pgt_relid) AS t
     ORDER BY 2";
