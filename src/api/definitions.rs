//! What the event triggers of `sql/definitions.sql` cannot ask in SQL.

use super::capture::is_stream_table;
use super::define::insert_dependencies;
use super::track;
use crate::analyze::{self, Capture, Input};
use crate::catalog;
use crate::error::or_raise;
use crate::refresh::program;
use pgrx::prelude::*;
use std::cell::Cell;
use std::collections::BTreeSet;

/// What a table inherited from before the current command dropped it.
#[pg_extern(name = "_parents_before_drop")]
fn parents_before_drop(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    pgtrickle_pg::inherit::parents_before_drop(relid.to_u32()).into_iter().map(pg_sys::Oid::from).collect()
}

thread_local! {
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// While sources are looked for, what is altered to capture them does not ask for it again.
struct Looking;

impl Looking {
    fn begin() -> Option<Looking> {
        (!LOOKING.replace(true)).then(|| Looking)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.set(false);
    }
}

/// Looks for the sources of a stream table anew, when an inheritance child or a partition has come or gone. Those that are
/// new are captured from the commit of this transaction, which is also what asks for the recomputation.
#[pg_extern(name = "_sources_changed")]
fn sources_changed(pgt_id: i64) {
    let Some(_looking) = Looking::begin() else { return };
    let Some(st) = catalog::by_id(pgt_id).filter(|st| !st.restored) else { return };
    // Without its view it is being dropped, or the extension is.
    let Ok(view) = program::view_oid(pgt_id) else { return };
    // What is wrong with the query is the next refresh's to say.
    let Ok(analysis) = analyze::analyze(Input::View(view.into())) else { return };
    let before: BTreeSet<u32> = st.sources.iter().map(|s| s.relid).collect();
    let now: BTreeSet<u32> = analysis.sources.iter().map(|s| s.relid.to_u32()).collect();
    if before == now {
        return;
    }
    catalog::execute("DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1", &[pgt_id.into()]);
    insert_dependencies(pgt_id, &analysis);
    for source in analysis.sources.iter().filter(|s| s.capture == Capture::Wal && !is_stream_table(s)) {
        let relid = source.relid.to_u32();
        let all = || catalog::live_attributes(relid);
        let columns = if source.columns.is_empty() { all() } else { source.columns.clone() };
        let known = catalog::tracking(&[relid]).pop();
        if !known.is_some_and(|t| columns.iter().all(|c| t.columns.contains(c))) {
            or_raise(track::track(relid, &columns));
        }
    }
    catalog::execute("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true WHERE pgt_id = $1", &[pgt_id.into()]);
    catalog::changed();
}

/// Has stream tables recomputed that read columns of an enum type, whose labels may have been renamed: their text may be
/// in the results.
#[pg_extern(name = "_enum_changed")]
fn enum_changed(enum_type: pg_sys::Oid) {
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
          WHERE pgt_id IN (SELECT d.pgt_id
                             FROM pgtrickle.pgt_dependencies d
                             JOIN pg_catalog.pg_attribute a ON a.attrelid = d.source_relid
                             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                            WHERE $1 IN (t.oid, t.typelem, t.typbasetype))",
        &[enum_type.into()],
    );
    catalog::changed();
}
