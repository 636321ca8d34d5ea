//! Δ(R ⊎ S) = ΔR + ΔS

use super::{Changed, delta as change};
use crate::ir::Rel;
use crate::zset::Zset;

pub(super) fn delta(inputs: &[Rel], changed: &Changed) -> Option<Zset> {
    Zset::sum(inputs.iter().map(|input| change(input, changed)))
}
