//! From relations and their changes to statements: the only part of the engine that knows how things are spelled.

pub(crate) mod matching;
pub(crate) mod parts;
pub(crate) mod presence;
pub(crate) mod render;
pub(crate) mod root;
pub(crate) mod stage;

use crate::cut::Stages;
use crate::ir::SourceId;
use crate::program::{Program, SourceInfo};
use crate::sql::{Ident, QualifiedName};
use crate::zset::Staged;
use stage::StagePlan;
use std::collections::BTreeMap;

/// What the rendering of relations needs to look up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub sources: BTreeMap<SourceId, SourceInfo>,
    pub stages: Vec<StagePlan>,
}

impl Catalog {
    /// Names and parts for all stages of a query.
    pub fn new(sources: &[SourceInfo], stages: &Stages, pgt_id: i64) -> Catalog {
        let plan = |(i, stage): (usize, &crate::cut::Stage)| {
            let table = QualifiedName::new("pgtrickle_changes", format!("state_{pgt_id}_{}", i + 1));
            StagePlan::new(i, stage.clone(), table)
        };
        Catalog { stages: stages.stages.iter().enumerate().map(plan).collect(), ..Catalog::of_sources(sources) }
    }

    /// Sources alone.
    pub fn of_sources(sources: &[SourceInfo]) -> Catalog {
        Catalog { sources: sources.iter().map(|s| (s.id, s.clone())).collect(), stages: Vec::new() }
    }

    /// The names of staged relations.
    pub fn enrs(&self, staged: &[Staged]) -> Vec<Ident> {
        let name = |staged: &Staged| match staged {
            Staged::Source(source) => Program::source_delta(*source),
            Staged::Stage(stage) => self.stages[*stage].touched(),
        };
        staged.iter().map(name).collect()
    }
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
