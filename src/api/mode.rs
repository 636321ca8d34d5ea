//! Another refresh mode for a stream table that exists. Between IMMEDIATE and the others it changes who tells of what its
//! sources do: their writers, or capture.

use super::capture::{Ready, confirm, hold_buffers, start_capture};
use super::create::check_mode;
use super::refresh::refresh_now;
use crate::analyze::{self, Analysis, Capture, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use crate::immediate::{self, MODE};
use crate::refresh::{lock_all, program};
use pgrx::PgSqlErrorCode as Code;
use pgtrickle_pg::{lock, xact};

/// Gives a stream table this mode.
pub fn change(st: &StreamTable, mode: &str) -> Result<()> {
    let view = program::view_oid(st.pgt_id)?;
    let analysis = xact::undone(|| analyze::analyze(Input::View(view.into())))?;
    check_mode(mode, &analysis)?;
    let crosses = st.is_immediate() != (mode == MODE);
    let ready = if crosses { prepare(st, mode, &analysis)? } else { Ready::Yes };
    lock_all(&[st.pgt_id]);
    confirm(&analysis, mode, &analyze::analyze(Input::View(view.into()))?)?;
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET refresh_mode = $2, needs_reinit = needs_reinit OR $3, frontier = CASE WHEN NOT $3 THEN frontier END
          WHERE pgt_id = $1",
        &[st.pgt_id.into(), mode.into(), crosses.into()],
    );
    if !crosses {
        return Ok(());
    }
    tell_readers(st)?;
    let now = catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
    if now.is_populated || now.is_immediate() {
        refresh_now(&now, |_, _| ())?;
        settle(&now, ready);
    }
    Ok(())
}

/// Sees to it that nothing that happens to the sources from now on is missed.
pub fn prepare(st: &StreamTable, mode: &str, analysis: &Analysis) -> Result<Ready> {
    if mode == MODE {
        return immediate::follow(analysis).map(|()| Ready::Yes);
    }
    super::require_server()?;
    refuse_immediate_readers(st)?;
    let ready = start_capture(analysis)?;
    if ready == Ready::Yes {
        // Whoever was writing before capture began may have left no old rows in the WAL.
        let captured = analysis.sources.iter().filter(|s| s.capture == Capture::Wal);
        captured.for_each(|s| lock::wait_for_writers(s.relid.to_u32()));
    }
    hold_buffers(analysis).map(|()| ready)
}

/// What capture may have missed is found by the next refresh.
pub fn settle(st: &StreamTable, ready: Ready) {
    if ready == Ready::No && !st.is_immediate() {
        catalog::execute(
            "UPDATE pgtrickle.pgt_stream_tables SET frontier = NULL WHERE pgt_id = $1",
            &[st.pgt_id.into()],
        );
    }
}

fn immediate_readers(st: &StreamTable) -> Vec<StreamTable> {
    catalog::immediate().into_iter().filter(|reader| reader.sources.iter().any(|s| s.relid == st.relid)).collect()
}

/// They need it to be maintained at once, too.
fn refuse_immediate_readers(st: &StreamTable) -> Result<()> {
    match immediate_readers(st).first() {
        None => Ok(()),
        Some(reader) => Err(Error::new(
            Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("stream table {} cannot have another refresh_mode: {} reads it", st.label(), reader.label()),
        )
        .detail("A stream table that is maintained at once can read only such stream tables.")
        .hint(format!("Give {} another refresh_mode first.", reader.label()))),
    }
}

/// Stream tables that read this one compare at their next refresh: its changes have not been told, or come another way from
/// now on.
pub fn tell_readers(st: &StreamTable) -> Result<()> {
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
          WHERE refresh_mode <> 'IMMEDIATE'
            AND pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source_relid = $1)",
        &[pgrx::pg_sys::Oid::from(st.relid).into()],
    );
    Ok(())
}

/// After its rows were exchanged: those that are maintained at once follow now.
pub fn refresh_immediate_readers(st: &StreamTable) -> Result<()> {
    immediate_readers(st).iter().try_for_each(|reader| immediate::refresh(reader, |_| ()))
}
