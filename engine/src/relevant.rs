//! Which changes of a source matter: those that some scan of the query lets through, and of an update only what is used of
//! it above.
//!
//! ```text
//! π_used σ_p S:   Δ = π_used σ_p ΔS,   so old and new row of an update cancel out if p holds for both and they agree in `used`
//! ```
//!
//! Staging leaves out what matters to no scan. The rules do not rely on it.

use crate::ir::{Rel, Scalar, SourceId};
use crate::liveness::{Columns, all, used_below};
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
    /// Whether it speaks of this scan.
    pub(crate) fn is_of(&self, columns: &[i16], predicates: &[Scalar]) -> bool {
        self.columns == columns && self.predicates == predicates
    }

    /// The columns that the scan reads, by attribute number.
    pub fn columns(&self) -> &[i16] {
        &self.columns
    }

    /// What it lets through, over these columns.
    pub fn predicates(&self) -> &[Scalar] {
        &self.predicates
    }

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

/// What is known of the changes of the sources before they are used.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Changes {
    /// The sources that have changed.
    pub sources: BTreeSet<SourceId>,
    /// The scans, by their number in [`Program::relevant`](crate::program::Program::relevant), to which nothing of their
    /// source's change matters.
    pub idle: BTreeSet<(SourceId, usize)>,
}

impl FromIterator<SourceId> for Changes {
    /// Of these sources nothing but that they have changed.
    fn from_iter<T: IntoIterator<Item = SourceId>>(sources: T) -> Changes {
        Changes { sources: sources.into_iter().collect(), idle: BTreeSet::new() }
    }
}

/// What the scans in these relations, all of whose columns are used, make of their sources' rows.
pub fn relevance<'a>(relations: impl IntoIterator<Item = &'a Rel>) -> BTreeMap<SourceId, Vec<Relevance>> {
    let mut found = Found::default();
    relations.into_iter().for_each(|rel| found.visit(rel, &all(rel)));
    found.0
}

#[derive(Default)]
struct Found(BTreeMap<SourceId, Vec<Relevance>>);

impl Found {
    fn add(&mut self, source: SourceId, columns: &[i16], predicates: &[Scalar], used: &Columns) {
        let used: BTreeSet<i16> = used.iter().map(|c| columns[*c]).collect();
        let scans = self.0.entry(source).or_default();
        match scans.iter_mut().find(|scan| scan.is_of(columns, predicates)) {
            Some(known) => known.used.extend(used),
            None => scans.push(Relevance { columns: columns.to_vec(), predicates: predicates.to_vec(), used }),
        }
    }

    /// Of the relation's columns only these are used.
    fn visit(&mut self, rel: &Rel, used: &Columns) {
        match rel {
            Rel::Scan { source, columns, .. } => return self.add(*source, columns, &[], used),
            Rel::Filter { input, predicates } => {
                if let Rel::Scan { source, columns, .. } = &**input {
                    return self.add(*source, columns, predicates, used);
                }
            }
            _ => {}
        }
        let below = used_below(rel, used);
        rel.inputs().into_iter().zip(below).for_each(|(input, used)| self.visit(input, &used));
    }
}
