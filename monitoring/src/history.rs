//! The last minutes, for the status page's sparklines.

use crate::json::{array, number, object, optional};
use crate::snapshot::Snapshot;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two points.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// Points kept: five minutes.
const POINTS: usize = 150;

/// Figures of one moment; rates since the point before.
struct Point {
    lag_p95_seconds: Option<f64>,
    pending_records: f64,
    records_per_second: f64,
    refreshes_per_second: f64,
    rows_per_second: f64,
}

/// Counters from which rates are made.
struct Totals {
    at: Instant,
    records: u64,
    refreshes: u64,
    rows: u64,
}

impl Totals {
    fn of(s: &Snapshot) -> Totals {
        let tables = || s.databases.iter().flat_map(|d| &d.stream_tables);
        Totals {
            at: Instant::now(),
            records: s.databases.iter().map(|d| d.wal_decoder.records_total).sum(),
            refreshes: tables().map(|t| t.refreshes_total).sum(),
            rows: tables().map(|t| t.rows_changed_total).sum(),
        }
    }
}

/// A point every [`INTERVAL`], the oldest first.
#[derive(Default)]
pub struct History {
    points: VecDeque<Point>,
    before: Option<Totals>,
}

impl History {
    /// Adds a point.
    pub fn add(&mut self, s: &Snapshot) {
        let now = Totals::of(s);
        if let Some(before) = &self.before {
            let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
            // A counter is less than before when a database was dropped.
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            if self.points.len() == POINTS {
                self.points.pop_front();
            }
            self.points.push_back(Point {
                lag_p95_seconds: s.cdc_lag.map(|lag| lag.p95_seconds),
                pending_records: s.databases.iter().map(|d| d.wal_decoder.pending_records).sum::<u64>() as f64,
                records_per_second: rate(now.records, before.records),
                refreshes_per_second: rate(now.refreshes, before.refreshes),
                rows_per_second: rate(now.rows, before.rows),
            });
        }
        self.before = Some(now);
    }

    /// A series of numbers per figure.
    pub fn json(&self) -> String {
        let series =
            |value: fn(&Point) -> f64| array(self.points.iter().map(|p| number((value(p) * 1e3).round() / 1e3)));
        object([
            ("interval_seconds", number(INTERVAL.as_secs_f64())),
            ("lag_p95_seconds", array(self.points.iter().map(|p| optional(p.lag_p95_seconds, number)))),
            ("pending_records", series(|p| p.pending_records)),
            ("records_per_second", series(|p| p.records_per_second)),
            ("refreshes_per_second", series(|p| p.refreshes_per_second)),
            ("rows_per_second", series(|p| p.rows_per_second)),
        ])
    }
}
