//! Functions that return rows: in FROM, LATERAL or not, and in the select list.
//!
//! ```text
//! L, LATERAL f(L)                   = L beside each row of f(L)
//! L LEFT JOIN LATERAL f(L) ON c     = the same; where no row fulfils c, beside NULLs
//! f()                               = the same beside the one empty row
//! SELECT f(x), g(y) + 1, z FROM L   = π f, g + 1, z (L, LATERAL (SELECT f(x), g(y)))
//! ```
//!
//! In the last line PostgreSQL itself runs the functions of the select list in lockstep, and nested ones level by level.

use super::node::{ColumnId, Condition, Needed, Node};
use super::scalar::Row;
use super::{Analyzer, Frame, Mapped, opaque};
use pgtrickle_engine::ir::{Col, Rel, Rows};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, Sql};
use pgtrickle_pg::expr::{Expr, Shape, Walk};
use pgtrickle_pg::functions::{Computed, FunctionCall, Functions};
use pgtrickle_pg::types::TypeRef;

/// What a computed entry is called where its row is used as a value.
const ROW_ALIAS: &str = "pgt_row";

/// The item of FROM, and which columns it reads.
struct Item {
    sql: Sql,
    reads: Vec<usize>,
}

impl<'q> Analyzer<'q> {
    /// Functions in FROM that depend on nothing.
    pub(super) fn functions(
        &self,
        frame: &Frame<'_, 'q>,
        number: usize,
        functions: &Functions<'q>,
        needed: &Needed,
    ) -> Mapped<Node<'q>> {
        let nothing = Node::new(Rel::values(vec![vec![]], vec![])?, []);
        self.beside_functions(frame, nothing, (number, functions), needed, None)
    }

    /// Rows beside those that functions in FROM return for them; `on` is the condition of an outer join.
    pub(super) fn beside_functions(
        &self,
        frame: &Frame<'_, 'q>,
        node: Node<'q>,
        (number, functions): (usize, &Functions<'q>),
        needed: &Needed,
        on: Option<&[Condition<'q>]>,
    ) -> Mapped<Node<'q>> {
        let node = self.with_values(frame, node, &functions.exprs())?;
        let item = self.item_of(&node, functions)?;
        let whole = needed.contains(&(number, 0));
        let sql = if whole { with_row(&item.sql, functions)? } else { item.sql };
        let col = |ty: TypeRef| Col::new(self.types.ty(ty));
        let mut cols: Vec<Col> = functions.columns.iter().map(|column| col(column.ty)).collect();
        if matches!(functions.rows, Computed::Calls { ordinality: true, .. }) {
            cols.last_mut().expect("the ordinality").not_null = true;
        }
        cols.extend(whole.then(|| col(functions.row_type)));

        let numbers = functions.columns.iter().map(|column| column.number).chain(whole.then_some(0));
        let rows = Rows { item: sql, reads: item.reads, cols, key: functions.key(), outer: None };
        rows_beside(self, node, rows, numbers.map(|column| (number, column)), on)
    }

    /// The functions as an item of FROM over a row.
    fn item_of(&self, node: &Node<'q>, functions: &Functions<'q>) -> Mapped<Item> {
        let row = Row { cols: &node.cols, find: &|expr| node.find(expr) };
        let mut reads = Vec::new();
        let mut print = |expr: Expr<'q>| -> Mapped<Sql> {
            let (text, cols) = self.text(expr, &row)?;
            reads.extend(cols);
            Ok(Sql::deparsed(text))
        };
        let sql = match &functions.rows {
            Computed::Table(table) => print(*table)?,
            Computed::Calls { calls, ordinality: false } if is_value(calls) => {
                sql!("(SELECT {})", print(calls[0].expr)?)
            }
            Computed::Calls { calls, ordinality } => {
                if calls.iter().any(|call| !call.is_call) {
                    return opaque("it has an expression that is no function call in ROWS FROM or WITH ORDINALITY");
                }
                let calls: Vec<Sql> =
                    calls.iter().map(|call| Ok(self.defined(print(call.expr)?, call))).collect::<Mapped<_>>()?;
                let ordinality = Sql::text(if *ordinality { " WITH ORDINALITY" } else { "" });
                sql!("ROWS FROM ({}){}", Sql::list(calls), ordinality)
            }
        };
        reads.sort_unstable();
        reads.dedup();
        Ok(Item { sql, reads })
    }

    /// A call with its column definition list.
    fn defined(&self, call: Sql, of: &FunctionCall<'q>) -> Sql {
        if of.definitions.is_empty() {
            return call;
        }
        let column = |(name, ty): &(String, TypeRef)| {
            let ty = self.types.ty(*ty);
            let collation = ty.collation.map(|collation| sql!(" COLLATE {}", collation)).unwrap_or_default();
            sql!("{} {}{}", Ident::new(name), ty.sql, collation)
        };
        sql!("{} AS ({})", call, Sql::list(of.definitions.iter().map(column)))
    }

    /// The rows that set-returning functions in the select list make of each row, with their values among the columns.
    pub(super) fn with_sets(&self, frame: &Frame<'_, 'q>, node: Node<'q>, exprs: &[Expr<'q>]) -> Mapped<Node<'q>> {
        let mut calls: Vec<Expr<'q>> = Vec::new();
        exprs.iter().for_each(|expr| collect_sets(&node, *expr, &mut calls));
        if calls.is_empty() {
            return Ok(node);
        }
        let mut node = self.with_values(frame, node, &calls)?;
        let row = Row { cols: &node.cols, find: &|expr| node.find(expr) };
        let (mut texts, mut reads) = (Vec::new(), Vec::new());
        for &call in &calls {
            let (text, cols) = self.text(call, &row)?;
            texts.push(Sql::deparsed(text));
            reads.extend(cols);
        }
        let cols = calls.iter().map(|call| Col::new(self.types.ty(call.ty()))).collect();
        let rows = Rows { item: sql!("(SELECT {})", Sql::list(texts)), reads, cols, key: None, outer: None };
        let width = node.width();
        let rel = node.rel.clone().flat_map(rows)?;
        node = node.become_rel(rel);
        node.values.extend(calls.iter().enumerate().map(|(at, call)| (*call, width + at)));
        Ok(node)
    }
}

