//! Schedules: which there are, what 'calculated' means, and what is told when they cannot be kept.

use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Failure, Outcome, suite, wait};

use crate::{assert_error, assert_text};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        suite::on_own_server(version, "cron", &[], cron),
        suite::on_own_server(version, "calculated", &[("pg_trickle.default_schedule_seconds", "3600")], calculated),
        suite::on_own_server(version, "falling_behind", &[("pg_trickle.auto_backoff", "off")], falling_behind),
        suite::on_own_server(version, "drained", &[], drained),
    ]
}

fn cron(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each("CREATE TABLE t (a int)")?;
    for (name, schedule) in [
        ("hourly", "@hourly"),
        ("often", "*/2 * * * * *"),
        ("weekly", "30 4 * * SUN"),
        ("wordy", "@ 1 hour 30 minutes 5 seconds"),
    ] {
        session.each(&format!(
            "SELECT pgtrickle.create_stream_table('{name}', 'SELECT a FROM t', schedule => '{schedule}')"
        ))?;
    }
    let refused =
        |text: &str| format!("SELECT pgtrickle.create_stream_table('x', 'SELECT a FROM t', schedule => '{text}')");
    assert_error(&mut session, &refused("61 * * * *"), "22023", &["61 * * * *", "cron expression", "hint"])?;
    assert_error(&mut session, &refused("@now"), "22023", &["@now", "hint"])?;
    for value in 1..=2 {
        session.each(&format!("INSERT INTO t VALUES ({value})"))?;
        wait::until("the next even second", wait::PATIENCE, || {
            session.holds(&format!("SELECT count(*) = {value} FROM often"))
        })?;
    }
    assert_text(&mut session, "SELECT count(*) FROM weekly, wordy", "0")?;
    session.each("SELECT pgtrickle.alter_stream_table('weekly', schedule => '* * * * * *')")?;
    wait::until("the next second", wait::PATIENCE, || session.holds("SELECT count(*) = 2 FROM weekly"))
}

/// As tight as the tightest reader needs; by itself as the setting says.
fn calculated(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('base', 'SELECT a FROM t'); \
         SELECT pgtrickle.create_stream_table('middle', 'SELECT a FROM base'); \
         SELECT pgtrickle.create_stream_table('slow', 'SELECT a FROM middle', schedule => '2h'); INSERT INTO t VALUES (1)",
    )?;
    std::thread::sleep(Duration::from_secs(3));
    assert_text(&mut session, "SELECT count(*) FROM base", "0")?;
    session.each("SELECT pgtrickle.create_stream_table('fast', 'SELECT a FROM middle', schedule => '1s')")?;
    wait::until("the fast reader", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM fast"))?;
    session.each("INSERT INTO t VALUES (2)")?;
    wait::until("the fast reader", wait::PATIENCE, || session.holds("SELECT count(*) = 2 FROM fast"))?;
    assert_text(&mut session, "SELECT count(*) FROM slow", "0")?;
    session.each("SELECT pgtrickle.create_stream_table('at_once', 'SELECT a FROM base', schedule => '0s'); INSERT INTO t VALUES (3)")?;
    wait::until("at once", wait::PATIENCE, || session.holds("SELECT count(*) = 3 FROM at_once"))?;
    session.each("DROP TABLE at_once; SELECT pgtrickle.pause_stream_table('fast')")?;
    session.each("INSERT INTO t VALUES (4)")?;
    std::thread::sleep(Duration::from_secs(3));
    assert_text(&mut session, "SELECT count(*) FROM base WHERE a = 4", "0")
}

fn falling_behind(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session
        .each("CREATE TABLE t (a int); INSERT INTO t VALUES (0); CREATE TABLE u (a int); INSERT INTO u VALUES (0)")?;
    session.run("CREATE FUNCTION slow(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN a; END $$")?;
    for source in ["t", "u"] {
        session.each(&format!("SELECT pgtrickle.create_stream_table('st_{source}', 'SELECT slow(a) AS a FROM {source}', schedule => '200ms')"))?;
    }
    wait::until("the event", wait::PATIENCE, || {
        session.each("UPDATE t SET a = a + 1; UPDATE u SET a = a + 1")?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(server.log().contains("falls behind its schedules"))
    })?;
    if server.log().matches("falls behind").count() > 2 {
        Err(Failure::new("it is told more than once a minute"))
    } else {
        Ok(())
    }
}

fn drained(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '0s')",
    )?;
    assert_text(&mut session, "SELECT pgtrickle.is_drained()", "f")?;
    assert_text(&mut session, "SELECT pgtrickle.drain(10)", "t")?;
    session.each("INSERT INTO t VALUES (1)")?;
    std::thread::sleep(Duration::from_secs(2));
    assert_text(&mut session, "SELECT count(*) FROM st", "0")?;
    assert_text(&mut session, "SELECT state || ' ' || action FROM pgtrickle.validate_recovery()", "FOLLOWING none")?;
    session.each("SELECT pgtrickle.resume_all()")?;
    wait::until("what was captured meanwhile", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM st"))?;
    session.each("CREATE ROLE nobody_much; SET ROLE nobody_much")?;
    assert_error(&mut session, "SELECT pgtrickle.drain()", "42501", &["drain"])
}
