//! The Prometheus endpoint: shared memory as the monitoring crate wants to see it, and the server's life in the launcher.
//!
//! [`snapshot`] runs on the server's own thread, where no PostgreSQL function may be called: it reads atomics and the
//! operating system's clock, nothing else.

use crate::error::sqlstate;
use crate::settings;
use crate::shmem::{self, CaptureState, DURATION_BOUNDS_S, DbShared, SourceShared, StreamTableShared};
use pgrx::prelude::*;
use pgtrickle_monitoring::{self as monitoring, Reading};
use pgtrickle_pg::worker;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds from 1970 to 2000, where PostgreSQL's clock starts.
const EPOCH_2000_S: u64 = 946_684_800;
/// After a failed start the endpoint is tried again at this interval.
const RETRY: Duration = Duration::from_secs(30);

/// The setting `status_page_details`, for the server's thread: settings belong to the main one.
static DETAILS: AtomicBool = AtomicBool::new(false);

/// The setting `enabled`, likewise.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// The endpoint as the settings want it.
#[derive(Default)]
pub struct Endpoint {
    server: Option<monitoring::Server>,
    wanted: (String, u16),
    failed_at: Option<Instant>,
}

impl Endpoint {
    /// Starts, stops or moves the server after the settings `metrics_port` and `metrics_listen_address`.
    pub fn tend(&mut self) {
        DETAILS.store(settings::STATUS_PAGE_DETAILS.get(), Relaxed);
        ENABLED.store(settings::ENABLED.get(), Relaxed);
        let wanted = (settings::metrics_listen_address(), settings::METRICS_PORT.get() as u16);
        let alive = self.server.as_ref().is_some_and(monitoring::Server::is_running);
        let same = wanted == self.wanted;
        if same && (alive || wanted.1 == 0 || self.failed_at.is_some_and(|at| at.elapsed() < RETRY)) {
            return;
        }
        self.server = None;
        self.failed_at = None;
        self.wanted = wanted;
        shmem::shared().endpoint_failed.store(false, Relaxed);
        if self.wanted.1 == 0 {
            return;
        }
        let address = (self.wanted.0.as_str(), self.wanted.1);
        let limits = monitoring::Limits { details: || DETAILS.load(Relaxed), ..monitoring::Limits::default() };
        match worker::with_signals_blocked(|| monitoring::Server::start(address, limits, snapshot, shmem::History)) {
            Ok(server) => self.server = Some(server),
            Err(error) => {
                self.failed_at = Some(Instant::now());
                shmem::shared().endpoint_failed.store(true, Relaxed);
                warning!(
                    "pg_trickle cannot serve metrics on {}:{}: {error}; see pg_trickle.metrics_port and metrics_listen_address",
                    self.wanted.0,
                    self.wanted.1
                );
            }
        }
    }
}

/// Microseconds since 2000-01-01, without PostgreSQL.
fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(EPOCH_2000_S)).as_micros() as i64
}

