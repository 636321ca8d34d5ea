//! Hello: the first message of each direction. It binds both sides to one format and, for raw rows, to one server.

use crate::cursor::{Cursor, write_name};
use crate::error::{Result, WireError};
use crate::message::tag;
use crate::{FORMAT_VERSION, MAGIC};
use bytes::BufMut;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that sends changes.
    Producer,
    /// The side that applies them.
    Consumer,
}

/// How rows are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The heap tuple's own bytes: only for the server that wrote them.
    Raw,
    /// The output of the types' send functions: for everyone.
    Binary,
}

/// What the meaning of raw bytes depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abi<'a> {
    /// `server_version_num`.
    pub server_version: u32,
    /// `CATALOG_VERSION_NO`.
    pub catalog_version: u32,
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The database.
    pub dboid: u32,
    /// Architecture, byte order, alignment, such as `x86_64-le-8`.
    pub arch: &'a [u8],
}

impl Abi<'_> {
    /// The architecture this code was compiled for.
    pub const ARCH: &'static [u8] = {
        if cfg!(all(target_arch = "x86_64", target_endian = "little")) {
            b"x86_64-le-8"
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
            b"aarch64-le-8"
        } else if cfg!(target_endian = "little") {
            b"other-le"
        } else {
            b"other-be"
        }
    };
}

/// The first message of each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Who speaks.
    pub role: Role,
    /// How rows will be (producer) or are expected to be (consumer) encoded.
    pub encoding: Encoding,
    /// What raw bytes depend on.
    pub abi: Abi<'a>,
    /// Consumer: commits at or before this are durably applied. Producer: where it starts.
    pub start_lsn: u64,
    /// The replication slot; empty if unknown.
    pub slot: &'a [u8],
}

/// Appends a Hello.
pub fn write_hello(buf: &mut impl BufMut, hello: &Hello<'_>) {
    buf.put_u8(tag::HELLO);
    buf.put_slice(&MAGIC);
    buf.put_u16_le(FORMAT_VERSION);
    buf.put_u8(match hello.role {
        Role::Producer => 0,
        Role::Consumer => 1,
    });
    buf.put_u8(match hello.encoding {
        Encoding::Raw => 0,
        Encoding::Binary => 1,
    });
    buf.put_u32_le(hello.abi.server_version);
    buf.put_u32_le(hello.abi.catalog_version);
    buf.put_u64_le(hello.abi.system_identifier);
    buf.put_u32_le(hello.abi.dboid);
    buf.put_u64_le(hello.start_lsn);
    write_name(buf, hello.abi.arch);
    write_name(buf, hello.slot);
}

pub(crate) fn read_hello<'a>(c: &mut Cursor<'a>) -> Result<Hello<'a>> {
    if c.bytes(MAGIC.len(), "hello.magic")? != MAGIC {
        return Err(WireError::NotOurs);
    }
    let theirs = c.u16("hello.version")?;
    if theirs != FORMAT_VERSION {
        return Err(WireError::Version { theirs });
    }
    let role = match c.u8("hello.role")? {
        0 => Role::Producer,
        1 => Role::Consumer,
        value => {
            return Err(WireError::BadValue { what: "hello.role", value: value.into() });
        }
    };
    let encoding = match c.u8("hello.encoding")? {
        0 => Encoding::Raw,
        1 => Encoding::Binary,
        value => {
            return Err(WireError::BadValue { what: "hello.encoding", value: value.into() });
        }
    };
    let server_version = c.u32("hello.server_version")?;
    let catalog_version = c.u32("hello.catalog_version")?;
    let system_identifier = c.u64("hello.system_identifier")?;
    let dboid = c.u32("hello.dboid")?;
    let start_lsn = c.u64("hello.start_lsn")?;
    let arch = c.name("hello.arch")?;
    let slot = c.name("hello.slot")?;
    let abi = Abi { server_version, catalog_version, system_identifier, dboid, arch };
    Ok(Hello { role, encoding, abi, start_lsn, slot })
}

impl Hello<'_> {
    /// Refuses a peer that is not the other side of this stream: same role, other encoding, server, database or slot.
    pub fn check_peer(&self, peer: &Hello<'_>) -> Result<()> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let same = |what, ours: String, theirs: String| {
            if ours == theirs { Ok(()) } else { Err(WireError::Mismatch { what, ours, theirs }) }
        };
        if self.role == peer.role {
            return Err(WireError::BadValue { what: "hello.role of the peer", value: peer.role as u64 });
        }
        let (a, b) = (&self.abi, &peer.abi);
        same("row encoding", format!("{:?}", self.encoding), format!("{:?}", peer.encoding))?;
        same("server version", a.server_version.to_string(), b.server_version.to_string())?;
        same("catalog version", a.catalog_version.to_string(), b.catalog_version.to_string())?;
        same("system identifier", a.system_identifier.to_string(), b.system_identifier.to_string())?;
        same("database oid", a.dboid.to_string(), b.dboid.to_string())?;
        same("architecture", text(a.arch), text(b.arch))?;
        same("slot name", text(self.slot), text(peer.slot))
    }

    /// A copy that outlives the input.
    pub fn to_owned_buf(&self) -> HelloBuf {
        let mut bytes = Vec::with_capacity(96);
        write_hello(&mut bytes, self);
        HelloBuf { bytes }
    }
}

/// An owned [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloBuf {
    bytes: Vec<u8>,
}

impl HelloBuf {
    /// The Hello.
    pub fn get(&self) -> Hello<'_> {
        // The bytes come from write_hello, and the tag precedes what read_hello reads.
        read_hello(&mut Cursor::new(&self.bytes[1..])).expect("write_hello and read_hello agree")
    }
}
