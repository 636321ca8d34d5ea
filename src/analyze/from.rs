//! FROM and WHERE: entries of the range table, joined.
//!
//! Conditions of WHERE and of inner joins mean the same, so they are collected and each is put as deep as the columns
//! that it reads allow; inputs are joined in an order that follows the conditions, to leave no product that a
//! condition could have avoided.

use super::scalar::Row;
use super::{Analyzer, Frame, Mapped, opaque};
use pgtrickle_engine::ir::{Col, Conjunct, JoinKind, Rel, Scalar};
use pgtrickle_pg::expr::{Expr, Shape};
use pgtrickle_pg::query::{Entry, From, JoinKind as SqlJoin, Query};
use pgtrickle_pg::types::{TypeRef, is_default_equality};
use std::collections::{BTreeMap, BTreeSet};

/// A column of the range table: entry and attribute number.
pub(super) type ColumnId = (usize, i16);

/// The columns of a query's own range table that some expression reads.
pub(super) type Needed = BTreeSet<ColumnId>;

/// A relation whose columns are columns of the range table.
pub(super) struct Node {
    pub rel: Rel,
    pub cols: Vec<Col>,
    pub layout: BTreeMap<ColumnId, usize>,
}

impl Node {
    fn new(rel: Rel, ids: impl IntoIterator<Item = ColumnId>) -> Node {
        let layout = ids.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        Node { cols: rel.cols(), rel, layout }
    }

    /// The position of the column that an expression is.
    pub(super) fn find(&self, expr: Expr<'_>) -> Option<usize> {
        match expr.shape() {
            Shape::Column { levels_up: 0, entry, column } => self.layout.get(&(entry, column)).copied(),
            _ => None,
        }
    }

    /// Whether it has all columns that an expression reads.
    fn covers(&self, columns: &[ColumnId]) -> bool {
        columns.iter().all(|id| self.layout.contains_key(id))
    }
}

/// A condition and what it reads.
struct Condition<'q> {
    expr: Expr<'q>,
    columns: Vec<ColumnId>,
}

/// What inner joins have in common: their inputs and all conditions on them.
#[derive(Default)]
struct InnerJoin<'q> {
    inputs: Vec<Node>,
    conditions: Vec<Condition<'q>>,
}

impl<'q> InnerJoin<'q> {
    fn require(&mut self, condition: Expr<'q>) {
        for expr in condition.conjuncts() {
            self.conditions.push(Condition { expr, columns: expr.columns() });
        }
    }
}

impl<'q> Analyzer<'q> {
    /// FROM and WHERE of a query, with the columns that it needs.
    pub(super) fn from_where(&self, frame: &Frame<'_, 'q>, needed: &Needed) -> Mapped<Node> {
        let mut join = InnerJoin::default();
        for item in frame.query.from() {
            self.from_item(frame, item, needed, &mut join)?;
        }
        if let Some(filter) = frame.query.filter() {
            join.require(filter);
        }
        self.inner_join(join)
    }

    fn from_item(
        &self,
        frame: &Frame<'_, 'q>,
        item: From<'q>,
        needed: &Needed,
        join: &mut InnerJoin<'q>,
    ) -> Mapped<()> {
        match item {
            From::Entry(number) => {
                if let Some(node) = self.entry(frame, number, needed)? {
                    join.inputs.push(node);
                }
            }
            From::Join { kind: SqlJoin::Inner, left, right, on } => {
                self.from_item(frame, *left, needed, join)?;
                self.from_item(frame, *right, needed, join)?;
                if let Some(on) = on {
                    join.require(on);
                }
            }
            From::Join { kind, .. } => {
                let kind = match kind {
                    SqlJoin::Left => "LEFT",
                    SqlJoin::Right => "RIGHT",
                    _ => "FULL",
                };
                return opaque(format!("it has an outer join ({kind} JOIN)"));
            }
        }
        Ok(())
    }

    /// An entry of the range table; none if it is the single empty row of a SELECT without FROM.
    fn entry(&self, frame: &Frame<'_, 'q>, number: usize, needed: &Needed) -> Mapped<Option<Node>> {
        let wanted: Vec<i16> = needed.iter().filter(|id| id.0 == number).map(|id| id.1).collect();
        if let Some(odd) = wanted.iter().find(|column| **column <= 0) {
            let what = if *odd == 0 { "a whole row as a value" } else { "a system column" };
            return opaque(format!("it uses {what}"));
        }
        let positions: Vec<usize> = wanted.iter().map(|&column| column as usize).collect();
        let rel = match frame.query.entry(number) {
            Entry::Relation(relation) => self.scan(&relation, &wanted)?,
            Entry::Subquery { query, lateral } => self.subquery(frame, query, lateral, &positions)?,
            Entry::Values { rows, types, lateral } => {
                if lateral {
                    return opaque("it has a LATERAL VALUES list");
                }
                self.values(&rows, &types, &positions)?
            }
            Entry::Cte { name, levels_up, recursive } => self.cte(frame, &name, levels_up, recursive, &positions)?,
            Entry::Function => return opaque("it has a function in FROM"),
            Entry::TableFunction => return opaque("it has XMLTABLE or JSON_TABLE in FROM"),
            Entry::Result => return Ok(None),
            Entry::Other => return opaque("it reads something in FROM that is not a table"),
        };
        Ok(Some(Node::new(rel, wanted.iter().map(|&column| (number, column)))))
    }

    fn subquery(&self, frame: &Frame<'_, 'q>, query: Query<'q>, lateral: bool, wanted: &[usize]) -> Mapped<Rel> {
        if lateral && query.is_correlated() {
            return opaque("it has a LATERAL subquery that depends on the tables before it");
        }
        self.query(&frame.inside(query), wanted)
    }

