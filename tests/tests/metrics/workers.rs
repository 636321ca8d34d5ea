//! Figures of the workers: capture, the slot, the queue of refreshes, who runs.

use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::{Outcome, metrics, wait};

use crate::bench::{Bench, assert, trial, within};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        trial(version, "capture", capture),
        trial(version, "slot", slot),
        trial(version, "queue", queue),
        trial(version, "who_runs", who_runs),
        trial(version, "listen_address", listen_address),
    ]
}

const DB: &[(&str, &str)] = &[("db_name", "postgres")];
const ST: &str = "CREATE TABLE t (a int, pad text); \
                  SELECT pgtrickle.create_stream_table('st', 'SELECT a, pad FROM t', schedule => '1h')";

/// While the buffer is locked, what arrives is pending; afterwards nothing is, and the peak is told once.
fn capture(version: PgVersion) -> Outcome {
    let mut b = Bench::start(version, &[], ST)?;
    b.session.each("INSERT INTO t VALUES (0, ''); SELECT pgtrickle.refresh_stream_table('st')")?;
    b.becomes("wal_decoder_pending_records", DB, 0.0)?;
    let totals = |b: &Bench| -> Outcome<Vec<f64>> {
        let value = |what| b.value(&format!("wal_decoder_{what}_total"), DB);
        Ok(vec![value("records")?, value("transactions")?, value("bytes")?])
    };
    let before = totals(&b)?;
    let relid = b.session.text("SELECT 't'::regclass::oid")?;
    let mut locker = b.server.session()?;
    locker.each(&format!("BEGIN; LOCK TABLE pgtrickle_changes.changes_{relid} IN ACCESS EXCLUSIVE MODE"))?;
    locker.each(&format!("LOCK TABLE pgtrickle_changes.changes_{relid}_0, pgtrickle_changes.changes_{relid}_1"))?;
    b.session.each("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i")?;
    b.becomes("wal_decoder_pending_records", DB, 3000.0)?;
    let scrape = b.scrape()?;
    let all =
        scrape.samples().iter().find(|s| s.name == "pg_trickle_wal_decoder_pending_records" && s.labels.is_empty());
    assert(all.is_some_and(|s| s.value == 3000.0), "the sum over all databases")?;
    within("queue", scrape.value("pg_trickle_wal_decoder_queue_depth", DB)?, &(10.0..=200.0))?;
    within("queue", scrape.value("pg_trickle_wal_decoder_queue_bytes", DB)?, &(1e6..=1e7))?;
    locker.each("ROLLBACK")?;
    b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    for gauge in ["pending_records", "queue_depth", "queue_bytes"] {
        b.becomes(&format!("wal_decoder_{gauge}"), DB, 0.0)?;
    }
    let after = totals(&b)?;
    within("records", after[0] - before[0], &(3000.0..=3000.0))?;
    within("transactions", after[1] - before[1], &(1.0..=1.0))?;
    within("bytes", after[2] - before[2], &(3e6..=4e6))?;
    peak_is_told_once(&mut b)
}

fn peak_is_told_once(b: &mut Bench) -> Outcome {
    b.scrape()?;
    b.becomes("wal_decoder_pending_records_max", DB, 0.0)?;
    b.session.each(
        "INSERT INTO t SELECT i, '' FROM generate_series(1, 100) i; SELECT pgtrickle.refresh_stream_table('st')",
    )?;
    metrics::get(b.port, "/health")?;
    within("peak", b.value("wal_decoder_pending_records_max", DB)?, &(100.0..=100.0))?;
    within("peak", b.value("wal_decoder_pending_records_max", DB)?, &(0.0..=0.0))?;
    // An UPDATE is a deletion and an insertion.
    let before = b.value("wal_decoder_records_total", DB)?;
    b.session.each("UPDATE t SET pad = 'y' WHERE a = 1 AND pad = ''; SELECT pgtrickle.refresh_stream_table('st')")?;
    within("records", b.value("wal_decoder_records_total", DB)? - before, &(2.0..=2.0))
}

/// An open transaction holds the frontier and the slot's WAL back.
fn slot(version: PgVersion) -> Outcome {
    let mut b = Bench::start(version, &[], ST)?;
    b.becomes("slot_health_active", DB, 1.0)?;
    let mut open = b.server.session()?;
    open.each("BEGIN; INSERT INTO t VALUES (1, '')")?;
    b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    b.session
        .each("SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 20)")?;
    b.session.each("CHECKPOINT; SELECT pgtrickle.refresh_stream_table('st')")?;
    let retained = b.reaches("slot_health_retained_wal_mb", DB, 19.0..=40.0)?;
    let sql = b.session.text("SELECT round(retained_wal_bytes / 1048576.0, 3) FROM pgtrickle.slot_health()")?;
    within("by SQL", sql.parse().unwrap_or(f64::NAN), &(retained - 2.0..=retained + 2.0))?;
    b.reaches("frontier_holdback_seconds", DB, 2.0..=60.0)?;
    open.each("COMMIT")?;
    b.becomes("frontier_holdback_seconds", DB, 0.0)?;
    wait::retry("the slot advances", wait::PATIENCE, || {
        b.session.each("INSERT INTO t VALUES (2, ''); SELECT pgtrickle.refresh_stream_table('st'); CHECKPOINT")?;
        within("retained", b.value("slot_health_retained_wal_mb", DB)?, &(0.0..=10.0))
    })
}

