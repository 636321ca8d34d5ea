//! Random cases: schemas, queries and changes from a seed, in the format of `case`, so that a finding is a test already.
//!
//! | file | writes |
//! |---|---|
//! | `kinds`, `tables`, `changes` | types and literals, tables and views, what happens to them |
//! | `query` | a query of some depth: which construct comes next |
//! | `expression` | select lists and conditions |
//! | `join`, `subquery`, `aggregate`, `set_operation`, `window`, `recursive`, `set_returning` | the constructs |
//! | `text` | SQL that knows how it can be made smaller |
//! | `shrink` | makes a failing case small |
//! | `report` | what has been checked, and how it was maintained |

mod aggregate;
mod changes;
mod expression;
mod join;
mod kinds;
mod query;
mod recursive;
pub mod report;
mod set_operation;
mod set_returning;
mod shrink;
mod subquery;
mod tables;
mod text;
mod window;

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::case::{Case, Stream};
use crate::install;
use crate::server::Server;
use crate::{Failure, Outcome};
use query::{Named, Writer};
use report::Report;
use text::Text;

/// A case with its queries as text that can be made smaller.
#[derive(Clone)]
pub struct Generated {
    pub case: Case,
    queries: Vec<Text>,
    constructs: Vec<BTreeSet<&'static str>>,
}

/// The case that belongs to a seed, with what PostgreSQL of a version has.
pub fn generate(seed: u64, version: u32) -> Generated {
    let mut rng = Rng::with_seed(seed);
    let tables = tables::generate(&mut rng);
    let mut case = Case {
        name: format!("random/seed_{seed}"),
        description: vec![format!("Generated from seed {seed}.")],
        replay: true,
        ..Case::default()
    };
    case.tables.extend(tables::TYPES.iter().map(|sql| tables::plain((*sql).to_owned())));
    for table in &tables {
        case.tables.extend(table.creation(&mut rng));
    }
    let mut sources: Vec<Named> = tables.iter().map(|table| table.named()).collect();
    for i in 0..rng.usize(..=1) {
        let (statement, view) = tables::view(&mut rng, version, &format!("v{i}"), &sources);
        case.tables.push(statement);
        sources.push(view);
    }
    let mut generated = Generated { case, queries: Vec::new(), constructs: Vec::new() };
    for _ in 0..rng.usize(7..=10) {
        generated.add_stream(&mut rng, version, &mut sources);
    }
    generated.case.steps = changes::generate(&mut rng, &tables, generated.case.streams.len());
    generated
}

impl Generated {
    fn add_stream(&mut self, rng: &mut Rng, version: u32, sources: &mut Vec<Named>) {
        let name = format!("st{}", self.case.streams.len());
        let depth = *pick(rng, &[1, 1, 2, 2, 3, 4]);
        let mut writer = Writer::new(rng, version, sources);
        let relation = writer.relation(depth);
        let mut constructs = writer.constructs;
        let sql = relation.sql.to_string();
        constructs.insert(["depth 1", "depth 2", "depth 3", "depth 4"][depth as usize - 1]);
        for source in sources.iter().filter(|source| sql.contains(&format!(" {} AS", source.name))) {
            constructs.extend(source.traits.iter().filter(|trait_| **trait_ != GENERATED || reads_generated(&sql)));
        }
        self.case.streams.push(Stream { name: name.clone(), query: sql, ..Stream::default() });
        self.queries.push(relation.sql);
        self.constructs.push(constructs);
        // A few stream tables read others.
        if relation.rows < 300.0 && one_in(rng, 3) {
            let columns = relation.kinds.iter().enumerate().map(|(i, kind)| (format!("x{}", i + 1), *kind)).collect();
            sources.push(Named { name, columns, rows: relation.rows, traits: vec!["over a stream table"] });
        }
    }

    /// How often a query is compared after a change: after every step, and after all of them at once.
    pub fn checks(&self) -> usize {
        self.case.streams.len() * (self.case.steps.len() + 1)
    }
}

/// What the statistics call a table's generated column.
const GENERATED: &str = "over a generated column";

/// Such columns, and nothing else, are called `g`.
fn reads_generated(sql: &str) -> bool {
    sql.match_indices(".g").any(|(at, _)| !sql[at + 2..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Runs a seed's case; a failing one is made smaller and written to `target/failed-cases/`.
pub fn run(server: &Server, seed: u64, report: &Report) -> Outcome {
    let generated = generate(seed, server.version().0);
    let Err(failure) = report.observe(server, &generated) else {
        return Ok(());
    };
    report.mismatch();
    let (case, failure) = shrink::shrink(server, generated, failure);
    let dir = install::root().join("target/failed-cases");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("seed_{seed}_pg{}.case", server.version()));
    std::fs::write(&path, case.to_string())?;
    Err(Failure::new(format!("{failure}\nreplay: {}\n{case}", path.display())))
}

/// One of several.
fn pick<'a, T>(rng: &mut Rng, options: &'a [T]) -> &'a T {
    &options[rng.usize(..options.len())]
}

/// True once in `n` times.
fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_case_and_can_be_read_back() {
        for seed in 0..500 {
            let printed = generate(seed, 18).case.to_string();
            let parsed =
                Case::parse(&format!("random/seed_{seed}"), &printed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(parsed.to_string(), printed);
        }
    }
}
