//! The replication slot of a database: making it, and noticing when it is not the one that capture left off with.
//!
//! `pgtrickle.pgt_capture` remembers the slot. Its `created_lsn` is 0/0 while a slot is being made, so that a crash in
//! between is noticed. Whenever capture has to start anew `generation` grows, and every stream table that was refreshed
//! in an earlier generation is recomputed. Old buffer rows do no harm: their transactions are visible to any snapshot
//! that is taken in the new generation.

use super::capture::{Lsn, alert};
use crate::error::{Error, Result, or_raise};
use crate::shmem;
use pgrx::prelude::*;
use pgtrickle_pg::slot::{self, SlotState};
use pgtrickle_pg::{decoding, spi, wait, wal, worker};
use std::time::Duration;

/// Pause between two looks at commits that are not visible yet.
const LOOK: Duration = Duration::from_millis(5);

/// What was remembered.
struct Remembered {
    ours: bool,
    complete: bool,
    created_lsn: u64,
    /// Of the WAL when the slot was last used; 0 if that is not known.
    timeline: u32,
}

const READ: &str = "SELECT system_identifier, dboid, (created_lsn - '0/0')::numeric, timeline \
    FROM pgtrickle.pgt_capture WHERE slot_name = $1";
const UNSETTLE: &str = "UPDATE pgtrickle.pgt_capture SET created_lsn = '0/0' WHERE slot_name = $1";
const RECORD: &str = "INSERT INTO pgtrickle.pgt_capture (slot_name, system_identifier, dboid, generation, created_lsn, timeline) \
    SELECT $1, $2, $3, \
        greatest(coalesce(max(generation), 0) + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), \
        $4::pg_lsn, $5 FROM pgtrickle.pgt_capture \
    ON CONFLICT (slot_name) DO UPDATE SET system_identifier = EXCLUDED.system_identifier, dboid = EXCLUDED.dboid, \
        generation = EXCLUDED.generation, created_lsn = EXCLUDED.created_lsn, created_at = now(), timeline = EXCLUDED.timeline";
const NOTE_TIMELINE: &str = "UPDATE pgtrickle.pgt_capture SET timeline = $2 WHERE slot_name = $1";
const FORGET_OTHERS: &str = "DELETE FROM pgtrickle.pgt_capture WHERE slot_name <> $1";

/// Makes sure that the slot exists, that it can be decoded (`stuck` if that failed again and again) and that what is
/// remembered belongs to it.
pub fn ensure(name: &str, stuck: bool) {
    let (remembered, state) = worker::in_transaction(|| (read(name), slot::state(name)));
    let reason = match (&remembered, &state) {
        (None, SlotState::Missing) => None,
        (Some(r), SlotState::Usable { synced, .. }) if r.ours && r.complete && !stuck => {
            let now = wal::timeline();
            if r.timeline == now {
                return;
            }
            // Promoted since. A slot that was here before has missed what the other server did, catalog and all.
            if *synced || r.timeline == 0 {
                worker::in_transaction(|| or_raise(run(NOTE_TIMELINE, &[name.into(), (now as i32).into()])));
                return;
            }
            Some("this server was promoted".to_string())
        }
        (None, _) => Some("its slot was left behind by an earlier installation".to_string()),
        (Some(r), _) if !r.ours => Some("the database was restored or copied".to_string()),
        (Some(_), SlotState::Unusable(why)) => Some(format!("its slot cannot be used: {why}")),
        (Some(_), SlotState::Missing) => Some("its slot is gone".to_string()),
        (Some(_), SlotState::Usable { .. }) if stuck => Some("the WAL since then cannot be decoded".to_string()),
        (Some(_), SlotState::Usable { .. }) => Some("making its slot was interrupted".to_string()),
    };
    if let Some(reason) = &reason {
        pgrx::warning!("pg_trickle: change capture starts anew: {reason}; all stream tables will be recomputed");
    }
    make(name, remembered.is_some(), state != SlotState::Missing, reason.is_some());
}

