//! The receiver thread: accepts the decoder, reads and checks its frames, queues them.

use crate::assembler::Assembler;
use crate::counters::Counters;
use crate::error::{Reason, StreamError};
use crate::gate::Gate;
use crate::peer::{Peer, Said};
use crate::queue::{Event, Frame, Queue};
use crossbeam_channel::Sender;
use pgtrickle_wire::{FRAME_HEADER, FrameReader, HelloBuf};
use rustix::event::{PollFd, PollFlags, poll};
use std::any::Any;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames in the channel; their bytes are bounded by the gate, this bounds the rest.
const FRAMES_MAX: usize = 4096;
/// What a frame costs beside its payload.
const FRAME_COST: usize = 256;
/// How to receive.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The queue holds no more bytes than this, or one larger frame.
    pub capacity_bytes: usize,
    /// Where to count.
    pub counters: Counters,
}

/// Starts the receiver thread on a bound socket. `wake` is called on that thread after each event and must only wake
/// the main thread (write to an eventfd, say).
///
/// The caller masks all signals around this call: the thread inherits the mask and must never run a handler.
pub fn start(config: Config, listener: UnixListener, wake: impl Fn() + Send + 'static) -> io::Result<Queue> {
    let (stop, stopped) = UnixStream::pair()?;
    // A decoder that vanishes between poll and accept must not leave us waiting in accept.
    listener.set_nonblocking(true)?;
    let (sender, events) = crossbeam_channel::bounded(FRAMES_MAX);
    let counters = config.counters;
    counters.clear_gauges();
    let gate = Gate::new(config.capacity_bytes, counters.queue_bytes);
    let shared = Arc::new(Shared { gate, state: Mutex::default() });
    let out = Out { sender, wake, counters, gate: Arc::clone(&shared.gate) };
    let for_thread = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("pg_trickle receiver".into()).spawn(move || {
        let run = AssertUnwindSafe(|| accept_loop(&listener, &stopped, &for_thread, &out));
        let failure = match catch_unwind(run) {
            Ok(Ok(Stopped)) => return,
            Ok(Err(e)) => format!("could not accept a connection: {e}"),
            Err(panic) => format!("panic in the receiver thread: {}", panic_text(&*panic)),
        };
        let _ = out.send(Event::Failed(failure));
    })?;
    Ok(Queue::new(events, shared, stop, thread, counters))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}

/// What both threads hold.
#[derive(Debug)]
pub(crate) struct Shared {
    gate: Arc<Gate>,
    state: Mutex<Connection>,
}

#[derive(Debug, Default)]
struct Connection {
    closed: bool,
    stream: Option<Arc<UnixStream>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Connection> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receiver shall end.
    pub(crate) fn close(&self) {
        self.gate.close();
        let mut state = self.state();
        state.closed = true;
        if let Some(stream) = &state.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Makes `stream` the current connection, unless the receiver shall end.
    fn enter(&self, stream: Option<Arc<UnixStream>>) -> Result<(), Stopped> {
        let mut state = self.state();
        state.stream = stream;
        if state.closed { Err(Stopped) } else { Ok(()) }
    }
}

/// The main thread wants no more.
struct Stopped;

/// The thread's end of the queue.
struct Out<W> {
    sender: Sender<Event>,
    wake: W,
    counters: Counters,
    gate: Arc<Gate>,
}

impl<W: Fn()> Out<W> {
    fn send(&self, event: Event) -> Result<(), Stopped> {
        self.sender.send(event).map_err(|_| Stopped)?;
        (self.wake)();
        Ok(())
    }
}

/// Why reading from a connection ended.
enum End {
    Stopped,
    Disconnected(Reason),
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        End::Stopped
    }
}

impl<E: Into<Reason>> From<E> for End {
    fn from(e: E) -> Self {
        End::Disconnected(e.into())
    }
}

fn accept_loop<W: Fn()>(
    listener: &UnixListener,
    stopped: &UnixStream,
    shared: &Shared,
    out: &Out<W>,
) -> io::Result<Stopped> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(Stopped);
        }
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(e) => match e.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted => continue,
                _ => return Err(e),
            },
        };
        if converse(stream, shared, out).is_err() {
            return Ok(Stopped);
        }
    }
}

/// One connection from beginning to end.
fn converse<W: Fn()>(stream: UnixStream, shared: &Shared, out: &Out<W>) -> Result<(), Stopped> {
    let stream = Arc::new(stream);
    let said = Said::default();
    shared.enter(Some(Arc::clone(&stream)))?;
    out.send(Event::Connected(Peer::new(Arc::clone(&stream), Arc::clone(&said))))?;
    let end = receive(&mut &*stream, &said, out);
    shared.enter(None)?;
    let _ = stream.shutdown(Shutdown::Both);
    match end {
        End::Stopped => Err(Stopped),
        End::Disconnected(reason) => out.send(Event::Disconnected(reason)),
    }
}

/// Reads frames until there are no more. The first may be long in coming: the decoder's Hello travels with it.
fn receive<W: Fn()>(from: &mut impl Read, said: &Said, out: &Out<W>) -> End {
    let mut assembler = Assembler::new();
    loop {
        if let Err(end) = receive_frame(from, &mut assembler, said, out) {
            return end;
        }
    }
}

fn receive_frame<W: Fn()>(
    from: &mut impl Read,
    assembler: &mut Assembler,
    said: &Said,
    out: &Out<W>,
) -> Result<(), End> {
    let frames = FrameReader::new();
    let len = frames.header(from)?.ok_or(Reason::Closed)?;
    let permit = out.gate.enter(len + FRAME_COST).ok_or(Stopped)?;
    let payload = frames.payload(from, len)?;
    let mut facts = assembler.check(&payload)?;
    if let Some(hello) = facts.hello.take() {
        check_hello(said, &hello)?;
        out.send(Event::Greeted(hello))?;
    }
    out.counters.received(facts.rows, facts.transactions, (len + FRAME_HEADER) as u64);
    Ok(out.send(Event::Frame(Frame::new(payload, facts, permit)))?)
}

fn check_hello(said: &Said, theirs: &HelloBuf) -> Result<(), StreamError> {
    match &*said.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(ours) => Ok(ours.get().check_peer(&theirs.get())?),
        None => Err(StreamError::Order { what: "Hello that did not wait for ours" }),
    }
}