    fn cte(
        &self,
        frame: &Frame<'_, 'q>,
        name: &str,
        levels_up: u32,
        recursive: bool,
        wanted: &[usize],
    ) -> Mapped<Rel> {
        let found = frame.up(levels_up).and_then(|home| Some((home, home.query.cte(name)?)));
        match found {
            Some((home, cte)) if !cte.recursive && !recursive => self.query(&home.inside(cte.query), wanted),
            _ => opaque(format!("it is recursive (WITH RECURSIVE \"{name}\")")),
        }
    }

    fn values(&self, rows: &[Vec<Expr<'q>>], types: &[TypeRef], wanted: &[usize]) -> Mapped<Rel> {
        let none = Row { cols: &[], find: &|_| None };
        let rows: Vec<Vec<Scalar>> = rows
            .iter()
            .map(|row| wanted.iter().map(|&n| self.scalar(row[n - 1], &none)).collect())
            .collect::<Mapped<_>>()?;
        let cols = wanted
            .iter()
            .enumerate()
            .map(|(i, &n)| Col {
                ty: self.types.ty(types[n - 1]),
                not_null: rows.iter().all(|row| row[i].not_null),
            })
            .collect();
        Ok(Rel::values(rows, cols)?)
    }

    /// Joins the inputs, one after the other, each as soon as a condition connects it with those before.
    fn inner_join(&self, join: InnerJoin<'q>) -> Mapped<Node> {
        let InnerJoin { inputs, mut conditions } = join;
        let mut rest = Vec::new();
        for input in inputs {
            let own = take(&mut conditions, |c| !c.columns.is_empty() && input.covers(&c.columns));
            rest.push(self.filtered(input, own)?);
        }
        let mut joined = match rest.is_empty() {
            true => Node::new(Rel::values(vec![vec![]], vec![])?, []),
            false => rest.remove(0),
        };
        while !rest.is_empty() {
            let next = rest.iter().position(|node| connected(&joined, node, &conditions)).unwrap_or(0);
            let right = rest.remove(next);
            joined = self.join(joined, right, &mut conditions)?;
        }
        self.filtered(joined, conditions)
    }

    fn join(&self, left: Node, right: Node, conditions: &mut Vec<Condition<'q>>) -> Mapped<Node> {
        let width = left.cols.len();
        let mut layout = left.layout;
        layout.extend(right.layout.into_iter().map(|(id, i)| (id, i + width)));
        let mut cols = left.cols;
        cols.extend(right.cols);
        let shape = Node { rel: Rel::values(vec![], vec![])?, cols, layout };
        let on = take(conditions, |c| !c.columns.is_empty() && shape.covers(&c.columns))
            .into_iter()
            .map(|c| self.conjunct(c.expr, &shape, width))
            .collect::<Mapped<Vec<_>>>()?;
        Ok(Node { rel: left.rel.join(JoinKind::Inner, right.rel, on)?, ..shape })
    }

    fn filtered(&self, node: Node, conditions: Vec<Condition<'q>>) -> Mapped<Node> {
        if conditions.is_empty() {
            return Ok(node);
        }
        let row = Row { cols: &node.cols, find: &|expr| node.find(expr) };
        let predicates = conditions.iter().map(|c| self.scalar(c.expr, &row)).collect::<Mapped<Vec<_>>>()?;
        Ok(Node { rel: node.rel.filter(predicates)?, cols: node.cols, layout: node.layout })
    }

    /// A term of a join condition over the row left ++ right, where left has `width` columns.
    fn conjunct(&self, expr: Expr<'q>, row: &Node, width: usize) -> Mapped<Conjunct> {
        let condition = self.scalar(expr, &Row { cols: &row.cols, find: &|e| row.find(e) })?;
        Ok(Conjunct { condition, equi: equality(expr, row, width) })
    }
}

/// The two columns, each counted on its own side, if the condition is the default equality of a left and a right one.
fn equality(expr: Expr<'_>, row: &Node, width: usize) -> Option<(usize, usize)> {
    let Shape::Operator { operator, args, .. } = expr.shape() else { return None };
    let &[a, b] = args.as_slice() else { return None };
    let (a, b) = (bare(a), bare(b));
    let sides = (row.find(a)?, row.find(b)?);
    let (l, r) = if sides.0 < sides.1 { sides } else { (sides.1, sides.0) };
    let default = is_default_equality(operator, a.ty()) && is_default_equality(operator, b.ty());
    let same_collation = row.cols[l].ty.collation == row.cols[r].ty.collation;
    (l < width && r >= width && default && same_collation).then_some((l, r - width))
}

/// Without changes of type that leave the value as it is.
fn bare(expr: Expr<'_>) -> Expr<'_> {
    match expr.shape() {
        Shape::Relabel(inner) => bare(inner),
        _ => expr,
    }
}

/// Whether some condition reads both, and nothing else that is not joined yet.
fn connected(left: &Node, right: &Node, conditions: &[Condition<'_>]) -> bool {
    conditions.iter().any(|c| {
        let (mut reads_left, mut reads_right) = (false, false);
        let within = c.columns.iter().all(|id| {
            let (l, r) = (left.layout.contains_key(id), right.layout.contains_key(id));
            reads_left |= l;
            reads_right |= r;
            l || r
        });
        within && reads_left && reads_right
    })
}

fn take<'q>(conditions: &mut Vec<Condition<'q>>, wanted: impl Fn(&Condition<'q>) -> bool) -> Vec<Condition<'q>> {
    let (taken, left) = std::mem::take(conditions).into_iter().partition(|c| wanted(c));
    *conditions = left;
    taken
}
