//! What is written is what is read, whatever it is and however it falls into frames.

mod common;

use common::{Owned, Rng, any_message, check, payloads, read_anything, write};
use pgtrickle_wire::{FRAME_HEADER, FRAME_LIMIT, FrameReader, FrameWriter, Message, MessageReader};

#[test]
fn any_sequence_of_messages() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut r = Rng::new(seed);
        let limit = if r.chance(2) { FRAME_LIMIT } else { r.below(500) };
        let mut writer = FrameWriter::with_limit(limit);
        let mut written = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..r.below(400) {
            let message = any_message(&mut r);
            // Without a Begin there is nothing to commit, and nothing is written.
            if !matches!(message, Owned::Commit(_)) || writer.in_transaction() {
                written.push(message.clone());
            }
            write(&mut writer, &message);
            if r.chance(20) {
                writer.finish();
            }
            // A socket takes any number of bytes.
            let n = r.below(writer.pending().len() + 1);
            sent.extend_from_slice(&writer.pending()[..n]);
            writer.advance(n);
        }
        writer.finish();
        sent.extend_from_slice(writer.pending());
        let mut expected = written.iter();
        for payload in payloads(&sent) {
            let mut messages = 0;
            for message in MessageReader::new(&payload) {
                check(expected.next().expect("no more than was written"), &message.expect("readable"));
                messages += 1;
            }
            assert!(messages == 1 || payload.len() <= limit, "{messages} messages in {}", payload.len());
            assert_eq!(read_anything(&payload), messages);
        }
        assert!(expected.next().is_none(), "all that was written");
    }
}

#[test]
fn count_and_checksum_span_frames() {
    for seed in 0..100 {
        println!("seed {seed}");
        let mut r = Rng::new(seed);
        let mut writer = FrameWriter::with_limit(r.below(300));
        let (mut sent, mut rows) = (Vec::new(), 0);
        write(&mut writer, &Owned::Progress(1));
        write(&mut writer, &Owned::Begin(pgtrickle_wire::Begin { xid: 1, commit_lsn: 2, commit_time: 3 }));
        for _ in 0..r.below(200) {
            let message = any_message(&mut r);
            if matches!(message, Owned::Begin(_) | Owned::Commit(_)) {
                continue;
            }
            rows += u64::from(matches!(message, Owned::Raw { .. } | Owned::Binary { .. }));
            write(&mut writer, &message);
            assert_eq!(writer.records(), rows);
            if r.chance(10) {
                writer.finish();
                sent.extend_from_slice(writer.pending());
                writer.advance(writer.pending().len());
            }
        }
        writer.commit(9);
        writer.finish();
        sent.extend_from_slice(writer.pending());
        // The definition: all bytes of the messages from Begin on, up to the checksum, frames or no frames.
        let all: Vec<u8> = payloads(&sent).concat();
        let mut reader = MessageReader::new(&all);
        let mut from = 0;
        let commit = loop {
            let start = reader.offset();
            match reader.next().expect("a Commit").expect("readable") {
                Message::Begin(_) => from = start,
                Message::Commit(commit) => {
                    assert_eq!(crc32c::crc32c(&all[from..reader.offset() - 4]), commit.crc32c);
                    break commit;
                }
                _ => {}
            }
        };
        assert_eq!((commit.records, commit.commit_lsn, commit.end_lsn), (rows, 2, 9));
    }
}

#[test]
fn halves_of_an_update_begin_frames_and_memory_is_given_back() {
    use pgtrickle_wire::RawTuple;
    let mut writer = FrameWriter::new();
    let wide = vec![7; 3 << 20];
    let (old, new) = (RawTuple::new(1, true, None, &wide), RawTuple::new(1, true, Some(&[1]), &wide[1..]));
    writer.progress(&pgtrickle_wire::Progress { lsn: 1 });
    assert!(!writer.is_full() && !writer.is_empty() && writer.next_frame().is_none());
    writer.update_raw(4, &old, &new);
    assert!(writer.is_full());
    let first = writer.next_frame().expect("closed before the large record").len();
    assert_eq!(first, FRAME_HEADER + 9);
    writer.advance(first);
    writer.finish();
    let frames = payloads(writer.pending());
    // Together they could be larger than any frame.
    assert_eq!(frames.len(), 2);
    for (frame, tuple) in frames.iter().zip([&old, &new]) {
        assert_eq!(MessageReader::new(frame).count(), 1);
        assert!(frame.len() <= pgtrickle_wire::row::raw_size_max(tuple));
    }
    writer.advance(writer.pending().len());
    assert!(writer.is_empty());
    assert_eq!(writer.len(), 0);
}

#[test]
fn rows_written_in_place_equal_rows_copied() {
    use pgtrickle_wire::{RawTuple, RowKind};
    let data: Vec<u8> = (0..200).collect();
    let (mut a, mut b) = (FrameWriter::new(), FrameWriter::new());
    let tuple = RawTuple::new(9, true, Some(&[0xff, 0, 3]), &data);
    a.row_raw(RowKind::Delete, false, 300, &tuple);
    b.row_raw_with(RowKind::Delete, false, 300, &tuple, data.len(), |space| space.copy_from_slice(&data));
    a.finish();
    b.finish();
    assert_eq!(a.pending(), b.pending());
}

#[test]
fn frames_from_pg_recvlogical_end_in_newlines() {
    let mut writer = FrameWriter::new();
    writer.progress(&pgtrickle_wire::Progress { lsn: 0x0a0a_0a0a });
    writer.finish();
    let frame = writer.pending().to_vec();
    let stream = [&frame[..], b"\n", &frame[..], b"\n"].concat();
    let reader = FrameReader::recvlogical();
    let mut from = &stream[..];
    assert_eq!(reader.next(&mut from).unwrap().unwrap()[..], frame[FRAME_HEADER..]);
    assert_eq!(reader.next(&mut from).unwrap().unwrap()[..], frame[FRAME_HEADER..]);
    assert!(reader.next(&mut from).unwrap().is_none());
    // Without the newline, or cut, it is an error and not an end.
    assert!(reader.next(&mut &[&frame[..], b"x"].concat()[..]).is_err());
    for cut in 1..stream.len() / 2 {
        assert!(reader.next(&mut &stream[..cut]).is_err(), "cut at {cut}");
    }
    // A length that no record can have.
    assert!(FrameReader::new().next(&mut &[0xff; 64][..]).is_err());
}
