//! The measurements behind `tests/bench/RESULTS.md`: each contender takes turns with its rivals in one run on one machine,
//! and the median of the rounds counts.

mod capture;
mod latency;
mod plugin;
mod refresh;
mod report;
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

type Part = (&'static str, fn(&Effort, &mut Report) -> Outcome);

const PARTS: &[Part] = &[
    ("capture", capture::measure),
    ("plugin", plugin::measure),
    ("latency", latency::measure),
    ("writers", writers::measure),
    ("refresh", refresh::measure),
];

fn main() -> ExitCode {
    let quick = std::env::var_os("BENCH_QUICK").is_some_and(|value| value != "0");
    let version = std::env::var("PG").ok().and_then(|text| text.parse().ok()).map_or(PgVersion::V15, PgVersion);
    let effort = Effort { version, rounds: 5, fraction: if quick { 5 } else { 1 } };
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut report = Report::new(&effort, quick);
    let mut failed = false;
    for (name, part) in PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        println!("== {name}");
        if let Err(failure) = part(&effort, &mut report).during(name) {
            eprintln!("{failure}");
            failed = true;
        }
    }
    server::clean_up();
    let path = install::root().join("tests/bench/RESULTS.md");
    if !wanted.is_empty() {
        println!("\n{}", report.markdown());
    } else if let Err(error) = std::fs::write(&path, report.markdown()) {
        eprintln!("{}: {error}", path.display());
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
