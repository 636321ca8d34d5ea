//! Nexmark q0 to q9, kept current while events pour in: how many a second they can follow, and how soon each is visible.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pgtrickle_tests::nexmark::{Feed, QUERIES, create_tables};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{AT_ONCE, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, oracle};

use crate::report::{Figure, Goal, Report, percentile};
use crate::{Effort, SETTINGS};

/// Events of a transaction.
const BATCH: usize = 100;
/// Events that are there before the stream tables.
const BEFORE: usize = 50_000;
/// What is committed must be visible within this, or the writer waits: so the rate that it reaches can be sustained.
const BOUND: Duration = Duration::from_secs(1);
/// When something is called lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// How fast the writer writes.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as it can while nothing that is committed has been invisible for longer than `BOUND`.
    Followed,
    /// So many events a second, whether they are visible or not.
    Steady(f64),
}

/// What a load has shown.
struct Run {
    /// Events a second while the writer wrote, in each third of the time.
    thirds: [f64; 3],
    /// Events a second, from the first commit until the last one is visible.
    rate: f64,
    /// Commit to visible in all ten, of each transaction, ms.
    lags: Vec<f64>,
}

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Nexmark, q0 to q9 as ten stream tables, schedule 0s");
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    create_tables(&mut session)?;
    let mut feed = Feed::default();
    let started = Instant::now();
    for _ in 0..BEFORE / BATCH {
        feed.commit(&mut session, BATCH)?;
    }
    let alone = BEFORE as f64 / started.elapsed().as_secs_f64();
    session.run("VACUUM ANALYZE")?;
    for (name, query) in QUERIES {
        StreamTable::new("public", name).create(&mut session, query, AT_ONCE).during(name)?;
    }
    session.run("ANALYZE")?;
    let length = Duration::from_secs(60 / effort.fraction);
    let followed = load(&server, &mut feed, Pace::Followed, length).during("as fast as followed")?;
    let rate = followed.rate;
    add_run(report, "as fast as all ten follow within 1 s", followed, ("alone", alone), None);
    exact(&mut session).during("after the first load")?;
    for part in [0.5, 0.1] {
        let offered = rate * part;
        let steady = load(&server, &mut feed, Pace::Steady(offered), length).during("steady")?;
        // All of it, until visible: less only if the lag grows.
        let goal = Some(Goal::AtLeast(0.95));
        add_run(report, &format!("steady at {:.0} % of that", part * 100.0), steady, ("offered", offered), goal);
        exact(&mut session).during("after a steady load")?;
    }
    let seconds = length.as_secs();
    report.note(format!(
        "Transactions of {BATCH} events (2 persons, 6 auctions, 92 bids) and some updates, from one client, for {seconds} s each. \
         Alone: that client before there are stream tables. The lag is from the commit until all ten show it."
    ));
    report.note("After each load every stream table equals its query, by EXCEPT ALL in both directions and by verify_stream_table.".into());
    each_table(report, &mut session)
}

fn add_run(report: &mut Report, what: &str, mut run: Run, (against, other): (&str, f64), goal: Option<Goal>) {
    let [p50, p99] = [0.5, 0.99].map(|part| percentile(&mut run.lags, part));
    let [first, second, third] = run.thirds;
    let ours = format!("{:.0} events/s, lag p50 {p50:.1} ms, p99 {p99:.1} ms", run.rate);
    let rival = format!("{other:.0} events/s {against}");
    report.add(Figure { what: what.into(), ours, rival, value: run.rate / other, goal });
    report.note(format!("{what}: {first:.0}, {second:.0}, {third:.0} events/s in the thirds of the run."));
}

/// Writes at the given pace for so long, while another session watches what is visible.
fn load(server: &Server, feed: &mut Feed, pace: Pace, length: Duration) -> Outcome<Run> {
    let (mut writer, mut watcher) = (server.session()?, server.session()?);
    let in_flight = InFlight::default();
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&mut watcher, &in_flight));
        let started = Instant::now();
        let written = write(&mut writer, feed, pace, length, &in_flight);
        in_flight.written.store(true, Relaxed);
        let lags = watching.join().map_err(|_| Failure::new("the watcher panicked"))??;
        let elapsed = started.elapsed().as_secs_f64();
        let thirds = written?.map(|events| events as f64 * 3.0 / length.as_secs_f64());
        Ok(Run { thirds, rate: (lags.len() * BATCH) as f64 / elapsed, lags })
    })
}

/// Transactions that are committed and not seen yet.
#[derive(Default)]
struct InFlight {
    transactions: Mutex<VecDeque<(String, Instant)>>,
    written: AtomicBool,
    lost: AtomicBool,
}

