//! What a stream table's refreshes have cost so far, and which kind the next one had better be.
//!
//! A refresh by deltas is expected to cost what one of the last two did, in proportion to the number of changes; a recomputation,
//! what the last one did, or the first fill. The figures are in shared memory, so that all processes learn from each
//! other; after a restart of the server they are learnt anew.

use super::{Action, Outcome};
use crate::catalog::StreamTable;
use crate::shmem::{self, StreamTableShared};
use pgtrickle_pg::on_commit::on_commit;
use pgtrickle_pg::spi;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Below this, the difference is not worth a change of mind, µs.
const NEGLIGIBLE_US: u64 = 10_000;
/// How much dearer deltas must be before they are given up.
const MARGIN: f64 = 1.1;
/// After so many recomputations in their place, deltas get another try: what they cost may have changed.
const TRY_AGAIN: u64 = 16;

fn figures(st: &StreamTable) -> Option<&'static StreamTableShared> {
    shmem::my_db()?;
    shmem::stream_table(spi::my_database_id(), st.pgt_id, &st.schema, &st.name)
}

/// The first fill has taken so long, if it commits.
pub fn filled(st: &StreamTable, duration: Duration) {
    let st = st.clone();
    on_commit(move || {
        if let Some(known) = figures(&st) {
            known.recompute_us.store(duration.as_micros() as u64, Relaxed);
        }
    });
}

/// The query is another one, if this transaction commits: what refreshes have cost says nothing any more.
pub fn forget(st: &StreamTable) {
    let st = st.clone();
    on_commit(move || {
        if let Some(known) = figures(&st) {
            known.delta_us.iter().chain([&known.recompute_us]).for_each(|us| us.store(0, Relaxed));
        }
    });
}

/// Learns from a refresh.
pub(super) fn learn(known: &StreamTableShared, outcome: &Outcome, own: Duration) {
    let us = own.as_micros() as u64;
    match outcome.action {
        Action::NoData => {}
        Action::Full | Action::Reinitialize => {
            known.recompute_us.store(us, Relaxed);
            known.recomputed_since.fetch_add(1, Relaxed);
        }
        Action::Differential => {
            known.recomputed_since.store(0, Relaxed);
            known.delta_us[1].store(known.delta_us[0].swap(us, Relaxed), Relaxed);
            known.delta_changes[1].store(known.delta_changes[0].swap(outcome.changes.rows, Relaxed), Relaxed);
        }
    }
}

/// Whether recomputing is expected to be cheaper than applying so many changes.
pub(super) fn recomputing_is_cheaper(st: &StreamTable, changes: u64) -> bool {
    let Some(known) = figures(st) else { return false };
    let recomputing = known.recompute_us.load(Relaxed);
    if recomputing == 0 || known.recomputed_since.load(Relaxed) >= TRY_AGAIN {
        return false;
    }
    let expected = |(us, rows): (u64, u64)| us as f64 * (changes as f64 / rows.max(1) as f64).clamp(0.1, 10.0);
    let seen = known.delta_us.iter().zip(&known.delta_changes).map(|(us, rows)| (us.load(Relaxed), rows.load(Relaxed)));
    // The first one of a process plans, which the second does not; so two are needed, and the better counts.
    let seen: Vec<f64> = seen.filter(|(us, _)| *us > 0).map(expected).collect();
    let applying = seen.iter().copied().fold(f64::INFINITY, f64::min);
    seen.len() == 2 && applying > NEGLIGIBLE_US as f64 && applying > recomputing as f64 * MARGIN
}
