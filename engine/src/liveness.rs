//! Which columns of an operator's inputs are used, where of its own only some are.

use crate::ir::{JoinKind, Rel, Scalar};
use std::collections::BTreeSet;

/// Columns of a relation, from 0.
pub(crate) type Columns = BTreeSet<usize>;

/// All columns of a relation.
pub(crate) fn all(rel: &Rel) -> Columns {
    (0..rel.arity()).collect()
}

/// For each input, in their order, the columns that are used if of the relation's columns only these are. What is kept as
/// it is (windows, first rows, recursions) is used as a whole.
pub(crate) fn used_below(rel: &Rel, used: &Columns) -> Vec<Columns> {
    match rel {
        Rel::Filter { predicates, .. } => vec![with(used, predicates)],
        Rel::Map { exprs, .. } => vec![with(&Columns::new(), used.iter().map(|c| &exprs[*c]))],
        Rel::Repeat { times, .. } => vec![with(used, [times])],
        Rel::UnionAll { inputs } => vec![used.clone(); inputs.len()],
        Rel::Join { kind, left, on, .. } => {
            let l = left.arity();
            let compared = with(&Columns::new(), on.iter().map(|c| &c.condition));
            let shown = if matches!(kind, JoinKind::Semi | JoinKind::Anti) { &Columns::new() } else { used };
            let of_left = used.union(&compared).copied().filter(|c| *c < l).collect();
            vec![of_left, shown.union(&compared).filter_map(|c| c.checked_sub(l)).collect()]
        }
        Rel::Aggregate { keys, aggs, .. } => {
            let read = aggs.iter().flat_map(|agg| [Some(&agg.call), agg.argument(), agg.filter.as_ref()]);
            vec![with(&Columns::new(), keys.iter().chain(read.flatten()))]
        }
        _ => rel.inputs().into_iter().map(all).collect(),
    }
}

fn with<'a>(used: &Columns, scalars: impl IntoIterator<Item = &'a Scalar>) -> Columns {
    used.iter().copied().chain(scalars.into_iter().flat_map(|s| s.cols.iter().copied())).collect()
}
