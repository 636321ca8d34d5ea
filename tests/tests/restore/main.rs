//! A database that comes from elsewhere: from a dump, a copy, a backup, a standby, an older server, an older version.

mod common;
mod dump;
mod installation;
mod pg_upgrade;
mod standby;
mod update;
mod walkthrough;

use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::{Outcome, suite};

fn main() {
    suite::main(1, |version| {
        let trial = |name: &str, test: fn(PgVersion) -> Outcome| suite::trial(version, name, move || test(version));
        let mut trials = vec![
            trial("dump_and_restore", dump::dump_and_restore),
            trial("database_from_template", dump::database_from_template),
            trial("update", update::update),
            trial("installation", installation::installation),
            trial("install_walkthrough", walkthrough::walkthrough),
            trial("standby_promoted", standby::standby_promoted),
            trial("switched_over_and_back", standby::switched_over_and_back),
            trial("base_backup", standby::base_backup),
        ];
        if version >= PgVersion(17) {
            trials.push(trial("standby_with_synced_slot", standby::standby_with_synced_slot));
        }
        for old in PgVersion::under_test().into_iter().filter(|&old| old < version) {
            let name = format!("pg_upgrade_from_{old}");
            trials.push(suite::trial(version, &name, move || pg_upgrade::pg_upgrade(old, version)));
        }
        Ok(trials)
    })
}
