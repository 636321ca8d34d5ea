//! Which test drives which metric to a known value and reads it back. A metric that is declared and has no driver is an error, as is
//! one that is not declared, or a driver that does not name it.

use std::collections::BTreeSet;

use libtest_mimic::Trial;
use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::{Outcome, suite};

use crate::bench::assert;

/// A metric, the file of its driver, and the test's name.
const DRIVERS: &[(&str, &str, &str)] = &[
    ("info", "workers.rs", "who_runs"),
    ("refreshes_total", "tables.rs", "refreshes"),
    ("refresh_failures_total", "tables.rs", "failures"),
    ("rows_changed_total", "tables.rs", "refreshes"),
    ("consecutive_errors", "tables.rs", "failures"),
    ("active", "tables.rs", "refreshes"),
    ("staleness_seconds", "tables.rs", "staleness"),
    ("stale", "tables.rs", "staleness"),
    ("refresh_duration_seconds", "tables.rs", "refreshes"),
    ("differential_refreshes_total", "tables.rs", "refreshes"),
    ("full_refreshes_total", "tables.rs", "refreshes"),
    ("cdc_lag_p50_seconds", "tables.rs", "lag"),
    ("cdc_lag_p95_seconds", "tables.rs", "lag"),
    ("cdc_lag_p99_seconds", "tables.rs", "lag"),
    ("wal_decoder_pending_records", "workers.rs", "capture"),
    ("wal_decoder_pending_records_max", "workers.rs", "peak_is_told_once"),
    ("wal_decoder_queue_depth", "workers.rs", "capture"),
    ("wal_decoder_queue_bytes", "workers.rs", "capture"),
    ("wal_decoder_records_total", "workers.rs", "capture"),
    ("wal_decoder_bytes_total", "workers.rs", "capture"),
    ("wal_decoder_transactions_total", "workers.rs", "capture"),
    ("parallel_queue_depth", "workers.rs", "queue"),
    ("parallel_workers", "workers.rs", "queue"),
    ("parallel_workers_busy", "workers.rs", "queue"),
    ("worker_idle_ms_total", "workers.rs", "queue"),
    ("scheduler_running", "workers.rs", "who_runs"),
    ("cdc_buffers_pending_rows", "tables.rs", "buffers"),
    ("cdc_buffers_buffer_bytes", "tables.rs", "buffers"),
    ("slot_health_retained_wal_mb", "workers.rs", "slot"),
    ("slot_health_active", "health.rs", "of_the_slot"),
    ("frontier_holdback_seconds", "workers.rs", "slot"),
    ("template_cache_hits_total", "tables.rs", "program_cache"),
    ("template_cache_misses_total", "tables.rs", "program_cache"),
    ("template_cache_evictions_total", "tables.rs", "program_cache"),
];

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![suite::trial(version, "every_metric_is_driven", every_metric_is_driven)]
}

fn every_metric_is_driven() -> Outcome {
    let page = std::fs::read_to_string(install::root().join("docs/MONITORING.md"))?;
    let declared: BTreeSet<&str> = page.lines().filter_map(documented).collect();
    let driven: BTreeSet<&str> = DRIVERS.iter().map(|(metric, ..)| *metric).collect();
    assert(driven.len() == DRIVERS.len(), "a metric is listed twice")?;
    assert(declared == driven, format!("not on both sides: {:?}", declared.symmetric_difference(&driven)))?;
    for (metric, file, test) in DRIVERS {
        let path = install::root().join("tests/tests/metrics").join(file);
        let text = std::fs::read_to_string(&path)?;
        let driver = text.split("\nfn ").find(|function| function.split('(').next() == Some(test));
        let names = |function: &str| names(function, metric);
        assert(driver.is_some_and(names), format!("{file}: {test} does not name {metric}"))?;
    }
    Ok(())
}

/// The page's table is made of what is declared.
fn documented(line: &str) -> Option<&str> {
    line.strip_prefix("| `pg_trickle_")?.split_once("` | ").map(|(name, _)| name)
}

/// Whether a test asks for the metric, be it in parts: `format!("cdc_lag_{percentile}_seconds")` for `["p50", …]`.
fn names(function: &str, metric: &str) -> bool {
    let inserted = function.split("format!(\"").skip(1).filter_map(|rest| {
        let (before, rest) = rest.split_once('{')?;
        let after = rest.split_once('}')?.1.split('"').next()?;
        let part = metric.strip_prefix(before.trim_start_matches("pg_trickle_"))?.strip_suffix(after)?;
        (!part.is_empty()).then_some(part)
    });
    let suffixed = |name: &str| {
        ["", "_sum", "_count"]
            .iter()
            .any(|end| function.contains(&format!("\"{name}{end}\"")) || function.contains(&format!("_{name}{end}\"")))
    };
    suffixed(metric) || inserted.into_iter().any(|part| function.contains(&format!("\"{part}\"")))
}
