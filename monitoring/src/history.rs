//! The last minutes, for the status page's sparklines. Where they are kept is the caller's: they outlive the server's thread.

use crate::json::{array, number, object, optional};
use crate::snapshot::Snapshot;
use std::time::{Duration, Instant};

/// Between two points.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// Points shown: five minutes.
pub const POINTS: usize = 150;

/// Figures of one moment; rates since the point before.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// When, in microseconds of whatever clock the snapshots are taken by.
    pub at_us: i64,
    /// 95th percentile of the age of changes when they became visible.
    pub lag_p95_seconds: Option<f64>,
    /// Records not yet in buffers.
    pub pending_records: f64,
    /// Records captured.
    pub records_per_second: f64,
    /// Refreshes completed.
    pub refreshes_per_second: f64,
    /// Rows that they changed.
    pub rows_per_second: f64,
}

/// Keeps at least the last [`POINTS`] points.
pub trait Memory: Send + 'static {
    /// Keeps one more.
    fn keep(&self, point: Point);
    /// Those that are kept, in any order.
    fn points(&self) -> Vec<Point>;
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

/// A point every [`INTERVAL`].
pub struct History {
    memory: Box<dyn Memory>,
    before: Option<Totals>,
}

impl History {
    /// Goes on with what is in memory.
    pub fn new(memory: Box<dyn Memory>) -> History {
        History { memory, before: None }
    }

    /// Adds a point. The first one only begins the counting of rates.
    pub fn add(&mut self, s: &Snapshot) {
        let now = Totals::of(s);
        if let Some(before) = &self.before {
            let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
            // A counter is less than before when a database was dropped.
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            self.memory.keep(Point {
                at_us: s.at_us,
                lag_p95_seconds: s.cdc_lag.map(|lag| lag.p95_seconds),
                pending_records: s.databases.iter().map(|d| d.wal_decoder.pending_records).sum::<u64>() as f64,
                records_per_second: rate(now.records, before.records),
                refreshes_per_second: rate(now.refreshes, before.refreshes),
                rows_per_second: rate(now.rows, before.rows),
            });
        }
        self.before = Some(now);
    }

    /// A series of numbers per figure, the newest last; null where there is no point.
    pub fn json(&self, now_us: i64) -> String {
        let points = in_steps(&self.memory.points(), now_us);
        let series = |value: fn(&Point) -> Option<f64>| {
            let rounded = |value: f64| number((value * 1e3).round() / 1e3);
            array(points.iter().map(|point| optional(point.as_ref().and_then(value), rounded)))
        };
        object([
            ("interval_seconds", number(INTERVAL.as_secs_f64())),
            ("lag_p95_seconds", series(|p| p.lag_p95_seconds)),
            ("pending_records", series(|p| Some(p.pending_records))),
            ("records_per_second", series(|p| Some(p.records_per_second))),
            ("refreshes_per_second", series(|p| Some(p.refreshes_per_second))),
            ("rows_per_second", series(|p| Some(p.rows_per_second))),
        ])
    }
}

/// The point of each interval from the oldest that is known until now. Points come a little later than each interval's length, so
/// now and then one interval has none: it takes the one before.
fn in_steps(points: &[Point], now_us: i64) -> Vec<Option<Point>> {
    let step = INTERVAL.as_micros() as i64;
    let mut steps: Vec<Option<Point>> = vec![None; POINTS];
    for point in points.iter().filter(|point| point.at_us != 0 && point.at_us <= now_us) {
        let ago = ((now_us - point.at_us) / step) as usize;
        if ago < POINTS {
            steps[POINTS - 1 - ago] = Some(*point);
        }
    }
    let first = steps.iter().position(Option::is_some).unwrap_or(POINTS);
    let mut known = steps.split_off(first);
    for i in 1..known.len() {
        let alone = known.get(i + 1).is_none_or(Option::is_some);
        if known[i].is_none() && alone {
            known[i] = known[i - 1];
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_their_time_is() {
        let point = |at_s: i64| Point { at_us: at_s * 1_000_000, ..Point::default() };
        let at = |found: &[Option<Point>]| found.iter().map(|p| p.map(|p| p.at_us / 1_000_000)).collect::<Vec<_>>();
        assert!(in_steps(&[], 10_000_000).is_empty());
        let kept = [point(1000), point(1004), point(1002), point(1020), point(1022)];
        let found = in_steps(&kept, 1_023_000_000);
        assert_eq!(at(&found)[..3], [Some(1000), Some(1002), Some(1004)]);
        assert_eq!(at(&found)[3..], [None, None, None, None, None, None, None, Some(1020), Some(1022)]);
        assert_eq!(at(&in_steps(&[point(1000), point(1004)], 1_004_500_000)), [Some(1000), Some(1000), Some(1004)]);
        assert_eq!(at(&in_steps(&kept, 2_000_000_000)), []);
    }
}
