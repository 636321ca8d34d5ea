//! LIMIT, OFFSET, FETCH FIRST; DISTINCT ON. ORDER BY means nothing without them.
//!
//! ```text
//! S ORDER BY o LIMIT n OFFSET m          = TopK_o,m,n(S)
//! the same for each row outside          = σ m < i ≤ m + n (ω row_number() partitioned by the domain, ordered by o)
//! … FETCH FIRST n ROWS WITH TIES         = the same with rank()
//! S OFFSET m                             = σ m < i (ω row_number() ordered by o)
//! the same where n or m is computed      = σ m < i ≤ m + n over the values of m and n beside each row
//! SELECT DISTINCT ON (k) … ORDER BY o    = σ i = 1 (ω row_number() partitioned by k, ordered by o)
//! ```

use super::node::Node;
use super::order::{Term, ordered_input, parts, terms};
use super::scalar::Row;
use super::subquery::{numbers, selected};
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgtrickle_engine::ir::{Col, Limit, Rel, Scalar, SortKey, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, Shape};
use std::collections::BTreeSet;

pub(super) fn open_limit<T>() -> Mapped<T> {
    opaque("LIMIT chooses among rows that its ORDER BY leaves equal: a key among what it sorts by settles it")
}

impl<'q> Analyzer<'q> {
    /// A limited query as a relation of the wanted columns.
    pub(super) fn limited(&self, frame: &Frame<'_, 'q>, wanted: &[usize]) -> Mapped<Rel> {
        let query = frame.query;
        let known = query.limit();
        if known.is_some_and(|limit| limit.offset < 0 || limit.rows.is_some_and(|rows| rows < 0)) {
            return opaque("its LIMIT or OFFSET is negative");
        }
        if known.is_some_and(|limit| limit.rows.is_none() && limit.offset == 0) {
            return self.unlimited(frame, wanted);
        }
        let terms = sorting(terms(query, &query.order_by()));
        if terms.is_empty() && ordered_input(frame) {
            return opaque("it has LIMIT without ORDER BY over a subquery with ORDER BY");
        }
        let mut exprs = selected(query, wanted);
        add_missing(&mut exprs, terms.iter().flat_map(parts));
        let rel = self.values_of(frame, &exprs, wanted.len())?;
        let (front, cols) = (frame.offset(), rel.cols());
        let find = |e: Expr<'q>| Some(front + exprs.iter().position(|known| known.equals(e))?);
        let order = self.sort_keys(&terms, &Row { cols: &cols, find: &find })?;
        let domain: Vec<usize> = (0..front).collect();
        let kept: BTreeSet<usize> = (front..front + wanted.len()).collect();
        if !query.with_ties() && !self.is_total(&rel, &find, &domain, &terms, Some(&kept)) {
            return open_limit();
        }
        if query.with_ties() && query.offset().is_some() && known.is_none_or(|limit| limit.offset > 0) {
            return opaque("it has WITH TIES after an OFFSET, ordered by what is not selected");
        }
        let function = if query.with_ties() { "rank()" } else { "row_number()" };
        let first = match known.map(|limit| (limit, limit.rows.map(|rows| rows as u64))) {
            Some((_, Some(0))) => rel.filter(vec![Scalar::deparsed("false", vec![], Ty::new("boolean"), true)])?,
            Some((limit, Some(rows))) if frame.domain.is_none() => {
                let shown: BTreeSet<usize> = (0..rel.arity()).collect();
                let settled = limit.ties || self.is_total(&rel, &find, &domain, &terms, Some(&shown));
                // Which of the rows comes first that differ in what is not wanted is for us to choose, but always the same.
                let order = order.into_iter().chain((!settled).then(|| by_image(&cols))).collect();
                rel.top_k(order, Limit { offset: limit.offset as u64, rows, ties: limit.ties })?
            }
            Some((limit, _)) => {
                let end = limit.rows.map(|rows| limit.offset.saturating_add(rows));
                between(numbered(rel, domain, &order, function)?, limit.offset, end)?
            }
            None => self.between_values(frame, numbered(rel, domain, &order, function)?)?,
        };
        front_of(first, front + wanted.len())
    }

