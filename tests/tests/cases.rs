//! Every file under `cases/`, on every version, in one server per version.

use pgtrickle_tests::case::Case;
use pgtrickle_tests::suite::{self, Shared};

/// Small enough that the case about transactions that spill need not be large.
const SETTINGS: &[(&str, &str)] = &[("logical_decoding_work_mem", "'64kB'")];

fn main() {
    suite::main(2, |version| {
        let shared = Shared::new(version, SETTINGS);
        let cases = Case::all()?.into_iter().filter(|case| case.runs_on(version));
        Ok(cases.map(|case| shared.trial(&case.name.clone(), move |server| case.run(server))).collect())
    })
}
