//! Row: one row inserted or deleted; an UPDATE is one of each. Also the raw encoding: a heap tuple without its header.

use crate::binary::{self, BinaryTuple};
use crate::cursor::{Cursor, VARINT_MAX};
use crate::error::{Result, WireError};
use crate::message::tag;
use bytes::{BufMut, BytesMut};

/// What happened to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// It came.
    Insert,
    /// It went.
    Delete,
}

/// One row inserted or deleted. Its number in the transaction is its place among the Rows, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Came or went.
    pub kind: RowKind,
    /// Half of an UPDATE: a paired Delete is followed directly by its paired Insert.
    pub paired: bool,
    /// [`crate::Relation::index`].
    pub rel: u32,
    /// Its values.
    pub body: Body<'a>,
}

/// A row's values, in the encoding that Hello announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// See [`RawTuple`].
    Raw(RawTuple<'a>),
    /// See [`BinaryTuple`].
    Binary(BinaryTuple<'a>),
}

/// A heap tuple without its header: ready to be spliced behind another fixed prefix of 8-aligned length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTuple<'a> {
    /// Number of attributes present.
    pub natts: u16,
    /// [`RawTuple::HAS_NULLS`] and [`RawTuple::HAS_VARWIDTH`], the same bits as in `t_infomask`.
    pub flags: u8,
    /// `natts` bits, 1 = not null, in whole bytes; empty if no attribute is null.
    pub bitmap: &'a [u8],
    /// The tuple's bytes from `t_hoff` on.
    pub data: &'a [u8],
}

impl<'a> RawTuple<'a> {
    /// `HEAP_HASNULL`.
    pub const HAS_NULLS: u8 = 1;
    /// `HEAP_HASVARWIDTH`.
    pub const HAS_VARWIDTH: u8 = 2;

    /// From a tuple's parts; of the bitmap, the bytes that `natts` needs are taken.
    ///
    /// # Panics
    /// If the bitmap is shorter than `natts` needs.
    #[inline]
    pub fn new(natts: u16, var_width: bool, bitmap: Option<&'a [u8]>, data: &'a [u8]) -> Self {
        let var = if var_width { Self::HAS_VARWIDTH } else { 0 };
        match bitmap {
            None => RawTuple { natts, flags: var, bitmap: &[], data },
            Some(bits) => RawTuple { natts, flags: var | Self::HAS_NULLS, bitmap: &bits[..bitmap_len(natts)], data },
        }
    }

    /// Whether attribute number `i` (from 0) is present and not null.
    pub fn is_present(&self, i: usize) -> bool {
        i < usize::from(self.natts)
            && (self.bitmap.is_empty() || self.bitmap.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 != 0))
    }
}

/// Bytes of a null bitmap.
#[inline]
pub fn bitmap_len(natts: u16) -> usize {
    usize::from(natts).div_ceil(8)
}

const HEAD_MAX: usize = 1 + 5 + 3 + VARINT_MAX;

/// Tag, relation, attribute count and length, assembled on the stack so that the buffer is touched once.
struct Head {
    bytes: [u8; HEAD_MAX],
    len: usize,
}

