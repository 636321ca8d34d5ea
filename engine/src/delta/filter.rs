//! Δ(σ R) = σ ΔR

use super::{Changed, delta as change};
use crate::ir::{Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, predicates: &[Scalar], changed: &Changed) -> Option<Zset> {
    if let Rel::Scan { source, columns, .. } = input
        && !changed.concerns(*source, columns, predicates)
    {
        return None;
    }
    Some(Zset::Filter { input: Box::new(change(input, changed)?), predicates: predicates.to_vec() })
}
