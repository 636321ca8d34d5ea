//! Refreshing by hand, and waiting for the scheduler to have refreshed.

use crate::catalog::{self, SourceType, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::immediate;
use crate::refresh::{self, Initiator, Outcome, barrier};
use crate::shmem;
use pgrx::prelude::*;
use pgtrickle_pg::on_commit::on_commit;
use pgtrickle_pg::{snapshot, wait};
use std::time::{Duration, Instant};

/// Brings a stream table, and those that it reads, up to all changes that are committed now.
#[pg_extern]
fn refresh_stream_table(name: &str) {
    let st = or_raise(super::to_change(name));
    or_raise(refresh_now(&st, |_, _| ()));
}

/// Refreshes a stream table if its contents are older than `max_age`; says whether it did.
#[pg_extern]
fn refresh_if_stale(name: &str, max_age: pgrx::datum::Interval) -> bool {
    let st = or_raise(super::to_change(name));
    let stale = catalog::scalar::<bool>(
        "SELECT coalesce(clock_timestamp() - data_timestamp > $2, true) FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1",
        &[st.pgt_id.into(), max_age.into()],
    )
    .unwrap_or(true);
    if stale {
        or_raise(refresh_now(&st, |_, _| ()));
    }
    stale
}

/// Waits until a stream table shows everything that committed before `lsn`, by default before now: read your own writes.
/// Returns whether it does; false when `timeout` passed first.
#[pg_extern]
fn wait_for_stream_table(
    name: &str,
    lsn: default!(Option<&str>, "NULL"),
    timeout: default!(pgrx::datum::Interval, "'30 s'"),
) -> bool {
    or_raise(super::require_primary());
    let st = or_raise(catalog::by_name(name));
    if st.is_immediate() {
        return is_current(&st, 0);
    }
    let target = match lsn {
        Some(text) => {
            catalog::scalar::<i64>("SELECT ($1::pg_lsn - '0/0'::pg_lsn)::bigint", &[text.into()]).unwrap_or(0) as u64
        }
        None => snapshot::insert_lsn(),
    };
    let seconds = catalog::scalar::<f64>("SELECT extract(epoch FROM $1)::float8", &[timeout.into()]).unwrap_or(0.0);
    let deadline = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1.0e9));
    // The frontier moves only with changes: when there are none after it, the stream table is current as it is.
    if let Some(db) = shmem::my_db()
        && barrier::wait_until_applied(db, target.min(pgtrickle_pg::wal::emit_barrier()), deadline - Instant::now())
            .is_err()
    {
        return false;
    }
    // Parents first: a change is in them before it can be in their readers.
    with_ancestors(&st).into_iter().all(|id| wait_until_current(id, target, deadline))
}

/// Waits until what committed before `lsn` is in a stream table whose parents have it.
fn wait_until_current(pgt_id: i64, lsn: u64, deadline: Instant) -> bool {
    let reads_others = |st: StreamTable| st.sources.iter().any(|s| s.kind == SourceType::StreamTable);
    // Parents' refreshes are older than this moment. They may be younger than a frontier that was taken after `lsn`.
    let lsn = if catalog::by_id(pgt_id).is_some_and(reads_others) { snapshot::insert_lsn() } else { lsn };
    loop {
        let reached = catalog::by_id(pgt_id).is_none_or(|now| is_current(&now, lsn));
        if reached || Instant::now() >= deadline {
            return reached;
        }
        wait::sleep(Duration::from_millis(2));
        pgrx::check_for_interrupts!();
    }
}

/// Whether everything that was committed to its sources before `lsn` is in the stream table: its frontier was taken later, or
/// none of them has a change that is not visible in it.
fn is_current(st: &StreamTable, lsn: u64) -> bool {
    let Some(frontier) = &st.frontier else { return false };
    if st.is_immediate() {
        return !st.needs_reinit && !st.restored && !matches!(st.status.as_str(), "PAUSED" | "SUSPENDED");
    }
    if st.needs_reinit || st.restored || st.generation != catalog::generation() {
        return false;
    }
    if frontier.lsn > lsn {
        return true;
    }
    let sources: Vec<u32> = st.sources.iter().map(|s| s.relid).collect();
    if st.time_dependent || catalog::tracking(&sources).iter().any(|t| t.degraded.is_some()) {
        return false;
    }
    st.sources.iter().all(|source| match source.kind {
        SourceType::Other => false,
        kind => !super::house::has_rows_beyond(source.relid, kind == SourceType::StreamTable, frontier),
    })
}

/// Refreshes a stream table and its ancestors in the current transaction; `after` runs under the refresh's snapshot.
pub fn refresh_now<T>(st: &StreamTable, after: impl FnOnce(&StreamTable, &snapshot::Snapshot) -> T) -> Result<T> {
    if st.is_immediate() {
        return immediate::refresh(st, |snapshot| after(st, snapshot));
    }
    super::require_server()?;
    let ids = refreshed_with(st);
    if snapshot::current_xid().is_some() {
        ids.iter().filter_map(|&id| catalog::by_id(id)).try_for_each(|st| check_transaction(&st))?;
    }
    let (outcomes, value) = refresh::refresh_then(&ids, Initiator::Manual, |snapshot| after(st, snapshot))?;
    count_on_commit(outcomes);
    Ok(value)
}

/// A stream table shows committed changes only, so a transaction that has changed a source cannot refresh.
fn check_transaction(st: &StreamTable) -> Result<()> {
    match source_changed_by_us(st) {
        None => Ok(()),
        Some(relid) => {
            let name = catalog::scalar::<String>("SELECT $1::regclass::text", &[pg_sys::Oid::from(relid).into()]);
            Err(Error::own_changes(&name.unwrap_or_default()))
        }
    }
}

/// A source that this transaction may have changed, so that the changes come under its id once it has committed. (What it has
/// refreshed is known by that.)
pub fn source_changed_by_us(st: &StreamTable) -> Option<u32> {
    let mut told_later = st.sources.iter().filter(|s| matches!(s.kind, SourceType::Table | SourceType::Immediate));
    told_later.find(|s| super::changed_by_us(s.relid)).map(|s| s.relid)
}

/// The stream table after all that are refreshed with it: those that it reads, unless they are maintained at once.
pub fn refreshed_with(st: &StreamTable) -> Vec<i64> {
    let mut ids = with_ancestors(st);
    if st.sources.iter().any(|s| s.kind != SourceType::Table) {
        ids.retain(|&id| id == st.pgt_id || !catalog::by_id(id).is_some_and(|other| other.is_immediate()));
    }
    ids
}

/// The stream table after all stream tables that it reads, directly or not.
pub fn with_ancestors(st: &StreamTable) -> Vec<i64> {
    let mut order = Vec::new();
    let mut pending = vec![(st.clone(), false)];
    while let Some((st, expanded)) = pending.pop() {
        if order.contains(&st.pgt_id) {
            continue;
        }
        if expanded {
            order.push(st.pgt_id);
            continue;
        }
        let parents = st.sources.iter().filter(|source| source.kind == SourceType::StreamTable);
        let parents: Vec<_> = parents.filter_map(|source| catalog::by_relid(source.relid)).collect();
        pending.push((st, true));
        pending.extend(parents.into_iter().map(|parent| (parent, false)));
    }
    order
}

fn count_on_commit(outcomes: Vec<Outcome>) {
    on_commit(move || outcomes.iter().for_each(Outcome::committed));
}
