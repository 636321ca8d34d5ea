//! Cuts a query at its stateful operators into stages.
//!
//! A stage keeps one aggregate's result in a table of its own; whatever stands above reads that table as it would read
//! a source. So delta rules see only scans, joins, filters, maps, unions and repeats, at any depth of nesting.

use crate::ir::{Agg, Col, Conjunct, Equality, JoinKind, Rel, Scalar};
use crate::program::Unsupported;

/// One aggregate over an input without aggregates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What is grouped.
    pub input: Rel,
    /// By what.
    pub keys: Vec<Scalar>,
    /// What is computed per group.
    pub aggs: Vec<Agg>,
}

impl Stage {
    /// The key columns.
    pub fn key_cols(&self) -> Vec<Col> {
        self.keys.iter().map(Scalar::col).collect()
    }
}

/// A query in stages, each reading only sources and stages before it; the root reads any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    /// The stages.
    pub stages: Vec<Stage>,
    /// The rest.
    pub root: Rel,
}

/// Cuts a query, or says what it contains that has no rule.
pub fn cut(query: &Rel) -> Result<Stages, Unsupported> {
    let mut stages = Vec::new();
    let root = cut_below(query, &mut stages)?;
    Ok(Stages { stages, root })
}

fn cut_below(rel: &Rel, stages: &mut Vec<Stage>) -> Result<Rel, Unsupported> {
    let boxed = |rel: &Rel, stages: &mut Vec<Stage>| cut_below(rel, stages).map(Box::new);
    Ok(match rel {
        Rel::Scan { .. } | Rel::State { .. } | Rel::Values { .. } => rel.clone(),
        Rel::Map { input, exprs } => Rel::Map { input: boxed(input, stages)?, exprs: exprs.clone() },
        Rel::Filter { input, predicates } => {
            Rel::Filter { input: boxed(input, stages)?, predicates: predicates.clone() }
        }
        Rel::Repeat { input, times } => Rel::Repeat { input: boxed(input, stages)?, times: times.clone() },
        Rel::Join { kind, left, right, on } => {
            comparable(*kind, left, on)?;
            Rel::Join { kind: *kind, left: boxed(left, stages)?, right: boxed(right, stages)?, on: on.clone() }
        }
        Rel::UnionAll { inputs } => {
            Rel::UnionAll { inputs: inputs.iter().map(|i| cut_below(i, stages)).collect::<Result<_, _>>()? }
        }
        Rel::Aggregate { input, keys, aggs } => {
            storable(rel)?;
            let stage = Stage { input: cut_below(input, stages)?, keys: keys.clone(), aggs: aggs.clone() };
            Rel::State { stage: once(stage, stages), cols: rel.cols() }
        }
    })
}

/// What a query reads several times (a CTE, a side of a full join) is kept once.
fn once(stage: Stage, stages: &mut Vec<Stage>) -> usize {
    stages.iter().position(|known| *known == stage).unwrap_or_else(|| {
        stages.push(stage);
        stages.len() - 1
    })
}

/// A stage's table cannot have columns of a pseudo-type, such as those of `ROW(..)`.
fn storable(aggregate: &Rel) -> Result<(), Unsupported> {
    const PSEUDO: [&str; 4] = ["record", "record[]", "unknown", "cstring"];
    let cols = aggregate.cols();
    match cols.iter().find(|col| PSEUDO.contains(&col.ty.sql.as_str())) {
        Some(col) => Err(Unsupported { reason: format!("an aggregate with a column of pseudo-type {}", col.ty.sql) }),
        None => Ok(()),
    }
}

/// All joins but inner ones count partners per value of the left columns that their condition reads.
fn comparable(kind: JoinKind, left: &Rel, on: &[Conjunct]) -> Result<(), Unsupported> {
    let left = left.cols();
    let blind = |c: &usize| left.get(*c).is_some_and(|col| col.ty.equality == Equality::None);
    match on.iter().flat_map(|c| &c.condition.cols).find(|c| blind(c)) {
        Some(c) if kind != JoinKind::Inner => Err(Unsupported {
            reason: format!("{} join on a column of type {}, which has no equality", kind.name(), left[*c].ty.sql),
        }),
        _ => Ok(()),
    }
}
