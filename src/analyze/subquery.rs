//! Subqueries in expressions.
//!
//! ```text
//! σ EXISTS(S) (L)        = L semi S             σ NOT EXISTS(S) (L)    = L anti S
//! σ x op ANY(S) (L)      = L semi S on test     σ NOT x op ANY(S) (L)  = L anti S on (test IS NOT FALSE)
//! σ NOT x op ALL(S) (L)  = L semi S on NOT test σ x op ALL(S) (L)      = L anti S on (test IS NOT TRUE)
//! ```
//!
//! A condition of the subquery that reads the row outside becomes a condition of the join. Elsewhere in an expression a
//! subquery is a [value](super::value).

use super::node::{Condition, Node, Sides, conditions};
use super::target::{needed_below, needed_by};
use super::{Analyzer, Frame, Mapped, Stop, opaque};
use pgtrickle_engine::ir::{Conjunct, JoinKind, Rel, Scalar};
use pgtrickle_engine::sql;
use pgtrickle_pg::expr::{Expr, Shape, Sublink, SublinkKind};
use pgtrickle_pg::query::Query;

/// Which truth of a test decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Test {
    True,
    NotTrue,
    False,
    NotFalse,
}

/// A subquery as the right side of a join: what it selects, what else its conditions need, and those conditions.
pub(super) struct Inner<'q> {
    pub node: Node<'q>,
    /// Where the columns that it selects are.
    pub targets: Vec<usize>,
    pub correlated: Vec<Condition<'q>>,
}

