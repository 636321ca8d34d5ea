//! What the tests' streams are made of.
#![allow(dead_code)]

use pgtrickle_wire::relation::RelationHead;
use pgtrickle_wire::*;

pub fn hello(role: Role) -> Hello<'static> {
    let abi = Abi { server_version: 1, catalog_version: 2, system_identifier: 3, dboid: 4, arch: Abi::ARCH };
    Hello { role, encoding: Encoding::Raw, abi, start_lsn: 0, slot: b"s" }
}

pub fn begin(commit_lsn: u64) -> Begin {
    Begin { xid: commit_lsn, commit_lsn, commit_time: 0 }
}

pub fn head(index: u32) -> RelationHead<'static> {
    RelationHead { index, relid: 100 + index, schema_version: 1, fingerprint: 0, namespace: b"public", name: b"t" }
}

pub fn attrs() -> [Attr<'static>; 2] {
    let a = Attr { attnum: 1, name: b"a", type_oid: 23, typmod: -1, typlen: 4, typalign: b'i', byval: true, flags: 0 };
    [a, Attr { attnum: 2, name: b"b", ..a }]
}

pub fn relation(w: &mut FrameWriter, index: u32) {
    w.relation(&head(index), &attrs());
}

pub fn payloads(mut stream: &[u8]) -> Vec<bytes::Bytes> {
    let frames = FrameReader::new();
    std::iter::from_fn(|| frames.next(&mut stream).expect("whole frames")).collect()
}
