//! Every declared metric is shown, documented, and the only thing that alerts are about.

mod common;

use common::snapshot;
use pgtrickle_monitoring::metrics::{Kind, METRICS, PREFIX, markdown};
use pgtrickle_monitoring::{Lag, Snapshot, render};
use std::collections::BTreeSet;

#[test]
fn names_follow_the_conventions() {
    let mut seen = BTreeSet::new();
    for m in METRICS {
        assert!(seen.insert(m.name), "{} twice", m.name);
        assert_eq!(m.kind == Kind::Counter, m.name.ends_with("_total"), "{}", m.name);
        assert!(m.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", m.name);
        assert!(m.help.ends_with('.') && m.remedy.ends_with('.'), "{}", m.name);
    }
}

#[test]
fn every_metric_is_shown_with_its_kind() {
    let text = render(&snapshot()).expect("valid");
    for m in METRICS {
        let line = format!("# TYPE {PREFIX}{} {}\n", m.name, format!("{:?}", m.kind).to_lowercase());
        assert!(text.contains(&line), "{line}");
        assert!(text.contains(&format!("\n{PREFIX}{}", m.name)), "{} has no series", m.name);
    }
}

#[test]
fn values_and_labels() {
    let text = render(&snapshot()).expect("valid");
    let table = r#"name="order \"totals\"\n",db_oid="16384",db_name="shop""#;
    for line in [
        r#"info{version="0.59.0",db_oid="16384",db_name="shop"} 1"#.to_string(),
        format!(r#"refreshes_total{{schema="public",{table}}} 12"#),
        format!(r#"refresh_failures_total{{schema="public",{table}}} 2"#),
        format!(r#"staleness_seconds{{schema="public",{table}}} 1.5"#),
        format!(r#"refresh_duration_seconds_bucket{{schema="public",{table},le="0.001"}} 3"#),
        format!(r#"refresh_duration_seconds_bucket{{schema="public",{table},le="10"}} 7"#),
        format!(r#"refresh_duration_seconds_bucket{{schema="public",{table},le="+Inf"}} 12"#),
        format!(r#"refresh_duration_seconds_sum{{schema="public",{table}}} 61.25"#),
        format!(r#"refresh_duration_seconds_count{{schema="public",{table}}} 12"#),
        r#"differential_refreshes_total{pgt_id="7",db_oid="16384"} 9"#.into(),
        "wal_decoder_pending_records 22".into(),
        r#"wal_decoder_pending_records{db_name="bank"} 11"#.into(),
        r#"wal_decoder_records_total{db_name="shop"} 1099511627776"#.into(),
        r#"slot_health_retained_wal_mb{slot_name="pg_trickle_16385",db_name="bank"} 1.5"#.into(),
        r#"cdc_buffers_buffer_bytes{source="public.orders",db_name="shop"} 8192"#.into(),
        "cdc_lag_p50_seconds 0.1".into(),
        "cdc_lag_p95_seconds 0.19".into(),
        "cdc_lag_p99_seconds 0.198".into(),
        "template_cache_hits_total 100".into(),
    ] {
        assert!(text.contains(&format!("\n{PREFIX}{line}\n")), "{line}\n{text}");
    }
}

#[test]
fn without_values_nothing_is_invented() {
    let text = render(&Snapshot::default()).expect("valid");
    assert!(!text.contains("cdc_lag") && !text.contains("staleness"), "{text}");
    assert!(text.contains("pg_trickle_wal_decoder_pending_records 0\n"));
}

#[test]
fn percentiles_by_nearest_rank() {
    assert_eq!(Lag::of_seconds(&mut []), None);
    let one = Lag::of_seconds(&mut [3.0]).expect("a sample");
    assert_eq!((one.p50_seconds, one.p95_seconds, one.p99_seconds), (3.0, 3.0, 3.0));
    let two = Lag::of_seconds(&mut [9.0, 1.0]).expect("samples");
    assert_eq!((two.p50_seconds, two.p95_seconds), (1.0, 9.0));
}

/// Written by `cargo test -p pgtrickle-monitoring -- --ignored`.
#[test]
fn the_documentation_is_current() {
    let page = include_str!("../../docs/MONITORING.md");
    assert!(page.contains(&markdown()), "run `cargo test -p pgtrickle-monitoring -- --ignored`");
}

#[test]
#[ignore = "rewrites the table in docs/MONITORING.md"]
fn write_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/MONITORING.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once("<!-- metrics -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of metrics -->").unwrap();
    std::fs::write(path, format!("{before}<!-- metrics -->\n{}<!-- end of metrics -->{after}", markdown())).unwrap();
}

const DASHBOARD: &str = include_str!("../grafana/pg_trickle.json");
const ALERTS: &str = include_str!("../prometheus/pg_trickle_alerts.yml");
const QUERIES: &str = include_str!("../prometheus/pg_trickle_queries.yml");

/// The names that postgres_exporter makes of the query file: `<query>_<column>`.
fn exporter_metrics() -> BTreeSet<String> {
    let (mut names, mut query, mut column) = (BTreeSet::new(), "", "");
    for line in QUERIES.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|_| line.starts_with("pg_trickle_")) {
            query = name;
        } else if let Some(name) = line.strip_prefix("    - ").and_then(|l| l.strip_suffix(':')) {
            column = name;
        } else if line.contains("usage:") && !line.contains("LABEL") {
            names.insert(format!("{query}_{column}"));
        }
    }
    names
}

/// Every name that can be asked for.
fn known() -> BTreeSet<String> {
    let mut known: BTreeSet<String> = METRICS.iter().map(|m| format!("{PREFIX}{}", m.name)).collect();
    for suffix in ["sum", "count", "bucket"] {
        known.insert(format!("{PREFIX}refresh_duration_seconds_{suffix}"));
    }
    known.extend(exporter_metrics());
    known
}

/// The names of metrics in a query.
fn named(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.starts_with(PREFIX)).collect()
}

#[test]
fn dashboards_are_about_metrics_that_exist() {
    let known = known();
    let expressions: Vec<_> = DASHBOARD
        .lines()
        .filter_map(|l| l.trim().strip_prefix("\"expr\": \""))
        .map(|e| e.trim_end_matches(['"', ',']))
        .collect();
    assert!(expressions.len() > 10);
    assert_eq!(expressions.len(), DASHBOARD.matches("\"refId\"").count());
    for expression in expressions {
        assert!(!named(expression).is_empty(), "{expression}");
        for metric in named(expression) {
            assert!(known.contains(metric), "{metric} in {expression}");
        }
    }
}

#[test]
fn alerts_are_about_metrics_that_exist() {
    let known = known();
    let expressions: Vec<_> = ALERTS.lines().filter_map(|l| l.trim().strip_prefix("expr: ")).collect();
    assert_eq!(expressions.len(), ALERTS.matches("- alert: PgTrickle").count());
    for expression in expressions {
        assert!(!named(expression).is_empty(), "{expression}");
        for metric in named(expression) {
            assert!(known.contains(metric), "{metric} in {expression}");
        }
    }
}

#[test]
fn the_exporter_has_the_agreed_names() {
    let health =
        ["total_stream_tables", "error_tables", "stale_tables", "scheduler_running"].map(|c| format!("health_{c}"));
    let stats = [
        "is_populated",
        "staleness_seconds",
        "stale",
        "consecutive_errors",
        "avg_duration_ms",
        "total_refreshes",
        "successful_refreshes",
        "failed_refreshes",
        "rows_inserted_total",
        "rows_deleted_total",
    ]
    .map(|c| format!("table_stats_{c}"));
    let others = ["status_counts_stream_tables_total", "refresh_mode_differential_total", "refresh_mode_full_total"];
    let agreed: BTreeSet<_> =
        health.into_iter().chain(stats).chain(others.map(String::from)).map(|n| PREFIX.to_string() + &n).collect();
    assert_eq!(exporter_metrics(), agreed);
}
