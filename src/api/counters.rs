//! What shared memory counts, as rows; the functions and views of `sql/look.sql` stand on these.

#![allow(clippy::type_complexity, reason = "what SQL functions return is told in full")]

use crate::catalog;
use crate::shmem::{self, DbShared};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

fn timestamp(at: &AtomicI64) -> Option<TimestampWithTimeZone> {
    let at = at.load(Relaxed);
    (at != 0).then(|| TimestampWithTimeZone::try_from(at).ok()).flatten()
}

/// Counters of this database's stream tables since the server started; empty unless pg_trickle is preloaded.
#[pg_extern]
fn _stream_table_counters() -> TableIterator<
    'static,
    (
        name!(pgt_id, i64),
        name!(current_at, Option<TimestampWithTimeZone>),
        name!(stale_at, Option<TimestampWithTimeZone>),
        name!(differential, i64),
        name!(full_refreshes, i64),
        name!(failures, i64),
        name!(rows_changed, i64),
        name!(total_ms, f64),
        name!(last_ms, f64),
        name!(last_refresh_at, Option<TimestampWithTimeZone>),
    ),
> {
    let dboid = pgtrickle_pg::spi::my_database_id();
    let all = if shmem::available() { shmem::shared().stream_tables.as_slice() } else { &[] };
    let mine = all.iter().filter(|s| s.pgt_id.load(Acquire) != 0 && s.dboid.load(Acquire) == dboid);
    let rows: Vec<_> = mine
        .map(|s| {
            (
                s.pgt_id.load(Acquire),
                timestamp(&s.fresh_until),
                timestamp(&s.stale_at),
                s.differential_refreshes.load(Relaxed) as i64,
                s.full_refreshes.load(Relaxed) as i64,
                s.failures.load(Relaxed) as i64,
                s.rows_changed.load(Relaxed) as i64,
                s.duration_sum_us.load(Relaxed) as f64 / 1000.0,
                s.last_duration_us.load(Relaxed) as f64 / 1000.0,
                timestamp(&s.refreshed_at),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// One counter or gauge of a database's workers: name, how to read it, its unit, what it is.
type Counter = (&'static str, fn(&'static DbShared) -> u64, &'static str, &'static str);

const COUNTERS: &[Counter] = &[
    ("records_total", |db| db.records_total.load(Relaxed), "records", "change records received from the decoder"),
    (
        "transactions_total",
        |db| db.transactions_total.load(Relaxed),
        "transactions",
        "transactions received from the decoder",
    ),
    ("bytes_total", |db| db.bytes_total.load(Relaxed), "bytes", "changes received from the decoder, in bytes"),
    (
        "pending_records",
        |db| db.pending_records.load(Relaxed),
        "records",
        "records received and not yet in change buffers",
    ),
    ("queue_depth", |db| db.queue_depth.load(Relaxed), "frames", "frames that wait to be applied"),
    ("queue_bytes", |db| db.queue_bytes.load(Relaxed), "bytes", "bytes of the frames that wait to be applied"),
    ("slot_retained_bytes", |db| db.slot_retained_bytes.load(Relaxed), "bytes", "WAL kept for the replication slot"),
    ("holdback_us", |db| db.holdback_us.load(Relaxed), "µs", "time for which the oldest writing transaction is open"),
    ("jobs_queued", |db| db.jobs_queued(), "jobs", "jobs that wait for a worker of the pool"),
    ("jobs_running", |db| db.jobs_running.load(Relaxed), "workers", "workers that refresh now"),
    ("rounds", |db| db.rounds_total.load(Relaxed), "rounds", "snapshots that the refreshes of a tick shared"),
    ("round_refreshes", |db| db.round_refreshes_total.load(Relaxed), "refreshes", "refreshes under a shared snapshot"),
    ("barriers", |db| db.barriers_total.load(Relaxed), "waits", "waits of refreshes for capture"),
    ("worker_idle_ms", |db| db.idle_us.load(Relaxed) / 1000, "ms", "time that refresh workers had nothing to do"),
    ("health_cycles", |db| db.health_cycles.load(Relaxed), "looks", "health cycles: looks at what has changed"),
    ("cache_hits", |db| db.cache_hits.load(Relaxed), "programs", "refresh programs found in the cache"),
    ("cache_misses", |db| db.cache_misses.load(Relaxed), "programs", "refresh programs that had to be made"),
    ("cache_evictions", |db| db.cache_evictions.load(Relaxed), "programs", "refresh programs dropped to make room"),
];

/// What the workers of this database have counted since the server started.
#[pg_extern]
fn reliability_counters()
-> TableIterator<'static, (name!(name, String), name!(value, i64), name!(unit, String), name!(description, String))> {
    let db = shmem::available().then(shmem::my_db).flatten();
    let rows: Vec<_> = db
        .map(|db| {
            COUNTERS
                .iter()
                .map(|(name, read, unit, what)| ((*name).into(), read(db) as i64, (*unit).into(), (*what).into()))
                .collect()
        })
        .unwrap_or_default();
    TableIterator::new(rows)
}

/// How old changes were when refreshes made them visible, over the last 15 minutes: samples, and percentiles in seconds.
#[pg_extern]
fn _lag() -> TableIterator<
    'static,
    (
        name!(samples, i64),
        name!(p50_seconds, Option<f64>),
        name!(p95_seconds, Option<f64>),
        name!(p99_seconds, Option<f64>),
    ),
> {
    let db = shmem::available().then(shmem::my_db).flatten();
    let mut lags: Vec<f64> = db.map(|db| db.recent_lags(pgtrickle_pg::worker::now_us()).collect()).unwrap_or_default();
    let samples = lags.len() as i64;
    let lag = pgtrickle_monitoring::Lag::of_seconds(&mut lags);
    TableIterator::once((samples, lag.map(|l| l.p50_seconds), lag.map(|l| l.p95_seconds), lag.map(|l| l.p99_seconds)))
}

/// How many seconds old the data of a stream table is: the time since it was last known to show everything that was
/// committed. NULL before its first fill.
#[pg_extern]
fn get_staleness(name: &str) -> Option<f64> {
    let st = crate::error::or_raise(catalog::by_name(name));
    let known = st
        .counters()
        .map(|s| s.fresh_until.load(Relaxed))
        .filter(|&at| at != 0)
        .map(|at| (pgtrickle_pg::worker::now_us() - at).max(0) as f64 / 1e6);
    match (known, st.age_seconds) {
        (Some(known), Some(age)) => Some(known.min(age)),
        (known, age) => known.or(age),
    }
}

/// What is being filled or recomputed at this moment, by whom, and which step of how many.
#[pg_extern]
fn _progress() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(relid, pg_sys::Oid),
        name!(phase, String),
        name!(step, i32),
        name!(steps, i32),
        name!(rows, i64),
        name!(started_at, Option<TimestampWithTimeZone>),
    ),
> {
    let dboid = pgtrickle_pg::spi::my_database_id();
    let all = if shmem::available() { shmem::shared().progress.as_slice() } else { &[] };
    let rows: Vec<_> = all
        .iter()
        .filter(|p| p.dboid.load(Relaxed) == dboid && pgtrickle_pg::worker::is_backend(p.pid.load(Acquire)))
        .map(|p| {
            (
                p.pid.load(Acquire),
                pg_sys::Oid::from(p.relid.load(Relaxed)),
                shmem::load_text(&p.phase),
                p.step.load(Relaxed) as i32,
                p.steps.load(Relaxed) as i32,
                p.rows.load(Relaxed) as i64,
                timestamp(&p.started_at),
            )
        })
        .collect();
    TableIterator::new(rows)
}
