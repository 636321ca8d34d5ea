//! Changes that find no partner in a kept selection need not be staged.
//!
//! ```text
//! Δ(S ⋈ κ) = (S ⋈ κ) − (S − ΔS) ⋈ (κ − Δκ)   is the same whatever ΔS lacks that has no partner in κ − Δκ, the rows kept so far
//! ```
//!
//! The rules are such differences at any depth of joins, and what was kept so far is at hand before anything is staged. (A row that
//! has its first partner in Δκ is found from there, at the new state of S.) What is equal to a kept column finds the same partners,
//! and so do groups made of it.

use crate::ir::{Equality, JoinKind, Rel, Ty};

/// The values that a column must have one of to matter: those that a stage has kept so far in a column, and NULLs that are equal to
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Values {
    /// The stage, from 0, which keeps a selection.
    pub stage: usize,
    /// Its column, from 0.
    pub column: usize,
}

/// Columns of a relation, from 0, whose values are to be among these, or the row does not matter.
pub(crate) type Restrictions = Vec<(usize, Values)>;

/// What is asked of each input's rows where this is asked of a relation's.
pub(crate) fn asked_below(rel: &Rel, asked: &Restrictions, stages: &[Rel]) -> Vec<Restrictions> {
    match rel {
        Rel::Filter { .. } => vec![asked.clone()],
        Rel::Map { exprs, .. } => {
            vec![asked.iter().filter_map(|(c, values)| Some((exprs[*c].column?, values.clone()))).collect()]
        }
        Rel::Join { kind: JoinKind::Inner, left, right, .. } => {
            let l = left.arity();
            let mut asked = asked.clone();
            for (a, b) in equal_columns(rel) {
                let of_left = values_of(left, a, stages).map(|values| (l + b, values));
                let of_right = values_of(right, b, stages).map(|values| (a, values));
                let other = |c: usize| if c == a { Some(l + b) } else { (c == l + b).then_some(a) };
                let alike: Restrictions =
                    asked.iter().filter_map(|(c, values)| Some((other(*c)?, values.clone()))).collect();
                asked.extend(of_left.into_iter().chain(of_right).chain(alike));
            }
            let (of_left, of_right): (Restrictions, Restrictions) = asked.into_iter().partition(|(c, _)| *c < l);
            vec![of_left, of_right.into_iter().map(|(c, values)| (c - l, values)).collect()]
        }
        Rel::Join { left, .. } => {
            vec![asked.iter().filter(|(c, _)| *c < left.arity()).cloned().collect(), Restrictions::new()]
        }
        _ => vec![Restrictions::new(); rel.inputs().len()],
    }
}

/// Values that a column has none but, as far as is easily seen.
fn values_of(rel: &Rel, column: usize, stages: &[Rel]) -> Option<Values> {
    match rel {
        Rel::State { stage, .. } => match &stages[*stage] {
            Rel::Selected { .. } => Some(Values { stage: *stage, column }),
            Rel::Aggregate { input, keys, .. } => values_of(input, keys.get(column)?.column?, stages),
            _ => None,
        },
        Rel::Filter { input, .. } => values_of(input, column, stages),
        Rel::Map { input, exprs } => values_of(input, exprs[column].column?, stages),
        Rel::Join { kind, left, right, .. } => {
            let l = left.arity();
            let side = |c: usize| match c.checked_sub(l) {
                None => values_of(left, c, stages),
                Some(c) if *kind == JoinKind::Inner => values_of(right, c, stages),
                Some(_) => None,
            };
            let equal = || {
                let mut equal = equal_columns(rel).filter(|_| matches!(kind, JoinKind::Inner | JoinKind::Semi));
                equal.find_map(|(a, b)| match column {
                    _ if column == a => values_of(right, b, stages),
                    _ if column == l + b => values_of(left, a, stages),
                    _ => None,
                })
            };
            side(column).or_else(equal)
        }
        _ => None,
    }
}

/// The columns, each counted on its own side, that a join compares and that look the same where they are equal.
fn equal_columns(rel: &Rel) -> impl Iterator<Item = (usize, usize)> {
    let Rel::Join { left, right, on, .. } = rel else { return Vec::new().into_iter() };
    let (left, right) = (left.cols(), right.cols());
    let plain = |ty: &Ty| ty.equality == Equality::Image && ty.equality_operator.is_none();
    let same = |(a, b): &(usize, usize)| left[*a].ty == right[*b].ty && plain(&left[*a].ty);
    on.iter().filter_map(|c| c.equi).filter(same).collect::<Vec<_>>().into_iter()
}
