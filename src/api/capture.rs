//! Capture of what a query reads, before a stream table is made of it.

use super::create::check_mode;
use super::track;
use crate::analyze::{Analysis, Capture, Source};
use crate::catalog;
use crate::error::{Error, Result, notice};
use crate::refresh::sources;
use crate::shmem::{self, CaptureState};
use crate::workers::tracker;
use pgrx::prelude::*;
use pgtrickle_pg::{lock, snapshot, wait};
use std::time::{Duration, Instant};

/// How long a creation waits for capture to start, before it goes on without.
const CAPTURE_START: Duration = Duration::from_secs(30);

/// Whether the first fill may store its snapshot as frontier.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Yes,
    /// Capture did not start before this transaction's snapshots; the first refresh has to compare.
    No,
}

pub fn is_stream_table(source: &Source) -> bool {
    catalog::by_relid(source.relid.to_u32()).is_some()
}

/// Sees to it that the changes of all sources are captured, if possible from before now.
pub fn start_capture(analysis: &Analysis) -> Result<Ready> {
    let mut ready = Ready::Yes;
    // Base tables first: what is made for stream tables gives this transaction an id.
    let (parents, bases): (Vec<_>, Vec<_>) = analysis.sources.iter().partition(|s| is_stream_table(s));
    for source in bases.into_iter().chain(parents) {
        let relid = source.relid.to_u32();
        if is_stream_table(source) {
            track::create_parent_buffer(relid)?;
            continue;
        }
        if source.capture != Capture::Wal {
            continue;
        }
        let columns = if source.columns.is_empty() { catalog::live_attributes(relid) } else { source.columns.clone() };
        let known = catalog::tracking(&[relid]).pop();
        let covered = known.is_some_and(|t| t.degraded.is_none() && columns.iter().all(|c| t.columns.contains(c)));
        if covered && sources::buffer_of(relid).is_some() {
            continue;
        }
        let identity: Option<i8> =
            catalog::scalar("SELECT relreplident FROM pg_catalog.pg_class WHERE oid = $1", &[source.relid.into()]);
        if identity != Some(b'f' as i8) {
            // The tracker has settings of its own; the caller's count as well.
            track::may_set_identity(&source.name)?;
            notice(
                &format!("table {} gets REPLICA IDENTITY FULL", source.name),
                Some(
                    "Its changes are captured with their old rows; it is put back when no stream table reads the table any more.",
                ),
            );
        }
        if !tracker_can(relid) {
            track::track(relid, &columns)?;
            ready = Ready::No;
        } else {
            tracker::start_capture(relid, &columns)?;
        }
    }
    if ready == Ready::Yes && analysis.sources.iter().any(|s| s.capture == Capture::Wal) {
        ready = wait_until_running();
    }
    Ok(ready)
}

/// Whether the tracker can see to the capture of a table while this transaction is open. It cannot see a table that this
/// transaction made, nor get past its locks: on the table, where that is altered, and on the buffer, where there is one. Whatever
/// this transaction locks itself the apply worker has to wait for.
pub fn tracker_can(relid: u32) -> bool {
    let captured = catalog::tracking(&[relid]).iter().any(|t| t.degraded.is_none()) && track::has_full_identity(relid);
    match sources::buffer_of(relid).filter(|_| captured) {
        Some(buffer) => {
            let parts = buffer.segments.iter().chain([&buffer.relid]);
            !super::changed_by_us(relid) && !parts.copied().any(super::locked_by_us)
        }
        None => !super::locked_by_us(relid) && snapshot::current_xid().is_none(),
    }
}

/// Changes are captured for certain only from when the slot exists.
pub fn wait_until_running() -> Ready {
    let begun = Instant::now();
    loop {
        let state = shmem::my_db().map_or(CaptureState::None, |db| db.capture_state());
        if state == CaptureState::Running {
            return Ready::Yes;
        }
        if shmem::my_db().is_none() && shmem::is_full() {
            pgrx::warning!(
                "pg_trickle serves {} databases already, which is all it can, and not this one: the stream table is filled now and followed once the extension is dropped in another database",
                shmem::MAX_DATABASES
            );
            return Ready::No;
        }
        // Our own transaction id would keep the slot from being created.
        if begun.elapsed() > CAPTURE_START || snapshot::current_xid().is_some() || state == CaptureState::Failing {
            notice(
                "change capture is not running yet",
                Some("The stream table is filled now; its first refresh compares it with its query."),
            );
            return Ready::No;
        }
        wait::sleep(Duration::from_millis(10));
        pgrx::check_for_interrupts!();
    }
}

/// Keeps the sources' buffers, and what is in them from now on, until we commit.
pub fn hold_buffers(analysis: &Analysis) -> Result<()> {
    for source in analysis.sources.iter().filter(|s| s.capture == Capture::Wal || is_stream_table(s)) {
        let buffer = sources::buffer_of(source.relid.to_u32());
        let held = buffer.is_some_and(|b| b.segments.iter().chain([&b.relid]).all(|&relid| lock::access_share(relid)));
        if !held {
            return Err(Error::new(
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("capture of table {} ended while the stream table was being created", source.name),
            )
            .hint("Try again."));
        }
    }
    Ok(())
}

/// Raises an error unless a definition still reads what it did when capture, or the triggers of mode IMMEDIATE, were seen to:
/// until its view existed nothing kept others from redefining views and tables that it reads.
pub fn confirm(seen_to: &Analysis, mode: &str, now: &Analysis) -> Result<()> {
    let known = |source: &Source| {
        let of_same = |s: &&Source| s.relid == source.relid && s.capture == source.capture;
        let covers = |s: &Source| source.columns.iter().all(|c| s.columns.contains(c)) || s.columns.is_empty();
        seen_to.sources.iter().find(of_same).is_some_and(covers)
    };
    match now.sources.iter().find(|source| !known(source)) {
        None => check_mode(mode, now),
        Some(source) => Err(Error::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("somebody has redefined what the query reads of {} meanwhile", source.name),
        )
        .hint("Try again.")),
    }
}
