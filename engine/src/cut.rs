//! Cuts a query at its stateful operators into stages.
//!
//! A stage keeps one such operator's result in a table of its own; whatever stands above reads that table as it would
//! read a source. So delta rules see only stateless operators, at any depth of nesting:
//!
//! ```text
//! γ (A ⋈ γ B)   becomes   stage 1: γ B,   stage 2: γ (A ⋈ stage 1),   root: stage 2
//! ```
//!
//! There are as many kinds of stage as [stateful operators](Rel::is_stateful); how each keeps its result up to date is
//! the business of its plan in `plan/stage/`, and of nobody else.

use crate::ir::{Conjunct, Equality, JoinKind, Rel};
use crate::program::Unsupported;
use crate::recursion::{linear, recomputable, references};
use crate::single::is_single;

/// A query in stages, each reading only sources and stages before it; the root reads any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    /// The stages: a stateful operator each, with none beneath it.
    pub stages: Vec<Rel>,
    /// The rest, without stateful operators.
    pub root: Rel,
}

/// Cuts a query, or says what it contains that has no rule.
pub fn cut(query: &Rel) -> Result<Stages, Unsupported> {
    let mut stages = Vec::new();
    let root = cut_below(query, &mut stages)?;
    Ok(Stages { stages, root })
}

fn cut_below(rel: &Rel, stages: &mut Vec<Rel>) -> Result<Rel, Unsupported> {
    if let Rel::Join { kind, left, on, .. } = rel {
        comparable(*kind, left, on)?;
    }
    // What stands above a recursion's own rows is computed within it.
    if !rel.is_stateful() || !matches!(rel, Rel::Fixpoint { .. }) && references(rel) > 0 {
        return rel.try_map_inputs(&mut |input| cut_below(input, stages));
    }
    recomputable(rel, false)?;
    let rel = &linear(rel).unwrap_or_else(|_| rel.clone());
    storable(rel)?;
    let stage = rel.try_map_inputs(&mut |input| cut_below(input, stages))?;
    let (single, few) = (is_single(&stage), matches!(stage, Rel::Selected { .. }));
    Ok(Rel::State { single, few, stage: once(stage, stages), cols: rel.cols() })
}

/// What a query reads several times (a CTE, a side of a full join) is kept once.
fn once(stage: Rel, stages: &mut Vec<Rel>) -> usize {
    stages.iter().position(|known| *known == stage).unwrap_or_else(|| {
        stages.push(stage);
        stages.len() - 1
    })
}

/// A stage's table cannot have columns of a pseudo-type, such as those of `ROW(..)`.
fn storable(stage: &Rel) -> Result<(), Unsupported> {
    const PSEUDO: [&str; 4] = ["record", "record[]", "unknown", "cstring"];
    let cols = stage.cols();
    match cols.iter().find(|col| PSEUDO.contains(&col.ty.sql.as_str())) {
        Some(col) => {
            Err(Unsupported { reason: format!("{} with a column of pseudo-type {}", stage.name(), col.ty.sql) })
        }
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
