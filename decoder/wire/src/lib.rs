//! The change stream's messages and their bytes: what the output plugin writes and every consumer reads.
//!
//! `FORMAT.md` beside this crate is the specification. Every `write_x` stands directly above its `read_x`. Reading
//! borrows from the input, allocates nothing and returns an error, never a panic, on any bytes whatsoever.
//!
//! | module | owns |
//! |---|---|
//! | [`frame`] | frames: packing messages, the running checksum, reading frames back from any `Read` |
//! | [`message`] | the tags and [`MessageReader`], which walks one frame's payload |
//! | [`hello`], [`relation`], [`row`], [`binary`], [`transaction`], [`event`] | one group of messages each |
//! | [`ack`] | the eight-byte acknowledgements that travel the other way |
//! | [`cursor`] | integers, varints, NUL-terminated names |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod ack;
pub mod binary;
pub mod cursor;
pub mod error;
pub mod event;
pub mod frame;
pub mod hello;
pub mod message;
pub mod relation;
pub mod row;
pub mod transaction;

pub use ack::AckReader;
pub use binary::{BinaryTuple, Column};
pub use error::WireError;
pub use event::{Degraded, LogicalMessage, Progress, Reinit, Truncate};
pub use frame::{FrameReader, FrameWriter};
pub use hello::{Abi, Encoding, Hello, HelloBuf, Role};
pub use message::{Message, MessageReader};
pub use relation::{Attr, Attrs, Relation};
pub use row::{Body, RawTuple, Row, RowKind};
pub use transaction::{Begin, Commit};

/// Version of the format; both sides must have the same.
pub const FORMAT_VERSION: u16 = 1;
/// First bytes of a Hello, so that other input is recognised at once.
pub const MAGIC: [u8; 4] = *b"PGTR";
/// A frame's payload is closed before the record that would make it larger than this.
pub const FRAME_LIMIT: usize = 64 * 1024;
/// A frame's payload is never larger than this (PostgreSQL's tuples stay below 1 GiB).
pub const FRAME_MAX: usize = 0x4010_0000;
/// Bytes of the length in front of each payload.
pub const FRAME_HEADER: usize = 4;
