//! ORDER BY, and whether it leaves a choice.
//!
//! Rows that tie come in any order, so what depends on their order is no function of the data: which rows a LIMIT keeps,
//! what number a row gets. Only where ties cannot be told apart by what the query makes of them does it not matter:
//! when the order contains a key, or all columns that are used, each in full or in the tie-break that
//! [completing](pgtrickle_pg::complete) a query appends.

use super::node::{Node, bare};
use super::scalar::Row;
use super::{Analyzer, Frame, Mapped};
use pgtrickle_engine::ir::{Rel, SortKey};
use pgtrickle_engine::keys::{KnownKeys, is_key};
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::expr::{Expr, Shape, Walk};
use pgtrickle_pg::query::{Entry, Query, SortKey as SqlSortKey};
use pgtrickle_pg::types;
use std::collections::BTreeSet;

/// A term of ORDER BY with its expression.
pub(super) type Term<'q> = (Expr<'q>, SqlSortKey);

/// The terms of an ORDER BY of this query.
pub(super) fn terms<'q>(query: Query<'q>, keys: &[SqlSortKey]) -> Vec<Term<'q>> {
    let targets = query.targets();
    let of = |group: u32| targets.iter().find(|target| target.sort_group == group).expect("a sort key is a target");
    keys.iter().map(|key| (of(key.sort_group).expr, *key)).collect()
}

/// The values that a term needs: of a row those of its columns.
pub(super) fn parts<'q>(term: &Term<'q>) -> Vec<Expr<'q>> {
    match term.0.shape() {
        Shape::Row(args) => args,
        _ => vec![term.0],
    }
}

/// Whether FROM has a subquery or a query of WITH with ORDER BY, on whose order what has no ORDER BY of its own is commonly relied.
pub(super) fn ordered_input(frame: &Frame<'_, '_>) -> bool {
    let query = frame.query;
    let with = |number| match query.entry(number) {
        Entry::Cte { name, levels_up: 0, .. } => query.cte(&name).is_some_and(|cte| cte.query.features().ordered),
        _ => false,
    };
    query.subqueries().iter().any(|query| query.features().ordered) || (1..=query.entries()).any(with)
}

/// Whether FROM has rows that functions give, the order of which is commonly relied on.
pub(super) fn has_ordered_sets(query: Query<'_>) -> bool {
    (1..=query.entries()).any(|number| match query.entry(number) {
        Entry::Functions(functions) => functions.returns_set(),
        Entry::Subquery { query, .. } => query.features().target_srfs || has_ordered_sets(query),
        _ => false,
    })
}

/// The columns of a node on which these expressions depend, in subqueries too.
pub(super) fn used<'q>(node: &Node<'q>, exprs: &[Expr<'q>]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for expr in exprs {
        expr.visit(&mut |part| match node.find(part) {
            Some(at) => {
                found.insert(at);
                Walk::Past
            }
            None => Walk::Into,
        });
        found.extend(expr.columns().iter().filter_map(|id| node.layout.get(id)));
    }
    found
}

impl<'q> Analyzer<'q> {
    /// The terms over a row.
    pub(super) fn sort_keys(&self, terms: &[Term<'q>], row: &Row<'_, 'q>) -> Mapped<Vec<SortKey>> {
        let key = |(expr, key): &Term<'q>| {
            let operator = Sql::deparsed(types::operator_name(key.operator));
            Ok(SortKey { by: self.scalar(*expr, row)?, operator, nulls_first: key.nulls_first })
        };
        terms.iter().map(key).collect()
    }

    /// Whether rows that agree in the columns `within` and tie by the terms agree in all columns of `used`; without these,
    /// whether there are no two such rows.
    pub(super) fn is_total(
        &self,
        rel: &Rel,
        find: &dyn Fn(Expr<'q>) -> Option<usize>,
        within: &[usize],
        terms: &[Term<'q>],
        used: Option<&BTreeSet<usize>>,
    ) -> bool {
        let cols = rel.cols();
        let mut equal: BTreeSet<usize> = within.iter().copied().collect();
        let mut identical = BTreeSet::new();
        for (expr, key) in terms {
            match expr.shape() {
                Shape::Row(args) if types::is_image_order(key.operator) => {
                    identical.extend(args.into_iter().filter_map(find));
                }
                _ => {
                    let known = |e: Expr<'q>| find(e).filter(|_| types::is_default_order(key.operator, e.ty()));
                    equal.extend([bare(*expr), *expr].into_iter().filter_map(known));
                }
            }
        }
        identical.extend(equal.iter().filter(|c| cols[**c].ty.is_exact()));
        let known = KnownKeys { sources: self.sources.primary_keys(), stages: Vec::new() };
        used.is_some_and(|used| used.is_subset(&identical))
            || is_key(rel, &equal.union(&identical).copied().collect(), &known)
    }
}
