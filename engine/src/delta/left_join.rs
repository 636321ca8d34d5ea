//! L ⟕ R = (L ⋈ R) ⊎ (L ▷ R) × NULL, so
//! Δ(L ⟕ R) = Δ(L ⋈ R) + Δ(L ▷ R) × NULL

use super::{Changed, delta as change, inner_join, semi_join};
use crate::ir::{Col, Conjunct, Rel, Scalar};
use crate::zset::Zset;

pub(super) fn delta(left: &Rel, right: &Rel, on: &[Conjunct], changed: &Changed) -> Option<Zset> {
    let shared = |rel: &Rel| change(rel, changed).map(|zset| changed.share(zset));
    let (dl, dr) = (shared(left), shared(right));
    let pairs = inner_join::of_two((left, dl.clone()), (right, dr.clone()), on, changed);
    let lonely = semi_join::of_two((left, dl), (right, dr), on, false, changed);
    Zset::sum([
        pairs,
        lonely.map(|rows| Zset::Map { input: Box::new(rows), exprs: padded(&left.cols(), &right.cols()) }),
    ])
}

fn padded(left: &[Col], right: &[Col]) -> Vec<Scalar> {
    let kept = left.iter().enumerate().map(|(i, col)| Scalar::column(i, col));
    kept.chain(right.iter().map(|col| Scalar::null(&col.ty))).collect()
}
