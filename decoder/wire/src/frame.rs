//! Frames: `[payload length, u32][payload: whole messages]`. Packing them, and reading them back.

use crate::binary::{Column, write_column};
use crate::error::WireError;
use crate::event::{self, Degraded, LogicalMessage, Progress, Reinit};
use crate::hello::{Hello, write_hello};
use crate::relation::{Attr, RelationHead, write_relation};
use crate::row::{self, RawTuple, RowKind};
use crate::transaction::{Begin, CRC_LEN, Commit, write_begin, write_commit};
use crate::{FRAME_HEADER, FRAME_LIMIT, FRAME_MAX};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io::{self, Read};

/// An idle writer keeps no more memory than this.
const KEEP: usize = 4 * FRAME_LIMIT;

/// Packs messages into frames and holds them until they are sent.
///
/// The buffer is complete frames followed by one open frame. A frame is closed before the message that would make it
/// larger than the limit, so only a message that is larger by itself makes a larger frame. The writer also keeps count
/// and checksum of the open transaction.
#[derive(Debug)]
pub struct FrameWriter {
    buf: BytesMut,
    limit: usize,
    /// Where the open frame's header is.
    open: usize,
    transaction: Option<Open>,
}

#[derive(Debug)]
struct Open {
    commit_lsn: u64,
    records: u64,
    crc: u32,
    /// From here on the buffer's bytes are not in `crc` yet.
    from: usize,
}

impl Default for FrameWriter {
    fn default() -> Self {
        FrameWriter::new()
    }
}

impl FrameWriter {
    /// With the limit that the format asks for.
    pub fn new() -> Self {
        FrameWriter::with_limit(FRAME_LIMIT)
    }

    /// With another limit (at most [`FRAME_LIMIT`] where a peer of this project reads).
    pub fn with_limit(limit: usize) -> Self {
        let mut buf = BytesMut::with_capacity(2 * FRAME_LIMIT);
        buf.put_u32_le(0);
        FrameWriter { buf, limit, open: 0, transaction: None }
    }

    /// Appends a Hello.
    pub fn hello(&mut self, hello: &Hello<'_>) {
        self.record(|buf| write_hello(buf, hello));
    }

