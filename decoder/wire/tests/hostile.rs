//! Truncated, mutated and random input: no panic, no message that was not written in its only form.

mod common;

use common::{Owned, Rng, any_message, payloads, read_anything, write};
use pgtrickle_wire::{AckReader, FrameWriter, MessageReader, WireError};
use std::time::{Duration, Instant};

fn payload(r: &mut Rng, messages: usize) -> Vec<u8> {
    let mut writer = FrameWriter::with_limit(usize::MAX);
    for _ in 0..messages {
        let message = any_message(r);
        if !matches!(&message, Owned::Raw { data, .. } if data.len() > 2000) {
            write(&mut writer, &message);
        }
    }
    writer.finish();
    payloads(writer.pending()).concat()
}

#[test]
fn every_truncation_is_noticed() {
    for seed in 0..40 {
        println!("seed {seed}");
        let payload = payload(&mut Rng::new(seed), 12);
        let mut reader = MessageReader::new(&payload);
        let mut ends = vec![0];
        while reader.next().is_some() {
            ends.push(reader.offset());
        }
        for cut in 0..payload.len() {
            let whole = ends.iter().filter(|&&end| end > 0 && end <= cut).count();
            let read: Vec<_> = MessageReader::new(&payload[..cut]).collect();
            let error = read.iter().position(Result::is_err);
            assert_eq!(error.unwrap_or(read.len()), whole, "cut at {cut}");
            assert_eq!(error.is_some(), !ends.contains(&cut), "cut at {cut}");
            if let Some(Err(e)) = read.last() {
                assert!(matches!(e, WireError::Truncated { .. }), "cut at {cut}: {e}");
            }
        }
    }
}

/// Runs for a few seconds; `PGT_FUZZ_SECONDS` and `PGT_FUZZ_SEED` make it longer and reproducible.
#[test]
fn mutations_of_the_corpus() {
    let env = |name, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let limit = Duration::from_secs(env("PGT_FUZZ_SECONDS", 3));
    let since_epoch = std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64);
    let seed = env("PGT_FUZZ_SEED", since_epoch);
    println!("PGT_FUZZ_SEED={seed}");
    let mut r = Rng::new(seed);
    let mut corpus = corpus();
    corpus.extend((0..20).map(|_| payload(&mut r, 10)));
    let (start, mut runs) = (Instant::now(), 0u64);
    while start.elapsed() < limit {
        for _ in 0..200 {
            let other = r.below(corpus.len());
            let mut input = corpus[other].clone();
            let donor = corpus[r.below(corpus.len())].clone();
            for _ in 0..=r.below(6) {
                mutate(&mut r, &mut input, &donor);
            }
            read_anything(&input);
            runs += 1;
        }
    }
    println!("{runs} inputs");
}

fn mutate(r: &mut Rng, input: &mut Vec<u8>, donor: &[u8]) {
    if input.is_empty() {
        *input = r.bytes(64);
        return;
    }
    let at = r.below(input.len());
    match r.below(7) {
        0 => input[at] ^= 1 << r.below(8),
        1 => input[at] = [0, 1, 0x7f, 0x80, 0xff][r.below(5)],
        2 => input.truncate(at),
        3 => drop(input.drain(at..(at + r.below(16)).min(input.len()))),
        4 => drop(input.splice(at..at, r.bytes(12))),
        5 => {
            let from = r.below(donor.len());
            input.truncate(at);
            input.extend_from_slice(&donor[from..]);
        }
        _ => input[at] = r.next() as u8,
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/payload");
    std::fs::read_dir(dir).expect(dir).map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_is_readable() {
    let corpus = corpus();
    assert!(corpus.len() >= 10, "only {} seeds", corpus.len());
    let messages: usize = corpus.iter().map(|input| read_anything(input)).sum();
    assert!(messages > 100, "only {messages} messages");
}

/// Writes the seed corpus anew: `cargo test -p pgtrickle-wire --test hostile -- --ignored`.
#[test]
#[ignore = "rewrites files"]
fn write_corpus() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/payload");
    for seed in 0..16u64 {
        std::fs::write(format!("{dir}/seed-{seed:02}"), payload(&mut Rng::new(seed), 1 + seed as usize)).unwrap();
    }
}

#[test]
fn varints_have_one_form() {
    use pgtrickle_wire::cursor::{Cursor, write_varint};
    let mut r = Rng::new(1);
    for n in (0..100_000).map(|_| r.number()).chain([0, 127, 128, u64::MAX]) {
        let mut buf = Vec::new();
        write_varint(&mut buf, n);
        let mut c = Cursor::new(&buf);
        assert_eq!(c.varint("n"), Ok(n));
        assert!(c.is_empty());
    }
    let read = |bytes: &[u8]| Cursor::new(bytes).varint("n");
    assert_eq!(read(&[0x80, 0]), Err(WireError::BadVarint), "not the shortest");
    assert_eq!(read(&[0xff; 10]), Err(WireError::BadVarint), "more than 64 bits");
    assert_eq!(read(&[0xff; 11]), Err(WireError::BadVarint));
    assert_eq!(read(&[0xff; 9]), Err(WireError::Truncated { what: "n" }));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(u64::MAX));
}

#[test]
fn acknowledgements_in_any_pieces() {
    let mut r = Rng::new(7);
    let stream: Vec<u8> = (1..=50u64).flat_map(pgtrickle_wire::ack::write_ack).collect();
    let (mut reader, mut rest, mut newest) = (AckReader::default(), &stream[..], 0);
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(1 + r.below(rest.len().min(21)));
        newest = reader.push(head).unwrap_or(newest);
        assert_eq!(newest, ((stream.len() - tail.len()) / 8) as u64);
        rest = tail;
    }
}
