//! `health_check()`: each condition is produced, told with its remedy, and no longer told when it is over. What a server that is
//! not set up says is in `tests/api/server.rs`, what a restored database says in `tests/restore/`.

use std::net::TcpListener;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::send_signal;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, metrics, wait};

use crate::bench::{Bench, assert, trial};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        trial(version, "health_of_stream_tables", of_stream_tables),
        trial(version, "health_of_what_is_stale", of_what_is_stale),
        trial(version, "health_of_capture", of_capture),
        trial(version, "health_of_the_slot", of_the_slot),
        trial(version, "health_of_the_server", of_the_server),
        trial(version, "health_when_no_place_is_left", no_place_is_left),
        trial(version, "health_when_workers_are_short", workers_are_short),
    ]
}

/// Waits until the check's row is of this severity and says this; a check without a row is OK.
fn tells(session: &mut Session, check: &str, severity: &str, part: &str) -> Outcome {
    wait::retry(&format!("{check} is {severity}"), wait::PATIENCE * 2, || {
        let sql = format!("SELECT severity, detail FROM pgtrickle.health_check() WHERE check_name = '{check}'");
        let mut found = String::from("OK");
        for row in session.rows(&sql)? {
            found = row.into_iter().flatten().collect::<Vec<_>>().join(" ");
        }
        match found.starts_with(severity) && found.contains(part) {
            true => Ok(()),
            false => Err(Failure::new(format!("{check} is {found}"))),
        }
    })
}

fn of_stream_tables(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.max_consecutive_errors", "1000")],
        "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE TABLE u (a int); CREATE TABLE calm (a int); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('below', 'SELECT a FROM calm'); \
         SELECT pgtrickle.create_stream_table('hourly', 'SELECT count(*) AS n FROM below', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / a AS x FROM u', schedule => '0s')",
    )?;
    let session = &mut b.session;
    tells(session, "stream_tables", "OK", "4 of 4")?;
    tells(session, "sources", "OK", "3 of 3")?;

    session.each("SELECT pgtrickle.pause_stream_table('hourly')")?;
    tells(session, "stream table hourly", "WARNING", "resume_stream_table('hourly')")?;
    session.each("SELECT pgtrickle.resume_stream_table('hourly')")?;
    tells(session, "stream table hourly", "OK", "")?;

    session.each("INSERT INTO u VALUES (0)")?;
    tells(session, "stream table bad", "ERROR", "tried again with growing pauses. The last error: division by zero")?;
    session.each("ALTER SYSTEM SET pg_trickle.max_consecutive_errors = 1; SELECT pg_reload_conf()")?;
    tells(session, "stream table bad", "ERROR", "then SELECT pgtrickle.resume_stream_table('bad')")?;
    assert(
        session
            .holds("SELECT severity = 'ERROR' AND advice LIKE '%bad%' AND failing = 1 FROM pgtrickle.quick_health")?,
        "quick_health",
    )?;
    session.each(
        "DELETE FROM u; SELECT pgtrickle.reinitialize_stream_table('bad'); SELECT pgtrickle.resume_stream_table('bad')",
    )?;
    tells(session, "stream table bad", "OK", "")?;

    session.each("ALTER TABLE t REPLICA IDENTITY DEFAULT")?;
    tells(session, "source t", "ERROR", "ALTER TABLE t REPLICA IDENTITY FULL")?;
    session.each("INSERT INTO t VALUES (1, 1); UPDATE t SET b = 2")?;
    tells(session, "source t", "ERROR", "Capture stopped")?;
    tells(session, "stream table st", "WARNING", "SELECT pgtrickle.repair_stream_table('st')")?;
    session.each("ALTER TABLE t REPLICA IDENTITY FULL; SELECT pgtrickle.repair_stream_table('st')")?;
    tells(session, "source t", "OK", "")?;
    tells(session, "stream table st", "OK", "")
}

