//! Δ(R ⋈lateral f(R)) = ΔR ⋈lateral f(ΔR), and the same of ⟕: which rows a function returns for a row depends on that
//! row alone.

use super::{Changed, delta as change};
use crate::ir::{Rel, Rows};
use crate::zset::Zset;

pub(super) fn delta(input: &Rel, rows: &Rows, changed: &Changed) -> Option<Zset> {
    Some(Zset::FlatMap { input: Box::new(change(input, changed)?), rows: rows.clone() })
}
