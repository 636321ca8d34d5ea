//! What a refresh leaves behind besides the stream table's rows: changes for its children, the frontier, the history.

use super::program::Loaded;
use super::round::Round;
use super::run::Relations;
use super::sources::buffer_of;
use super::{Action, Initiator, costs};
use crate::catalog::{self, StreamTable};
use pgrx::{IntoDatum, pg_sys};
use pgtrickle_engine::program::Program;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::rows::{Row, Table};
use pgtrickle_pg::snapshot::{Snapshot, assign_xid};
use pgtrickle_pg::spi::Plan;
use pgtrickle_pg::worker;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Differential refreshes of one stream table by the scheduler are told in the history at most this often; a row sums
/// up those since the row before.
const HISTORY_INTERVAL: Duration = Duration::from_secs(1);

/// Refreshes that are not yet in the history.
#[derive(Default)]
struct Untold {
    refreshes: i32,
    rows: i64,
    last_row: Option<Instant>,
}

thread_local! {
    static UNTOLD: RefCell<HashMap<i64, Untold>> = RefCell::default();
    static PLANS: RefCell<HashMap<String, Plan>> = RefCell::default();
}

/// Runs a statement of fixed text with a plan that is kept for the life of the process.
pub fn execute_kept(statement: &str, types: &[pg_sys::Oid], values: &[Option<pg_sys::Datum>]) {
    let plan = PLANS.with_borrow_mut(|plans| plans.remove(statement));
    let plan = plan.unwrap_or_else(|| Plan::prepare(statement, types));
    plan.execute(&Snapshot::latest(), values);
    // Put back only when it worked: after an error the plan is freed with everything else.
    PLANS.with_borrow_mut(|plans| plans.insert(statement.to_owned(), plan));
}

/// Writes the delta of a stream table to its change buffer, if other stream tables read it. Its rows carry this
/// transaction's id, so the same visibility rule as for base tables tells when a child has seen them. Says whether there was
/// anything to write.
pub fn feed_children(st: &StreamTable, loaded: &Loaded, relations: &Relations) -> bool {
    let root = Program::root_delta();
    if relations.rows(&root) == 0 || buffer_of(st.relid).is_none() {
        return false;
    }
    let buffer =
        QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(format!("changes_{}_0", st.relid)) };
    let width = loaded.columns.len();
    let statement = sql!(
        "INSERT INTO {} (xid, lsn, seq, w, {}) SELECT $1::text::xid8, '0/0', 0, w, {} FROM {}",
        buffer,
        Sql::list(loaded.attnums.iter().map(|number| Ident::new(format!("c{number}")))),
        Sql::list((0..width).map(Sql::column)),
        root
    );
    let _owner = catalog::as_owner();
    execute_kept(statement.as_str(), &[pg_sys::TEXTOID], &[assign_xid().to_string().into_datum()]);
    crate::workers::on_commit_note_parent_change(st.relid);
    true
}

const FEED_AGAIN: &str = "
    UPDATE pgtrickle.pgt_stream_tables s
       SET needs_reinit = true
      FROM pgtrickle.pgt_dependencies d
     WHERE d.pgt_id = s.pgt_id AND d.source_relid = $1 AND s.frontier_xid = pg_catalog.pg_current_xact_id()";

/// Readers that this transaction has refreshed before would take what it has written now for what they had seen then.
pub(super) fn feed_again(st: &StreamTable) {
    let _owner = catalog::as_owner();
    execute_kept(FEED_AGAIN, &[pg_sys::OIDOID], &[pg_sys::Oid::from(st.relid).into_datum()]);
}

/// What a refresh changes in the row of its stream table.
const STORED: Table = Table {
    schema: c"pgtrickle",
    name: "pgt_stream_tables",
    columns: &[
        c"effective_refresh_mode",
        c"full_reason",
        c"status",
        c"is_populated",
        c"frontier",
        c"frontier_lsn",
        c"frontier_xid",
        c"generation",
        c"data_timestamp",
        c"last_refresh_at",
        c"program_fingerprint",
        c"consecutive_errors",
        c"needs_reinit",
    ],
};
const STATUS: usize = 2;
const NEEDS_REINIT: usize = 12;

const TELL: &str = "
    INSERT INTO pgtrickle.pgt_refresh_history
           (pgt_id, start_time, end_time, action, status, refreshes, rows_inserted, rows_deleted, delta_row_count,
            barrier_wait, initiated_by)
    VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, 'COMPLETED', $4, $8, $9, $5, pg_catalog.make_interval(secs => $6), $7)";

