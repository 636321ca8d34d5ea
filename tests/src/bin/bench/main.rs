//! The measurements behind `tests/bench/RESULTS.md`: each contender takes turns with its rivals in one run on one machine,
//! and the median of the rounds counts.

mod capture;
mod latency;
mod nexmark;
mod plugin;
mod refresh;
mod report;
mod scale;
mod scrape;
mod tpch;
mod tpch_full;
mod writers;

use std::process::ExitCode;

use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::{During, Outcome, server};

use report::Report;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub version: PgVersion,
    /// Turns that each contender gets.
    pub rounds: usize,
    /// Divides the rows of floods and the seconds of loads; a refresh is always measured on a full table.
    pub fraction: u64,
}

/// Durable, with room so that checkpoints do not fall into a measurement.
pub const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("shared_buffers", "'512MB'"),
    ("max_wal_size", "'16GB'"),
    ("checkpoint_timeout", "'1h'"),
    ("wal_compression", "off"),
    ("autovacuum", "off"),
];

/// The beginning of RESULTS.md.
const HEAD: &str = "# Measurements\n\nMade by `make bench`; `scripts/bench.sh PART` replaces one part's sections. The contenders take \
                    turns in one run; medians\nof 5 turns unless said otherwise. fsync is on.\n";

type Part = (&'static str, fn(&Effort, &mut Report) -> Outcome);

const PARTS: &[Part] = &[
    ("capture", capture::measure),
    ("plugin", plugin::measure),
    ("latency", latency::measure),
    ("writers", writers::measure),
    ("refresh", refresh::measure),
    ("scale", scale::measure),
    ("scrape", scrape::measure),
    ("tpch", tpch::measure),
    ("tpch_full", tpch_full::measure),
    ("nexmark", nexmark::measure),
];

fn main() -> ExitCode {
    let quick = std::env::var_os("BENCH_QUICK").is_some_and(|value| value != "0");
    let version = std::env::var("PG").ok().and_then(|text| text.parse().ok()).map_or(PgVersion::V15, PgVersion);
    let effort = Effort { version, rounds: 5, fraction: if quick { 5 } else { 1 } };
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let path = install::root().join("tests/bench/RESULTS.md");
    let mut results =
        if wanted.is_empty() { HEAD.to_owned() } else { std::fs::read_to_string(&path).unwrap_or_default() };
    let mut failed = false;
    for (name, part) in PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        println!("== {name}");
        let mut report = Report::new(name, &effort, quick);
        if let Err(failure) = part(&effort, &mut report).during(name) {
            eprintln!("{failure}");
            report.note(format!("**failed**: {}", failure.to_string().lines().next().unwrap_or_default()));
            failed = true;
        }
        results = report.put_into(&results);
    }
    server::clean_up();
    if let Err(error) = std::fs::write(&path, results) {
        eprintln!("{}: {error}", path.display());
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
