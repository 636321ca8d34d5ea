//! GROUP BY, aggregates and HAVING.
//!
//! The aggregate outputs its keys, then its aggregates; what stands above refers to them by position. An expression is
//! a key if its tree equals the key's, as PostgreSQL itself decides.

use super::node::{Node, conditions};
use super::scalar::Row;
use super::target::{needed_below, needed_by};
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgtrickle_engine::ir::{Agg, AggKind, Equality, Rel};
use pgtrickle_pg::expr::{Aggregate, Expr, Shape, Walk};
use pgtrickle_pg::query::Target;
use pgtrickle_pg::types;

/// What a grouped query computes per group.
pub(super) struct Groups<'q> {
    pub keys: Vec<Expr<'q>>,
    pub calls: Vec<Expr<'q>>,
}

impl<'q> Groups<'q> {
    /// The position in the aggregate's output of an expression's value.
    pub(super) fn find(&self, expr: Expr<'q>) -> Option<usize> {
        let key = self.keys.iter().position(|key| key.equals(expr));
        key.or_else(|| {
            let call = self.calls.iter().position(|call| call.equals(expr))?;
            Some(self.keys.len() + call)
        })
    }

    /// Where the values of all keys and aggregates are.
    fn values(&self) -> Vec<(Expr<'q>, usize)> {
        self.keys.iter().chain(&self.calls).copied().enumerate().map(|(at, expr)| (expr, at)).collect()
    }

    /// Notes the aggregates that an expression above the groups uses, and the columns that are none of the keys: they
    /// depend on a primary key among the keys, so grouping by them as well changes nothing.
    pub(super) fn collect(&mut self, expr: Expr<'q>) {
        expr.visit(&mut |part| {
            if self.find(part).is_some() {
                return Walk::Past;
            }
            match part.shape() {
                Shape::Aggregate(call) if call.levels_up() == 0 => self.calls.push(part),
                Shape::Column { levels_up: 0, .. } => self.keys.push(part),
                _ => return Walk::Into,
            }
            Walk::Past
        });
    }
}

impl<'q> Analyzer<'q> {
    pub(super) fn grouped(
        &self,
        frame: &Frame<'_, 'q>,
        targets: &[Target<'q>],
        exprs: &[Expr<'q>],
    ) -> Mapped<Rel> {
        let groups = groups(frame, targets, exprs);
        if groups.keys.is_empty() && groups.calls.is_empty() {
            return opaque("it groups by nothing and aggregates nothing");
        }
        let mut needed = needed_by(&groups.keys);
        needed.extend(needed_by(&groups.calls));
        needed.extend(needed_below(frame));
        let from = self.from_where(frame, &needed)?;
        let from = self.with_values(frame, from, &groups.keys)?;
        let from = self.with_values(frame, from, &groups.calls)?;
        let row = Row { cols: &from.cols, find: &|expr| from.find(expr) };
        let keys = self.scalars(&groups.keys, &row)?;
        if keys.iter().any(|key| key.ty.equality == Equality::None) {
            return opaque("it groups by a column whose type has no equality");
        }
        let calls = groups.calls.iter().map(|&call| self.aggregate(frame, call, &row)).collect::<Mapped<_>>()?;
        let grouped = from.rel.aggregate(keys, calls)?;
        self.above_groups(frame, grouped, &groups, exprs)
    }

    /// HAVING and the select list.
    fn above_groups(
        &self,
        frame: &Frame<'_, 'q>,
        rel: Rel,
        groups: &Groups<'q>,
        exprs: &[Expr<'q>],
    ) -> Mapped<Rel> {
        let mut node = Node::new(rel, []);
        // Subqueries may read those keys that are plain columns.
        for (at, key) in groups.keys.iter().enumerate() {
            if let Shape::Column { levels_up: 0, entry, column } = key.shape() {
                node.layout.insert((entry, column), at);
            }
        }
        node.values = groups.values();
        node = self.filtered(frame, node, conditions(frame.query.having()))?;
        node = self.with_values(frame, node, exprs)?;
        let exprs = self.scalars(exprs, &Row { cols: &node.cols, find: &|expr| node.find(expr) })?;
        map(node.rel, exprs)
    }

    /// One aggregate call over the rows of FROM.
    pub(super) fn aggregate(&self, frame: &Frame<'_, 'q>, expr: Expr<'q>, row: &Row<'_, 'q>) -> Mapped<Agg> {
        let Shape::Aggregate(call) = expr.shape() else { return opaque("it has an unknown aggregate") };
        let kind = self.aggregate_kind(call, row)?;
        if kind == AggKind::Recompute && !call.ordered() && ordered_input(frame) {
            return opaque("an aggregate's result depends on the order of a subquery in FROM");
        }
        // The call itself is no hole; what is in it are columns of the input.
        let call_text = self.scalar_call(expr, row)?;
        let filter = call.filter().map(|filter| self.scalar(filter, row)).transpose()?;
        Ok(Agg { call: call_text, kind, filter })
    }

    fn aggregate_kind(&self, call: Aggregate<'q>, row: &Row<'_, 'q>) -> Mapped<AggKind> {
        let Some(name) = types::builtin_name(call.function()) else { return Ok(AggKind::Recompute) };
        if !call.plain() {
            return Ok(AggKind::Recompute);
        }
        if call.star() {
            return Ok(AggKind::CountStar);
        }
        let args = call.args();
        let &[arg] = args.as_slice() else { return Ok(AggKind::Recompute) };
        let argument = || self.scalar(arg, row);
        Ok(match name.as_str() {
            // The order of equal extremes is no matter, and DISTINCT changes nothing about them.
            "min" if self.types.facts(arg.ty()).sortable => AggKind::Min(argument()?),
            "max" if self.types.facts(arg.ty()).sortable => AggKind::Max(argument()?),
            _ if call.distinct() => AggKind::Recompute,
            "count" => AggKind::Count(argument()?),
            "sum" if self.types.facts(arg.ty()).exact_number => AggKind::Sum(argument()?),
            "avg" if self.types.facts(arg.ty()).exact_number => AggKind::Avg(argument()?),
            _ => AggKind::Recompute,
        })
    }
}

fn groups<'q>(frame: &Frame<'_, 'q>, targets: &[Target<'q>], exprs: &[Expr<'q>]) -> Groups<'q> {
    let mut groups = Groups { keys: Vec::new(), calls: Vec::new() };
    for number in frame.query.group_by() {
        let key = targets.iter().find(|target| target.sort_group == number).expect("a key is in the select list").expr;
        if !groups.keys.iter().any(|known| known.equals(key)) {
            groups.keys.push(key);
        }
    }
    exprs.iter().copied().chain(frame.query.having()).for_each(|expr| groups.collect(expr));
    groups
}

/// Whether FROM has a subquery with ORDER BY, on whose order array_agg and its like are commonly relied.
fn ordered_input(frame: &Frame<'_, '_>) -> bool {
    frame.query.subqueries().iter().any(|query| query.features().ordered)
}
