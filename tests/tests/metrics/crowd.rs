//! Clients that do not behave: none of them keeps anybody else waiting, neither scrapers nor refreshes.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::{Outcome, metrics, wait};

use crate::bench::{Bench, assert, trial};

/// Far more than the endpoint serves at a time.
const CROWD: usize = 1500;
/// A scrape is answered within this even so.
const AT_MOST: Duration = Duration::from_secs(5);

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![trial(version, "crowd", crowd)]
}

fn crowd(version: PgVersion) -> Outcome {
    let mut b = Bench::start(
        version,
        &[],
        "CREATE TABLE t (a int); SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '0s')",
    )?;
    let launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_trickle_launcher'";
    let pid = b.session.number(launcher)?;
    let port = b.port;
    let connect = || TcpStream::connect(("127.0.0.1", port));
    // Some ask for much and take nothing of it, some never end their question, most say nothing at all.
    let mut greedy = connect()?;
    greedy.set_nonblocking(true)?;
    let _ = greedy.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5000));
    let mut guests = vec![greedy];
    for i in 0..CROWD {
        let mut guest = connect()?;
        if i % 3 == 0 {
            let _ = guest.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        }
        guests.push(guest);
        if i % 100 == 0 {
            as_if_alone(&mut b, i)?;
        }
    }
    as_if_alone(&mut b, CROWD)?;
    // Again and again, as fast as they can be made.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        guests.extend(connect());
        guests.drain(..1);
    }
    as_if_alone(&mut b, CROWD + 1)?;
    assert(b.session.number(launcher)? == pid, "the launcher was started anew")
}

/// A scraper is answered and a change shows.
fn as_if_alone(b: &mut Bench, number: usize) -> Outcome {
    let asked = Instant::now();
    metrics::get(b.port, "/metrics")?;
    metrics::get(b.port, "/health")?;
    assert(asked.elapsed() < AT_MOST, format!("answered after {:?}", asked.elapsed()))?;
    b.session.each(&format!("INSERT INTO t VALUES ({number})"))?;
    wait::until("the change shows", AT_MOST, || {
        b.session.holds(&format!("SELECT count(*) = 1 FROM st WHERE a = {number}"))
    })
}
