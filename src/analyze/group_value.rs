//! Values of groups, joined to the rows outside that they belong to.

use super::node::{Node, Sides, sublinks};
use super::scalar::{Row, number};
use super::subquery::Inner;
use super::{Analyzer, Mapped, opaque};
use pgtrickle_engine::ir::{Agg, AggKind, Col, Conjunct, Equality, JoinKind, Number, Rel, Scalar, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, Shape};
use pgtrickle_pg::types::{self, TypeEquality, TypeRef};

/// Which rows must stay when a subquery's value is joined to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    All,
    /// A condition on the value rejects NULL anyway.
    WithValue,
}

/// What a group of a subquery gives to the row outside.
pub(super) struct GroupValue {
    /// Over the group's columns.
    pub value: Scalar,
    /// Whether there are several rows where there may be but one.
    pub several: Option<Scalar>,
    /// The value if there is no group; NULL if none is given.
    pub absent: Option<Sql>,
}

/// How a subquery hangs on the row outside.
pub(super) struct Correlation {
    pub keys: Vec<Scalar>,
    pub on: Vec<Conjunct>,
}

impl<'q> Analyzer<'q> {
    /// Joins the value of an aggregate over a subquery, or `absent` (else NULL) where that has no rows. A second
    /// aggregate counts the rows, of which there must not be several.
    pub(super) fn with_aggregate(
        &self,
        outer: &Node<'q>,
        inner: Rel,
        keyed: &Correlation,
        aggs: Vec<Agg>,
        absent: Option<Sql>,
        rows: Rows,
    ) -> Mapped<Rel> {
        let counted = aggs.len() > 1;
        let rel = inner.aggregate(keyed.keys.clone(), aggs)?;
        if counted {
            return self.with_only_row(outer, rel, keyed, rows);
        }
        let (at, cols) = (keyed.keys.len(), rel.cols());
        let mut value = Scalar::column(at, &cols[at]);
        if let (Some(absent), true) = (&absent, keyed.keys.is_empty()) {
            value = Scalar { sql: sql!("COALESCE({}, {})", value.sql, absent), column: None, ..value };
        }
        self.with_groups(outer, rel, keyed, GroupValue { value, several: None, absent }, rows)
    }

    /// Joins groups whose aggregates are the first value and the number of rows, which must not be several.
    pub(super) fn with_only_row(&self, outer: &Node<'q>, groups: Rel, keyed: &Correlation, rows: Rows) -> Mapped<Rel> {
        let (at, cols) = (keyed.keys.len(), groups.cols());
        let text = sql!("({} > 1)", Sql::column(at + 1));
        let several = Scalar { sql: text, ..Scalar::deparsed("", vec![at + 1], Ty::new("boolean"), true) };
        let value = GroupValue { value: Scalar::column(at, &cols[at]), several: Some(several), absent: None };
        self.with_groups(outer, groups, keyed, value, rows)
    }

    /// Joins groups to the rows outside: one more column, the value of the row's group.
    pub(super) fn with_groups(
        &self,
        outer: &Node<'q>,
        groups: Rel,
        keyed: &Correlation,
        value: GroupValue,
        rows: Rows,
    ) -> Mapped<Rel> {
        // Without keys there is one group, also over no rows; only a condition on the row outside may leave it out.
        let always = keyed.on.is_empty();
        let inner = always || rows == Rows::WithValue && value.absent.is_none();
        let mut ty = value.value.ty.clone();
        ty.number = weakest(ty.number);
        let cols = groups.cols();
        let mut columns: Vec<Scalar> = (0..keyed.keys.len()).map(|i| Scalar::column(i, &cols[i])).collect();
        let found = Scalar::deparsed("true", vec![], Ty::new("boolean"), true);
        columns.extend([value.value, found]);
        columns.extend(value.several.clone());
        let kind = if inner { JoinKind::Inner } else { JoinKind::Left };
        let joined = outer.rel.clone().join(kind, groups.map(columns)?, keyed.on.clone())?;
        let at = outer.width() + keyed.keys.len();
        let mut text = Sql::column(at);
        let mut read = vec![at];
        if value.several.is_some() {
            // A subquery with two rows raises the very error that PostgreSQL raises. It depends on the row, as a parallel plan
            // computes beforehand what does not.
            let several = Sql::column(at + 2);
            let error = sql!("(SELECT {} FROM (VALUES (1), (2)) AS several WHERE {})", ty.null(), several);
            text = sql!("CASE WHEN {} THEN {} ELSE {} END", Sql::column(at + 2), error, text);
            read.push(at + 2);
        }
        if !inner {
            let absent = value.absent.unwrap_or_else(|| Sql::text("NULL"));
            text = sql!("CASE WHEN {} THEN {} ELSE {} END", Sql::column(at + 1), text, absent);
            read.push(at + 1);
        }
        let mut columns: Vec<Scalar> = outer.cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
        columns.push(Scalar { sql: text, ..Scalar::deparsed("", read, ty, false) });
        let rel = joined.map(columns)?;
        Ok(rel)
    }

