//! Stream tables that are maintained at once (refresh_mode IMMEDIATE): in the transaction that changes what they read, by the
//! same programs as refreshes, from the transition tables of its statements.
//!
//! Exact at the end of each statement, because
//!
//! - **changes and tables are in step.** A query may change several tables (WITH, foreign keys, triggers), and when the first
//!   AFTER trigger fires all of them have their new rows. So a BEFORE trigger counts the statements that have begun, and
//!   only when the last of them has told its changes are all of them applied, to each stream table once.
//! - **nobody else changes a source meanwhile.** Whoever writes to a source holds the locks of all stream tables that depend on
//!   it until commit, and evaluates under the newest snapshot: it shows what others have committed and what we have done.
//!   Of one that is paused no writer takes the lock; who resumes it waits for them and computes it anew.
//! - **a transaction with one snapshot** (REPEATABLE READ, SERIALIZABLE) that finds a stream table changed since then gets a
//!   serialization failure: `pgt_immediate` tells who was last.
//!
//! | file | owns |
//! |---|---|
//! | `pending` | changes of this transaction not applied yet, locks held; forgets what is rolled back |
//! | `graph` | which stream tables read what, cached |
//! | `maintain` | one stream table |
//! | `triggers` | setting and dropping them |
//! | `feasible` | which queries can be |
//! | `house` | what the scheduler does for them; counters |

pub mod feasible;
mod graph;
mod house;
pub mod maintain;
mod pending;
pub mod triggers;

pub use house::look_after;

use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use crate::refresh::{lock_all, program};
use graph::Graph;
use pgtrickle_pg::snapshot::{Snapshot, current_xid};
use pgtrickle_pg::transition::{Batch, Firing};
use pgtrickle_pg::{lock, xact};
use std::collections::HashMap;
use std::rc::Rc;

/// The refresh mode.
pub const MODE: &str = "IMMEDIATE";

impl StreamTable {
    /// Whether it is maintained at once.
    pub fn is_immediate(&self) -> bool {
        self.refresh_mode == MODE
    }
}

/// What a trigger of ours does on a source: before a statement it is counted, after it its changes are collected and, if it
/// was the last, applied.
pub fn fired(firing: &Firing<'_>) -> Result<()> {
    match (firing.is_for_row(), firing.is_before()) {
        (true, _) => replicated(firing),
        (false, true) => before(firing),
        (false, false) => after(firing),
    }
}

/// A row that a subscription applies is part of no statement that would tell of it.
fn replicated(firing: &Firing<'_>) -> Result<()> {
    let graph = graph::current();
    let followed =
        graph.source_of(firing.relid()).and_then(|source| graph.readers(source).find(|st| maintain::is_active(st)));
    match followed.filter(|_| !pending::in_statement()) {
        Some(st) => Err(Error::unseen_change(&st.label())),
        None => Ok(()),
    }
}

fn before(firing: &Firing<'_>) -> Result<()> {
    pending::begin_statement();
    let graph = graph::current();
    match graph.source_of(firing.relid()) {
        Some(source) => graph.followers(source).into_iter().try_for_each(hold),
        None => Ok(()),
    }
}

fn after(firing: &Firing<'_>) -> Result<()> {
    let graph = graph::current();
    if let Some(source) = graph.source_of(firing.relid()) {
        collect(firing, source, &graph);
    }
    if pending::end_statement() { flush() } else { Ok(()) }
}

fn collect(firing: &Firing<'_>, source: u32, graph: &Graph) {
    if firing.truncates() {
        return pending::add(source, None);
    }
    if firing.has_rows() {
        let mut batch = Batch::of(source);
        batch.add(firing, source, graph.columns_of(source));
        if batch.rows() > 0 {
            pending::add(source, Some(Rc::new(batch)));
        }
    }
}

