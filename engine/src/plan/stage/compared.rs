//! Sources that nobody tells the changes of: foreign tables, materialised views, unlogged tables. A copy is kept.
//!
//! ```text
//! ΔR = R − copy, as bags of identical rows;   copy := copy + ΔR
//! ```
//!
//! Whatever stands above reads the copy, so R is read once per refresh and everything agrees on what it held, even if R is
//! no table that keeps to a snapshot.

use super::super::Catalog;
use super::super::kept::Kept;
use super::{Place, StagePlan};
use crate::delta::Changed;
use crate::ir::Rel;
use crate::keys::{KnownKeys, key};
use crate::program::{StageInfo, StateTable, Step};
use crate::sql::{Ident, Query};

/// The copy of a source.
#[derive(Clone, Debug)]
pub(super) struct ComparedPlan {
    input: Rel,
    kept: Kept,
}

impl ComparedPlan {
    pub fn new(place: Place, input: &Rel, known: &KnownKeys) -> ComparedPlan {
        let kept = Kept::stage(&place, input.cols(), key(input, known));
        ComparedPlan { input: input.clone(), kept }
    }
}

impl StagePlan for ComparedPlan {
    fn state_table(&self) -> StateTable {
        self.kept.state_table()
    }

    fn fill(&self, catalog: &Catalog) -> Vec<Step> {
        vec![self.kept.fill(catalog.rel(&self.input))]
    }

    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        let looked_at = self.input.sources().iter().any(|source| changed.sources.contains(source));
        looked_at.then(|| self.recompute(catalog))
    }

    fn recompute(&self, catalog: &Catalog) -> Vec<Step> {
        self.kept.recompute(catalog.rel(&self.input))
    }

    fn rows(&self) -> Query {
        self.kept.stored().into()
    }

    fn change(&self) -> Query {
        self.kept.staged_change()
    }

    fn staged(&self) -> Ident {
        self.kept.change.clone()
    }

    fn explain(&self) -> StageInfo {
        let rule = format!("read at each refresh and compared with a copy; {}", self.kept.explain());
        StageInfo { operator: "comparison".to_owned(), rule, state: Some(self.kept.table.clone()) }
    }
}
