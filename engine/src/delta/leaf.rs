//! Δ(source) = what was staged of it; Δ(stage) = what its own step found out; Δ(constants) = ∅;
//! a recursive reference is held as it is (its stage asks what changes around it): Δ = ∅

use super::Changed;
use crate::ir::{Col, Rel, Scalar, SourceId};
use crate::zset::Zset;

pub(super) fn delta(leaf: &Rel, changed: &Changed) -> Option<Zset> {
    match leaf {
        Rel::Scan { source, columns, cols } => scan(*source, columns, cols, &[], changed),
        Rel::State { stage, cols, .. } if changed.stages.contains(stage) => {
            Some(Zset::StageChange { stage: *stage, cols: cols.clone() })
        }
        _ => None,
    }
}

/// What a scan sees that has these predicates right above it.
pub(super) fn scan(
    source: SourceId,
    columns: &[i16],
    cols: &[Col],
    predicates: &[Scalar],
    changed: &Changed,
) -> Option<Zset> {
    let seen = || Zset::SourceChange { source, columns: columns.to_vec(), cols: cols.to_vec() };
    changed.concerns(source, columns, predicates).then(seen)
}
