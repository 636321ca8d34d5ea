//! What is known of a stream table's past, and how large its state is.

use super::{Cost, State, plain};
use crate::catalog;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::QualifiedName;

/// Tables up to this size are counted, of larger ones PostgreSQL's own number of live rows is told.
const COUNTED_BYTES: i64 = 8 << 20;

/// What each stage has cost under this plan, by its number from 1.
pub(super) fn costs(pgt_id: i64, fingerprint: i64) -> Vec<(i32, Cost)> {
    Spi::connect(|client| {
        client
            .select(
                "SELECT stage, calls, rows_changed, total_ms FROM pgtrickle.pgt_stage_costs
                  WHERE pgt_id = $1 AND program_fingerprint = $2 ORDER BY stage",
                None,
                &[pgt_id.into(), fingerprint.into()],
            )
            .unwrap_or_report()
            .filter_map(|row| {
                let number = |i| row.get::<i64>(i).unwrap_or_report();
                let cost = Cost { calls: number(2)?, rows: number(3)?, ms: row.get(4).unwrap_or_report()? };
                Some((row.get(1).unwrap_or_report()?, cost))
            })
            .collect()
    })
}

/// The size of a state table.
pub(super) fn state(table: &QualifiedName) -> State {
    let text = table.to_string();
    let bytes =
        catalog::scalar::<i64>("SELECT pg_catalog.pg_total_relation_size(to_regclass($1))", &[text.as_str().into()]);
    let bytes = bytes.unwrap_or(0);
    let rows = if bytes <= COUNTED_BYTES {
        let count = sql!("SELECT count(*) FROM {}", table);
        // Read-only: works on a standby, too.
        Spi::connect(|client| client.select(count.as_str(), Some(1), &[])?.first().get_one::<i64>()).unwrap_or_report()
    } else {
        catalog::scalar("SELECT pg_catalog.pg_stat_get_live_tuples(to_regclass($1))", &[text.as_str().into()])
    };
    State { table: plain(table), rows: rows.unwrap_or(0), bytes }
}

/// Why its refreshes fail, if they do.
pub(super) fn last_error(pgt_id: i64) -> Option<String> {
    catalog::scalar(
        "SELECT pg_catalog.format('%s (%s in a row, at %s)', last_error_message, consecutive_errors,
                    to_char(last_error_at, 'YYYY-MM-DD HH24:MI:SS'))
           FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1 AND consecutive_errors > 0",
        &[pgt_id.into()],
    )
}

/// One line per kind of refresh.
pub(super) fn history(pgt_id: i64) -> Vec<String> {
    Spi::connect(|client| {
        client
            .select(
                "SELECT pg_catalog.format('%s %s refresh%s, %s row%s changed; the last took %s ms, at %s',
                            sum(refreshes), action, CASE WHEN sum(refreshes) = 1 THEN '' ELSE 'es' END,
                            sum(delta_row_count), CASE WHEN sum(delta_row_count) = 1 THEN '' ELSE 's' END,
                            round((extract(epoch FROM (pg_catalog.array_agg(duration ORDER BY refresh_id DESC))[1]) * 1000)::numeric, 2),
                            to_char(max(end_time), 'YYYY-MM-DD HH24:MI:SS'))
                   FROM pgtrickle.pgt_refresh_history WHERE pgt_id = $1 AND status = 'COMPLETED'
                  GROUP BY action ORDER BY action",
                None,
                &[pgt_id.into()],
            )
            .unwrap_or_report()
            .filter_map(|row| row.get::<String>(1).unwrap_or_report())
            .collect()
    })
}
