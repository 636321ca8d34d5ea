//! Random cases against the oracle. `PGTEST_SEED=n` repeats one, `PGTEST_RANDOM=n` runs n of them on each version.

use pgtrickle_tests::random;
use pgtrickle_tests::suite::{self, Shared};

const SETTINGS: &[(&str, &str)] = &[("pg_trickle.differential_max_change_ratio", "1000000")];
const COUNT: u64 = 60;

fn main() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("PGTEST_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = fastrand::u64(..1 << 40);
            (first..first + number("PGTEST_RANDOM").unwrap_or(COUNT)).collect()
        }
    };
    suite::main(2, |version| {
        let shared = Shared::new(version, SETTINGS);
        let trial = |seed: &u64| {
            let seed = *seed;
            shared.trial(&format!("seed_{seed}"), move |server| random::run(server, seed))
        };
        Ok(seeds.iter().map(trial).collect())
    })
}