/// Only data that is older than its schedule allows.
fn of_what_is_stale(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[],
        "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE TABLE calm (a int); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('below', 'SELECT a FROM calm'); \
         SELECT pgtrickle.create_stream_table('hourly', 'SELECT count(*) AS n FROM below', schedule => '1h')",
    )?;
    let session = &mut b.session;
    tells(session, "stream_tables", "OK", "3 of 3")?;
    session.each("ALTER SYSTEM SET pg_trickle.enabled = off; SELECT pg_reload_conf()")?;
    tells(session, "refreshing", "WARNING", "pg_trickle.enabled = on")?;
    tells(session, "stream table st", "WARNING", "more than schedule '1s' allows")?;
    tells(session, "stream table hourly", "OK", "")?;
    tells(session, "stream table below", "OK", "")?;
    session.each("SET session_replication_role = replica; DELETE FROM hourly; RESET session_replication_role")?;
    session.each("SELECT pgtrickle.verify_stream_table('hourly')")?;
    tells(session, "stream table hourly", "WARNING", "next refresh recomputes it")?;
    session.each("SELECT pgtrickle.refresh_stream_table('hourly')")?;
    tells(session, "stream table hourly", "OK", "")?;
    assert(
        session.holds("SELECT stale = 1 FROM pgtrickle.health_summary()")?,
        "health_summary counts other stale ones",
    )?;
    session.each("ALTER SYSTEM SET pg_trickle.enabled = on; SELECT pg_reload_conf()")?;
    tells(session, "stream table st", "OK", "")?;
    tells(session, "refreshing", "OK", "")?;
    // A decoder that hangs must not look like a source that does not change.
    let decoder =
        session.number("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_trickle_wal_decoder'")? as u32;
    send_signal(decoder, "STOP")?;
    session.each("INSERT INTO t VALUES (2, 2)")?;
    let told = tells(session, "stream table st", "WARNING", "does capture lag");
    send_signal(decoder, "CONT")?;
    told?;
    tells(session, "stream table st", "OK", "")?;
    session.each("SELECT pgtrickle.drain()")?;
    tells(session, "refreshing", "WARNING", "until pgtrickle.resume_all()")?;
    let told = metrics::get(b.port, "/health")?;
    assert(told.contains("drained until pgtrickle.resume_all()"), told)?;
    session.each("SELECT pgtrickle.resume_all()")?;
    tells(session, "refreshing", "OK", "")
}

/// What waits: records, changes, transactions that do not end.
fn of_capture(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.pending_records_alert_threshold", "100"), ("pg_trickle.buffer_alert_threshold", "1000")],
        "CREATE TABLE t (a int, pad text); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h'); \
         SELECT pgtrickle.refresh_stream_table('st')",
    )?;
    // These have to grow old for a minute.
    let mut open = b.server.session()?;
    open.each("SET application_name = 'forgetful'; BEGIN; INSERT INTO t VALUES (1)")?;
    let pid = open.backend_pid()?;
    let mut prepared = b.server.session()?;
    prepared.each("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'left behind'")?;

    let session = &mut b.session;
    let relid = session.text("SELECT 't'::regclass::oid")?;
    let mut locker = b.server.session()?;
    locker
        .each(&format!("BEGIN; LOCK TABLE pgtrickle_changes.changes_{relid}_0, pgtrickle_changes.changes_{relid}_1"))?;
    session.each("INSERT INTO t SELECT generate_series(1, 2000)")?;
    tells(session, "pending_records", "WARNING", "2000 captured records wait")?;
    locker.each("ROLLBACK")?;
    tells(session, "pending_records", "OK", "0 waiting")?;
    tells(session, "change_buffers", "WARNING", "2000 changes of public.t wait")?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    tells(session, "change_buffers", "OK", "")?;

    tells(session, "open_transactions", "WARNING", &format!("pg_terminate_backend({pid})"))?;
    open.each("COMMIT")?;
    tells(session, "open_transactions", "WARNING", "ROLLBACK PREPARED")?;
    session.each("COMMIT PREPARED 'left behind'")?;
    tells(session, "open_transactions", "OK", "")
}

