//! How far long commands are.

use super::{available, shared, store_text};
use pgtrickle_pg::shared_struct;
use std::sync::atomic::*;

/// Long commands whose progress is told at the same time.
pub const MAX_PROGRESS: usize = 64;

shared_struct! {
    /// How far a fill or a recomputation is.
    pub struct ProgressShared {
        /// 0 while the place is free.
        pub pid: AtomicI32,
        pub dboid: AtomicU32,
        pub relid: AtomicU32,
        /// What is being done, as NUL-padded UTF-8.
        pub phase: [AtomicU8; 64],
        pub step: AtomicU32,
        pub steps: AtomicU32,
        pub rows: AtomicU64,
        pub started_at: AtomicI64,
    }
}

/// This process's place among those that tell their progress, given back when dropped.
pub struct Progress(Option<&'static ProgressShared>);

impl Progress {
    /// Tells that this process begins `phase` of something that ends up in `relid`. Without a free place nothing is told.
    pub fn begin(relid: u32, phase: &str, steps: usize) -> Progress {
        let pid = pgtrickle_pg::worker::pid();
        let places = if available() { shared().progress.as_slice() } else { &[] };
        // What an earlier command of this process left when it failed is as good as free.
        let mine = places.iter().find(|p| p.pid.load(Ordering::Acquire) == pid);
        let place = mine.or_else(|| places.iter().find(|p| pgtrickle_pg::worker::take_place(&p.pid)));
        if let Some(place) = place {
            place.dboid.store(pgtrickle_pg::spi::my_database_id(), Ordering::Relaxed);
            place.relid.store(relid, Ordering::Relaxed);
            store_text(&place.phase, phase);
            place.step.store(0, Ordering::Relaxed);
            place.steps.store(steps as u32, Ordering::Relaxed);
            place.rows.store(0, Ordering::Relaxed);
            place.started_at.store(pgtrickle_pg::worker::now_us(), Ordering::Relaxed);
        }
        Progress(place)
    }

    /// Tells that step `step` begins, counted from 1, after `rows` rows so far.
    pub fn step(&self, step: usize, rows: u64) {
        if let Some(place) = self.0 {
            place.step.store(step as u32, Ordering::Relaxed);
            place.rows.store(rows, Ordering::Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.pid.store(0, Ordering::Release);
        }
    }
}