impl InFlight {
    fn with<R>(&self, act: impl FnOnce(&mut VecDeque<(String, Instant)>) -> R) -> R {
        act(&mut self.transactions.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn is_late(&self) -> bool {
        self.with(|queue| queue.front().is_some_and(|(_, since)| since.elapsed() > BOUND))
    }
}

/// The events written in each third of the time.
fn write(
    session: &mut Session,
    feed: &mut Feed,
    pace: Pace,
    length: Duration,
    in_flight: &InFlight,
) -> Outcome<[usize; 3]> {
    let started = Instant::now();
    let mut due = started;
    let mut thirds = [0; 3];
    while started.elapsed() < length && !in_flight.lost.load(Relaxed) {
        match pace {
            Pace::Followed if in_flight.is_late() => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Pace::Followed => {}
            Pace::Steady(rate) => {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due += Duration::from_secs_f64(BATCH as f64 / rate);
            }
        }
        let xid = feed.commit(session, BATCH)?;
        in_flight.with(|queue| queue.push_back((xid, Instant::now())));
        let third = (started.elapsed().as_secs_f64() * 3.0 / length.as_secs_f64()) as usize;
        thirds[third.min(2)] += BATCH;
    }
    Ok(thirds)
}

/// The time from commit to visible in every stream table, of each transaction, ms.
fn watch(session: &mut Session, in_flight: &InFlight) -> Outcome<Vec<f64>> {
    let mut lags = Vec::new();
    let result = loop {
        let written = in_flight.written.load(Relaxed);
        let front = in_flight.with(|queue| queue.iter().take(64).map(|(xid, _)| xid.clone()).collect::<Vec<_>>());
        if front.is_empty() && written {
            break Ok(());
        }
        if !front.is_empty() {
            match visible(session, &front) {
                Ok(seen) => {
                    let now = Instant::now();
                    let ms = |since: Instant| now.saturating_duration_since(since).as_secs_f64() * 1000.0;
                    in_flight.with(|queue| lags.extend(queue.drain(..seen).map(|(_, since)| ms(since))));
                }
                Err(error) => break Err(error),
            }
        }
        if in_flight.with(|queue| queue.front().is_some_and(|(_, since)| since.elapsed() > PATIENCE)) {
            break Err(late(session));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    in_flight.lost.store(result.is_err(), Relaxed);
    result.map(|()| lags)
}

/// How many of one writer's transactions, the oldest first, every stream table shows.
fn visible(session: &mut Session, xids: &[String]) -> Outcome<usize> {
    let count = session.number(&format!(
        "SELECT count(*) FROM unnest('{{{}}}'::xid8[]) AS x (xid) WHERE NOT EXISTS \
         (SELECT FROM pgtrickle.pgt_stream_tables WHERE NOT coalesce(pg_visible_in_snapshot(x.xid, frontier), false))",
        xids.join(",")
    ))?;
    Ok(count as usize)
}

fn late(session: &mut Session) -> Failure {
    let rows = session
        .rows("SELECT pgt_name, frontier_lsn, last_error_message FROM pgtrickle.pgt_stream_tables ORDER BY 2 LIMIT 3");
    Failure::new(format!("not visible after {PATIENCE:?}; last are {rows:?}"))
}

/// What each stream table did since it was made.
fn each_table(report: &mut Report, session: &mut Session) -> Outcome {
    report.table(
        "Nexmark, each stream table over all loads",
        &["query", "mode", "rows", "refreshes by deltas", "recomputations", "average ms", "failures"],
    );
    for (name, _) in QUERIES {
        let rows = session.rows(&format!(
            "SELECT name, effective_refresh_mode, (SELECT count(*) FROM {name}), differential_refreshes, full_refreshes, \
                    round(avg_duration_ms::numeric, 2), failures FROM pgtrickle.pg_stat_stream_tables WHERE name = '{name}'"
        ))?;
        for row in rows {
            report.row(row.into_iter().map(Option::unwrap_or_default).collect());
        }
        let reason = StreamTable::new("public", name).reason(session)?;
        if !reason.is_empty() {
            report.note(format!("{name} has no delta rules: {reason}"));
        }
    }
    Ok(())
}

fn exact(session: &mut Session) -> Outcome {
    QUERIES.iter().try_for_each(|(name, query)| {
        let stream = StreamTable::new("public", name);
        stream.refresh(session)?;
        stream.assert_verified(session)?;
        oracle::assert_exact(session, name, query)
    })
}
