//! Random cases: schemas, queries and changes from a seed, in the format of `case`, so that a finding is a test already.

mod changes;
mod query;
mod shrink;
mod tables;

use fastrand::Rng;

use crate::case::{Case, Stream};
use crate::install;
use crate::server::Server;
use crate::{Failure, Outcome};

/// The case that belongs to a seed.
pub fn case(seed: u64) -> Case {
    let mut rng = Rng::with_seed(seed);
    let tables = tables::generate(&mut rng);
    let mut case = Case {
        name: format!("random/seed_{seed}"),
        description: vec![format!("Generated from seed {seed}.")],
        replay: true,
        ..Case::default()
    };
    for table in &tables {
        case.tables.extend(table.creation(&mut rng));
    }
    let mut sources: Vec<query::Source> = tables.iter().map(query::Source::table).collect();
    for i in 0..rng.usize(1..=3) {
        let name = format!("st{i}");
        let relation = query::generate(&mut rng, &sources);
        case.streams.push(Stream { name: name.clone(), query: relation.sql.clone(), ..Stream::default() });
        sources.push(query::Source::stream_table(&name, &relation));
    }
    case.steps = changes::generate(&mut rng, &tables);
    case
}

/// Runs a seed's case; a failing one is made smaller and written to `target/failed-cases/`.
pub fn run(server: &Server, seed: u64) -> Outcome {
    let case = case(seed);
    let Err(failure) = case.run(server) else {
        return Ok(());
    };
    let (case, failure) = shrink::shrink(server, case, failure);
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
            let printed = case(seed).to_string();
            let parsed =
                Case::parse(&format!("random/seed_{seed}"), &printed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(parsed.to_string(), printed);
        }
    }
}
