//! Subqueries whose value an expression uses: one more column, joined to the row.
//!
//! If the subquery depends on the row outside, then through equalities, and it is grouped by their inner sides:
//!
//! ```text
//! value of (SELECT agg FROM S WHERE S.k = L.k)  = L left join (SELECT k, agg FROM S GROUP BY k) on k
//! value of (SELECT x FROM S WHERE S.k = L.k)    = L left join S on k, if k is a key of S; else the same with
//!                                                 agg = the only x, an error if there are several
//! ```

use super::aggregate::{Groups, count, over_nothing};
use super::group_value::{Correlation, GroupValue, Rows, first};
use super::node::{Condition, Node, Sides};
use super::order::{parts, terms};
use super::scalar::Row;
use super::subquery::{Inner, selected};
use super::target::{needed_below, needed_by};
use super::top_k::{add_missing, open_limit, sorting};
use super::{Analyzer, Frame, Mapped, Stop, opaque};
use pgtrickle_engine::ir::{Agg, AggKind, Col, Conjunct, JoinKind, Rel, Scalar, Ty};
use pgtrickle_engine::keys::{KnownKeys, key};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, Hole, Shape, SublinkKind, Walk};
use pgtrickle_pg::query::Query;
use pgtrickle_pg::types;
use std::collections::BTreeSet;

