//! Every file under `cases/`, on every version, in one server per version.

use pgtrickle_tests::case::Case;
use pgtrickle_tests::suite::{self, Shared};

const SETTINGS: &[(&str, &str)] = &[
    // Small enough that the cases about transactions that spill need not be large.
    ("pg_trickle.decoding_work_mem", "'64kB'"),
    // With a handful of rows nearly every change is a large one, and would be answered by recomputing.
    ("pg_trickle.differential_max_change_ratio", "1000000"),
];

fn main() {
    suite::main(2, |version| {
        let shared = Shared::new(version, SETTINGS);
        let cases = Case::all()?.into_iter().filter(|case| case.runs_on(version));
        let mut trials = Vec::new();
        for case in cases {
            if case.can_be_immediate() {
                let case = case.clone();
                trials
                    .push(shared.trial(&format!("immediate/{}", case.name), move |server| case.run_immediate(server)));
            }
            trials.push(shared.trial(&case.name.clone(), move |server| case.run(server)));
        }
        Ok(trials)
    })
}
