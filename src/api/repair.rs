//! Making stream tables right again after something from outside went wrong.

use super::capture::{is_stream_table, wait_until_running};
use super::define::insert_dependencies;
use super::refresh::{refresh_now, refreshed_with, with_ancestors};
use super::{guard, track};
use crate::analyze::{self, Analysis, Capture, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::immediate;
use crate::refresh::{lock_all, program, sources};
use crate::workers::tracker;
use pgrx::prelude::*;
use pgtrickle_pg::{depend, lock, snapshot, xact};

/// Recomputes a stream table now and applies only the differences; readers never see it empty.
#[pg_extern]
fn reinitialize_stream_table(name: &str) {
    let st = or_raise(super::to_change(name));
    or_raise(reinitialize(&st));
}

/// Repairs a stream table: captures its sources anew where capture has stopped or their buffers are missing (after a
/// restore, say), makes its state anew and recomputes it.
#[pg_extern]
fn repair_stream_table(name: &str) {
    let st = or_raise(super::to_change(name));
    or_raise(repair(&st));
}

/// The same as [`repair_stream_table`], under its older name.
#[pg_extern]
fn pg_trickle_repair_stream_table(name: &str) {
    repair_stream_table(name);
}

fn reinitialize(st: &StreamTable) -> Result<()> {
    // Before the catalog row is locked, as a refresh does it.
    lock_all(&refreshed_with(st));
    catalog::doubt(st);
    refresh_now(st, |_, _| ())
}

/// Ancestors that were restored with the stream table are repaired with it: it cannot be refreshed without them.
fn repair(st: &StreamTable) -> Result<()> {
    let ids = with_ancestors(st);
    let broken: Vec<StreamTable> = ids
        .iter()
        .filter_map(|&id| catalog::by_id(id))
        .filter(|member| member.restored || member.pgt_id == st.pgt_id)
        .collect();
    // Analysing locks the sources, which would keep the tracker out; so it is undone.
    let analyses = broken
        .iter()
        .map(|member| {
            let view = program::view_oid(member.pgt_id)?;
            Ok(xact::undone(|| analyze::analyze(Input::View(view.into())))?)
        })
        .collect::<Result<Vec<Analysis>>>()?;
    if st.is_immediate() {
        // Their order is that of creation: parents first.
        analyses.iter().try_for_each(immediate::follow)?;
    } else {
        super::require_server()?;
        if let Some(parent) = broken.iter().find(|member| member.is_immediate()) {
            return Err(Error::restored(&parent.label()));
        }
    }
    // Before anything is written: the tracker waits for whoever writes.
    for source in analyses.iter().filter(|_| !st.is_immediate()).flat_map(|analysis| &analysis.sources) {
        if source.capture == Capture::Wal && !is_stream_table(source) {
            recapture(source.relid.to_u32(), &source.columns)?;
        }
    }
    if !st.is_immediate() {
        wait_until_running();
    }
    lock_all(&refreshed_with(st));
    for (member, analysis) in broken.iter().zip(&analyses) {
        record(member, analysis)?;
    }
    catalog::changed();
    if st.is_immediate() {
        return broken.iter().try_for_each(|member| immediate::refresh(member, |_| ()));
    }
    refresh_now(st, |_, _| ())
}

/// Makes the catalog say what is the case here: of a restored row only names and definition hold. Nothing is known of the
/// contents, so that they are compared, and the state is made anew.
fn record(st: &StreamTable, analysis: &Analysis) -> Result<()> {
    let view = program::view_oid(st.pgt_id)?;
    depend::release(st.relid, view);
    depend::needs(st.relid, view);
    guard::ensure(st);
    for source in analysis.sources.iter().filter(|s| is_stream_table(s)) {
        track::create_parent_buffer(source.relid.to_u32())?;
    }
    catalog::doubt(st);
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET home_relid = pgt_relid, pgt_schema = $2, pgt_name = $3, program_fingerprint = 0, frontier = NULL,
                consecutive_errors = 0,
                status = CASE WHEN status IN ('SUSPENDED', 'ERROR') THEN 'ACTIVE' ELSE status END
          WHERE pgt_id = $1",
        &[st.pgt_id.into(), st.schema.as_str().into(), st.name.as_str().into()],
    );
    catalog::execute("DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1", &[st.pgt_id.into()]);
    insert_dependencies(st.pgt_id, analysis);
    Ok(())
}

fn recapture(relid: u32, columns: &[i16]) -> Result<()> {
    let columns = if columns.is_empty() { catalog::live_attributes(relid) } else { columns.to_vec() };
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
