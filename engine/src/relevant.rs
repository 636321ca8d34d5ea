//! Which changes of a source matter: those that some scan of the query lets through, and of an update only what is used of
//! it above.
//!
//! ```text
//! π_used σ_p S:   Δ = π_used σ_p ΔS,   so old and new row of an update cancel out if p holds for both and they agree in `used`
//! ```
//!
//! Staging leaves out what matters to no scan. The rules do not rely on it.

use crate::ir::{JoinKind, Rel, Scalar, SourceId};
use crate::sql;
use crate::sql::{From, Ident, QualifiedName, Select, Sql};
use std::collections::{BTreeMap, BTreeSet};

/// What one scan of a source makes of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relevance {
    columns: Vec<i16>,
    predicates: Vec<Scalar>,
    used: BTreeSet<i16>,
}

impl Relevance {
    /// The columns, by attribute number, in which a difference matters.
    pub fn used(&self) -> impl Iterator<Item = i16> {
        self.used.iter().copied()
    }

    /// A query over a change buffer, whose columns are called `c<attnum>`, for the rows that the scan lets through; none if
    /// it lets all through.
    pub fn query(&self, buffer: &QualifiedName) -> Option<Sql> {
        let column = |(i, attnum): (usize, &i16)| (Sql::from(Ident::numbered("c", attnum)), Ident::column(i));
        let scan = Select::from(From::Table { name: buffer.clone(), only: true, alias: None });
        let scan = scan.columns(self.columns.iter().enumerate().map(column));
        let mut select =
            Select::from(crate::sql::Query::from(scan).aliased("d", Vec::new())).column("true", Ident::new("w"));
        select.filter = self.predicates.iter().map(|p| sql!("({})", p.sql)).collect();
        (!self.predicates.is_empty()).then(|| select.sql())
    }
}

/// What the scans in these relations, all of whose columns are used, make of their sources' rows.
pub fn relevance<'a>(relations: impl IntoIterator<Item = &'a Rel>) -> BTreeMap<SourceId, Vec<Relevance>> {
    let mut found = Found::default();
    relations.into_iter().for_each(|rel| found.all_of(rel));
    found.0
}

#[derive(Default)]
struct Found(BTreeMap<SourceId, Vec<Relevance>>);

type Columns = BTreeSet<usize>;

impl Found {
    fn add(&mut self, source: SourceId, columns: &[i16], predicates: &[Scalar], used: &Columns) {
        let used: BTreeSet<i16> = used.iter().map(|c| columns[*c]).collect();
        let scans = self.0.entry(source).or_default();
        match scans.iter_mut().find(|scan| scan.columns == columns && scan.predicates == predicates) {
            Some(known) => known.used.extend(used),
            None => scans.push(Relevance { columns: columns.to_vec(), predicates: predicates.to_vec(), used }),
        }
    }

    fn all_of(&mut self, rel: &Rel) {
        self.visit(rel, &(0..rel.arity()).collect());
    }

    /// Of the relation's columns only these are used.
    fn visit(&mut self, rel: &Rel, used: &Columns) {
        match rel {
            Rel::Scan { source, columns, .. } => self.add(*source, columns, &[], used),
            Rel::Filter { input, predicates } => match &**input {
                Rel::Scan { source, columns, .. } => self.add(*source, columns, predicates, used),
                _ => self.visit(input, &with(used, predicates)),
            },
            Rel::Map { input, exprs } => self.visit(input, &with(&Columns::new(), used.iter().map(|c| &exprs[*c]))),
            Rel::Repeat { input, times } => self.visit(input, &with(used, [times])),
            Rel::UnionAll { inputs } => inputs.iter().for_each(|input| self.visit(input, used)),
            Rel::Join { kind, left, right, on } => {
                let l = left.arity();
                let compared = with(&Columns::new(), on.iter().map(|c| &c.condition));
                let shown = if matches!(kind, JoinKind::Semi | JoinKind::Anti) { &Columns::new() } else { used };
                let all: Columns = used.union(&compared).copied().collect();
                self.visit(left, &all.iter().copied().filter(|c| *c < l).collect());
                let right_side = shown.union(&compared).filter_map(|c| c.checked_sub(l)).collect();
                self.visit(right, &right_side);
            }
            Rel::Aggregate { input, keys, aggs } => {
                let read = aggs.iter().flat_map(|agg| [Some(&agg.call), agg.argument(), agg.filter.as_ref()]);
                self.visit(input, &with(&Columns::new(), keys.iter().chain(read.flatten())));
            }
            _ => rel.inputs().into_iter().for_each(|input| self.all_of(input)),
        }
    }
}

fn with<'a>(used: &Columns, scalars: impl IntoIterator<Item = &'a Scalar>) -> Columns {
    used.iter().copied().chain(scalars.into_iter().flat_map(|s| s.cols.iter().copied())).collect()
}
