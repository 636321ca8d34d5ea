//! What an operator does to a server with stream tables, and what befalls it.

mod databases;
mod exhaustion;
mod failure;
mod survival;

use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Outcome, suite};

fn main() {
    suite::main(2, |version| {
        let own = |name: &'static str, test: fn(&Server) -> Outcome| suite::on_own_server(version, name, &[], test);
        let fail = |name: &'static str, test: fn(&Server) -> Outcome| {
            suite::on_own_server(version, name, failure::SETTINGS, test)
        };
        let mut trials = vec![
            own("drop_database", databases::drop_database),
            own("drop_database_in_use", databases::drop_database_in_use),
            own("rename_database", databases::rename_database),
            own("database_moves", databases::database_moves),
            own("only_owners_send_workers_away", databases::only_owners_send_workers_away),
            own("connections_not_allowed", databases::connections_not_allowed),
            own("settings_of_a_database", databases::settings_of_a_database),
            own("ends_of_the_extension", databases::ends_of_the_extension),
            fail("tried_again", failure::tried_again),
            fail("suspended", failure::suspended),
            fail("locked", failure::locked),
            fail("limits", failure::limits),
            fail("cancelled", failure::cancelled),
            fail("disk_full", exhaustion::disk_full),
            own("disk_full_of_a_database", exhaustion::disk_full_of_a_database),
            own("large_change_in_little_memory", exhaustion::large_change_in_little_memory),
            fail("deadlocks", exhaustion::deadlocks),
            own("prepared_over_a_restart", survival::prepared_over_a_restart),
            own("decoder_ended_often", survival::decoder_ended_often),
            own("retyped_behind_a_backlog", survival::retyped_behind_a_backlog),
            suite::on_own_server(
                version,
                "slot_beyond_its_limit",
                &[("max_slot_wal_keep_size", "'16MB'")],
                survival::slot_beyond_its_limit,
            ),
        ];
        if version == PgVersion::V18 {
            // Before, the queue holds eight gigabytes.
            let (test, settings) = (exhaustion::notifications_are_not_taken, &[("max_notify_queue_pages", "64")]);
            trials.push(suite::on_own_server(version, "notifications_are_not_taken", settings, test));
        }
        if version == PgVersion::V15 {
            // Some two hundred workers for half a minute: nothing in it differs between versions.
            let test = databases::more_than_places;
            trials.push(suite::on_own_server(version, "more_databases_than_places", databases::ROOM, test));
        }
        Ok(trials)
    })
}
