//! Stages: what every kind of stage can do, and which kinds there are.
//!
//! A stage is one stateful operator of the query. It keeps the operator's result in a hidden table, in whatever form
//! its rule likes best, and shows two things to whoever stands above: the rows that it keeps, and their change.
//!
//! ```text
//! Δinput ─► refresh: steps that find out the change, stage it, and bring the table up to date ─► change() ─► above
//! ```
//!
//! Each kind has files of its own and implements [`StagePlan`]; nobody else knows how it works.
//!
//! | operator | kind |
//! |---|---|
//! | GROUP BY, aggregates, DISTINCT | `aggregate/` |
//! | window functions | `window.rs` |
//! | ORDER BY with LIMIT | `top_k.rs` |
//! | sources that are compared with a copy | `compared.rs` |
//! | filtered scans and reduced tables of which few rows are left | `selected.rs` |
//! | WITH RECURSIVE | `fixpoint/` |

mod aggregate;
mod compared;
pub(crate) mod fixpoint;
mod lookup;
mod selected;
mod top_k;
mod window;

use super::Catalog;
use crate::delta::Changed;
use crate::ir::{Rel, Ty};
use crate::keys::KnownKeys;
use crate::program::{StageInfo, StateTable, Step};
use crate::sql;
use crate::sql::{Ident, QualifiedName, Query, Sql};
use aggregate::AggregatePlan;
use compared::ComparedPlan;
use fixpoint::FixpointPlan;
use selected::SelectedPlan;
use std::fmt::Debug;
use std::sync::Arc;
use top_k::TopKPlan;
use window::WindowPlan;

/// What can be done with a stage of any kind.
pub(crate) trait StagePlan: Debug + Send + Sync {
    /// Its hidden table with its indexes.
    fn state_table(&self) -> StateTable;

    /// The first fill of the empty table.
    fn fill(&self, catalog: &Catalog) -> Vec<Step>;

    /// The steps for these changes: they stage [`staged`](Self::staged) and bring the table up to date. `None` if nothing
    /// that it reads has changed.
    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>>;

    /// Computes everything anew, whatever is stored, and stores the differences.
    fn recompute(&self, catalog: &Catalog) -> Vec<Step>;

    /// The rows that it keeps, `c1`..`cn`.
    fn rows(&self) -> Query;

    /// The change of these rows, `c1`..`cn` and `w`, from what [`refresh`](Self::refresh) staged: old rows go, new ones
    /// come, identical ones do neither.
    fn change(&self) -> Query;

    /// The ephemeral relation that [`change`](Self::change) reads: if it is empty, nothing has changed.
    fn staged(&self) -> Ident;

    /// What it is and how it is maintained.
    fn explain(&self) -> StageInfo;
}

/// The plan of a stage. The keys of the stages before it are known.
pub(crate) fn plan(stage: &Rel, place: Place, known: &KnownKeys) -> Arc<dyn StagePlan> {
    match stage {
        Rel::Aggregate { input, keys, aggs } => Arc::new(AggregatePlan::new(place, input, keys, aggs)),
        Rel::Window { .. } => Arc::new(WindowPlan::new(place, stage, known)),
        Rel::TopK { .. } => Arc::new(TopKPlan::new(place, stage, known)),
        Rel::Selected { input, asked } => Arc::new(SelectedPlan::new(place, input, asked, known)),
        Rel::Compared { input } => Arc::new(ComparedPlan::new(place, input, known)),
        Rel::Fixpoint { base, step, all } => Arc::new(FixpointPlan::new(place, base, step, *all)),
        _ => unreachable!("a {} keeps no state", stage.name()),
    }
}

/// Where a stage keeps its state, and how it names what it stages.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    number: usize,
    /// The hidden table.
    pub table: QualifiedName,
}

impl Place {
    /// The place of the stage with this index.
    pub fn new(pgt_id: i64, index: usize) -> Place {
        let number = index + 1;
        Place { number, table: QualifiedName::new("pgtrickle_changes", format!("state_{pgt_id}_{number}")) }
    }

    /// An ephemeral relation of this stage.
    pub fn relation(&self, prefix: &'static str) -> Ident {
        Ident::numbered(prefix, self.number)
    }
}

/// A column's type in CREATE TABLE.
pub(super) fn column_type(ty: &Ty) -> Sql {
    match &ty.collation {
        Some(collation) => sql!("{} COLLATE {}", ty.sql, collation),
        None => ty.sql.clone(),
    }
}
