//! Seeded random streams, and writing back what was read.
#![allow(dead_code)]

use bytes::BytesMut;
use pgtrickle_wire::binary::write_column;
use pgtrickle_wire::relation::RelationHead;
use pgtrickle_wire::*;

/// A small seeded generator (xorshift64*); a failing test prints its seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// All magnitudes are equally likely, so that every varint length occurs.
    pub fn number(&mut self) -> u64 {
        let bits = self.below(65) as u32;
        if bits == 0 { 0 } else { self.next() >> (64 - bits) }
    }

    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.next() as u8).collect()
    }

    pub fn name(&mut self) -> Vec<u8> {
        let mut name = self.bytes(20);
        name.retain(|&b| b != 0);
        name
    }
}

/// An owned message: what was written, to compare with what is read.
#[derive(Debug, Clone)]
pub enum Owned {
    Hello { consumer: bool, binary: bool, numbers: [u64; 5], arch: Vec<u8>, slot: Vec<u8> },
    Relation { numbers: [u64; 4], namespace: Vec<u8>, name: Vec<u8>, attrs: Vec<(u64, Vec<u8>)> },
    Begin(Begin),
    Raw { delete: bool, paired: bool, rel: u32, natts: u16, var: bool, bitmap: Option<Vec<u8>>, data: Vec<u8> },
    Binary { delete: bool, paired: bool, rel: u32, columns: Vec<OwnedColumn> },
    Truncate { cascade: bool, restart: bool, relids: Vec<u32> },
    Message { lsn: u64, transactional: bool, prefix: Vec<u8>, content: Vec<u8> },
    Degraded { relid: u32, reason: Vec<u8> },
    Reinit { relid: u32, reason: Vec<u8> },
    Commit(u64),
    Progress(u64),
}

#[derive(Debug, Clone)]
pub enum OwnedColumn {
    Null,
    Unchanged,
    Value(Vec<u8>),
}

impl OwnedColumn {
    pub fn get(&self) -> Column<'_> {
        match self {
            OwnedColumn::Null => Column::Null,
            OwnedColumn::Unchanged => Column::Unchanged,
            OwnedColumn::Value(v) => Column::Value(v),
        }
    }
}

fn kind(delete: bool) -> RowKind {
    if delete { RowKind::Delete } else { RowKind::Insert }
}

fn raw(r: &mut Rng) -> Owned {
    let natts = if r.chance(10) { r.number() as u16 % 1600 } else { r.below(12) as u16 };
    let bitmap = r.chance(2).then(|| (0..row::bitmap_len(natts)).map(|_| r.next() as u8).collect());
    let size = if r.chance(200) { 200_000 } else { 200 };
    let data = r.bytes(size);
    let (delete, paired, var) = (r.chance(2), r.chance(3), r.chance(2));
    Owned::Raw { delete, paired, rel: r.number() as u32, natts, var, bitmap, data }
}

fn binary(r: &mut Rng) -> Owned {
    let column = |r: &mut Rng| match r.below(5) {
        0 => OwnedColumn::Null,
        1 => OwnedColumn::Unchanged,
        _ => OwnedColumn::Value(r.bytes(300)),
    };
    let columns = (0..r.below(10)).map(|_| column(r)).collect();
    Owned::Binary { delete: r.chance(2), paired: r.chance(3), rel: r.number() as u32, columns }
}

/// Any message, regardless of what a sound stream would have.
pub fn any_message(r: &mut Rng) -> Owned {
    match r.below(14) {
        0 => Owned::Hello {
            consumer: r.chance(2),
            binary: r.chance(2),
            numbers: std::array::from_fn(|_| r.number()),
            arch: r.name(),
            slot: r.name(),
        },
        1 => Owned::Relation {
            numbers: std::array::from_fn(|_| r.number()),
            namespace: r.name(),
            name: r.name(),
            attrs: (0..r.below(20)).map(|_| (r.next(), r.name())).collect(),
        },
        2 => Owned::Begin(Begin { xid: r.number(), commit_lsn: r.number(), commit_time: r.next() as i64 }),
        3 => Owned::Truncate {
            cascade: r.chance(2),
            restart: r.chance(2),
            relids: (0..r.below(5)).map(|_| r.next() as u32).collect(),
        },
        4 => Owned::Message { lsn: r.number(), transactional: r.chance(2), prefix: r.name(), content: r.bytes(300) },
        5 => Owned::Degraded { relid: r.next() as u32, reason: r.name() },
        6 => Owned::Reinit { relid: r.next() as u32, reason: r.name() },
        7 => Owned::Commit(r.number()),
        8 => Owned::Progress(r.number()),
        9..=11 => raw(r),
        _ => binary(r),
    }
}

