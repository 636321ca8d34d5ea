//! The binary encoding: each column null, unchanged, or the output of its type's send function.

use crate::cursor::{Cursor, write_varint};
use crate::error::{Result, WireError};
use bytes::{BufMut, BytesMut};

const NULL: u64 = 0;
const UNCHANGED: u64 = 1;
/// A value of n bytes is announced as n + 2.
const VALUE: u64 = 2;

/// One column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// NULL.
    Null,
    /// As in the old row, and not shipped because it is large. Never written for tables with REPLICA IDENTITY FULL.
    Unchanged,
    /// The bytes of the type's send function.
    Value(&'a [u8]),
}

/// Appends one column.
#[inline]
pub fn write_column(buf: &mut BytesMut, column: &Column<'_>) {
    match column {
        Column::Null => buf.put_u8(NULL as u8),
        Column::Unchanged => buf.put_u8(UNCHANGED as u8),
        Column::Value(bytes) => {
            buf.reserve(bytes.len() + 5);
            write_varint(buf, bytes.len() as u64 + VALUE);
            buf.extend_from_slice(bytes);
        }
    }
}

#[inline]
fn read_column<'a>(c: &mut Cursor<'a>) -> Result<Column<'a>> {
    match c.varint("column.length")? {
        NULL => Ok(Column::Null),
        UNCHANGED => Ok(Column::Unchanged),
        n => {
            let len =
                usize::try_from(n - VALUE).map_err(|_| WireError::BadValue { what: "column.length", value: n })?;
            c.bytes(len, "column.value").map(Column::Value)
        }
    }
}

/// A row of columns. Checked when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BinaryTuple<'a> {
    /// How many columns.
    pub columns: u16,
    bytes: &'a [u8],
}

impl<'a> BinaryTuple<'a> {
    /// Each column in order.
    pub fn iter(&self) -> impl Iterator<Item = Column<'a>> + use<'a> {
        let mut c = Cursor::new(self.bytes);
        // read_tuple has read the very same bytes without an error.
        (0..self.columns).map_while(move |_| read_column(&mut c).ok())
    }
}

pub(crate) fn read_tuple<'a>(columns: u16, c: &mut Cursor<'a>) -> Result<BinaryTuple<'a>> {
    let start = c.rest();
    for _ in 0..columns {
        read_column(c)?;
    }
    Ok(BinaryTuple { columns, bytes: &start[..start.len() - c.rest().len()] })
}
