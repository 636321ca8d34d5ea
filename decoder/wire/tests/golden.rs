//! The worked example of FORMAT.md is what the writer writes, byte for byte.

mod common;

use common::payloads;
use pgtrickle_wire::relation::RelationHead;
use pgtrickle_wire::*;

fn example() -> Vec<u8> {
    let mut w = FrameWriter::new();
    let abi = Abi {
        server_version: 180_006,
        catalog_version: 202_506_291,
        system_identifier: 0x0123_4567_89ab_cdef,
        dboid: 16384,
        arch: b"x86_64-le-8",
    };
    w.hello(&Hello {
        role: Role::Producer,
        encoding: Encoding::Raw,
        abi,
        start_lsn: 0x1_0000_0028,
        slot: b"pg_trickle_16384",
    });
    let head = RelationHead {
        index: 0,
        relid: 16390,
        schema_version: 1,
        fingerprint: 0x1122_3344_5566_7788,
        namespace: b"public",
        name: b"t",
    };
    let id = Attr {
        attnum: 1,
        name: b"id",
        type_oid: 23,
        typmod: -1,
        typlen: 4,
        typalign: b'i',
        byval: true,
        flags: Attr::NOT_NULL | Attr::IDENTITY,
    };
    let note = Attr { attnum: 3, name: b"note", type_oid: 25, typlen: -1, byval: false, flags: 0, ..id };
    w.relation(&head, &[id, note]);
    w.begin(&Begin { xid: (1 << 32) | 731, commit_lsn: 0x1_0000_0100, commit_time: 815_000_000_000_000 });
    let seven = [7, 0, 0, 0];
    let seven_hi = [7, 0, 0, 0, 0x07, b'h', b'i'];
    w.row_raw(RowKind::Insert, false, 0, &RawTuple::new(2, true, Some(&[0b01]), &seven));
    w.update_raw(0, &RawTuple::new(2, true, Some(&[0b01]), &seven), &RawTuple::new(2, true, None, &seven_hi));
    w.truncate(true, false, &[16390]);
    w.commit(0x1_0000_0130);
    w.message(&LogicalMessage { lsn: 0x1_0000_0180, transactional: false, prefix: b"pg_trickle", content: b"42" });
    w.finish();
    w.progress(&Progress { lsn: 0x1_0000_0200 });
    w.finish();
    w.pending().to_vec()
}

fn binary_row() -> Vec<u8> {
    let mut w = FrameWriter::new();
    let columns = [Column::Value(&[0, 0, 0, 7]), Column::Null, Column::Unchanged, Column::Value(b"")];
    w.row_binary(RowKind::Insert, false, 1, columns.iter().copied());
    w.finish();
    w.pending().to_vec()
}

/// The hexadecimal digits of the fenced block that follows `heading`, comments behind `#` left out.
fn documented(heading: &str) -> String {
    let text = include_str!("../FORMAT.md");
    let (_, rest) = text.split_once(heading).expect(heading);
    let block = rest.split("```").nth(1).expect("a fenced block");
    let code = block.lines().skip(1).map(|line| line.split('#').next().unwrap_or(""));
    code.flat_map(|line| line.chars().filter(|c| !c.is_whitespace()).collect::<Vec<_>>()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn worked_example() {
    assert_eq!(hex(&example()), documented("## Worked example"));
    assert_eq!(hex(&binary_row()), documented("### A binary row"));
}

#[test]
fn worked_example_reads_back() {
    let frames = payloads(&example());
    assert_eq!(frames.len(), 2);
    let messages: Vec<_> = frames.iter().flat_map(|f| MessageReader::new(f)).map(Result::unwrap).collect();
    assert_eq!(messages.len(), 10);
    let Message::Row(row) = messages[3] else { panic!("{:?}", messages[3]) };
    let Body::Raw(tuple) = row.body else { panic!("{row:?}") };
    assert!(tuple.is_present(0) && !tuple.is_present(1) && !tuple.is_present(2));
    assert_eq!(tuple.data, [7, 0, 0, 0]);
    let Message::Commit(commit) = messages[7] else { panic!("{:?}", messages[7]) };
    assert_eq!(commit.records, 3);
    assert_eq!(messages[9], Message::Progress(Progress { lsn: 0x1_0000_0200 }));
}

#[test]
fn optional_messages_are_skipped_and_mandatory_ones_refused() {
    let payload = [0x93, 3, 1, 2, 3, b'P', 5, 0, 0, 0, 0, 0, 0, 0];
    let read: Vec<_> = MessageReader::new(&payload).collect();
    assert_eq!(read[0], Ok(Message::Optional { tag: 0x93, body: &[1, 2, 3] }));
    assert_eq!(read[1], Ok(Message::Progress(Progress { lsn: 5 })));
    let read: Vec<_> = MessageReader::new(&[b'Z', 0]).collect();
    assert_eq!(read, [Err(WireError::UnknownTag(b'Z'))]);
}

#[test]
fn another_version_or_another_stream_is_refused() {
    let hello = &payloads(&example())[0].to_vec();
    let mut other = hello.clone();
    other[5] = 2;
    assert_eq!(MessageReader::new(&other).next(), Some(Err(WireError::Version { theirs: 2 })));
    let mut other = hello.clone();
    other[1] = b'p';
    assert_eq!(MessageReader::new(&other).next(), Some(Err(WireError::NotOurs)));
    // The text output of another plugin.
    assert!(matches!(MessageReader::new(b"BEGIN 731\n").next(), Some(Err(_))));
}

#[test]
fn a_peer_must_be_of_the_same_server() {
    let hello = payloads(&example())[0].clone();
    let Some(Ok(Message::Hello(theirs))) = MessageReader::new(&hello).next() else { panic!("no Hello") };
    let ours = Hello { role: Role::Consumer, start_lsn: 1, ..theirs };
    assert_eq!(ours.check_peer(&theirs), Ok(()));
    assert_eq!(theirs.check_peer(&ours), Ok(()));
    let refused = |ours: Hello<'_>, what: &str| {
        let error = ours.check_peer(&theirs).expect_err(what);
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(theirs, "role");
    refused(Hello { encoding: Encoding::Binary, ..ours }, "row encoding");
    refused(Hello { slot: b"other", ..ours }, "slot name");
    refused(Hello { abi: Abi { server_version: 150_020, ..ours.abi }, ..ours }, "server version");
    refused(Hello { abi: Abi { catalog_version: 1, ..ours.abi }, ..ours }, "catalog version");
    refused(Hello { abi: Abi { system_identifier: 1, ..ours.abi }, ..ours }, "system identifier");
    refused(Hello { abi: Abi { dboid: 5, ..ours.abi }, ..ours }, "database");
    refused(Hello { abi: Abi { arch: b"aarch64-le-8", ..ours.abi }, ..ours }, "architecture");
}

/// How much smaller than pgoutput's binary rows (`I`, relation oid, `N`, count, then kind, length, bytes).
#[test]
fn rows_are_compact() {
    for widths in [&[4usize, 8, 4, 20][..], &[4, 4], &[8, 8, 40, 8], &[4; 12]] {
        let values: Vec<_> = widths.iter().map(|&n| vec![1u8; n]).collect();
        let mut w = FrameWriter::new();
        w.row_binary(RowKind::Insert, false, 3, values.iter().map(|v| Column::Value(v)));
        let ours = w.len() - FRAME_HEADER;
        let theirs = 8 + widths.iter().map(|n| 5 + n).sum::<usize>();
        assert!(ours * 100 <= theirs * 85, "{ours} bytes against {theirs}");
    }
}
