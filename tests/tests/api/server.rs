//! Servers that are not set up as they must be, metrics and alerts, several databases, coming and going.

use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::metrics::{self, Scrape};
use pgtrickle_tests::server::{Server, Shutdown};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::suite;
use pgtrickle_tests::{Failure, Outcome, wait};

use crate::{assert_error, assert_text};

const CREATE: &str = "SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')";

pub fn trials(version: PgVersion) -> Vec<Trial> {
    let trial = |name, test: fn(PgVersion) -> Outcome| suite::trial(version, name, move || test(version));
    vec![
        trial("wal_level_too_low", wal_level),
        trial("not_preloaded", not_preloaded),
        trial("plugin_not_allowed", plugin_not_allowed),
        trial("replica_identity_is_refused", replica_identity_refused),
        trial("no_free_slot", no_free_slot),
        trial("no_free_worker", no_free_worker),
        trial("metrics", metrics_are_served),
        trial("pending_alert", pending_alert),
        trial("several_databases", several_databases),
        trial("extension_comes_and_goes", extension_comes_and_goes),
        trial("extension_in_one_transaction", extension_in_one_transaction),
        trial("restored_copy", restored_copy),
        trial("idle_workers_sleep", idle_workers_sleep),
    ]
}

fn health(session: &mut Session, check: &str) -> Outcome<(String, String)> {
    let rows =
        session.rows(&format!("SELECT severity, detail FROM pgtrickle.health_check() WHERE check_name = '{check}'"))?;
    match rows.into_iter().next() {
        Some(mut row) => Ok((row[0].take().unwrap_or_default(), row[1].take().unwrap_or_default())),
        None => Err(Failure::new(format!("health_check has no row {check}"))),
    }
}

fn assert_unwell(session: &mut Session, check: &str, advice: &str) -> Outcome {
    let (severity, detail) = health(session, check)?;
    if severity != "OK" && detail.contains(advice) {
        return Ok(());
    }
    Err(Failure::new(format!("{check} is {severity}: {detail}")))
}

fn wal_level(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[("wal_level", "replica"), ("max_wal_senders", "0")])?;
    let mut session = server.session()?;
    session.each("CREATE TABLE t (a int)")?;
    assert_error(&mut session, CREATE, "55000", &["wal_level", "hint"])?;
    assert_unwell(&mut session, "wal_level", "wal_level = logical")
}

fn not_preloaded(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[("shared_preload_libraries", "''")])?;
    let mut session = server.session()?;
    session.each("CREATE TABLE t (a int)")?;
    assert_error(&mut session, CREATE, "55000", &["shared_preload_libraries", "hint"])?;
    assert_unwell(&mut session, "shared_preload_libraries", "shared_preload_libraries")
}

/// Our own capture does not depend on the setting; who makes slots by hand is told.
fn plugin_not_allowed(version: PgVersion) -> Outcome {
    if !version.restricts_plugins()? {
        return Ok(());
    }
    let server = Server::start(version, &[("output_plugin_libraries", "'pgoutput'")])?;
    let mut session = server.session()?;
    session.each(&format!("CREATE TABLE t (a int); {CREATE}; INSERT INTO t VALUES (1)"))?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT a FROM st", "1")?;
    let (severity, detail) = health(&mut session, "output_plugin_libraries")?;
    match severity == "OK" && detail.contains("add pg_trickle to output_plugin_libraries") {
        true => Ok(()),
        false => Err(Failure::new(format!("{severity}: {detail}"))),
    }
}

fn replica_identity_refused(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[("pg_trickle.manage_replica_identity", "off")])?;
    let mut session = server.session()?;
    session.each("CREATE TABLE t (a int PRIMARY KEY)")?;
    assert_error(&mut session, CREATE, "55000", &["REPLICA IDENTITY", "hint"])?;
    session.each("ALTER TABLE t REPLICA IDENTITY FULL")?;
    session.each(CREATE)
}

