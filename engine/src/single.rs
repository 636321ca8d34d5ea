//! Joins with at most one row, of which only their condition reads anything, as semi joins.
//!
//! ```text
//! L ⋈ R = (L ⋉ R) × NULL      if |R| ≤ 1 and R's columns are not used above
//! ```
//!
//! So it is with most subqueries for a value that are compared with: when the value moves, only those rows change that lie
//! between the old one and the new.

use crate::ir::{JoinKind, Rel, Scalar};
use crate::liveness::{Columns, all, used_below};
use std::convert::Infallible;

/// The same query with semi joins in place of such joins.
pub fn as_semi_joins(query: &Rel) -> Rel {
    rewritten(query, &all(query))
}

/// Whether a relation has at most one row, as a subquery for a value.
pub(crate) fn is_single(rel: &Rel) -> bool {
    match rel {
        Rel::State { single, .. } => *single,
        Rel::Aggregate { keys, .. } => keys.is_empty(),
        Rel::Map { input, .. } | Rel::Filter { input, .. } => is_single(input),
        _ => false,
    }
}

fn rewritten(rel: &Rel, used: &Columns) -> Rel {
    let mut below = used_below(rel, used).into_iter();
    let Ok(rel) = rel.try_map_inputs::<Infallible>(&mut |input| {
        let used = below.next().unwrap_or_else(|| all(input));
        Ok(rewritten(input, &used))
    });
    match &rel {
        Rel::Join { kind: JoinKind::Inner, left, right, on }
            if is_single(right) && used.iter().all(|c| *c < left.arity()) =>
        {
            let kept = left.cols().iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect::<Vec<_>>();
            let exprs = kept.into_iter().chain(right.cols().iter().map(|col| Scalar::null(&col.ty))).collect();
            let semi = left.as_ref().clone().join(JoinKind::Semi, right.as_ref().clone(), on.clone());
            semi.and_then(|semi| semi.map(exprs)).unwrap_or(rel)
        }
        _ => rel,
    }
}
