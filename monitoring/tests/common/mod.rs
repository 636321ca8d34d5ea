//! A snapshot in which everything has a value.

use pgtrickle_monitoring::*;

pub fn snapshot() -> Snapshot {
    let stream_table = StreamTable {
        pgt_id: 7,
        relid: 16500,
        sources: vec![16400],
        status: "ERROR",
        schema: "public".into(),
        name: "order \"totals\"\n".into(),
        refreshes_total: 12,
        refresh_failures_total: 2,
        rows_changed_total: 345,
        consecutive_errors: 1,
        active: true,
        staleness_seconds: Some(1.5),
        stale: false,
        refresh_durations: Durations {
            bounds_seconds: &[0.001, 0.1, 10.0],
            counts: vec![3, 4, 0, 5],
            sum_seconds: 61.25,
        },
        differential_refreshes_total: 9,
        full_refreshes_total: 3,
        last_refresh: Some(LastRefresh { seconds_ago: 2.0, duration_seconds: 0.25, rows: 17 }),
        last_error: Some(LastError {
            seconds_ago: 9.0,
            sqlstate: "22012".into(),
            text: "division by zero. Secret row <b>".into(),
        }),
    };
    let database = |oid, name: &str| Database {
        oid,
        name: name.into(),
        capture: CaptureState::Running,
        scheduler_running: true,
        at_rest: None,
        lag: Some(Lag { p50_seconds: 0.1, p95_seconds: 0.2, p99_seconds: 0.3 }),
        wal_decoder: WalDecoder {
            pending_records: 11,
            pending_records_max: 99,
            queue_depth: 2,
            queue_bytes: 3000,
            records_total: 1 << 40,
            bytes_total: 77,
            transactions_total: 5,
        },
        slot: Some(Slot { name: format!("pg_trickle_{oid}"), retained_wal_bytes: 3 << 19, active: true }),
        frontier_holdback_seconds: 0.25,
        buffers: vec![Buffer {
            relid: 16400,
            source: "public.orders".into(),
            buffered: true,
            pending_rows: 8,
            bytes: 8192,
        }],
        stream_tables: vec![stream_table.clone()],
    };
    Snapshot {
        at_us: 1_000_000_000,
        version: "0.59.0",
        databases: vec![database(16384, "shop"), database(16385, "bank")],
        cdc_lag: Lag::of_seconds(&mut (1..=200).rev().map(|ms| f64::from(ms) / 1000.0).collect::<Vec<_>>()),
        template_cache: TemplateCache { hits: 100, misses: 4, evictions: 1 },
        pool: Pool { queue_depth: 1, busy: 1, workers: 2, idle_ms_total: 5000 },
        stream_tables_limit: 1024,
    }
}
