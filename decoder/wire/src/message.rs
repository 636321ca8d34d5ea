//! The tags, and walking one frame's payload.

use crate::cursor::Cursor;
use crate::error::{Result, WireError};
use crate::event::{self, Degraded, LogicalMessage, Progress, Reinit, Truncate};
use crate::hello::{self, Hello};
use crate::relation::{self, Relation};
use crate::row::{self, Row};
use crate::transaction::{self, Begin, Commit};

/// First byte of each message.
pub mod tag {
    /// Hello.
    pub const HELLO: u8 = b'H';
    /// Relation.
    pub const RELATION: u8 = b'R';
    /// Begin.
    pub const BEGIN: u8 = b'B';
    /// Commit.
    pub const COMMIT: u8 = b'C';
    /// Truncate.
    pub const TRUNCATE: u8 = b'T';
    /// Message.
    pub const MESSAGE: u8 = b'M';
    /// Degraded.
    pub const DEGRADED: u8 = b'D';
    /// Reinit.
    pub const REINIT: u8 = b'I';
    /// Progress.
    pub const PROGRESS: u8 = b'P';
    /// Row: this and any of the five bits below.
    pub const ROW: u8 = 0x20;
    /// The row went (else it came).
    pub const ROW_DELETE: u8 = 0x01;
    /// Half of an UPDATE.
    pub const ROW_PAIRED: u8 = 0x02;
    /// Binary encoding (else raw).
    pub const ROW_BINARY: u8 = 0x04;
    /// Raw: a null bitmap is present.
    pub const ROW_NULLS: u8 = 0x08;
    /// Raw: some attribute is of variable width.
    pub const ROW_VARWIDTH: u8 = 0x10;
    /// Last of the row tags.
    pub const ROW_LAST: u8 = 0x3f;
    /// From here on messages are optional: a varint length follows, and who does not know them skips them.
    pub const OPTIONAL: u8 = 0x80;
}

/// One message, borrowed from its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// First of each direction.
    Hello(Hello<'a>),
    /// What rows look like.
    Relation(Relation<'a>),
    /// A transaction begins.
    Begin(Begin),
    /// A row came or went.
    Row(Row<'a>),
    /// Tables were truncated.
    Truncate(Truncate<'a>),
    /// A logical message.
    Message(LogicalMessage<'a>),
    /// Capture of a relation lost exactness.
    Degraded(Degraded<'a>),
    /// A relation must be read afresh.
    Reinit(Reinit<'a>),
    /// A transaction is complete.
    Commit(Commit),
    /// Everything before a position has been sent.
    Progress(Progress),
    /// An optional message that this version does not know.
    Optional {
        /// Its tag.
        tag: u8,
        /// Its body.
        body: &'a [u8],
    },
}

/// Walks the messages of one frame's payload. After an error it is exhausted.
#[derive(Debug, Clone)]
pub struct MessageReader<'a> {
    cursor: Cursor<'a>,
    total: usize,
}

impl<'a> MessageReader<'a> {
    /// At the first message of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        MessageReader { cursor: Cursor::new(payload), total: payload.len() }
    }

    /// Offset of the next message in the payload.
    pub fn offset(&self) -> usize {
        self.total - self.cursor.rest().len()
    }

    #[inline]
    fn read(&mut self) -> Result<Message<'a>> {
        let c = &mut self.cursor;
        Ok(match c.u8("tag")? {
            row @ tag::ROW..=tag::ROW_LAST => Message::Row(row::read_row(row, c)?),
            tag::BEGIN => Message::Begin(transaction::read_begin(c)?),
            tag::COMMIT => Message::Commit(transaction::read_commit(c)?),
            tag::RELATION => Message::Relation(relation::read_relation(c)?),
            tag::TRUNCATE => Message::Truncate(event::read_truncate(c)?),
            tag::MESSAGE => Message::Message(event::read_message(c)?),
            tag::DEGRADED => Message::Degraded(event::read_degraded(c)?),
            tag::REINIT => Message::Reinit(event::read_reinit(c)?),
            tag::PROGRESS => Message::Progress(event::read_progress(c)?),
            tag::HELLO => Message::Hello(hello::read_hello(c)?),
            tag @ tag::OPTIONAL.. => Message::Optional { tag, body: c.counted("optional message")? },
            tag => return Err(WireError::UnknownTag(tag)),
        })
    }
}

impl<'a> Iterator for MessageReader<'a> {
    type Item = Result<Message<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let message = self.read();
        if message.is_err() {
            self.cursor = Cursor::new(&[]);
        }
        Some(message)
    }
}
