//! The settings `pg_trickle.*`, each declared once: name, help, unit, bounds and default.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};

macro_rules! settings {
    ($($static:ident: $ty:ty = $default:expr, $name:literal, $help:literal, $define:ident($($arg:expr),*);)*) => {
        $(#[doc = $help] pub static $static: GucSetting<$ty> = GucSetting::<$ty>::new($default);)*

        /// Makes the settings known to PostgreSQL. Called once, while the library is loaded.
        pub fn register() {
            $({
                const HELP: &CStr = match CStr::from_bytes_with_nul(concat!($help, "\0").as_bytes()) {
                    Ok(help) => help,
                    Err(_) => panic!("a help text contains a zero byte"),
                };
                GucRegistry::$define($name, HELP, c"", &$static, $($arg),*);
            })*
        }
    };
}

const NONE: GucFlags = GucFlags::empty();
const SIGHUP: GucContext = GucContext::Sighup;

/// Who refreshes, see `pg_trickle.parallel_refresh_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum ParallelRefresh {
    #[name = c"off"]
    Off,
    #[name = c"on"]
    On,
}

settings! {
    ENABLED: bool = true, c"pg_trickle.enabled",
        "Whether stream tables are refreshed by themselves; capture goes on either way.",
        define_bool_guc(SIGHUP, NONE);
    SCHEDULER_INTERVAL_MS: i32 = 1000, c"pg_trickle.scheduler_interval_ms",
        "Longest time between two looks at the schedules, in milliseconds.",
        define_int_guc(10, 60_000, SIGHUP, GucFlags::UNIT_MS);
    DEFAULT_SCHEDULE_SECONDS: i32 = 1, c"pg_trickle.default_schedule_seconds",
        "Refresh interval of stream tables whose schedule is 'calculated', in seconds.",
        define_int_guc(0, 86_400, SIGHUP, GucFlags::UNIT_S);
    PARALLEL_REFRESH_MODE: ParallelRefresh = ParallelRefresh::On, c"pg_trickle.parallel_refresh_mode",
        "Whether stream tables that are due together and do not depend on each other are refreshed at the same time, by a pool of workers.",
        define_enum_guc(SIGHUP, NONE);
    MAX_DYNAMIC_REFRESH_WORKERS: i32 = 2, c"pg_trickle.max_dynamic_refresh_workers",
        "Workers of the pool of each database, started when first needed; with 0 the scheduler refreshes one after the other.",
        define_int_guc(0, 32, SIGHUP, NONE);
    AUTO_BACKOFF: bool = true, c"pg_trickle.auto_backoff",
        "Whether a stream table whose refreshes take as long as its interval is refreshed less often, down to an eighth.",
        define_bool_guc(SIGHUP, NONE);
    MAX_CONSECUTIVE_ERRORS: i32 = 3, c"pg_trickle.max_consecutive_errors",
        "Failed refreshes in a row after which a stream table is suspended.",
        define_int_guc(1, 1000, SIGHUP, NONE);
    DIFFERENTIAL_MAX_CHANGE_RATIO: f64 = 0.5, c"pg_trickle.differential_max_change_ratio",
        "In AUTO mode, recompute when more than this fraction of the sources' rows has changed.",
        define_float_guc(0.0, 1.0e6, SIGHUP, NONE);
    TEMPLATE_CACHE_MAX_ENTRIES: i32 = 512, c"pg_trickle.template_cache_max_entries",
        "Stream tables whose refresh programs each worker keeps planned, some 0.3 MB each.",
        define_int_guc(1, 65_536, SIGHUP, NONE);
    PENDING_RECORDS_ALERT_THRESHOLD: i32 = 10_000, c"pg_trickle.pending_records_alert_threshold",
        "Warn when more captured records than this wait to be written to change buffers.",
        define_int_guc(1, i32::MAX, SIGHUP, NONE);
    BUFFER_ALERT_THRESHOLD: i32 = 500_000, c"pg_trickle.buffer_alert_threshold",
        "Warn when more changes of one source than this wait for refreshes.",
        define_int_guc(1, i32::MAX, SIGHUP, NONE);
    QUEUE_CAPACITY_BYTES: i32 = 64 << 20, c"pg_trickle.queue_capacity_bytes",
        "Bytes of captured changes that the apply worker may hold in memory.",
        define_int_guc(1 << 20, i32::MAX, SIGHUP, NONE);
    DECODING_WORK_MEM: i32 = 64 << 10, c"pg_trickle.decoding_work_mem",
        "Memory for decoding transactions before they spill to disk, in kilobytes.",
        define_int_guc(64, i32::MAX, SIGHUP, GucFlags::UNIT_KB);
    SLOT_LAG_WARNING_THRESHOLD_MB: i32 = 200, c"pg_trickle.slot_lag_warning_threshold_mb",
        "Retained WAL, in megabytes, from which health_check() warns.",
        define_int_guc(1, i32::MAX, SIGHUP, NONE);
    SLOT_LAG_CRITICAL_THRESHOLD_MB: i32 = 1024, c"pg_trickle.slot_lag_critical_threshold_mb",
        "Retained WAL, in megabytes, from which health_check() reports an error.",
        define_int_guc(1, i32::MAX, SIGHUP, NONE);
    MANAGE_REPLICA_IDENTITY: bool = true, c"pg_trickle.manage_replica_identity",
        "Whether sources get REPLICA IDENTITY FULL when needed; when off, such sources are refused.",
        define_bool_guc(GucContext::Suset, NONE);
    METRICS_PORT: i32 = 0, c"pg_trickle.metrics_port",
        "TCP port of the Prometheus endpoint; 0 turns it off.",
        define_int_guc(0, 65_535, SIGHUP, NONE);
    METRICS_LISTEN_ADDRESS: Option<CString> = Some(c"127.0.0.1"), c"pg_trickle.metrics_listen_address",
        "Address on which the Prometheus endpoint listens.",
        define_string_guc(SIGHUP, NONE);
    STATUS_PAGE_DETAILS: bool = false, c"pg_trickle.status_page_details",
        "Whether the status page shows the texts of errors, which may contain values of rows and parts of queries.",
        define_bool_guc(SIGHUP, NONE);
    HISTORY_RETENTION_DAYS: i32 = 7, c"pg_trickle.history_retention_days",
        "Days for which rows of pgtrickle.pgt_refresh_history are kept.",
        define_int_guc(0, 36_500, SIGHUP, NONE);
    LOG_DELTA_SQL: bool = false, c"pg_trickle.log_delta_sql",
        "Log the statements of each refresh.",
        define_bool_guc(GucContext::Suset, NONE);
    DEBUG_SELECTIONS: bool = false, c"pg_trickle.debug_selections",
        "Whether selections are kept and asked for partners wherever that can be done, not only where it pays: for tests.",
        define_bool_guc(GucContext::Suset, NONE);
}

/// The address of the Prometheus endpoint, as set.
pub fn metrics_listen_address() -> String {
    METRICS_LISTEN_ADDRESS.get().map(|s: CString| s.to_string_lossy().into_owned()).unwrap_or_default()
}