    /// The rows whose last column is above the value of OFFSET, and by no more than that of LIMIT; where one of these is
    /// negative, the error that PostgreSQL raises.
    fn between_values(&self, frame: &Frame<'_, 'q>, numbered: Rel) -> Mapped<Rel> {
        let number = numbered.arity() - 1;
        let mut node = Node::new(numbered, []);
        let ids = frame.domain.iter().flat_map(|domain| &domain.ids);
        node.outer = ids.enumerate().map(|(at, id)| (*id, at)).collect();
        let bounds = [frame.query.offset(), frame.query.limit_count()];
        node = self.with_values(frame, node, &bounds.into_iter().flatten().collect::<Vec<_>>())?;
        let row = Row { cols: &node.cols, find: &|expr| node.find(expr) };
        let bound = |expr: Option<Expr<'q>>| expr.map(|expr| self.scalar(expr, &row)).transpose();
        let (above, most) = (bound(bounds[0])?, bound(bounds[1])?);
        let at = Sql::column(number);
        let start = above.as_ref().map_or(sql!("0"), |above| sql!("COALESCE({}, 0)", above.sql));
        let mut conditions = Vec::new();
        for (bound, clause, holds) in [
            (&above, "OFFSET", sql!("({} > {})", at, start)),
            (
                &most,
                "LIMIT",
                sql!("COALESCE({} - {} <= {}, true)", at, start, most.as_ref().map_or(sql!("NULL"), |m| m.sql.clone())),
            ),
        ] {
            let Some(bound) = bound else { continue };
            let error = sql!("(SELECT true {} {})", Sql::text(clause), bound.sql);
            let text = sql!("CASE WHEN ({}) < 0 THEN {} ELSE {} END", bound.sql, error, holds);
            let mut cols = bound.cols.clone();
            cols.extend(above.iter().flat_map(|above| &above.cols));
            cols.push(number);
            conditions.push(Scalar { sql: text, ..Scalar::deparsed("", cols, Ty::new("boolean"), true) });
        }
        Ok(node.rel.filter(conditions)?)
    }

