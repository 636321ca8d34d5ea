//! Δ(π R) = π ΔR

use super::{Changed, delta as change};
use crate::ir::{Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, exprs: &[Scalar], changed: &Changed) -> Option<Zset> {
    Some(Zset::Map { input: Box::new(change(input, changed)?), exprs: exprs.to_vec() })
}
