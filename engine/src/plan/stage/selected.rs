//! The rows of a filtered scan, or of a reduced table, kept as they are.
//!
//! ```text
//! κ := κ + Δσ(S),   κ := κ + Δ(S ⋉ σ R)
//! ```

use super::super::Catalog;
use super::super::kept::Kept;
use super::{Place, StagePlan};
use crate::delta::{Changed, delta};
use crate::ir::Rel;
use crate::keys::{KnownKeys, key};
use crate::program::{Identity, StageInfo, StateTable, Step};
use crate::sql::{CreateIndex, Ident, Query, Sql};

/// What is kept, and the columns by which its rows are looked up.
#[derive(Clone, Debug)]
pub(super) struct SelectedPlan {
    input: Rel,
    asked: Vec<Vec<usize>>,
    kept: Kept,
}

impl SelectedPlan {
    pub fn new(place: Place, input: &Rel, asked: &[Vec<usize>], known: &KnownKeys) -> SelectedPlan {
        let kept = Kept::stage(&place, input.cols(), key(input, known));
        SelectedPlan { input: input.clone(), asked: asked.to_vec(), kept }
    }
}

impl StagePlan for SelectedPlan {
    fn state_table(&self) -> StateTable {
        // By more than the key nothing is found that the key alone would not find.
        let known = |asked: &[usize]| match &self.kept.identity {
            Identity::Key { columns } => columns.iter().all(|column| asked.contains(column)),
            Identity::Bag => false,
        };
        let index = |asked: &Vec<usize>| {
            let expressions = asked.iter().map(|column| Sql::from(&self.kept.names[*column])).collect();
            CreateIndex { table: self.kept.table.clone(), unique: false, expressions }.sql()
        };
        let mut table = self.kept.state_table();
        table.indexes.extend(self.asked.iter().filter(|asked| !known(asked)).map(index));
        table
    }

    fn fill(&self, catalog: &Catalog) -> Vec<Step> {
        vec![self.kept.fill(catalog.rel(&self.input))]
    }

    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        Some(self.kept.refresh(catalog, &delta(&self.input, changed)?))
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
        let rule = format!("the rows that pass are kept, as they are few; {}", self.kept.explain());
        StageInfo { operator: "selection".to_owned(), rule, state: Some(self.kept.table.clone()) }
    }
}
