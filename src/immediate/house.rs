//! What the scheduler does for stream tables that are maintained at once: nothing, as long as they are well.

use super::maintain::is_active;
use crate::catalog::{self, StreamTable};
use crate::refresh::PATIENCE;
use crate::{api, shmem, workers};
use pgrx::prelude::*;
use pgtrickle_pg::on_commit::on_commit;
use pgtrickle_pg::spi::{self, LocalSettings};
use pgtrickle_pg::{worker, xact};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// Tells that a stream table is as fresh as can be, or computes it anew if it is not known to be right. Outside of any
/// transaction.
pub fn look_after(st: &StreamTable) {
    if !is_active(st) {
        return;
    }
    if st.needs_reinit || st.frontier.is_none() {
        let done = xact::attempt(|| {
            // A writer may keep its lock for long; there are others to look after.
            let _patience = LocalSettings::new(&[PATIENCE]);
            super::refresh(st, |_| ()).map(|()| catalog::changed())
        });
        if let Err(failure) = done {
            warning!("stream table {} could not be computed anew: {}", st.label(), failure.message);
            workers::or_warn("that could not be recorded", || api::record_failure(st, &failure));
        }
    } else if let Some(counters) = counters(st) {
        counters.fresh_until.store(worker::now_us(), Relaxed);
    }
}

fn counters(st: &StreamTable) -> Option<&'static shmem::StreamTableShared> {
    shmem::my_db()?;
    shmem::stream_table(spi::my_database_id(), st.pgt_id, &st.schema, &st.name)
}

/// Counts what this transaction has done to a stream table, once it commits; `rows` grows until then.
pub fn count_on_commit(st: &StreamTable, rows: Rc<Cell<u64>>) {
    let st = st.clone();
    on_commit(move || {
        let Some(counters) = counters(&st) else { return };
        let now = worker::now_us();
        counters.differential_refreshes.fetch_add(1, Relaxed);
        counters.rows_changed.fetch_add(rows.get(), Relaxed);
        counters.last_rows.store(rows.get(), Relaxed);
        counters.refreshed_at.store(now, Relaxed);
        counters.fresh_until.store(now, Relaxed);
    });
}
