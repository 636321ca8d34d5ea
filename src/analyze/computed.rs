//! Subqueries that read no table: their rows are a function of the row outside, like those of a set-returning function.
//!
//! ```text
//! value of (SELECT … FROM unnest(L.a) …)             = one more column, computed from the row
//! L, LATERAL (SELECT … FROM unnest(L.a) …)           = L beside each row of the subquery
//! L LEFT JOIN LATERAL (VALUES (L.a), (L.b)) v ON c   = the same; where no row fulfils c, beside NULLs
//! ```
//!
//! PostgreSQL evaluates them as they are, whatever is in them: ORDER BY and LIMIT, windows, grouping.

use super::functions::rows_beside;
use super::node::{Condition, Node};
use super::scalar::Row;
use super::{Analyzer, Mapped, opaque};
use pgtrickle_engine::ir::{Col, Rel, Rows, Scalar};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, Shape, SublinkKind};
use pgtrickle_pg::query::Query;

impl<'q> Analyzer<'q> {
    /// The node with one more column: the value of a subquery that reads no table.
    pub(super) fn with_computed(&self, node: &Node<'q>, value: Expr<'q>) -> Mapped<Rel> {
        let (text, cols) = self.subquery_text(node, value)?;
        let sql = match cols.as_slice() {
            [] => text,
            // OFFSET keeps the row apart. Otherwise an EXISTS becomes an InitPlan, and PostgreSQL (all versions up to 18) does not
            // see that such a plan depends on the row if only the run condition of a window does.
            cols => sql!("(SELECT {} FROM (SELECT {} OFFSET 0) AS c)", text, columns(cols)),
        };
        let sure = |kind| matches!(kind, SublinkKind::Exists | SublinkKind::Array);
        let not_null = matches!(value.shape(), Shape::Sublink(sublink) if sure(sublink.kind()));
        let ty = self.types.ty(value.ty());
        let mut columns: Vec<Scalar> = node.cols.iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect();
        columns.push(Scalar { sql, ..Scalar::deparsed("", cols, ty, not_null) });
        Ok(node.rel.clone().map(columns)?)
    }

    /// Rows beside those of a subquery that reads no table; `on` is the condition of an outer join.
    pub(super) fn beside_subquery(
        &self,
        node: &Node<'q>,
        (number, query): (usize, Query<'q>),
        on: Option<&[Condition<'q>]>,
    ) -> Mapped<Node<'q>> {
        if !query.reads_no_table() {
            return opaque("a subquery reads tables");
        }
        let (text, reads) = self.subquery_text(node, query.as_expr())?;
        let item = match reads.as_slice() {
            [] => text,
            cols => sql!("(SELECT s.* FROM {}, LATERAL {} AS s)", row_of(cols), text),
        };
        let targets: Vec<_> = query.targets().into_iter().filter(|target| !target.junk).collect();
        let cols: Vec<Col> = targets.iter().map(|target| Col::new(self.types.ty(target.expr.ty()))).collect();
        let numbers = targets.iter().map(|target| (number, target.number as i16));
        let rows = Rows { item, reads, cols, key: None, outer: None };
        rows_beside(self, node.clone(), rows, numbers, on)
    }

    /// A subquery's text, in which the columns of the row outside are those of `c`.
    fn subquery_text(&self, node: &Node<'q>, subquery: Expr<'q>) -> Mapped<(Sql, Vec<usize>)> {
        let row = Row { cols: &node.cols, find: &|expr| node.find(expr) };
        let (text, mut cols) = self.text(subquery, &row)?;
        cols.sort_unstable();
        cols.dedup();
        Ok((Sql::deparsed(text), cols))
    }
}

/// The row outside under the name that printed subqueries give it.
fn row_of(cols: &[usize]) -> Sql {
    sql!("(SELECT {}) AS c", columns(cols))
}

fn columns(cols: &[usize]) -> Sql {
    Sql::list(cols.iter().map(|c| Sql::column(*c)))
}