/// Makes the slot anew. Each step is a transaction of its own: a slot cannot be made by one that has written.
fn make(name: &str, remembered: bool, exists: bool, anew: bool) {
    if remembered {
        worker::in_transaction(|| or_raise(run(UNSETTLE, &[name.into()])));
    }
    if exists {
        worker::in_transaction(|| slot::drop(name));
    }
    worker::report_activity(c"creating the replication slot: waiting for running transactions", true);
    let created = worker::in_transaction(|| slot::create(name));
    wait_for_invisible_commits();
    worker::in_transaction(|| or_raise(record(name, created)));
    if anew {
        let payload = r#"{"event":"reinitialize_needed","reason":"capture started anew"}"#;
        super::or_warn("an alert could not be sent", || alert(payload));
    }
    if let Some(db) = shmem::my_db().filter(|_| anew) {
        // What was missed meanwhile is in no buffer, and may be the last that is written for long.
        db.note_change_of_all();
        db.scheduler_latch.wake();
    }
    pgrx::log!("pg_trickle: created replication slot {name} at {}", Lsn(created));
}

/// A transaction that committed just before the slot begins may become visible only later, and nothing will ever tell its changes.
/// The new generation is told when no snapshot can miss one of these any more. Those that commit meanwhile are decoded.
fn wait_for_invisible_commits() {
    let mut committing = slot::Committing::now();
    while !committing.are_over() {
        pause();
    }
    let invisible = worker::in_transaction(slot::invisible_commits);
    while worker::in_transaction(|| slot::running().iter().any(|xid| invisible.contains(xid))) {
        worker::report_activity(c"creating the replication slot: waiting for commits to become visible", true);
        pause();
    }
}

fn pause() {
    wait::sleep(LOOK);
    worker::attend();
}

fn record(name: &str, created: u64) -> Result<()> {
    let lsn = Lsn(created).to_string();
    let system = worker::system_identifier() as i64;
    let dboid = pg_sys::Oid::from(spi::my_database_id());
    let timeline = wal::timeline() as i32;
    run(RECORD, &[name.into(), system.into(), dboid.into(), lsn.into(), timeline.into()])?;
    run(FORGET_OTHERS, &[name.into()])
}

/// Refuses a slot that has been confirmed beyond what is in the buffers: somebody else made or moved it. The next start
/// of the worker makes a new one.
pub fn check_position(name: &str, applied_lsn: u64) {
    let (remembered, state) = worker::in_transaction(|| (read(name), slot::state(name)));
    let (Some(remembered), SlotState::Usable { confirmed_lsn, .. }) = (remembered, state) else {
        Error::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format!("replication slot {name} changed"))
            .raise()
    };
    let flushed = decoding::flushed().lsn;
    if confirmed_lsn <= applied_lsn.max(remembered.created_lsn) && applied_lsn <= flushed {
        return;
    }
    worker::in_transaction(|| or_raise(run(UNSETTLE, &[name.into()])));
    Error::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("replication slot {name} is not where change capture left off"),
    )
    .detail(format!("The slot is at {}, the change buffers at {}.", Lsn(confirmed_lsn), Lsn(applied_lsn)))
    .hint("It will be made anew, and all stream tables recomputed. Leave the slot to pg_trickle.")
    .raise()
}

fn read(name: &str) -> Option<Remembered> {
    let found = Spi::connect(|client| -> pgrx::spi::Result<Option<Remembered>> {
        let rows = client.select(READ, Some(1), &[name.into()])?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let system: Option<i64> = row.get(1)?;
        let dboid: Option<pg_sys::Oid> = row.get(2)?;
        let created: Option<AnyNumeric> = row.get(3)?;
        let created_lsn = created.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let ours = system == Some(worker::system_identifier() as i64)
            && dboid.map(pg_sys::Oid::to_u32) == Some(spi::my_database_id());
        let timeline: Option<i32> = row.get(4)?;
        let timeline = timeline.unwrap_or(0) as u32;
        Ok(Some(Remembered { ours, complete: created_lsn != 0, created_lsn, timeline }))
    });
    found.unwrap_or_else(|e| error!("could not read pgtrickle.pgt_capture: {e}"))
}

fn run(sql: &str, arguments: &[pgrx::datum::DatumWithOid<'_>]) -> Result<()> {
    let done = Spi::connect_mut(|client| client.update(sql, None, arguments).map(|_| ()));
    done.map_err(|e| {
        Error::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("could not write pgtrickle.pgt_capture: {e}"))
    })
}
