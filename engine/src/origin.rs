//! From which column of a source the values of a column are taken as they are.
//!
//! Whoever plans joins with what was staged or is kept then knows how many values there could be.

use crate::cut::Stages;
use crate::ir::{JoinKind, Rel, Scalar, SourceId};
use crate::zset::Zset;

/// A column of a source by attribute number, for each column of a relation; none for values that are computed.
pub type Origins = Vec<Option<(SourceId, i16)>>;

/// The origins of what each stage keeps.
pub(crate) fn of_stages(stages: &Stages) -> Vec<Origins> {
    let mut known = Vec::new();
    for stage in &stages.stages {
        let origins = of_rel(stage, &known);
        known.push(origins);
    }
    known
}

/// The origins of a query's columns.
pub(crate) fn origins(query: &Rel) -> Origins {
    of_rel(query, &[])
}

/// The origins of a relation's columns, where those of the stages that it reads are known.
fn of_rel(rel: &Rel, stages: &[Origins]) -> Origins {
    let of = |rel: &Rel| of_rel(rel, stages);
    match rel {
        Rel::Scan { source, columns, .. } => columns.iter().map(|column| Some((*source, *column))).collect(),
        Rel::State { stage, .. } => stages[*stage].clone(),
        Rel::Map { input, exprs } => mapped(exprs, &of(input)),
        Rel::Filter { input, .. }
        | Rel::Repeat { input, .. }
        | Rel::Compared { input }
        | Rel::Selected { input, .. }
        | Rel::TopK { input, .. } => of(input),
        Rel::Join { kind: JoinKind::Semi | JoinKind::Anti, left, .. } => of(left),
        Rel::Join { left, right, .. } => [of(left), of(right)].concat(),
        Rel::Aggregate { input, keys, aggs } => [mapped(keys, &of(input)), vec![None; aggs.len()]].concat(),
        Rel::FlatMap { input, .. } | Rel::Window { input, .. } => padded(of(input), rel.arity()),
        Rel::UnionAll { inputs } => inputs.first().map(of).unwrap_or_default(),
        Rel::Values { .. } | Rel::Fixpoint { .. } | Rel::Recursive { .. } => vec![None; rel.arity()],
    }
}

/// The origins of a change's columns.
pub(crate) fn of_zset(zset: &Zset, stages: &[Origins]) -> Origins {
    let of = |zset: &Zset| of_zset(zset, stages);
    match zset {
        Zset::Bag(rel) | Zset::Presence { right: rel, .. } => of_rel(rel, stages),
        Zset::SourceChange { source, columns, .. } => columns.iter().map(|column| Some((*source, *column))).collect(),
        Zset::StageChange { stage, .. } => stages[*stage].clone(),
        Zset::Map { input, exprs } => mapped(exprs, &of(input)),
        Zset::Filter { input, .. }
        | Zset::Touched { input, .. }
        | Zset::Matching { input, .. }
        | Zset::Flips { input, .. }
        | Zset::Netted { input, .. }
        | Zset::Repeat { input, .. }
        | Zset::Negate(input) => of(input),
        Zset::Join { left, right, .. } => [of(left), of(right)].concat(),
        Zset::Product { inputs, .. } => {
            let placed = inputs.iter().flat_map(|input| input.at.iter().copied().zip(of(&input.zset)));
            let mut placed: Vec<_> = placed.collect();
            placed.sort_by_key(|(place, _)| *place);
            placed.into_iter().map(|(_, origin)| origin).collect()
        }
        Zset::Shared { value, .. } => of(value),
        Zset::FlatMap { input, .. } => padded(of(input), zset.arity()),
        Zset::UnionAll(inputs) => inputs.first().map(of).unwrap_or_default(),
    }
}

fn mapped(exprs: &[Scalar], input: &Origins) -> Origins {
    exprs.iter().map(|expr| input.get(expr.column?).copied().flatten()).collect()
}

fn padded(mut origins: Origins, arity: usize) -> Origins {
    origins.resize(arity, None);
    origins
}
