//! The SQL functions, the settings and what a user is told when something is not as it must be.

mod alter;
mod capture;
mod choice;
mod definitions;
mod documentation;
mod explain;
mod functions;
mod hashes;
mod hostile;
mod lifecycle;
mod look;
mod meanwhile;
mod missed;
mod partners;
mod readers;
mod rights;
mod schedule;
mod server;
mod triggers;
mod upheavals;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::suite::{self, Shared};
use pgtrickle_tests::{Failure, Outcome, wait};

const SETTINGS: &[(&str, &str)] = &[("pg_trickle.differential_max_change_ratio", "1000000")];

fn main() {
    suite::main(2, |version| {
        let shared = Shared::new(version, SETTINGS);
        let mut trials = Vec::new();
        for (name, test) in lifecycle::TESTS
            .iter()
            .chain(look::TESTS)
            .chain(capture::TESTS)
            .chain(documentation::TESTS)
            .chain(explain::TESTS)
            .chain(functions::TESTS)
            .chain(hashes::TESTS)
            .chain(alter::TESTS)
            .chain(readers::TESTS)
            .chain(choice::TESTS)
            .chain(definitions::TESTS)
            .chain(hostile::TESTS)
            .chain(meanwhile::TESTS)
            .chain(missed::TESTS)
            .chain(partners::TESTS)
            .chain(rights::TESTS)
            .chain(triggers::TESTS)
            .chain(upheavals::TESTS)
        {
            trials.push(shared.trial(name, test));
        }
        trials.push(suite::on_own_server(version, "rows_too_wide_for_a_buffer", &[], missed::rows_too_wide));
        // It switches off an event trigger.
        trials.push(suite::on_own_server(version, "buffers_are_dropped", &[], upheavals::buffers));
        trials.extend(server::trials(version));
        trials.extend(schedule::trials(version));
        Ok(trials)
    })
}

/// A test and its name.
type Test = (&'static str, fn(&Server) -> Outcome);

/// A schema of its own for a test, and a session in it.
fn arrange(server: &Server, schema: &str, tables: &str) -> Outcome<Session> {
    let mut session = server.session()?;
    session.each(&format!(
        "CREATE SCHEMA {schema}; SET search_path = {schema}; SET statement_timeout = '90s'; {tables}"
    ))?;
    Ok(session)
}

/// The statement must fail in this way, and say what the reader needs to know.
fn assert_error(session: &mut Session, sql: &str, state: &str, parts: &[&str]) -> Outcome {
    let (found, text) = session.error(sql)?;
    match parts.iter().find(|part| !text.contains(**part)) {
        _ if found != state => Err(Failure::new(format!("{sql}: expected {state}, got {text}"))),
        Some(part) => Err(Failure::new(format!("{sql}: does not say \"{part}\": {text}"))),
        None => Ok(()),
    }
}

fn assert_text(session: &mut Session, sql: &str, expected: &str) -> Outcome {
    let found = session.text(sql)?;
    if found == expected { Ok(()) } else { Err(Failure::new(format!("{sql} is {found}, not {expected}"))) }
}

/// The scheduler sees to it that the query's text becomes this.
fn follows(session: &mut Session, query: &str, expected: &str) -> Outcome {
    wait::until(query, wait::PATIENCE, || Ok(session.text(query)? == expected))
}