fn hello<'a>(consumer: bool, binary: bool, n: &[u64; 5], arch: &'a [u8], slot: &'a [u8]) -> Hello<'a> {
    Hello {
        role: if consumer { Role::Consumer } else { Role::Producer },
        encoding: if binary { Encoding::Binary } else { Encoding::Raw },
        abi: Abi {
            server_version: n[0] as u32,
            catalog_version: n[1] as u32,
            system_identifier: n[2],
            dboid: n[3] as u32,
            arch,
        },
        start_lsn: n[4],
        slot,
    }
}

fn attr((bits, name): &(u64, Vec<u8>)) -> Attr<'_> {
    Attr {
        attnum: *bits as i16,
        name,
        type_oid: (bits >> 16) as u32,
        typmod: (bits >> 24) as i32,
        typlen: (bits >> 40) as i16,
        typalign: b"csid"[(bits >> 56) as usize % 4],
        byval: bits >> 60 & 1 != 0,
        flags: (bits >> 50) as u8,
    }
}

fn relation_head<'a>(n: &[u64; 4], namespace: &'a [u8], name: &'a [u8]) -> RelationHead<'a> {
    let (index, relid, schema_version, fingerprint) = (n[0] as u32, n[1] as u32, n[2] as u32, n[3]);
    RelationHead { index, relid, schema_version, fingerprint, namespace, name }
}

/// Writes a message as a producer would.
pub fn write(w: &mut FrameWriter, message: &Owned) {
    match message {
        Owned::Hello { consumer, binary, numbers, arch, slot } => {
            w.hello(&hello(*consumer, *binary, numbers, arch, slot))
        }
        Owned::Relation { numbers, namespace, name, attrs } => {
            let attrs: Vec<_> = attrs.iter().map(attr).collect();
            w.relation(&relation_head(numbers, namespace, name), &attrs);
        }
        Owned::Begin(begin) => w.begin(begin),
        Owned::Raw { delete, paired, rel, natts, var, bitmap, data } => {
            w.row_raw(kind(*delete), *paired, *rel, &RawTuple::new(*natts, *var, bitmap.as_deref(), data))
        }
        Owned::Binary { delete, paired, rel, columns } => {
            w.row_binary(kind(*delete), *paired, *rel, columns.iter().map(OwnedColumn::get))
        }
        Owned::Truncate { cascade, restart, relids } => w.truncate(*cascade, *restart, relids),
        Owned::Message { lsn, transactional, prefix, content } => {
            w.message(&LogicalMessage { lsn: *lsn, transactional: *transactional, prefix, content })
        }
        Owned::Degraded { relid, reason } => w.degraded(&Degraded { relid: *relid, reason }),
        Owned::Reinit { relid, reason } => w.reinit(&Reinit { relid: *relid, reason }),
        Owned::Commit(end_lsn) => w.commit(*end_lsn),
        Owned::Progress(lsn) => w.progress(&Progress { lsn: *lsn }),
    }
}

