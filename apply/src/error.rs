//! What can be wrong with a stream, and why a connection ended.

use pgtrickle_wire::WireError;
use std::{fmt, io};

/// A stream that is well-formed message by message, or not even that, but makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError {
    /// A message could not be read.
    Wire(WireError),
    /// A message stands where it must not.
    Order {
        /// What stands where.
        what: &'static str,
    },
    /// A row of a relation that has not been described, or with more columns than it has.
    Relation {
        /// The relation's number in the stream.
        index: u32,
    },
    /// A transaction does not come after the one before it.
    Backwards {
        /// Its commit LSN.
        lsn: u64,
        /// That of the one before.
        after: u64,
    },
    /// A transaction does not have the number of rows that its Commit says.
    Count {
        /// As Commit says.
        announced: u64,
        /// As counted.
        received: u64,
    },
    /// A transaction's bytes are not those that were sent.
    Checksum {
        /// Where it commits.
        commit_lsn: u64,
    },
}

impl StreamError {
    /// The SQLSTATE under which the error should be reported.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            StreamError::Wire(e) => e.sqlstate(),
            StreamError::Count { .. } | StreamError::Checksum { .. } => "XX001",
            _ => "08P01",
        }
    }
}

impl From<WireError> for StreamError {
    fn from(e: WireError) -> Self {
        StreamError::Wire(e)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Wire(e) => e.fmt(f),
            StreamError::Order { what } => f.write_str(what),
            StreamError::Relation { index } => {
                write!(f, "row does not fit relation number {index}")
            }
            StreamError::Backwards { lsn, after } => {
                write!(f, "transaction at {} follows the one at {}", Lsn(*lsn), Lsn(*after))
            }
            StreamError::Count { announced, received } => {
                write!(f, "transaction has {received} records instead of {announced}")
            }
            StreamError::Checksum { commit_lsn } => {
                write!(f, "checksum of the transaction at {} does not match", Lsn(*commit_lsn))
            }
        }
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StreamError::Wire(e) => Some(e),
            _ => None,
        }
    }
}

/// An LSN in PostgreSQL's notation.
struct Lsn(u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub enum Reason {
    /// The decoder closed it between two frames.
    Closed,
    /// Reading or writing failed, or the input ended inside a frame.
    Io(io::Error),
    /// What came was wrong.
    Stream(StreamError),
}

impl From<io::Error> for Reason {
    fn from(e: io::Error) -> Self {
        Reason::Io(e)
    }
}

impl From<StreamError> for Reason {
    fn from(e: StreamError) -> Self {
        Reason::Stream(e)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Closed => f.write_str("connection closed by the decoder"),
            Reason::Io(e) => write!(f, "connection lost: {e}"),
            Reason::Stream(e) => write!(f, "invalid change stream: {e}"),
        }
    }
}
