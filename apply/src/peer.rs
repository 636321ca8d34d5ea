//! The way back to the decoder: our Hello, then acknowledgements.

use pgtrickle_wire::ack::write_ack;
use pgtrickle_wire::{FrameWriter, Hello, HelloBuf};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// What we said in our Hello; the receiver thread compares the decoder's with it.
pub(crate) type Said = Arc<Mutex<Option<HelloBuf>>>;

/// The connected decoder, as the main thread sees it.
#[derive(Debug)]
pub struct Peer {
    stream: Arc<UnixStream>,
    said: Said,
    acks: Acks,
}

/// Acknowledgements not sent yet: what is left of one that was cut, and the newest behind it.
#[derive(Debug, Default)]
struct Acks {
    cut: Vec<u8>,
    next: Option<u64>,
}

impl Peer {
    pub(crate) fn new(stream: Arc<UnixStream>, said: Said) -> Self {
        Peer { stream, said, acks: Acks::default() }
    }

    pub(crate) fn stream(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }

    /// Says Hello. The decoder sends nothing before it.
    pub fn greet(&mut self, hello: &Hello<'_>) -> io::Result<()> {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(hello.to_owned_buf());
        let mut writer = FrameWriter::new();
        writer.hello(hello);
        writer.finish();
        // A few dozen bytes into a socket that nothing was written to: this cannot block.
        (&*self.stream).write_all(writer.pending())
    }

    /// Tells the decoder that everything up to `lsn` is durable, without ever waiting. What the socket does not take
    /// now goes out with a later call; of several such LSNs only the newest does.
    pub fn ack(&mut self, lsn: u64) -> io::Result<()> {
        self.acks.next = self.acks.next.max(Some(lsn));
        self.flush()
    }

    /// Whether an acknowledgement waits for [`Peer::flush`].
    pub fn has_unsent(&self) -> bool {
        !self.acks.cut.is_empty() || self.acks.next.is_some()
    }

    /// Tries again to send what waits.
    pub fn flush(&mut self) -> io::Result<()> {
        loop {
            if self.acks.cut.is_empty() {
                let Some(lsn) = self.acks.next.take() else {
                    return Ok(());
                };
                self.acks.cut.extend_from_slice(&write_ack(lsn));
            }
            match send(&*self.stream, &self.acks.cut, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => drop(self.acks.cut.drain(..n)),
                Err(Errno::AGAIN) => {
                    // Nothing of it has gone out: let a newer one take its place.
                    if let Ok(whole) = <[u8; 8]>::try_from(self.acks.cut.as_slice()) {
                        self.acks.next = self.acks.next.max(Some(u64::from_le_bytes(whole)));
                        self.acks.cut.clear();
                    }
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
