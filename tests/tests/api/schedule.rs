//! Schedules: which there are, what 'calculated' means, and what is told when they cannot be kept.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::{Server, send_signal};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, suite, wait};

use crate::{assert_error, assert_text};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        suite::on_own_server(version, "cron", &[], cron),
        suite::on_own_server(version, "calculated", &[("pg_trickle.default_schedule_seconds", "3600")], calculated),
        suite::on_own_server(version, "falling_behind", &[("pg_trickle.auto_backoff", "off")], falling_behind),
        suite::on_own_server(version, "drained", &[], drained),
        suite::on_own_server(version, "auto_backoff", &[], auto_backoff),
        suite::on_own_server(version, "caught_up_once", &[], caught_up_once),
        suite::on_own_server(version, "changes_on_their_way", &[], on_their_way),
        suite::on_own_server(version, "idle_costs_no_queries", COUNTING, idle_costs_no_queries),
    ]
}

/// Counts the statements of all processes.
const COUNTING: &[(&str, &str)] =
    &[("shared_preload_libraries", "'pg_trickle, pg_stat_statements'"), ("pg_stat_statements.track", "all")];

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
    // With spaces that do not break.
    session.run("SELECT pgtrickle.alter_stream_table('hourly', schedule => E'0\\u00a03\\t* *  *')")?;
    let stored = "SELECT schedule FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'hourly'";
    assert_text(&mut session, stored, "0 3 * * *")?;
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

fn refreshes(session: &mut Session, name: &str) -> Outcome<i64> {
    session.number(&format!("SELECT refreshes FROM pgtrickle.pg_stat_stream_tables WHERE name = '{name}'"))
}

/// Refreshes that take as long as their interval come less often, unless the setting forbids it.
fn auto_backoff(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run(
        "CREATE TABLE t (a int);
         CREATE FUNCTION slow(n bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT n FROM pg_sleep(0.3)';
         SELECT pgtrickle.create_stream_table('st', 'SELECT slow(count(*)) AS n FROM t', schedule => '250ms')",
    )?;
    let in_seconds = |session: &mut Session, seconds: u64| -> Outcome<i64> {
        let (before, end) = (refreshes(session, "st")?, Instant::now() + Duration::from_secs(seconds));
        while Instant::now() < end {
            session.each("INSERT INTO t VALUES (1)")?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(refreshes(session, "st")? - before)
    };
    in_seconds(&mut session, 4)?;
    let stretched = in_seconds(&mut session, 8)?;
    session.each("ALTER SYSTEM SET pg_trickle.auto_backoff = off; SELECT pg_reload_conf()")?;
    in_seconds(&mut session, 4)?;
    let kept = in_seconds(&mut session, 8)?;
    match stretched {
        2..=6 if kept >= 8 => Ok(()),
        _ => Err(Failure::new(format!("{stretched} refreshes in 8 s with auto_backoff, {kept} without"))),
    }
}

/// However many times of a schedule have passed, there is one refresh for them.
fn caught_up_once(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '2s'); \
         SELECT pgtrickle.create_stream_table('by_cron', 'SELECT a FROM t', schedule => '*/2 * * * * *'); INSERT INTO t VALUES (1)",
    )?;
    wait::until("the first row", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM st, by_cron"))?;
    assert_text(&mut session, "SELECT pgtrickle.drain()", "t")?;
    let before = (refreshes(&mut session, "st")?, refreshes(&mut session, "by_cron")?);
    session.each("INSERT INTO t VALUES (2)")?;
    std::thread::sleep(Duration::from_secs(5));
    session.each("SELECT pgtrickle.resume_all()")?;
    wait::until("both have caught up", wait::PATIENCE, || session.holds("SELECT count(*) = 4 FROM st, by_cron"))?;
    std::thread::sleep(Duration::from_millis(500));
    let after = (refreshes(&mut session, "st")?, refreshes(&mut session, "by_cron")?);
    match (after.0 - before.0, after.1 - before.1) {
        (1, 1) => Ok(()),
        found => Err(Failure::new(format!("refreshes to catch up with three missed times: {found:?}"))),
    }
}

/// What was committed before it was due is not left for the next time, though capture has not told of it then.
fn on_their_way(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1s'); INSERT INTO t VALUES (1)",
    )?;
    wait::until("the first row", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM st"))?;
    // Once a day, and in three seconds.
    let due = session
        .text("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '3 s', 'YYYY-MM-DD HH24:MI:SS')")?;
    session.run(&format!(
        "SELECT pgtrickle.alter_stream_table('st', schedule => to_char('{due}'::timestamp, 'SS MI HH24 * * *'))"
    ))?;
    let decoder = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_trickle_wal_decoder'";
    let decoder = session.number(decoder)? as u32;
    send_signal(decoder, "STOP")?;
    session.run("INSERT INTO t VALUES (2)")?;
    let passed = format!("SELECT clock_timestamp() AT TIME ZONE 'UTC' > '{due}'::timestamp + interval '1 s'");
    wait::until("the time has passed", wait::PATIENCE, || session.holds(&passed))?;
    send_signal(decoder, "CONT")?;
    wait::until("the second row, today", wait::PATIENCE, || session.holds("SELECT count(*) = 2 FROM st"))
}

/// Forty stream tables are looked at five times a second each; only housekeeping, every two seconds, asks anything.
fn idle_costs_no_queries(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each("CREATE EXTENSION pg_stat_statements")?;
    for n in 0..40 {
        session.each(&format!(
            "CREATE TABLE IF NOT EXISTS t{} (a int); \
             SELECT pgtrickle.create_stream_table('st_{n}', 'SELECT a FROM t{}', schedule => '200ms')",
            n % 4,
            n % 4
        ))?;
    }
    let cycles = "SELECT value FROM pgtrickle.reliability_counters() WHERE name = 'health_cycles'";
    let created = session.number(cycles)?;
    wait::until("housekeeping has seen them all", wait::PATIENCE, || Ok(session.number(cycles)? >= created + 3))?;
    let before = session.number(cycles)?;
    session.each("SELECT pg_stat_statements_reset()")?;
    std::thread::sleep(Duration::from_secs(8));
    let calls = session.number(
        "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'",
    )?;
    let looks = session
        .number("SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE 'WITH readers AS%'")?;
    let cycles = session.number(cycles)? - before;
    if calls <= 8 * (cycles + 1) && looks <= cycles + 1 && cycles >= 2 {
        return Ok(());
    }
    let told =
        session.rows("SELECT calls::text, left(query, 60) FROM pg_stat_statements ORDER BY calls DESC LIMIT 5")?;
    Err(Failure::new(format!("{calls} statements, {looks} looks at buffers in {cycles} cycles; the most: {told:?}")))
}
