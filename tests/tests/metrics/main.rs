//! Metrics, health, alerts: each figure is driven to a known value and read back as a scraper would.

mod alerts;
mod bench;
mod crowd;
mod drivers;
mod firing;
mod health;
mod page;
mod prometheus;
mod tables;
mod workers;

use pgtrickle_tests::suite;

fn main() {
    suite::main(2, |version| {
        let groups = [
            drivers::trials,
            tables::trials,
            workers::trials,
            alerts::trials,
            health::trials,
            prometheus::trials,
            firing::trials,
            crowd::trials,
            page::trials,
        ];
        Ok(groups.into_iter().flat_map(|trials| trials(version)).collect())
    })
}
