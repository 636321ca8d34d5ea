//! The server over real connections, with clients good and bad.

mod common;

use common::snapshot;
use pgtrickle_monitoring::{CaptureState, Limits, Memory, Point, Reading, Server, Snapshot};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The last minutes, in this process.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Point>>>);

impl Memory for Kept {
    fn keep(&self, point: Point) {
        self.0.lock().expect("nobody panics here").push(point);
    }

    fn points(&self) -> Vec<Point> {
        self.0.lock().expect("nobody panics here").clone()
    }
}

fn limited(limits: Limits, snapshot: impl Fn(Reading) -> Snapshot + Send + 'static) -> Server {
    Server::start("127.0.0.1:0", limits, snapshot, Kept::default()).expect("start")
}

fn start(snapshot: impl Fn() -> Snapshot + Send + 'static) -> Server {
    limited(Limits::default(), move |_| snapshot())
}

/// Quick to lose patience, and only three clients.
fn strict() -> Limits {
    let (first_request, idle) = (Duration::from_millis(300), Duration::from_millis(600));
    Limits { connections_max: 3, first_request, idle, ..Limits::default() }
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
    ask(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

/// One request on a connection that stays open; the answer's first line.
fn ask_again(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    let (mut answer, mut buf) = (Vec::new(), [0; 4096]);
    let length = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).into_owned();
        let (head, _) = text.split_once("\r\n\r\n")?;
        let body = head.lines().find_map(|l| l.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
        Some(head.len() + 4 + body)
    };
    while length(&answer).is_none_or(|whole| answer.len() < whole) {
        let n = stream.read(&mut buf).expect("an answer");
        assert!(n > 0, "closed after {} bytes", answer.len());
        answer.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn pages() {
    let server = start(snapshot);
    assert!(server.is_running());
    let (head, body) = get(&server, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\npg_trickle_wal_decoder_pending_records 22\n"), "{body}");
    let (head, body) = get(&server, "/");
    assert!(head.contains("content-type: text/html") && head.contains("content-security-policy: default-src 'none'"));
    assert!(body.starts_with("<!doctype html>"), "{body}");
    assert!(!body.contains("http://") && !body.contains("https://"), "nothing from elsewhere");
    assert!(get(&server, "/elsewhere").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = ask(&server, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    let (head, body) = ask(&server, "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty());
    assert!(ask(&server, "what is this\r\n\r\n").0.starts_with("HTTP/1.1 400 "));
}

#[test]
fn connections_are_kept() {
    let server = start(snapshot);
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    for _ in 0..3 {
        assert_eq!(ask_again(&mut stream), "HTTP/1.1 200 OK");
    }
}

#[test]
fn health_tells_reasons() {
    let server = start(snapshot);
    let (head, body) = get(&server, "/health");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("application/json"), "{head}");
    assert!(
        body.starts_with(r#"{"status":"ok","reasons":[],"warnings":[{"database":"shop","check":"stream table "#),
        "{body}"
    );
    assert!(body.contains("SQLSTATE 22012") && !body.contains("division"), "{body}");
    let server = start(|| {
        let mut s = snapshot();
        s.databases[0].scheduler_running = false;
        s.databases[1].capture = CaptureState::Failing;
        s
    });
    let (head, body) = get(&server, "/health");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    for reason in [r#"{"database":"shop","check":"scheduler","#, r#"{"database":"bank","check":"capture","#] {
        assert!(body.contains(reason), "{body}");
    }
}

/// Only a scrape may start a peak anew.
#[test]
fn looking_takes_no_peak_away() {
    let scrapes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&scrapes);
    let server = limited(Limits::default(), move |reading| {
        counted.fetch_add(usize::from(reading == Reading::Scrape), Relaxed);
        snapshot()
    });
    for path in ["/", "/health", "/status.json", "/elsewhere"] {
        get(&server, path);
    }
    assert_eq!(scrapes.load(Relaxed), 0);
    get(&server, "/metrics");
    assert_eq!(scrapes.load(Relaxed), 1);
}

/// A server that begins anew goes on where another ended.
#[test]
fn the_last_minutes_outlive_the_server() {
    let memory = Kept::default();
    let points = [996_500_000, 998_500_000].map(|at_us| Point { at_us, records_per_second: 7.0, ..Point::default() });
    points.into_iter().for_each(|point| memory.keep(point));
    let server = Server::start("127.0.0.1:0", Limits::default(), |_| snapshot(), memory).expect("start");
    let (_, body) = get(&server, "/status.json");
    assert!(body.contains(r#""records_per_second":[7,7]"#), "{body}");
}

#[test]
fn texts_of_errors_are_shown_only_when_wanted() {
    let hidden = get(&start(snapshot), "/status.json").1;
    assert!(hidden.contains("22012") && !hidden.contains("Secret"), "{hidden}");
    let server = limited(Limits { details: || true, ..Limits::default() }, |_| snapshot());
    let shown = get(&server, "/status.json").1;
    assert!(shown.contains("Secret row \\u003cb>"), "{shown}");
}

#[test]
fn a_failing_snapshot_costs_one_answer() {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = limited(Limits::default(), move |reading| {
        assert!(reading == Reading::Look || calls.fetch_add(1, Relaxed) > 0, "the first one fails");
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
    let server = limited(strict(), |_| snapshot());
    let mut silent = TcpStream::connect(server.address()).expect("connect");
    let mut half = TcpStream::connect(server.address()).expect("connect");
    half.write_all(b"GET /metr").expect("send");
    let mut kept = TcpStream::connect(server.address()).expect("connect");
    ask_again(&mut kept);
    let mut buf = [0; 4096];
    let start = Instant::now();
    for client in [&mut silent, &mut half, &mut kept] {
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        assert_eq!(client.read(&mut buf).unwrap_or(0), 0, "closed");
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// More clients than there are places: the quietest goes, and who asks is answered at once.
#[test]
fn a_crowd_keeps_nobody_waiting() {
    let limits = Limits { first_request: Duration::from_secs(600), idle: Duration::from_secs(600), ..strict() };
    let server = limited(limits, |_| snapshot());
    let mut scraper = TcpStream::connect(server.address()).expect("connect");
    let start = Instant::now();
    let mut crowd = Vec::new();
    for _ in 0..20 {
        assert_eq!(ask_again(&mut scraper), "HTTP/1.1 200 OK");
        crowd.push(TcpStream::connect(server.address()).expect("connect"));
        assert!(get(&server, "/health").0.starts_with("HTTP/1.1 200 "));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// Who asks for much and takes nothing of it costs a place and no more.
#[test]
fn a_client_that_takes_no_answers() {
    let server = limited(strict(), |_| snapshot());
    let mut greedy = TcpStream::connect(server.address()).expect("connect");
    greedy.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let _ = greedy.write_all(&requests);
    let start = Instant::now();
    assert!(get(&server, "/metrics").0.starts_with("HTTP/1.1 200 "));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn endless_headers_are_refused() {
    let server = start(snapshot);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    let _ = stream.write_all(long.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn a_port_in_use_is_an_error() {
    let server = start(snapshot);
    assert!(Server::start(server.address(), Limits::default(), |_| snapshot(), Kept::default()).is_err());
}