/// Takes the lock of a stream table, until the transaction ends.
fn hold(pgt_id: i64) -> Result<()> {
    if pending::holds(pgt_id) {
        return Ok(());
    }
    lock::stream_table(catalog::relid(), pgt_id);
    if xact::has_one_snapshot()
        && let Some(last) = catalog::last_change(pgt_id)
        && !(Some(last) == current_xid() || Snapshot::of_transaction().xids().contains(last))
    {
        let label = catalog::by_id(pgt_id).map(|st| st.label()).unwrap_or_default();
        return Err(Error::concurrent_change(&label));
    }
    pending::note_held(pgt_id);
    Ok(())
}

/// Applies what has been collected to all stream tables that it concerns, parents first. What they hand on to their readers,
/// and what triggers of users do meanwhile, is collected, too, and applied before this ends.
fn flush() -> Result<()> {
    if pending::count() == 0 {
        return Ok(());
    }
    let Some(flushing) = pending::Flushing::begin() else { return Ok(()) };
    let mut applied: HashMap<i64, usize> = HashMap::new();
    loop {
        let graph = graph::current();
        let concerned = graph.stream_tables.iter().find_map(|st| {
            let from = applied.get(&st.pgt_id).copied().unwrap_or(0);
            let changes = pending::changes(from, |source| st.sources.iter().any(|s| s.relid == source));
            (!changes.is_empty()).then_some((st, changes))
        });
        let Some((st, changes)) = concerned else { break };
        applied.insert(st.pgt_id, pending::count());
        if maintain::is_paused(st) {
            continue;
        }
        hold(st.pgt_id)?;
        if maintain::is_active(st) {
            maintain::maintain(st, &changes)?;
        } else {
            maintain::note(st);
        }
    }
    flushing.done();
    Ok(())
}

/// Computes a stream table anew if it is not known to be right, and has its readers follow; `after` then runs under a
/// snapshot at which it is.
pub fn refresh<T>(st: &StreamTable, after: impl FnOnce(&Snapshot) -> T) -> Result<T> {
    hold(st.pgt_id)?;
    // Read only now: whoever held the lock before us may have changed the row.
    let st = catalog::by_id(st.pgt_id).ok_or_else(|| Error::no_such_stream_table(&st.label()))?;
    if st.restored {
        return Err(Error::restored(&st.label()));
    }
    if st.frontier.is_none() || st.needs_reinit || program::load(&st)?.fingerprint != st.fingerprint {
        maintain::recompute(&st)?;
        flush()?;
    }
    Ok(after(&Snapshot::latest()))
}

/// After a definition that concerns a table: its new partitions get triggers, and if rows may have come or gone with it, its
/// readers are computed anew.
pub fn defined(relid: u32, moved: bool) -> Result<()> {
    let graph = graph::current();
    let Some(source) = graph.source_of(relid) else { return Ok(()) };
    let is_stream_table = graph.stream_tables.iter().any(|st| st.relid == source);
    if is_stream_table || graph.readers(source).all(|st| st.restored) {
        return Ok(());
    }
    triggers::ensure(source, relid)?;
    for st in graph.readers(source).filter(|st| maintain::is_active(st)) {
        if moved {
            hold(st.pgt_id)?;
            maintain::recompute(st)?;
        } else if st.needs_reinit {
            refresh(st, |_| ())?;
        }
    }
    flush()
}

/// Before one that was paused follows again: whoever writes to what it reads has ended, and nobody else does until this
/// transaction ends.
pub fn hold_off_writers(st: &StreamTable) {
    let (parents, tables): (Vec<_>, Vec<_>) =
        st.sources.iter().map(|source| source.relid).partition(|&relid| catalog::by_relid(relid).is_some());
    for table in tables {
        triggers::hold_off_writers(table);
    }
    lock_all(&parents.into_iter().filter_map(catalog::by_relid).map(|parent| parent.pgt_id).collect::<Vec<_>>());
}

/// Before a stream table becomes one that is maintained at once, or gets another query: nobody writes to what it reads until
/// this transaction ends, and then all that is written is told of.
pub fn follow(analysis: &crate::analyze::Analysis) -> Result<()> {
    triggers::install(&analysis.sources)
}
