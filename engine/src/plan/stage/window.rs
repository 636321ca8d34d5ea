//! Window functions: the rows of touched partitions, computed anew.
//!
//! ```text
//! k     = distinct partition keys of Δinput
//! Δrows = ω (input restricted to k) − stored rows of k        identical rows cancel
//! ```
//!
//! What is kept are the rows with their window functions' values. Without PARTITION BY there is one partition, touched
//! by every change. The old rows are those stored, whatever computing them again would give; so nothing that leaves
//! the order of ties or the order of additions open can make a change that contradicts the table.

use super::super::kept::Kept;
use super::super::matching::{hashed, of, row_hash};
use super::super::render::with_calls;
use super::super::{Catalog, numbered};
use super::lookup::Keys;
use super::{Place, StagePlan};
use crate::delta::{Changed, delta};
use crate::ir::{Col, Rel, Scalar};
use crate::keys::{KnownKeys, key};
use crate::program::{StageInfo, StateTable, Step};
use crate::sql::{CreateIndex, From, Ident, Query, Select, Sql};
use crate::zset::Zset;

/// Windows that share their partitions.
#[derive(Clone, Debug)]
pub(super) struct WindowPlan {
    place: Place,
    input: Rel,
    partition: Vec<usize>,
    calls: Vec<Scalar>,
    kept: Kept,
}

impl WindowPlan {
    pub fn new(place: Place, stage: &Rel, known: &KnownKeys) -> WindowPlan {
        let Rel::Window { input, partition, calls } = stage else { unreachable!("a plan for windows") };
        let kept = Kept::stage(&place, stage.cols(), key(input, known));
        WindowPlan { place, input: (**input).clone(), partition: partition.clone(), calls: calls.clone(), kept }
    }

    fn touched(&self) -> Ident {
        self.place.relation("pgt_k")
    }

    fn key_cols(&self) -> Vec<Col> {
        self.partition.iter().map(|c| self.kept.cols[*c].clone()).collect()
    }

    fn key_columns(&self) -> Vec<Ident> {
        self.partition.iter().map(|c| Ident::column(*c)).collect()
    }

    fn key_names(&self) -> Vec<Ident> {
        numbered("k", self.partition.len())
    }

    /// The input's rows with the values of the window functions over them.
    fn computed(&self, from: From) -> Select {
        with_calls(self.input.arity(), &self.calls, from)
    }

    fn find_touched(&self, catalog: &Catalog, change: &Zset) -> Step {
        let keys = self.key_columns().into_iter().map(Sql::from).zip(self.key_names());
        let keys = Select::from(catalog.item_of_zset(change)).columns(keys).filter("w <> 0");
        let reads = catalog.enrs(&change.staged());
        let query = keys.group_by_first(self.partition.len()).sql();
        Step::Stage { name: self.touched(), query, skip_if_empty: reads.clone(), reads }
    }

    /// New and old rows of the touched partitions.
    fn touched_rows(&self, catalog: &Catalog) -> (Query, Select) {
        let (relation, names, cols) = (self.touched(), self.key_names(), self.key_cols());
        let keys = Keys { relation: &relation, names: &names, cols: &cols };
        let columns = self.key_columns().iter().map(Sql::from).collect::<Vec<_>>();
        let new = keys.of_input(catalog, &self.input, &columns, |from| self.computed(from));
        let table = From::Table { name: self.kept.table.clone(), only: true, alias: Some(Ident::new("s")) };
        let all = self.kept.names.clone();
        let old = Select::from(keys.of_table(table, &of("s", &self.key_columns())));
        (new, old.columns(of("s", &all).into_iter().zip(all)))
    }
}

impl StagePlan for WindowPlan {
    fn state_table(&self) -> StateTable {
        let mut table = self.kept.state_table();
        if !self.partition.is_empty() {
            let keys = self.key_columns();
            let hash = || vec![row_hash(&keys)];
            let columns = || keys.iter().map(Sql::from).collect();
            let expressions = if hashed(&self.key_cols()) { hash() } else { columns() };
            let index = CreateIndex { table: table.name.clone(), unique: false, expressions };
            table.indexes.push(index.sql());
        }
        table
    }

    fn fill(&self, catalog: &Catalog) -> Vec<Step> {
        vec![self.kept.fill(self.computed(catalog.item_of_rel(&self.input)).into())]
    }

    fn refresh(&self, catalog: &Catalog, changed: &Changed) -> Option<Vec<Step>> {
        let change = delta(&self.input, changed)?;
        let mut steps = Vec::new();
        let (new, old, reads) = if self.partition.is_empty() {
            let new = self.computed(catalog.item_of_rel(&self.input)).into();
            (new, self.kept.stored(), catalog.enrs(&change.staged()))
        } else {
            steps.push(self.find_touched(catalog, &change));
            let (new, old) = self.touched_rows(catalog);
            (new, old, vec![self.touched()])
        };
        let query = self.kept.difference(new, old);
        steps.push(Step::Stage { name: self.staged(), query, skip_if_empty: reads.clone(), reads });
        steps.extend(self.kept.apply());
        Some(steps)
    }

    fn recompute(&self, catalog: &Catalog) -> Vec<Step> {
        self.kept.recompute(self.computed(catalog.item_of_rel(&self.input)).into())
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
        let calls: Vec<&str> = self.calls.iter().map(|call| call.sql.as_str()).collect();
        let what = if self.partition.is_empty() { "all rows" } else { "the rows of touched partitions" };
        let rule = format!("{what} are computed anew: {}; {}", calls.join(", "), self.kept.explain());
        StageInfo { operator: "window".to_owned(), rule, state: Some(self.kept.table.clone()) }
    }
}
