//! Let ∃R be, for each row on the left, 1 if it has a partner in R and 0 if not, and Δ∃R the change of that. Then
//! Δ(L ⋉ R) = ΔL ⋉ R + L_old · Δ∃R = ΔL ⋉ R + L · Δ∃R − ΔL · Δ∃R        (L, R at their new state)
//! Δ(L ▷ R) = ΔL ▷ R − L · Δ∃R + ΔL · Δ∃R
//!
//! Cost: the first term is driven by ΔL, the others by ΔR, which counts the partners of what it touches.

use super::presence::presence;
use super::{Changed, delta as change};
use crate::ir::{Conjunct, Rel};
use crate::zset::Zset;

pub(super) fn delta(left: &Rel, right: &Rel, on: &[Conjunct], semi: bool, changed: &Changed) -> Option<Zset> {
    let (dl, dr) = (change(left, changed), change(right, changed));
    let signed = |zset: Zset, positive: bool| if positive { zset } else { zset.negate() };
    let flips = |rows: Zset, dr: &Zset| presence(rows, left, right, dr, on);
    Zset::sum([
        dr.as_ref().map(|dr| signed(flips(Zset::Bag(left.clone()), dr), semi)),
        dr.as_ref().zip(dl.clone()).map(|(dr, dl)| signed(flips(dl, dr), !semi)),
        dl.map(|dl| Zset::Matching { input: Box::new(dl), right: right.clone(), on: on.to_vec(), matched: semi }),
    ])
}
