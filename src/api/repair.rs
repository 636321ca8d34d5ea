//! Making stream tables right again after something from outside went wrong.

use super::refresh::{refresh_now, with_ancestors};
use super::track;
use crate::catalog::{self, SourceType, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::refresh::{lock_all, sources};
use crate::workers::tracker;
use pgrx::prelude::*;
use pgtrickle_pg::{lock, snapshot};

/// Recomputes a stream table now and applies only the differences; readers never see it empty.
#[pg_extern]
fn reinitialize_stream_table(name: &str) {
    let st = or_raise(catalog::by_name_owned(name));
    or_raise(reinitialize(&st));
}

/// Repairs a stream table: captures its sources anew where capture has stopped or their buffers are missing (after a
/// restore, say), makes its state anew and recomputes it.
#[pg_extern]
fn repair_stream_table(name: &str) {
    let st = or_raise(catalog::by_name_owned(name));
    or_raise(repair(&st));
}

/// The same as [`repair_stream_table`], under its older name.
#[pg_extern]
fn pg_trickle_repair_stream_table(name: &str) {
    repair_stream_table(name);
}

fn reinitialize(st: &StreamTable) -> Result<()> {
    // Before the catalog row is locked, as a refresh does it.
    lock_all(&with_ancestors(st));
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true WHERE pgt_id = $1",
        &[st.pgt_id.into()],
    );
    refresh_now(st, |_, _| ())
}

fn repair(st: &StreamTable) -> Result<()> {
    for source in &st.sources {
        match source.kind {
            SourceType::Table => recapture(st, source.relid)?,
            SourceType::StreamTable => track::create_parent_buffer(source.relid)?,
            SourceType::Other => {}
        }
    }
    lock_all(&with_ancestors(st));
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET program_fingerprint = 0, consecutive_errors = 0,
                status = CASE WHEN status IN ('SUSPENDED', 'ERROR') THEN 'ACTIVE' ELSE status END
          WHERE pgt_id = $1",
        &[st.pgt_id.into()],
    );
    catalog::changed();
    reinitialize(st)
}

fn recapture(st: &StreamTable, relid: u32) -> Result<()> {
    let columns: Vec<i16> = catalog::scalar(
        "SELECT columns_used FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1 AND source_relid = $2",
        &[st.pgt_id.into(), pg_sys::Oid::from(relid).into()],
    )
    .unwrap_or_default();
    let columns = if columns.is_empty() { catalog::live_attributes(relid) } else { columns };
    let tracked = catalog::tracking(&[relid]).pop();
    let whole = tracked.is_some_and(|t| t.degraded.is_none() && columns.iter().all(|c| t.columns.contains(c)));
    if whole && sources::buffer_of(relid).is_some() {
        return Ok(());
    }
    if super::locked_by_us(relid) || snapshot::current_xid().is_some() {
        return Err(Error::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "a stream table whose sources are not captured can be repaired only in a transaction of its own",
        )
        .hint("Call pgtrickle.repair_stream_table() first, outside of a transaction block."));
    }
    tracker::start_capture(relid, &columns)?;
    // Whoever was writing before capture began may have left no old rows in the WAL.
    lock::wait_for_writers(relid);
    Ok(())
}
