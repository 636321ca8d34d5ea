//! Running the steps of a program, all under one snapshot.

use super::costs::Clock;
use super::program::{Statements, size_class};
use crate::catalog::StreamTable;
use crate::error::{Error, Result};
use crate::settings;
use crate::shmem::Progress;
use pgtrickle_engine::program::{Program, Step};
use pgtrickle_engine::sql::{Ident, Sql};
use pgtrickle_pg::snapshot::Snapshot;
use pgtrickle_pg::staging::{Staged, restage_query, stage_nothing, stage_query};
use pgtrickle_pg::statistics::Told;
use std::collections::HashMap;

/// The ephemeral relations of one refresh, by name. They end with the SPI connection.
#[derive(Default)]
pub struct Relations {
    staged: HashMap<Ident, Staged>,
}

impl Relations {
    pub fn insert(&mut self, name: Ident, staged: Staged) {
        self.staged.insert(name, staged);
    }

    /// A relation, if it was staged.
    pub fn get(&self, name: &Ident) -> Option<&Staged> {
        self.staged.get(name)
    }

    /// Rows of a relation, 0 if it was not staged.
    pub fn rows(&self, name: &Ident) -> u64 {
        self.staged.get(name).map_or(0, |s| s.rows)
    }

    /// Size classes of relations, as key of the plans that read them.
    pub fn classes(&self, names: &[Ident]) -> Vec<u8> {
        names.iter().map(|name| size_class(self.rows(name)).0).collect()
    }

    fn all_empty(&self, names: &[Ident]) -> bool {
        !names.is_empty() && names.iter().all(|name| self.rows(name) == 0)
    }
}

/// Runs the steps under `snapshot`, with the time of each on the clock, and tells the progress if it may take long. Returns how
/// many rows of the stream table and its state were written. An error of ours means that stored state contradicts the changes.
pub fn run(
    st: &StreamTable,
    statements: &Statements,
    relations: &mut Relations,
    snapshot: &Snapshot,
    clock: &mut Clock,
    progress: Option<&Progress>,
) -> Result<u64> {
    let (mut rows, mut written) = (0, 0);
    let _ours = super::ours::begin(st.relid);
    let _told = Told::of(statements.origins.clone());
    for (number, step) in statements.steps.iter().enumerate() {
        pgrx::check_for_interrupts!();
        if let Some(progress) = progress {
            progress.step(number + 1, rows);
        }
        let skip = relations.all_empty(step.skip_if_empty());
        match step {
            Step::Stage { name, query, reads, .. } => {
                let query = if skip { &nothing_of(query) } else { query };
                let mut classes = relations.classes(reads);
                // A skipped query has plans of its own, for a relation without rows.
                classes.push(if skip { u8::MAX } else { 0 });
                log(st, query);
                let plan = statements.plan(number, query.as_str(), classes);
                let staged = match skip {
                    true => stage_nothing(&plan, name.as_str(), size_class(0).1),
                    false => stage_query(&plan, snapshot, name.as_str(), |rows| size_class(rows).1),
                };
                rows += staged.rows;
                relations.insert(name.clone(), staged);
            }
            _ if skip => {}
            Step::Restage { name, query, reads, .. } => {
                log(st, query);
                let plan = statements.plan(number, query.as_str(), relations.classes(reads));
                let staged = restage_query(&plan, snapshot, name.as_str(), |rows| size_class(rows).1);
                rows += staged.rows;
                relations.insert(name.clone(), staged);
            }
            Step::Modify { sql, reads, expect, .. } => {
                log(st, sql);
                let plan = statements.plan(number, sql.as_str(), relations.classes(reads));
                let expected =
                    expect.as_ref().map(|sql| number_of(statements, number, sql, relations.classes(reads), snapshot));
                let done = plan.execute(snapshot, &[]);
                rows += done;
                written += done;
                if let Some(expected) = expected.filter(|&expected| expected != done as i64) {
                    let what = format!("{done} rows were found where the changes call for {expected}.");
                    return Err(Error::corrupt_state(&st.label(), &what));
                }
            }
            Step::Check { query, reads, .. } => {
                let plan = statements.plan(number, query.as_str(), relations.classes(reads));
                if let Some(what) = plan.first_text(snapshot) {
                    return Err(Error::corrupt_state(&st.label(), &what));
                }
            }
        }
        clock.lap(statements, number, relations);
    }
    Ok(written)
}

/// How many rows the refresh has put into the stream table, and how many it has taken out of it.
pub fn come_and_gone(relations: &Relations) -> (i64, i64) {
    relations.get(&Program::root_delta()).map_or((0, 0), Staged::come_and_gone)
}

/// The same columns, no rows.
fn nothing_of(query: &Sql) -> Sql {
    pgtrickle_engine::sql!("SELECT * FROM ({}) AS skipped WHERE false", query)
}

fn number_of(statements: &Statements, number: usize, sql: &Sql, mut classes: Vec<u8>, snapshot: &Snapshot) -> i64 {
    // Apart from the plans of the statement itself.
    classes.push(u8::MAX);
    let plan = statements.plan(number, sql.as_str(), classes);
    plan.first_text(snapshot).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn log(st: &StreamTable, sql: &Sql) {
    if settings::LOG_DELTA_SQL.get() {
        pgrx::log!("pg_trickle: {}: {sql}", st.label());
    }
}
