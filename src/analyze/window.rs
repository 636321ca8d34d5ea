//! Window functions: computed over the rows that GROUP BY and HAVING leave, a column for each call.
//!
//! ```text
//! SELECT f() OVER (PARTITION BY a ORDER BY b), g() OVER (PARTITION BY c) …  = π(ω_c g(ω_a f(…)))
//! ```
//!
//! Calls that share PARTITION BY share a node, whatever else their windows say.

use super::node::Node;
use super::order::{Term, ordered_input, parts, terms, used};
use super::scalar::Row;
use super::{Analyzer, Frame, Mapped, opaque};
use pgtrickle_engine::ir::{Equality, Rel, Scalar};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::complete::{is_whole, order_matters, peers_matter, tells_apart};
use pgtrickle_pg::expr::{Expr, Shape, Walk, WindowCall};
use pgtrickle_pg::query::Query;
use pgtrickle_pg::types;
use pgtrickle_pg::window::{Exclusion, Frame as SqlFrame, FrameEnd, FrameMode, WindowClause};

/// A call with the window that it is over.
struct Over<'q> {
    expr: Expr<'q>,
    call: WindowCall<'q>,
    clause: WindowClause<'q>,
    partition: Vec<Expr<'q>>,
    order: Vec<Term<'q>>,
}

impl<'q> Over<'q> {
    /// What its value depends on.
    fn needs(&self) -> Vec<Expr<'q>> {
        let mut exprs = self.partition.clone();
        exprs.extend(self.order.iter().flat_map(parts));
        exprs.extend(self.call.args());
        exprs.extend(self.call.filter());
        exprs
    }
}

