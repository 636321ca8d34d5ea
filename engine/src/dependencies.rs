//! Functional dependencies: which columns follow from which others, so that fewer of them identify a row.
//!
//! A source's primary key determines its columns, a stage's key what it keeps; columns found equal by an inner join determine
//! each other. Grouping by a customer's id, name and address is grouping by the id.

use crate::ir::{Col, Conjunct, JoinKind, Rel, Scalar};
use crate::keys::KnownKeys;
use std::collections::BTreeSet;

/// Rows that agree in `from` agree in `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    from: BTreeSet<usize>,
    to: BTreeSet<usize>,
}

impl Dependency {
    /// Whether it tells a row of a left join's right side from the NULLs that stand for none: something that it follows from is
    /// not NULL in a partner. (Without a condition there are either partners for all or NULLs for all.)
    fn is_of_a_row(&self, right: &[Col], on: &[Conjunct]) -> bool {
        let equated = |column: &usize| on.iter().any(|c| c.equi.is_some_and(|(_, b)| b == *column));
        self.from.iter().any(|column| right[*column].not_null || equated(column))
    }
}

/// The dependencies among a relation's columns, as far as they are easily seen.
pub fn dependencies(rel: &Rel, known: &KnownKeys) -> Vec<Dependency> {
    match rel {
        Rel::Scan { source, columns, .. } => {
            let position = |attnum: &i16| columns.iter().position(|c| c == attnum);
            let key = known.sources.get(source).and_then(|key| key.iter().map(position).collect());
            whole_row(key, columns.len())
        }
        Rel::State { stage, cols, .. } => {
            let key = known.stages.get(*stage).and_then(Option::as_ref);
            whole_row(key.map(|key| key.iter().copied().collect()), cols.len())
        }
        Rel::Filter { input, .. }
        | Rel::Repeat { input, .. }
        | Rel::FlatMap { input, .. }
        | Rel::Window { input, .. }
        | Rel::TopK { input, .. }
        | Rel::Compared { input }
        | Rel::Selected { input, .. } => dependencies(input, known),
        Rel::Map { input, exprs } => among(input, exprs, known),
        Rel::Join { kind: JoinKind::Semi | JoinKind::Anti, left, .. } => dependencies(left, known),
        Rel::Join { kind, left, right, on } => {
            let l = left.arity();
            let mut found = dependencies(left, known);
            let of_right = dependencies(right, known);
            let survives =
                |d: &&Dependency| *kind == JoinKind::Inner || on.is_empty() || d.is_of_a_row(&right.cols(), on);
            found.extend(of_right.iter().filter(survives).map(|d| shifted(d, l)));
            if *kind == JoinKind::Inner {
                let equal = on.iter().filter_map(|c| c.equi);
                found.extend(equal.flat_map(|(a, b)| [follows(a, l + b), follows(l + b, a)]));
            }
            found
        }
        Rel::UnionAll { inputs } => match inputs.as_slice() {
            [only] => dependencies(only, known),
            _ => Vec::new(),
        },
        Rel::Aggregate { input, keys, aggs } => {
            let mut found = among(input, keys, known);
            found.extend(whole_row(Some((0..keys.len()).collect()), keys.len() + aggs.len()));
            found
        }
        Rel::Values { .. } | Rel::Fixpoint { .. } | Rel::Recursive { .. } => Vec::new(),
    }
}

/// The dependencies among expressions over an input.
fn among(input: &Rel, exprs: &[Scalar], known: &KnownKeys) -> Vec<Dependency> {
    let all = dependencies(input, known);
    all.iter().filter_map(|d| mapped(&d.from, &closure(&d.from, &all), exprs)).collect()
}

fn whole_row(key: Option<BTreeSet<usize>>, arity: usize) -> Vec<Dependency> {
    key.map(|from| Dependency { from, to: (0..arity).collect() }).into_iter().collect()
}

fn follows(from: usize, to: usize) -> Dependency {
    Dependency { from: [from].into(), to: [to].into() }
}

fn shifted(d: &Dependency, by: usize) -> Dependency {
    let shift = |set: &BTreeSet<usize>| set.iter().map(|c| c + by).collect();
    Dependency { from: shift(&d.from), to: shift(&d.to) }
}

/// The dependency among the columns that are kept, if all that it follows from are.
fn mapped(from: &BTreeSet<usize>, to: &BTreeSet<usize>, exprs: &[Scalar]) -> Option<Dependency> {
    let position = |c: &usize| exprs.iter().position(|e| e.column == Some(*c));
    let from = from.iter().map(position).collect::<Option<_>>()?;
    let kept = |(_, e): &(usize, &Scalar)| e.column.is_some_and(|c| to.contains(&c));
    let to = exprs.iter().enumerate().filter(kept).map(|(i, _)| i).collect();
    Some(Dependency { from, to })
}

/// A key without columns that follow from the rest of it; those that may be NULL are given up first.
pub fn reduce(key: Vec<usize>, cols: &[Col], dependencies: &[Dependency]) -> Vec<usize> {
    let mut kept: BTreeSet<usize> = key.iter().copied().collect();
    let mut candidates = key.clone();
    candidates.sort_by_key(|c| (cols[*c].not_null, std::cmp::Reverse(*c)));
    for candidate in candidates {
        kept.remove(&candidate);
        if !closure(&kept, dependencies).contains(&candidate) {
            kept.insert(candidate);
        }
    }
    key.into_iter().filter(|c| kept.contains(c)).collect()
}

/// Whether rows that agree in `columns` agree in `wanted`.
pub fn determine(columns: &BTreeSet<usize>, wanted: &[usize], dependencies: &[Dependency]) -> bool {
    let closure = closure(columns, dependencies);
    wanted.iter().all(|c| closure.contains(c))
}

fn closure(columns: &BTreeSet<usize>, dependencies: &[Dependency]) -> BTreeSet<usize> {
    let mut known = columns.clone();
    loop {
        let size = known.len();
        for d in dependencies.iter().filter(|d| d.from.is_subset(&known)).collect::<Vec<_>>() {
            known.extend(&d.to);
        }
        if known.len() == size {
            return known;
        }
    }
}
