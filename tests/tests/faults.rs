//! Processes die at random moments under load; after each: exact, nothing lost, nothing doubled, and carried on where it
//! stopped. `PGTEST_SEED=n` repeats a run's timing as far as timing can be repeated, `PGTEST_ROUNDS=n` does more of it.

use pgtrickle_tests::During;
use pgtrickle_tests::fault::{self, Fault};
use pgtrickle_tests::server::{Server, Shutdown};
use pgtrickle_tests::suite;

const FAULTS: &[(&str, Fault)] = &[
    ("kill_decoder", Fault::Worker(fault::DECODER)),
    ("kill_apply", Fault::Worker(fault::APPLY)),
    ("kill_scheduler", Fault::Worker(fault::SCHEDULER)),
    ("kill_launcher", Fault::Worker(fault::LAUNCHER)),
    ("kill_writer", Fault::Writer),
    ("terminate_decoder", Fault::Terminate(fault::DECODER)),
    ("terminate_apply", Fault::Terminate(fault::APPLY)),
    ("terminate_scheduler", Fault::Terminate(fault::SCHEDULER)),
    ("kill_pool", Fault::Worker(fault::POOL)),
    ("terminate_pool", Fault::Terminate(fault::POOL)),
    ("kill_dispatcher", Fault::Worker(fault::DISPATCHER)),
    ("terminate_dispatcher", Fault::Terminate(fault::DISPATCHER)),
    ("crash_immediate", Fault::Crash(Shutdown::Immediate)),
    ("crash_kill_postmaster", Fault::Crash(Shutdown::Kill)),
    ("restart", Fault::Crash(Shutdown::Fast)),
];

fn main() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PGTEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("PGTEST_ROUNDS").unwrap_or(4) as u32;
    suite::main(1, |version| {
        let told = move |result: pgtrickle_tests::Outcome| result.during(format!("seed {seed}"));
        let mut trials: Vec<_> = FAULTS
            .iter()
            .map(|(name, fault)| {
                let test = move |server: &Server| told(fault::repeat(server, *fault, rounds, seed));
                suite::on_own_server(version, name, &[], test)
            })
            .collect();
        trials.push(suite::on_own_server(version, "drop_slot", &[], move |server| {
            told(fault::drop_slot(server, 2, seed))
        }));
        trials.push(suite::on_own_server(version, "disk_full", &[], fault::disk_full));
        Ok(trials)
    })
}