impl Head {
    #[inline]
    fn new(tag: u8, rel: u32) -> Self {
        let mut head = Head { bytes: [0; HEAD_MAX], len: 1 };
        head.bytes[0] = tag;
        head.varint(rel.into());
        head
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    #[inline]
    fn put(&self, buf: &mut BytesMut) {
        buf.extend_from_slice(&self.bytes[..self.len]);
    }
}

#[inline]
fn bit(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

#[inline]
fn row_tag(kind: RowKind, paired: bool) -> u8 {
    tag::ROW | bit(kind == RowKind::Delete, tag::ROW_DELETE) | bit(paired, tag::ROW_PAIRED)
}

#[inline]
fn raw_head(kind: RowKind, paired: bool, rel: u32, shape: &RawTuple<'_>, len: usize) -> Head {
    let nulls = bit(shape.flags & RawTuple::HAS_NULLS != 0, tag::ROW_NULLS);
    let var = bit(shape.flags & RawTuple::HAS_VARWIDTH != 0, tag::ROW_VARWIDTH);
    let mut head = Head::new(row_tag(kind, paired) | nulls | var, rel);
    head.varint(shape.natts.into());
    head.varint(len as u64);
    head
}

/// Most bytes that [`write_row_raw`] appends.
#[inline]
pub fn raw_size_max(tuple: &RawTuple<'_>) -> usize {
    HEAD_MAX + tuple.bitmap.len() + tuple.data.len()
}

/// Appends one raw row.
#[inline]
pub fn write_row_raw(buf: &mut BytesMut, kind: RowKind, paired: bool, rel: u32, tuple: &RawTuple<'_>) {
    buf.reserve(raw_size_max(tuple));
    raw_head(kind, paired, rel, tuple, tuple.data.len()).put(buf);
    buf.extend_from_slice(tuple.bitmap);
    buf.extend_from_slice(tuple.data);
}

/// Appends a raw row whose `len` bytes of data the caller fills in (they are zero until then). The bitmap of
/// `shape` is written; its data is ignored.
#[inline]
pub fn write_row_raw_space<'b>(
    buf: &'b mut BytesMut,
    kind: RowKind,
    paired: bool,
    rel: u32,
    shape: &RawTuple<'_>,
    len: usize,
) -> &'b mut [u8] {
    buf.reserve(HEAD_MAX + shape.bitmap.len() + len);
    raw_head(kind, paired, rel, shape, len).put(buf);
    buf.extend_from_slice(shape.bitmap);
    let start = buf.len();
    buf.put_bytes(0, len);
    &mut buf[start..]
}

/// Begins a row in the binary encoding; exactly `columns` calls of the `write_column_*` functions must follow.
#[inline]
pub fn write_row_binary(buf: &mut BytesMut, kind: RowKind, paired: bool, rel: u32, columns: u16) {
    let mut head = Head::new(row_tag(kind, paired) | tag::ROW_BINARY, rel);
    head.varint(columns.into());
    head.put(buf);
}

/// Reads a row of either encoding, behind its tag.
#[inline]
pub(crate) fn read_row<'a>(tag: u8, c: &mut Cursor<'a>) -> Result<Row<'a>> {
    let kind = if tag & tag::ROW_DELETE != 0 { RowKind::Delete } else { RowKind::Insert };
    let paired = tag & tag::ROW_PAIRED != 0;
    let rel = c.varint32("row.relation")?;
    let natts = c.varint("row.natts")?;
    let natts = u16::try_from(natts).map_err(|_| WireError::BadValue { what: "row.natts", value: natts })?;
    let body = if tag & tag::ROW_BINARY == 0 {
        Body::Raw(read_raw(tag, natts, c)?)
    } else if tag & (tag::ROW_NULLS | tag::ROW_VARWIDTH) == 0 {
        Body::Binary(binary::read_tuple(natts, c)?)
    } else {
        return Err(WireError::UnknownTag(tag));
    };
    Ok(Row { kind, paired, rel, body })
}

#[inline]
fn read_raw<'a>(tag: u8, natts: u16, c: &mut Cursor<'a>) -> Result<RawTuple<'a>> {
    let len = c.varint("row.length")?;
    let len = usize::try_from(len).map_err(|_| WireError::BadValue { what: "row.length", value: len })?;
    let mut flags = if tag & tag::ROW_VARWIDTH != 0 { RawTuple::HAS_VARWIDTH } else { 0 };
    let mut bitmap: &[u8] = &[];
    if tag & tag::ROW_NULLS != 0 {
        flags |= RawTuple::HAS_NULLS;
        bitmap = c.bytes(bitmap_len(natts), "row.bitmap")?;
    }
    Ok(RawTuple { natts, flags, bitmap, data: c.bytes(len, "row.data")? })
}
