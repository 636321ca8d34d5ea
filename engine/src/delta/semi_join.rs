//! Let ∃R be, for each row on the left, 1 if it has a partner in R and 0 if not, and Δ∃R the change of that. Then
//! Δ(L ⋉ R) = ΔL ⋉ R + L_old · Δ∃R        (R at its new state)
//! Δ(L ▷ R) = ΔL ▷ R − L_old · Δ∃R
//!
//! Cost: the first term is driven by ΔL, the other by ΔR, which counts the partners of what it touches.

use super::presence::presence;
use super::{Changed, delta as change};
use crate::ir::{Conjunct, Rel};
use crate::zset::Zset;

pub(super) fn delta(left: &Rel, right: &Rel, on: &[Conjunct], semi: bool, changed: &Changed) -> Option<Zset> {
    of_two((left, change(left, changed)), (right, change(right, changed)), on, semi, changed)
}

/// The same where the changes of both sides are known.
pub(super) fn of_two(
    (left, dl): (&Rel, Option<Zset>),
    (right, dr): (&Rel, Option<Zset>),
    on: &[Conjunct],
    semi: bool,
    changed: &Changed,
) -> Option<Zset> {
    let dl = if dr.is_some() { dl.map(|dl| changed.share(dl)) } else { dl };
    let flips = dr.map(|dr| presence((left, dl.as_ref()), (right, dr), on, changed));
    Zset::sum([
        flips.map(|flips| if semi { flips } else { flips.negate() }),
        dl.map(|dl| Zset::Matching { input: Box::new(dl), right: right.clone(), on: on.to_vec(), matched: semi }),
    ])
}
