//! Constructs of SQL that need no rule of their own, because they are others in disguise.

use crate::ir::{Agg, AggKind, Conjunct, JoinKind, Malformed, Rel, Scalar, Ty};
use crate::sql;
use crate::sql::Sql;

/// R RIGHT JOIN: L ⟖ R = R ⟕ L with its columns put back in order. The condition is over right ++ left.
pub fn right_join(left: Rel, right: Rel, on: Vec<Conjunct>) -> Result<Rel, Malformed> {
    let (l, r) = (left.arity(), right.arity());
    let swapped = right.join(JoinKind::Left, left, on)?;
    let cols = swapped.cols();
    let order = (r..r + l).chain(0..r).map(|i| Scalar::column(i, &cols[i])).collect();
    swapped.map(order)
}

/// L ⟗ R = (L ⟕ R) ⊎ NULL × (R ▷ L). The second condition says the same as the first, over right ++ left.
pub fn full_join(left: Rel, right: Rel, on: Vec<Conjunct>, swapped: Vec<Conjunct>) -> Result<Rel, Malformed> {
    let nulls = left.cols().into_iter().map(|col| Scalar::null(&col.ty));
    let kept = right.cols().into_iter().enumerate().map(|(i, col)| Scalar::column(i, &col));
    let padded = nulls.chain(kept).collect();
    let lonely = right.clone().join(JoinKind::Anti, left.clone(), swapped)?.map(padded)?;
    Rel::union_all(vec![left.join(JoinKind::Left, right, on)?, lonely])
}

/// INTERSECT: the rows that are on both sides; with ALL as often as on the side where they are rarer.
pub fn intersect(left: Rel, right: Rel, all: bool) -> Result<Rel, Malformed> {
    match all {
        true => counted(left, right, |l, r| sql!("LEAST({}, {})", l, r), Keep::Times),
        false => counted(left, right, |l, r| sql!("({} > 0 AND {} > 0)", l, r), Keep::Once),
    }
}

/// EXCEPT: the rows that are only on the left; with ALL as often as the right does not make up for.
pub fn except(left: Rel, right: Rel, all: bool) -> Result<Rel, Malformed> {
    match all {
        true => counted(left, right, |l, r| sql!("GREATEST({} - {}, 0::bigint)", l, r), Keep::Times),
        false => counted(left, right, |l, r| sql!("({} > 0 AND {} = 0)", l, r), Keep::Once),
    }
}

enum Keep {
    Once,
    Times,
}

/// Both sides in one bag, the side in a further column; per distinct row its number on either side; then kept by those.
fn counted(left: Rel, right: Rel, rule: fn(&Sql, &Sql) -> Sql, keep: Keep) -> Result<Rel, Malformed> {
    let n = left.arity();
    let both = Rel::union_all(vec![tagged(left, Side::Left)?, tagged(right, Side::Right)?])?;
    let cols = both.cols();
    let keys: Vec<Scalar> = (0..n).map(|i| Scalar::column(i, &cols[i])).collect();
    let groups = both.aggregate(keys, vec![count_of(n, Side::Left), count_of(n, Side::Right)])?;
    let cols = groups.cols();
    let text = rule(&Sql::column(n), &Sql::column(n + 1));
    let kept = match keep {
        Keep::Once => groups.filter(vec![made(text, vec![n, n + 1], Ty::new("boolean"))])?,
        Keep::Times => groups.repeat(made(text, vec![n, n + 1], Ty::bigint()))?,
    };
    kept.map((0..n).map(|i| Scalar::column(i, &cols[i])).collect())
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn sql(self) -> Sql {
        match self {
            Side::Left => Sql::text("true"),
            Side::Right => Sql::text("false"),
        }
    }
}

fn tagged(rel: Rel, side: Side) -> Result<Rel, Malformed> {
    let cols = rel.cols();
    let kept = cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col));
    let exprs = kept.chain([made(side.sql(), Vec::new(), Ty::new("boolean"))]).collect();
    rel.map(exprs)
}

fn count_of(tag: usize, side: Side) -> Agg {
    let wanted = made(sql!("({} = {})", Sql::column(tag), side.sql()), vec![tag], Ty::new("boolean"));
    let call = made(sql!("count(*) FILTER (WHERE {})", wanted.sql), vec![tag], Ty::bigint());
    Agg { call, kind: AggKind::CountStar, filter: Some(wanted) }
}

/// An expression that is never NULL.
fn made(sql: Sql, cols: Vec<usize>, ty: Ty) -> Scalar {
    Scalar { sql, cols, ty, not_null: true, column: None }
}
