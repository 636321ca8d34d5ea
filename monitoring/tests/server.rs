//! The server over real connections, with clients good and bad.

mod common;

use common::snapshot;
use pgtrickle_monitoring::{CaptureState, Server, Snapshot};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn start(snapshot: impl Fn() -> Snapshot + Send + 'static) -> Server {
    Server::start("127.0.0.1:0", snapshot).expect("start")
}

fn ask(server: &Server, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_string(), body.to_string())
}

fn get(server: &Server, path: &str) -> (String, String) {
    ask(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

#[test]
fn pages() {
    let server = start(snapshot);
    assert!(server.is_running());
    let (head, body) = get(&server, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\npg_trickle_wal_decoder_pending_records 22\n"), "{body}");
    let (head, body) = get(&server, "/health");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(body, "ok\n");
    assert!(get(&server, "/").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = ask(&server, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    let (head, body) = ask(&server, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty());
    assert!(ask(&server, "what is this\r\n\r\n").0.starts_with("HTTP/1.1 400 "));
}

#[test]
fn failing_capture_is_unhealthy() {
    let server = start(|| {
        let mut s = snapshot();
        s.databases[1].capture = CaptureState::Failing;
        s
    });
    let (head, body) = get(&server, "/health");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.contains("bank") && !body.contains("shop"), "{body}");
}

#[test]
fn a_failing_snapshot_costs_one_answer() {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = start(move || {
        assert!(calls.fetch_add(1, Relaxed) > 0, "the first one fails");
        snapshot()
    });
    assert!(get(&server, "/metrics").0.starts_with("HTTP/1.1 500 "));
    assert!(get(&server, "/metrics").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn idle_clients_hold_nobody_up_and_stopping_is_prompt() {
    let mut server = start(snapshot);
    let idle: Vec<_> = (0..20).map(|_| TcpStream::connect(server.address()).expect("connect")).collect();
    let mut slow = TcpStream::connect(server.address()).expect("connect");
    slow.write_all(b"GET /metr").expect("send");
    assert!(get(&server, "/metrics").0.starts_with("HTTP/1.1 200 "));
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(!server.is_running());
    assert!(TcpStream::connect(server.address()).is_err());
    drop((idle, slow));
}

#[test]
fn clients_that_never_ask_are_cut_off() {
    let server = start(snapshot);
    // More of them than are served at a time.
    let mut idle: Vec<_> = (0..40).map(|_| TcpStream::connect(server.address()).expect("connect")).collect();
    let start = Instant::now();
    assert!(get(&server, "/health").0.starts_with("HTTP/1.1 200 "));
    assert!(start.elapsed() < Duration::from_secs(15));
    let mut buf = [0; 16];
    assert_eq!(idle[0].read(&mut buf).unwrap_or(0), 0, "closed");
}

#[test]
fn a_port_in_use_is_an_error() {
    let server = start(snapshot);
    assert!(Server::start(server.address(), snapshot).is_err());
}
