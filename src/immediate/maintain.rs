//! Bringing one stream table up to date in the transaction that changed what it reads.

use super::house;
use super::pending::{self, Change};
use crate::api;
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, policy};
use crate::refresh::costs::Clock;
use crate::refresh::program::{self, Loaded, Task, size_class};
use crate::refresh::run::{self, Relations};
use crate::refresh::{fill, ours, settings_of, store};
use pgrx::PgSqlErrorCode as Code;
use pgrx::prelude::*;
use pgtrickle_engine::ir::SourceId;
use pgtrickle_engine::program::Program;
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::spi::{Connection, RunAs};
use pgtrickle_pg::transition::{self, Batch};
use pgtrickle_pg::xact;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Whether a stream table follows its sources at all.
pub fn is_active(st: &StreamTable) -> bool {
    !st.restored && st.is_populated && matches!(st.status.as_str(), "ACTIVE" | "ERROR")
}

/// Whether it is left alone until somebody resumes it.
pub fn is_paused(st: &StreamTable) -> bool {
    st.status == "PAUSED"
}

/// Applies changes of its sources to a stream table, whose lock is held. They must be all that has happened to the sources
/// since it was last brought up to date.
pub fn maintain(st: &StreamTable, changes: &[Change]) -> Result<()> {
    telling(st, || follow(st, changes))
}

/// Computes a stream table anew, whose lock is held, applies the difference, and stores that it is right.
pub fn recompute(st: &StreamTable) -> Result<()> {
    ours::must_rest()?;
    telling(st, || compute(st))
}

/// Errors of PostgreSQL say which stream table it was that could not follow.
fn telling(st: &StreamTable, work: impl FnOnce() -> Result<()>) -> Result<()> {
    xact::telling(work, |failure| {
        let which = format!("Stream table {} is maintained in the transaction that writes to its sources.", st.label());
        let way_out = format!(
            "What its query cannot compute cannot be written; SELECT pgtrickle.alter_stream_table('{}', refresh_mode => 'AUTO') ends that.",
            st.label().replace('\'', "''")
        );
        let hint = failure.hint.or_else(|| policy(failure.code).recompute.then_some(way_out));
        let detail = failure.detail.into_iter().chain([which]).collect::<Vec<_>>().join(" ");
        Error { code: failure.code, message: failure.message, detail: Some(detail), hint }
    })
}

fn follow(st: &StreamTable, changes: &[Change]) -> Result<()> {
    let loaded = program::load(st)?;
    let unknown = st.frontier.is_none() || st.needs_reinit || loaded.fingerprint != st.fingerprint;
    if unknown {
        return compute(st);
    }
    let Some(deltas) = by_source(changes).filter(|_| loaded.program.is_differential()) else {
        return apply(st, &loaded, Task::Recompute, BTreeMap::new()).map(drop);
    };
    let task = Task::Apply(deltas.keys().map(|&source| SourceId(source)).collect());
    match apply(st, &loaded, task, deltas) {
        Err(error) if error.code == Code::ERRCODE_DATA_CORRUPTED => {
            warning!("{}; it is recomputed", error.message);
            // What was taken out of it until then is in no difference that comes now: readers compare everything, too.
            pending::add(st.relid, None);
            api::tell_readers(st)?;
            compute(st)
        }
        result => result,
    }
}

fn compute(st: &StreamTable) -> Result<()> {
    let loaded = program::load(st)?;
    if loaded.fingerprint != st.fingerprint {
        fill::rebuild_state(st, &loaded)?;
    }
    apply(st, &loaded, Task::anew(st, &loaded), BTreeMap::new())?;
    {
        let _owner = catalog::as_owner();
        fill::ensure_index(st, &loaded);
    }
    store_current(st, &loaded);
    Ok(())
}

/// The changes of each source together; None if some left no trace.
fn by_source(changes: &[Change]) -> Option<BTreeMap<u32, Rc<Batch>>> {
    let mut parts: BTreeMap<u32, Vec<Rc<Batch>>> = BTreeMap::new();
    for change in changes {
        parts.entry(change.source).or_default().push(change.rows.clone()?);
    }
    let whole = |(source, parts): (u32, Vec<Rc<Batch>>)| match parts.as_slice() {
        [only] => (source, only.clone()),
        several => {
            let mut whole = Batch::of(source);
            several.iter().for_each(|part| whole.append(part));
            (source, Rc::new(whole))
        }
    };
    Some(parts.into_iter().map(whole).collect())
}

