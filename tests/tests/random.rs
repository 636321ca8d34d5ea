//! Random cases against the oracle.
//!
//! | variable | meaning |
//! |---|---|
//! | `PGTEST_SEED=n` | repeats one case |
//! | `PGTEST_RANDOM=n` | runs cases until they have made n query × change cases on each version |
//! | `PGTEST_MINUTES=n` | runs for so long on each version |
//! | `PGTEST_BASE=n` | the first seed; otherwise it depends on the commit, so that a run can be repeated and each commit sees others |
//!
//! Without any of them a minute and a half on each version. Half of the cases are run where every selection is kept that could be:
//! no table here is so large that it would be by itself. Closes with what has been checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgtrickle_tests::random::{self, report::Report};
use pgtrickle_tests::suite::{self, Shared};
use pgtrickle_tests::{Failure, Outcome};

const ALWAYS: (&str, &str) = ("pg_trickle.differential_max_change_ratio", "1000000");
/// The servers that cases are run on, by what their trials' names begin with.
const SERVERS: [(&str, &[(&str, &str)]); 2] =
    [("", &[ALWAYS]), ("selections_", &[ALWAYS, ("pg_trickle.debug_selections", "on")])];
/// From one server's first seed to the next one's.
const FAR: u64 = 1_000_000;
const SECONDS: u64 = 90;
/// Clients of one server, each with its own cases.
const CLIENTS: u64 = 3;
/// Shrinking takes its time; more findings than these say the same again.
const ENOUGH: usize = 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// When to stop.
#[derive(Clone, Copy)]
enum End {
    Checks(usize),
    At(Instant),
}

impl End {
    /// Of one server's share.
    fn wanted() -> End {
        let servers = SERVERS.len() as u64;
        let seconds = number("PGTEST_MINUTES").map_or(SECONDS, |minutes| minutes * 60) / servers;
        match number("PGTEST_RANDOM") {
            Some(checks) => End::Checks(checks.div_ceil(servers) as usize),
            None => End::At(Instant::now() + Duration::from_secs(seconds)),
        }
    }

    fn reached(self, report: &Report) -> bool {
        match self {
            End::Checks(checks) => report.checks() >= checks,
            End::At(time) => Instant::now() >= time,
        }
    }
}

fn main() {
    suite::main(1, |version| {
        let trials = SERVERS.iter().zip(0..).map(|((prefix, settings), nth)| {
            let shared = Shared::new(version, settings);
            match number("PGTEST_SEED") {
                Some(seed) => shared.trial(&format!("{prefix}seed_{seed}"), move |server| {
                    let report = Report::default();
                    random::run(server, seed, &report)?;
                    println!("{report}");
                    Ok(())
                }),
                None => {
                    let base = suite::seed_of_commit() + nth * FAR;
                    shared.trial(&format!("{prefix}from_seed_{base}"), move |server| many(server, base))
                }
            }
        });
        Ok(trials.collect())
    })
}

/// Cases from one seed on, until it is enough.
fn many(server: &pgtrickle_tests::server::Server, base: u64) -> Outcome {
    let (report, next, end) = (Arc::new(Report::default()), AtomicU64::new(base), End::wanted());
    let client = || {
        let mut findings = Vec::new();
        while !end.reached(&report) && report.mismatches() < ENOUGH {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if let Err(failure) = random::run(server, seed, &report) {
                println!("seed {seed}: {failure}");
                findings.push(seed);
            }
        }
        findings
    };
    let findings: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap_or_else(|_| vec![0])).collect()
    });
    println!("{report}");
    println!("PostgreSQL {}, seeds {base} to {}", server.version(), next.load(Ordering::Relaxed) - 1);
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("seeds {findings:?}; their cases are in target/failed-cases")))
}
