//! One SELECT: FROM and WHERE, GROUP BY and HAVING, the select list, DISTINCT.

use super::functions::has_sets;
use super::node::{Needed, Node};
use super::scalar::Row;
use super::subquery::selected;
use super::window::window_inputs;
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgtrickle_engine::ir::{Rel, Scalar};
use pgtrickle_pg::expr::Expr;
use pgtrickle_pg::query::Target;

impl<'q> Analyzer<'q> {
    /// A query as a relation of the wanted columns (by number from 1), in that order.
    pub(super) fn query(&self, frame: &Frame<'_, 'q>, wanted: &[usize]) -> Mapped<Rel> {
        pgtrickle_pg::query::check_depth();
        let features = frame.query.features();
        if !frame.query.is_select() {
            return opaque("it has a data-modifying statement in WITH");
        }
        if features.limited {
            return self.limited(frame, wanted);
        }
        self.unlimited(frame, wanted)
    }

    /// The same without its LIMIT and OFFSET.
    pub(super) fn unlimited(&self, frame: &Frame<'_, 'q>, wanted: &[usize]) -> Mapped<Rel> {
        let features = frame.query.features();
        if let Some(tree) = frame.query.set_operations() {
            return self.set_operations(frame, &tree, wanted);
        }
        if features.distinct_on {
            return self.distinct_on(frame, &selected(frame.query, wanted), wanted.len());
        }
        if features.distinct {
            return self.distinct(frame, wanted);
        }
        self.select(frame, &selected(frame.query, wanted))
    }

    /// DISTINCT compares all columns, wanted or not.
    fn distinct(&self, frame: &Frame<'_, 'q>, wanted: &[usize]) -> Mapped<Rel> {
        let all: Vec<usize> = frame.query.targets().iter().filter(|t| !t.junk).map(|t| t.number).collect();
        let rows = self.select(frame, &selected(frame.query, &all))?;
        if rows.cols()[frame.offset()..].iter().any(|col| col.ty.is_blurred()) {
            return opaque(
                "DISTINCT chooses among values that are equal but look different, in a recursion, or in a view whose choices cannot be made for it",
            );
        }
        let distinct = rows.distinct()?;
        pick(distinct, frame.offset(), wanted)
    }

    /// The values of expressions over the rows that FROM, WHERE, GROUP BY and HAVING leave.
    pub(super) fn select(&self, frame: &Frame<'_, 'q>, exprs: &[Expr<'q>]) -> Mapped<Rel> {
        let targets = frame.query.targets();
        if frame.query.features().target_srfs {
            // Even if nobody wants their values, they decide how many rows there are.
            let mut all = exprs.to_vec();
            all.extend(targets.iter().map(|target| target.expr).filter(|expr| has_sets(*expr)));
            let all = self.computed(frame, &targets, &all)?;
            return pick(all, frame.offset(), &(1..=exprs.len()).collect::<Vec<_>>());
        }
        self.computed(frame, &targets, exprs)
    }

    fn computed(&self, frame: &Frame<'_, 'q>, targets: &[Target<'q>], exprs: &[Expr<'q>]) -> Mapped<Rel> {
        if frame.query.features().grouped {
            return self.grouped(frame, targets, exprs);
        }
        let mut needed = needed_by(exprs);
        needed.extend(needed_by(&window_inputs(frame.query, exprs)));
        needed.extend(needed_below(frame));
        let from = self.from_where(frame, &needed)?;
        let from = self.with_windows(frame, from, exprs)?;
        let from = self.with_values(frame, from, exprs)?;
        let from = self.with_sets(frame, from, exprs)?;
        let row = Row { cols: &from.cols, find: &|expr| from.find(expr) };
        let exprs = self.scalars(exprs, &row)?;
        self.output(frame, from, exprs)
    }
}

impl<'q> Analyzer<'q> {
    /// A query's relation: the columns of its domain, then its own.
    pub(super) fn output(&self, frame: &Frame<'_, 'q>, node: Node<'q>, exprs: Vec<Scalar>) -> Mapped<Rel> {
        let ids = frame.domain.iter().flat_map(|domain| &domain.ids);
        let front = ids.filter_map(|id| node.outer.get(id)).map(|&at| Scalar::column(at, &node.cols[at]));
        let columns = front.chain(exprs).collect();
        map(node.rel, columns)
    }
}

pub(super) fn expr_of<'q>(targets: &[Target<'q>], number: usize) -> Expr<'q> {
    targets.iter().find(|target| target.number == number).expect("a column of the select list").expr
}

/// The columns that expressions read.
pub(super) fn needed_by(exprs: &[Expr<'_>]) -> Needed {
    exprs.iter().flat_map(|expr| expr.columns()).collect()
}

/// The columns that WHERE, the conditions of joins, functions in FROM and LATERAL subqueries read.
pub(super) fn needed_below(frame: &Frame<'_, '_>) -> Needed {
    let mut exprs: Vec<Expr<'_>> = frame.query.filter().into_iter().collect();
    exprs.extend(frame.query.join_conditions());
    let mut needed = needed_by(&exprs);
    needed.extend(frame.query.function_arguments());
    for query in frame.query.subqueries() {
        let own = query.outer_columns().into_iter().filter(|id| id.levels_up == 1);
        needed.extend(own.map(|id| (id.entry, id.column)));
    }
    needed
}

/// The first `offset` columns, and those with these numbers (from 1) among the others.
pub(super) fn pick(rel: Rel, offset: usize, wanted: &[usize]) -> Mapped<Rel> {
    let cols = rel.cols();
    let positions = (0..offset).chain(wanted.iter().map(|n| offset + n - 1));
    let exprs = positions.map(|at| Scalar::column(at, &cols[at])).collect();
    map(rel, exprs)
}
