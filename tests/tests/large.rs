//! A transaction of five million rows passes within bounded memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgtrickle_tests::fault::{APPLY, DECODER, worker_pid};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::suite;
use pgtrickle_tests::{During, Failure, Outcome, oracle, wait};

const ROWS: u64 = 5_000_000;
/// Decoder and apply worker together, memory that is theirs alone.
const LIMIT_KB: u64 = 250 * 1024;

fn main() {
    suite::main(1, |version| {
        Ok(vec![suite::on_own_server(version, "five_million_rows", &[("max_wal_size", "8GB")], five_million_rows)])
    })
}

fn five_million_rows(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run("CREATE TABLE t (id int, g int, v bigint)")?;
    let totals = StreamTable::new("public", "totals");
    let query = "SELECT g, count(*) AS n, sum(v) AS s, min(id) AS lo, max(id) AS hi FROM t GROUP BY g";
    totals.create(&mut session, query, BY_HAND)?;
    let workers = wait::poll("decoder and apply worker", wait::PATIENCE, || {
        Ok(worker_pid(&mut session, DECODER)?.zip(worker_pid(&mut session, APPLY)?))
    })?;
    let done = AtomicBool::new(false);
    let peak = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(private_kb(workers.0) + private_kb(workers.1), Ordering::Relaxed);
                let _ = wait::until("the next sample", Duration::from_millis(20), || Ok(done.load(Ordering::Relaxed)));
            }
        });
        let result = pass(&mut session, &totals);
        done.store(true, Ordering::Relaxed);
        result
    })?;
    oracle::assert_exact(&mut session, "totals", query)?;
    let peak = peak.into_inner();
    eprintln!("\n    pg{}: decoder and apply worker together at most {} MB", server.version(), peak / 1024);
    if peak == 0 || peak > LIMIT_KB {
        return Err(Failure::new(format!("decoder and apply worker took {peak} kB, more than {LIMIT_KB}")));
    }
    let survivors = (worker_pid(&mut session, DECODER)?, worker_pid(&mut session, APPLY)?);
    if survivors != (Some(workers.0), Some(workers.1)) {
        return Err(Failure::new(format!("the workers were restarted: {workers:?} became {survivors:?}")));
    }
    Ok(())
}

fn pass(session: &mut pgtrickle_tests::session::Session, totals: &StreamTable) -> Outcome {
    session.run(&format!("INSERT INTO t SELECT i, i % 100, i FROM generate_series(1, {ROWS}) i"))?;
    wait::retry("the refresh takes it up", Duration::from_secs(300), || totals.refresh(session)).during("5M rows")
}

/// Anonymous memory: what the process has for itself, without shared buffers and code.
fn private_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}
