//! `alter_stream_table`: every argument that is NULL leaves its property as it is.

use super::capture::{Ready, hold_buffers, start_capture};
use super::create::{check_mode, check_rights};
use super::refresh::refresh_now;
use super::{cycle, names, replace};
use crate::analyze::{self, Analysis, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::refresh::{choice, lock_all, program};
use pgrx::prelude::*;
use pgtrickle_pg::spi::RunAs;
use pgtrickle_pg::{lock, xact};

/// Changes properties of a stream table; NULL leaves one as it is.
///
/// A new `query` is evaluated beside the old contents and takes their place when this transaction commits: readers see
/// the old rows until then, and the relation keeps its OID, grants, comments, and indexes on columns that stay.
/// `status` is ACTIVE or PAUSED.
#[pg_extern]
fn alter_stream_table(
    name: &str,
    query: default!(Option<&str>, "NULL"),
    schedule: default!(Option<&str>, "NULL"),
    refresh_mode: default!(Option<&str>, "NULL"),
    status: default!(Option<&str>, "NULL"),
) {
    let st = or_raise(super::to_change(name));
    or_raise(alter(&st, query, schedule, refresh_mode, status));
}

/// See [`alter_stream_table`].
pub fn alter(
    st: &StreamTable,
    query: Option<&str>,
    schedule: Option<&str>,
    mode: Option<&str>,
    status: Option<&str>,
) -> Result<()> {
    let schedule = schedule.map(|text| names::schedule(Some(text))).transpose()?;
    let mode = mode.map(names::refresh_mode).transpose()?;
    let status = status.map(names::status).transpose()?;
    if st.restored {
        return Err(Error::restored(&st.label()));
    }
    match query.filter(|query| catalog::query_hash(query) != st.query_hash) {
        Some(query) => alter_query(st, query, mode.as_deref().unwrap_or(&st.refresh_mode))?,
        None => {
            if let Some(mode) = &mode {
                let view = program::view_oid(st.pgt_id)?;
                check_mode(mode, &xact::undone(|| analyze::analyze(Input::View(view.into())))?)?;
            }
        }
    }
    lock_all(&[st.pgt_id]);
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET schedule = coalesce($2, schedule), refresh_mode = coalesce($3, refresh_mode), status = coalesce($4, status),
                consecutive_errors = CASE WHEN $4 IS NULL THEN consecutive_errors ELSE 0 END
          WHERE pgt_id = $1",
        &[st.pgt_id.into(), schedule.into(), mode.into(), status.into()],
    );
    catalog::changed();
    Ok(())
}

/// Gives a stream table another query, and the rows of that.
fn alter_query(st: &StreamTable, query: &str, mode: &str) -> Result<()> {
    super::require_server()?;
    // Analysing locks the sources, which would keep the tracker out; so it is done and undone first.
    let analysis = xact::undone(|| analyze::analyze(Input::Text(query)))?;
    check_mode(mode, &analysis)?;
    {
        let _owner = RunAs::restricted(st.owner);
        check_rights(query);
    }
    cycle::refuse(st, &analysis)?;
    let ready = start_capture(&analysis)?;
    wait_for_writers(&analysis, ready);
    hold_buffers(&analysis)?;
    lock_all(&[st.pgt_id]);
    // Read only now: the refresh that held the lock before us has changed the row.
    let st = &catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
    choice::forget(st);
    let draft = replace::draft(st, query, mode)?;
    if draft.same_columns()? {
        replace::in_place(st, &draft)?;
        if catalog::by_id(st.pgt_id).is_some_and(|now| now.is_populated) {
            refresh_now(st, |_, _| ())?;
            if ready == Ready::No {
                forget_frontier(st.pgt_id);
            }
        }
        return Ok(());
    }
    replace::beside(st, &draft, ready)
}

/// Whoever was writing before capture began may have left no old rows in the WAL.
fn wait_for_writers(analysis: &Analysis, ready: Ready) {
    if ready == Ready::Yes {
        analysis.sources.iter().filter(|s| s.capture == analyze::Capture::Wal).for_each(|s| {
            lock::wait_for_writers(s.relid.to_u32());
        });
    }
}

/// What capture may have missed is found by the next refresh.
fn forget_frontier(pgt_id: i64) {
    catalog::execute("UPDATE pgtrickle.pgt_stream_tables SET frontier = NULL WHERE pgt_id = $1", &[pgt_id.into()]);
}
