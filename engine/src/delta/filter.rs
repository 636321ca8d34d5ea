//! Δ(σ R) = σ ΔR
//!
//! Where all that was staged is known to pass, there is nothing to filter.

use super::{Changed, delta as change, leaf};
use crate::ir::{Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, predicates: &[Scalar], changed: &Changed) -> Option<Zset> {
    // A filtered scan may see a change that does not matter to a scan of the same columns without a filter.
    let below = match input {
        Rel::Scan { source, columns, cols } => leaf::scan(*source, columns, cols, predicates, changed),
        _ => change(input, changed),
    }?;
    match input {
        Rel::Scan { source, .. } if changed.passed.contains(source) => Some(below),
        _ => Some(Zset::Filter { input: Box::new(below), predicates: predicates.to_vec() }),
    }
}
