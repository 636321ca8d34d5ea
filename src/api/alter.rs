//! `alter_stream_table`: every argument that is NULL leaves its property as it is.

use super::capture::confirm;
use super::create::{check_mode, check_rights};
use super::refresh::refresh_now;
use super::{control, cycle, mode, names, replace};
use crate::analyze::{self, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::immediate;
use crate::refresh::{choice, lock_all, ours};
use pgrx::prelude::*;
use pgtrickle_pg::spi::RunAs;
use pgtrickle_pg::xact;

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
        None => mode.iter().try_for_each(|mode| mode::change(st, mode))?,
    }
    if schedule.is_some() {
        lock_all(&[st.pgt_id]);
        catalog::execute(
            "UPDATE pgtrickle.pgt_stream_tables SET schedule = $2 WHERE pgt_id = $1",
            &[st.pgt_id.into(), schedule.into()],
        );
    }
    catalog::changed();
    // Read back in any case: a row that cannot be read is in everybody's way.
    let now = catalog::by_id(st.pgt_id).unwrap_or_else(|| st.clone());
    status.map_or(Ok(()), |status| control::set(&now, &status))
}

/// Gives a stream table another query, and the rows of that.
fn alter_query(st: &StreamTable, query: &str, mode: &str) -> Result<()> {
    ours::must_rest()?;
    // Analysing locks the sources, which would keep the tracker out; so it is done and undone first.
    let analysis = xact::undone(|| analyze::analyze(Input::Text(query)))?;
    check_mode(mode, &analysis)?;
    {
        let _owner = RunAs::restricted(st.owner);
        check_rights(query);
    }
    cycle::refuse(st, &analysis)?;
    let ready = mode::prepare(st, mode, &analysis)?;
    lock_all(&[st.pgt_id]);
    // Read only now: the refresh that held the lock before us has changed the row.
    let st = &catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
    choice::forget(st);
    let draft = replace::draft(st, query, mode)?;
    confirm(&analysis, mode, &draft.analysis)?;
    if draft.same_columns()? {
        replace::in_place(st, &draft)?;
        let now = catalog::by_id(st.pgt_id).filter(|now| now.is_populated);
        if let Some(now) = now {
            refresh_now(&now, |_, _| ())?;
            mode::settle(&now, ready);
        }
    } else {
        replace::beside(st, &draft, ready)?;
        mode::refresh_immediate_readers(st)?;
    }
    if (st.refresh_mode == immediate::MODE) != (mode == immediate::MODE) { mode::tell_readers(st) } else { Ok(()) }
}
