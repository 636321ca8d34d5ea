//! Inner joins taken apart: what is joined, and by which conditions.

use crate::ir::{Conjunct, JoinKind, Rel, Scalar, Ty};
use crate::sql;
use crate::sql::Sql;
use std::collections::BTreeSet;
use std::ops::Range;

/// A tree of inner joins, taken apart. Columns are numbered as in the row of the whole tree.
pub(crate) struct Tree<'a> {
    pub rel: &'a Rel,
    pub leaves: Vec<Leaf<'a>>,
    pub conditions: Vec<Condition<'a>>,
}

pub(crate) struct Leaf<'a> {
    pub rel: &'a Rel,
    pub at: Range<usize>,
}

pub(crate) struct Condition<'a> {
    pub scalar: &'a Scalar,
    /// The leaves that it reads.
    pub leaves: BTreeSet<usize>,
    /// Two columns that it says are equal.
    pub equal: Option<(usize, usize)>,
}

impl<'a> Tree<'a> {
    pub fn of(rel: &'a Rel) -> Option<Tree<'a>> {
        let mut tree = Tree { rel, leaves: Vec::new(), conditions: Vec::new() };
        tree.add(rel);
        let joins = tree.conditions.iter().all(|c| c.leaves.len() > 1);
        (tree.leaves.len() > 1 && joins).then_some(tree)
    }

    fn add(&mut self, rel: &'a Rel) {
        let Rel::Join { kind: JoinKind::Inner, left, right, on } = rel else {
            self.leaves.push(Leaf { rel, at: 0..rel.arity() });
            return;
        };
        self.add(left);
        let l = left.arity();
        self.leaves.push(Leaf { rel: right, at: l..l + right.arity() });
        for Conjunct { condition, equi } in on {
            let leaves = condition.cols.iter().filter_map(|c| self.leaf_of(*c)).collect();
            self.conditions.push(Condition { scalar: condition, leaves, equal: equi.map(|(a, b)| (a, l + b)) });
        }
    }

    pub fn leaf_of(&self, column: usize) -> Option<usize> {
        self.leaves.iter().position(|leaf| leaf.at.contains(&column))
    }

    pub fn ty(&self, column: usize) -> Option<Ty> {
        let leaf = &self.leaves[self.leaf_of(column)?];
        Some(leaf.rel.cols()[column - leaf.at.start].ty.clone())
    }

    /// The columns that a condition says are the same value, the one of this leaf first.
    pub fn same_value(&self, condition: &Condition, leaf: usize) -> Option<(usize, usize)> {
        let (a, b) = condition.equal?;
        let (x, y) = if self.leaves[leaf].at.contains(&a) { (a, b) } else { (b, a) };
        let (ty, other) = (self.ty(x)?, self.ty(y)?);
        (ty == other && ty.is_exact() && ty.equality_operator.is_none()).then_some((x, y))
    }
}

/// The condition that a column of the left side equals one of the right side, each counted on its own.
pub(crate) fn equality(left: usize, right: usize, left_arity: usize) -> Conjunct {
    let text = sql!("({} = {})", Sql::column(left), Sql::column(left_arity + right));
    let condition = Scalar::deparsed("", vec![left, left_arity + right], Ty::new("boolean"), false);
    Conjunct { condition: Scalar { sql: text, ..condition }, equi: Some((left, right)) }
}
