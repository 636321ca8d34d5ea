//! Values that a row must have one of in some column, so as to find a partner in a join.

use crate::bindings::raw;
use crate::rowhash::mix;
use crate::snapshot::Snapshot;
use crate::spi::Plan;
use pgrx::pg_sys;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Values of one type, each as a hash of its bytes: whoever is turned away has no partner, and few who have none get through.
#[derive(Default)]
pub struct Values {
    hashes: HashSet<u64, BuildHasherDefault<Spread>>,
}

impl Values {
    /// Those that a query gives in its only column; NULL is none.
    pub fn of(query: &Plan, snapshot: &Snapshot) -> Values {
        let found = super::stored(query, snapshot);
        let mut values = Values::default();
        // SAFETY: rows of one column, of which it is said how values are stored.
        unsafe {
            let attribute = &*crate::table::attribute(found.desc, 0);
            let (by_value, length) = (attribute.attbyval, attribute.attlen);
            found.each(1, |slot| {
                if !*(*slot).tts_isnull {
                    values.hashes.insert(image(*(*slot).tts_values, by_value, length));
                }
            });
        }
        values
    }

    /// Whether this is one of them, or looks as if it were.
    ///
    /// # Safety
    /// A value of their type, of which these are passing and length. To be called within a guard.
    pub(super) unsafe fn may_contain(&self, value: pg_sys::Datum, by_value: bool, length: i16) -> bool {
        // SAFETY: the caller's value.
        self.hashes.contains(&unsafe { image(value, by_value, length) })
    }
}

/// What is the same for values that look the same.
///
/// # Safety
/// Passing and length are those of the value's type. To be called within a guard.
unsafe fn image(value: pg_sys::Datum, by_value: bool, length: i16) -> u64 {
    if by_value {
        return value.value() as u64;
    }
    // SAFETY: the caller's value.
    u64::from(unsafe { raw::datum_image_hash(value, by_value, i32::from(length)) })
}

/// Spreads numbers over all bits.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0, number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
