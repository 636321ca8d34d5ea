//! Z-sets: relations whose rows carry a weight, negative for rows that go. What delta rules make.

use crate::ir::{Col, Conjunct, Rel, Rows, Scalar, SourceId};
use std::sync::Arc;

/// A relation with weights: columns `c1`..`cn` and `w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zset {
    /// Every row of a relation, at its new state, with weight 1.
    Bag(Rel),
    /// The staged change of a source.
    SourceChange { source: SourceId, columns: Vec<i16>, cols: Vec<Col> },
    /// The staged change of what a stage keeps.
    StageChange { stage: usize, cols: Vec<Col> },
    /// One output column per expression; weights stay.
    Map { input: Box<Zset>, exprs: Vec<Scalar> },
    /// The rows for which every predicate is true.
    Filter { input: Box<Zset>, predicates: Vec<Scalar> },
    /// Pairs that fulfil the condition; weights multiply.
    Join { left: Box<Zset>, right: Box<Zset>, on: Vec<Conjunct> },
    /// Several joined at once, on conditions over one row in which each has its own places; weights multiply. The columns
    /// come out in the order of their places.
    Product { inputs: Vec<Placed>, on: Vec<Scalar> },
    /// The rows that have a partner in a change, whatever its weight.
    Touched { input: Box<Zset>, change: Box<Zset>, on: Vec<Conjunct> },
    /// What several terms read: staged once, before them.
    Shared { number: usize, value: Arc<Zset> },
    /// The rows that have a partner in a relation at its new state, or those that have none.
    Matching { input: Box<Zset>, right: Rel, on: Vec<Conjunct>, matched: bool },
    /// How the presence of keys in a relation has changed: weight 1 for a key that has come, -1 for one that has gone,
    /// nothing for one that had or has rows all the time. Outputs the relation's columns, those outside of the key NULL.
    Presence {
        right: Rel,
        change: Box<Zset>,
        keys: Vec<usize>,
        only: Vec<Conjunct>,
        left_arity: usize,
        /// Columns that no two rows of the relation share, if the change is netted by them, too.
        own: Option<Vec<usize>>,
    },
    /// The rows of which a change of a relation decides whether they have a partner: weighted 1 if they have got the
    /// first, -1 if they have lost the last.
    Flips { input: Box<Zset>, right: Rel, change: Box<Zset>, on: Vec<Conjunct> },
    /// Weights added up over rows that agree in some columns, where not 0; the other columns are NULL.
    Netted { input: Box<Zset>, by: Vec<usize> },
    /// Weights are multiplied with a number of each row.
    Repeat { input: Box<Zset>, times: Scalar },
    /// Each row beside each row that functions return for it; weights stay.
    FlatMap { input: Box<Zset>, rows: Rows },
    /// Weights add up.
    UnionAll(Vec<Zset>),
    /// Weights change sign.
    Negate(Box<Zset>),
}

/// A factor of a product: which places its columns have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What is joined.
    pub zset: Zset,
    /// One place per column, ascending.
    pub at: Vec<usize>,
}

/// A staged relation that a [`Zset`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Staged {
    /// The change of a source.
    Source(SourceId),
    /// The change of a stage.
    Stage(usize),
    /// What several terms read.
    Shared(usize),
}

impl Zset {
    /// Pairs that fulfil the condition.
    pub fn join(left: Zset, right: Zset, on: &[Conjunct]) -> Zset {
        Zset::Join { left: Box::new(left), right: Box::new(right), on: on.to_vec() }
    }

    /// The opposite change.
    pub fn negate(self) -> Zset {
        Zset::Negate(Box::new(self))
    }

    /// The sum of the terms that are there; nothing if none is.
    pub fn sum(terms: impl IntoIterator<Item = Option<Zset>>) -> Option<Zset> {
        let mut terms: Vec<Zset> = terms.into_iter().flatten().collect();
        if terms.len() > 1 { Some(Zset::UnionAll(terms)) } else { terms.pop() }
    }

    /// The number of columns, the weight not counted.
    pub fn arity(&self) -> usize {
        match self {
            Zset::Bag(rel) => rel.arity(),
            Zset::SourceChange { cols, .. } | Zset::StageChange { cols, .. } => cols.len(),
            Zset::Map { exprs, .. } => exprs.len(),
            Zset::Presence { right, .. } => right.arity(),
            Zset::Filter { input, .. }
            | Zset::Matching { input, .. }
            | Zset::Flips { input, .. }
            | Zset::Netted { input, .. }
            | Zset::Repeat { input, .. }
            | Zset::Negate(input) => input.arity(),
            Zset::Touched { input, .. } => input.arity(),
            Zset::Shared { value, .. } => value.arity(),
            Zset::Join { left, right, .. } => left.arity() + right.arity(),
            Zset::FlatMap { input, rows } => input.arity() + rows.cols.len(),
            Zset::Product { inputs, .. } => inputs.iter().map(|input| input.at.len()).sum(),
            Zset::UnionAll(inputs) => inputs.first().map_or(0, Zset::arity),
        }
    }

