//! The delta rules: from a relation to the change of it, one file per operator.
//!
//! Old and new are the states before and after the changes; a bare relation means its new state, and
//! new = old + Δ. A change that is empty for certain is `None`, so a rule's terms vanish where nothing changed.
//! Stateful operators have no rule here: [cutting](crate::cut) has made stages of them.

mod filter;
mod flat_map;
mod inner_join;
mod leaf;
mod left_join;
mod map;
mod presence;
mod repeat;
mod semi_join;
mod union_all;

use crate::ir::{JoinKind, Rel, Scalar, SourceId};
use crate::keys::KnownKeys;
use crate::relevant::{Changes, Relevance};
use crate::zset::Zset;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What has changed.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Sources whose staged change is not empty.
    pub sources: BTreeSet<SourceId>,
    /// Stages that read them, directly or not.
    pub stages: BTreeSet<usize>,
    /// Scans to which nothing of their source's change matters.
    idle: Vec<(SourceId, Relevance)>,
    /// Sources of whose staged change every row passes the condition of the only scan.
    passed: BTreeSet<SourceId>,
    /// The keys of sources and stages.
    keys: Arc<KnownKeys>,
    shared: RefCell<Vec<Arc<Zset>>>,
    /// Nothing is shared.
    apart: bool,
}

impl Changed {
    /// These sources, and no stages yet.
    pub fn of(sources: BTreeSet<SourceId>) -> Changed {
        Changed { sources, ..Changed::default() }
    }

    /// The same where more is known of their changes; `relevant` tells what the numbers of scans mean.
    pub fn with(changes: &Changes, relevant: &BTreeMap<SourceId, Vec<Relevance>>) -> Changed {
        let scan = |(source, number): &(SourceId, usize)| Some((*source, relevant.get(source)?.get(*number)?.clone()));
        let only = |source: &SourceId| relevant.get(source).is_some_and(|scans| scans.len() == 1);
        Changed {
            idle: changes.idle.iter().filter_map(scan).collect(),
            passed: changes.passed.iter().copied().filter(only).collect(),
            ..Changed::of(changes.sources.clone())
        }
    }

    /// The same where the keys of sources and stages are known. No change of a key may have been left out of the changes that
    /// tells whether a row is the first partner of another.
    pub fn knowing(self, keys: Arc<KnownKeys>) -> Changed {
        Changed { keys, ..self }
    }

    /// Whether a scan with these predicates right above it may see a change.
    fn concerns(&self, source: SourceId, columns: &[i16], predicates: &[Scalar]) -> bool {
        let idle = |(of, scan): &(SourceId, Relevance)| *of == source && scan.is_of(columns, predicates);
        self.sources.contains(&source) && !self.idle.iter().any(idle)
    }

    /// The same for a change in which a recursive reference may mean one thing here and another there: its terms share
    /// nothing that would be staged before.
    pub fn apart(&self) -> Changed {
        Changed { apart: true, shared: RefCell::default(), ..self.clone() }
    }

    /// What several terms will read: to be staged once, before whatever they are part of. How many rows it has is then
    /// known, too, when those are planned.
    fn share(&self, value: Zset) -> Zset {
        if self.apart || is_staged(&value) {
            return value;
        }
        let value = Arc::new(value);
        let mut shared = self.shared.borrow_mut();
        shared.push(value.clone());
        Zset::Shared { number: shared.len() - 1, value }
    }

    /// What is shared, by its numbers from `first` on; each reads only those before it.
    pub fn shared_from(&self, first: usize) -> Vec<Arc<Zset>> {
        self.shared.borrow()[first..].to_vec()
    }
}

/// Whether it is staged already, but for a filter that staging has applied.
fn is_staged(value: &Zset) -> bool {
    match value {
        Zset::SourceChange { .. } | Zset::StageChange { .. } | Zset::Shared { .. } => true,
        Zset::Filter { input, .. } => matches!(**input, Zset::SourceChange { .. }),
        _ => false,
    }
}

/// The change of a relation without stateful operators.
pub fn delta(rel: &Rel, changed: &Changed) -> Option<Zset> {
    match rel {
        Rel::Scan { .. } | Rel::State { .. } | Rel::Values { .. } | Rel::Recursive { .. } => leaf::delta(rel, changed),
        Rel::Map { input, exprs } => map::delta(input, exprs, changed),
        Rel::Filter { input, predicates } => filter::delta(input, predicates, changed),
        Rel::Join { kind, left, right, on } => match kind {
            JoinKind::Inner => inner_join::delta(left, right, on, changed),
            JoinKind::Left => left_join::delta(left, right, on, changed),
            JoinKind::Semi => semi_join::delta(left, right, on, true, changed),
            JoinKind::Anti => semi_join::delta(left, right, on, false, changed),
        },
        Rel::Repeat { input, times } => repeat::delta(input, times, changed),
        Rel::FlatMap { input, rows } => flat_map::delta(input, rows, changed),
        Rel::UnionAll { inputs } => union_all::delta(inputs, changed),
        Rel::Aggregate { .. }
        | Rel::Window { .. }
        | Rel::TopK { .. }
        | Rel::Compared { .. }
        | Rel::Selected { .. }
        | Rel::Fixpoint { .. } => unreachable!("a stateful operator is a stage"),
    }
}
