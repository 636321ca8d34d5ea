//! Relation: what the rows that follow look like.

use crate::cursor::{Cursor, write_name, write_varint};
use crate::error::{Result, WireError};
use crate::message::tag;
use bytes::BufMut;

/// One travelling column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// Its attribute number in the source table.
    pub attnum: i16,
    /// Its name.
    pub name: &'a [u8],
    /// Its type's oid.
    pub type_oid: u32,
    /// Its type modifier, -1 if none.
    pub typmod: i32,
    /// `pg_type.typlen`.
    pub typlen: i16,
    /// `pg_type.typalign`: `c`, `s`, `i` or `d`.
    pub typalign: u8,
    /// `pg_type.typbyval`.
    pub byval: bool,
    /// [`Attr::NOT_NULL`], [`Attr::IDENTITY`], [`Attr::GENERATED`].
    pub flags: u8,
}

impl Attr<'_> {
    /// The column is declared NOT NULL.
    pub const NOT_NULL: u8 = 1;
    /// The column is part of the replica identity.
    pub const IDENTITY: u8 = 2;
    /// The column is generated (stored).
    pub const GENERATED: u8 = 4;
}

fn write_attr(buf: &mut impl BufMut, attr: &Attr<'_>) {
    buf.put_i16_le(attr.attnum);
    buf.put_u32_le(attr.type_oid);
    buf.put_i32_le(attr.typmod);
    buf.put_i16_le(attr.typlen);
    buf.put_u8(attr.typalign);
    buf.put_u8(u8::from(attr.byval));
    buf.put_u8(attr.flags);
    write_name(buf, attr.name);
}

fn read_attr<'a>(c: &mut Cursor<'a>) -> Result<Attr<'a>> {
    Ok(Attr {
        attnum: c.i16("attr.attnum")?,
        type_oid: c.u32("attr.type_oid")?,
        typmod: c.i32("attr.typmod")?,
        typlen: c.i16("attr.typlen")?,
        typalign: match c.u8("attr.typalign")? {
            align @ (b'c' | b's' | b'i' | b'd') => align,
            value => {
                return Err(WireError::BadValue { what: "attr.typalign", value: value.into() });
            }
        },
        byval: match c.u8("attr.byval")? {
            0 => false,
            1 => true,
            value => {
                return Err(WireError::BadValue { what: "attr.byval", value: value.into() });
            }
        },
        flags: c.u8("attr.flags")?,
        name: c.name("attr.name")?,
    })
}

/// The travelling columns of a relation, in the order in which rows carry them. Checked when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attrs<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether the rows carry no column at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Attr<'a>> + use<'a> {
        let mut c = Cursor::new(self.bytes);
        // read_relation has read the very same bytes without an error.
        (0..self.count).map_while(move |_| read_attr(&mut c).ok())
    }
}

/// The columns of a relation. Sent before its first row and again after each change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The small number by which rows name it until another Relation takes that number.
    pub index: u32,
    /// Its oid (of the root, if it is a partitioned table).
    pub relid: u32,
    /// Counts the versions of its columns that this stream has seen.
    pub schema_version: u32,
    /// Digest of everything that the layout of raw rows depends on.
    pub fingerprint: u64,
    /// Its schema.
    pub namespace: &'a [u8],
    /// Its name.
    pub name: &'a [u8],
    /// Its travelling columns.
    pub attrs: Attrs<'a>,
}

/// Everything in a [`Relation`] but its columns, for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationHead<'a> {
    /// As in [`Relation`].
    pub index: u32,
    /// As in [`Relation`].
    pub relid: u32,
    /// As in [`Relation`].
    pub schema_version: u32,
    /// As in [`Relation`].
    pub fingerprint: u64,
    /// As in [`Relation`].
    pub namespace: &'a [u8],
    /// As in [`Relation`].
    pub name: &'a [u8],
}

/// Appends a Relation.
pub fn write_relation(buf: &mut impl BufMut, head: &RelationHead<'_>, attrs: &[Attr<'_>]) {
    buf.put_u8(tag::RELATION);
    write_varint(buf, head.index.into());
    buf.put_u32_le(head.relid);
    write_varint(buf, head.schema_version.into());
    buf.put_u64_le(head.fingerprint);
    write_name(buf, head.namespace);
    write_name(buf, head.name);
    write_varint(buf, attrs.len() as u64);
    for attr in attrs {
        write_attr(buf, attr);
    }
}

pub(crate) fn read_relation<'a>(c: &mut Cursor<'a>) -> Result<Relation<'a>> {
    let index = c.varint32("relation.index")?;
    let relid = c.u32("relation.relid")?;
    let schema_version = c.varint32("relation.schema_version")?;
    let fingerprint = c.u64("relation.fingerprint")?;
    let namespace = c.name("relation.namespace")?;
    let name = c.name("relation.name")?;
    let count = c.varint32("relation.attrs")?;
    let start = c.rest();
    for _ in 0..count {
        read_attr(c)?;
    }
    let bytes = &start[..start.len() - c.rest().len()];
    Ok(Relation { index, relid, schema_version, fingerprint, namespace, name, attrs: Attrs { count, bytes } })
}
