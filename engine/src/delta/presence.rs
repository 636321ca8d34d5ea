//! L_old · Δ∃R, the rows of L before its change to which a change of R has given their first partner or taken their last.
//!
//! Where the condition is equality of columns (and conditions on one side alone), partners are counted per key of R:
//! L_old · Δ∃R = π(L ⋈ P) − π(ΔL ⋈ P)        with P = Δδ(keys of R), δ(k) = [n > 0]
//! Where R's rows can be told apart, its change tells which of them were there before, and nothing is counted.
//! Otherwise they are counted per row that the change touches, by the equalities that the condition has:
//! L_old · Δ∃R = X · Δ∃R                      with X = touched L − touched ΔL
//! Of ΔR only what the condition reads matters, so what cancels out there touches nothing.
//!
//! Where R never has more than one row, that row is its presence, whatever the condition:
//! L_old · Δ∃R = π(L ⋈ ΔR) − π(ΔL ⋈ ΔR), added up per row of L

use super::Changed;
use crate::ir::{Conjunct, Rel, Scalar};
use crate::keys::key;
use crate::liveness::Columns;
use crate::single::is_single;
use crate::zset::Zset;

pub(super) fn presence(
    (left, dl): (&Rel, Option<&Zset>),
    (right, dr): (&Rel, Zset),
    on: &[Conjunct],
    changed: &Changed,
) -> Zset {
    let arity = left.arity();
    if is_single(right) {
        return of_single((left, dl), dr, on, changed);
    }
    let is_right = |c: &&Conjunct| !c.condition.cols.is_empty() && c.condition.cols.iter().all(|col| *col >= arity);
    let (only, between): (Vec<Conjunct>, Vec<Conjunct>) = on.iter().cloned().partition(|c| is_right(&c));
    if between.iter().all(|c| c.equi.is_some() || c.condition.cols.iter().all(|col| *col < arity)) {
        per_key((left, dl), (right, dr), (only, between), changed)
    } else {
        per_row((left, dl), (right, dr), on, changed)
    }
}

fn of_single((left, dl): (&Rel, Option<&Zset>), dr: Zset, on: &[Conjunct], changed: &Changed) -> Zset {
    let dr = changed.share(dr);
    let cols = left.cols();
    let exprs: Vec<Scalar> = cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
    let pairs = |rows: Zset| Zset::Map { input: Box::new(Zset::join(rows, dr.clone(), on)), exprs: exprs.clone() };
    let now = pairs(Zset::Bag(left.clone()));
    let flips = match dl {
        Some(dl) => Zset::UnionAll(vec![now, pairs(dl.clone()).negate()]),
        None => now,
    };
    if cols.iter().any(|col| !col.ty.is_exact()) {
        return flips;
    }
    Zset::Netted { input: Box::new(flips), by: (0..cols.len()).collect() }
}

fn per_key(
    (left, dl): (&Rel, Option<&Zset>),
    (right, dr): (&Rel, Zset),
    (only, between): (Vec<Conjunct>, Vec<Conjunct>),
    changed: &Changed,
) -> Zset {
    let mut keys: Vec<usize> = between.iter().filter_map(|c| c.equi).map(|(_, r)| r).collect();
    keys.sort_unstable();
    keys.dedup();
    let left_arity = left.arity();
    let read = read_of_right(left_arity, &[only.as_slice(), &between].concat());
    let own = own_columns(right, &read, changed);
    let by = own.iter().flatten().chain(&read).copied().collect();
    let (right, change) = (right.clone(), Box::new(changed.share(netted(dr, &by))));
    let present = changed.share(Zset::Presence { right, change, keys, only, left_arity, own });
    let exprs: Vec<Scalar> = left.cols().iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
    let flipped =
        |rows: Zset| Zset::Map { input: Box::new(Zset::join(rows, present.clone(), &between)), exprs: exprs.clone() };
    let now = flipped(Zset::Bag(left.clone()));
    match dl {
        Some(dl) => Zset::UnionAll(vec![now, flipped(dl.clone()).negate()]),
        None => now,
    }
}

fn per_row((left, dl): (&Rel, Option<&Zset>), (right, dr): (&Rel, Zset), on: &[Conjunct], changed: &Changed) -> Zset {
    let dr = changed.share(netted(dr, &read_of_right(left.arity(), on)));
    let equalities: Vec<Conjunct> = on.iter().filter(|c| c.equi.is_some()).cloned().collect();
    let touched = |rows: Zset| match equalities.is_empty() {
        true => rows,
        false => Zset::Touched { input: Box::new(rows), change: Box::new(dr.clone()), on: equalities.clone() },
    };
    let now = touched(Zset::Bag(left.clone()));
    let rows = match dl {
        Some(dl) => Zset::UnionAll(vec![now, touched(dl.clone()).negate()]),
        None => now,
    };
    Zset::Flips { input: Box::new(changed.share(rows)), right: right.clone(), change: Box::new(dr), on: on.to_vec() }
}

fn read_of_right(left: usize, on: &[Conjunct]) -> Columns {
    on.iter().flat_map(|c| &c.condition.cols).filter_map(|c| c.checked_sub(left)).collect()
}

/// Columns by which the rows of the right side are told apart by plain equality, if its change can be netted by them.
fn own_columns(right: &Rel, read: &Columns, changed: &Changed) -> Option<Vec<usize>> {
    let (own, cols) = (key(right, &changed.keys)?, right.cols());
    let plain = |c: &usize| cols[*c].not_null && cols[*c].ty.equality_operator.is_none();
    let exact = |c: &usize| cols[*c].ty.is_exact();
    let told_apart = !own.is_empty() && own.iter().all(|c| plain(c) && exact(c)) && read.iter().all(exact);
    told_apart.then_some(own)
}

/// The change of the right side in these columns, what the condition reads of it. Values that are equal may differ in what a
/// condition makes of them, unless equal means identical.
fn netted(dr: Zset, by: &Columns) -> Zset {
    let cols = dr.cols();
    if by.is_empty() || by.iter().any(|c| !cols[*c].ty.is_exact()) {
        return dr;
    }
    Zset::Netted { input: Box::new(dr), by: by.iter().copied().collect() }
}