    /// Appends a Relation.
    pub fn relation(&mut self, head: &RelationHead<'_>, attrs: &[Attr<'_>]) {
        self.record(|buf| write_relation(buf, head, attrs));
    }

    /// Appends a Begin and starts count and checksum afresh.
    #[inline]
    pub fn begin(&mut self, begin: &Begin) {
        let start = self.buf.len();
        self.transaction = Some(Open { commit_lsn: begin.commit_lsn, records: 0, crc: 0, from: start });
        write_begin(&mut self.buf, begin);
        self.seal(start);
    }

    /// Whether a Begin is without its Commit.
    #[inline]
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Number of Rows in the open transaction.
    #[inline]
    pub fn records(&self) -> u64 {
        self.transaction.as_ref().map_or(0, |t| t.records)
    }

    #[inline]
    fn count(&mut self, rows: u64) {
        if let Some(t) = &mut self.transaction {
            t.records += rows;
        }
    }

    /// Appends one raw row.
    #[inline]
    pub fn row_raw(&mut self, kind: RowKind, paired: bool, rel: u32, tuple: &RawTuple<'_>) {
        self.count(1);
        self.record(|buf| row::write_row_raw(buf, kind, paired, rel, tuple));
    }

    /// Appends both halves of an UPDATE. Each is a record of its own: together they may be larger than a frame can be.
    #[inline]
    pub fn update_raw(&mut self, rel: u32, old: &RawTuple<'_>, new: &RawTuple<'_>) {
        self.row_raw(RowKind::Delete, true, rel, old);
        self.row_raw(RowKind::Insert, true, rel, new);
    }

    /// Appends a raw row whose data `fill` writes into zeroed space; see [`row::write_row_raw_space`].
    #[inline]
    pub fn row_raw_with(
        &mut self,
        kind: RowKind,
        paired: bool,
        rel: u32,
        shape: &RawTuple<'_>,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        self.count(1);
        self.record(|buf| fill(row::write_row_raw_space(buf, kind, paired, rel, shape, len)));
    }

    /// Appends one row in the binary encoding. If `columns` panics, half a row was written: reset the writer.
    pub fn row_binary<'c>(
        &mut self,
        kind: RowKind,
        paired: bool,
        rel: u32,
        columns: impl ExactSizeIterator<Item = Column<'c>>,
    ) {
        self.count(1);
        self.record(|buf| {
            row::write_row_binary(buf, kind, paired, rel, columns.len() as u16);
            columns.for_each(|column| write_column(buf, &column));
        });
    }

    /// Appends a Truncate.
    pub fn truncate(&mut self, cascade: bool, restart_identity: bool, relids: &[u32]) {
        self.record(|buf| event::write_truncate(buf, cascade, restart_identity, relids));
    }

    /// Appends a logical message.
    pub fn message(&mut self, message: &LogicalMessage<'_>) {
        self.record(|buf| event::write_message(buf, message));
    }

    /// Appends a Degraded.
    pub fn degraded(&mut self, degraded: &Degraded<'_>) {
        self.record(|buf| event::write_degraded(buf, degraded));
    }

    /// Appends a Reinit.
    pub fn reinit(&mut self, reinit: &Reinit<'_>) {
        self.record(|buf| event::write_reinit(buf, reinit));
    }

    /// Appends a Progress.
    pub fn progress(&mut self, progress: &Progress) {
        self.record(|buf| event::write_progress(buf, progress));
    }

    /// Appends the open transaction's Commit with count and checksum; nothing if no transaction is open.
    #[inline]
    pub fn commit(&mut self, end_lsn: u64) {
        let Some(t) = self.transaction.take() else {
            return;
        };
        let start = self.buf.len();
        write_commit(&mut self.buf, &Commit { commit_lsn: t.commit_lsn, end_lsn, records: t.records, crc32c: 0 });
        let end = self.buf.len() - CRC_LEN;
        let crc32c = crc32c::crc32c_append(t.crc, &self.buf[t.from..end]);
        self.buf[end..].copy_from_slice(&crc32c.to_le_bytes());
        self.seal(start);
    }

    #[inline]
    fn record(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.buf.len();
        write(&mut self.buf);
        self.seal(start);
    }

    /// Ends the record that began at `start`: if it does not fit the open frame, it begins the next one.
    #[inline]
    fn seal(&mut self, start: usize) {
        if self.buf.len() - self.open - FRAME_HEADER > self.limit && start > self.open + FRAME_HEADER {
            self.split(start);
        }
    }

    #[cold]
    fn split(&mut self, start: usize) {
        let end = self.buf.len();
        self.close_crc(start, start + FRAME_HEADER);
        self.fill_header(start);
        self.buf.put_u32_le(0);
        self.buf.copy_within(start..end, start + FRAME_HEADER);
        self.open = start;
    }

    /// Takes the transaction's bytes up to `end` into its checksum; the next ones begin at `next`.
    fn close_crc(&mut self, end: usize, next: usize) {
        if let Some(t) = &mut self.transaction {
            if t.from < end {
                t.crc = crc32c::crc32c_append(t.crc, &self.buf[t.from..end]);
            }
            t.from = next;
        }
    }

    fn fill_header(&mut self, end: usize) {
        let len = end - self.open - FRAME_HEADER;
        self.buf[self.open..self.open + FRAME_HEADER].copy_from_slice(&(len as u32).to_le_bytes());
    }

    /// Whether a frame is complete, so that sending is worth while.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.open > 0 || self.buf.len() - FRAME_HEADER >= self.limit
    }

    /// Whether nothing waits to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buf.len() == FRAME_HEADER
    }

    /// Bytes that wait to be sent, headers and the open frame included.
    pub fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.buf.len() }
    }

    /// Closes the open frame if it contains anything.
    pub fn finish(&mut self) {
        let end = self.buf.len();
        if end > self.open + FRAME_HEADER {
            self.close_crc(end, end + FRAME_HEADER);
            self.fill_header(end);
            self.buf.put_u32_le(0);
            self.open = end;
        }
    }

    /// All complete frames, headers included: what may be sent now.
    #[inline]
    pub fn pending(&self) -> &[u8] {
        &self.buf[..self.open]
    }

    /// The first complete frame, header included. Only while none is sent in part.
    pub fn next_frame(&self) -> Option<&[u8]> {
        let header = self.pending().first_chunk::<FRAME_HEADER>()?;
        self.pending().get(..FRAME_HEADER + u32::from_le_bytes(*header) as usize)
    }

    /// Forgets the first `n` bytes of [`FrameWriter::pending`]: they have been sent.
    ///
    /// # Panics
    /// If that is more than was pending.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.open, "advanced past the pending frames");
        self.buf.advance(n);
        self.open -= n;
        if let Some(t) = &mut self.transaction {
            t.from -= n;
        }
        if self.is_empty() && self.buf.capacity() > KEEP {
            self.buf = BytesMut::with_capacity(2 * FRAME_LIMIT);
            self.buf.put_u32_le(0);
        }
    }

    /// Forgets everything, sent or not, and any open transaction: the peer is gone.
    pub fn reset(&mut self) {
        *self = FrameWriter::with_limit(self.limit);
    }
}

/// Reads frames back, reusing nothing but its settings: each payload is a buffer of its own that can travel on.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameReader {
    newline: bool,
}

impl FrameReader {
    /// For sockets and for the concatenated results of the SQL functions.
    pub fn new() -> Self {
        FrameReader { newline: false }
    }

    /// For the output of pg_recvlogical, which puts a newline behind each frame.
    pub fn recvlogical() -> Self {
        FrameReader { newline: true }
    }

    /// The next payload's length; None at a clean end of the input.
    pub fn header(&self, from: &mut impl Read) -> io::Result<Option<usize>> {
        let mut header = [0u8; FRAME_HEADER];
        let mut filled = 0;
        while filled < FRAME_HEADER {
            match from.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated("frame header")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let bytes = u32::from_le_bytes(header) as usize;
        if bytes > FRAME_MAX {
            return Err(invalid(WireError::FrameTooLarge { bytes }));
        }
        Ok(Some(bytes))
    }

    /// The payload of `len` bytes that follows its header.
    pub fn payload(&self, from: &mut impl Read, len: usize) -> io::Result<Bytes> {
        // A length that lies costs no more memory than arrives.
        let mut payload = Vec::with_capacity(len.min(2 * FRAME_LIMIT));
        from.by_ref().take(len as u64).read_to_end(&mut payload)?;
        if payload.len() < len {
            return Err(truncated("frame"));
        }
        if self.newline {
            let mut end = [0u8; 1];
            from.read_exact(&mut end)?;
            if end != *b"\n" {
                return Err(invalid(WireError::BadValue { what: "byte behind the frame", value: end[0].into() }));
            }
        }
        Ok(payload.into())
    }

    /// The next frame's payload; None at a clean end of the input.
    pub fn next(&self, from: &mut impl Read) -> io::Result<Option<Bytes>> {
        match self.header(from)? {
            Some(len) => self.payload(from, len).map(Some),
            None => Ok(None),
        }
    }
}

fn truncated(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, WireError::Truncated { what })
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
