//! Primitive items: little-endian integers, varints, NUL-terminated names, counted bytes.

use crate::error::{Result, WireError};
use bytes::BufMut;

/// Longest varint.
pub const VARINT_MAX: usize = 10;

/// Appends `value` in base 128, low digits first, in its shortest form.
#[inline]
pub fn write_varint(buf: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        buf.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

/// A position in borrowed input; every method leaves it untouched or moves it past what was read.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// At the beginning of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Cursor { rest: input }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads what [`write_varint`] wrote.
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<u64> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(what),
        }
    }

    fn long_varint(&mut self, what: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().take(VARINT_MAX).enumerate() {
            let digit = u64::from(byte & 0x7f);
            // The tenth digit carries one bit only.
            if i == VARINT_MAX - 1 && byte > 1 {
                return Err(WireError::BadVarint);
            }
            value |= digit << (7 * i);
            if byte < 0x80 {
                if byte == 0 && i > 0 {
                    return Err(WireError::BadVarint);
                }
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < VARINT_MAX { WireError::Truncated { what } } else { WireError::BadVarint })
    }

    /// A varint that must fit 32 bits.
    #[inline]
    pub fn varint32(&mut self, what: &'static str) -> Result<u32> {
        let value = self.varint(what)?;
        u32::try_from(value).map_err(|_| WireError::BadValue { what, value })
    }

    /// The next `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(WireError::Truncated { what }),
        }
    }

    /// Bytes behind their varint length.
    #[inline]
    pub fn counted(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.varint(what)?;
        let len = usize::try_from(len).map_err(|_| WireError::BadValue { what, value: len })?;
        self.bytes(len, what)
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(WireError::Truncated { what }),
        }
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.array::<1>(what).map(|[b]| b)
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// Two bytes, signed.
    pub fn i16(&mut self, what: &'static str) -> Result<i16> {
        self.array(what).map(i16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Four bytes, signed.
    pub fn i32(&mut self, what: &'static str) -> Result<i32> {
        self.array(what).map(i32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self, what: &'static str) -> Result<i64> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// Reads what [`write_name`] wrote.
    pub fn name(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let end = memchr::memchr(0, self.rest).ok_or(WireError::Truncated { what })?;
        let name = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(name)
    }
}

/// Appends a name and a NUL. PostgreSQL's text contains none; a name that does ends at it.
pub fn write_name(buf: &mut impl BufMut, name: &[u8]) {
    let end = memchr::memchr(0, name).unwrap_or(name.len());
    buf.put_slice(&name[..end]);
    buf.put_u8(0);
}

/// Appends bytes behind their varint length.
pub fn write_counted(buf: &mut impl BufMut, bytes: &[u8]) {
    write_varint(buf, bytes.len() as u64);
    buf.put_slice(bytes);
}