/// Stores the frontier and, when it is time, tells the history.
pub(super) fn store_frontier(
    st: &StreamTable,
    round: &Round,
    loaded: &Loaded,
    (action, initiator): (Action, Initiator),
    delta_rows: u64,
    begun_at: i64,
    come_and_gone: impl FnOnce() -> (i64, i64),
) {
    let _owner = catalog::as_owner();
    // Asked for, or asked for again, since this stream table was read, it is still to be done.
    let done = if action == Action::Reinitialize { st.row_version } else { 0 };
    let values = |row: &Row<'_>| {
        let mode = if loaded.program.is_differential() { "DIFFERENTIAL" } else { "FULL" };
        let status: String = row.get(STATUS).unwrap_or_default();
        let status = if matches!(status.as_str(), "INITIALIZING" | "ERROR") { "ACTIVE" } else { &status };
        let needs_reinit = row.get(NEEDS_REINIT).unwrap_or(false) && i64::from(row.xmin()) != done;
        vec![
            mode.into_datum(),
            loaded.full_reason.as_deref().into_datum(),
            status.into_datum(),
            true.into_datum(),
            round.visible.to_datum(),
            (round.lsn as i64).into_datum(),
            (assign_xid() as i64).into_datum(),
            round.generation.into_datum(),
            round.snapshot_at.into_datum(),
            worker::now_us().into_datum(),
            loaded.fingerprint.into_datum(),
            0_i32.into_datum(),
            needs_reinit.into_datum(),
        ]
    };
    STORED.replace(&catalog::with_ids(&[st.pgt_id]), values);
    tell_costs(st.pgt_id, loaded.fingerprint);
    if let Some(told) = due_for_history(st.pgt_id, initiator, action, delta_rows) {
        let initiator = if initiator == Initiator::Manual { "MANUAL" } else { "SCHEDULER" };
        let (come, gone) = come_and_gone();
        execute_kept(
            TELL,
            &[
                pg_sys::INT8OID,
                pg_sys::TIMESTAMPTZOID,
                pg_sys::TEXTOID,
                pg_sys::INT4OID,
                pg_sys::INT8OID,
                pg_sys::FLOAT8OID,
                pg_sys::TEXTOID,
                pg_sys::INT8OID,
                pg_sys::INT8OID,
            ],
            &[
                st.pgt_id.into_datum(),
                Some(pg_sys::Datum::from(begun_at)),
                action.name().into_datum(),
                told.refreshes.into_datum(),
                told.rows.into_datum(),
                round.barrier.as_secs_f64().into_datum(),
                initiator.into_datum(),
                come.into_datum(),
                gone.into_datum(),
            ],
        );
    }
}

const TELL_COSTS: &str = "
    INSERT INTO pgtrickle.pgt_stage_costs AS c (pgt_id, stage, program_fingerprint, calls, rows_changed, total_ms)
    SELECT $1, u.stage, $2, u.calls, u.rows, u.ms FROM unnest($3, $4, $5, $6) AS u(stage, calls, rows, ms)
        ON CONFLICT (pgt_id, stage) DO UPDATE
       SET program_fingerprint = excluded.program_fingerprint,
           (calls, rows_changed, total_ms) =
               (SELECT excluded.calls + same * c.calls, excluded.rows_changed + same * c.rows_changed,
                       excluded.total_ms + same * c.total_ms
                  FROM (VALUES ((c.program_fingerprint = excluded.program_fingerprint)::integer)) AS v(same))";

/// Writes down what the stages have cost, when it is time. With another program the sums begin anew.
fn tell_costs(pgt_id: i64, fingerprint: i64) {
    let Some(costs) = costs::due(pgt_id) else { return };
    let stages: Vec<i32> = costs.keys().map(|&stage| stage as i32 + 1).collect();
    let of = |value: fn(&costs::Cost) -> i64| costs.values().map(value).collect::<Vec<i64>>();
    let ms: Vec<f64> = costs.values().map(|cost| cost.time.as_secs_f64() * 1000.0).collect();
    execute_kept(
        TELL_COSTS,
        &[
            pg_sys::INT8OID,
            pg_sys::INT8OID,
            pg_sys::INT4ARRAYOID,
            pg_sys::INT8ARRAYOID,
            pg_sys::INT8ARRAYOID,
            pg_sys::FLOAT8ARRAYOID,
        ],
        &[
            pgt_id.into_datum(),
            fingerprint.into_datum(),
            stages.into_datum(),
            of(|cost| cost.calls).into_datum(),
            of(|cost| cost.rows).into_datum(),
            ms.into_datum(),
        ],
    );
}

fn due_for_history(pgt_id: i64, initiator: Initiator, action: Action, delta_rows: u64) -> Option<Untold> {
    if action == Action::NoData {
        return None;
    }
    if action != Action::Differential {
        return Some(Untold { refreshes: 1, rows: delta_rows as i64, last_row: None });
    }
    UNTOLD.with_borrow_mut(|untold| {
        let entry = untold.entry(pgt_id).or_default();
        entry.refreshes += 1;
        entry.rows += delta_rows as i64;
        let due = initiator == Initiator::Manual || entry.last_row.is_none_or(|at| at.elapsed() >= HISTORY_INTERVAL);
        due.then(|| std::mem::replace(entry, Untold { last_row: Some(Instant::now()), ..Untold::default() }))
    })
}