fn no_free_slot(version: PgVersion) -> Outcome {
    let server = Server::start_bare(version, &[("max_replication_slots", "1")])?;
    let mut session = server.session()?;
    session.each(
        "SELECT pg_create_physical_replication_slot('taken'); CREATE EXTENSION pg_trickle; CREATE TABLE t (a int)",
    )?;
    let _ = session.try_run(CREATE);
    wait::until("health_check tells", wait::PATIENCE, || {
        Ok(assert_unwell(&mut session, "capture", "max_replication_slots").is_ok())
    })?;
    // Once there is room everything comes by itself.
    session.each("SELECT pg_drop_replication_slot('taken')")?;
    wait::retry("a stream table", wait::PATIENCE, || {
        session
            .each("SELECT pgtrickle.create_stream_table_if_not_exists('st', 'SELECT a FROM t', schedule => '1h')")?;
        session.each("SELECT pgtrickle.refresh_stream_table('st')")
    })
}

fn no_free_worker(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[("max_worker_processes", "2"), ("max_parallel_workers", "0")])?;
    let mut session = server.session()?;
    wait::until("health_check tells", wait::PATIENCE, || {
        let told = "SELECT count(*) > 0 FROM pgtrickle.health_check() WHERE severity = 'ERROR' AND detail LIKE '%max_worker_processes%'";
        session.holds(told)
    })
}

fn metrics_are_served(version: PgVersion) -> Outcome {
    let port = metrics::free_port()?;
    let server = Server::start(version, &[("pg_trickle.metrics_port", &port.to_string())])?;
    let mut session = server.session()?;
    session.each(&format!("CREATE TABLE t (a int); {CREATE}; INSERT INTO t SELECT generate_series(1, 1000)"))?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    let scrape = wait::retry("a scrape with figures", wait::PATIENCE, || {
        let scrape = Scrape::fetch(port)?;
        match scrape.sum("pg_trickle_wal_decoder_records_total") {
            Some(records) if records >= 1000.0 => Ok(scrape),
            other => Err(Failure::new(format!("pg_trickle_wal_decoder_records_total is {other:?}"))),
        }
    })?;
    // Idle: nothing pends, and that must be said.
    for name in ["wal_decoder_pending_records", "wal_decoder_queue_depth", "wal_decoder_queue_bytes"] {
        let found = scrape.sum(&format!("pg_trickle_{name}"));
        if found != Some(0.0) {
            return Err(Failure::new(format!("{name} is {found:?} when idle")));
        }
    }
    metrics::get(port, "/elsewhere").err().map(drop).ok_or_else(|| Failure::new("any path is answered"))
}

/// Once per crossing, as WARNING in the log and as NOTIFY.
fn pending_alert(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[("pg_trickle.pending_records_alert_threshold", "500")])?;
    let mut session = server.session()?;
    session.each(&format!("CREATE TABLE t (a int, pad text); {CREATE}"))?;
    let mut listener = server.session()?;
    listener.each("LISTEN pg_trickle_alert")?;
    // A long transaction arrives in many frames, of which most must wait.
    session.each("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 400000) i")?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    wait::until("the alert", wait::PATIENCE, || {
        use postgres::fallible_iterator::FallibleIterator;
        let mut notifications = listener.client().notifications();
        let mut pending = notifications.timeout_iter(Duration::from_millis(100));
        while let Some(notification) = pending.next()? {
            if notification.payload().contains("pending_records_warning") {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    let log = server.log();
    if log.contains("WARNING") && log.contains("captured records wait") {
        Ok(())
    } else {
        Err(Failure::new("no WARNING in the log"))
    }
}

fn several_databases(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[])?;
    server.session()?.each("CREATE DATABASE second")?;
    let mut sessions = [server.session()?, server.session_in("second")?];
    sessions[1].each("CREATE EXTENSION pg_trickle")?;
    for session in &mut sessions {
        session.each(&format!("CREATE TABLE t (a int); {CREATE}"))?;
    }
    for value in 1..=3 {
        for session in &mut sessions {
            session.each(&format!("INSERT INTO t VALUES ({value})"))?;
            session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
            assert_text(session, "SELECT count(*) FROM st", &value.to_string())?;
        }
    }
    Ok(())
}

fn extension_comes_and_goes(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[])?;
    let mut session = server.session()?;
    for round in 1..=3 {
        session.each(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (a int); {CREATE}; INSERT INTO t VALUES ({round})"
        ))?;
        session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
        assert_text(&mut session, "SELECT a FROM st", &round.to_string())?;
        session.each("SET client_min_messages = error; DROP EXTENSION pg_trickle CASCADE; DROP TABLE IF EXISTS st")?;
        let slots = "SELECT count(*) = 0 FROM pg_replication_slots WHERE plugin = 'pg_trickle'";
        wait::until("the slot goes away", wait::PATIENCE, || session.holds(slots))?;
        assert_text(&mut session, "SELECT relreplident FROM pg_class WHERE oid = 't'::regclass", "d")?;
        session.each("CREATE EXTENSION pg_trickle")?;
    }
    Ok(())
}

