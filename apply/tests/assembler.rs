//! The assembler accepts exactly the streams that add up.

use pgtrickle_apply::{Assembler, Delivery, Facts, Sink, StreamError};
use pgtrickle_wire::relation::RelationHead;
use pgtrickle_wire::*;

mod common;
use common::{attrs, begin, hello, payloads, relation};

/// The last frame's verdict.
fn check(write: impl FnOnce(&mut FrameWriter)) -> Result<Facts, StreamError> {
    let mut w = FrameWriter::new();
    write(&mut w);
    w.finish();
    let mut assembler = Assembler::new();
    let mut facts = Facts::default();
    for payload in payloads(w.pending()) {
        facts = assembler.check(&payload)?;
    }
    Ok(facts)
}

const TUPLE: RawTuple<'_> = RawTuple { natts: 2, flags: 0, bitmap: &[], data: &[1, 0, 0, 0, 2, 0, 0, 0] };

fn insert(w: &mut FrameWriter) {
    w.row_raw(RowKind::Insert, false, 0, &TUPLE);
}

fn prelude(w: &mut FrameWriter) {
    w.hello(&hello(Role::Producer));
    relation(w, 0);
}

#[test]
fn sound_streams() {
    let facts = check(|w| {
        prelude(w);
        w.begin(&begin(10));
        insert(w);
        w.update_raw(0, &TUPLE, &TUPLE);
        w.truncate(false, false, &[5]);
        w.message(&LogicalMessage { lsn: 9, transactional: true, prefix: b"p", content: b"" });
        w.commit(12);
        w.progress(&Progress { lsn: 13 });
        w.message(&LogicalMessage { lsn: 14, transactional: false, prefix: b"p", content: b"" });
        w.begin(&begin(20));
        insert(w);
    })
    .expect("sound");
    assert_eq!((facts.rows, facts.transactions, facts.inside), (4, 1, true));
    assert!(facts.hello.is_some());
}

#[test]
fn a_transaction_over_many_frames() {
    let facts = check(|w| {
        prelude(w);
        w.begin(&begin(10));
        for _ in 0..100 {
            insert(w);
            w.finish();
        }
        w.commit(12);
    });
    assert_eq!(facts.expect("sound"), Facts { transactions: 1, ..Facts::default() });
}

#[test]
fn disorder_is_refused() {
    let order = |write: fn(&mut FrameWriter)| {
        let error = check(write).expect_err("disorder");
        assert!(matches!(error, StreamError::Order { .. }), "{error}");
        assert_eq!(error.sqlstate(), "08P01");
    };
    order(|w| w.begin(&begin(1)));
    order(|w| w.progress(&Progress { lsn: 1 }));
    order(|w| {
        prelude(w);
        prelude(w);
    });
    order(|w| {
        prelude(w);
        insert(w);
    });
    order(|w| {
        prelude(w);
        w.truncate(false, false, &[1]);
    });
    order(|w| {
        prelude(w);
        w.begin(&begin(1));
        w.begin(&begin(2));
    });
    order(|w| {
        prelude(w);
        w.begin(&begin(1));
        w.progress(&Progress { lsn: 1 });
    });
    order(|w| {
        prelude(w);
        w.begin(&begin(1));
        w.message(&LogicalMessage { lsn: 1, transactional: false, prefix: b"", content: b"" });
    });
    order(|w| {
        prelude(w);
        w.begin(&begin(5));
        w.commit(5);
    });
}

#[test]
fn halves_of_updates_stay_together() {
    let pair = |write: fn(&mut FrameWriter)| {
        let error = check(|w| {
            prelude(w);
            relation(w, 1);
            w.begin(&begin(1));
            write(w);
            w.commit(2);
        });
        assert!(matches!(error, Err(StreamError::Order { .. })), "{error:?}");
    };
    pair(|w| w.row_raw(RowKind::Delete, true, 0, &TUPLE));
    pair(|w| w.row_raw(RowKind::Insert, true, 0, &TUPLE));
    pair(|w| {
        w.row_raw(RowKind::Delete, true, 0, &TUPLE);
        w.row_raw(RowKind::Insert, true, 1, &TUPLE);
    });
    pair(|w| {
        w.row_raw(RowKind::Delete, true, 0, &TUPLE);
        w.truncate(false, false, &[1]);
        w.row_raw(RowKind::Insert, true, 0, &TUPLE);
    });
}

