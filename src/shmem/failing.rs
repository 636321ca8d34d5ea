//! Sources at whose changes capture fails. What fails again and again is given up, so that the others are captured on.

use super::DbShared;
use pgtrickle_pg::shared_struct;
use std::sync::atomic::{Ordering::*, *};

/// Sources whose failures are counted, or that are given up, at the same time.
pub const FAILING_SOURCES: usize = 8;
/// Failures in a row after which a source is given up.
const FAILURES_MAX: u32 = 3;

shared_struct! {
    /// A source at whose changes capture failed.
    pub struct FailingSource {
        /// 0 where none is.
        pub relid: AtomicU32,
        /// How often in a row.
        pub count: AtomicU32,
        /// When it last did, µs since 2000-01-01.
        pub at: AtomicI64,
    }
}

impl FailingSource {
    fn is_given_up(&self) -> bool {
        self.count.load(Acquire) >= FAILURES_MAX
    }

    fn clear(&self) {
        self.count.store(0, Release);
        self.relid.store(0, Release);
    }
}

impl DbShared {
    /// Counts a failure, of decoding or of writing to the change buffer, against a source; how many there were in a row.
    ///
    /// Where every place is taken the one that was given up longest ago gives way: that is recorded in the catalog by now.
    pub fn count_failure(&self, relid: u32, now: i64) -> u32 {
        let mine = self.failing.iter().find(|f| f.relid.load(Acquire) == relid);
        let free = || self.failing.iter().find(|f| f.relid.compare_exchange(0, relid, AcqRel, Relaxed).is_ok());
        let oldest = || {
            let oldest = self.failing.iter().filter(|f| f.is_given_up()).min_by_key(|f| f.at.load(Acquire))?;
            oldest.count.store(0, Release);
            oldest.relid.store(relid, Release);
            Some(oldest)
        };
        let Some(place) = mine.or_else(free).or_else(oldest) else { return 0 };
        place.at.store(now, Release);
        place.count.fetch_add(1, AcqRel) + 1
    }

    /// Capture has got on: whatever failed before, and was not given up, fails no more.
    pub fn forget_failures(&self) {
        self.failing.iter().filter(|f| !f.is_given_up()).for_each(FailingSource::clear);
    }

    /// A source that was given up is recorded as such, or captured anew.
    pub fn forget_source(&self, relid: u32) {
        self.failing.iter().filter(|f| f.relid.load(Acquire) == relid).for_each(FailingSource::clear);
    }

    /// Nothing of this is true of the next database that has the place, or of the next capture of the same one.
    pub fn forget_all_failures(&self) {
        self.failing.iter().for_each(FailingSource::clear);
        self.stuck_count.store(0, Release);
    }

    /// Sources that are given up, and when.
    pub fn given_up(&self) -> impl Iterator<Item = (u32, i64)> {
        let given_up = self.failing.iter().filter(|f| f.is_given_up());
        given_up.map(|f| (f.relid.load(Acquire), f.at.load(Acquire))).filter(|&(relid, _)| relid != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtrickle_pg::shmem::Shareable;

    #[test]
    fn failures_count_in_a_row() {
        static DB: DbShared = DbShared::ZERO;
        assert_eq!([DB.count_failure(7, 1), DB.count_failure(8, 2), DB.count_failure(7, 3)], [1, 1, 2]);
        DB.forget_failures();
        assert_eq!([DB.count_failure(7, 4), DB.count_failure(7, 5)], [1, 2]);
        assert_eq!(DB.given_up().count(), 0);
        DB.count_failure(7, 6);
        DB.forget_failures();
        assert_eq!(DB.given_up().collect::<Vec<_>>(), [(7, 6)]);
        DB.forget_source(7);
        assert_eq!((DB.given_up().count(), DB.count_failure(7, 7)), (0, 1));
        DB.forget_all_failures();
        assert_eq!(DB.count_failure(7, 8), 1);
    }

    #[test]
    fn old_failures_give_way() {
        static DB: DbShared = DbShared::ZERO;
        let give_up = |relid: u32| (0..FAILURES_MAX).map(|_| DB.count_failure(relid, i64::from(relid))).max();
        (1..=FAILING_SOURCES as u32 + 2).for_each(|relid| assert_eq!(give_up(relid), Some(FAILURES_MAX)));
        let mut left: Vec<u32> = DB.given_up().map(|(relid, _)| relid).collect();
        left.sort_unstable();
        assert_eq!(left, (3..=FAILING_SOURCES as u32 + 2).collect::<Vec<_>>());
    }
}
