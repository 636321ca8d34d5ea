//! Δ(σ R) = σ ΔR

use super::{Changed, delta as change};
use crate::ir::{Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, predicates: &[Scalar], changed: &Changed) -> Option<Zset> {
    Some(Zset::Filter { input: Box::new(change(input, changed)?), predicates: predicates.to_vec() })
}
