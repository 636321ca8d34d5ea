//! The receiver thread over real sockets: order, bounds, counters, faults, stopping.

mod common;

use common::{begin, hello, relation};
use pgtrickle_apply::{Config, Counters, Event, Peer, Queue, Reason, StreamError, start};
use pgtrickle_wire::*;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

struct Rig {
    queue: Queue,
    path: PathBuf,
    counters: Counters,
    woken: mpsc::Receiver<()>,
}

impl Rig {
    fn new(capacity_bytes: usize) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("pgt-apply-{}-{}.sock", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).expect("bind");
        let (wake, woken) = mpsc::channel();
        let counters = Counters::local();
        // What a killed predecessor left behind.
        counters.pending_records.store(99, Relaxed);
        let queue = start(Config { capacity_bytes, counters }, listener, move || {
            // The test may have ended.
            let _ = wake.send(());
        })
        .expect("start");
        Rig { queue, path, counters, woken }
    }

    fn next(&mut self) -> Event {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(event) = self.queue.try_next() {
                return event;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.woken.recv_timeout(left).expect("an event within 20 s");
        }
    }

    /// A decoder that said Hello, and the receiver's view of it.
    fn connect(&mut self) -> (UnixStream, Peer) {
        let mut stream = UnixStream::connect(&self.path).expect("connect");
        let Event::Connected(mut peer) = self.next() else { panic!("not Connected") };
        peer.greet(&hello(Role::Consumer)).expect("greet");
        let frame = FrameReader::new().next(&mut stream).expect("Hello").expect("Hello");
        let Some(Ok(Message::Hello(theirs))) = MessageReader::new(&frame).next() else { panic!("no Hello") };
        hello(Role::Producer).check_peer(&theirs).expect("same server");
        let mut w = FrameWriter::new();
        w.hello(&hello(Role::Producer));
        relation(&mut w, 0);
        send(&mut stream, &mut w);
        assert!(matches!(self.next(), Event::Greeted(_)));
        assert!(matches!(self.next(), Event::Frame(_)));
        (stream, peer)
    }

    fn gauges(&self) -> [u64; 3] {
        let c = &self.counters;
        [c.pending_records, c.queue_depth, c.queue_bytes].map(|g: &AtomicU64| g.load(Relaxed))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.queue.stop();
        let _ = std::fs::remove_file(&self.path);
        assert_eq!(self.gauges(), [0, 0, 0]);
    }
}

fn send(stream: &mut UnixStream, w: &mut FrameWriter) {
    w.finish();
    stream.write_all(w.pending()).expect("send");
    w.advance(w.pending().len());
}

fn rows(w: &mut FrameWriter, n: usize, size: usize) {
    let data = vec![1; size];
    for _ in 0..n {
        w.row_raw(RowKind::Insert, false, 0, &RawTuple::new(2, false, None, &data));
    }
}

#[test]
fn counters_follow_every_row() {
    let mut rig = Rig::new(1 << 20);
    assert_eq!(rig.gauges(), [0, 0, 0]);
    let (mut stream, mut peer) = rig.connect();
    let mut w = FrameWriter::new();
    w.begin(&begin(10));
    rows(&mut w, 7, 8);
    w.commit(11);
    w.begin(&begin(20));
    rows(&mut w, 3, 8);
    send(&mut stream, &mut w);
    rig.woken.recv_timeout(Duration::from_secs(20)).expect("woken");
    while rig.queue.is_empty() {
        thread::yield_now();
    }
    let [pending, depth, bytes] = rig.gauges();
    assert_eq!((pending, depth), (10, 1));
    assert!(bytes > 80);
    let Event::Frame(frame) = rig.next() else { panic!("not a frame") };
    assert_eq!((frame.rows(), frame.transactions(), frame.ends_inside()), (10, 1, true));
    assert_eq!(frame.messages().filter(|m| m.is_ok()).count(), 13);
    drop(frame);
    assert_eq!(rig.gauges(), [10, 0, 0]);
    rig.queue.rows_committed(7);
    assert_eq!(rig.gauges(), [3, 0, 0]);
    peer.ack(11).expect("ack");
    let mut ack = [0; 8];
    stream.read_exact(&mut ack).expect("ack");
    assert_eq!(u64::from_le_bytes(ack), 11);
    // The rest of the second transaction never comes; it will come again with the next connection.
    drop(stream);
    assert!(matches!(rig.next(), Event::Disconnected(Reason::Closed)));
    rig.queue.rows_discarded();
    assert_eq!(rig.gauges(), [0, 0, 0]);
    let c = rig.counters;
    let totals = [c.records_total, c.transactions_total, c.pending_records_max].map(|t| t.load(Relaxed));
    assert_eq!(totals, [10, 1, 10]);
    rig.connect();
}

#[test]
fn memory_is_bounded_and_a_large_record_passes_alone() {
    const CAPACITY: usize = 256 * 1024;
    let mut rig = Rig::new(CAPACITY);
    let (mut stream, _peer) = rig.connect();
    let sent = thread::spawn(move || {
        let mut w = FrameWriter::new();
        w.begin(&begin(10));
        for _ in 0..200 {
            rows(&mut w, 50, 1000);
            send(&mut stream, &mut w);
        }
        rows(&mut w, 1, 2 << 20);
        rows(&mut w, 1, 8);
        w.commit(11);
        send(&mut stream, &mut w);
        stream
    });
    let mut received = 0;
    let mut largest = 0;
    while received < 10_002 {
        // Slower than the sender, so that it is the bound that holds it back.
        if received % 500 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
        let Event::Frame(frame) = rig.next() else { panic!("not a frame") };
        received += frame.rows();
        let bytes = rig.gauges()[2] as usize;
        assert!(bytes <= CAPACITY || bytes < frame.payload().len() + 4096, "{bytes} bytes");
        largest = largest.max(frame.payload().len());
        drop(frame);
    }
    assert!(largest > 2 << 20);
    rig.queue.rows_committed(received);
    drop(sent.join().expect("sender"));
    assert!(matches!(rig.next(), Event::Disconnected(Reason::Closed)));
}