fn extension_in_one_transaction(version: PgVersion) -> Outcome {
    let server = Server::start_bare(version, &[])?;
    let mut session = server.session()?;
    session.each("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session.each(&format!("BEGIN; CREATE EXTENSION pg_trickle; {CREATE}; COMMIT; INSERT INTO t VALUES (2)"))?;
    wait::retry("refreshing", wait::PATIENCE, || session.each("SELECT pgtrickle.refresh_stream_table('st')"))?;
    assert_text(&mut session, "SELECT count(*) FROM st", "2")
}

/// A copy of the data directory has the catalog and the buffers but not the slot's position: it must start anew.
fn restored_copy(version: PgVersion) -> Outcome {
    let server = Server::start(version, &[])?;
    let mut session = server.session()?;
    session.each(&format!("CREATE TABLE t (a int); {CREATE}; INSERT INTO t VALUES (1)"))?;
    session.each("SELECT pgtrickle.refresh_stream_table('st'); INSERT INTO t VALUES (2)")?;
    drop(session);
    server.stop_with(Shutdown::Fast)?;
    // Slots are not part of a base backup.
    pgtrickle_tests::install::run(
        std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("rm -rf '{}'/pg_replslot/*", server.data_dir().display())),
    )?;
    server.launch()?;
    let mut session = server.session()?;
    session.each("INSERT INTO t VALUES (3)")?;
    wait::retry("refreshing", wait::PATIENCE, || session.each("SELECT pgtrickle.refresh_stream_table('st')"))?;
    assert_text(&mut session, "SELECT string_agg(a::text, ',' ORDER BY a) FROM st", "1,2,3")?;
    assert_text(&mut session, "SELECT missing + extra FROM pgtrickle.verify_stream_table('st')", "0")
}

/// Workers wake when there is something to do, not to look whether there is. Databases without the extension are there, too.
fn idle_workers_sleep(version: PgVersion) -> Outcome {
    const WATCHED: Duration = Duration::from_secs(3);
    /// A worker that polls every ten milliseconds sleeps 300 times in this time.
    const MOST_SLEEPS: u64 = 150;
    let server = Server::start(version, &[])?;
    let mut session = server.session()?;
    session.each(&format!("CREATE DATABASE bare; CREATE TABLE t (a int); {CREATE}"))?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    let workers =
        session.rows("SELECT pid::text, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'pg\\_trickle%'")?;
    let sleeps = || workers.iter().map(|row| voluntary_switches(row[0].as_deref())).collect::<Outcome<Vec<u64>>>();
    // The first look at the other databases is over.
    std::thread::sleep(WATCHED);
    let before = sleeps()?;
    std::thread::sleep(WATCHED);
    for ((row, before), after) in workers.iter().zip(before).zip(sleeps()?) {
        if after - before > MOST_SLEEPS {
            return Err(Failure::new(format!("{:?} slept {} times in {WATCHED:?}", row[1], after - before)));
        }
    }
    Ok(())
}

fn voluntary_switches(pid: Option<&str>) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.unwrap_or_default()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).ok_or_else(|| Failure::new("no count of context switches"))
}