/// The window functions in expressions of a query, each once.
fn calls<'q>(query: Query<'q>, exprs: &[Expr<'q>]) -> Vec<Over<'q>> {
    let mut found: Vec<Over<'q>> = Vec::new();
    let targets = query.targets();
    for expr in exprs {
        expr.visit(&mut |part| {
            let Shape::Window(call) = part.shape() else { return Walk::Into };
            if let Some(clause) = query.window(call.window())
                && !found.iter().any(|known| known.expr.equals(part))
            {
                let of = |group: &u32| targets.iter().find(|t| t.sort_group == *group).map(|t| t.expr);
                let partition = clause.partition.iter().filter_map(of).collect();
                let order = terms(query, &clause.order);
                found.push(Over { expr: part, call, clause, partition, order });
            }
            Walk::Past
        });
    }
    found
}

/// What window functions in these expressions depend on.
pub(super) fn window_inputs<'q>(query: Query<'q>, exprs: &[Expr<'q>]) -> Vec<Expr<'q>> {
    calls(query, exprs).iter().flat_map(Over::needs).collect()
}

impl<'q> Analyzer<'q> {
    /// The node with one more column for each window function in the expressions.
    pub(super) fn with_windows(
        &self,
        frame: &Frame<'_, 'q>,
        mut node: Node<'q>,
        exprs: &[Expr<'q>],
    ) -> Mapped<Node<'q>> {
        let calls = calls(frame.query, exprs);
        if calls.is_empty() {
            return Ok(node);
        }
        let needs: Vec<Expr<'q>> = calls.iter().flat_map(Over::needs).collect();
        node = self.with_values(frame, node, &needs)?;
        let mut used = used(&node, &[exprs, &needs].concat());
        // A partition is of one row outside only.
        used.retain(|column| !node.outer.values().any(|outer| outer == column));
        let mut groups: Vec<(Vec<usize>, Vec<&Over<'q>>)> = Vec::new();
        for over in &calls {
            let (with_keys, mut partition) = self.with_columns(frame, node, &over.partition)?;
            node = with_keys;
            partition.extend(node.outer.values());
            partition.sort_unstable();
            partition.dedup();
            if partition.iter().any(|c| node.cols[*c].ty.equality == Equality::None) {
                return opaque("a window is partitioned by a column whose type has no equality");
            }
            match groups.iter_mut().find(|(known, _)| *known == partition) {
                Some((_, members)) => members.push(over),
                None => groups.push((partition, vec![over])),
            }
        }
        let base = node.rel.clone();
        // Which of its numbers goes with which of another window's is left open even between rows that are alike.
        let used = (numberings(&groups) < 2).then_some(used);
        for (partition, members) in groups {
            for over in &members {
                let total = self.is_total(&base, &|e| node.find(e), &partition, &over.order, used.as_ref());
                check_choice(frame, over, total)?;
            }
            node = self.with_partition(node, &partition, &members)?;
        }
        Ok(node)
    }

    /// The node with the values of calls that share their partitions.
    fn with_partition(&self, node: Node<'q>, partition: &[usize], members: &[&Over<'q>]) -> Mapped<Node<'q>> {
        let at = node.width();
        let row = Row { cols: &node.cols, find: &|e| node.find(e) };
        let calls =
            members.iter().map(|over| self.call_over(over, partition, &row)).collect::<Mapped<Vec<Scalar>>>()?;
        let rel: Rel = node.rel.clone().window(partition.to_vec(), calls)?;
        let mut node = node.become_rel(rel);
        node.values.extend(members.iter().enumerate().map(|(i, over)| (over.expr, at + i)));
        Ok(node)
    }

    /// `function(…) FILTER (WHERE …) OVER (…)`
    fn call_over(&self, over: &Over<'q>, partition: &[usize], row: &Row<'_, 'q>) -> Mapped<Scalar> {
        let function = self.scalar(over.call.as_function(), row)?;
        let mut cols = function.cols.clone();
        let mut text = if over.call.star() { Sql::text("count(*)") } else { function.sql.clone() };
        if let Some(filter) = over.call.filter() {
            let filter = self.scalar(filter, row)?;
            cols.extend(&filter.cols);
            text = sql!("{} FILTER (WHERE {})", text, filter.sql);
        }
        let mut clauses = Vec::new();
        if !partition.is_empty() {
            cols.extend(partition);
            clauses.push(sql!("PARTITION BY {}", Sql::list(partition.iter().map(|c| Sql::column(*c)))));
        }
        let order = self.sort_keys(&over.order, row)?;
        if !order.is_empty() {
            cols.extend(order.iter().flat_map(|key| &key.by.cols));
            clauses.push(sql!("ORDER BY {}", Sql::list(order.iter().map(|key| key.sql()))));
        }
        clauses.extend(self.frame_clause(&over.clause.frame)?);
        let text = sql!("{} OVER ({})", text, Sql::join(" ", clauses));
        let not_null = types::builtin_name(over.call.function()).is_some_and(|name| counts(&name));
        cols.sort_unstable();
        cols.dedup();
        Ok(Scalar { sql: text, cols, not_null, column: None, ..function })
    }

    /// The frame, unless it is what a window has anyway.
    fn frame_clause(&self, frame: &SqlFrame<'q>) -> Mapped<Option<Sql>> {
        let default = frame.mode == FrameMode::Range && frame.exclusion == Exclusion::Nothing;
        if default && matches!((frame.start, frame.end), (FrameEnd::UnboundedPreceding, FrameEnd::CurrentRow)) {
            return Ok(None);
        }
        let mode = match frame.mode {
            FrameMode::Range => "RANGE",
            FrameMode::Rows => "ROWS",
            FrameMode::Groups => "GROUPS",
        };
        let end = |end: &FrameEnd<'q>| -> Mapped<Sql> {
            let nothing = Row { cols: &[], find: &|_| None };
            let offset = |expr: &Expr<'q>| self.scalar(*expr, &nothing).map(|scalar| scalar.sql);
            Ok(match end {
                FrameEnd::UnboundedPreceding => Sql::text("UNBOUNDED PRECEDING"),
                FrameEnd::Preceding(n) => sql!("({}) PRECEDING", offset(n)?),
                FrameEnd::CurrentRow => Sql::text("CURRENT ROW"),
                FrameEnd::Following(n) => sql!("({}) FOLLOWING", offset(n)?),
                FrameEnd::UnboundedFollowing => Sql::text("UNBOUNDED FOLLOWING"),
            })
        };
        let exclusion = match frame.exclusion {
            Exclusion::Nothing => "",
            Exclusion::CurrentRow => " EXCLUDE CURRENT ROW",
            Exclusion::Group => " EXCLUDE GROUP",
            Exclusion::Ties => " EXCLUDE TIES",
        };
        Ok(Some(sql!("{} BETWEEN {} AND {}{}", mode, end(&frame.start)?, end(&frame.end)?, exclusion)))
    }
}

/// The number of windows, by partition and order, that may give rows that are alike different values.
fn numberings(groups: &[(Vec<usize>, Vec<&Over<'_>>)]) -> usize {
    let same = |a: &[Term<'_>], b: &[Term<'_>]| {
        a.len() == b.len() && a.iter().zip(b).all(|((a, how), (b, other))| a.equals(*b) && how == other)
    };
    let orders = |members: &[&Over<'_>]| {
        let telling: Vec<&&Over<'_>> = members.iter().filter(|over| tells_apart(&over.call, &over.clause)).collect();
        let first = |i: &usize| !telling[..*i].iter().any(|known| same(&known.order, &telling[*i].order));
        (0..telling.len()).filter(first).count()
    };
    groups.iter().map(|(_, members)| orders(members)).sum()
}

/// Functions whose value is never NULL.
fn counts(name: &str) -> bool {
    ["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "count"].contains(&name)
}

/// Refuses rules to a call whose value depends on how rows that tie are ordered.
fn check_choice(frame: &Frame<'_, '_>, over: &Over<'_>, total: bool) -> Mapped<()> {
    if peers_matter(&over.call, &over.clause) && !total {
        return opaque(
            "the result of a window function depends on the order of rows that its ORDER BY leaves equal: a key among what it sorts by settles it",
        );
    }
    let unordered = over.order.is_empty() && is_whole(&over.clause);
    if unordered && order_matters(&over.call) && ordered_input(frame) {
        return opaque(
            "the result of a window function depends on the order of a subquery in FROM: an ORDER BY of its own settles it",
        );
    }
    Ok(())
}
