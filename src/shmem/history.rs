//! The last minutes of the cluster, for the status page. Written by the launcher's server thread alone.

use pgtrickle_monitoring::{Memory, POINTS, Point};
use pgtrickle_pg::shared_struct;
use std::sync::atomic::*;

/// Figures of a [`Point`] besides its time.
const FIGURES: usize = 5;

shared_struct! {
    /// A ring of [`Point`]s, whose numbers are kept as bits.
    pub struct HistoryShared {
        pub next: AtomicU64,
        /// When each was taken, 0 where there is none.
        pub at_us: [AtomicI64; POINTS],
        pub figures: [[AtomicU64; FIGURES]; POINTS],
    }
}

/// [`HistoryShared`] as the server's memory: it survives a restart of the launcher, and of the server.
pub struct History;

impl Memory for History {
    fn keep(&self, point: Point) {
        let ring = &super::shared().history;
        let place = ring.next.fetch_add(1, Ordering::Relaxed) as usize % POINTS;
        let figures = [
            point.lag_p95_seconds.unwrap_or(f64::NAN),
            point.pending_records,
            point.records_per_second,
            point.refreshes_per_second,
            point.rows_per_second,
        ];
        for (kept, figure) in ring.figures[place].iter().zip(figures) {
            kept.store(figure.to_bits(), Ordering::Relaxed);
        }
        ring.at_us[place].store(point.at_us, Ordering::Release);
    }

    fn points(&self) -> Vec<Point> {
        let ring = &super::shared().history;
        let point = |place: usize| {
            let figure = |i: usize| f64::from_bits(ring.figures[place][i].load(Ordering::Relaxed));
            Point {
                at_us: ring.at_us[place].load(Ordering::Acquire),
                lag_p95_seconds: Some(figure(0)).filter(|lag| !lag.is_nan()),
                pending_records: figure(1),
                records_per_second: figure(2),
                refreshes_per_second: figure(3),
                rows_per_second: figure(4),
            }
        };
        (0..POINTS).map(point).filter(|point| point.at_us != 0).collect()
    }
}
