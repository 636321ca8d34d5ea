//! The socket to the apply worker: frames one way, acknowledgements the other. Neither side ever waits for the other
//! without reading what it sends, so they cannot block each other.

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys::panic::ErrorReport};
use pgtrickle_pg::wait::{Interest, WaitSet};
use pgtrickle_pg::{decoding, worker};
use pgtrickle_wire::{AckReader, FrameReader, FrameWriter, HelloBuf, Message, MessageReader};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the apply worker may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest sleep while the socket is full, in case a wake-up gets lost.
const FULL_TIMEOUT: Duration = Duration::from_secs(1);

/// The connection.
pub struct Link {
    wait: WaitSet,
    stream: UnixStream,
    acks: AckReader,
    /// Newest position that the apply worker has made durable.
    acked: u64,
    /// The configuration was read again while the socket was waited for.
    reloaded: bool,
}

fn lost(what: impl std::fmt::Display) -> ! {
    let message = format!("connection to the apply worker is lost: {what}");
    ErrorReport::new(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, message, "pg_trickle").report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

impl Link {
    /// Over a connected socket.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let wait = WaitSet::new(stream.as_raw_fd());
        Ok(Link { wait, stream, acks: AckReader::default(), acked: 0, reloaded: false })
    }

    /// Waits for the apply worker's Hello.
    pub fn hello(&mut self) -> HelloBuf {
        let deadline = Instant::now() + HELLO_TIMEOUT;
        let mut input = Vec::new();
        loop {
            self.read_into(&mut input);
            match hello_in(&input) {
                Ok(Some(hello)) => return hello,
                Ok(None) if Instant::now() < deadline => {}
                Ok(None) => lost("it did not say Hello in time"),
                Err(e) => lost(e),
            }
            self.reloaded |= worker::attend();
            self.sleep(FULL_TIMEOUT);
        }
    }

    fn read_into(&mut self, input: &mut Vec<u8>) {
        let mut chunk = [0u8; 512];
        match self.stream.read(&mut chunk) {
            Ok(0) => lost("closed by the apply worker"),
            Ok(n) => input.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => lost(e),
        }
    }

    /// Sends all complete frames. While the socket is full it waits, and with it decoding does.
    pub fn send(&mut self, writer: &mut FrameWriter) {
        while !writer.pending().is_empty() {
            match self.stream.write(writer.pending()) {
                Ok(n) => writer.advance(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.reloaded |= worker::attend();
                    self.take_acks();
                    self.wait.wait(Interest::ReadWrite, Some(FULL_TIMEOUT));
                }
                Err(e) => lost(e),
            }
        }
    }

    /// Whether the configuration was read again in here since this was last asked.
    pub fn take_reloaded(&mut self) -> bool {
        std::mem::take(&mut self.reloaded)
    }

    /// Takes the acknowledgements that have come, and lets the slot go forward to the newest.
    pub fn take_acks(&mut self) {
        let mut chunk = [0u8; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => lost("closed by the apply worker"),
                Ok(n) => {
                    if let Some(lsn) = self.acks.push(&chunk[..n])
                        && lsn > self.acked
                    {
                        self.acked = lsn;
                        decoding::confirm(lsn);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => lost(e),
            }
        }
    }

    /// Sleeps until the latch is set, something comes, or the time is over.
    pub fn sleep(&mut self, timeout: Duration) {
        self.wait.wait(Interest::Read, Some(timeout));
    }
}

/// The Hello, once a whole frame is there.
fn hello_in(input: &[u8]) -> Result<Option<HelloBuf>, String> {
    let mut from = input;
    let frame = match FrameReader::new().next(&mut from) {
        Ok(Some(frame)) => frame,
        Ok(None) => return Ok(None),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    match MessageReader::new(&frame).next() {
        Some(Ok(Message::Hello(hello))) => Ok(Some(hello.to_owned_buf())),
        Some(Err(e)) => Err(e.to_string()),
        _ => Err("it did not begin with Hello".into()),
    }
}