/// Three refreshes wait behind one that is blocked and has the only worker of the pool; while it is, nobody is idle.
fn queue(version: PgVersion) -> Outcome {
    let mut tables = String::from(
        "CREATE FUNCTION gate(a int) RETURNS int IMMUTABLE LANGUAGE sql SET lock_timeout = 0 AS \
         'SELECT a FROM pg_advisory_xact_lock_shared(42)'; ",
    );
    for i in 0..4 {
        let column = if i == 0 { "gate(a) AS a" } else { "a" };
        tables += &format!(
            "CREATE TABLE t{i} (a int); \
             SELECT pgtrickle.create_stream_table('st{i}', 'SELECT {column} FROM t{i}', schedule => '0s'); "
        );
    }
    let mut b = Bench::start(version, &[("pg_trickle.max_dynamic_refresh_workers", "1")], &tables)?;
    let idle = b.value("worker_idle_ms_total", &[])?;
    std::thread::sleep(Duration::from_secs(4));
    let now = b.value("worker_idle_ms_total", &[])?;
    within("idle", now - idle, &(2000.0..=6000.0))?;
    b.session.each("SELECT pgtrickle.drain()")?;
    b.session.each(
        "INSERT INTO t0 VALUES (1); INSERT INTO t1 VALUES (1); INSERT INTO t2 VALUES (1); INSERT INTO t3 VALUES (1)",
    )?;
    let mut locker = b.server.session()?;
    locker.each("BEGIN; SELECT pg_advisory_xact_lock(42)")?;
    b.session.each("SELECT pgtrickle.resume_all()")?;
    b.becomes("parallel_queue_depth", &[], 3.0)?;
    b.becomes("parallel_workers_busy", &[], 1.0)?;
    b.becomes("parallel_workers", &[], 1.0)?;
    let idle = b.value("worker_idle_ms_total", &[])?;
    std::thread::sleep(Duration::from_secs(1));
    within("idle", b.value("worker_idle_ms_total", &[])? - idle, &(0.0..=0.0))?;
    locker.each("ROLLBACK")?;
    b.becomes("parallel_queue_depth", &[], 0.0)?;
    b.becomes("parallel_workers_busy", &[], 0.0)?;
    wait::until("all are refreshed", wait::PATIENCE, || b.session.holds("SELECT count(*) = 1 FROM st3"))
}

/// Names in pg_stat_activity, and what is said when a worker is missing.
fn who_runs(version: PgVersion) -> Outcome {
    let mut b = Bench::start(version, &[], ST)?;
    for role in ["launcher", "scheduler", "wal_decoder", "apply"] {
        let sql = format!(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = application_name AND backend_type = 'pg_trickle_{role}'"
        );
        wait::until(role, wait::PATIENCE, || b.session.holds(&sql))?;
    }
    let version = b.session.text("SELECT pgtrickle.version()")?;
    let oid = b.session.text("SELECT oid FROM pg_database WHERE datname = 'postgres'")?;
    b.becomes("info", &[("version", &version), ("db_oid", &oid), ("db_name", "postgres")], 1.0)?;
    b.becomes("scheduler_running", DB, 1.0)?;
    wait::until("healthy", wait::PATIENCE, || Ok(metrics::get(b.port, "/health").is_ok()))?;
    // The launcher waits longer each time.
    wait::until("the scheduler is missed", wait::PATIENCE, || {
        b.terminate("pg_trickle_scheduler")?;
        let (head, body) = metrics::ask(b.port, "/health")?;
        Ok(head.starts_with("HTTP/1.1 503") && body.contains(r#""check":"scheduler""#))
    })?;
    b.becomes("scheduler_running", DB, 1.0)?;
    wait::until("healthy again", wait::PATIENCE, || Ok(metrics::get(b.port, "/health").is_ok()))?;
    launcher_starts_anew(&mut b)
}

/// A launcher that starts anew leaves nobody behind who does the same work twice.
fn launcher_starts_anew(b: &mut Bench) -> Outcome {
    let launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_trickle_launcher'";
    let before = b.session.text(launcher)?;
    b.terminate("pg_trickle_launcher")?;
    wait::retry("another launcher", wait::PATIENCE, || assert(b.session.text(launcher)? != before, "the same one"))?;
    wait::until("healthy with it", wait::PATIENCE, || Ok(metrics::get(b.port, "/health").is_ok()))?;
    b.session.each("INSERT INTO t VALUES (1, ''); SELECT pgtrickle.refresh_stream_table('st')")?;
    for role in ["scheduler", "wal_decoder", "apply"] {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_trickle_{role}'");
        let number = b.session.number(&sql)?;
        assert(number == 1, format!("{number} of {role}"))?;
    }
    assert(metrics::get(b.port, "/health").is_ok(), "not healthy any more")
}

/// Loopback unless told otherwise, and the setting is followed while the server runs.
fn listen_address(version: PgVersion) -> Outcome {
    let mut b = Bench::start(version, &[], "SELECT 1")?;
    let elsewhere = |port| std::net::TcpStream::connect(("127.0.0.2", port)).is_ok();
    assert(!elsewhere(b.port), "listens on more than 127.0.0.1")?;
    b.set("pg_trickle.metrics_listen_address", "127.0.0.2")?;
    wait::until("it moves", wait::PATIENCE, || Ok(elsewhere(b.port)))?;
    assert(metrics::get(b.port, "/metrics").is_err(), "still listens on 127.0.0.1")?;
    b.set("pg_trickle.metrics_port", "0")?;
    wait::until("it goes", wait::PATIENCE, || Ok(!elsewhere(b.port)))
}