    /// The columns, the weight not counted.
    pub fn cols(&self) -> Vec<Col> {
        match self {
            Zset::Bag(rel) => rel.cols(),
            Zset::SourceChange { cols, .. } | Zset::StageChange { cols, .. } => cols.clone(),
            Zset::Map { exprs, .. } => exprs.iter().map(Scalar::col).collect(),
            Zset::Presence { right, .. } => right.cols().into_iter().map(Col::nullable).collect(),
            Zset::Netted { input, .. } => input.cols().into_iter().map(Col::nullable).collect(),
            Zset::Filter { input, .. }
            | Zset::Matching { input, .. }
            | Zset::Flips { input, .. }
            | Zset::Repeat { input, .. }
            | Zset::Negate(input) => input.cols(),
            Zset::Touched { input, .. } => input.cols(),
            Zset::Shared { value, .. } => value.cols(),
            Zset::Join { left, right, .. } => [left.cols(), right.cols()].concat(),
            Zset::FlatMap { input, rows } => [input.cols(), rows.joined_cols()].concat(),
            Zset::Product { inputs, .. } => {
                let placed = |input: &Placed| input.at.iter().copied().zip(input.zset.cols()).collect::<Vec<_>>();
                let mut cols: Vec<(usize, Col)> = inputs.iter().flat_map(placed).collect();
                cols.sort_by_key(|(place, _)| *place);
                cols.into_iter().map(|(_, col)| col).collect()
            }
            Zset::UnionAll(inputs) => crate::ir::union_cols(inputs.iter().map(Zset::cols)),
        }
    }

    /// Whether it is empty as soon as all staged relations that it reads are: it has no term without any.
    pub fn is_change(&self) -> bool {
        match self {
            Zset::Bag(_) => false,
            Zset::SourceChange { .. } | Zset::StageChange { .. } | Zset::Shared { .. } => true,
            Zset::Join { left, right, .. } => left.is_change() || right.is_change(),
            Zset::Product { inputs, .. } => inputs.iter().any(|input| input.zset.is_change()),
            Zset::Touched { input, change, .. } | Zset::Flips { input, change, .. } => {
                input.is_change() || change.is_change()
            }
            Zset::Presence { change, .. } => change.is_change(),
            Zset::Map { input, .. }
            | Zset::Filter { input, .. }
            | Zset::Matching { input, .. }
            | Zset::Netted { input, .. }
            | Zset::Repeat { input, .. }
            | Zset::FlatMap { input, .. }
            | Zset::Negate(input) => input.is_change(),
            Zset::UnionAll(inputs) => inputs.iter().all(Zset::is_change),
        }
    }

    /// The staged relations that it reads: if all are empty, so is it if it [is a change](Zset::is_change).
    pub fn staged(&self) -> Vec<Staged> {
        let mut found = Vec::new();
        self.collect_staged(&mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn collect_staged(&self, found: &mut Vec<Staged>) {
        match self {
            Zset::Bag(_) => {}
            Zset::SourceChange { source, .. } => found.push(Staged::Source(*source)),
            Zset::StageChange { stage, .. } => found.push(Staged::Stage(*stage)),
            Zset::Presence { change, .. } => change.collect_staged(found),
            Zset::Map { input, .. }
            | Zset::Filter { input, .. }
            | Zset::Matching { input, .. }
            | Zset::Netted { input, .. }
            | Zset::Repeat { input, .. }
            | Zset::FlatMap { input, .. }
            | Zset::Negate(input) => input.collect_staged(found),
            Zset::Shared { number, .. } => found.push(Staged::Shared(*number)),
            Zset::Product { inputs, .. } => inputs.iter().for_each(|input| input.zset.collect_staged(found)),
            Zset::Touched { input, change, .. } | Zset::Flips { input, change, .. } => {
                input.collect_staged(found);
                change.collect_staged(found);
            }
            Zset::Join { left, right, .. } => {
                left.collect_staged(found);
                right.collect_staged(found);
            }
            Zset::UnionAll(inputs) => inputs.iter().for_each(|input| input.collect_staged(found)),
        }
    }
}
