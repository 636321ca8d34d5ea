//! Subqueries in expressions.
//!
//! ```text
//! σ EXISTS(S) (L)        = L semi S             σ NOT EXISTS(S) (L)    = L anti S
//! σ x op ANY(S) (L)      = L semi S on test     σ NOT x op ANY(S) (L)  = L anti S on (test IS NOT FALSE)
//! σ NOT x op ALL(S) (L)  = L semi S on NOT test σ x op ALL(S) (L)      = L anti S on (test IS NOT TRUE)
//! ```
//!
//! A condition of the subquery that reads the row outside becomes a condition of the join. Elsewhere in an expression a
//! subquery is a value: one more column, joined to the row. If the subquery depends on that row, then through
//! equalities, and the subquery is grouped by their inner sides:
//!
//! ```text
//! value of (SELECT a FROM S WHERE S.k = L.k)  = L left join (SELECT k, a FROM S GROUP BY k) on k
//! ```

use super::aggregate::{Groups, count};
use super::node::{Condition, Node, Sides, conditions, sublinks};
use super::scalar::Row;
use super::target::{needed_below, needed_by};
use super::{Analyzer, Frame, Mapped, opaque};
use pgtrickle_engine::ir::{Conjunct, Equality, JoinKind, Rel, Scalar, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, Hole, Shape, Sublink, SublinkKind, Walk};
use pgtrickle_pg::query::Query;
use pgtrickle_pg::types::{self, TypeRef};

/// Which truth of a test decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Test {
    True,
    NotTrue,
    False,
    NotFalse,
}

