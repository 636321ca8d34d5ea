//! UNION, INTERSECT and EXCEPT.
//!
//! ```text
//! L UNION R      = distinct(L ⊎ R)
//! L INTERSECT R  = groups of L×{true} ⊎ R×{false} by all columns with rows of both
//! L EXCEPT R     = the same, with rows of L only
//! ```

use super::scalar::Row;
use super::target::pick;
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgtrickle_engine::ir::{Agg, AggKind, Col, Number, Rel, Scalar, Ty};
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::column;
use pgtrickle_pg::query::{Entry, SetOp, SetTree};
use pgtrickle_pg::types::TypeRef;

impl<'q> Analyzer<'q> {
    /// A tree of set operations as a relation of the wanted columns.
    pub(super) fn set_operations(&self, frame: &Frame<'_, 'q>, tree: &SetTree, wanted: &[usize]) -> Mapped<Rel> {
        match tree {
            SetTree::Leaf(number) => match frame.query.entry(*number) {
                Entry::Subquery { query, .. } => self.query(&frame.inside(query), wanted),
                _ => opaque("a set operation reads something that is not a query"),
            },
            SetTree::Node { op: SetOp::Union, all: true, left, right, types } => {
                self.union_all(frame, [left, right], types, wanted)
            }
            SetTree::Node { op, all: false, left, right, types } => {
                let every: Vec<usize> = (1..=types.len()).collect();
                let whole = match op {
                    SetOp::Union => self.union_all(frame, [left, right], types, &every)?.distinct()?,
                    _ => self.matched(frame, *op, [left, right], types)?,
                };
                pick(whole, wanted)
            }
            SetTree::Node { op: SetOp::Intersect, .. } => opaque("it has INTERSECT ALL"),
            SetTree::Node { .. } => opaque("it has EXCEPT ALL"),
        }
    }

    fn union_all(
        &self,
        frame: &Frame<'_, 'q>,
        branches: [&SetTree; 2],
        types: &[TypeRef],
        wanted: &[usize],
    ) -> Mapped<Rel> {
        let mut inputs = Vec::new();
        for branch in branches {
            match self.branch(frame, branch, types, wanted)? {
                Rel::UnionAll { inputs: inner } => inputs.extend(inner),
                other => inputs.push(other),
            }
        }
        Ok(Rel::union_all(inputs)?)
    }

    /// A branch with its columns converted to the types of the set operation.
    fn branch(&self, frame: &Frame<'_, 'q>, tree: &SetTree, types: &[TypeRef], wanted: &[usize]) -> Mapped<Rel> {
        let rel = self.set_operations(frame, tree, wanted)?;
        let own = self.branch_types(frame, tree);
        let cols = rel.cols();
        let exprs = wanted
            .iter()
            .enumerate()
            .map(|(i, &n)| self.converted(i, &cols, own[n - 1], types[n - 1]))
            .collect::<Mapped<_>>()?;
        map(rel, exprs)
    }

    fn branch_types(&self, frame: &Frame<'_, 'q>, tree: &SetTree) -> Vec<TypeRef> {
        match tree {
            SetTree::Node { types, .. } => types.clone(),
            SetTree::Leaf(number) => match frame.query.entry(*number) {
                Entry::Subquery { query, .. } => {
                    query.targets().iter().filter(|t| !t.junk).map(|t| t.expr.ty()).collect()
                }
                _ => Vec::new(),
            },
        }
    }

    fn converted(&self, i: usize, cols: &[Col], from: TypeRef, to: TypeRef) -> Mapped<Scalar> {
        let ty = self.types.ty(to);
        if ty == cols[i].ty {
            return Ok(Scalar::column(i, &cols[i]));
        }
        let mut scalar = if from.oid == to.oid {
            Scalar { column: None, ..Scalar::column(i, &cols[i]) }
        } else {
            let expr = column(self.scratch, i, from).coerced(to);
            let find = |e: pgtrickle_pg::expr::Expr<'q>| e.equals(column(self.scratch, i, from)).then_some(i);
            let converted = self.scalar(expr, &Row { cols, find: &find })?;
            Scalar { not_null: converted.not_null || cols[i].not_null && from.oid == to.oid, ..converted }
        };
        if ty.collation != cols[i].ty.collation && to.collation != pgrx::pg_sys::InvalidOid {
            let name = ty.collation.clone().unwrap_or_else(|| Sql::text("pg_catalog.\"default\""));
            scalar.sql = sql!("(({}) COLLATE {})", scalar.sql, name);
        }
        // Branches may show different numbers of decimals even where each shows one only.
        scalar.ty = ty;
        Ok(scalar)
    }

    /// INTERSECT and EXCEPT: how many rows of a group come from either side.
    fn matched(&self, frame: &Frame<'_, 'q>, op: SetOp, branches: [&SetTree; 2], types: &[TypeRef]) -> Mapped<Rel> {
        let every: Vec<usize> = (1..=types.len()).collect();
        let mut inputs = Vec::new();
        for (branch, side) in branches.into_iter().zip(["true", "false"]) {
            let rel = self.branch(frame, branch, types, &every)?;
            let mut exprs = columns(&rel);
            exprs.push(Scalar::deparsed(side, vec![], Ty::new("boolean"), true));
            inputs.push(rel.map(exprs)?);
        }
        let union = Rel::union_all(inputs)?;
        let side = types.len();
        let keys = columns(&union)[..side].to_vec();
        let counts = [sql!("{}", Sql::column(side)), sql!("(NOT {})", Sql::column(side))].map(|of| count_where(of, side));
        let grouped = union.aggregate(keys, counts.to_vec())?;
        let (left, right) = (Sql::column(side), Sql::column(side + 1));
        let both = match op {
            SetOp::Intersect => sql!("(({} > 0) AND ({} > 0))", left, right),
            _ => sql!("(({} > 0) AND ({} = 0))", left, right),
        };
        let test = Scalar { sql: both, ..Scalar::deparsed("", vec![side, side + 1], Ty::new("boolean"), true) };
        pick(grouped.filter(vec![test])?, &every)
    }
}

/// All columns as they are.
fn columns(rel: &Rel) -> Vec<Scalar> {
    rel.cols().iter().enumerate().map(|(i, col)| Scalar::column(i, col)).collect()
}

/// `count(*) FILTER (WHERE condition)`, the condition being over column `side`.
fn count_where(condition: Sql, side: usize) -> Agg {
    let bigint = Ty::bigint().with_number(Number::Big);
    let call = sql!("count(*) FILTER (WHERE {})", condition);
    Agg {
        call: Scalar { sql: call, ..Scalar::deparsed("", vec![side], bigint, true) },
        kind: AggKind::CountStar,
        filter: Some(Scalar { sql: condition, ..Scalar::deparsed("", vec![side], Ty::new("boolean"), true) }),
    }
}
