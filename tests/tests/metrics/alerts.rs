//! Alerts by NOTIFY: each event once its condition holds, as JSON.

use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Outcome, wait};

use crate::bench::{Bench, assert, trial};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![trial(version, "events_of_refreshes", of_refreshes), trial(version, "events_of_backlogs", of_backlogs)]
}

/// Listens, and keeps what was heard.
struct Listener {
    session: Session,
    heard: Vec<String>,
}

impl Listener {
    fn new(b: &Bench) -> Outcome<Listener> {
        let mut session = b.server.session()?;
        session.each("LISTEN pg_trickle_alert")?;
        Ok(Listener { session, heard: Vec::new() })
    }

    fn listen(&mut self) -> Outcome {
        use postgres::fallible_iterator::FallibleIterator;
        let mut notifications = self.session.client().notifications();
        let mut pending = notifications.timeout_iter(Duration::from_millis(100));
        while let Some(notification) = pending.next()? {
            self.heard.push(notification.payload().to_owned());
        }
        Ok(())
    }

    /// Waits for an event with these parts, and returns it; PostgreSQL must take it for JSON.
    fn event(&mut self, name: &str, parts: &[&str]) -> Outcome<String> {
        let event = format!(r#""event" : "{name}""#);
        let found = wait::poll(name, wait::PATIENCE, || {
            self.listen()?;
            let spaced = |payload: &str| payload.replace(r#""event":"#, r#""event" : "#).replace(r#" :  ""#, r#" : ""#);
            let fits =
                |payload: &&String| spaced(payload).contains(&event) && parts.iter().all(|p| payload.contains(p));
            Ok(self.heard.iter().find(fits).cloned())
        })?;
        let quoted = pgtrickle_tests::session::literal(&found);
        let named = self.session.text(&format!("SELECT {quoted}::json ->> 'event'"))?;
        assert(named == name, &found)?;
        Ok(found)
    }
}

fn of_refreshes(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.max_consecutive_errors", "2")],
        "CREATE TABLE t (a int); CREATE TABLE big (a int); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM big', schedule => '0s'); \
         SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / a AS x FROM t', schedule => '0s')",
    )?;
    let mut listener = Listener::new(&b)?;
    b.session.each("INSERT INTO big VALUES (1), (2)")?;
    listener.event("refresh_completed", &["\"st\"", "rows changed: 2"])?;
    b.session.each("INSERT INTO t VALUES (0)")?;
    listener.event("refresh_failed", &["\"bad\"", "SQLSTATE 22012"])?;
    listener.event("auto_suspended", &["\"bad\"", "SQLSTATE 22012"])?;
    b.session.each(
        "DELETE FROM t; SELECT pgtrickle.reinitialize_stream_table('bad'); SELECT pgtrickle.resume_stream_table('bad')",
    )?;
    listener.event("resumed", &["\"bad\""])?;
    // What was told of the stream table does not fit any more: somebody else has changed it.
    b.session.each(
        "SET session_replication_role = replica; DELETE FROM st; RESET session_replication_role; DELETE FROM big",
    )?;
    listener.event("reinitialize_needed", &["\"st\""])?;
    // Nothing is told twice.
    listener.listen()?;
    let suspended = listener.heard.iter().filter(|payload| payload.contains("auto_suspended")).count();
    assert(suspended == 1, format!("told {suspended} times"))
}

fn of_backlogs(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[
            ("pg_trickle.buffer_alert_threshold", "100"),
            ("pg_trickle.slot_lag_warning_threshold_mb", "16"),
            ("pg_trickle.max_consecutive_errors", "1000"),
        ],
        "CREATE TABLE t (a int); CREATE TABLE u (a int); CREATE TABLE v (a int); \
         CREATE FUNCTION slow(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 FROM pg_sleep(7)'; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / a AS x FROM u', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('a_slow', 'SELECT slow(a) AS a FROM v', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('z', 'SELECT a FROM v', schedule => '1s')",
    )?;
    let mut listener = Listener::new(&b)?;
    b.session.each("INSERT INTO t SELECT generate_series(1, 101)")?;
    listener.event("buffer_growth_warning", &["public.t", "101"])?;
    let told = "SELECT severity || detail LIKE 'WARNING101 changes of public.t%' FROM pgtrickle.health_check() WHERE check_name = 'change_buffers'";
    assert(b.session.holds(told)?, "health_check does not tell")?;
    b.session.each("INSERT INTO u VALUES (0)")?;
    listener.event("stale_data", &["\"bad\""])?;
    b.session.each("INSERT INTO v VALUES (1)")?;
    listener.event("scheduler_falling_behind", &[])?;
    b.session.each("BEGIN; INSERT INTO t VALUES (0)")?;
    let mut other = b.server.session()?;
    other
        .each("SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 20)")?;
    listener.event("slot_lag_warning", &["MB"]).map(drop)
}