/// A subquery as the right side of a join: what it selects, what else its conditions need, and those conditions.
struct Inner<'q> {
    node: Node<'q>,
    /// Where the columns that it selects are.
    targets: Vec<usize>,
    correlated: Vec<Condition<'q>>,
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
        if let Shape::Sublink(sublink) = expr.shape() {
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

    fn filtered_by_value(
        &self,
        frame: &Frame<'_, 'q>,
        node: Node<'q>,
        condition: Condition<'q>,
    ) -> Mapped<Node<'q>> {
        let mut node = node;
        while let Some(value) = missing(&node, condition.expr) {
            let rows = if rejects_null(condition.expr, value) { Rows::WithValue } else { Rows::All };
            node = self.with_value(frame, node, value, rows)?;
        }
        self.filtered_plainly(node, &[condition])
    }

    fn semi_join(
        &self,
        frame: &Frame<'_, 'q>,
        outer: Node<'q>,
        kind: JoinKind,
        sublink: Sublink<'q>,
        test: Test,
    ) -> Mapped<Node<'q>> {
        let wanted: Vec<usize> = match sublink.test() {
            Some(_) => (1..=sublink.query().column_names().len()).collect(),
            None => Vec::new(),
        };
        let inner = self.inner(frame, sublink.query(), &wanted)?;
        let cols = [outer.cols.clone(), inner.node.cols.clone()].concat();
        let width = outer.width();
        let correlated = Sides { cols: &cols, width, left: &|e| outer.find_outer(e), right: &|e| inner.node.find(e) };
        let mut on = self.conjuncts(&inner.correlated, &correlated)?;
        if let Some(expr) = sublink.test() {
            let target = |e: Expr<'q>| e.sublink_column().map(|n| inner.targets[n]);
            let sides = Sides { cols: &cols, width, left: &|e| outer.find(e), right: &target };
            on.extend(self.test(expr, test, &sides)?);
        }
        let rel = outer.rel.clone().join(kind, inner.node.rel, on)?;
        Ok(outer.become_rel(rel))
    }

    /// The test of ANY or ALL as join conditions.
    fn test(&self, expr: Expr<'q>, test: Test, sides: &Sides<'_, 'q>) -> Mapped<Vec<Conjunct>> {
        let terms = self.conjuncts(&conditions([expr]), sides)?;
        let never_null = terms.iter().all(|term| {
            term.equi.is_some_and(|(l, r)| sides.cols[l].not_null && sides.cols[sides.width + r].not_null)
        });
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

    /// A subquery of which only the rows matter (and the wanted columns), not how many are alike.
    fn inner(&self, frame: &Frame<'_, 'q>, query: Query<'q>, wanted: &[usize]) -> Mapped<Inner<'q>> {
        let f = query.features();
        let plain = query.is_select()
            && query.set_operations().is_none()
            && !(f.grouped || f.windows || f.target_srfs || f.distinct_on || f.limited && !f.limited_to_some);
        if !plain || (f.limited && !wanted.is_empty()) {
            if query.is_correlated() {
                return opaque("a subquery that is more than FROM and WHERE depends on the row outside");
            }
            let node = Node::new(self.query(&frame.inside(query), wanted)?, []);
            return Ok(Inner { node, targets: (0..wanted.len()).collect(), correlated: Vec::new() });
        }
        let within = frame.inside(query);
        let exprs = selected(query, wanted);
        let mut needed = needed_by(&exprs);
        needed.extend(needed_below(&within));
        let (node, correlated) = self.from_where_within(&within, &needed)?;
        let (node, targets) = self.with_columns(&within, node, &exprs)?;
        Ok(Inner { node, targets, correlated })
    }

    /// The node with the values of expressions among its columns, and where they are.
    fn with_columns(
        &self,
        frame: &Frame<'_, 'q>,
        node: Node<'q>,
        exprs: &[Expr<'q>],
    ) -> Mapped<(Node<'q>, Vec<usize>)> {
        let node = self.with_values(frame, node, exprs)?;
        let values = self.scalars(exprs, &Row { cols: &node.cols, find: &|e| node.find(e) })?;
        let mut columns: Vec<Scalar> = node.cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
        let mut positions = Vec::new();
        for value in values {
            positions.push(value.column.unwrap_or(columns.len()));
            if value.column.is_none() {
                columns.push(value);
            }
        }
        let rel = super::map(node.rel.clone(), columns)?;
        Ok((node.become_rel(rel), positions))
    }

    /// The node with one more column for each subquery in the expressions.
    pub(super) fn with_values(
        &self,
        frame: &Frame<'_, 'q>,
        mut node: Node<'q>,
        exprs: &[Expr<'q>],
    ) -> Mapped<Node<'q>> {
        for expr in exprs {
            while let Some(value) = missing(&node, *expr) {
                node = self.with_value(frame, node, value, Rows::All)?;
            }
        }
        Ok(node)
    }

    fn with_value(
        &self,
        frame: &Frame<'_, 'q>,
        node: Node<'q>,
        value: Expr<'q>,
        rows: Rows,
    ) -> Mapped<Node<'q>> {
        let Shape::Sublink(sublink) = value.shape() else { return opaque("it has a subquery in an expression") };
        let at = node.width();
        let mut node = match sublink.kind() {
            SublinkKind::Exists => self.with_existence(frame, node, sublink.query())?,
            SublinkKind::Scalar => self.with_scalar(frame, node, sublink.query(), rows)?,
            SublinkKind::Array => return opaque("it has ARRAY(SELECT …)"),
            _ => return opaque("it uses the truth of IN, ANY or ALL over a subquery as a value"),
        };
        node.values.push((value, at));
        Ok(node)
    }

    /// EXISTS as a value: whether there is a group for the row.
    fn with_existence(&self, frame: &Frame<'_, 'q>, outer: Node<'q>, query: Query<'q>) -> Mapped<Node<'q>> {
        let inner = self.inner(frame, query, &[])?;
        if inner.correlated.is_empty() {
            let found = Scalar::deparsed("(c1 > 0)", vec![0], Ty::new("boolean"), true);
            let rel = inner.node.rel.aggregate(vec![], vec![count()])?.map(vec![found])?;
            let rel = outer.rel.clone().join(JoinKind::Inner, rel, vec![])?;
            return Ok(outer.become_rel(rel));
        }
        let keyed = self.correlation(&outer, &inner)?;
        let rel = inner.node.rel.aggregate(keyed.keys.clone(), vec![])?;
        let yes = Scalar::deparsed("true", vec![], Ty::new("boolean"), true);
        self.beside_groups(outer, rel, &keyed, yes, &sql!("false"))
    }

    /// A scalar subquery that is one aggregation, so that it has exactly one row.
    fn with_scalar(
        &self,
        frame: &Frame<'_, 'q>,
        outer: Node<'q>,
        query: Query<'q>,
        rows: Rows,
    ) -> Mapped<Node<'q>> {
        let f = query.features();
        let one_row = query.is_select()
            && query.set_operations().is_none()
            && f.grouped
            && query.group_by().is_empty()
            && query.having().is_none()
            && !(f.grouping_sets || f.limited || f.windows || f.target_srfs);
        if !one_row {
            return opaque("it has a scalar subquery that might return no row or several");
        }
        if !query.is_correlated() {
            let rel = self.query(&frame.inside(query), &[1])?;
            let rel = outer.rel.clone().join(JoinKind::Inner, rel, vec![])?;
            return Ok(outer.become_rel(rel));
        }
        self.with_correlated_scalar(frame, outer, query, rows)
    }

    fn with_correlated_scalar(
        &self,
        frame: &Frame<'_, 'q>,
        outer: Node<'q>,
        query: Query<'q>,
        rows: Rows,
    ) -> Mapped<Node<'q>> {
        let within = frame.inside(query);
        let target = selected(query, &[1])[0];
        let mut groups = Groups::default();
        groups.collect(target);
        if !groups.keys.is_empty() || target.reads_outer() {
            return opaque("a correlated scalar subquery selects more than aggregates");
        }
        let mut needed = needed_by(&groups.calls);
        needed.extend(needed_below(&within));
        let (node, correlated) = self.from_where_within(&within, &needed)?;
        let inner = Inner { node, targets: Vec::new(), correlated };
        let keyed = self.correlation(&outer, &inner)?;
        let row = Row { cols: &inner.node.cols, find: &|e| inner.node.find(e) };
        let calls = groups.calls.iter().map(|&call| self.aggregate(&within, call, &row)).collect::<Mapped<_>>()?;
        let empty = self.over_nothing(target)?;
        let rel = inner.node.rel.clone().aggregate(keyed.keys.clone(), calls)?;
        let keys = keyed.keys.len();
        let find = |e: Expr<'q>| groups.find(e).map(|at| at + keys);
        let value = self.scalar(target, &Row { cols: &rel.cols(), find: &find })?;
        match empty {
            None if rows == Rows::WithValue => self.with_groups(outer, rel, &keyed, value),
            empty => self.beside_groups(outer, rel, &keyed, value, &empty.unwrap_or_else(|| Sql::text("NULL"))),
        }
    }

    /// The value of an expression over aggregates of no rows; none if it is NULL.
    fn over_nothing(&self, target: Expr<'q>) -> Mapped<Option<Sql>> {
        let mut unknown = false;
        let constant = target.with_parts(&mut |part| match part.shape() {
            Shape::Aggregate(call) => {
                let name = types::builtin_name(call.function());
                unknown |= name.is_none() || !call.plain();
                Some(match name.as_deref() {
                    Some("count" | "regr_count") => Hole::Zero,
                    _ => Hole::Null,
                })
            }
            _ => None,
        });
        if unknown {
            return opaque("a correlated subquery uses an aggregate whose value over no rows is not known");
        }
        if is_null(constant) {
            return Ok(None);
        }
        if constant.any(&mut may_fail) {
            return opaque("a correlated subquery divides, perhaps by the number of no rows");
        }
        Ok(Some(self.scalar(constant, &Row { cols: &[], find: &|_| None })?.sql))
    }

    /// Joins groups to those rows that have one: one more column that is `value`, over the group's columns.
    fn with_groups(
        &self,
        outer: Node<'q>,
        groups: Rel,
        keyed: &Correlation,
        value: Scalar,
    ) -> Mapped<Node<'q>> {
        let cols = groups.cols();
        let mut columns: Vec<Scalar> = (0..keyed.keys.len()).map(|i| Scalar::column(i, &cols[i])).collect();
        columns.push(value);
        let joined = outer.rel.clone().join(JoinKind::Inner, groups.map(columns)?, keyed.on.clone())?;
        let cols = joined.cols();
        let at = outer.width() + keyed.keys.len();
        let columns = (0..outer.width()).chain([at]).map(|i| Scalar::column(i, &cols[i])).collect();
        Ok(outer.become_rel(joined.map(columns)?))
    }

    /// Left-joins groups to the row: one more column that is `present`, over the group's columns, or `absent`.
    fn beside_groups(
        &self,
        outer: Node<'q>,
        groups: Rel,
        keyed: &Correlation,
        present: Scalar,
        absent: &Sql,
    ) -> Mapped<Node<'q>> {
        let ty = present.ty.clone();
        let found = Scalar::deparsed("true", vec![], Ty::new("boolean"), true);
        let cols = groups.cols();
        let mut columns: Vec<Scalar> = (0..keyed.keys.len()).map(|i| Scalar::column(i, &cols[i])).collect();
        columns.extend([present, found]);
        let groups = groups.map(columns)?;
        let width = outer.width();
        let joined = outer.rel.clone().join(JoinKind::Left, groups, keyed.on.clone())?;
        let (value, found) = (width + keyed.keys.len(), width + keyed.keys.len() + 1);
        let choice = sql!("CASE WHEN {} THEN {} ELSE {} END", Sql::column(found), Sql::column(value), absent);
        let mut columns: Vec<Scalar> = outer.cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
        columns.push(Scalar { sql: choice, ..Scalar::deparsed("", vec![value, found], ty, false) });
        let rel = joined.map(columns)?;
        Ok(outer.become_rel(rel))
    }

    /// Splits a subquery's conditions on the row outside into keys of the subquery and conditions of a join on them.
    fn correlation(&self, outer: &Node<'q>, inner: &Inner<'q>) -> Mapped<Correlation> {
        let inner_row = Row { cols: &inner.node.cols, find: &|e| inner.node.find(e) };
        let mut keys = Vec::new();
        let mut pairs = Vec::new();
        for condition in &inner.correlated {
            let Some((inside, outside)) = equated(condition.expr) else {
                return opaque("a subquery depends on the row outside by more than equalities");
            };
            keys.push(self.scalar(inside, &inner_row)?);
            pairs.push((condition.expr, inside, outside));
        }
        if keys.iter().any(|key| key.ty.equality == Equality::None) {
            return opaque("a subquery depends on the row outside by a type without equality");
        }
        let key_cols: Vec<_> = keys.iter().map(Scalar::col).collect();
        let cols = [outer.cols.clone(), key_cols].concat();
        let mut on = Vec::new();
        for (at, (expr, inside, _)) in pairs.iter().enumerate() {
            let right = |e: Expr<'q>| e.is(*inside).then_some(at);
            let sides = Sides { cols: &cols, width: outer.width(), left: &|e| outer.find_outer(e), right: &right };
            on.push(self.conjunct(*expr, &sides)?);
        }
        Ok(Correlation { keys, on })
    }
}