/// Runs the program under the newest snapshot: whoever else changes a source needs the lock that we hold, so it shows
/// what has been committed to the sources and what we have done to them.
fn apply(st: &StreamTable, loaded: &Loaded, task: Task, deltas: BTreeMap<u32, Rc<Batch>>) -> Result<()> {
    note(st);
    let _connection = Connection::open();
    let mut relations = Relations::default();
    for (source, batch) in &deltas {
        let name = Program::source_delta(SourceId(*source));
        let staged = transition::stage(batch, name.as_str(), size_class(batch.rows()).1);
        relations.insert(name, staged);
    }
    {
        let _settings = settings_of(st, &task, &loaded.program);
        let _owner = RunAs::restricted(st.owner);
        let statements = program::statements(loaded, &task);
        let mut clock = Clock::start();
        run::run(st, &statements, &mut relations, &Snapshot::latest(), &mut clock, None)?;
        clock.stop(st.pgt_id, loaded.fingerprint);
    }
    pending::count_rows(st.pgt_id, relations.rows(&Program::root_delta()));
    hand_on(st, loaded, &relations);
    store::feed_children(st, loaded, &relations);
    Ok(())
}

/// What has changed in a stream table is a change of a source of those that read it and are maintained at once.
pub fn hand_on(st: &StreamTable, loaded: &Loaded, relations: &Relations) {
    let Some(root) = relations.get(&Program::root_delta()).filter(|root| root.rows > 0) else { return };
    if super::graph::current().readers(st.relid).next().is_some() {
        let mut batch = Batch::of(st.relid);
        batch.add_staged(root, &loaded.attnums);
        pending::add(st.relid, Some(Rc::new(batch)));
    }
}

const NOTE: &str = "
    INSERT INTO pgtrickle.pgt_immediate AS i (pgt_id, xid) VALUES ($1, pg_catalog.pg_current_xact_id())
        ON CONFLICT (pgt_id) DO UPDATE SET xid = excluded.xid";

/// Notes in the catalog that this transaction has changed what a stream table is made of. That is what tells transactions
/// that began before and keep to one snapshot.
pub fn note(st: &StreamTable) {
    if let Some(rows) = pending::must_note(st.pgt_id) {
        house::count_on_commit(st, rows);
        let _connection = Connection::open();
        let _owner = catalog::as_owner();
        store::execute_kept(NOTE, &[pg_sys::INT8OID], &[st.pgt_id.into_datum()]);
    }
}

/// Stores that the contents are those of the query now.
pub fn store_current(st: &StreamTable, loaded: &Loaded) {
    note(st);
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET frontier = pg_catalog.pg_current_snapshot(), frontier_lsn = pg_catalog.pg_current_wal_insert_lsn(),
                frontier_xid = pg_catalog.pg_current_xact_id(), generation = 0, data_timestamp = pg_catalog.clock_timestamp(),
                last_refresh_at = pg_catalog.clock_timestamp(), program_fingerprint = $2, effective_refresh_mode = $3,
                full_reason = $4, is_populated = true, consecutive_errors = 0,
                -- One that is not followed is right for this moment only.
                needs_reinit = status IN ('PAUSED', 'SUSPENDED'),
                status = CASE WHEN status IN ('INITIALIZING', 'ERROR') THEN 'ACTIVE' ELSE status END
          WHERE pgt_id = $1",
        &[
            st.pgt_id.into(),
            loaded.fingerprint.into(),
            if loaded.program.is_differential() { "IMMEDIATE" } else { "FULL" }.into(),
            loaded.full_reason.clone().into(),
        ],
    );
}

/// Fills a new stream table, whose sources are locked against writers.
pub fn fill(st: &StreamTable, loaded: &Loaded) -> Result<()> {
    pending::note_held(st.pgt_id);
    fill::fill(st, loaded, &Snapshot::latest())?;
    store_current(st, loaded);
    Ok(())
}