/// A node beside rows that are computed from it; `on` is the condition of an outer join.
pub(super) fn rows_beside<'q>(
    analyzer: &Analyzer<'q>,
    node: Node<'q>,
    mut rows: Rows,
    ids: impl Iterator<Item = ColumnId>,
    on: Option<&[Condition<'q>]>,
) -> Mapped<Node<'q>> {
    let (width, input) = (node.width(), node.rel.clone());
    let mut both = Node { cols: [node.cols.clone(), rows.cols.clone()].concat(), ..node };
    both.layout.extend(ids.enumerate().map(|(at, id)| (id, width + at)));
    if let Some(on) = on {
        let row = Row { cols: &both.cols, find: &|expr| both.find(expr) };
        rows.outer = Some(on.iter().map(|c| analyzer.scalar(c.expr, &row)).collect::<Mapped<_>>()?);
    }
    Ok(both.become_rel(input.flat_map(rows)?))
}

/// Whether a set-returning function is in an expression.
pub(super) fn has_sets(expr: Expr<'_>) -> bool {
    expr.any(&mut is_set)
}

/// The outermost set-returning calls in an expression whose values are not known yet, each once.
fn collect_sets<'q>(node: &Node<'q>, expr: Expr<'q>, calls: &mut Vec<Expr<'q>>) {
    expr.visit(&mut |part| {
        if node.find(part).is_some() {
            return Walk::Past;
        }
        // A column of a row that has no declared type is known only where the function is.
        let set = match part.shape() {
            Shape::Field(row) => is_set(row),
            _ => is_set(part),
        };
        if set && !calls.iter().any(|known| known.equals(part)) {
            calls.push(part);
        }
        if set { Walk::Past } else { Walk::Into }
    });
}

fn is_set(expr: Expr<'_>) -> bool {
    matches!(expr.shape(), Shape::Function { returns_set: true, .. })
}

/// A single expression of a single value, however it is spelled.
fn is_value(calls: &[FunctionCall<'_>]) -> bool {
    matches!(calls, [only] if !only.returns_set && !only.returns_rows)
}

/// An item of FROM with one more column, its row.
fn with_row(item: &Sql, functions: &Functions<'_>) -> Mapped<Sql> {
    if functions.columns.iter().any(|column| column.name == ROW_ALIAS) {
        return opaque("it uses a whole row with a column called \"pgt_row\" as a value");
    }
    let row = Ident::new(ROW_ALIAS);
    let names = Sql::list(functions.columns.iter().map(|column| Ident::new(&column.name)));
    Ok(sql!("(SELECT {}.*, {} FROM {} AS {}({}))", row, row, item, row, names))
}