/// A slot that lags, that is about to be lost, that is lost, that cannot be made.
fn of_the_slot(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[
            ("max_replication_slots", "1"),
            ("pg_trickle.slot_lag_warning_threshold_mb", "16"),
            ("pg_trickle.slot_lag_critical_threshold_mb", "32"),
        ],
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h'); CHECKPOINT",
    )?;
    tells(&mut b.session, "replication_slot", "OK", "retained")?;
    let mut open = b.server.session()?;
    open.each("BEGIN; INSERT INTO t VALUES (1)")?;
    let wal = "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 18)";
    b.session.each(wal)?;
    tells(&mut b.session, "replication_slot", "WARNING", "MB of WAL are retained")?;
    b.session.each(wal)?;
    tells(&mut b.session, "replication_slot", "ERROR", "MB of WAL are retained")?;
    b.set("max_slot_wal_keep_size", "1MB")?;
    tells(&mut b.session, "replication_slot", "ERROR", "unreserved")?;
    b.set("max_slot_wal_keep_size", "-1")?;
    tells(&mut b.session, "replication_slot", "ERROR", "MB of WAL are retained")?;

    // The new slot has to wait for the transaction that is open.
    b.session.each("CREATE TABLE u (a int)")?;
    lose_slot(&mut b, "SELECT 1")?;
    tells(&mut b.session, "capture", "WARNING", "waits for every transaction that was open")?;
    open.each("COMMIT")?;
    tells(&mut b.session, "capture", "OK", "running")?;

    lose_slot(&mut b, "SELECT pg_create_physical_replication_slot('taken')")?;
    tells(&mut b.session, "replication_slot", "ERROR", "does not exist")?;
    tells(&mut b.session, "capture", "ERROR", "raise max_replication_slots")?;
    b.becomes("slot_health_active", &[("db_name", "postgres")], 0.0)?;
    b.session.each("SELECT pg_drop_replication_slot('taken')")?;
    tells(&mut b.session, "capture", "OK", "running")?;
    tells(&mut b.session, "replication_slot", "OK", "retained")?;
    b.becomes("slot_health_active", &[("db_name", "postgres")], 1.0)?;
    b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert(
        b.session.holds("SELECT (missing, extra) = (0, 0) FROM pgtrickle.verify_stream_table('st')")?,
        "st is not exact",
    )
}

/// Drops the slot as soon as nobody uses it, and does something else before it can be made anew.
fn lose_slot(b: &mut Bench, at_once: &str) -> Outcome {
    wait::until("the slot is dropped", wait::PATIENCE, || {
        b.terminate("pg_trickle_wal_decoder")?;
        let slot = "(SELECT 'pg_trickle_' || oid FROM pg_database WHERE datname = 'postgres')";
        Ok(b.session.try_run(&format!("SELECT pg_drop_replication_slot({slot}); {at_once}")).is_ok())
    })
}

