//! What the path itself costs, without PostgreSQL: writing rows, a socket, checking, queueing, delivering.
//!
//! `cargo run --release -p pgtrickle-apply --example throughput`

use pgtrickle_apply::{At, Config, Counters, Delivery, Event, Sink, StreamError, start};
use pgtrickle_wire::relation::RelationHead;
use pgtrickle_wire::*;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

const TUPLE: RawTuple<'_> = RawTuple { natts: 4, flags: 0, bitmap: &[], data: &[7; 48] };

fn hello(role: Role) -> Hello<'static> {
    let abi = Abi { server_version: 1, catalog_version: 2, system_identifier: 3, dboid: 4, arch: Abi::ARCH };
    Hello { role, encoding: Encoding::Raw, abi, start_lsn: 0, slot: b"s" }
}

/// Transactions of `rows` rows; `full` is called when frames are worth sending, and at the end.
fn write(transactions: u64, rows: u64, updates: bool, mut full: impl FnMut(&mut FrameWriter)) {
    let mut w = FrameWriter::new();
    w.hello(&hello(Role::Producer));
    let a = Attr { attnum: 1, name: b"a", type_oid: 23, typmod: -1, typlen: 4, typalign: b'i', byval: true, flags: 0 };
    let head = RelationHead { index: 0, relid: 1, schema_version: 1, fingerprint: 0, namespace: b"n", name: b"t" };
    w.relation(&head, &[a; 4]);
    for lsn in (1..=transactions).map(|n| 8 * n) {
        w.begin(&Begin { xid: lsn, commit_lsn: lsn, commit_time: 0 });
        for _ in 0..rows {
            if updates {
                w.update_raw(0, black_box(&TUPLE), black_box(&TUPLE));
            } else {
                w.row_raw(RowKind::Insert, false, 0, black_box(&TUPLE));
            }
            if w.is_full() {
                full(&mut w);
            }
        }
        w.commit(lsn + 1);
    }
    w.finish();
    full(&mut w);
}

/// Looks at each row and keeps nothing.
#[derive(Default)]
struct Count(u64);

#[rustfmt::skip]
impl Sink for Count {
    type Error = StreamError;
    fn relation(&mut self, _: &Relation<'_>) -> Result<(), StreamError> { Ok(()) }
    fn begin(&mut self, _: &Begin) -> Result<(), StreamError> { Ok(()) }
    fn row(&mut self, at: &At, row: &Row<'_>) -> Result<(), StreamError> {
        black_box((at, row));
        self.0 += 1;
        Ok(())
    }
    fn truncate(&mut self, _: &At, _: &Truncate<'_>) -> Result<(), StreamError> { Ok(()) }
    fn degraded(&mut self, _: &At, _: &Degraded<'_>) -> Result<(), StreamError> { Ok(()) }
    fn reinit(&mut self, _: &At, _: &Reinit<'_>) -> Result<(), StreamError> { Ok(()) }
    fn message(&mut self, _: &LogicalMessage<'_>) -> Result<(), StreamError> { Ok(()) }
    fn commit(&mut self, _: &Begin, _: &Commit) -> Result<(), StreamError> { Ok(()) }
    fn progress(&mut self, _: &Progress) -> Result<(), StreamError> { Ok(()) }
}

fn report(what: &str, rows: u64, since: Instant) {
    let ns = since.elapsed().as_nanos() as f64;
    println!("{what:>32}: {:6.1} ns a row, {:5.1} M rows/s", ns / rows as f64, rows as f64 / ns * 1e3);
}

fn main() -> std::io::Result<()> {
    for (transactions, per, updates, what) in
        [(4000, 1000, false, "inserts"), (2000, 1000, true, "updates"), (2_000_000, 1, false, "single rows")]
    {
        let rows = transactions * per * if updates { 2 } else { 1 };
        let since = Instant::now();
        write(transactions, per, updates, |w| w.advance(black_box(w.pending()).len()));
        report(&format!("{what}, writing"), rows, since);

        let mut frames = Vec::new();
        write(transactions, per, updates, |w| {
            frames.extend_from_slice(w.pending());
            w.advance(w.pending().len());
        });
        println!("{what:>32}: {:.1} bytes a row", frames.len() as f64 / rows as f64);
        let payloads: Vec<_> = {
            let (mut from, reader) = (&frames[..], FrameReader::new());
            std::iter::from_fn(|| reader.next(&mut from).expect("whole frames")).collect()
        };
        let (mut assembler, since) = (pgtrickle_apply::Assembler::new(), Instant::now());
        payloads.iter().for_each(|p| drop(assembler.check(p).expect("sound")));
        report(&format!("{what}, checking"), rows, since);
        let (mut delivery, mut sink, since) = (Delivery::new(), Count::default(), Instant::now());
        payloads.iter().for_each(|p| delivery.deliver(p, &mut sink).expect("sound"));
        report(&format!("{what}, delivering"), rows, since);

        through_socket(transactions, per, updates, what, rows)?;
    }
    Ok(())
}

fn through_socket(transactions: u64, per: u64, updates: bool, what: &str, rows: u64) -> std::io::Result<()> {
    let path = std::env::temp_dir().join(format!("pgt-throughput-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path)?;
    let main = std::thread::current();
    let config = Config { capacity_bytes: 8 << 20, counters: Counters::local() };
    let mut queue = start(config, listener, move || main.unpark())?;
    let for_sender = path.clone();
    let since = Instant::now();
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = UnixStream::connect(for_sender)?;
        FrameReader::new().next(&mut stream)?;
        write(transactions, per, updates, |w| {
            stream.write_all(w.pending()).expect("receiver is there");
            w.advance(w.pending().len());
        });
        Ok(())
    });
    let (mut delivery, mut sink) = (Delivery::new(), Count::default());
    while sink.0 < rows {
        match queue.try_next() {
            None => std::thread::park(),
            Some(Event::Connected(mut peer)) => peer.greet(&hello(Role::Consumer))?,
            Some(Event::Frame(frame)) => delivery.deliver(frame.payload(), &mut sink).expect("sound"),
            Some(Event::Greeted(_)) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
    report(&format!("{what}, through a socket"), rows, since);
    sender.join().expect("sender")?;
    std::fs::remove_file(path)
}
