//! Δ(source) = what was staged of it; Δ(stage) = what its own step found out; Δ(constants) = ∅;
//! a recursive reference is held as it is (its stage asks what changes around it): Δ = ∅

use super::Changed;
use crate::ir::Rel;
use crate::zset::Zset;

pub(super) fn delta(leaf: &Rel, changed: &Changed) -> Option<Zset> {
    match leaf {
        Rel::Scan { source, columns, cols } if changed.concerns(*source, columns, &[]) => {
            Some(Zset::SourceChange { source: *source, columns: columns.clone(), cols: cols.clone() })
        }
        Rel::State { stage, cols, .. } if changed.stages.contains(stage) => {
            Some(Zset::StageChange { stage: *stage, cols: cols.clone() })
        }
        _ => None,
    }
}
