//! What stands in FROM and depends on other entries of it: LATERAL subqueries and functions.

use super::node::{Condition, Needed, Node, Sides};
use super::{Analyzer, Frame, Mapped, Stop, opaque};
use pgtrickle_engine::ir::JoinKind;
use pgtrickle_pg::functions::Functions;
use pgtrickle_pg::query::{Entry, Query};
use std::collections::BTreeSet;

/// An entry that depends on others of the same FROM.
pub(super) struct Lateral<'q> {
    pub number: usize,
    what: Computation<'q>,
    /// On which.
    pub reads: BTreeSet<usize>,
    /// Whether it depends on a query around, too.
    pub reads_outer: bool,
}

/// What is computed for each row.
enum Computation<'q> {
    Subquery(Query<'q>),
    Functions(Functions<'q>),
}

/// An entry that is computed for each row of others; functions also if they depend only on a query around.
pub(super) fn lateral<'q>(frame: &Frame<'_, 'q>, number: usize) -> Option<Lateral<'q>> {
    let entries = |ids: Vec<(usize, i16)>| ids.into_iter().map(|(entry, _)| entry).collect();
    match frame.query.entry(number) {
        Entry::Subquery { query, lateral: true } => {
            let (own, outer): (Vec<_>, Vec<_>) = query.outer_columns().into_iter().partition(|id| id.levels_up == 1);
            let reads: BTreeSet<usize> = entries(own.into_iter().map(|id| (id.entry, id.column)).collect());
            let (what, reads_outer) = (Computation::Subquery(query), !outer.is_empty());
            (!reads.is_empty()).then_some(Lateral { number, what, reads, reads_outer })
        }
        Entry::Functions(functions) if functions.is_lateral() => {
            let reads_outer = functions.exprs().iter().any(|expr| expr.reads_outer());
            let reads = entries(functions.reads());
            Some(Lateral { number, what: Computation::Functions(functions), reads, reads_outer })
        }
        _ => None,
    }
}

impl<'q> Analyzer<'q> {
    /// Joins what depends on the tables before it.
    pub(super) fn lateral_join(
        &self,
        frame: &Frame<'_, 'q>,
        kind: JoinKind,
        left: Node<'q>,
        lateral: &Lateral<'q>,
        needed: &Needed,
        on: &[Condition<'q>],
    ) -> Mapped<Node<'q>> {
        let number = lateral.number;
        let whole = needed.contains(&(number, 0));
        let query = match &lateral.what {
            Computation::Functions(functions) => {
                let on = (kind == JoinKind::Left).then_some(on);
                return self.beside_functions(frame, left, (number, functions), needed, on);
            }
            Computation::Subquery(query) if !whole => {
                let on = (kind == JoinKind::Left).then_some(on);
                match self.beside_subquery(&left, (number, *query), on) {
                    Err(Stop::Opaque(_)) => *query,
                    beside => return beside,
                }
            }
            Computation::Subquery(query) => *query,
        };
        let needed = if whole { self.columns_of_row(frame, number, needed) } else { needed.clone() };
        let wanted: Vec<i16> = needed.iter().filter(|id| id.0 == number).map(|id| id.1).collect();
        if wanted.iter().any(|column| *column < 0) {
            return opaque("it uses a system column");
        }
        let positions: Vec<usize> = wanted.iter().map(|&column| column as usize).collect();
        let dependent = self.dependent(frame, &left, query, &positions)?;
        let mut right = Node::new(dependent.rel.clone(), []);
        let offset = dependent.outside.len();
        right.layout = wanted.iter().enumerate().map(|(i, &column)| ((number, column), offset + i)).collect();
        if whole {
            right = self.with_row(frame, right, number)?;
        }
        let both = left.beside(&right);
        let sides = Sides { cols: &both.cols, width: left.width(), left: &|e| left.find(e), right: &|e| right.find(e) };
        let mut conjuncts = dependent.on(&left.cols);
        conjuncts.extend(self.conjuncts(on, &sides)?);
        let rel = left.rel.join(kind, right.rel, conjuncts)?;
        Ok(both.become_rel(rel))
    }
}
