//! Exact under any concurrency: eight writers, stream tables refreshed as soon as changes arrive, and after every refresh
//! the extension's audit, the sums that never change, and at the end equality from outside.

mod ddl;
mod graph;
mod redefined;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgtrickle_tests::load::{Bank, Options};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::stream::{AT_ONCE, BY_HAND};
use pgtrickle_tests::suite;
use pgtrickle_tests::{During, Outcome};

fn main() {
    suite::main(1, |version| {
        Ok(vec![
            suite::on_own_server(version, "graph_with_ddl", &[("log_statement", "ddl")], graph::graph_with_ddl),
            suite::on_own_server(version, "views_and_functions_redefined", &[], redefined::views_and_functions),
            suite::on_own_server(version, "continuous_refresh", &[], |server| exact_under_load(server, AT_ONCE, true)),
            suite::on_own_server(version, "refresh_by_hand", &[], |server| exact_under_load(server, BY_HAND, false)),
            suite::on_own_server(version, "recomputed_when_much_changes", RECOMPUTING, |server| {
                exact_under_load(server, "1s", true)
            }),
        ])
    })
}

/// Nearly every refresh recomputes and diffs.
const RECOMPUTING: &[(&str, &str)] = &[("pg_trickle.differential_max_change_ratio", "0.0001")];

fn duration() -> Duration {
    let seconds = std::env::var("PGTEST_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    Duration::from_secs(seconds)
}

fn exact_under_load(server: &Server, schedule: &str, truncate: bool) -> Outcome {
    let seed = fastrand::u64(..);
    let bank = Bank::set_up(server, schedule)?;
    let load = bank.start(Options { seed, truncate });
    let watch = Watch { deadline: Instant::now() + duration(), over: AtomicBool::new(false) };
    let (looks, audits) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut session = server.session()?;
            watch.repeat(|_| bank.assert_invariants(&mut session)).during("an outside reader")
        });
        let auditor = scope.spawn(|| {
            let mut session = server.session()?;
            watch.repeat(|round| bank.verify_one(&mut session, round)).during("audit under load")
        });
        let looks = reader.join().expect("the reader panicked");
        let audits = auditor.join().expect("the auditor panicked");
        Outcome::Ok((looks?, audits?))
    })
    .during(format!("seed {seed}"))?;
    let commits = load.stop()?;
    bank.assert_exact(&mut server.session()?).during(format!("after the load of seed {seed}"))?;
    eprintln!(
        "\n    pg{} {schedule}: seed {seed}, {commits} commits, {looks} looks, {audits} audits",
        server.version()
    );
    Ok(())
}

/// Observers that work until a deadline, or until one of them has found something.
struct Watch {
    deadline: Instant,
    over: AtomicBool,
}

impl Watch {
    fn repeat(&self, mut look: impl FnMut(usize) -> Outcome) -> Outcome<usize> {
        let mut rounds = 0;
        while Instant::now() < self.deadline && !self.over.load(Ordering::Relaxed) {
            let result = look(rounds);
            if result.is_err() {
                self.over.store(true, Ordering::Relaxed);
            }
            result?;
            rounds += 1;
        }
        Ok(rounds)
    }
}
