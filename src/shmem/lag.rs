//! The age of changes when refreshes made them visible: a ring of samples per worker, so that a busy one does not drive out what the
//! others have seen.

use pgtrickle_pg::shared_struct;
use std::cell::Cell;
use std::sync::atomic::*;

/// Samples of a ring.
pub const LAG_SAMPLES: usize = 256;
/// Workers of a pool with a ring of their own; further ones share with these.
const POOL_RINGS: usize = 8;
/// One more for the scheduler, and one for all backends that refresh by hand.
pub const LAG_RINGS: usize = POOL_RINGS + 2;
/// Samples older than this no longer count.
const WINDOW_US: i64 = 15 * 60 * 1_000_000;

shared_struct! {
    /// The last samples of one worker.
    pub struct LagRing {
        pub next: AtomicU64,
        pub lag_us: [AtomicU64; LAG_SAMPLES],
        /// When each was taken, microseconds since 2000-01-01; 0 where there is none.
        pub at_us: [AtomicI64; LAG_SAMPLES],
    }
}

thread_local! {
    static RING: Cell<usize> = const { Cell::new(LAG_RINGS - 1) };
}

/// From now on this process is the scheduler (0) or a worker of the pool (from 1).
pub fn use_ring_of(worker: usize) {
    RING.set(worker.checked_sub(1).map_or(0, |place| 1 + place % POOL_RINGS));
}

/// Adds a sample to this process's ring: a change became visible `lag_us` microseconds after it was committed.
pub fn note(rings: &[LagRing; LAG_RINGS], lag_us: u64, now: i64) {
    let ring = &rings[RING.get()];
    let at = ring.next.fetch_add(1, Ordering::AcqRel) as usize % LAG_SAMPLES;
    ring.lag_us[at].store(lag_us, Ordering::Relaxed);
    ring.at_us[at].store(now, Ordering::Release);
}

/// The samples of all rings of the last 15 minutes before `now`, in seconds.
pub fn recent(rings: &[LagRing; LAG_RINGS], now: i64) -> impl Iterator<Item = f64> {
    let samples = rings.iter().flat_map(|ring| ring.at_us.iter().zip(&ring.lag_us));
    samples
        .map(|(at, lag)| (at.load(Ordering::Acquire), lag.load(Ordering::Relaxed)))
        .filter(move |&(at, _)| at != 0 && now - at <= WINDOW_US)
        .map(|(_, lag_us)| lag_us as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtrickle_pg::shmem::Shareable;

    #[test]
    fn lags_are_of_the_last_samples_and_minutes_of_each_worker() {
        static RINGS: [LagRing; LAG_RINGS] = <[LagRing; LAG_RINGS]>::ZERO;
        let (now, minute) = (i64::from(u32::MAX) * 1_000_000, 60_000_000);
        note(&RINGS, 9_000_000, now - 16 * minute);
        note(&RINGS, 1_000_000, now - 14 * minute);
        assert_eq!(recent(&RINGS, now).collect::<Vec<_>>(), [1.0]);
        assert_eq!(recent(&RINGS, now + 2 * minute).count(), 0);
        use_ring_of(3);
        for _ in 0..2 * LAG_SAMPLES {
            note(&RINGS, 2_000_000, now);
        }
        let mut lags: Vec<_> = recent(&RINGS, now).collect();
        lags.sort_by(f64::total_cmp);
        assert_eq!((lags.len(), lags[0], lags[1]), (257, 1.0, 2.0));
    }
}
