//! UNION, INTERSECT and EXCEPT: branches are converted to common types; `L UNION R` is `distinct(L ⊎ R)`, the others
//! are the engine's.

use super::scalar::Row;
use super::target::pick;
use super::{Analyzer, Frame, Mapped, map, opaque};
use pgrx::pg_sys::{InvalidOid, UNKNOWNOID};
use pgtrickle_engine::ir::{Col, Rel, Scalar};
use pgtrickle_engine::lower::{except, intersect};
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
                Entry::Subquery { query, .. } => self.query(&frame.branch(query), wanted),
                _ => opaque("a set operation reads something that is not a query"),
            },
            SetTree::Node { op: SetOp::Union, all: true, left, right, types } => {
                self.union_all(frame, [left, right], types, wanted)
            }
            SetTree::Node { op, all, left, right, types } => {
                let every: Vec<usize> = (1..=types.len()).collect();
                let branch = |tree| self.branch(frame, tree, types, &every);
                let whole = match op {
                    SetOp::Union => self.union_all(frame, [left, right], types, &every)?.distinct()?,
                    SetOp::Intersect => intersect(branch(left)?, branch(right)?, *all)?,
                    SetOp::Except => except(branch(left)?, branch(right)?, *all)?,
                };
                if whole.cols()[frame.offset()..].iter().any(|col| col.ty.is_blurred()) {
                    return opaque(
                        "a set operation chooses among values that are equal but look different, in a recursion, or in a view whose choices cannot be made for it",
                    );
                }
                pick(whole, frame.offset(), wanted)
            }
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
    pub(super) fn branch(
        &self,
        frame: &Frame<'_, 'q>,
        tree: &SetTree,
        types: &[TypeRef],
        wanted: &[usize],
    ) -> Mapped<Rel> {
        let rel = self.set_operations(frame, tree, wanted)?;
        let own = self.branch_types(frame, tree);
        let cols = rel.cols();
        let offset = frame.offset();
        let mut exprs: Vec<Scalar> = (0..offset).map(|i| Scalar::column(i, &cols[i])).collect();
        for (i, &n) in wanted.iter().enumerate() {
            exprs.push(self.converted(offset + i, &cols, own[n - 1], types[n - 1])?);
        }
        map(rel, exprs)
    }

    fn branch_types(&self, frame: &Frame<'_, 'q>, tree: &SetTree) -> Vec<TypeRef> {
        match tree {
            SetTree::Node { types, .. } => types.clone(),
            SetTree::Leaf(number) => match frame.query.entry(*number) {
                Entry::Subquery { query, .. } => query.result_types(),
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
        } else if from.oid == UNKNOWNOID {
            // A literal with COLLATE has no type of its own yet; as a column of FROM it is text.
            Scalar { sql: sql!("{}::{}", Sql::column(i), ty.sql), column: None, ..Scalar::column(i, &cols[i]) }
        } else {
            let expr = column(self.scratch, i, from).coerced(to);
            let find = |e: pgtrickle_pg::expr::Expr<'q>| e.equals(column(self.scratch, i, from)).then_some(i);
            let converted = self.scalar(expr, &Row { cols, find: &find })?;
            Scalar { not_null: converted.not_null || cols[i].not_null && from.oid == to.oid, ..converted }
        };
        if ty.collation != cols[i].ty.collation && to.collation != InvalidOid {
            let name = ty.collation.clone().unwrap_or_else(|| Sql::text("pg_catalog.\"default\""));
            scalar.sql = sql!("(({}) COLLATE {})", scalar.sql, name);
        }
        // Branches may show different numbers of decimals even where each shows one only.
        scalar.ty = ty;
        Ok(scalar)
    }
}
