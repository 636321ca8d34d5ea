//! Begin and Commit: the bounds of a transaction.

use crate::cursor::{Cursor, write_varint};
use crate::error::Result;
use crate::message::tag;
use bytes::BufMut;

/// A transaction begins. Written only when its first record is; empty transactions leave no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Top-level transaction id, widened by its epoch.
    pub xid: u64,
    /// Where its commit record begins.
    pub commit_lsn: u64,
    /// Microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
}

/// Appends a Begin.
#[inline]
pub fn write_begin(buf: &mut impl BufMut, begin: &Begin) {
    buf.put_u8(tag::BEGIN);
    write_varint(buf, begin.xid);
    buf.put_u64_le(begin.commit_lsn);
    buf.put_i64_le(begin.commit_time);
}

pub(crate) fn read_begin(c: &mut Cursor<'_>) -> Result<Begin> {
    Ok(Begin {
        xid: c.varint("begin.xid")?,
        commit_lsn: c.u64("begin.commit_lsn")?,
        commit_time: c.i64("begin.commit_time")?,
    })
}

/// Bytes of the checksum, the last field of a Commit.
pub const CRC_LEN: usize = 4;

/// A transaction is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// As in its Begin.
    pub commit_lsn: u64,
    /// Just behind its commit record: applied up to here once this transaction is durable.
    pub end_lsn: u64,
    /// Number of Row messages.
    pub records: u64,
    /// CRC32C over all its messages' bytes from Begin on, up to this field.
    pub crc32c: u32,
}

/// Appends a Commit. [`crate::FrameWriter::commit`] fills in count and checksum.
#[inline]
pub fn write_commit(buf: &mut impl BufMut, commit: &Commit) {
    buf.put_u8(tag::COMMIT);
    buf.put_u64_le(commit.commit_lsn);
    buf.put_u64_le(commit.end_lsn);
    write_varint(buf, commit.records);
    buf.put_u32_le(commit.crc32c);
}

pub(crate) fn read_commit(c: &mut Cursor<'_>) -> Result<Commit> {
    Ok(Commit {
        commit_lsn: c.u64("commit.commit_lsn")?,
        end_lsn: c.u64("commit.end_lsn")?,
        records: c.varint("commit.records")?,
        crc32c: c.u32("commit.crc32c")?,
    })
}
