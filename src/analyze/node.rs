//! Relations on the way: which expressions their columns are the values of, and conditions that wait for their columns.

use super::scalar::Row;
use super::{Analyzer, Mapped};
use pgtrickle_engine::ir::{Col, Conjunct, JoinKind, Rel};
use pgtrickle_pg::expr::{Expr, OuterColumn, Shape, Walk};
use pgtrickle_pg::types::is_default_equality;
use std::collections::{BTreeMap, BTreeSet};

/// A column of the range table: entry and attribute number.
pub(super) type ColumnId = (usize, i16);

/// The columns of a query's own range table that some expression reads.
pub(super) type Needed = BTreeSet<ColumnId>;

/// A relation whose columns are columns of the range table, and values of group keys, aggregates and
/// subqueries.
#[derive(Clone)]
pub(super) struct Node<'q> {
    pub rel: Rel,
    pub cols: Vec<Col>,
    pub layout: BTreeMap<ColumnId, usize>,
    /// Columns of the query's [domain](super::dependent).
    pub outer: BTreeMap<OuterColumn, usize>,
    pub values: Vec<(Expr<'q>, usize)>,
}

impl<'q> Node<'q> {
    pub(super) fn new(rel: Rel, ids: impl IntoIterator<Item = ColumnId>) -> Node<'q> {
        let layout = ids.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        Node { cols: rel.cols(), rel, layout, outer: BTreeMap::new(), values: Vec::new() }
    }

    /// The same columns, and perhaps more, in a relation made from this one.
    pub(super) fn become_rel(self, rel: Rel) -> Node<'q> {
        Node { cols: rel.cols(), rel, ..self }
    }

    pub(super) fn width(&self) -> usize {
        self.cols.len()
    }

    /// The position of the value of an expression of the query's own level.
    pub(super) fn find(&self, expr: Expr<'q>) -> Option<usize> {
        let known = || self.values.iter().find(|(value, _)| value.equals(expr)).map(|(_, at)| *at);
        match expr.shape() {
            Shape::Column { levels_up: 0, entry, column } => self.column(entry, column).or_else(known),
            Shape::Column { levels_up, entry, column } => {
                self.outer.get(&OuterColumn { levels_up, entry, column }).copied()
            }
            _ => known(),
        }
    }

    /// The position of the value of an expression of a subquery that reads this row as its outer one.
    pub(super) fn find_outer(&self, expr: Expr<'q>) -> Option<usize> {
        match expr.shape() {
            Shape::Column { levels_up, entry, column } if levels_up > 0 => {
                self.find_outer_column(OuterColumn { levels_up, entry, column })
            }
            _ => None,
        }
    }

    /// The position of a column that a subquery sees so many levels up.
    pub(super) fn find_outer_column(&self, id: OuterColumn) -> Option<usize> {
        match id.levels_up {
            1 => self.column(id.entry, id.column),
            levels_up => self.outer.get(&OuterColumn { levels_up: levels_up - 1, ..id }).copied(),
        }
    }

    fn column(&self, entry: usize, column: i16) -> Option<usize> {
        self.layout.get(&(entry, column)).copied()
    }

    /// What a join of the two has; the relation is still to come.
    pub(super) fn beside(&self, right: &Node<'q>) -> Node<'q> {
        let width = self.width();
        let mut layout = self.layout.clone();
        layout.extend(right.layout.iter().map(|(id, at)| (*id, at + width)));
        let mut outer: BTreeMap<OuterColumn, usize> = right.outer.iter().map(|(id, at)| (*id, at + width)).collect();
        outer.extend(&self.outer);
        let mut values = self.values.clone();
        values.extend(right.values.iter().map(|(value, at)| (*value, at + width)));
        let cols = [self.cols.clone(), right.cols.clone()].concat();
        Node { rel: Rel::UnionAll { inputs: Vec::new() }, cols, layout, outer, values }
    }
}

/// A condition and what it reads.
#[derive(Clone)]
pub(super) struct Condition<'q> {
    pub expr: Expr<'q>,
    pub entries: BTreeSet<usize>,
    /// Has a subquery in it.
    pub nested: bool,
    /// Reads columns of the query around.
    pub correlated: bool,
}