fn of_the_server(version: PgVersion) -> Outcome {
    let mut b = Bench::start(version, &[], "SELECT 1")?;
    tells(&mut b.session, "version", "OK", "library and SQL objects")?;
    b.session.each("UPDATE pg_extension SET extversion = '0.58.0' WHERE extname = 'pg_trickle'")?;
    tells(&mut b.session, "version", "ERROR", "ALTER EXTENSION pg_trickle UPDATE")?;
    b.session.each("UPDATE pg_extension SET extversion = pgtrickle.version() WHERE extname = 'pg_trickle'")?;

    tells(&mut b.session, "metrics_endpoint", "OK", &b.port.to_string())?;
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    b.set("pg_trickle.metrics_port", &taken.local_addr()?.port().to_string())?;
    tells(&mut b.session, "metrics_endpoint", "WARNING", "set pg_trickle.metrics_port")?;
    b.set("pg_trickle.metrics_port", &b.port.to_string())?;
    tells(&mut b.session, "metrics_endpoint", "OK", &b.port.to_string())?;

    // The launcher waits longer each time.
    wait::until("the scheduler is missed", wait::PATIENCE, || {
        b.terminate("pg_trickle_scheduler")?;
        b.session.holds("SELECT severity = 'ERROR' FROM pgtrickle.health_check() WHERE check_name = 'scheduler'")
    })?;
    tells(&mut b.session, "scheduler", "OK", "running")?;
    tells(&mut b.session, "shared_memory", "OK", "places in use")?;
    // What is worst comes first.
    b.session.holds(
        "SELECT array_agg(severity) = array_agg(severity ORDER BY array_position('{ERROR,WARNING,OK}', severity)) FROM pgtrickle.health_check()",
    )
    .and_then(|sorted| assert(sorted, "not in the order of severity"))
}

/// More stream tables than there are places for counters: all of them work, those beyond have no metrics, and that is told.
fn no_place_is_left(version: PgVersion) -> Outcome {
    let mut b =
        Bench::start(version, &[("pg_trickle.enabled", "off")], "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    b.session.each(
        "SELECT count(pgtrickle.create_stream_table('st' || i, 'SELECT a FROM t', schedule => '24h', initialize => false)) \
           FROM generate_series(1, 1024) i",
    )?;
    tells(&mut b.session, "stream table st7", "WARNING", "Not filled yet")?;
    b.session.each("SELECT pgtrickle.create_stream_table('beyond', 'SELECT a FROM t', schedule => '24h')")?;
    tells(&mut b.session, "shared_memory", "WARNING", "Further stream tables work, but have no metrics")?;
    let health = metrics::get(b.port, "/health")?;
    assert(health.contains("all 1024 places"), health)?;
    b.session.each("INSERT INTO t VALUES (2); SELECT pgtrickle.refresh_stream_table('beyond')")?;
    assert(b.session.number("SELECT sum(a) FROM beyond")? == 3, "beyond is not refreshed")?;
    // Who goes makes room.
    b.session.each("SELECT pgtrickle.drop_stream_table('st1'); SELECT pgtrickle.drop_stream_table('st2')")?;
    tells(&mut b.session, "shared_memory", "OK", "1023 of 1024 stream tables")?;
    b.becomes("active", &[("name", "beyond")], 1.0)
}

/// Pools make room for what is needed more, and that is told.
fn workers_are_short(version: PgVersion) -> Outcome {
    let mut tables = String::new();
    for i in 0..4 {
        tables += &format!(
            "CREATE TABLE t{i} (a int); SELECT pgtrickle.create_stream_table('st{i}', 'SELECT a FROM t{i}', schedule => '0s'); "
        );
    }
    // PostgreSQL's launcher of subscriptions, ours, three for the database, a dispatcher and a pool of two.
    let mut b = Bench::start(version, &[("max_worker_processes", "8"), ("max_parallel_workers", "0")], &tables)?;
    tells(&mut b.session, "workers", "OK", "all that are needed")?;
    wait::until("the pool is there", wait::PATIENCE, || {
        for i in 0..4 {
            b.session.each(&format!("INSERT INTO t{i} VALUES (1)"))?;
        }
        Ok(b.value("parallel_workers", &[])? == 2.0)
    })?;
    b.session.each("CREATE DATABASE other")?;
    b.server.session_in("other")?.each("CREATE EXTENSION pg_trickle")?;
    tells(&mut b.session, "workers", "WARNING", "preflight() counts what is needed")?;
    let counted =
        "SELECT severity || ' ' || detail FROM pgtrickle.preflight() WHERE check_name = 'max_worker_processes'";
    let preflight = b.session.text(counted)?;
    assert(preflight.starts_with("WARNING Raise max_worker_processes from 8 to "), preflight)
}
