//! Every metric, declared once, and their text exposition.

use crate::snapshot::{Database, Durations, Lag, Snapshot, StreamTable};
use prometheus::TextEncoder;
use prometheus::proto;

/// In front of each name.
pub const PREFIX: &str = "pg_trickle_";

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up.
    Counter,
    /// Counts by size.
    Histogram,
}

/// One metric.
pub struct Metric {
    /// Without [`PREFIX`]; counters end in `_total`, units are part of it.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What it means, for the operator.
    pub help: &'static str,
    /// What its values count or measure.
    pub unit: &'static str,
    /// What to do when its value is bad.
    pub remedy: &'static str,
    /// What its series differ in.
    pub labels: &'static [&'static str],
    read: fn(&Snapshot, &mut Series),
}

const NONE: &[&str] = &[];
const DB: &[&str] = &["db_name"];
const TABLE: &[&str] = &["schema", "name", "db_oid", "db_name"];
const TABLE_ID: &[&str] = &["pgt_id", "db_oid"];
const SOURCE: &[&str] = &["source", "db_name"];
const SLOT: &[&str] = &["slot_name", "db_name"];

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    unit: &'static str,
    remedy: &'static str,
    help: &'static str,
    read: fn(&Snapshot, &mut Series),
) -> Metric {
    Metric { name, kind, help, unit, remedy, labels, read }
}

use Kind::{Counter, Gauge, Histogram};

