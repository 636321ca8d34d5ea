//! `pg_trickle_apply`: receives changes and writes them to the change buffers.
//!
//! A thread receives, this process's main thread writes; between them is a queue that is bounded in bytes. Many source
//! transactions are written in one transaction, together with the position that they reach (as the progress of a
//! replication origin). The decoder is told a position once it is durable, and never one beyond that progress.

use super::apply_sink::Applier;
use super::capture::{self, Lsn, slot_name, socket_path};
use super::wal_decoder;
use crate::error::is_internal;
use crate::settings;
use crate::shmem::DbShared;
use pgrx::prelude::*;
use pgtrickle_apply::{Config, Counters, Delivery, Event, Frame, Peer, Queue};
use pgtrickle_decoder::session::abi;
use pgtrickle_pg::wait::{Interest, WaitSet, WakeUp};
use pgtrickle_pg::xact::failure_code;
use pgtrickle_pg::{decoding, heap, origin, worker};
use pgtrickle_wire::{Encoding, Hello, Role};
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::time::Duration;

/// How soon an acknowledgement is tried again that the socket did not take, or whose commit was not on disk.
const ACK_RETRY: Duration = Duration::from_millis(100);

thread_local! {
    /// The receiving side, where the exit hook finds it.
    static QUEUE: RefCell<Option<Queue>> = const { RefCell::new(None) };
}

/// Entry of the worker; its argument is the database's oid.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgtrickle_apply_main(argument: pg_sys::Datum) {
    let dboid = argument.value() as u32;
    let db = capture::start(dboid, c"pg_trickle_apply");
    db.apply_latch.publish();
    db.apply_pid.store(worker::pid(), Release);
    worker::before_exit(leave);
    PgTryBuilder::new(|| work(dboid, db))
        .catch_others(|error| {
            if let Some(relid) = heap::blamed_source().filter(|_| is_of_the_row(failure_code(&error))) {
                wal_decoder::blame(db, relid);
            }
            capture::note_failure();
            error.rethrow()
        })
        .execute();
}

/// Whether an error comes again whenever the row does: it is too big for a page of the buffer, say. Then its source is given up,
/// or no other would be captured any more.
fn is_of_the_row(code: PgSqlErrorCode) -> bool {
    is_internal(code) || code == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
}

/// Stops the receiver thread and tells that this process is gone.
fn leave() {
    let queue = QUEUE.with(|queue| queue.try_borrow_mut().ok().and_then(|mut queue| queue.take()));
    drop(queue);
    if let Some(db) = crate::shmem::my_db()
        && db.apply_pid.compare_exchange(worker::pid(), 0, AcqRel, Relaxed).is_ok()
    {
        db.apply_latch.clear();
    }
}

/// Runs `work` with the queue. Nothing in it may raise an error of PostgreSQL.
fn with_queue<T>(work: impl FnOnce(&mut Queue) -> T) -> T {
    QUEUE.with_borrow_mut(|queue| work(queue.as_mut().expect("the receiver runs until the process exits")))
}

fn work(dboid: u32, db: &'static DbShared) {
    // See `Flushing`: nobody waits for these commits to be on disk but the slot.
    worker::set_config(c"synchronous_commit", c"off");
    let name = CString::new(slot_name(dboid)).expect("digits and letters");
    take_origin(&name);
    let wake = WakeUp::new().unwrap_or_else(|e| error!("could not make an eventfd: {e}"));
    receive(dboid, db, &wake);
    let mut apply =
        ApplyWorker { name, applier: Applier::new(db, origin::progress()), delivery: Delivery::new(), peer: None };
    let mut set = WaitSet::new(wake.fd());
    worker::report_activity(c"waiting for the decoder", false);
    loop {
        wake.clear();
        worker::attend();
        apply.take_events();
        apply.applier.report_statistics();
        let unsent = apply.peer.as_ref().is_some_and(Peer::has_unsent);
        let retry = (unsent || apply.applier.is_flushing()).then_some(ACK_RETRY);
        set.wait(Interest::Read, retry);
    }
}

