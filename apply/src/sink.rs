//! What the main thread does with a checked stream.

use crate::error::StreamError;
use pgtrickle_wire::{
    Begin, Commit, Degraded, LogicalMessage, Message, MessageReader, Progress, Reinit, Relation, Row, Truncate,
};

/// A place in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The transaction.
    pub begin: Begin,
    /// Number of the row; for other changes, of the row that comes next.
    pub seq: u64,
}

/// Takes the messages of a stream in order.
pub trait Sink {
    /// What may go wrong in it.
    type Error: From<StreamError>;

    /// Rows named by this relation's number look like this from now on.
    fn relation(&mut self, relation: &Relation<'_>) -> Result<(), Self::Error>;
    /// A transaction begins.
    fn begin(&mut self, begin: &Begin) -> Result<(), Self::Error>;
    /// A row came or went.
    fn row(&mut self, at: &At, row: &Row<'_>) -> Result<(), Self::Error>;
    /// Tables were truncated.
    fn truncate(&mut self, at: &At, truncate: &Truncate<'_>) -> Result<(), Self::Error>;
    /// Capture of a relation lost exactness.
    fn degraded(&mut self, at: &At, degraded: &Degraded<'_>) -> Result<(), Self::Error>;
    /// A relation must be read afresh.
    fn reinit(&mut self, at: &At, reinit: &Reinit<'_>) -> Result<(), Self::Error>;
    /// A logical message, inside a transaction if it is transactional, else between two.
    fn message(&mut self, message: &LogicalMessage<'_>) -> Result<(), Self::Error>;
    /// The transaction is complete.
    fn commit(&mut self, begin: &Begin, commit: &Commit) -> Result<(), Self::Error>;
    /// Everything before this position has been seen.
    fn progress(&mut self, progress: &Progress) -> Result<(), Self::Error>;
}

/// Where in the stream the main thread is: between two frames or, after an error, somewhere inside one.
#[derive(Debug, Default)]
pub struct Delivery {
    at: Option<At>,
}

impl Delivery {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Delivery::default()
    }

    /// Whether a transaction is open.
    pub fn inside(&self) -> bool {
        self.at.is_some()
    }

    /// Hands a checked payload's messages to `sink`, in order, up to the first error.
    pub fn deliver<S: Sink>(&mut self, payload: &[u8], sink: &mut S) -> Result<(), S::Error> {
        for message in MessageReader::new(payload) {
            let message = message.map_err(StreamError::from)?;
            match &mut self.at {
                Some(at) => {
                    if let Message::Row(row) = &message {
                        sink.row(at, row)?;
                        at.seq += 1;
                    } else {
                        self.inside_transaction(&message, sink)?;
                    }
                }
                None => self.between_transactions(&message, sink)?,
            }
        }
        Ok(())
    }

    fn inside_transaction<S: Sink>(&mut self, message: &Message<'_>, sink: &mut S) -> Result<(), S::Error> {
        let Some(at) = self.at else { return Ok(()) };
        match message {
            Message::Relation(m) => sink.relation(m),
            Message::Truncate(m) => sink.truncate(&at, m),
            Message::Degraded(m) => sink.degraded(&at, m),
            Message::Reinit(m) => sink.reinit(&at, m),
            Message::Message(m) => sink.message(m),
            Message::Optional { .. } => Ok(()),
            Message::Commit(m) => {
                self.at = None;
                sink.commit(&at.begin, m)
            }
            _ => Err(StreamError::Order { what: "message inside a transaction" }.into()),
        }
    }

    fn between_transactions<S: Sink>(&mut self, message: &Message<'_>, sink: &mut S) -> Result<(), S::Error> {
        match message {
            Message::Begin(begin) => {
                self.at = Some(At { begin: *begin, seq: 0 });
                sink.begin(begin)
            }
            Message::Relation(m) => sink.relation(m),
            Message::Message(m) => sink.message(m),
            Message::Progress(m) => sink.progress(m),
            Message::Hello(_) | Message::Optional { .. } => Ok(()),
            _ => Err(StreamError::Order { what: "message outside a transaction" }.into()),
        }
    }
}
