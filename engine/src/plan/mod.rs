//! From relations and their changes to statements: the only part of the engine that knows how things are spelled.

pub(crate) mod kept;
pub(crate) mod matching;
pub(crate) mod parts;
pub(crate) mod presence;
pub(crate) mod render;
pub(crate) mod stage;

use crate::cut::Stages;
use crate::ir::SourceId;
use crate::keys::KnownKeys;
use crate::program::{Program, SourceInfo, Step};
use crate::sql::{From, Ident};
use crate::zset::{Staged, Zset};
use stage::{Place, StagePlan};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the rendering of relations needs to look up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub sources: BTreeMap<SourceId, SourceInfo>,
    pub stages: Vec<Arc<dyn StagePlan>>,
    /// What holds the rows that a recursive reference means.
    pub recursive: Option<From>,
}

impl Catalog {
    /// Plans for all stages of a query. `known` has their keys.
    pub fn new(sources: &[SourceInfo], stages: &Stages, known: &KnownKeys, pgt_id: i64) -> Catalog {
        let plan = |(i, rel): (usize, &crate::ir::Rel)| stage::plan(rel, Place::new(pgt_id, i), known);
        Catalog { stages: stages.stages.iter().enumerate().map(plan).collect(), ..Catalog::of_sources(sources) }
    }

    /// Sources alone.
    pub fn of_sources(sources: &[SourceInfo]) -> Catalog {
        Catalog { sources: sources.iter().map(|s| (s.id, s.clone())).collect(), ..Catalog::default() }
    }

    /// The same where a recursive reference means these rows, `c1`..`cn`.
    pub fn meaning(&self, rows: From) -> Catalog {
        Catalog { recursive: Some(rows), ..self.clone() }
    }

    /// The names of staged relations.
    pub fn enrs(&self, staged: &[Staged]) -> Vec<Ident> {
        let name = |staged: &Staged| match staged {
            Staged::Source(source) => Program::source_delta(*source),
            Staged::Stage(stage) => self.stages[*stage].staged(),
            Staged::Shared(number) => shared(*number),
        };
        staged.iter().map(name).collect()
    }

    /// The step that stages what several terms read.
    pub fn share(&self, number: usize, value: &Zset) -> Step {
        let reads = self.enrs(&value.staged());
        let skip_if_empty = if value.is_change() { reads.clone() } else { Vec::new() };
        Step::Stage { name: shared(number), query: self.zset(value).sql(), reads, skip_if_empty }
    }
}

/// The relation with what several terms read.
pub(crate) fn shared(number: usize) -> Ident {
    Ident::numbered("pgt_s", number + 1)
}

/// `c1`..`cn`
pub(crate) fn columns(n: usize) -> Vec<Ident> {
    (0..n).map(Ident::column).collect()
}

/// `c1`..`cn`, `w`
pub(crate) fn weighted_columns(n: usize) -> Vec<Ident> {
    columns(n).into_iter().chain([Ident::new("w")]).collect()
}

/// `<prefix>1`..`<prefix>n`
pub(crate) fn numbered(prefix: &'static str, n: usize) -> Vec<Ident> {
    (1..=n).map(|i| Ident::numbered(prefix, i)).collect()
}
