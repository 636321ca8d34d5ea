//! Δ(R × times) = ΔR × times

use super::{Changed, delta as change};
use crate::ir::{Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, times: &Scalar, changed: &Changed) -> Option<Zset> {
    Some(Zset::Repeat { input: Box::new(change(input, changed)?), times: times.clone() })
}