#[test]
fn stopping_never_hangs() {
    // Waiting for a connection.
    drop(Rig::new(1000));
    // Waiting for our Hello to be answered.
    let mut rig = Rig::new(1000);
    let stream = UnixStream::connect(&rig.path).expect("connect");
    assert!(matches!(rig.next(), Event::Connected(_)));
    drop(rig);
    drop(stream);
    // Waiting for input.
    let mut rig = Rig::new(1000);
    let connection = rig.connect();
    drop(rig);
    drop(connection);
    // Waiting for room.
    let mut rig = Rig::new(1000);
    let (mut stream, _peer) = rig.connect();
    let mut w = FrameWriter::new();
    w.begin(&begin(1));
    for _ in 0..5 {
        rows(&mut w, 3, 300);
        send(&mut stream, &mut w);
    }
    thread::sleep(Duration::from_millis(50));
    let held = rig.next();
    drop(rig);
    drop(held);
}

#[test]
fn damage_ends_the_connection_with_its_reason() {
    let mut rig = Rig::new(1 << 20);
    let mut reason = |bytes: &[u8]| {
        let (mut stream, _peer) = rig.connect();
        stream.write_all(bytes).expect("send");
        drop(stream);
        match rig.next() {
            Event::Disconnected(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(reason(&[1, 0, 0, 0, b'Z']), Reason::Stream(StreamError::Wire(WireError::UnknownTag(b'Z')))));
    assert!(matches!(reason(&[9, 0, 0, 0, b'P']), Reason::Io(_)), "cut inside a frame");
    assert!(matches!(reason(&[9, 0]), Reason::Io(_)), "cut inside a header");
    assert!(matches!(reason(&[0xff; 8]), Reason::Io(_)), "absurd length");
    assert!(matches!(reason(&[]), Reason::Closed));
}

#[test]
fn another_server_is_refused() {
    let mut rig = Rig::new(1 << 20);
    let mut stream = UnixStream::connect(&rig.path).expect("connect");
    let Event::Connected(mut peer) = rig.next() else { panic!("not Connected") };
    peer.greet(&hello(Role::Consumer)).expect("greet");
    let mut w = FrameWriter::new();
    w.hello(&Hello { slot: b"other", ..hello(Role::Producer) });
    send(&mut stream, &mut w);
    let event = rig.next();
    assert!(
        matches!(&event, Event::Disconnected(Reason::Stream(StreamError::Wire(WireError::Mismatch { .. })))),
        "{event:?}"
    );
}

#[test]
fn a_rejected_connection_leaves_nothing_behind() {
    let mut rig = Rig::new(1 << 20);
    for _ in 0..50 {
        let (mut stream, _peer) = rig.connect();
        let mut w = FrameWriter::new();
        w.begin(&begin(1));
        for _ in 0..4 {
            rows(&mut w, 10, 100);
            send(&mut stream, &mut w);
        }
        let Event::Frame(frame) = rig.next() else { panic!("not a frame") };
        // The apply transaction failed: nothing of this connection may be seen any more.
        rig.queue.disconnect();
        drop(frame);
        assert!(matches!(rig.next(), Event::Disconnected(_)));
        assert_eq!(rig.gauges(), [0, 0, 0]);
    }
    rig.connect();
}

#[test]
fn acknowledgements_never_block_and_only_the_newest_waits() {
    let mut rig = Rig::new(1 << 20);
    let (mut stream, mut peer) = rig.connect();
    let mut lsn = 0;
    while !peer.has_unsent() {
        lsn += 1;
        peer.ack(lsn).expect("ack");
        assert!(lsn < 10_000_000, "the socket takes no end of acknowledgements");
    }
    for _ in 0..1000 {
        lsn += 1;
        peer.ack(lsn).expect("ack");
    }
    let (mut reader, mut newest, mut buf) = (AckReader::default(), 0, [0; 1001]);
    while newest < lsn {
        let n = stream.read(&mut buf).expect("read");
        newest = reader.push(&buf[..n]).unwrap_or(newest);
        peer.flush().expect("flush");
    }
    assert!(!peer.has_unsent());
    assert_eq!(newest, lsn);
}

#[test]
fn a_panic_on_the_thread_is_an_event() {
    let path = std::env::temp_dir().join(format!("pgt-apply-panic-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("bind");
    let first = AtomicUsize::new(0);
    let wake = move || assert!(first.fetch_add(1, Relaxed) > 0, "first wake");
    let config = Config { capacity_bytes: 1000, counters: Counters::local() };
    let mut queue = start(config, listener, wake).expect("start");
    let _stream = UnixStream::connect(&path).expect("connect");
    let failure = loop {
        match queue.try_next() {
            Some(Event::Failed(failure)) => break failure,
            Some(_) => {}
            None => thread::yield_now(),
        }
    };
    assert!(failure.contains("first wake"), "{failure}");
    assert!(queue.try_next().is_none());
    let _ = std::fs::remove_file(&path);
}
