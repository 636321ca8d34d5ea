//! Whose error it is, when one stops the refresh of several stream tables.

use std::cell::RefCell;

thread_local! {
    /// Those that are at work; none while it is not known whom an error would concern.
    static AT_WORK: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
}

/// From here on an error is one of these stream tables.
pub fn at_work(pgt_ids: impl IntoIterator<Item = i64>) {
    AT_WORK.with_borrow_mut(|at_work| {
        at_work.clear();
        at_work.extend(pgt_ids);
    });
}

/// Whose error the one was that ended the last refresh of these: all of theirs, if it is not known.
pub fn blamed(pgt_ids: &[i64]) -> Vec<i64> {
    let blamed = AT_WORK.with_borrow_mut(std::mem::take);
    let known = !blamed.is_empty() && blamed.iter().all(|id| pgt_ids.contains(id));
    if known { blamed } else { pgt_ids.to_vec() }
}
