//! Stream tables that are maintained at once (refresh_mode IMMEDIATE). What a single session does to them is in the cases,
//! each of which is also run in this way (`cases.rs`); here is what takes several sessions, several roles or definitions.

mod concurrency;
mod modes;
mod statements;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::StreamTable;
use pgtrickle_tests::suite::{self, Shared};
use pgtrickle_tests::{During, Failure, Outcome, oracle};

fn main() {
    suite::main(2, |version| {
        let shared = Shared::new(version, &[]);
        let tests = statements::TESTS.iter().chain(modes::TESTS).chain(concurrency::TESTS);
        let mut trials: Vec<_> = tests.map(|(name, test)| shared.trial(name, test)).collect();
        trials.push(suite::on_own_server(
            version,
            "without_logical_wal",
            &[("wal_level", "replica")],
            modes::without_capture,
        ));
        Ok(trials)
    })
}

/// A test and its name.
type Test = (&'static str, fn(&Server) -> Outcome);

/// A schema of its own for a test, and a session in it.
fn arrange(server: &Server, schema: &str, tables: &str) -> Outcome<Session> {
    let mut session = server.session()?;
    session.each(&format!(
        "CREATE SCHEMA {schema}; SET search_path = {schema}; SET statement_timeout = '60s'; {tables}"
    ))?;
    Ok(session)
}

/// Creates a stream table that is maintained at once.
fn create(session: &mut Session, schema: &str, name: &str, query: &str) -> Outcome {
    session.run(&StreamTable::new(schema, name).immediate_creation(query))
}

/// The stream table is its query, from outside and by its own audit.
fn assert_exact(session: &mut Session, schema: &str, name: &str, query: &str) -> Outcome {
    let table = StreamTable::new(schema, name);
    oracle::assert_exact(session, &table.quoted(), query)?;
    table.assert_verified(session)
}

/// Runs these statements, after each of which every one of these stream tables must be its query.
fn exact_after_each(
    session: &mut Session,
    schema: &str,
    stream_tables: &[(&str, &str)],
    statements: &[&str],
) -> Outcome {
    for sql in statements {
        session.run(sql).during(sql)?;
        for (name, query) in stream_tables {
            assert_exact(session, schema, name, query).during(sql)?;
        }
    }
    Ok(())
}

/// The statement must fail in this way, and say what the reader needs to know.
fn assert_error(session: &mut Session, sql: &str, state: &str, parts: &[&str]) -> Outcome {
    let (found, text) = session.error(sql)?;
    match parts.iter().find(|part| !text.contains(**part)) {
        _ if found != state => Err(Failure::new(format!("expected {state}, got {text}"))),
        Some(part) => Err(Failure::new(format!("\"{part}\" is missing from: {text}"))),
        None => Ok(()),
    }
}
