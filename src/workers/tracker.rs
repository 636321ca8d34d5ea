//! Starting capture of a table. It must be committed before the snapshot with which a stream table is filled, so it
//! happens in a short transaction of its own, in a worker that lives just for that.

use super::seat;
use crate::api::track;
use crate::error::{Error, Result};
use crate::shmem::{self, TrackRequest};
use pgrx::bgworkers::{BackgroundWorkerBuilder, DynamicBackgroundWorker};
use pgrx::prelude::*;
use pgtrickle_pg::xact::Failure;
use pgtrickle_pg::{lock, worker, xact};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const ASKED: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;

/// A place in the table of requests, given back when dropped; and what its worker is told: its number, and the ticket in the
/// upper half.
struct Request(&'static TrackRequest, usize);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.pid.store(0, Ordering::SeqCst);
    }
}

/// Has a worker start, or widen, the capture of a table, and waits until that is committed.
pub fn start_capture(relid: u32, columns: &[i16]) -> Result<()> {
    let request = claim()?;
    request.0.dboid.store(pgtrickle_pg::spi::my_database_id(), Ordering::Relaxed);
    request.0.relid.store(relid, Ordering::Relaxed);
    for (word, place) in request.0.columns.iter().enumerate() {
        let bits =
            columns.iter().filter(|&&c| c as usize / 64 == word).fold(0u64, |bits, &c| bits | 1 << (c as usize % 64));
        place.store(bits, Ordering::Relaxed);
    }
    let worker = start_worker(request.1)?;
    if worker.wait_for_shutdown().is_err() {
        return Err(Error::new(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN, "the server is shutting down"));
    }
    match request.0.state.load(Ordering::SeqCst) {
        DONE => {
            pgtrickle_pg::class::accept_changes();
            Ok(())
        }
        FAILED => {
            let code = PgSqlErrorCode::from(request.0.code.load(Ordering::Relaxed) as isize);
            Err(Error::new(code, shmem::load_text(&request.0.message)))
        }
        _ => {
            Err(Error::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "the worker that starts change capture ended early")
                .hint("The server log says why."))
        }
    }
}

/// Starts the worker for a request; where the server has no slot for one, the pools give theirs back.
fn start_worker(request: usize) -> Result<DynamicBackgroundWorker> {
    let deadline = Instant::now() + seat::GIVING_BACK * 3;
    loop {
        let started = BackgroundWorkerBuilder::new("pg_trickle_tracker")
            .set_type("pg_trickle_tracker")
            .set_library("pg_trickle")
            .set_function("pgtrickle_tracker_main")
            .set_argument(Some(pg_sys::Datum::from(request)))
            .set_notify_pid(worker::pid())
            .enable_spi_access()
            .set_restart_time(None)
            .load_dynamic();
        if let Ok(worker) = started {
            return Ok(worker);
        }
        if !seat::ask_pools_for_room() || Instant::now() > deadline {
            return Err(Error::new(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "no free background worker to start change capture",
            )
            .hint("Raise max_worker_processes."));
        }
        pgtrickle_pg::wait::sleep(Duration::from_millis(20));
        pgrx::check_for_interrupts!();
    }
}

fn claim() -> Result<Request> {
    let mut requests = shmem::shared().track_requests.iter().enumerate();
    let found = requests.find(|(_, request)| worker::take_place(&request.pid));
    let asked = found.map(|(number, request)| {
        let ticket = request.ticket.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        request.state.store(ASKED, Ordering::SeqCst);
        Request(request, number | (ticket as usize) << 32)
    });
    asked.ok_or_else(|| {
        Error::new(PgSqlErrorCode::ERRCODE_TOO_MANY_CONNECTIONS, "too many stream tables are being created at once")
            .hint("Try again.")
    })
}

/// After an interruption capture is complete only when everybody who wrote without being captured has ended.
fn complete(relid: u32) -> std::result::Result<(), Failure> {
    let resuming = xact::attempt(|| {
        let resuming = track::is_resuming(relid);
        if resuming {
            lock::wait_for_writers(relid);
        }
        Ok::<_, Failure>(resuming)
    })?;
    if !resuming {
        return Ok(());
    }
    xact::attempt(|| {
        track::resume(relid);
        Ok::<_, Failure>(())
    })
}

/// Main function of the worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_tracker_main(number: pg_sys::Datum) {
    worker::handle_signals();
    let ticket = (number.value() >> 32) as u32;
    let Some(request) = shmem::shared().track_requests.get(number.value() & u32::MAX as usize) else { return };
    worker::connect(request.dboid.load(Ordering::Relaxed));
    worker::set_config(c"application_name", c"pg_trickle_tracker");
    worker::neutralise_settings();
    // Writers that queue behind our lock request wait no longer than this.
    worker::set_config(c"lock_timeout", c"500ms");
    let relid = request.relid.load(Ordering::Relaxed);
    let columns: Vec<i16> = (1..26 * 64)
        .filter(|&c: &usize| request.columns[c / 64].load(Ordering::Relaxed) >> (c % 64) & 1 == 1)
        .map(|c| c as i16)
        .collect();
    // Who asked waits for this worker, unless terminated; then the place may be another's already.
    let wanted =
        || worker::is_backend(request.pid.load(Ordering::SeqCst)) && request.ticket.load(Ordering::SeqCst) == ticket;
    // What was read above is of this request if it still is here.
    if !wanted() {
        return;
    }
    let mut result = xact::attempt(|| track::track(relid, &columns));
    for _ in 0..40 {
        let busy = matches!(&result, Err(failure) if failure.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE);
        if !busy {
            break;
        }
        worker::attend();
        if !wanted() {
            return;
        }
        pgtrickle_pg::wait::sleep(Duration::from_millis(100));
        result = xact::attempt(|| track::track(relid, &columns));
    }
    // From here on nobody queues behind us.
    worker::set_config(c"lock_timeout", c"0");
    let result = result.and_then(|()| complete(relid));
    match result {
        _ if !wanted() => {}
        Ok(()) => request.state.store(DONE, Ordering::SeqCst),
        Err(failure) => {
            request.code.store(failure.code as i32, Ordering::Relaxed);
            shmem::store_text(&request.message, &failure.message);
            request.state.store(FAILED, Ordering::SeqCst);
        }
    }
}