/// Makes the origin if this is the first time, and takes it.
fn take_origin(name: &CStr) {
    let id = worker::in_transaction(|| origin::find(name).unwrap_or_else(|| origin::create(name)));
    worker::in_transaction(|| {
        let (progress, flushed) = (origin::progress_of(id), decoding::flushed().lsn);
        if progress > flushed {
            let (progress, flushed) = (Lsn(progress), Lsn(flushed));
            pgrx::warning!("pg_trickle: buffers claim to be at {progress}, beyond the end of WAL at {flushed}");
            origin::reset(id);
        }
    });
    worker::in_transaction(|| origin::take(id));
}

/// Listens on the socket and starts the receiver thread.
fn receive(dboid: u32, db: &'static DbShared, wake: &WakeUp) {
    let path = socket_path(dboid);
    let bind = || {
        // Some backups leave out the directory, too.
        let _ = std::path::Path::new(&path).parent().map(std::fs::create_dir);
        // What a predecessor left behind; that it may not exist is fine, any other trouble shows when binding.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let config = Config {
            capacity_bytes: settings::QUEUE_CAPACITY_BYTES.get() as usize,
            counters: Counters {
                pending_records: &db.pending_records,
                pending_records_max: &db.pending_records_max,
                queue_depth: &db.queue_depth,
                queue_bytes: &db.queue_bytes,
                records_total: &db.records_total,
                bytes_total: &db.bytes_total,
                transactions_total: &db.transactions_total,
            },
        };
        let waker = wake.waker()?;
        worker::with_signals_blocked(|| pgtrickle_apply::start(config, listener, waker))
    };
    let queue = bind().unwrap_or_else(|e: std::io::Error| error!("could not listen on {path}: {e}"));
    QUEUE.set(Some(queue));
}

struct ApplyWorker {
    name: CString,
    applier: Applier,
    delivery: Delivery,
    peer: Option<Peer>,
}

impl ApplyWorker {
    /// Handles everything that the receiver thread has to tell.
    fn take_events(&mut self) {
        while let Some(event) = with_queue(Queue::try_next) {
            match event {
                Event::Connected(peer) => self.connected(peer),
                Event::Greeted(hello) => {
                    let start = Lsn(hello.get().start_lsn);
                    pgrx::log!("pg_trickle: receiving changes from {start} on");
                    worker::report_activity(c"applying", true);
                }
                Event::Frame(frame) => self.frame(frame),
                Event::Disconnected(reason) => {
                    self.start_over();
                    self.peer = None;
                    pgrx::log!("pg_trickle: the decoder is gone: {reason}");
                    worker::report_activity(c"waiting for the decoder", false);
                }
                Event::Failed(reason) => error!("pg_trickle cannot receive changes any more: {reason}"),
            }
            worker::attend();
        }
        self.acknowledge();
    }

    /// What was not committed comes again.
    fn start_over(&mut self) {
        self.applier.abort();
        self.delivery = Delivery::new();
        with_queue(Queue::rows_discarded);
    }

    fn connected(&mut self, mut peer: Peer) {
        self.start_over();
        let hello = Hello {
            role: Role::Consumer,
            encoding: Encoding::Raw,
            abi: abi(),
            start_lsn: self.applier.progress(),
            slot: self.name.to_bytes(),
        };
        match peer.greet(&hello) {
            Ok(()) => self.peer = Some(peer),
            Err(e) => {
                pgrx::log!("pg_trickle: the decoder went away at once: {e}");
                with_queue(Queue::disconnect);
            }
        }
    }

    fn frame(&mut self, frame: Frame) {
        let delivered = self.delivery.deliver(frame.payload(), &mut self.applier);
        drop(frame);
        if let Err(e) = delivered {
            pgrx::warning!("pg_trickle: the change stream is invalid and will be read again: {e}");
            self.start_over();
            with_queue(Queue::disconnect);
            return;
        }
        if !self.delivery.inside() && with_queue(|queue| queue.is_empty()) {
            self.applier.commit();
        }
        self.acknowledge();
        self.applier.watch_pending();
    }

    /// Passes on what has become durable.
    fn acknowledge(&mut self) {
        let settled = self.applier.take_settled_rows();
        if settled > 0 {
            with_queue(|queue| queue.rows_committed(settled));
        }
        let Some(peer) = &mut self.peer else { return };
        let sent = match self.applier.take_durable() {
            Some(lsn) => peer.ack(lsn),
            None => peer.flush(),
        };
        if let Err(e) = sent {
            // The receiver thread finds out by itself, and tells with Disconnected.
            pgrx::debug1!("pg_trickle: could not acknowledge: {e}");
        }
    }
}