/// Asserts that `read` is what was written.
pub fn check(written: &Owned, read: &Message<'_>) {
    match (written, read) {
        (Owned::Hello { consumer, binary, numbers, arch, slot }, Message::Hello(m)) => {
            assert_eq!(*m, hello(*consumer, *binary, numbers, arch, slot));
            assert_eq!(m.to_owned_buf().get(), *m);
        }
        (Owned::Relation { numbers, namespace, name, attrs }, Message::Relation(m)) => {
            let head = relation_head(numbers, namespace, name);
            assert_eq!((m.index, m.relid, m.schema_version), (head.index, head.relid, head.schema_version));
            assert_eq!((m.fingerprint, m.namespace, m.name), (head.fingerprint, head.namespace, head.name));
            assert_eq!(m.attrs.len(), attrs.len());
            assert_eq!(m.attrs.iter().collect::<Vec<_>>(), attrs.iter().map(attr).collect::<Vec<_>>());
        }
        (Owned::Begin(a), Message::Begin(b)) => assert_eq!(a, b),
        (Owned::Raw { delete, paired, rel, natts, var, bitmap, data }, Message::Row(row)) => {
            let tuple = RawTuple::new(*natts, *var, bitmap.as_deref(), data);
            let body = Body::Raw(tuple);
            assert_eq!(*row, Row { kind: kind(*delete), paired: *paired, rel: *rel, body });
        }
        (Owned::Binary { delete, paired, rel, columns }, Message::Row(row)) => {
            assert_eq!((row.kind, row.paired, row.rel), (kind(*delete), *paired, *rel));
            let Body::Binary(tuple) = row.body else { panic!("{row:?} is not binary") };
            let read: Vec<_> = tuple.iter().collect();
            assert_eq!(read, columns.iter().map(OwnedColumn::get).collect::<Vec<_>>());
        }
        (Owned::Truncate { cascade, restart, relids }, Message::Truncate(m)) => {
            assert_eq!((m.cascade, m.restart_identity), (*cascade, *restart));
            assert_eq!(m.relids().collect::<Vec<_>>(), *relids);
        }
        (Owned::Message { lsn, transactional, prefix, content }, Message::Message(m)) => {
            assert_eq!(*m, LogicalMessage { lsn: *lsn, transactional: *transactional, prefix, content });
        }
        (Owned::Degraded { relid, reason }, Message::Degraded(m)) => {
            assert_eq!((m.relid, m.reason), (*relid, &reason[..]));
        }
        (Owned::Reinit { relid, reason }, Message::Reinit(m)) => {
            assert_eq!((m.relid, m.reason), (*relid, &reason[..]));
        }
        (Owned::Commit(end_lsn), Message::Commit(m)) => assert_eq!(*end_lsn, m.end_lsn),
        (Owned::Progress(lsn), Message::Progress(m)) => assert_eq!(*lsn, m.lsn),
        (written, read) => panic!("wrote {written:?}, read {read:?}"),
    }
}

/// The payloads of all complete frames in `stream`.
pub fn payloads(mut stream: &[u8]) -> Vec<bytes::Bytes> {
    let frames = FrameReader::new();
    std::iter::from_fn(|| frames.next(&mut stream).expect("whole frames")).collect()
}

/// Writes what was read. The encoding is canonical, so the bytes must be the same.
pub fn rewrite(message: &Message<'_>) -> BytesMut {
    let mut buf = BytesMut::new();
    match message {
        Message::Hello(m) => hello::write_hello(&mut buf, m),
        Message::Relation(m) => {
            let (index, relid, schema_version, fingerprint) = (m.index, m.relid, m.schema_version, m.fingerprint);
            let (namespace, name) = (m.namespace, m.name);
            let head = RelationHead { index, relid, schema_version, fingerprint, namespace, name };
            relation::write_relation(&mut buf, &head, &m.attrs.iter().collect::<Vec<_>>());
        }
        Message::Begin(m) => transaction::write_begin(&mut buf, m),
        Message::Row(m) => match m.body {
            Body::Raw(tuple) => row::write_row_raw(&mut buf, m.kind, m.paired, m.rel, &tuple),
            Body::Binary(tuple) => {
                row::write_row_binary(&mut buf, m.kind, m.paired, m.rel, tuple.columns);
                tuple.iter().for_each(|column| write_column(&mut buf, &column));
            }
        },
        Message::Truncate(m) => {
            event::write_truncate(&mut buf, m.cascade, m.restart_identity, &m.relids().collect::<Vec<_>>())
        }
        Message::Message(m) => event::write_message(&mut buf, m),
        Message::Degraded(m) => event::write_degraded(&mut buf, m),
        Message::Reinit(m) => event::write_reinit(&mut buf, m),
        Message::Commit(m) => transaction::write_commit(&mut buf, m),
        Message::Progress(m) => event::write_progress(&mut buf, m),
        Message::Optional { tag, body } => {
            buf.extend_from_slice(&[*tag]);
            cursor::write_counted(&mut buf, body);
        }
    }
    buf
}

/// Reads arbitrary bytes: must not panic, and every message that is read must have come from its only encoding.
pub fn read_anything(payload: &[u8]) -> usize {
    let mut reader = MessageReader::new(payload);
    let mut messages = 0;
    loop {
        let start = reader.offset();
        match reader.next() {
            Some(Ok(message)) => {
                assert_eq!(rewrite(&message), payload[start..reader.offset()], "{message:?}");
                messages += 1;
            }
            Some(Err(error)) => {
                assert!(!error.to_string().is_empty() && error.sqlstate().len() == 5);
                assert!(reader.next().is_none(), "exhausted after an error");
                return messages;
            }
            None => return messages,
        }
    }
}
