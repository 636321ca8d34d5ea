//! What is neither row nor bound of a transaction: Truncate, Message, Degraded, Reinit, Progress.

use crate::cursor::{Cursor, write_counted, write_name, write_varint};
use crate::error::{Result, WireError};
use crate::message::tag;
use bytes::BufMut;

/// Tables were truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// CASCADE was given.
    pub cascade: bool,
    /// RESTART IDENTITY was given.
    pub restart_identity: bool,
    relids: &'a [u8],
}

impl<'a> Truncate<'a> {
    /// The tables' oids.
    pub fn relids(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.relids.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// Appends a Truncate of the tables `relids`.
pub fn write_truncate(buf: &mut impl BufMut, cascade: bool, restart_identity: bool, relids: &[u32]) {
    buf.put_u8(tag::TRUNCATE);
    buf.put_u8(u8::from(cascade) | u8::from(restart_identity) << 1);
    write_varint(buf, relids.len() as u64);
    for &relid in relids {
        buf.put_u32_le(relid);
    }
}

pub(crate) fn read_truncate<'a>(c: &mut Cursor<'a>) -> Result<Truncate<'a>> {
    let flags = read_flags(c, 0b11, "truncate.flags")?;
    let count = c.varint32("truncate.count")? as usize;
    let relids = c.bytes(count.saturating_mul(4), "truncate.relids")?;
    Ok(Truncate { cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, relids })
}

/// A logical message from `pg_logical_emit_message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// End of its WAL record.
    pub lsn: u64,
    /// Whether it belongs to the transaction around it; else it stands between transactions.
    pub transactional: bool,
    /// Who it is for.
    pub prefix: &'a [u8],
    /// What it says.
    pub content: &'a [u8],
}

/// Appends a logical message.
pub fn write_message(buf: &mut impl BufMut, message: &LogicalMessage<'_>) {
    buf.put_u8(tag::MESSAGE);
    buf.put_u8(u8::from(message.transactional));
    buf.put_u64_le(message.lsn);
    write_name(buf, message.prefix);
    write_counted(buf, message.content);
}

pub(crate) fn read_message<'a>(c: &mut Cursor<'a>) -> Result<LogicalMessage<'a>> {
    let flags = read_flags(c, 1, "message.flags")?;
    Ok(LogicalMessage {
        transactional: flags != 0,
        lsn: c.u64("message.lsn")?,
        prefix: c.name("message.prefix")?,
        content: c.counted("message.content")?,
    })
}

/// Capture of a relation lost exactness: from here on its changes cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degraded<'a> {
    /// The relation.
    pub relid: u32,
    /// For the operator.
    pub reason: &'a [u8],
}

/// Appends a Degraded.
pub fn write_degraded(buf: &mut impl BufMut, degraded: &Degraded<'_>) {
    buf.put_u8(tag::DEGRADED);
    buf.put_u32_le(degraded.relid);
    write_name(buf, degraded.reason);
}

pub(crate) fn read_degraded<'a>(c: &mut Cursor<'a>) -> Result<Degraded<'a>> {
    Ok(Degraded { relid: c.u32("degraded.relid")?, reason: c.name("degraded.reason")? })
}

/// A relation changed in a way that rows do not tell (a partition was attached, say): consumers start afresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reinit<'a> {
    /// The relation.
    pub relid: u32,
    /// For the operator.
    pub reason: &'a [u8],
}

/// Appends a Reinit.
pub fn write_reinit(buf: &mut impl BufMut, reinit: &Reinit<'_>) {
    buf.put_u8(tag::REINIT);
    buf.put_u32_le(reinit.relid);
    write_name(buf, reinit.reason);
}

pub(crate) fn read_reinit<'a>(c: &mut Cursor<'a>) -> Result<Reinit<'a>> {
    Ok(Reinit { relid: c.u32("reinit.relid")?, reason: c.name("reinit.reason")? })
}

/// Everything that committed before `lsn` has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The position.
    pub lsn: u64,
}

/// Appends a Progress.
pub fn write_progress(buf: &mut impl BufMut, progress: &Progress) {
    buf.put_u8(tag::PROGRESS);
    buf.put_u64_le(progress.lsn);
}

pub(crate) fn read_progress(c: &mut Cursor<'_>) -> Result<Progress> {
    Ok(Progress { lsn: c.u64("progress.lsn")? })
}

/// Flags whose unknown bits are refused: they would change the meaning.
fn read_flags(c: &mut Cursor<'_>, known: u8, what: &'static str) -> Result<u8> {
    let flags = c.u8(what)?;
    if flags & !known != 0 {
        return Err(WireError::BadValue { what, value: u64::from(flags) });
    }
    Ok(flags)
}