    /// The values of expressions over the rows of a query without its LIMIT, which sorts by those that are not shown.
    fn values_of(&self, frame: &Frame<'_, 'q>, exprs: &[Expr<'q>], shown: usize) -> Mapped<Rel> {
        let features = frame.query.features();
        if features.distinct_on {
            return self.distinct_on(frame, exprs, shown);
        }
        if frame.query.set_operations().is_none() && !(features.distinct || features.target_srfs) {
            return self.select(frame, exprs);
        }
        match numbers(frame.query, exprs) {
            Some(numbers) => self.unlimited(frame, &numbers),
            None => opaque("it has LIMIT and is ordered by what is not selected"),
        }
    }

    /// The values of expressions over the rows that DISTINCT ON leaves. Those that are not shown are among what it sorts by.
    pub(super) fn distinct_on(&self, frame: &Frame<'_, 'q>, exprs: &[Expr<'q>], shown: usize) -> Mapped<Rel> {
        let query = frame.query;
        let targets = query.targets();
        let of = |group: &u32| targets.iter().find(|target| target.sort_group == *group).map(|target| target.expr);
        let keys: Vec<Expr<'q>> = query.distinct_on().iter().filter_map(of).collect();
        let terms = sorting(terms(query, &query.order_by()));
        let mut all = exprs.to_vec();
        add_missing(&mut all, keys.iter().copied().chain(terms.iter().flat_map(parts)));
        let rel = self.select(frame, &all)?;
        let (front, cols) = (frame.offset(), rel.cols());
        let find = |e: Expr<'q>| Some(front + all.iter().position(|known| known.equals(e))?);
        let order = self.sort_keys(&terms, &Row { cols: &cols, find: &find })?;
        let mut partition: Vec<usize> = (0..front).chain(keys.iter().filter_map(|key| find(*key))).collect();
        partition.sort_unstable();
        partition.dedup();
        let kept: BTreeSet<usize> = (front..front + shown).collect();
        if !self.is_total(&rel, &find, &partition, &terms, Some(&kept)) {
            return opaque(
                "DISTINCT ON chooses among rows that its ORDER BY leaves equal: a key among what it sorts by settles it",
            );
        }
        // How an equal value looks that is only sorted by is for us to choose, but always the same.
        let all: BTreeSet<usize> = (front..front + exprs.len()).collect();
        let settled = self.is_total(&rel, &find, &partition, &terms, Some(&all));
        let order: Vec<SortKey> = order.into_iter().chain((!settled).then(|| by_image(&cols))).collect();
        let first = between(numbered(rel, partition, &order, "row_number()")?, 0, Some(1))?;
        front_of(first, front + exprs.len())
    }
}

pub(super) fn add_missing<'q>(exprs: &mut Vec<Expr<'q>>, more: impl IntoIterator<Item = Expr<'q>>) {
    for expr in more {
        if !exprs.iter().any(|known| known.equals(expr)) {
            exprs.push(expr);
        }
    }
}

/// Without terms that are constants: they sort nothing, and a bare number would mean a column.
pub(super) fn sorting(terms: Vec<Term<'_>>) -> Vec<Term<'_>> {
    terms.into_iter().filter(|(expr, _)| !matches!(expr.shape(), Shape::Constant { .. })).collect()
}

/// The order of rows by the bytes of their values.
fn by_image(cols: &[Col]) -> SortKey {
    let columns: Vec<usize> = (0..cols.len()).collect();
    let row = sql!("ROW({})", Sql::list(columns.iter().map(|c| Sql::column(*c))));
    let by = Scalar { sql: row, ..Scalar::deparsed("", columns, Ty::new("record"), true) };
    SortKey { by, operator: sql!("OPERATOR(pg_catalog.*<)"), nulls_first: false }
}

/// One more column: the number of the row in its partition.
fn numbered(rel: Rel, partition: Vec<usize>, order: &[SortKey], function: &'static str) -> Mapped<Rel> {
    let mut cols: Vec<usize> = order.iter().flat_map(|key| key.by.cols.clone()).collect();
    cols.extend(&partition);
    let mut clauses = Vec::new();
    if !partition.is_empty() {
        clauses.push(sql!("PARTITION BY {}", Sql::list(partition.iter().map(|c| Sql::column(*c)))));
    }
    if !order.is_empty() {
        clauses.push(sql!("ORDER BY {}", Sql::list(order.iter().map(SortKey::sql))));
    }
    let text = sql!("{} OVER ({})", function, Sql::join(" ", clauses));
    let call = Scalar { sql: text, ..Scalar::deparsed("", cols, Ty::bigint(), true) };
    Ok(rel.window(partition, vec![call])?)
}

/// The rows whose last column is above one number, and at most another.
fn between(rel: Rel, above: i64, most: Option<i64>) -> Mapped<Rel> {
    let at = rel.arity() - 1;
    let condition = |text: Sql| Scalar { sql: text, ..Scalar::deparsed("", vec![at], Ty::new("boolean"), true) };
    let mut conditions = Vec::new();
    if above > 0 {
        conditions.push(condition(sql!("({} > {})", Sql::column(at), above)));
    }
    conditions.extend(most.map(|most| condition(sql!("({} <= {})", Sql::column(at), most))));
    Ok(rel.filter(conditions)?)
}

/// The first columns.
fn front_of(rel: Rel, width: usize) -> Mapped<Rel> {
    let columns = rel.cols().iter().take(width).enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
    map(rel, columns)
}
