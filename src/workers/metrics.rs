//! The Prometheus endpoint: shared memory as the monitoring crate wants to see it, and the server's life in the launcher.
//!
//! [`snapshot`] runs on the server's own thread, where no PostgreSQL function may be called: it reads atomics and the
//! operating system's clock, nothing else.

use crate::settings;
use crate::shmem::{self, CaptureState, DURATION_BOUNDS_S, DbShared, LAG_SAMPLES, StreamTableShared};
use pgrx::prelude::*;
use pgtrickle_monitoring as monitoring;
use pgtrickle_pg::worker;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lag samples older than this no longer count.
const LAG_WINDOW_US: i64 = 15 * 60 * 1_000_000;
/// Seconds from 1970 to 2000, where PostgreSQL's clock starts.
const EPOCH_2000_S: u64 = 946_684_800;
/// After a failed start the endpoint is tried again at this interval.
const RETRY: Duration = Duration::from_secs(30);

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
        let wanted = (settings::metrics_listen_address(), settings::METRICS_PORT.get() as u16);
        let alive = self.server.as_ref().is_some_and(monitoring::Server::is_running);
        let same = wanted == self.wanted;
        if same && (alive || wanted.1 == 0 || self.failed_at.is_some_and(|at| at.elapsed() < RETRY)) {
            return;
        }
        self.server = None;
        self.failed_at = None;
        self.wanted = wanted;
        if self.wanted.1 == 0 {
            return;
        }
        let address = (self.wanted.0.as_str(), self.wanted.1);
        match worker::with_signals_blocked(|| monitoring::Server::start(address, snapshot)) {
            Ok(server) => self.server = Some(server),
            Err(error) => {
                self.failed_at = Some(Instant::now());
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

fn snapshot() -> monitoring::Snapshot {
    let shared = shmem::shared();
    let now = now_us();
    let served: Vec<&DbShared> = shared.databases.iter().filter(|d| d.dboid.load(Acquire) != 0).collect();
    let mut lags: Vec<f64> = served.iter().flat_map(|db| lag_samples(db, now)).collect();
    let total = |counter: fn(&DbShared) -> u64| served.iter().map(|db| counter(db)).sum();
    monitoring::Snapshot {
        version: env!("CARGO_PKG_VERSION"),
        databases: served.iter().map(|db| database(db, now)).collect(),
        cdc_lag: monitoring::Lag::of_seconds(&mut lags),
        template_cache: monitoring::TemplateCache {
            hits: total(|db| db.cache_hits.load(Relaxed)),
            misses: total(|db| db.cache_misses.load(Relaxed)),
            evictions: total(|db| db.cache_evictions.load(Relaxed)),
        },
        pool: None,
    }
}

fn lag_samples(db: &DbShared, now: i64) -> impl Iterator<Item = f64> {
    (0..LAG_SAMPLES)
        .map(|i| (db.lag_at[i].load(Acquire), db.lag_us[i].load(Relaxed)))
        .filter(move |&(at, _)| at != 0 && now - at <= LAG_WINDOW_US)
        .map(|(_, lag_us)| lag_us as f64 / 1e6)
}

fn database(db: &DbShared, now: i64) -> monitoring::Database {
    let oid = db.dboid.load(Acquire);
    let pending_records = db.pending_records.load(Relaxed);
    monitoring::Database {
        oid,
        name: shmem::load_text(&db.name),
        capture: match db.capture_state() {
            CaptureState::None => monitoring::CaptureState::None,
            CaptureState::Starting => monitoring::CaptureState::Starting,
            CaptureState::Running => monitoring::CaptureState::Running,
            CaptureState::Failing => monitoring::CaptureState::Failing,
        },
        wal_decoder: monitoring::WalDecoder {
            pending_records,
            // The peak since the last scrape; the next one starts from what is pending now.
            pending_records_max: db.pending_records_max.swap(pending_records, AcqRel).max(pending_records),
            queue_depth: db.queue_depth.load(Relaxed),
            queue_bytes: db.queue_bytes.load(Relaxed),
            records_total: db.records_total.load(Relaxed),
            bytes_total: db.bytes_total.load(Relaxed),
            transactions_total: db.transactions_total.load(Relaxed),
        },
        slot: Some(monitoring::Slot {
            name: format!("pg_trickle_{oid}"),
            retained_wal_bytes: db.slot_retained_bytes.load(Relaxed),
            active: db.slot_active.load(Relaxed),
        }),
        frontier_holdback_seconds: db.holdback_us.load(Relaxed) as f64 / 1e6,
        buffers: Vec::new(),
        stream_tables: shmem::shared()
            .stream_tables
            .iter()
            .filter(|st| st.pgt_id.load(Acquire) != 0 && st.dboid.load(Acquire) == oid)
            .map(|st| stream_table(st, now))
            .collect(),
    }
}

fn stream_table(st: &StreamTableShared, now: i64) -> monitoring::StreamTable {
    let fresh_until = st.fresh_until.load(Relaxed);
    let (differential, full) = (st.differential_refreshes.load(Relaxed), st.full_refreshes.load(Relaxed));
    monitoring::StreamTable {
        pgt_id: st.pgt_id.load(Acquire),
        schema: shmem::load_text(&st.schema),
        name: shmem::load_text(&st.name),
        refreshes_total: differential + full,
        refresh_failures_total: st.failures.load(Relaxed),
        rows_changed_total: st.rows_changed.load(Relaxed),
        consecutive_errors: st.consecutive_errors.load(Relaxed),
        active: st.active.load(Relaxed),
        staleness_seconds: (fresh_until != 0).then(|| (now - fresh_until).max(0) as f64 / 1e6),
        refresh_durations: monitoring::Durations {
            bounds_seconds: &DURATION_BOUNDS_S,
            counts: st.duration_counts.iter().map(|c| c.load(Relaxed)).collect(),
            sum_seconds: st.duration_sum_us.load(Relaxed) as f64 / 1e6,
        },
        differential_refreshes_total: differential,
        full_refreshes_total: full,
    }
}
