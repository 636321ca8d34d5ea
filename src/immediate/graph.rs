//! Which stream tables are maintained at once, and what they read: known to each process until something of it changes.

use super::maintain::is_paused;
use crate::catalog::{self, StreamTable};
use pgtrickle_pg::inval::{self, Asker, Invalidated};
use pgtrickle_pg::{class, table};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// The stream tables of this database whose refresh_mode is IMMEDIATE.
pub struct Graph {
    /// Those who read others come after them.
    pub stream_tables: Vec<StreamTable>,
    /// The columns of each source that any of them reads.
    columns: HashMap<u32, BTreeSet<i16>>,
    /// When one of these relations changes, all this may be otherwise.
    watched: HashSet<u32>,
    /// The source that a table is, or is a part of; filled as tables are asked for.
    sources: RefCell<HashMap<u32, Option<u32>>>,
}

thread_local! {
    static KNOWN: RefCell<Option<Rc<Graph>>> = RefCell::default();
}

/// The graph as it is now.
pub fn current() -> Rc<Graph> {
    inval::listen();
    let stale = match inval::take(Asker::Immediate) {
        Invalidated::All => true,
        Invalidated::Relations(changed) => {
            KNOWN.with_borrow(|known| known.as_ref().is_some_and(|graph| changed.iter().any(|r| graph.depends_on(*r))))
        }
    };
    if !stale && let Some(known) = KNOWN.with_borrow(Clone::clone) {
        return known;
    }
    let graph = Rc::new(Graph::read());
    KNOWN.set(Some(graph.clone()));
    graph
}

impl Graph {
    fn read() -> Graph {
        let stream_tables = parents_first(catalog::immediate());
        let columns = catalog::immediate_columns();
        let sources = stream_tables.iter().flat_map(|st| st.sources.iter().map(|s| s.relid).chain([st.relid]));
        // Every change of a row of theirs in the catalog tells of itself as a change of this table.
        let watched = sources.chain(class::named(c"pgtrickle", "pgt_immediate")).collect();
        Graph { stream_tables, columns, watched, sources: RefCell::default() }
    }

    fn depends_on(&self, relid: u32) -> bool {
        self.watched.contains(&relid) || self.sources.borrow().contains_key(&relid)
    }

    /// The source that this table is, or is a partition of.
    pub fn source_of(&self, relid: u32) -> Option<u32> {
        *self.sources.borrow_mut().entry(relid).or_insert_with(|| {
            let root = table::partition_root(relid.into()).to_u32();
            self.columns.contains_key(&root).then_some(root)
        })
    }

    /// The columns of a source that matter.
    pub fn columns_of(&self, source: u32) -> &BTreeSet<i16> {
        const NONE: &BTreeSet<i16> = &BTreeSet::new();
        self.columns.get(&source).unwrap_or(NONE)
    }

    /// The stream tables that read this relation.
    pub fn readers(&self, source: u32) -> impl Iterator<Item = &StreamTable> {
        self.stream_tables.iter().filter(move |st| st.sources.iter().any(|s| s.relid == source))
    }

    /// Ids of those that follow this relation, directly or not, ascending.
    pub fn followers(&self, source: u32) -> BTreeSet<i64> {
        let mut reached = HashSet::from([source]);
        let mut ids = BTreeSet::new();
        // Whoever resumes one that is paused waits for its writers.
        for st in self.stream_tables.iter().filter(|st| !is_paused(st)) {
            if st.sources.iter().any(|s| reached.contains(&s.relid)) {
                reached.insert(st.relid);
                ids.insert(st.pgt_id);
            }
        }
        ids
    }
}

fn parents_first(mut rest: Vec<StreamTable>) -> Vec<StreamTable> {
    let mut sorted = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let waiting: HashSet<u32> = rest.iter().map(|st| st.relid).collect();
        let (free, blocked): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|st| !st.sources.iter().any(|s| waiting.contains(&s.relid)));
        if free.is_empty() {
            // There are no cycles; but to loop for ever would be the worse answer.
            sorted.extend(blocked);
            break;
        }
        sorted.extend(free);
        rest = blocked;
    }
    sorted
}