/// A subquery in an expression whose value is not among the node's columns, nor part of one that is.
fn missing<'q>(node: &Node<'q>, expr: Expr<'q>) -> Option<Expr<'q>> {
    let mut found = None;
    expr.visit(&mut |part| match part.shape() {
        _ if found.is_some() => Walk::Stop,
        _ if node.find(part).is_some() => Walk::Past,
        Shape::Sublink(_) => {
            found = Some(part);
            Walk::Stop
        }
        _ => Walk::Into,
    });
    found
}

/// Which rows must stay when a subquery's value is joined to them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    All,
    /// A condition on the value rejects NULL anyway.
    WithValue,
}

/// Whether an expression is NULL (or false) as soon as the part is NULL: strict functions and operators all the way.
fn rejects_null(expr: Expr<'_>, part: Expr<'_>) -> bool {
    if expr.is(part) {
        return true;
    }
    match expr.shape() {
        Shape::Operator { function, args, .. } | Shape::Function { function, args, .. } => {
            types::is_strict(function) && args.into_iter().any(|arg| rejects_null(arg, part))
        }
        Shape::Relabel(inner) => rejects_null(inner, part),
        _ => false,
    }
}

/// Whether a constant expression is NULL for certain.
fn is_null(expr: Expr<'_>) -> bool {
    match expr.shape() {
        Shape::Constant { null } => null,
        Shape::Operator { function, args, .. } | Shape::Function { function, args, .. } => {
            types::is_strict(function) && args.into_iter().any(is_null)
        }
        Shape::Relabel(inner) => is_null(inner),
        Shape::Coalesce(args) => args.into_iter().all(is_null),
        _ => false,
    }
}

