//! What the event triggers of `sql/definitions.sql` cannot ask in SQL.

use super::capture::{is_stream_table, tracker_can};
use super::define::insert_dependencies;
use super::track;
use crate::analyze::{self, Capture, Input, Source};
use crate::catalog::{self, SourceType};
use crate::error::or_raise;
use crate::immediate;
use crate::refresh::{fill, program};
use crate::workers::tracker;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_pg::{depend, lock};
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

/// Looks for the sources of a stream table anew, when an inheritance child or a partition has come or gone, row security is
/// switched on or off, or a view means something else (`redefined`). Those that are new are captured from the commit of this transaction, which is also what
/// asks for the recomputation.
#[pg_extern(name = "_sources_changed")]
fn sources_changed(pgt_id: i64, redefined: bool) {
    look_for_sources(pgt_id, redefined);
}

/// As above, for the refresh of a stream table that reads others than is recorded: its creation had not committed yet when a
/// definition gave it another source.
pub fn look_for_missed(st: &catalog::StreamTable) {
    let _owner = catalog::as_owner();
    look_for_sources(st.pgt_id, false);
}

fn look_for_sources(pgt_id: i64, redefined: bool) {
    let Some(_looking) = Looking::begin() else { return };
    let Some(st) = catalog::by_id(pgt_id).filter(|st| !st.restored) else { return };
    // Without its view it is being dropped, or the extension is.
    let Ok(view) = program::view_oid(pgt_id) else { return };
    let before: BTreeSet<u32> = st.sources.iter().map(|s| s.relid).collect();
    let silent_before: BTreeSet<u32> =
        st.sources.iter().filter(|s| s.kind == SourceType::Other).map(|s| s.relid).collect();
    // What is wrong with the query is the next refresh's to say.
    let Ok(analysis) = analyze::analyze(Input::View(view.into())) else { return recompute(pgt_id, &before) };
    let now: BTreeSet<u32> = analysis.sources.iter().map(|s| s.relid.to_u32()).collect();
    let silent: BTreeSet<u32> = analysis.sources.iter().filter(|s| is_silent(s)).map(|s| s.relid.to_u32()).collect();
    if st.is_immediate() {
        or_raise(immediate::feasible::check(&analysis).map_err(|error| error.naming(&st.label())));
    }
    // Expressions of virtual columns, for one, are part of what it means.
    let means_the_same = || st.frontier.is_none() || program::load(&st).is_ok_and(|l| l.fingerprint == st.fingerprint);
    if before == now
        && silent_before == silent
        && analysis.restless == st.time_dependent
        && !redefined
        && means_the_same()
    {
        return;
    }
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET time_dependent = $2 WHERE pgt_id = $1",
        &[pgt_id.into(), analysis.restless.into()],
    );
    catalog::execute("DELETE FROM pgtrickle.pgt_dependencies WHERE pgt_id = $1", &[pgt_id.into()]);
    insert_dependencies(pgt_id, &analysis);
    if st.is_immediate() {
        or_raise(immediate::follow(&analysis));
        recompute(pgt_id, &before.union(&now).copied().collect());
        return or_raise(immediate::refresh(&st, |_| ()));
    }
    for source in &analysis.sources {
        capture(source);
    }
    recompute(pgt_id, &before.union(&now).copied().collect());
}

/// Whether nobody tells what happens to a source.
fn is_silent(source: &Source) -> bool {
    source.capture != Capture::Wal && !is_stream_table(source)
}

/// Sees to it that what a stream table reads is captured from the commit of this transaction on.
fn capture(source: &Source) {
    let relid = source.relid.to_u32();
    if is_stream_table(source) {
        return or_raise(track::create_parent_buffer(relid));
    }
    if source.capture != Capture::Wal {
        return;
    }
    let all = || catalog::live_attributes(relid);
    let columns = if source.columns.is_empty() { all() } else { source.columns.clone() };
    let known = catalog::tracking(&[relid]).pop();
    if known.is_some_and(|t| columns.iter().all(|c| t.columns.contains(c))) {
        return;
    }
    // Who has written already would be captured without the new columns, and must have ended.
    if tracker_can(relid) && tracker::start_capture(relid, &columns).is_ok() {
        lock::wait_for_writers(relid);
    } else {
        fill::ddl(&sql!("LOCK TABLE {} IN SHARE MODE", source.name));
        or_raise(track::track(relid, &columns));
    }
}

/// The next refresh compares everything, by a program made anew in every process.
fn recompute(pgt_id: i64, sources: &BTreeSet<u32>) {
    // Who hears of the mark shall have heard of the definition, too.
    lock::redefinition(catalog::relid(), pgt_id);
    catalog::execute("UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true WHERE pgt_id = $1", &[pgt_id.into()]);
    let view = program::view_oid(pgt_id).ok();
    let known = sources.iter().copied().filter(|&relid| lock::relation_exists(relid)).chain(view);
    known.for_each(depend::invalidate);
    catalog::changed();
}

/// After a definition that concerns a table: stream tables that are maintained at once and read it follow in the same
/// transaction. `moved` says that rows may have come or gone without a statement.
#[pg_extern(name = "_defined")]
fn defined(relid: pg_sys::Oid, moved: bool) {
    or_raise(immediate::defined(relid.to_u32(), moved));
}