/// All metrics, in the order in which they are shown.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("info", Gauge, &["version", "db_oid", "db_name"], "–", "Nothing; a version that differs from `pgtrickle.version_check()` means that the server was not restarted.",
        "Always 1; the labels tell the version of pg_trickle and the databases that use it.",
        |s, out| for d in &s.databases { out.put(&[s.version, &d.oid.to_string(), &d.name], 1.0) }),

    metric("refreshes_total", Counter, TABLE, "refreshes", "Standing still while sources change: is it paused or suspended? `pgtrickle.pgt_status()`.", "Refreshes that were completed.",
        |s, out| out.per_table(s, |t| t.refreshes_total as f64)),
    metric("refresh_failures_total", Counter, TABLE, "refreshes", "Read `last_error_message` in `pgtrickle.pg_stat_stream_tables`; mend the cause; `pgtrickle.resume_stream_table()` if it was suspended.", "Refreshes that failed.",
        |s, out| out.per_table(s, |t| t.refresh_failures_total as f64)),
    metric("rows_changed_total", Counter, TABLE, "rows", "Far more than the sources change: the query multiplies rows; see `pgtrickle.explain_st()`.", "Rows that refreshes inserted, updated or deleted.",
        |s, out| out.per_table(s, |t| t.rows_changed_total as f64)),
    metric("consecutive_errors", Gauge, TABLE, "refreshes", "As for `refresh_failures_total`; at `pg_trickle.max_consecutive_errors` the stream table is suspended.", "Failed refreshes since the last successful one.",
        |s, out| out.per_table(s, |t| t.consecutive_errors as f64)),
    metric("active", Gauge, TABLE, "0 or 1", "`pgtrickle.resume_stream_table()`, once the cause in `last_error_message` is mended.", "1 if the stream table is refreshed, 0 if it is paused or suspended.",
        |s, out| out.per_table(s, |t| f64::from(t.active))),
    metric("staleness_seconds", Gauge, TABLE, "seconds", "Paused, failing, or the workers are busy: `pgtrickle.health_check()`, `pgtrickle.worker_pool_status()`.", "Age of the stream table's data; missing before its first fill.",
        |s, out| out.per_table_if(s, |t| t.staleness_seconds)),
    metric("stale", Gauge, TABLE, "0 or 1", "As for `staleness_seconds`.", "1 if the stream table is to be refreshed and its data is older than its schedule allows: three intervals or two times of a cron expression, at least 10 seconds.",
        |s, out| out.per_table(s, |t| f64::from(t.stale))),
    metric("refresh_duration_seconds", Histogram, TABLE, "seconds", "`pgtrickle.explain_st()` shows what is recomputed; an index on the join columns of the sources often helps.", "How long refreshes took.",
        |s, out| for (d, t) in tables(s) { out.put_histogram(&table_labels(d, t), &t.refresh_durations) }),
    metric("differential_refreshes_total", Counter, TABLE_ID, "refreshes", "None while `full_refreshes_total` grows: `pgtrickle.explain_refresh_mode()` says why.", "Refreshes that applied a delta.",
        |s, out| out.per_table_id(s, |t| t.differential_refreshes_total)),
    metric("full_refreshes_total", Counter, TABLE_ID, "refreshes", "Growing although the query is differential: too many changes at a time (`differential_max_change_ratio`), or capture starts anew.", "Refreshes that recomputed the query and applied the difference.",
        |s, out| out.per_table_id(s, |t| t.full_refreshes_total)),

    metric("cdc_lag_p50_seconds", Gauge, NONE, "seconds", "Compare with the schedules: half of an interval is normal. More: see `worker_idle_ms_total`.", "Median age of changes when a refresh made them visible, last 15 minutes.",
        |s, out| out.lag(s, |lag| lag.p50_seconds)),
    metric("cdc_lag_p95_seconds", Gauge, NONE, "seconds", "As for the median; large transactions and slow refreshes show here first.", "95th percentile of the age of changes when a refresh made them visible.",
        |s, out| out.lag(s, |lag| lag.p95_seconds)),
    metric("cdc_lag_p99_seconds", Gauge, NONE, "seconds", "As for the median; single long transactions or a restart show here.", "99th percentile of the age of changes when a refresh made them visible.",
        |s, out| out.lag(s, |lag| lag.p99_seconds)),

    // The sum has no label and stands beside the databases' own series: rules written for either find theirs.
    metric("wal_decoder_pending_records", Gauge, DB, "records", "The apply worker is behind: a slow disk, or a lock on a change buffer. Capture waits when the queue is full; nothing is lost.",
        "Records received and not yet committed to change buffers; without label, of all databases together.",
        |s, out| {
            out.put(NONE, s.databases.iter().map(|d| d.wal_decoder.pending_records).sum::<u64>() as f64);
            out.per_db(s, |d| d.wal_decoder.pending_records as f64);
        }),
    metric("wal_decoder_pending_records_max", Gauge, DB, "records", "Peaks are normal for large transactions; for lasting ones see `wal_decoder_pending_records`.", "Largest number of pending records since the last scrape.",
        |s, out| out.per_db(s, |d| d.wal_decoder.pending_records_max as f64)),
    metric("wal_decoder_queue_depth", Gauge, DB, "frames", "As for `wal_decoder_pending_records`.", "Frames that wait to be applied.",
        |s, out| out.per_db(s, |d| d.wal_decoder.queue_depth as f64)),
    metric("wal_decoder_queue_bytes", Gauge, DB, "bytes", "At `pg_trickle.queue_capacity_bytes` the decoder waits for the apply worker.", "Bytes of the frames that wait to be applied.",
        |s, out| out.per_db(s, |d| d.wal_decoder.queue_bytes as f64)),
    metric("wal_decoder_records_total", Counter, DB, "records", "Standing still while sources change: `pgtrickle.check_cdc_health()`.", "Records received: an UPDATE is two, an INSERT or DELETE one.",
        |s, out| out.per_db(s, |d| d.wal_decoder.records_total as f64)),
    metric("wal_decoder_bytes_total", Counter, DB, "bytes", "Very wide rows: leave columns that are not needed out of the queries; only columns that are used travel.", "Bytes received from the decoder.",
        |s, out| out.per_db(s, |d| d.wal_decoder.bytes_total as f64)),
    metric("wal_decoder_transactions_total", Counter, DB, "transactions", "Many tiny ones cost more than few large ones: batch writes where you can.", "Transactions received.",
        |s, out| out.per_db(s, |d| d.wal_decoder.transactions_total as f64)),

    metric("parallel_queue_depth", Gauge, NONE, "refreshes", "Lasting above zero: refreshes take longer than their schedules allow; `pgtrickle.st_refresh_stats()` shows the slow ones.", "Refreshes that are due and wait for a worker.",
        |s, out| out.put(NONE, s.pool.queue_depth as f64)),
    metric("parallel_workers", Gauge, NONE, "workers", "0: the scheduler does not run; see `scheduler_running`.", "Workers that refresh stream tables.",
        |s, out| out.put(NONE, s.pool.workers as f64)),
    metric("parallel_workers_busy", Gauge, NONE, "workers", "Busy all the time: as for `parallel_queue_depth`.", "Workers that refresh a stream table at this moment.",
        |s, out| out.put(NONE, s.pool.busy as f64)),
    metric("worker_idle_ms_total", Counter, NONE, "milliseconds", "Growing by less than 100 a second per worker: as for `parallel_queue_depth`.", "Milliseconds that refresh workers spent waiting for something to do.",
        |s, out| out.put(NONE, s.pool.idle_ms_total as f64)),
    metric("scheduler_running", Gauge, DB, "0 or 1", "The server log says why it ended; the launcher starts it again. `max_worker_processes` may be too low.", "1 if the database's scheduler runs.",
        |s, out| out.per_db(s, |d| f64::from(d.scheduler_running))),

    metric("cdc_buffers_pending_rows", Gauge, SOURCE, "rows", "Who does not read? `pgtrickle.change_buffer_sizes()` tells; a paused stream table keeps changes until it is resumed or dropped.", "Changes of a source that some stream table has not seen yet.",
        |s, out| out.per_buffer(s, |b| b.pending_rows as f64)),
    metric("cdc_buffers_buffer_bytes", Gauge, SOURCE, "bytes", "As for `cdc_buffers_pending_rows`; space is given back when all readers are past a segment.", "Size of a source's change buffer.",
        |s, out| out.per_buffer(s, |b| b.bytes as f64)),
    metric("slot_health_retained_wal_mb", Gauge, SLOT, "MiB", "A transaction that stays open, or a decoder that does not run: `pgtrickle.slot_health()`. `max_slot_wal_keep_size` sets a bound.", "WAL that is kept for the replication slot, in MiB.",
        |s, out| out.per_slot(s, |slot| slot.retained_wal_bytes as f64 / f64::from(1 << 20))),
    metric("slot_health_active", Gauge, SLOT, "0 or 1", "0: the decoder does not run; the server log says why.", "1 if the decoder uses the replication slot.",
        |s, out| out.per_slot(s, |slot| f64::from(slot.active))),
    metric("frontier_holdback_seconds", Gauge, DB, "seconds", "`health_check()` names the session or the prepared transaction; `idle_in_transaction_session_timeout` prevents such ones.", "For how long the oldest transaction that has written, and is open or prepared, has held the frontier back.",
        |s, out| out.per_db(s, |d| d.frontier_holdback_seconds)),

    metric("template_cache_hits_total", Counter, NONE, "programs", "See misses.", "Refresh programs found in the cache.",
        |s, out| out.put(NONE, s.template_cache.hits as f64)),
    metric("template_cache_misses_total", Counter, NONE, "programs", "As many as hits: raise `pg_trickle.template_cache_max_entries`.", "Refresh programs that had to be made.",
        |s, out| out.put(NONE, s.template_cache.misses as f64)),
    metric("template_cache_evictions_total", Counter, NONE, "programs", "Growing: raise `pg_trickle.template_cache_max_entries`.", "Refresh programs dropped to make room for others.",
        |s, out| out.put(NONE, s.template_cache.evictions as f64)),
];