    /// Splits a subquery's conditions on the row outside into keys of the subquery and conditions of a join on them.
    pub(super) fn correlation(&self, outer: &Node<'q>, inner: &Inner<'q>) -> Mapped<Correlation> {
        let inner_row = Row { cols: &inner.node.cols, find: &|e| inner.node.find(e) };
        let mut keys = Vec::new();
        let mut pairs = Vec::new();
        let mut outside_only = Vec::new();
        for condition in &inner.correlated {
            if condition.expr.columns().is_empty() && !condition.nested {
                outside_only.push(condition.expr);
                continue;
            }
            let Some(inside) = self.inner_side(condition.expr) else {
                return opaque("a subquery depends on the row outside by more than equalities");
            };
            keys.push(self.scalar(inside, &inner_row)?);
            pairs.push((condition.expr, inside));
        }
        if keys.iter().any(|key| key.ty.equality == Equality::None) {
            return opaque("a subquery depends on the row outside by a type without equality");
        }
        let key_cols: Vec<_> = keys.iter().map(Scalar::col).collect();
        let cols = [outer.cols.clone(), key_cols].concat();
        let left = |e: Expr<'q>| outer.find_outer(e);
        let mut on = Vec::new();
        for (at, (expr, inside)) in pairs.iter().enumerate() {
            let right = |e: Expr<'q>| e.is(*inside).then_some(at);
            on.push(self.conjunct(*expr, &Sides { cols: &cols, width: outer.width(), left: &left, right: &right })?);
        }
        for expr in outside_only {
            on.push(self.conjunct(expr, &Sides { cols: &cols, width: outer.width(), left: &left, right: &|_| None })?);
        }
        Ok(Correlation { keys, on })
    }

    /// The inner side of a condition, if it is an equality between an inner and an outer side by which no value outside
    /// equals several groups of the inner ones.
    fn inner_side(&self, expr: Expr<'q>) -> Option<Expr<'q>> {
        let Shape::Operator { operator, collation, args, .. } = expr.shape() else { return None };
        let &[a, b] = args.as_slice() else { return None };
        let inner = |e: Expr<'_>| !e.reads_outer() && !e.columns().is_empty() && sublinks(e).is_empty();
        let outer = |e: Expr<'_>| e.reads_outer() && e.columns().is_empty() && sublinks(e).is_empty();
        let inside = match (inner(a) && outer(b), inner(b) && outer(a)) {
            (true, _) => a,
            (_, true) => b,
            _ => return None,
        };
        let ty = inside.ty();
        let by_bytes = |ty| self.types.facts(ty).equality == TypeEquality::Image;
        let grouped_alike = ty.collation == collation || by_bytes(ty) && by_bytes(TypeRef { collation, ..ty });
        let integers = [a, b].iter().all(|e| matches!(number(e.ty()), Number::Small | Number::Big));
        let exact = integers && types::is_join_equality(operator, ty.oid);
        (exact || grouped_alike && types::is_default_equality(operator, ty)).then_some(inside)
    }
}

/// The first value of a column.
pub(super) fn first(at: usize, col: &Col, order: &Sql) -> Agg {
    let text = sql!("(array_agg({}{}))[1]", Sql::column(at), order);
    let call = Scalar { sql: text, ..Scalar::deparsed("", vec![at], col.ty.clone(), false) };
    Agg { call, kind: AggKind::Recompute, filter: None }
}

/// `count(*) FILTER (WHERE condition)`
pub(super) fn count_where(condition: Sql, read: &[usize]) -> Agg {
    let text = sql!("count(*) FILTER (WHERE {})", condition);
    let call = Scalar { sql: text, ..Scalar::deparsed("", read.to_vec(), Ty::bigint(), true) };
    let filter = Scalar { sql: condition, ..Scalar::deparsed("", read.to_vec(), Ty::new("boolean"), true) };
    Agg { call, kind: AggKind::CountStar, filter: Some(filter) }
}

/// A number that may be another one where there is no group.
fn weakest(number: Number) -> Number {
    match number {
        Number::Numeric { .. } => Number::Numeric { fixed_scale: false },
        other => other,
    }
}
