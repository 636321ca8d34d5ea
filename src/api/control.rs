//! Pausing and resuming.

use crate::catalog::{self, StreamTable};
use crate::error::{Result, or_raise};
use crate::refresh::lock_all;
use crate::{immediate, shmem};
use pgrx::prelude::*;
use pgtrickle_pg::wait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Stops refreshing a stream table by itself. Its changes are kept until it is resumed. One with refresh_mode IMMEDIATE no
/// longer follows its sources, and is computed anew when it is resumed. Who reads the same source over it and over another way
/// waits for it (`diamond_groups()`).
#[pg_extern]
fn pause_stream_table(name: &str) {
    set_status(name, "PAUSED");
}

/// Goes on refreshing a stream table that was paused or suspended.
#[pg_extern]
fn resume_stream_table(name: &str) {
    let st = set_status(name, "ACTIVE");
    super::alert("resumed", Some(&st), "");
}

/// Sets the status of a stream table, PAUSED or ACTIVE.
pub fn set(st: &StreamTable, status: &str) -> Result<()> {
    if st.is_immediate() {
        if status == "ACTIVE" {
            immediate::hold_off_writers(st);
        }
        // Whoever writes to its sources at this moment still has it follow.
        lock_all(&[st.pgt_id]);
    }
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET status = $2, consecutive_errors = 0, needs_reinit = needs_reinit OR refresh_mode = 'IMMEDIATE' AND $2 = 'PAUSED'
          WHERE pgt_id = $1",
        &[st.pgt_id.into(), status.into()],
    );
    catalog::changed();
    if st.is_immediate() && status == "ACTIVE" { immediate::refresh(st, |_| ()) } else { Ok(()) }
}

fn set_status(name: &str, status: &str) -> catalog::StreamTable {
    let st = or_raise(super::to_change(name));
    or_raise(set(&st, status));
    st
}

/// Pauses every stream table that the caller owns; returns their number.
#[pg_extern]
fn pause_all() -> i64 {
    or_raise(super::require_primary());
    set_all("ACTIVE", "PAUSED")
}

/// Resumes every stream table that the caller owns and that is paused; returns their number.
///
/// Called by the extension's owner it also ends a drain.
#[pg_extern]
fn resume_all() -> i64 {
    or_raise(super::require_primary());
    if pgtrickle_pg::spi::owns_relation(catalog::relid(), pgtrickle_pg::spi::current_role())
        && let Some(db) = shmem::my_db()
    {
        db.draining.store(false, Ordering::SeqCst);
        db.scheduler_latch.wake();
    }
    set_all("PAUSED", "ACTIVE")
}

/// Before maintenance: the scheduler of this database finishes the refresh that it is at and begins no other until
/// `resume_all()`, or until it is started anew. Waits for that at most `timeout_s` seconds; says whether it has come to rest.
/// Changes are captured meanwhile.
#[pg_extern]
fn drain(timeout_s: default!(i32, 60)) -> bool {
    or_raise(super::require_primary());
    let Some(db) = shmem::my_db() else { return true };
    db.draining.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(timeout_s.max(0) as u64);
    while !is_drained() && Instant::now() < deadline {
        wait::sleep(Duration::from_millis(10));
        pgrx::check_for_interrupts!();
    }
    is_drained()
}

/// Whether the scheduler of this database rests after `drain()`.
#[pg_extern]
fn is_drained() -> bool {
    shmem::my_db().is_none_or(|db| db.draining.load(Ordering::SeqCst) && db.jobs_running.load(Ordering::SeqCst) == 0)
}

extension_sql!(
    "REVOKE EXECUTE ON FUNCTION pgtrickle.drain(integer) FROM PUBLIC;",
    name = "drain_is_for_the_owner",
    requires = [drain]
);

fn set_all(from: &str, to: &str) -> i64 {
    let caller = pgtrickle_pg::spi::current_role();
    let mine =
        catalog::all().into_iter().filter(|st| st.status == from && pgtrickle_pg::spi::owns_relation(st.relid, caller));
    let mut number = 0;
    for st in mine {
        or_raise(set(&st, to));
        number += 1;
        if to == "ACTIVE" {
            super::alert("resumed", Some(&st), "");
        }
    }
    catalog::changed();
    number
}