fn tables(s: &Snapshot) -> impl Iterator<Item = (&Database, &StreamTable)> {
    s.databases.iter().flat_map(|d| d.stream_tables.iter().map(move |t| (d, t)))
}

fn table_labels(d: &Database, t: &StreamTable) -> [String; 4] {
    [t.schema.clone(), t.name.clone(), d.oid.to_string(), d.name.clone()]
}

/// The series of one metric.
struct Series {
    kind: Kind,
    labels: &'static [&'static str],
    all: Vec<proto::Metric>,
}

impl Series {
    /// A series with these label values; none at all is the sum over all of them.
    fn put(&mut self, labels: &[impl AsRef<str>], value: f64) {
        let mut metric = self.labelled(labels);
        match self.kind {
            Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Gauge | Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.all.push(metric);
    }

    fn put_histogram(&mut self, labels: &[String], durations: &Durations) {
        let mut total = 0;
        let bucket = |(&bound, &count): (&f64, &u64)| {
            total += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(total);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(durations.bounds_seconds.iter().zip(&durations.counts).map(bucket).collect());
        histogram.set_sample_count(durations.counts.iter().sum());
        histogram.set_sample_sum(durations.sum_seconds);
        let mut metric = self.labelled(labels);
        metric.set_histogram(histogram);
        self.all.push(metric);
    }

    fn labelled(&self, values: &[impl AsRef<str>]) -> proto::Metric {
        let pair = |(name, value): (&&str, &_)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value(AsRef::<str>::as_ref(value).into());
            pair
        };
        proto::Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }

    fn per_table(&mut self, s: &Snapshot, value: fn(&StreamTable) -> f64) {
        tables(s).for_each(|(d, t)| self.put(&table_labels(d, t), value(t)));
    }

    fn per_table_if(&mut self, s: &Snapshot, value: fn(&StreamTable) -> Option<f64>) {
        for (d, t) in tables(s) {
            if let Some(value) = value(t) {
                self.put(&table_labels(d, t), value);
            }
        }
    }

    fn per_table_id(&mut self, s: &Snapshot, value: fn(&StreamTable) -> u64) {
        tables(s).for_each(|(d, t)| self.put(&[t.pgt_id.to_string(), d.oid.to_string()], value(t) as f64));
    }

    fn per_db(&mut self, s: &Snapshot, value: fn(&Database) -> f64) {
        s.databases.iter().for_each(|d| self.put(&[&d.name], value(d)));
    }

    fn per_slot(&mut self, s: &Snapshot, value: fn(&crate::Slot) -> f64) {
        for d in &s.databases {
            if let Some(slot) = &d.slot {
                self.put(&[&slot.name, &d.name], value(slot));
            }
        }
    }

    fn per_buffer(&mut self, s: &Snapshot, value: fn(&crate::Buffer) -> f64) {
        for d in &s.databases {
            d.buffers.iter().filter(|b| b.buffered).for_each(|b| self.put(&[&b.source, &d.name], value(b)));
        }
    }

    fn lag(&mut self, s: &Snapshot, value: fn(&Lag) -> f64) {
        if let Some(lag) = &s.cdc_lag {
            self.put(NONE, value(lag));
        }
    }
}

/// The snapshot in Prometheus' text format. Metrics without a series are left out.
pub fn render(snapshot: &Snapshot) -> Result<String, prometheus::Error> {
    let families: Vec<_> = METRICS.iter().filter_map(|metric| family(metric, snapshot)).collect();
    TextEncoder::new().encode_to_string(&families)
}

fn family(metric: &Metric, snapshot: &Snapshot) -> Option<proto::MetricFamily> {
    let mut series = Series { kind: metric.kind, labels: metric.labels, all: Vec::new() };
    (metric.read)(snapshot, &mut series);
    if series.all.is_empty() {
        return None;
    }
    let mut family = proto::MetricFamily::default();
    family.set_name(format!("{PREFIX}{}", metric.name));
    family.set_help(metric.help.into());
    family.set_field_type(match metric.kind {
        Gauge => proto::MetricType::GAUGE,
        Counter => proto::MetricType::COUNTER,
        Histogram => proto::MetricType::HISTOGRAM,
    });
    family.set_metric(series.all);
    Some(family)
}

/// The table of metrics as `docs/MONITORING.md` has it.
pub fn markdown() -> String {
    let mut text =
        String::from("| metric | type | labels | unit | meaning | when it is bad |\n|---|---|---|---|---|---|\n");
    for m in METRICS {
        let kind = format!("{:?}", m.kind).to_lowercase();
        let labels = if m.labels.is_empty() { "–".into() } else { m.labels.join(", ") };
        let name = format!("{PREFIX}{}", m.name);
        text += &format!("| `{name}` | {kind} | {labels} | {} | {} | {} |\n", m.unit, m.help, m.remedy);
    }
    text
}