#[test]
fn transactions_come_in_order() {
    let error = check(|w| {
        prelude(w);
        for lsn in [20, 20] {
            w.begin(&begin(lsn));
            w.commit(lsn + 1);
        }
    });
    assert_eq!(error, Err(StreamError::Backwards { lsn: 20, after: 20 }));
}

#[test]
fn rows_fit_a_known_relation() {
    let error = check(|w| {
        prelude(w);
        w.begin(&begin(1));
        w.row_raw(RowKind::Insert, false, 7, &TUPLE);
    });
    assert_eq!(error, Err(StreamError::Relation { index: 7 }));
    let error = check(|w| {
        prelude(w);
        w.begin(&begin(1));
        w.row_raw(RowKind::Insert, false, 0, &RawTuple { natts: 3, ..TUPLE });
    });
    assert_eq!(error, Err(StreamError::Relation { index: 0 }));
    let error = check(|w| {
        w.hello(&hello(Role::Producer));
        let head = RelationHead { index: 1 << 20, ..common::head(0) };
        w.relation(&head, &attrs());
    });
    assert_eq!(error, Err(StreamError::Relation { index: 1 << 20 }));
}

#[test]
fn every_changed_bit_of_a_transaction_is_noticed() {
    let mut w = FrameWriter::new();
    prelude(&mut w);
    w.finish();
    let head = payloads(w.pending());
    let mut w = FrameWriter::new();
    w.begin(&begin(10));
    insert(&mut w);
    w.update_raw(0, &TUPLE, &TUPLE);
    w.commit(12);
    w.finish();
    let body = payloads(w.pending()).concat();
    let check = |body: &[u8]| {
        let mut assembler = Assembler::new();
        assembler.check(&head[0])?;
        assembler.check(body)
    };
    check(&body).expect("sound");
    for bit in 0..body.len() * 8 {
        let mut changed = body.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // A Commit that was lost leaves the transaction open, which is not taken for committed either.
        let verdict = check(&changed);
        assert!(verdict.as_ref().map_or(true, |facts| facts.transactions == 0), "bit {bit}: {verdict:?}");
    }
}

/// A small seeded generator (xorshift64*).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

#[test]
fn damaged_streams_never_pass_for_sound_ones() {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64) | 1;
    println!("seed {seed}");
    let mut r = Rng(seed);
    for _ in 0..20_000 {
        let mut w = FrameWriter::with_limit(1 + r.below(200));
        prelude(&mut w);
        let mut expected = 0;
        for lsn in 1..=1 + r.below(4) as u64 {
            w.begin(&begin(10 * lsn));
            for _ in 0..r.below(6) {
                insert(&mut w);
            }
            w.update_raw(0, &TUPLE, &TUPLE);
            w.commit(10 * lsn + 1);
            expected += 1;
        }
        w.finish();
        let mut frames: Vec<Vec<u8>> = payloads(w.pending()).iter().map(|f| f.to_vec()).collect();
        for _ in 0..r.below(3) {
            let frame = r.below(frames.len());
            let byte = r.below(frames[frame].len());
            match r.below(5) {
                0 => frames[frame][byte] = r.below(256) as u8,
                1 => drop(frames.remove(frame)),
                2 => frames[frame].truncate(byte),
                3 => frames.insert(frame, frames[r.below(frames.len())].clone()),
                _ => drop(frames[frame].drain(..byte)),
            }
            if frames.is_empty() || frames.iter().any(Vec::is_empty) {
                break;
            }
        }
        // Whatever is accepted is whole transactions, each with all its rows.
        let (mut assembler, mut delivery, mut sink) = (Assembler::new(), Delivery::new(), Recorder::default());
        for frame in &frames {
            if assembler.check(frame).is_err() {
                break;
            }
            delivery.deliver(frame, &mut sink).expect("what was checked can be delivered");
        }
        let commits: Vec<_> = sink.0.iter().filter(|line| line.starts_with("commit")).collect();
        assert!(commits.len() <= expected);
        let mut rows = 0;
        for line in &sink.0 {
            match line.split_once(' ') {
                Some(("begin", _)) => rows = 0,
                Some(("row", _)) => rows += 1,
                Some(("commit", rest)) => {
                    assert!(rest.ends_with(&format!(" {rows}")), "{line}: {rows}")
                }
                _ => {}
            }
        }
    }
}

