//! X · Δ∃R, the rows of X to which a change of R has given their first partner or taken their last.
//!
//! Where the condition is equality of columns (and conditions on one side alone), partners are counted per key of R:
//! X · Δ∃R = π(X ⋈ Δδ(keys of R))        with Δδ(k) = [n > 0] − [n − Δn > 0]
//! Otherwise they are counted per row of X that the change touches.

use crate::ir::{Conjunct, Rel, Scalar};
use crate::zset::Zset;

pub(super) fn presence(rows: Zset, left: &Rel, right: &Rel, change: &Zset, on: &[Conjunct]) -> Zset {
    let arity = left.arity();
    let is_right = |c: &&Conjunct| !c.condition.cols.is_empty() && c.condition.cols.iter().all(|col| *col >= arity);
    let (only, between): (Vec<&Conjunct>, Vec<&Conjunct>) = on.iter().partition(is_right);
    if !between.iter().all(|c| c.equi.is_some() || c.condition.cols.iter().all(|col| *col < arity)) {
        return Zset::Flips {
            input: Box::new(rows),
            right: right.clone(),
            change: Box::new(change.clone()),
            on: on.to_vec(),
        };
    }
    let mut keys: Vec<usize> = between.iter().filter_map(|c| c.equi).map(|(_, r)| r).collect();
    keys.sort_unstable();
    keys.dedup();
    let present = Zset::Presence {
        right: right.clone(),
        change: Box::new(change.clone()),
        keys,
        only: only.into_iter().cloned().collect(),
        left_arity: arity,
    };
    let between: Vec<Conjunct> = between.into_iter().cloned().collect();
    let exprs = left.cols().iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
    Zset::Map { input: Box::new(Zset::join(rows, present, &between)), exprs }
}
