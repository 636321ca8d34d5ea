//! The loop of the decoder worker: reads WAL, runs the plugin, sleeps when there is nothing to read.

use crate::callbacks::session;
use crate::link::Link;
use crate::relations::Quarantine;
use crate::session::abi;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys::panic::ErrorReport};
use pgtrickle_pg::decoding::{self, Context, Decoding, Flushed, WalSource};
use pgtrickle_pg::worker;
use pgtrickle_wire::{Encoding, Hello, Role, WireError};
use std::ffi::{CStr, CString};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest sleep: WAL that nobody wakes us for (of other databases, of the server itself) is read at this pace.
const IDLE: Duration = Duration::from_secs(1);
/// How often the apply worker is told that nothing of interest came, so that the slot goes forward.
const PROGRESS: Duration = Duration::from_secs(1);
/// Records between two looks at the clock.
const STEPS: u32 = 1024;

/// How the world outside takes part.
pub trait Monitor {
    /// Newest commit of this database, perhaps not flushed yet.
    fn wanted_flush(&self) -> u64;
    /// Whether a commit must set our latch to be noticed.
    fn set_sleeping(&self, sleeping: bool);
    /// Everything that committed before this has been sent.
    fn sent(&self, lsn: u64);
    /// The configuration has been read again.
    fn reloaded(&self);
    /// A quarantined relation is recorded as not captured, or captured anew: it need not be remembered any more.
    fn quarantine_over(&self, relid: u32);
}

/// An apply worker that fits, and from where on it wants changes.
pub struct Greeted {
    link: Link,
    /// All that committed before this is in the buffers.
    pub start_lsn: u64,
}

/// What to decode.
pub struct Config {
    /// The slot; it exists.
    pub slot: CString,
    /// Replication origin under which the apply worker writes.
    pub own_origin: u16,
    /// Relations whose changes made capture fail again and again.
    pub quarantined: Vec<Quarantine>,
    /// The world outside.
    pub monitor: &'static dyn Monitor,
}

fn refuse(error: &WireError) -> ! {
    let message = format!("the apply worker does not fit: {error}");
    ErrorReport::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, "pg_trickle")
        .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Waits for the apply worker's Hello, which says where to start; ours follows with the first frame.
pub fn greet(socket: UnixStream, slot: &CStr) -> Greeted {
    let mut link = Link::new(socket).unwrap_or_else(|e| pgrx::error!("could not use the apply worker's socket: {e}"));
    let theirs = link.hello();
    let theirs = theirs.get();
    let (role, encoding, slot) = (Role::Producer, Encoding::Raw, slot.to_bytes());
    let ours = Hello { role, encoding, abi: abi(), start_lsn: theirs.start_lsn, slot };
    ours.check_peer(&theirs).unwrap_or_else(|e| refuse(&e));
    Greeted { link, start_lsn: theirs.start_lsn }
}

/// Decodes until an error or SIGTERM ends the process.
pub fn run(greeted: Greeted, config: Config) -> ! {
    let Greeted { link, start_lsn } = greeted;
    let Config { slot, own_origin, quarantined, monitor } = config;
    let options = [(c"encoding", CString::from(c"raw")), (c"tracked", CString::from(c"on"))];
    let waiter = Waiter { monitor, progress: Instant::now() };
    let mut decoding = Decoding::start(&slot, start_lsn, &options, Box::new(waiter));
    let run = session(decoding.context());
    run.connect(link, own_origin, start_lsn, slot.to_bytes());
    quarantined.into_iter().for_each(|quarantine| run.quarantine(quarantine));
    let mut housekeeping = Waiter { monitor, progress: Instant::now() };
    loop {
        for _ in 0..STEPS {
            decoding.step();
        }
        if worker::attend() {
            monitor.reloaded();
        }
        housekeeping.keep_up(decoding.context());
    }
}

struct Waiter {
    monitor: &'static dyn Monitor,
    /// When progress was last told.
    progress: Instant,
}

impl Waiter {
    /// What has to happen now and then, however much or little WAL there is.
    fn keep_up(&mut self, context: Context) {
        let run = session(context);
        if let Some(link) = run.link() {
            link.take_acks();
            if link.take_reloaded() {
                self.monitor.reloaded();
            }
        }
        run.take_released().into_iter().for_each(|relid| self.monitor.quarantine_over(relid));
        if self.progress.elapsed() >= PROGRESS {
            self.progress = Instant::now();
            run.progress(context);
            self.monitor.sent(run.told_lsn());
        }
    }
}

impl WalSource for Waiter {
    fn wait(&mut self, context: Context, wanted: u64) -> Flushed {
        let now = decoding::flushed();
        if now.lsn >= wanted {
            return now;
        }
        let run = session(context);
        run.finish(context);
        self.monitor.sent(run.told_lsn());
        self.monitor.set_sleeping(true);
        loop {
            if worker::attend() {
                self.monitor.reloaded();
            }
            let mut now = decoding::flushed();
            let committed = self.monitor.wanted_flush();
            if committed > now.lsn {
                decoding::flush_wal(committed);
                now = decoding::flushed();
            }
            if now.lsn >= wanted {
                self.monitor.set_sleeping(false);
                return now;
            }
            self.keep_up(context);
            if let Some(link) = session(context).link() {
                link.sleep(IDLE);
            }
        }
    }
}
