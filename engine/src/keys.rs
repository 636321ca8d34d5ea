//! Which output columns identify a row: by them the stream table's rows are found without looking at the rest.

use crate::dependencies::{dependencies, determine, reduce};
use crate::ir::{Conjunct, JoinKind, Rel, Scalar, SourceId};
use std::collections::{BTreeMap, BTreeSet};

/// What is known about the leaves.
#[derive(Clone, Debug, Default)]
pub struct KnownKeys {
    /// The primary keys of sources, by attribute number.
    pub sources: BTreeMap<SourceId, Vec<i16>>,
    /// The keys of what stages keep, by column, where they have one.
    pub stages: Vec<Option<Vec<usize>>>,
}

/// Output columns (from 0) that no two rows share, compared with NULL equal to NULL; as few as is easily seen. No columns
/// means at most one row, `None` that duplicates are possible.
pub fn key(rel: &Rel, known: &KnownKeys) -> Option<Vec<usize>> {
    Some(reduce(any_key(rel, known)?, &rel.cols(), &dependencies(rel, known)))
}

/// Whether no two rows agree in these columns, as far as is easily seen.
pub fn is_key(rel: &Rel, columns: &BTreeSet<usize>, known: &KnownKeys) -> bool {
    any_key(rel, known).is_some_and(|key| determine(columns, &key, &dependencies(rel, known)))
}

fn any_key(rel: &Rel, known: &KnownKeys) -> Option<Vec<usize>> {
    match rel {
        Rel::Scan { source, columns, .. } => known.sources.get(source)?.iter().map(|k| position(columns, k)).collect(),
        Rel::State { stage, .. } => known.stages.get(*stage).cloned().flatten(),
        Rel::Values { rows, .. } => (rows.len() < 2).then(Vec::new),
        Rel::TopK { limit, .. } if limit.rows < 2 && !limit.ties => Some(Vec::new()),
        Rel::Filter { input, .. }
        | Rel::Window { input, .. }
        | Rel::TopK { input, .. }
        | Rel::Compared { input }
        | Rel::Selected { input, .. } => any_key(input, known),
        Rel::Map { input, exprs } => any_key(input, known)?.iter().map(|k| kept(exprs, *k)).collect(),
        Rel::Aggregate { keys, .. } => Some((0..keys.len()).collect()),
        Rel::Fixpoint { base, all: false, .. } => Some((0..base.arity()).collect()),
        Rel::Repeat { .. } | Rel::Fixpoint { .. } | Rel::Recursive { .. } => None,
        Rel::FlatMap { input, rows } => {
            let (l, own) = (input.arity(), rows.key.as_ref()?);
            Some(any_key(input, known)?.into_iter().chain(own.iter().map(|k| l + k)).collect())
        }
        Rel::UnionAll { inputs } => match inputs.as_slice() {
            [only] => any_key(only, known),
            _ => None,
        },
        Rel::Join { kind: JoinKind::Semi | JoinKind::Anti, left, .. } => any_key(left, known),
        Rel::Join { left, right, on, .. } => {
            joined(any_key(left, known)?, any_key(right, known)?, on, left.arity(), rel_is_inner(rel))
        }
    }
}

fn rel_is_inner(rel: &Rel) -> bool {
    matches!(rel, Rel::Join { kind: JoinKind::Inner, .. })
}

fn position(columns: &[i16], attnum: &i16) -> Option<usize> {
    columns.iter().position(|c| c == attnum)
}

fn kept(exprs: &[Scalar], column: usize) -> Option<usize> {
    exprs.iter().position(|e| e.column == Some(column))
}

/// Each left row has at most one partner if the condition equates the right key with left columns; then the left key
/// is enough, and for an inner join likewise the other way round.
fn joined(l: Vec<usize>, r: Vec<usize>, on: &[Conjunct], left_arity: usize, inner: bool) -> Option<Vec<usize>> {
    let equated =
        |side: fn((usize, usize)) -> usize| -> BTreeSet<usize> { on.iter().filter_map(|c| c.equi).map(side).collect() };
    let right_key = || r.iter().map(|c| c + left_arity);
    if r.iter().all(|c| equated(|(_, right)| right).contains(c)) {
        Some(l)
    } else if inner && l.iter().all(|c| equated(|(left, _)| left).contains(c)) {
        Some(right_key().collect())
    } else {
        Some(l.iter().copied().chain(right_key()).collect())
    }
}
