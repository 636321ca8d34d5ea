//! WITH RECURSIVE: the engine's fixpoint of its two branches.
//!
//! ```text
//! WITH RECURSIVE r AS (B UNION [ALL] f(r))               = fixpoint of B and f
//! the same for each row outside, of which D is a domain  = fixpoint of D ⋈ B and f, D's columns in front of r's
//! ```
//!
//! PostgreSQL has rewritten SEARCH and CYCLE to columns by then; what these hold is [kept as text](pgtrickle_pg::records).

use super::node::Node;
use super::target::pick;
use super::{Analyzer, Frame, Mapped, Stop, opaque};
use pgtrickle_engine::ir::{Col, Rel, union_cols};
use pgtrickle_engine::recursion::recomputable;
use pgtrickle_pg::query::{Cte, SetOp, SetTree};
use std::cell::RefCell;

/// A recursive query being mapped.
struct Recursion {
    name: String,
    /// The columns that its rows are taken to have, the domain's in front.
    cols: Vec<Col>,
    /// How many of these are the domain's.
    offset: usize,
}

/// The recursive queries being mapped, the innermost last.
#[derive(Default)]
pub(super) struct Recursions {
    around: RefCell<Vec<Recursion>>,
}

/// Rows of these types cannot be stored.
const ROWS: [&str; 2] = ["record", "record[]"];

impl<'q> Analyzer<'q> {
    /// A recursive query of WITH, by those who read it; if it depends on the row outside, with the domain's columns in
    /// front.
    pub(super) fn recursive(&self, home: &Frame<'_, 'q>, name: &str, cte: Cte<'q>, wanted: &[usize]) -> Mapped<Rel> {
        let within = home.inside(cte.query);
        let offset = within.offset();
        let Some(SetTree::Node { op: SetOp::Union, all, left, right, types }) = within.query.set_operations() else {
            return opaque(format!("the recursive query \"{name}\" is no UNION"));
        };
        let every: Vec<usize> = (1..=types.len()).collect();
        let base = self.branch(&within, &left, &types, &every)?;
        // What the step gives depends on what it is given: the columns are weakened until they agree.
        let mut cols = base.cols();
        if let Some(col) = cols.iter().find(|col| ROWS.contains(&col.ty.sql.as_str())) {
            return opaque(format!("\"{name}\" has a column of type {}, which no table can keep", col.ty.sql));
        }
        loop {
            let around = Recursion { name: name.to_owned(), cols: cols.clone(), offset };
            self.recursions.around.borrow_mut().push(around);
            let step = self.branch(&within, &right, &types, &every);
            self.recursions.around.borrow_mut().pop();
            let step = step?;
            let found = union_cols([cols.clone(), step.cols()].into_iter());
            if found == cols {
                let fixpoint = Rel::fixpoint(base, step, all)?;
                recomputable(&fixpoint, offset > 0)
                    .map_err(|unsupported| Stop::Opaque(why(name, &unsupported.reason)))?;
                return pick(fixpoint, offset, wanted);
            }
            cols = found;
        }
    }

    /// What a recursive query reads of itself.
    pub(super) fn recursive_reference(
        &self,
        frame: &Frame<'_, 'q>,
        number: usize,
        name: &str,
        wanted: &[usize],
    ) -> Mapped<Node<'q>> {
        let around = self.recursions.around.borrow();
        let Some(recursion) = around.last().filter(|innermost| innermost.name == name) else {
            return opaque(format!("a recursive query inside the recursive query \"{name}\" reads it"));
        };
        let offset = recursion.offset;
        if offset != frame.offset() {
            return opaque(format!("a subquery inside the recursive query \"{name}\" depends on more than it does"));
        }
        let rel = pick(Rel::Recursive { cols: recursion.cols.clone() }, offset, wanted)?;
        Ok(self.in_domain(frame, rel, number, wanted))
    }

    /// An entry whose relation has the columns of the frame's domain in front, if there is one.
    pub(super) fn in_domain(&self, frame: &Frame<'_, 'q>, rel: Rel, number: usize, wanted: &[usize]) -> Node<'q> {
        let offset = frame.offset();
        let mut node = Node::new(rel, []);
        node.layout = wanted.iter().enumerate().map(|(i, &n)| ((number, n as i16), offset + i)).collect();
        node.outer = frame.domain.as_ref().map(|domain| domain.node().outer).unwrap_or_default();
        node
    }
}

fn why(name: &str, reason: &str) -> String {
    format!("there is no rule for the change of a {reason} (\"{name}\")")
}
