//! Alerts of a real Prometheus that scrapes a real server: each fires when its trouble is made, and clears when it is over.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::{Failure, Outcome, metrics, server, wait};

use crate::bench::{Bench, assert, trial};
use crate::prometheus::{file, program};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        trial(version, "alerts_of_stream_tables", of_stream_tables),
        trial(version, "alerts_of_lag", of_lag),
        trial(version, "alerts_of_capture", of_capture),
        trial(version, "alerts_of_workers", of_workers),
    ]
}

/// What the shipped rules wait for, and what they wait for here: seconds instead of minutes, megabytes instead of gigabytes.
const IMPATIENCE: &[(&str, &str)] = &[
    ("staleness_seconds > 300", "staleness_seconds > 6"),
    ("buffer_bytes > 1073741824", "buffer_bytes > 4000000"),
    ("pending_rows > 500000", "pending_rows > 5000"),
    ("retained_wal_mb > 200", "retained_wal_mb > 30"),
    ("retained_wal_mb > 1024", "retained_wal_mb > 60"),
    ("[10m]) > 30", "[10m]) > 1"),
    ("[10m]))) > 10", "[10m]))) > 1"),
    ("lag_p99_seconds > 60", "lag_p99_seconds > 3"),
    ("[10m]", "[10s]"),
    ("[5m]", "[5s]"),
];

/// The rules as they are shipped but for their patience.
fn impatient(rules: &str) -> Outcome<String> {
    let mut rules: String =
        rules.lines().filter(|line| !line.trim().starts_with("for: ")).map(|line| format!("{line}\n")).collect();
    for (shipped, here) in IMPATIENCE {
        assert(rules.contains(shipped), format!("the rules do not say {shipped}"))?;
        rules = rules.replace(shipped, here);
    }
    Ok(rules)
}