fn snapshot(reading: Reading) -> monitoring::Snapshot {
    let shared = shmem::shared();
    let now = now_us();
    let served: Vec<&'static DbShared> = shared.databases.iter().filter(|d| d.dboid.load(Acquire) != 0).collect();
    let mut lags: Vec<f64> = served.iter().flat_map(|db| db.recent_lags(now)).collect();
    let total = |counter: fn(&'static DbShared) -> u64| served.iter().map(|db| counter(db)).sum();
    monitoring::Snapshot {
        at_us: now,
        version: env!("CARGO_PKG_VERSION"),
        databases: served.iter().map(|db| database(db, now, reading)).collect(),
        cdc_lag: monitoring::Lag::of_seconds(&mut lags),
        template_cache: monitoring::TemplateCache {
            hits: total(|db| db.cache_hits.load(Relaxed)),
            misses: total(|db| db.cache_misses.load(Relaxed)),
            evictions: total(|db| db.cache_evictions.load(Relaxed)),
        },
        pool: monitoring::Pool {
            queue_depth: total(|db| db.jobs_queued()),
            busy: total(|db| db.jobs_running.load(Relaxed)),
            // Without a pool a database's scheduler is its one worker.
            workers: total(|db| (db.pool_workers() as u64).max(u64::from(db.scheduler_pid.load(Relaxed) != 0))),
            idle_ms_total: total(|db| db.idle_us.load(Relaxed)) / 1000,
        },
        stream_tables_limit: shmem::MAX_STREAM_TABLES as u64,
    }
}

fn database(db: &DbShared, now: i64, reading: Reading) -> monitoring::Database {
    let oid = db.dboid.load(Acquire);
    let mine = |place: &AtomicU32| place.load(Acquire) == oid;
    monitoring::Database {
        oid,
        name: shmem::load_text(&db.name),
        capture: match db.capture_state() {
            CaptureState::None => monitoring::CaptureState::None,
            CaptureState::Starting => monitoring::CaptureState::Starting,
            CaptureState::Running => monitoring::CaptureState::Running,
            CaptureState::Failing => monitoring::CaptureState::Failing,
        },
        scheduler_running: db.scheduler_pid.load(Relaxed) != 0,
        at_rest: match ENABLED.load(Relaxed) {
            false => Some("refreshing is turned off: pg_trickle.enabled"),
            true => db.draining.load(Relaxed).then_some("drained until pgtrickle.resume_all()"),
        },
        wal_decoder: wal_decoder(db, reading),
        slot: Some(monitoring::Slot {
            name: format!("pg_trickle_{oid}"),
            retained_wal_bytes: db.slot_retained_bytes.load(Relaxed),
            active: db.slot_active.load(Relaxed),
        }),
        frontier_holdback_seconds: db.holdback_us.load(Relaxed) as f64 / 1e6,
        lag: monitoring::Lag::of_seconds(&mut db.recent_lags(now).collect::<Vec<_>>()),
        buffers: shmem::shared().sources.iter().filter(|s| mine(&s.dboid)).map(buffer).collect(),
        stream_tables: shmem::shared()
            .stream_tables
            .iter()
            .filter(|st| st.pgt_id.load(Acquire) != 0 && mine(&st.dboid))
            .map(|st| stream_table(st, now))
            .collect(),
    }
}

fn wal_decoder(db: &DbShared, reading: Reading) -> monitoring::WalDecoder {
    let pending_records = db.pending_records.load(Relaxed);
    let peak = match reading {
        // The next scrape's peak starts from what is pending now.
        Reading::Scrape => db.pending_records_max.swap(pending_records, AcqRel),
        Reading::Look => db.pending_records_max.load(Relaxed),
    };
    monitoring::WalDecoder {
        pending_records,
        pending_records_max: peak.max(pending_records),
        queue_depth: db.queue_depth.load(Relaxed),
        queue_bytes: db.queue_bytes.load(Relaxed),
        records_total: db.records_total.load(Relaxed),
        bytes_total: db.bytes_total.load(Relaxed),
        transactions_total: db.transactions_total.load(Relaxed),
    }
}

fn buffer(source: &SourceShared) -> monitoring::Buffer {
    monitoring::Buffer {
        relid: source.relid.load(Acquire),
        source: shmem::load_text(&source.name),
        buffered: source.buffered.load(Relaxed),
        pending_rows: source.pending_rows.load(Relaxed),
        bytes: source.buffer_bytes.load(Relaxed),
    }
}

fn stream_table(st: &StreamTableShared, now: i64) -> monitoring::StreamTable {
    let since = |at: i64| (at != 0).then(|| (now - at).max(0) as f64 / 1e6);
    let (differential, full) = (st.differential_refreshes.load(Relaxed), st.full_refreshes.load(Relaxed));
    monitoring::StreamTable {
        pgt_id: st.pgt_id.load(Acquire),
        relid: st.relid.load(Relaxed),
        sources: st.sources.iter().map(|s| s.load(Relaxed)).filter(|&relid| relid != 0).collect(),
        schema: shmem::load_text(&st.schema),
        name: shmem::load_text(&st.name),
        status: st.status().name(),
        refreshes_total: differential + full,
        refresh_failures_total: st.failures.load(Relaxed),
        rows_changed_total: st.rows_changed.load(Relaxed),
        consecutive_errors: st.consecutive_errors.load(Relaxed),
        active: st.active.load(Relaxed),
        stale: st.is_stale(now),
        staleness_seconds: since(st.fresh_until.load(Relaxed)),
        refresh_durations: monitoring::Durations {
            bounds_seconds: &DURATION_BOUNDS_S,
            counts: st.duration_counts.iter().map(|c| c.load(Relaxed)).collect(),
            sum_seconds: st.duration_sum_us.load(Relaxed) as f64 / 1e6,
        },
        differential_refreshes_total: differential,
        full_refreshes_total: full,
        last_refresh: since(st.refreshed_at.load(Relaxed)).map(|seconds_ago| monitoring::LastRefresh {
            seconds_ago,
            duration_seconds: st.last_duration_us.load(Relaxed) as f64 / 1e6,
            rows: st.last_rows.load(Relaxed),
        }),
        last_error: since(st.error_at.load(Acquire)).map(|seconds_ago| monitoring::LastError {
            seconds_ago,
            sqlstate: sqlstate(st.error_code.load(Relaxed)),
            text: shmem::load_text(&st.error_text),
        }),
    }
}
