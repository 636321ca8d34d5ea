//! WITH RECURSIVE: the engine's fixpoint of its two branches.
//!
//! ```text
//! WITH RECURSIVE r AS (B UNION [ALL] f(r))  = fixpoint of B and f
//! ```
//!
//! PostgreSQL has rewritten SEARCH and CYCLE to columns by then; they hold rows, of a type that no table can have.

use super::target::pick;
use super::{Analyzer, Frame, Mapped, Stop, opaque};
use pgtrickle_engine::ir::{Col, Rel, union_cols};
use pgtrickle_engine::recursion::linear;
use pgtrickle_pg::query::{Cte, SetOp, SetTree};
use std::cell::RefCell;

/// The recursive queries being mapped, the innermost last, with the columns that their rows are taken to have.
#[derive(Default)]
pub(super) struct Recursions {
    around: RefCell<Vec<(String, Vec<Col>)>>,
}

/// Rows of these types cannot be stored.
const ROWS: [&str; 2] = ["record", "record[]"];

impl<'q> Analyzer<'q> {
    /// A recursive query of WITH, by those who read it.
    pub(super) fn recursive(&self, home: &Frame<'_, 'q>, name: &str, cte: Cte<'q>, wanted: &[usize]) -> Mapped<Rel> {
        if cte.query.is_correlated() {
            return opaque(format!("the recursive query \"{name}\" depends on the row outside"));
        }
        let within = home.inside(cte.query);
        let Some(SetTree::Node { op: SetOp::Union, all, left, right, types }) = within.query.set_operations() else {
            return opaque(format!("the recursive query \"{name}\" is no UNION"));
        };
        let every: Vec<usize> = (1..=types.len()).collect();
        let base = self.branch(&within, &left, &types, &every)?;
        // What the step gives depends on what it is given: the columns are weakened until they agree.
        let mut cols = base.cols();
        if let Some(col) = cols.iter().find(|col| ROWS.contains(&col.ty.sql.as_str())) {
            let ty = &col.ty.sql;
            return opaque(format!(
                "\"{name}\" has a column of type {ty}, as SEARCH and CYCLE make them, which no table can keep"
            ));
        }
        loop {
            self.recursions.around.borrow_mut().push((name.to_owned(), cols.clone()));
            let step = self.branch(&within, &right, &types, &every);
            self.recursions.around.borrow_mut().pop();
            let step = step?;
            let found = union_cols([cols.clone(), step.cols()].into_iter());
            if found == cols {
                let fixpoint = Rel::fixpoint(base, step, all)?;
                linear(&fixpoint).map_err(|unsupported| Stop::Opaque(why(name, &unsupported.reason)))?;
                return pick(fixpoint, 0, wanted);
            }
            cols = found;
        }
    }

    /// What a recursive query reads of itself.
    pub(super) fn recursive_reference(&self, name: &str, wanted: &[usize]) -> Mapped<Rel> {
        let around = self.recursions.around.borrow();
        match around.last() {
            Some((innermost, cols)) if innermost == name => pick(Rel::Recursive { cols: cols.clone() }, 0, wanted),
            _ => opaque(format!("a recursive query inside the recursive query \"{name}\" reads it")),
        }
    }
}

fn why(name: &str, reason: &str) -> String {
    format!("there is no rule for the change of a {reason} (\"{name}\")")
}
