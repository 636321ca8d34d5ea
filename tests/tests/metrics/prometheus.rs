//! The files of `monitoring/prometheus` at work: promtool's own tests, every query, and alerts that fire and clear.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, metrics, server, wait};

use crate::bench::{Bench, assert, trial};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        trial(version, "promtool", promtool),
        trial(version, "exporter_queries", exporter_queries),
        trial(version, "alerts_fire_and_clear", alerts_fire_and_clear),
    ]
}

fn file(name: &str) -> PathBuf {
    install::root().join("monitoring/prometheus").join(name)
}

/// A program of Debian's package `prometheus`, where `scripts/setup.sh` has put it.
fn program(name: &str) -> Command {
    let cache = std::env::var_os("PGTRICKLE_CACHE").unwrap_or_else(|| "/var/cache/pg_trickle".into());
    Command::new(std::path::Path::new(&cache).join("prometheus").join(name))
}

fn promtool(_: PgVersion) -> Outcome {
    install::run(program("promtool").args(["check", "rules"]).arg(file("pg_trickle_alerts.yml")))?;
    install::run(program("promtool").args(["test", "rules"]).arg(file("pg_trickle_alerts_test.yml")))?;
    let (rules, tests) = (
        std::fs::read_to_string(file("pg_trickle_alerts.yml"))?,
        std::fs::read_to_string(file("pg_trickle_alerts_test.yml"))?,
    );
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: PgTrickle")) {
        assert(tests.contains(&format!("- name: {alert}\n")), format!("no test of {alert}"))?;
    }
    Ok(())
}

/// The queries of the file, by name.
fn queries(text: &str) -> Vec<(String, String, Vec<String>)> {
    let mut found: Vec<(String, String, Vec<String>)> = Vec::new();
    let mut in_query = false;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            found.push((name.to_owned(), String::new(), Vec::new()));
        } else if let Some((_, query, columns)) = found.last_mut() {
            match line.trim() {
                "query: |" => in_query = true,
                "metrics:" => in_query = false,
                _ if in_query => *query += &format!("{line}\n"),
                other => columns.extend(other.strip_prefix("- ").map(|column| column.trim_end_matches(':').to_owned())),
            }
        }
    }
    found
}

fn exporter_queries(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.max_consecutive_errors", "1")],
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / a AS x FROM t', schedule => '0s'); \
         INSERT INTO t VALUES (1), (0); SELECT pgtrickle.refresh_stream_table('st')",
    )?;
    wait::until("one is suspended", wait::PATIENCE, || {
        b.session.holds("SELECT count(*) = 1 FROM pgtrickle.pgt_stream_tables WHERE status = 'SUSPENDED'")
    })?;
    let text = std::fs::read_to_string(file("pg_trickle_queries.yml"))?;
    let all = queries(&text);
    assert(all.len() == 4, format!("{} queries", all.len()))?;
    for (name, query, columns) in &all {
        let list = columns.join(", ");
        let rows = b.session.rows(&format!("SELECT {list} FROM ({query}) AS q"))?;
        assert(!rows.is_empty(), format!("{name} has no rows"))?;
    }
    let mut value = |query: &str, column: &str, condition: &str| -> Outcome<String> {
        let text = &all.iter().find(|(name, ..)| name == &format!("pg_trickle_{query}")).expect("listed").1;
        b.session.text(&format!("SELECT {column} FROM ({text}) AS q WHERE {condition}"))
    };
    for (query, column, condition, expected) in [
        ("health", "total_stream_tables", "true", "2"),
        ("health", "error_tables", "true", "1"),
        ("health", "scheduler_running", "true", "1"),
        ("status_counts", "stream_tables_total", "status = 'SUSPENDED'", "1"),
        ("status_counts", "stream_tables_total", "status = 'PAUSED'", "0"),
        ("table_stats", "is_populated", "name = 'st'", "1"),
        ("table_stats", "rows_inserted_total", "name = 'st'", "2"),
        ("table_stats", "failed_refreshes", "name = 'bad'", "1"),
        ("table_stats", "consecutive_errors", "name = 'bad'", "1"),
        ("refresh_mode", "sum(differential_total)", "true", "1"),
    ] {
        let found = value(query, column, condition)?;
        assert(found == expected, format!("{query}.{column} is {found}, not {expected}"))?;
    }
    Ok(())
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
        std::fs::write(dir.join("alerts.yml"), impatient(&std::fs::read_to_string(file("pg_trickle_alerts.yml"))?))?;
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

    fn until_fires(&self, alert: &str, mut trouble: impl FnMut() -> Outcome) -> Outcome {
        assert(!self.fires(alert)?, format!("{alert} fires before there is a reason"))?;
        wait::until(&format!("{alert} fires"), wait::PATIENCE, || {
            trouble()?;
            std::thread::sleep(Duration::from_millis(200));
            self.fires(alert)
        })
    }

    fn until_clears(&self, alert: &str) -> Outcome {
        wait::until(&format!("{alert} clears"), wait::PATIENCE, || Ok(!self.fires(alert)?))
    }
}

/// The alerts at once instead of after minutes, and data stale after six seconds instead of 300.
fn impatient(rules: &str) -> String {
    let line = |line: &str| match line.trim().starts_with("for: ") {
        true => String::new(),
        false => line.replace("staleness_seconds > 300", "staleness_seconds > 6") + "\n",
    };
    rules.lines().map(line).collect()
}

fn alerts_fire_and_clear(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[("pg_trickle.max_consecutive_errors", "2")],
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h'); \
         SELECT pgtrickle.refresh_stream_table('st')",
    )?;
    let prometheus = Prometheus::start(b.port)?;
    b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    prometheus.until_clears("TableStale")?;
    prometheus.until_fires("TableStale", || Ok(()))?;
    b.session.each("SELECT pgtrickle.alter_stream_table('st', schedule => '1s')")?;
    prometheus.until_clears("TableStale")?;

    let relid = b.session.text("SELECT 't'::regclass::oid")?;
    let mut locker: Session = b.server.session()?;
    locker
        .each(&format!("BEGIN; LOCK TABLE pgtrickle_changes.changes_{relid}_0, pgtrickle_changes.changes_{relid}_1"))?;
    b.session.each("INSERT INTO t SELECT generate_series(1, 20000)")?;
    prometheus.until_fires("WalDecoderPendingRecords", || Ok(()))?;
    locker.each("ROLLBACK")?;
    prometheus.until_clears("WalDecoderPendingRecords")?;

    b.session.each("CREATE TABLE u (a int); SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / a AS x FROM u', schedule => '0s')")?;
    prometheus.until_clears("TableSuspended")?;
    let mut once = true;
    prometheus.until_fires("TableSuspended", || {
        if std::mem::take(&mut once) { b.session.each("INSERT INTO u VALUES (0)") } else { Ok(()) }
    })?;
    b.session.each(
        "DELETE FROM u; SELECT pgtrickle.reinitialize_stream_table('bad'); SELECT pgtrickle.resume_stream_table('bad')",
    )?;
    prometheus.until_clears("TableSuspended")?;

    prometheus.until_fires("SchedulerDown", || b.terminate("pg_trickle_scheduler"))?;
    prometheus.until_clears("SchedulerDown")
}