/// Writes down what it is given.
#[derive(Default)]
struct Recorder(Vec<String>);

impl Sink for Recorder {
    type Error = StreamError;
    fn relation(&mut self, relation: &Relation<'_>) -> Result<(), StreamError> {
        self.0.push(format!("relation {}", relation.index));
        Ok(())
    }
    fn begin(&mut self, begin: &Begin) -> Result<(), StreamError> {
        self.0.push(format!("begin {}", begin.commit_lsn));
        Ok(())
    }
    fn row(&mut self, at: &pgtrickle_apply::At, row: &Row<'_>) -> Result<(), StreamError> {
        self.0.push(format!("row {}/{} {:?}", at.begin.commit_lsn, at.seq, row.kind));
        Ok(())
    }
    fn truncate(&mut self, at: &pgtrickle_apply::At, t: &Truncate<'_>) -> Result<(), StreamError> {
        self.0.push(format!("truncate {} {:?}", at.seq, t.relids().collect::<Vec<_>>()));
        Ok(())
    }
    fn degraded(&mut self, at: &pgtrickle_apply::At, d: &Degraded<'_>) -> Result<(), StreamError> {
        self.0.push(format!("degraded {} {}", at.seq, d.relid));
        Ok(())
    }
    fn reinit(&mut self, at: &pgtrickle_apply::At, r: &Reinit<'_>) -> Result<(), StreamError> {
        self.0.push(format!("reinit {} {}", at.seq, r.relid));
        Ok(())
    }
    fn message(&mut self, m: &LogicalMessage<'_>) -> Result<(), StreamError> {
        self.0.push(format!("message {}", m.lsn));
        Ok(())
    }
    fn commit(&mut self, begin: &Begin, commit: &Commit) -> Result<(), StreamError> {
        self.0.push(format!("commit {} {}", begin.commit_lsn, commit.records));
        Ok(())
    }
    fn progress(&mut self, p: &Progress) -> Result<(), StreamError> {
        self.0.push(format!("progress {}", p.lsn));
        Ok(())
    }
}

#[test]
fn delivery_is_in_order_and_numbers_rows() {
    let mut w = FrameWriter::new();
    prelude(&mut w);
    w.begin(&begin(10));
    insert(&mut w);
    w.finish();
    w.truncate(false, false, &[5, 6]);
    w.update_raw(0, &TUPLE, &TUPLE);
    w.degraded(&Degraded { relid: 4, reason: b"" });
    w.reinit(&Reinit { relid: 3, reason: b"" });
    w.commit(12);
    w.progress(&Progress { lsn: 13 });
    w.message(&LogicalMessage { lsn: 14, transactional: false, prefix: b"p", content: b"" });
    w.finish();
    let (mut delivery, mut sink) = (Delivery::new(), Recorder::default());
    let frames = payloads(w.pending());
    delivery.deliver(&frames[0], &mut sink).unwrap();
    assert!(delivery.inside());
    delivery.deliver(&frames[1], &mut sink).unwrap();
    assert!(!delivery.inside());
    let expected = "relation 0, begin 10, row 10/0 Insert, truncate 1 [5, 6], row 10/1 Delete, row 10/2 Insert, \
                    degraded 3 4, reinit 3 3, commit 10 3, progress 13, message 14";
    assert_eq!(sink.0.join(", "), expected);
}
