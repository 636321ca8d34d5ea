//! The queue between the receiver thread and the main thread, as the main thread sees it.

use crate::assembler::Facts;
use crate::counters::Counters;
use crate::error::Reason;
use crate::gate::Permit;
use crate::peer::Peer;
use crate::receiver::Shared;
use crossbeam_channel::{Receiver, TryRecvError};
use pgtrickle_wire::{HelloBuf, MessageReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

/// What the receiver thread has to tell, in order.
#[derive(Debug)]
pub enum Event {
    /// A decoder has connected and waits for our Hello: settle what is open, then [`Peer::greet`].
    Connected(Peer),
    /// Its Hello, which fits ours. Frames follow.
    Greeted(HelloBuf),
    /// Checked messages.
    Frame(Frame),
    /// The connection is gone; an open transaction will not be completed. Another may come.
    Disconnected(Reason),
    /// The receiver thread has ended because of this; nothing more will come.
    Failed(String),
}

/// A frame's payload. Its memory counts against the queue's capacity until it is dropped.
#[derive(Debug)]
pub struct Frame {
    payload: bytes::Bytes,
    facts: Facts,
    _permit: Permit,
}

impl Frame {
    pub(crate) fn new(payload: bytes::Bytes, facts: Facts, permit: Permit) -> Self {
        Frame { payload, facts, _permit: permit }
    }

    /// The messages' bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The messages. They have been checked, so none will be an error.
    pub fn messages(&self) -> MessageReader<'_> {
        MessageReader::new(&self.payload)
    }

    /// Number of rows in it.
    pub fn rows(&self) -> u64 {
        self.facts.rows
    }

    /// Number of transactions that end in it.
    pub fn transactions(&self) -> u64 {
        self.facts.transactions
    }

    /// Whether it ends inside a transaction.
    pub fn ends_inside(&self) -> bool {
        self.facts.inside
    }
}

/// The main thread's end. Dropping it stops the receiver thread and joins it.
#[derive(Debug)]
pub struct Queue {
    events: Option<Receiver<Event>>,
    shared: Arc<Shared>,
    /// Closing it wakes the receiver thread out of its wait for a connection.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    counters: Counters,
    /// Rows of frames that were taken and neither committed nor discarded.
    in_hand: u64,
    /// The connection whose events are being taken.
    connection: Option<Arc<UnixStream>>,
    /// Everything up to its end is to be dropped.
    skipping: bool,
}

impl Queue {
    pub(crate) fn new(
        events: Receiver<Event>,
        shared: Arc<Shared>,
        stop: UnixStream,
        thread: JoinHandle<()>,
        counters: Counters,
    ) -> Self {
        let (stop, thread) = (Some(stop), Some(thread));
        Queue { events: Some(events), shared, stop, thread, counters, in_hand: 0, connection: None, skipping: false }
    }

    /// The next event, if there is one. Never waits: the `wake` function given to [`crate::start`] is called after
    /// each event, and all events should be taken before the main thread sleeps again.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            let event = match self.events.as_ref()?.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    self.events = None;
                    return Some(Event::Failed("receiver thread is gone".into()));
                }
            };
            if let Event::Frame(frame) = &event {
                self.counters.queue_depth.fetch_sub(1, Relaxed);
                self.in_hand += frame.rows();
            }
            match &event {
                Event::Failed(_) => {
                    self.events = None;
                    return Some(event);
                }
                Event::Disconnected(_) => (self.connection, self.skipping) = (None, false),
                Event::Connected(peer) => {
                    self.rows_discarded();
                    self.connection = Some(peer.stream());
                }
                Event::Greeted(_) | Event::Frame(_) => {}
            }
            if !self.skipping {
                return Some(event);
            }
            self.rows_discarded();
        }
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.events.as_ref().is_none_or(Receiver::is_empty)
    }

    /// `rows` of the rows taken are durable.
    pub fn rows_committed(&mut self, rows: u64) {
        let rows = rows.min(self.in_hand);
        self.in_hand -= rows;
        self.counters.settled(rows);
    }

    /// The rows taken and not committed are forgotten; they will come again.
    pub fn rows_discarded(&mut self) {
        self.rows_committed(self.in_hand);
    }

    /// Ends the current connection from this side (the apply transaction failed, say). The next event will be
    /// [`Event::Disconnected`]; what was queued before it is dropped.
    pub fn disconnect(&mut self) {
        if let Some(stream) = &self.connection {
            self.skipping = true;
            // Fails only if the peer was faster. The receiver may be with the next connection already; this is ours.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Stops the receiver thread and joins it. Nothing more will come.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.close();
        self.stop = None;
        // A receiver that waits for room in the channel finds it disconnected.
        self.events = None;
        // Its panics are caught inside and have been reported.
        let _ = thread.join();
        self.in_hand = 0;
        self.counters.clear_gauges();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop();
    }
}
