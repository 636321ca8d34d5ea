//! Δ(σ R) = σ ΔR

use super::{Changed, delta as change, leaf};
use crate::ir::{Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, predicates: &[Scalar], changed: &Changed) -> Option<Zset> {
    // A filtered scan may see a change that does not matter to a scan of the same columns without a filter.
    let below = match input {
        Rel::Scan { source, columns, cols } => leaf::scan(*source, columns, cols, predicates, changed),
        _ => change(input, changed),
    };
    Some(Zset::Filter { input: Box::new(below?), predicates: predicates.to_vec() })
}
