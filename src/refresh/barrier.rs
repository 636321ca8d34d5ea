//! The barrier: waiting until everything that committed before now is in the change buffers.

use crate::error::{Error, Result};
use crate::shmem::{self, CaptureState, DbShared};
use pgtrickle_pg::shmem::LatchSlot;
use pgtrickle_pg::{wait, wal, worker};
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest wait for the capture workers before a refresh gives up.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest sleep between two looks, in case a wake-up found no free place.
const NAP: Duration = Duration::from_millis(50);

/// Waits until all changes that are visible to a snapshot taken before this call are in the change buffers, and says
/// how long that took. It can be cancelled.
pub fn wait_for_capture() -> Result<Duration> {
    let begun = Instant::now();
    let db = shmem::my_db().ok_or_else(|| Error::unserved(shmem::is_full()))?;
    let target = wal::emit_barrier();
    db.barriers_total.fetch_add(1, Ordering::Relaxed);
    db.decoder_latch.wake();
    wait_until_applied(db, target, TIMEOUT)?;
    Ok(begun.elapsed())
}

/// Waits until everything that committed before `lsn` is in the change buffers.
pub fn wait_until_applied(db: &'static DbShared, lsn: u64, timeout: Duration) -> Result<()> {
    let begun = Instant::now();
    let applied = || db.applied_lsn.load(Ordering::SeqCst) >= lsn;
    let _place = Place::take(&db.waiters);
    while !applied() {
        if begun.elapsed() > timeout {
            return Err(Error::capture_timeout(timeout.as_secs(), describe(db.capture_state())));
        }
        wait::sleep(NAP);
        pgrx::check_for_interrupts!();
    }
    Ok(())
}

fn describe(state: CaptureState) -> &'static str {
    match state {
        CaptureState::None => "not running in this database",
        CaptureState::Starting => "starting (a new slot waits for the transactions that are open now)",
        CaptureState::Running => "running, but behind",
        CaptureState::Failing => "failing",
    }
}

/// Who is terminated while it waits runs no destructors, and whoever has its latch next would be woken at every commit.
fn leave() {
    if let Some(db) = shmem::my_db() {
        db.waiters.iter().for_each(LatchSlot::retract);
    }
}

/// A place among those whom the apply worker wakes; without one, the naps of the wait suffice.
struct Place(Option<&'static LatchSlot>);

impl Place {
    fn take(places: &'static [LatchSlot]) -> Place {
        static LEAVE: Once = Once::new();
        LEAVE.call_once(|| worker::before_exit(leave));
        Place(places.iter().find(|place| place.try_publish()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.clear();
        }
    }
}
