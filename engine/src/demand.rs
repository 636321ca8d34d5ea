//! Groups that nobody asks for are not kept.
//!
//! ```text
//! L ⋈ γₖ(R) on l = k   =   L ⋈ γₖ(R ⋈ D on k = d)      D = δ π_d σ S, a filtered part of L with all values that l has
//! ```
//!
//! The same holds for L ⟕, ⋉ and ▷ γₖ(R): groups without a partner do not matter. So it is with a correlated subquery that
//! aggregates: of the groups of all keys there are, the rows outside ask for a few. D is a stage like any DISTINCT; it
//! follows when other keys are asked for.

use crate::ir::{JoinKind, Malformed, Rel, Scalar, Ty};
use crate::joined::equality;
use std::convert::Infallible;

/// The same query, in which groups are kept only where a filter says which are wanted.
pub fn restrict(query: &Rel) -> Rel {
    restricted(query, query)
}

fn restricted(rel: &Rel, query: &Rel) -> Rel {
    let Ok(rel) = rel.try_map_inputs::<Infallible>(&mut |input| Ok(restricted(input, query)));
    match &rel {
        Rel::Join { kind, left, right, on } => {
            let mut asked = on.iter().filter_map(|c| c.equi).filter_map(|(l, r)| asked(left, l, right, r, query));
            let right = asked.next();
            right.and_then(|right| left.as_ref().clone().join(*kind, right, on.clone()).ok()).unwrap_or(rel)
        }
        _ => rel,
    }
}

/// The right side with the groups alone that the left side asks for.
fn asked(left: &Rel, l: usize, right: &Rel, r: usize, query: &Rel) -> Option<Rel> {
    let ty = &right.cols()[r].ty;
    let plain = ty.is_exact() && ty.equality_operator.is_none() && left.cols()[l].ty == *ty;
    let wanted = plain.then(|| source_of(left, l)).flatten()?;
    with_groups_of(right, r, &wanted, query)
}

/// A filtered relation of one column with all values that this column has, as small as is easily seen.
fn source_of(rel: &Rel, column: usize) -> Option<Rel> {
    match rel {
        Rel::Filter { input, .. } if matches!(**input, Rel::Scan { .. }) => {
            rel.clone().map(vec![Scalar::column(column, &rel.cols()[column])]).ok()
        }
        Rel::Selected { .. } => rel.clone().map(vec![Scalar::column(column, &rel.cols()[column])]).ok(),
        Rel::Filter { input, .. } => source_of(input, column),
        Rel::Map { input, exprs } => source_of(input, exprs[column].column?),
        Rel::Join { kind, left, right, on } => {
            let l = left.arity();
            let inner = *kind == JoinKind::Inner;
            let same = |ty: &Ty| ty.is_exact() && *ty == rel_type(left, right, column);
            let sides = |c: usize| if c < l { source_of(left, c) } else { source_of(right, c - l) };
            let other = on.iter().filter_map(|c| c.equi).find_map(|(a, b)| match column {
                _ if !matches!(kind, JoinKind::Inner | JoinKind::Semi) => None,
                _ if a == column && same(&right.cols()[b].ty) => source_of(right, b),
                _ if l + b == column && same(&left.cols()[a].ty) => source_of(left, a),
                _ => None,
            });
            if inner || column < l { sides(column).or(other) } else { None }
        }
        _ => None,
    }
}

fn rel_type(left: &Rel, right: &Rel, column: usize) -> Ty {
    let l = left.arity();
    if column < l { left.cols()[column].ty.clone() } else { right.cols()[column - l].ty.clone() }
}

/// The relation whose groups by this column are those of wanted values alone; none if it is no key of groups, or if they
/// are read elsewhere, too.
fn with_groups_of(rel: &Rel, column: usize, wanted: &Rel, query: &Rel) -> Option<Rel> {
    match rel {
        Rel::Map { input, exprs } => {
            with_groups_of(input, exprs[column].column?, wanted, query)?.map(exprs.clone()).ok()
        }
        Rel::Filter { input, predicates } => {
            with_groups_of(input, column, wanted, query)?.filter(predicates.clone()).ok()
        }
        Rel::Aggregate { input, keys, aggs } if !aggs.is_empty() && times_in(query, rel) < 2 => {
            let key = keys.get(column)?.column?;
            let input = joined(input, key, wanted).ok()?;
            input.aggregate(keys.clone(), aggs.clone()).ok()
        }
        _ => None,
    }
}

/// The rows with a wanted value, each with it once more at the end.
fn joined(rel: &Rel, key: usize, wanted: &Rel) -> Result<Rel, Malformed> {
    if let Rel::Map { input, exprs } = rel
        && let Some(below) = exprs[key].column
    {
        let last = input.arity();
        let inner = joined(input, below, wanted)?;
        let value = Scalar::column(last, &inner.cols()[last]);
        return inner.map(exprs.iter().cloned().chain([value]).collect());
    }
    let (arity, wanted) = (rel.arity(), wanted.clone().distinct()?);
    rel.clone().join(JoinKind::Inner, wanted, vec![equality(key, 0, arity)])
}

fn times_in(query: &Rel, wanted: &Rel) -> usize {
    let mut times = 0;
    query.visit(&mut |rel| times += usize::from(rel == wanted));
    times
}
