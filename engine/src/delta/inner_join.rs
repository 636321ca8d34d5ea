//! Δ(L ⋈ R) = ΔL ⋈ R + L ⋈ ΔR − ΔL ⋈ ΔR        (L, R at their new state)
//!
//! Cost: three joins, each driven by a change.

use super::{Changed, delta as change};
use crate::ir::{Conjunct, Rel};
use crate::zset::Zset;

pub(super) fn delta(left: &Rel, right: &Rel, on: &[Conjunct], changed: &Changed) -> Option<Zset> {
    let (dl, dr) = (change(left, changed), change(right, changed));
    let new = |rel: &Rel| Zset::Bag(rel.clone());
    Zset::sum([
        dl.clone().map(|dl| Zset::join(dl, new(right), on)),
        dr.clone().map(|dr| Zset::join(new(left), dr, on)),
        dl.zip(dr).map(|(dl, dr)| Zset::join(dl, dr, on).negate()),
    ])
}