impl<'q> Analyzer<'q> {
    /// The rows for which a condition on the values of subqueries holds.
    pub(super) fn filtered_by_value(
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

    /// The node with the values of expressions among its columns, and where they are.
    pub(super) fn with_columns(
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

    fn with_value(&self, frame: &Frame<'_, 'q>, node: Node<'q>, value: Expr<'q>, rows: Rows) -> Mapped<Node<'q>> {
        let Shape::Sublink(sublink) = value.shape() else { return opaque("it has a subquery in an expression") };
        let at = node.width();
        let query = sublink.query();
        if query.reads_no_table()
            && let Ok(rel) = self.with_computed(&node, value)
        {
            let mut node = node.become_rel(rel);
            node.values.push((value, at));
            return Ok(node);
        }
        let direct = match sublink.kind() {
            SublinkKind::Exists => self.with_existence(frame, &node, query),
            SublinkKind::Scalar => self.with_scalar(frame, &node, query, rows),
            SublinkKind::Array => self.with_array(frame, &node, value, query),
            SublinkKind::Any | SublinkKind::All => self.with_truth(frame, &node, sublink),
            SublinkKind::RowCompare => self.with_comparison(frame, &node, sublink),
            SublinkKind::Other => opaque("it has a subquery in an expression"),
        };
        let rel = match (direct, sublink.kind()) {
            (Err(Stop::Opaque(_)), SublinkKind::Exists) if query.is_correlated() => {
                self.with_dependent_existence(frame, &node, query)?
            }
            (Err(Stop::Opaque(_)), SublinkKind::Scalar) if query.is_correlated() => {
                self.with_dependent_scalar(frame, &node, query)?
            }
            (direct, _) => direct?,
        };
        let mut node = node.become_rel(rel);
        node.values.push((value, at));
        Ok(node)
    }

    fn with_dependent_existence(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, query: Query<'q>) -> Mapped<Rel> {
        let dependent = self.dependent(frame, outer, query, &[])?;
        let keyed = dependent.correlation(&outer.cols);
        let groups = dependent.rel.aggregate(keyed.keys.clone(), vec![])?;
        let yes = Scalar::deparsed("true", vec![], Ty::new("boolean"), true);
        let value = GroupValue { value: yes, several: None, absent: Some(Sql::text("false")) };
        self.with_groups(outer, groups, &keyed, value, Rows::All)
    }

    fn with_dependent_scalar(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, query: Query<'q>) -> Mapped<Rel> {
        let dependent = self.dependent(frame, outer, query, &[1])?;
        let keyed = dependent.correlation(&outer.cols);
        let at = keyed.keys.len();
        let col = dependent.rel.cols()[at].clone();
        if is_one_row(query) {
            let value = GroupValue { value: Scalar::column(at, &col), several: None, absent: None };
            return self.with_groups(outer, dependent.rel, &keyed, value, Rows::WithValue);
        }
        if query.features().limit == Some(1) {
            let value = GroupValue { value: Scalar::column(at, &col), several: None, absent: None };
            return self.with_groups(outer, dependent.rel, &keyed, value, Rows::All);
        }
        let aggs = vec![self.only(query, at, &col)?, count()];
        let groups = dependent.rel.aggregate(keyed.keys.clone(), aggs)?;
        self.with_only_row(outer, groups, &keyed, Rows::All)
    }

    /// EXISTS as a value: whether there is a group for the row.
    fn with_existence(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, query: Query<'q>) -> Mapped<Rel> {
        let inner = self.inner(frame, query, |_| Vec::new())?;
        if inner.correlated.is_empty() {
            let found = Scalar::deparsed("(c1 > 0)", vec![0], Ty::new("boolean"), true);
            let rel = inner.node.rel.aggregate(vec![], vec![count()])?.map(vec![found])?;
            return Ok(outer.rel.clone().join(JoinKind::Inner, rel, vec![])?);
        }
        let keyed = self.correlation(outer, &inner)?;
        let boolean = |text: &str, read| Scalar::deparsed(text, read, Ty::new("boolean"), true);
        // Without keys there is a group even over no rows.
        let (aggs, found) = match keyed.keys.is_empty() {
            true => (vec![count()], boolean("(c1 > 0)", vec![0])),
            false => (vec![], boolean("true", vec![])),
        };
        let rel = inner.node.rel.aggregate(keyed.keys.clone(), aggs)?;
        let value = GroupValue { value: found, several: None, absent: Some(Sql::text("false")) };
        self.with_groups(outer, rel, &keyed, value, Rows::All)
    }

    /// A scalar subquery that is no aggregation: it must not have more than one row.
    fn with_only(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, query: Query<'q>, rows: Rows) -> Mapped<Rel> {
        let target = selected(query, &[1])[0];
        let f = query.features();
        let array = self.types.facts(target.ty()).array;
        let clauses = f.grouped || f.windows || f.distinct_on || query.set_operations().is_some();
        let whole = f.distinct || f.limited && (f.limit != Some(1) || array || clauses);
        let inner = if whole {
            self.whole(frame, query, &[1])?
        } else {
            let sort = |query| if f.limited { sort_exprs(query) } else { Vec::new() };
            self.inner(frame, query, |query| [target].into_iter().chain(sort(query)).collect())?
        };
        let first_of_many = f.limited && !whole;
        if first_of_many && !self.is_settled_first(outer, query, &inner)? {
            return open_limit();
        }
        if (whole || !f.limited && !inner.correlated.is_empty()) && self.is_single(outer, &inner)? {
            return self.with_partner(outer, inner, rows);
        }
        let at = inner.targets[0];
        let aggs = match first_of_many {
            true => vec![first(at, &inner.node.cols[at], &order(query, &inner)?)],
            false => vec![self.only(query, at, &inner.node.cols[at])?, count()],
        };
        let keyed = self.correlation(outer, &inner)?;
        self.with_aggregate(outer, inner.node.rel, &keyed, aggs, None, rows)
    }

    /// The value of a scalar subquery that has but one row.
    fn only(&self, query: Query<'q>, at: usize, col: &Col) -> Mapped<Agg> {
        let facts = self.types.facts(selected(query, &[1])[0].ty());
        if !facts.array {
            return Ok(first(at, col, &Sql::text("")));
        }
        if !facts.sortable {
            return opaque("a scalar subquery selects an array of what has no order");
        }
        // An array of arrays has more dimensions; the greatest of one is that one.
        let text = sql!("max({})", Sql::column(at));
        let call = Scalar { sql: text, ..Scalar::deparsed("", vec![at], col.ty.clone(), false) };
        Ok(Agg { call, kind: AggKind::Recompute, filter: None })
    }

    /// ARRAY(SELECT …): its rows, sorted once more when they are collected.
    fn with_array(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, value: Expr<'q>, query: Query<'q>) -> Mapped<Rel> {
        let terms = terms(query, &query.order_by());
        let mut exprs = selected(query, &[1]);
        add_missing(&mut exprs, terms.iter().flat_map(parts));
        let f = query.features();
        let whole = f.limited || f.distinct || f.distinct_on || f.grouped || f.windows || f.target_srfs;
        let direct = (!whole && query.set_operations().is_none()).then(|| {
            let inner = self.inner(frame, query, |_| exprs.clone())?;
            let keyed = self.correlation(outer, &inner)?;
            Ok((inner, keyed, 0))
        });
        let (inner, keyed, own) = match direct {
            None | Some(Err(Stop::Opaque(_))) => self.dependent_array(frame, outer, query, &exprs)?,
            Some(direct) => direct?,
        };
        // An array is of one row outside only.
        let within: Vec<usize> = (0..own).collect();
        let find = |e: Expr<'q>| exprs.iter().position(|known| known.equals(e)).map(|at| inner.targets[at]);
        let shown = BTreeSet::from([inner.targets[0]]);
        if !self.is_total(&inner.node.rel, &find, &within, &terms, Some(&shown)) {
            return opaque("it has ARRAY(SELECT …) whose order is left open");
        }
        let order = self.sort_keys(&terms, &Row { cols: &inner.node.cols, find: &find })?;
        let order = Sql::list(order.iter().map(|key| key.sql()));
        let sorted = if terms.is_empty() { order } else { sql!(" ORDER BY {}", order) };
        let ty = self.types.ty(value.ty());
        let empty = sql!("'{}'::{}", "{}", ty.sql);
        let call = sql!("array_agg({}{})", Sql::column(inner.targets[0]), sorted);
        let call = Scalar { sql: call, ..Scalar::deparsed("", inner.targets.clone(), ty, false) };
        let agg = Agg { call, kind: AggKind::Recompute, filter: None };
        self.with_aggregate(outer, inner.node.rel, &keyed, vec![agg], Some(empty), Rows::All)
    }

    /// The rows of ARRAY(SELECT …) for each row outside, whatever they depend on; and how many columns that is.
    fn dependent_array(
        &self,
        frame: &Frame<'_, 'q>,
        outer: &Node<'q>,
        query: Query<'q>,
        exprs: &[Expr<'q>],
    ) -> Mapped<(Inner<'q>, Correlation, usize)> {
        let targets = query.targets();
        let number = |expr: &Expr<'q>| targets.iter().find(|t| t.expr.equals(*expr)).map(|t| t.number);
        let Some(wanted) = exprs.iter().map(number).collect::<Option<Vec<usize>>>() else {
            return opaque("it has ARRAY(SELECT …) that is ordered by what its subquery does not select");
        };
        let dependent = self.dependent(frame, outer, query, &wanted)?;
        let keyed = dependent.correlation(&outer.cols);
        let own = dependent.outside.len();
        let targets = (own..own + wanted.len()).collect();
        Ok((Inner { node: Node::new(dependent.rel, []), targets, correlated: Vec::new() }, keyed, own))
    }

    /// Whether each row outside has at most one partner in the subquery.
    fn is_single(&self, outer: &Node<'q>, inner: &Inner<'q>) -> Mapped<bool> {
        let known = KnownKeys { sources: self.sources.primary_keys(), stages: Vec::new() };
        let Some(key) = key(&inner.node.rel, &known) else { return Ok(false) };
        let equated = self.equated(outer, inner)?;
        Ok(key.iter().all(|column| equated.contains(column)))
    }

    /// Whether the ORDER BY of a subquery tells which value comes first for a row outside.
    fn is_settled_first(&self, outer: &Node<'q>, query: Query<'q>, inner: &Inner<'q>) -> Mapped<bool> {
        let (equated, terms) = (self.equated(outer, inner)?, sorting(terms(query, &query.order_by())));
        let shown = inner.targets[..1].iter().copied().collect();
        Ok(self.is_total(&inner.node.rel, &|expr| inner.node.find(expr), &equated, &terms, Some(&shown)))
    }

    /// The columns of a subquery that equal something of the row outside.
    fn equated(&self, outer: &Node<'q>, inner: &Inner<'q>) -> Mapped<Vec<usize>> {
        Ok(self.outer_conditions(outer, inner)?.iter().filter_map(|on| on.equi).map(|(_, right)| right).collect())
    }

    /// The subquery's conditions on the row outside, over outer ++ inner.
    pub(super) fn outer_conditions(&self, outer: &Node<'q>, inner: &Inner<'q>) -> Mapped<Vec<Conjunct>> {
        let cols = [outer.cols.clone(), inner.node.cols.clone()].concat();
        let left = |e: Expr<'q>| outer.find_outer(e);
        let sides = Sides { cols: &cols, width: outer.width(), left: &left, right: &|e| inner.node.find(e) };
        self.conjuncts(&inner.correlated, &sides)
    }

    /// Joins a subquery of which each row outside has at most one row.
    fn with_partner(&self, outer: &Node<'q>, inner: Inner<'q>, rows: Rows) -> Mapped<Rel> {
        let on = self.outer_conditions(outer, &inner)?;
        let kind = if rows == Rows::WithValue { JoinKind::Inner } else { JoinKind::Left };
        let at = outer.width() + inner.targets[0];
        let joined = outer.rel.clone().join(kind, inner.node.rel, on)?;
        let cols = joined.cols();
        let columns = (0..outer.width()).chain([at]).map(|i| Scalar::column(i, &cols[i])).collect();
        Ok(joined.map(columns)?)
    }

    /// A scalar subquery. If it is one aggregation, it has exactly one row.
    fn with_scalar(&self, frame: &Frame<'_, 'q>, outer: &Node<'q>, query: Query<'q>, rows: Rows) -> Mapped<Rel> {
        if !is_one_row(query) {
            return self.with_only(frame, outer, query, rows);
        }
        if !query.is_correlated() {
            let rel = self.query(&frame.inside(query), &[1])?;
            let rel = outer.rel.clone().join(JoinKind::Inner, rel, vec![])?;
            return Ok(rel);
        }
        self.with_correlated_scalar(frame, outer, query, rows)
    }

    fn with_correlated_scalar(
        &self,
        frame: &Frame<'_, 'q>,
        outer: &Node<'q>,
        query: Query<'q>,
        rows: Rows,
    ) -> Mapped<Rel> {
        let within = Frame { query, around: Some(frame), domain: None };
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
        let keyed = self.correlation(outer, &inner)?;
        let row = Row { cols: &inner.node.cols, find: &|e| inner.node.find(e) };
        let rel = &inner.node.rel;
        let calls = groups.calls.iter().map(|&call| self.aggregate(&within, call, rel, &row)).collect::<Mapped<_>>()?;
        let absent = self.over_nothing(target)?;
        let rel = inner.node.rel.clone().aggregate(keyed.keys.clone(), calls)?;
        let keys = keyed.keys.len();
        let find = |e: Expr<'q>| groups.find(e).map(|at| at + keys);
        let value = self.scalar(target, &Row { cols: &rel.cols(), find: &find })?;
        self.with_groups(outer, rel, &keyed, GroupValue { value, several: None, absent }, rows)
    }

    /// The value of an expression over aggregates of no rows; none if it is NULL.
    fn over_nothing(&self, target: Expr<'q>) -> Mapped<Option<Sql>> {
        let mut unknown = false;
        let constant = target.with_parts(&mut |part| {
            let Shape::Aggregate(_) = part.shape() else { return None };
            let value = over_nothing(part);
            unknown |= value.is_none();
            value.or(Some(Hole::Zero))
        });
        if !unknown && is_null(constant) {
            return Ok(None);
        }
        if constant.any(&mut may_fail) {
            return opaque("a correlated subquery divides, perhaps by the number of no rows");
        }
        if !unknown {
            return Ok(Some(self.scalar(constant, &Row { cols: &[], find: &|_| None })?.sql));
        }
        // PostgreSQL says it when it is asked for.
        let mut calls: Vec<Expr<'q>> = Vec::new();
        target.visit(&mut |part| {
            let Shape::Aggregate(_) = part.shape() else { return Walk::Into };
            add_missing(&mut calls, [part]);
            Walk::Past
        });
        let cols: Vec<Col> = calls.iter().map(|c| Col { ty: self.types.ty(c.ty()), not_null: false }).collect();
        let find = |e: Expr<'q>| calls.iter().position(|call| call.equals(e));
        let text = self.scalar(target, &Row { cols: &cols, find: &find })?.sql;
        let values = calls.iter().map(|call| self.of_nothing(*call)).collect::<Mapped<Vec<Sql>>>()?;
        let values = values.into_iter().enumerate().map(|(i, value)| sql!("{} AS {}", value, Sql::column(i)));
        Ok(Some(sql!("(SELECT {} FROM (SELECT {}) AS n)", text, Sql::list(values))))
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
pub(super) fn may_fail(expr: Expr<'_>) -> bool {
    let (Shape::Operator { function, args, .. } | Shape::Function { function, args, .. }) = expr.shape() else {
        return false;
    };
    let name = types::builtin_name(function).unwrap_or_default();
    let total = [
        "pl", "mi", "mul", "add", "sub", "eq", "ne", "lt", "le", "gt", "ge", "um", "uminus", "int8", "numeric",
        "float8",
    ];
    let never_called = types::is_strict(function) && args.into_iter().any(is_null);
    !never_called && !total.iter().any(|end| name.ends_with(end))
}

/// Whether a query is one aggregation, so that it has exactly one row.
fn is_one_row(query: Query<'_>) -> bool {
    let f = query.features();
    query.is_select()
        && query.set_operations().is_none()
        && f.grouped
        && query.group_by().is_empty()
        && query.having().is_none()
        && !(f.grouping_sets || f.limited || f.windows || f.target_srfs)
}

/// The expressions of ORDER BY.
fn sort_exprs<'q>(query: Query<'q>) -> Vec<Expr<'q>> {
    let targets = query.targets();
    let keys = query.order_by();
    let of = |group: u32| targets.iter().find(|target| target.sort_group == group).expect("a sort key is a target");
    keys.iter().map(|key| of(key.sort_group).expr).collect()
}

/// ` ORDER BY …` over the columns that follow the subquery's value.
fn order(query: Query<'_>, inner: &Inner<'_>) -> Mapped<Sql> {
    let keys = query.order_by();
    if keys.is_empty() || inner.targets.len() == 1 {
        return Ok(Sql::text(""));
    }
    let terms = keys.iter().zip(&inner.targets[1..]).map(|(key, at)| {
        let operator = Sql::deparsed(types::operator_name(key.operator));
        let nulls = Sql::text(if key.nulls_first { "FIRST" } else { "LAST" });
        sql!("{} USING {} NULLS {}", Sql::column(*at), operator, nulls)
    });
    Ok(sql!(" ORDER BY {}", Sql::list(terms)))
}