/// Whether a part of a constant expression may raise an error, which PostgreSQL's planner would do even where the
/// value is not used.
fn may_fail(expr: Expr<'_>) -> bool {
    let (Shape::Operator { function, args, .. } | Shape::Function { function, args, .. }) = expr.shape() else {
        return false;
    };
    let name = types::builtin_name(function).unwrap_or_default();
    let total = ["pl", "mi", "mul", "add", "sub", "eq", "ne", "lt", "le", "gt", "ge", "um", "uminus", "int8", "numeric", "float8"];
    !total.iter().any(|end| name.ends_with(end)) && !(types::is_strict(function) && args.into_iter().any(is_null))
}

/// How a subquery hangs on the row outside.
struct Correlation {
    keys: Vec<Scalar>,
    on: Vec<Conjunct>,
}

/// The inner and the outer side, if the condition is an equality between them.
fn equated(expr: Expr<'_>) -> Option<(Expr<'_>, Expr<'_>)> {
    let Shape::Operator { operator, args, .. } = expr.shape() else { return None };
    let &[a, b] = args.as_slice() else { return None };
    let inner = |e: Expr<'_>| !e.reads_outer() && !e.columns().is_empty() && sublinks(e).is_empty();
    let outer = |e: Expr<'_>| e.reads_outer() && e.columns().is_empty() && sublinks(e).is_empty();
    let (inside, outside) = match (inner(a) && outer(b), inner(b) && outer(a)) {
        (true, _) => (a, b),
        (_, true) => (b, a),
        _ => return None,
    };
    let default = |e: Expr<'_>| types::is_default_equality(operator, e.ty());
    let ty: TypeRef = inside.ty();
    (default(inside) || types::is_join_equality(operator, ty.oid)).then_some((inside, outside))
}

/// The expressions of these columns of the select list.
fn selected<'q>(query: Query<'q>, wanted: &[usize]) -> Vec<Expr<'q>> {
    let targets = query.targets();
    wanted.iter().map(|&number| super::target::expr_of(&targets, number)).collect()
}