/// The terms of conditions.
pub(super) fn conditions<'q>(exprs: impl IntoIterator<Item = Expr<'q>>) -> Vec<Condition<'q>> {
    let terms = exprs.into_iter().flat_map(|expr| expr.conjuncts());
    terms
        .map(|expr| Condition {
            expr,
            entries: expr.columns().into_iter().map(|(entry, _)| entry).collect(),
            nested: !sublinks(expr).is_empty(),
            correlated: expr.reads_outer(),
        })
        .collect()
}

/// Removes the conditions that read only (and at least one of) these entries, and nothing outside unless the domain is
/// there.
pub(super) fn take<'q>(
    conditions: &mut Vec<Condition<'q>>,
    entries: &BTreeSet<usize>,
    domain: bool,
) -> Vec<Condition<'q>> {
    let within = |c: &Condition<'_>| !c.entries.is_empty() && c.entries.is_subset(entries) && (domain || !c.correlated);
    let (taken, left) = std::mem::take(conditions).into_iter().partition(within);
    *conditions = left;
    taken
}

/// The outermost subqueries in an expression.
pub(super) fn sublinks<'q>(expr: Expr<'q>) -> Vec<Expr<'q>> {
    let mut found = Vec::new();
    expr.visit(&mut |part| match part.shape() {
        Shape::Sublink(_) => {
            found.push(part);
            Walk::Past
        }
        _ => Walk::Into,
    });
    found
}

/// The row of a join: which expressions are columns of the left side, which of the right one (each counted on its own).
pub(super) struct Sides<'a, 'q> {
    pub cols: &'a [Col],
    pub width: usize,
    pub left: &'a dyn Fn(Expr<'q>) -> Option<usize>,
    pub right: &'a dyn Fn(Expr<'q>) -> Option<usize>,
}

impl<'q> Analyzer<'q> {
    /// A term of a join condition.
    pub(super) fn conjunct(&self, expr: Expr<'q>, sides: &Sides<'_, 'q>) -> Mapped<Conjunct> {
        let find = |e| (sides.left)(e).or_else(|| (sides.right)(e).map(|at| at + sides.width));
        let condition = self.scalar(expr, &Row { cols: sides.cols, find: &find })?;
        Ok(Conjunct { condition, equi: equality(expr, sides) })
    }

    pub(super) fn conjuncts(&self, terms: &[Condition<'q>], sides: &Sides<'_, 'q>) -> Mapped<Vec<Conjunct>> {
        terms.iter().map(|term| self.conjunct(term.expr, sides)).collect()
    }

    /// Joins two nodes of one query.
    pub(super) fn join(
        &self,
        kind: JoinKind,
        left: Node<'q>,
        right: Node<'q>,
        on: &[Condition<'q>],
    ) -> Mapped<Node<'q>> {
        let both = left.beside(&right);
        let sides = Sides { cols: &both.cols, width: left.width(), left: &|e| left.find(e), right: &|e| right.find(e) };
        let mut on = self.conjuncts(on, &sides)?;
        on.extend(self.same_domain(&left, &right));
        let rel = left.rel.join(kind, right.rel, on)?;
        Ok(both.become_rel(rel))
    }
}

/// The two columns, each counted on its own side, if the condition is the default equality of a left and a right one.
fn equality<'q>(expr: Expr<'q>, sides: &Sides<'_, 'q>) -> Option<(usize, usize)> {
    let Shape::Operator { operator, args, .. } = expr.shape() else { return None };
    let &[a, b] = args.as_slice() else { return None };
    let (a, b) = (bare(a), bare(b));
    let straight = (sides.left)(a).zip((sides.right)(b));
    let (l, r) = straight.or_else(|| (sides.left)(b).zip((sides.right)(a)))?;
    let default = is_default_equality(operator, a.ty()) && is_default_equality(operator, b.ty());
    let same_collation = sides.cols[l].ty.collation == sides.cols[sides.width + r].ty.collation;
    (default && same_collation).then_some((l, r))
}

/// Without changes of type that leave the value as it is.
pub(super) fn bare(expr: Expr<'_>) -> Expr<'_> {
    match expr.shape() {
        Shape::Relabel(inner) => bare(inner),
        _ => expr,
    }
}
