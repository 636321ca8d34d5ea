//! The files of `monitoring/prometheus`: promtool's own tests, and every query.

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;
use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::{Outcome, wait};

use crate::bench::{Bench, assert, trial};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![trial(version, "promtool", promtool), trial(version, "exporter_queries", exporter_queries)]
}

pub fn file(name: &str) -> PathBuf {
    install::root().join("monitoring/prometheus").join(name)
}

/// A program of Debian's package `prometheus`, where `scripts/setup.sh` has put it.
pub fn program(name: &str) -> Command {
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
                // What is no label has to be a number.
                r#"usage: "GAUGE""# | r#"usage: "COUNTER""# => {
                    columns.last_mut().expect("a column").push_str("::float8");
                }
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
