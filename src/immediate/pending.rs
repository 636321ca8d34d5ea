//! What the current transaction has yet to do for stream tables that are maintained at once, and which of them it holds.
//! Everything is noted with the nesting level of its subtransaction and forgotten when that is rolled back.

use crate::error::{Error, Result};
use pgrx::PgSqlErrorCode as Code;
use pgtrickle_pg::transition::Batch;
use pgtrickle_pg::xact::{self, End};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

/// A change of a source that has been made and collected.
#[derive(Clone)]
pub struct Change {
    pub source: u32,
    /// None: its rows went without a trace (TRUNCATE).
    pub rows: Option<Rc<Batch>>,
}

#[derive(Default)]
struct State {
    /// Levels of the statements that have begun to change sources and have not told all yet.
    open: Vec<i32>,
    changes: Vec<(i32, Change)>,
    /// Stream tables whose locks are held, and those whose change is noted in the catalog.
    held: HashMap<i64, i32>,
    noted: HashMap<i64, Noted>,
}

/// A stream table whose change is noted.
struct Noted {
    level: i32,
    /// Rows of it that have changed so far.
    rows: Rc<Cell<u64>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    static FLUSHING: Cell<bool> = const { Cell::new(false) };
}

fn with<T>(work: impl FnOnce(&mut State) -> T) -> T {
    if !LISTENING.replace(true) {
        xact::at_ends(at_end);
    }
    STATE.with_borrow_mut(work)
}

/// A statement is about to change a source.
pub fn begin_statement() {
    let level = xact::nesting();
    with(|state| state.open.push(level));
}

/// It has, and what it did is collected; says whether that was the last one, so that base tables and collected changes
/// are in step.
pub fn end_statement() -> bool {
    with(|state| {
        state.open.pop();
        state.open.is_empty()
    }) && !FLUSHING.get()
}

/// Whether a statement has begun.
pub fn in_statement() -> bool {
    with(|state| !state.open.is_empty())
}

/// Adds a change.
pub fn add(source: u32, rows: Option<Rc<Batch>>) {
    let level = xact::nesting();
    with(|state| state.changes.push((level, Change { source, rows })));
}

/// The number of changes collected so far.
pub fn count() -> usize {
    with(|state| state.changes.len())
}

/// Changes of these sources from number `from` on.
pub fn changes(from: usize, sources: impl Fn(u32) -> bool) -> Vec<Change> {
    with(|state| state.changes.iter().skip(from).map(|(_, c)| c).filter(|c| sources(c.source)).cloned().collect())
}

/// Marks the time in which changes are applied: what is collected meanwhile is taken up by who applies them.
pub struct Flushing(());

impl Flushing {
    /// None if it is that time already.
    pub fn begin() -> Option<Flushing> {
        (!FLUSHING.replace(true)).then_some(Flushing(()))
    }

    /// All changes have been applied.
    pub fn done(self) {
        drop(with(|state| std::mem::take(&mut state.changes)));
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        FLUSHING.set(false);
    }
}

/// Whether the lock of a stream table is held by this transaction on behalf of its writes.
pub fn holds(pgt_id: i64) -> bool {
    with(|state| state.held.contains_key(&pgt_id))
}

pub fn note_held(pgt_id: i64) {
    let level = xact::nesting();
    with(|state| {
        state.held.entry(pgt_id).or_insert(level);
    });
}

/// If this transaction's change of a stream table is not noted yet: from now on it is, and what comes back will say how many
/// rows it was.
pub fn must_note(pgt_id: i64) -> Option<Rc<Cell<u64>>> {
    let level = xact::nesting();
    with(|state| match state.noted.entry(pgt_id) {
        Entry::Occupied(_) => None,
        Entry::Vacant(place) => Some(place.insert(Noted { level, rows: Rc::default() }).rows.clone()),
    })
}

/// So many rows of a stream table have changed.
pub fn count_rows(pgt_id: i64, rows: u64) {
    with(|state| state.noted.get(&pgt_id).map(|noted| noted.rows.set(noted.rows.get() + rows)));
}

/// Nothing may be left when the transaction commits.
fn check() -> Result<()> {
    let left = STATE.with_borrow(|state| !state.open.is_empty() || !state.changes.is_empty());
    match left {
        false => Ok(()),
        true => Err(Error::new(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a statement was left unfinished that changed a source of a stream table whose refresh_mode is IMMEDIATE",
        )
        .detail("It fired no AFTER trigger, so the stream table could not follow it.")
        .hint("Fetch all rows of INSERT, UPDATE or DELETE … RETURNING.")),
    }
}

fn at_end(end: End) {
    match end {
        End::Ending => crate::error::or_raise(check()),
        End::Ended => drop(STATE.take()),
        End::SubAborted(level) => drop(STATE.with_borrow_mut(|state| state.forget(level))),
        End::SubCommitted(level) => STATE.with_borrow_mut(|state| state.lift(level)),
    }
}

impl State {
    /// A subtransaction of this level has been rolled back. What is forgotten is returned, to be dropped at leisure.
    fn forget(&mut self, level: i32) -> Vec<(i32, Change)> {
        self.open.retain(|&at| at < level);
        self.held.retain(|_, at| *at < level);
        self.noted.retain(|_, noted| noted.level < level);
        let (kept, gone) = std::mem::take(&mut self.changes).into_iter().partition(|&(at, _)| at < level);
        self.changes = kept;
        gone
    }

    /// A subtransaction of this level is part of its parent now.
    fn lift(&mut self, level: i32) {
        let all =
            self.open.iter_mut().chain(self.held.values_mut()).chain(self.noted.values_mut().map(|n| &mut n.level));
        all.chain(self.changes.iter_mut().map(|(at, _)| at)).filter(|at| **at >= level).for_each(|at| *at = level - 1);
    }
}