impl<'q> Analyzer<'q> {
    /// The rows for which a condition with subqueries in it holds.
    pub(super) fn filtered_by_subquery(
        &self,
        frame: &Frame<'_, 'q>,
        node: Node<'q>,
        condition: Condition<'q>,
    ) -> Mapped<Node<'q>> {
        let (expr, negated) = match condition.expr.shape() {
            Shape::Not(inner) => (inner, true),
            _ => (condition.expr, false),
        };
        if let Shape::Sublink(sublink) = expr.shape()
            && !sublink.query().reads_no_table()
        {
            let (kind, test) = match (sublink.kind(), negated) {
                (SublinkKind::Exists, false) => (JoinKind::Semi, Test::True),
                (SublinkKind::Exists, true) => (JoinKind::Anti, Test::True),
                (SublinkKind::Any, false) => (JoinKind::Semi, Test::True),
                (SublinkKind::Any, true) => (JoinKind::Anti, Test::NotFalse),
                (SublinkKind::All, false) => (JoinKind::Anti, Test::NotTrue),
                (SublinkKind::All, true) => (JoinKind::Semi, Test::False),
                _ => return self.filtered_by_value(frame, node, condition),
            };
            return self.semi_join(frame, node, kind, sublink, test);
        }
        self.filtered_by_value(frame, node, condition)
    }

    fn semi_join(
        &self,
        frame: &Frame<'_, 'q>,
        outer: Node<'q>,
        kind: JoinKind,
        sublink: Sublink<'q>,
        test: Test,
    ) -> Mapped<Node<'q>> {
        match self.direct_semi_join(frame, &outer, kind, sublink, test) {
            Err(Stop::Opaque(_)) if sublink.query().is_correlated() => {
                self.dependent_semi_join(frame, &outer, kind, sublink, test)
            }
            rel => rel,
        }
        .map(|rel| outer.become_rel(rel))
    }

    /// A semi or anti join with the subquery for its whole domain.
    fn dependent_semi_join(
        &self,
        frame: &Frame<'_, 'q>,
        outer: &Node<'q>,
        kind: JoinKind,
        sublink: Sublink<'q>,
        test: Test,
    ) -> Mapped<Rel> {
        let wanted = tested(sublink);
        let dependent = self.dependent(frame, outer, sublink.query(), &wanted)?;
        let mut on = dependent.on(&outer.cols);
        if let Some(expr) = sublink.test() {
            let cols = [outer.cols.clone(), dependent.rel.cols()].concat();
            let target = |e: Expr<'q>| e.sublink_column().map(|n| dependent.outside.len() + n);
            let sides = Sides { cols: &cols, width: outer.width(), left: &|e| outer.find(e), right: &target };
            on.extend(self.test(expr, test, &sides)?);
        }
        Ok(outer.rel.clone().join(kind, dependent.rel, on)?)
    }

    /// A semi or anti join with the subquery's conditions on the row outside.
    fn direct_semi_join(
        &self,
        frame: &Frame<'_, 'q>,
        outer: &Node<'q>,
        kind: JoinKind,
        sublink: Sublink<'q>,
        test: Test,
    ) -> Mapped<Rel> {
        let wanted = tested(sublink);
        let query = sublink.query();
        // Which rows LIMIT leaves does not matter for whether there are any.
        let inner = match sublink.test() {
            Some(_) if query.features().limited => self.whole(frame, query, &wanted)?,
            _ => self.inner(frame, query, |query| selected(query, &wanted))?,
        };
        let cols = [outer.cols.clone(), inner.node.cols.clone()].concat();
        let width = outer.width();
        let mut on = self.outer_conditions(outer, &inner)?;
        if let Some(expr) = sublink.test() {
            let target = |e: Expr<'q>| e.sublink_column().map(|n| inner.targets[n]);
            let sides = Sides { cols: &cols, width, left: &|e| outer.find(e), right: &target };
            on.extend(self.test(expr, test, &sides)?);
        }
        Ok(outer.rel.clone().join(kind, inner.node.rel, on)?)
    }

    /// The test of ANY or ALL as join conditions.
    fn test(&self, expr: Expr<'q>, test: Test, sides: &Sides<'_, 'q>) -> Mapped<Vec<Conjunct>> {
        let terms = self.conjuncts(&conditions([expr]), sides)?;
        let never_null = terms
            .iter()
            .all(|term| term.equi.is_some_and(|(l, r)| sides.cols[l].not_null && sides.cols[sides.width + r].not_null));
        if test == Test::True || test == Test::NotFalse && never_null {
            return Ok(terms);
        }
        let whole = self.conjunct(expr, sides)?.condition;
        let text = match test {
            Test::NotTrue => sql!("(({}) IS NOT TRUE)", whole.sql),
            Test::False => sql!("(({}) IS FALSE)", whole.sql),
            _ => sql!("(({}) IS NOT FALSE)", whole.sql),
        };
        let condition = Scalar { sql: text, not_null: true, column: None, ..whole };
        Ok(vec![Conjunct { condition, equi: None }])
    }

    /// A subquery of which only the rows matter, with the values of the wanted expressions, not how many rows are alike,
    /// nor their order. LIMIT is left to the caller; if there is one, more than FROM and WHERE cannot be done.
    pub(super) fn inner(
        &self,
        frame: &Frame<'_, 'q>,
        query: Query<'q>,
        wanted: impl FnOnce(Query<'q>) -> Vec<Expr<'q>>,
    ) -> Mapped<Inner<'q>> {
        let f = query.features();
        let plain = query.is_select()
            && query.set_operations().is_none()
            && !(f.grouped || f.windows || f.target_srfs || f.distinct_on)
            && (!f.limited || f.limit.is_some_and(|rows| rows > 0));
        let exprs = wanted(query);
        if !plain {
            let numbers = numbers(query, &exprs);
            return match numbers {
                Some(numbers) => self.whole(frame, query, &numbers),
                None => opaque("a subquery that is more than FROM and WHERE is ordered by what it does not select"),
            };
        }
        // What it reads further out is among the columns of the row outside, if that has a domain.
        let within = Frame { query, around: Some(frame), domain: None };
        let mut needed = needed_by(&exprs);
        needed.extend(needed_below(&within));
        let (node, correlated) = self.from_where_within(&within, &needed)?;
        let (node, targets) = self.with_columns(&within, node, &exprs)?;
        Ok(Inner { node, targets, correlated })
    }

    /// A subquery with all its clauses, which nothing outside has an influence on.
    pub(super) fn whole(&self, frame: &Frame<'_, 'q>, query: Query<'q>, wanted: &[usize]) -> Mapped<Inner<'q>> {
        if query.is_correlated() {
            return opaque("a subquery that is more than FROM and WHERE depends on the row outside");
        }
        let node = Node::new(self.query(&frame.inside(query), wanted)?, []);
        Ok(Inner { node, targets: (0..wanted.len()).collect(), correlated: Vec::new() })
    }
}

/// The columns of a subquery that ANY or ALL test.
fn tested(sublink: Sublink<'_>) -> Vec<usize> {
    match sublink.test() {
        Some(_) => (1..=sublink.query().column_names().len()).collect(),
        None => Vec::new(),
    }
}

/// The expressions as columns of the select list.
pub(super) fn numbers(query: Query<'_>, exprs: &[Expr<'_>]) -> Option<Vec<usize>> {
    let targets = query.targets();
    let number = |expr: &Expr<'_>| targets.iter().find(|t| !t.junk && t.expr.equals(*expr)).map(|t| t.number);
    exprs.iter().map(number).collect()
}

/// The expressions of these columns of the select list.
pub(super) fn selected<'q>(query: Query<'q>, wanted: &[usize]) -> Vec<Expr<'q>> {
    let targets = query.targets();
    wanted.iter().map(|&number| super::target::expr_of(&targets, number)).collect()
}