/// A Prometheus of our own, ended when dropped.
struct Prometheus {
    process: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    /// Scrapes the port five times a second, with the rules as they are shipped but for their patience.
    fn start(scraped: u16) -> Outcome<Prometheus> {
        let dir = server::fresh_dir("prometheus")?;
        let port = metrics::free_port()?;
        std::fs::write(dir.join("alerts.yml"), impatient(&std::fs::read_to_string(file("pg_trickle_alerts.yml"))?)?)?;
        let config = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms, scrape_timeout: 200ms }}\n\
             rule_files: [alerts.yml]\n\
             scrape_configs: [{{ job_name: pg_trickle, static_configs: [{{ targets: ['127.0.0.1:{scraped}'] }}] }}]\n"
        );
        std::fs::write(dir.join("prometheus.yml"), config)?;
        let log = std::fs::File::create(dir.join("log"))?;
        let process = program("prometheus")
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(Path::new(&dir))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| Failure::new(format!("prometheus (scripts/setup.sh installs it): {e}")))?;
        let prometheus = Prometheus { process, port, dir };
        wait::until("prometheus scrapes", wait::PATIENCE, || Ok(prometheus.holds("up==1").unwrap_or(false)))?;
        Ok(prometheus)
    }

    /// Whether the query has any result.
    fn holds(&self, query: &str) -> Outcome<bool> {
        let escaped: String = query
            .bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect();
        let answer = metrics::get(self.port, &format!("/api/v1/query?query={escaped}"))?;
        assert(answer.contains(r#""status":"success""#), &answer)?;
        Ok(answer.contains(r#""value":"#))
    }

    fn fires(&self, alert: &str) -> Outcome<bool> {
        self.holds(&format!(r#"ALERTS{{alertname="PgTrickle{alert}",alertstate="firing"}}"#))
    }

    /// Makes the trouble, and waits until the alert fires that did not before.
    fn until_fires(&self, alert: &str, trouble: impl FnOnce() -> Outcome) -> Outcome {
        assert(!self.fires(alert)?, format!("{alert} fires before there is a reason"))?;
        trouble()?;
        wait::until(&format!("{alert} fires"), wait::PATIENCE, || self.fires(alert))
    }

    fn until_clears(&self, alert: &str) -> Outcome {
        wait::until(&format!("{alert} clears"), wait::PATIENCE, || Ok(!self.fires(alert)?))
    }
}

fn of_stream_tables(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.max_consecutive_errors", "5")],
        "CREATE TABLE t (a int); CREATE TABLE u (a int); CREATE TABLE v (a int); \
         CREATE FUNCTION slow(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 FROM pg_sleep(2)'; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / a AS x FROM u', schedule => '0s'); \
         SELECT pgtrickle.create_stream_table('slow', 'SELECT slow(a) AS a FROM v', schedule => '1s')",
    )?;
    let prometheus = Prometheus::start(b.port)?;
    let mut locker = b.server.session()?;
    prometheus
        .until_fires("TableStale", || locker.each("BEGIN; INSERT INTO t VALUES (1); COMMIT; BEGIN; LOCK TABLE t"))?;
    locker.each("ROLLBACK")?;
    prometheus.until_clears("TableStale")?;

    assert(!prometheus.fires("TableSuspended")?, "TableSuspended fires before there is a reason")?;
    prometheus.until_fires("ConsecutiveErrors", || b.session.each("INSERT INTO u VALUES (0)"))?;
    wait::until("TableSuspended fires", wait::PATIENCE, || prometheus.fires("TableSuspended"))?;
    b.session.each(
        "DELETE FROM u; SELECT pgtrickle.reinitialize_stream_table('bad'); SELECT pgtrickle.resume_stream_table('bad')",
    )?;
    prometheus.until_clears("TableSuspended")?;
    prometheus.until_clears("ConsecutiveErrors")?;

    assert(!prometheus.fires("RefreshP99High")?, "RefreshP99High fires before there is a reason")?;
    prometheus.until_fires("HighRefreshDuration", || b.session.each("INSERT INTO v VALUES (1)"))?;
    wait::until("RefreshP99High fires", wait::PATIENCE, || prometheus.fires("RefreshP99High"))?;
    b.session.each("DELETE FROM v")?;
    prometheus.until_clears("HighRefreshDuration")?;
    prometheus.until_clears("RefreshP99High")
}

/// A change that shows late; then as many as are remembered that do not.
fn of_lag(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[],
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')",
    )?;
    let prometheus = Prometheus::start(b.port)?;
    prometheus.until_fires("CdcLagHigh", || {
        b.session.each("INSERT INTO t VALUES (1); SELECT pg_sleep(4); SELECT pgtrickle.refresh_stream_table('st')")
    })?;
    for _ in 0..256 {
        b.session.each("INSERT INTO t VALUES (1); SELECT pgtrickle.refresh_stream_table('st')")?;
    }
    prometheus.until_clears("CdcLagHigh")
}

fn of_capture(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[],
        "CREATE TABLE t (a int, pad text); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, pad FROM t', schedule => '1h'); CHECKPOINT",
    )?;
    let prometheus = Prometheus::start(b.port)?;
    let relid = b.session.text("SELECT 't'::regclass::oid")?;
    let mut locker = b.server.session()?;
    locker
        .each(&format!("BEGIN; LOCK TABLE pgtrickle_changes.changes_{relid}_0, pgtrickle_changes.changes_{relid}_1"))?;
    prometheus.until_fires("WalDecoderPendingRecords", || {
        b.session.each("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i")
    })?;
    assert(!prometheus.fires("CdcBufferDepthHigh")?, "CdcBufferDepthHigh fires before there is a reason")?;
    assert(!prometheus.fires("CdcBufferLarge")?, "CdcBufferLarge fires before there is a reason")?;
    locker.each("ROLLBACK")?;
    prometheus.until_clears("WalDecoderPendingRecords")?;
    for alert in ["CdcBufferDepthHigh", "CdcBufferLarge"] {
        wait::until(alert, wait::PATIENCE, || prometheus.fires(alert))?;
    }
    b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    prometheus.until_clears("CdcBufferDepthHigh")?;
    // A segment is emptied when it is changed for the other, and nobody needs it any more.
    wait::until("CdcBufferLarge clears", wait::PATIENCE, || {
        b.session.each(
            "INSERT INTO t SELECT 1, 'x' FROM generate_series(1, 1000); SELECT pgtrickle.refresh_stream_table('st')",
        )?;
        Ok(!prometheus.fires("CdcBufferLarge")?)
    })?;

    let mut open = b.server.session()?;
    open.each("BEGIN; INSERT INTO t VALUES (1)")?;
    let wal = "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 35)";
    prometheus.until_fires("WalSlotLagHigh", || b.session.each(wal))?;
    prometheus.until_fires("WalSlotLagCritical", || b.session.each(wal))?;
    open.each("COMMIT")?;
    for alert in ["WalSlotLagCritical", "WalSlotLagHigh"] {
        wait::until(&format!("{alert} clears"), wait::PATIENCE, || {
            b.session.each("INSERT INTO t VALUES (2); SELECT pgtrickle.refresh_stream_table('st'); CHECKPOINT")?;
            Ok(!prometheus.fires(alert)?)
        })?;
    }
    Ok(())
}

fn of_workers(version: PgVersion) -> Outcome {
    let mut tables = String::new();
    for i in 0..8 {
        tables += &format!(
            "CREATE TABLE t{i} (a int); SELECT pgtrickle.create_stream_table('st{i}', 'SELECT a FROM t{i}', schedule => '0s'); "
        );
    }
    let mut b = Bench::start(version, &[], &tables)?;
    let prometheus = Prometheus::start(b.port)?;
    prometheus.until_clears("WorkerPoolSaturated")?;
    b.set("pg_trickle.enabled", "off")?;
    let insert: String = (0..8).map(|i| format!("INSERT INTO t{i} VALUES (1); ")).collect();
    b.session.each(&insert)?;
    let mut locker = b.server.session()?;
    locker.each("BEGIN; LOCK TABLE t0, t1, t2, t3, t4, t5, t6, t7")?;
    // Making all that was work, too.
    prometheus.until_clears("WorkerPoolSaturated")?;
    prometheus.until_fires("WorkerPoolSaturated", || b.set("pg_trickle.enabled", "on"))?;
    locker.each("ROLLBACK")?;
    prometheus.until_clears("WorkerPoolSaturated")?;

    wait::until("SchedulerDown fires", wait::PATIENCE, || {
        b.terminate("pg_trickle_scheduler")?;
        std::thread::sleep(Duration::from_millis(200));
        prometheus.fires("SchedulerDown")
    })?;
    prometheus.until_clears("SchedulerDown")
}
