//! Which changes of a source matter: those that some scan of the query lets through and that have [partners](crate::partners)
//! where they need some, and of an update only what is used of it above.
//!
//! ```text
//! π_used σ_p S:   Δ = π_used σ_p ΔS,   so old and new row of an update cancel out if p holds for both and they agree in `used`
//! ```
//!
//! Staging leaves out what matters to no scan. The rules do not rely on it, unless it says that every row passes.

use crate::cut::Stages;
use crate::ir::{JoinKind, Rel, Scalar, SourceId};
use crate::keys::{KnownKeys, key};
use crate::liveness::{Columns, all, used_below};
use crate::partners::{Restrictions, Values, asked_below};
use crate::sql;
use crate::sql::{From, Ident, QualifiedName, Select, Sql};
use std::collections::{BTreeMap, BTreeSet};

/// What one scan of a source makes of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relevance {
    columns: Vec<i16>,
    predicates: Vec<Scalar>,
    used: BTreeSet<i16>,
    partners: BTreeSet<(i16, Values)>,
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

    /// The columns, by attribute number, and the values that a row must have one of in each.
    pub fn partners(&self) -> &BTreeSet<(i16, Values)> {
        &self.partners
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
    /// The sources of whose staged changes every row passes the condition of their only scan.
    pub passed: BTreeSet<SourceId>,
}

impl FromIterator<SourceId> for Changes {
    /// Of these sources nothing but that they have changed.
    fn from_iter<T: IntoIterator<Item = SourceId>>(sources: T) -> Changes {
        Changes { sources: sources.into_iter().collect(), ..Changes::default() }
    }
}

/// What the scans in these stages, all of whose columns are used, make of their sources' rows.
pub fn relevance(stages: &Stages, keys: &KnownKeys) -> BTreeMap<SourceId, Vec<Relevance>> {
    let mut found = Found { scans: BTreeMap::new(), stages: &stages.stages, keys };
    for rel in stages.stages.iter().chain([&stages.root]) {
        found.visit(rel, &all(rel), &Restrictions::new());
    }
    found.scans
}

/// The keys by which joins tell whether a row's partner is the first, one after the other.
pub fn partner_keys<'a>(relations: impl IntoIterator<Item = &'a Rel>, keys: &KnownKeys) -> Vec<(usize, Vec<usize>)> {
    let (mut found, mut number) = (Vec::new(), 0);
    for rel in relations {
        rel.visit(&mut |rel| {
            found.extend(partner_key(rel, keys).map(|key| (number, key)));
            number += 1;
        });
    }
    found
}

/// The key of a join's right side, if it tells whether a partner is the first.
fn partner_key(rel: &Rel, keys: &KnownKeys) -> Option<Vec<usize>> {
    match rel {
        Rel::Join { kind: JoinKind::Left | JoinKind::Semi | JoinKind::Anti, right, .. } => key(right, keys),
        _ => None,
    }
}

struct Found<'a> {
    scans: BTreeMap<SourceId, Vec<Relevance>>,
    stages: &'a [Rel],
    keys: &'a KnownKeys,
}

impl Found<'_> {
    fn add(&mut self, source: SourceId, columns: &[i16], predicates: &[Scalar], used: &Columns, asked: &Restrictions) {
        let used: BTreeSet<i16> = used.iter().map(|c| columns[*c]).collect();
        let partners: BTreeSet<_> = asked.iter().map(|(c, values)| (columns[*c], values.clone())).collect();
        let scans = self.scans.entry(source).or_default();
        match scans.iter_mut().find(|scan| scan.is_of(columns, predicates)) {
            Some(known) => {
                known.used.extend(used);
                // What one of them reads is staged for both.
                known.partners.retain(|partner| partners.contains(partner));
            }
            None => {
                let (columns, predicates) = (columns.to_vec(), predicates.to_vec());
                scans.push(Relevance { columns, predicates, used, partners });
            }
        }
    }

    /// Of the relation's columns only these are used, and rows that do not fulfil what is asked do not matter.
    fn visit(&mut self, rel: &Rel, used: &Columns, asked: &Restrictions) {
        match rel {
            Rel::Scan { source, columns, .. } => return self.add(*source, columns, &[], used, asked),
            Rel::Filter { input, predicates } => {
                if let Rel::Scan { source, columns, .. } = &**input {
                    return self.add(*source, columns, predicates, used, asked);
                }
            }
            _ => {}
        }
        let mut below = used_below(rel, used);
        if let (Some(key), Some(of_right)) = (partner_key(rel, self.keys), below.last_mut()) {
            of_right.extend(key);
        }
        let asked = asked_below(rel, asked, self.stages);
        for ((input, used), asked) in rel.inputs().into_iter().zip(below).zip(asked) {
            self.visit(input, &used, &asked);
        }
    }
}
