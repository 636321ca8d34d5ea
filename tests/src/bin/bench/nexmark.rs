//! Nexmark q0 to q9, kept current while events pour in: how many a second, and how soon they are visible.

use std::time::{Duration, Instant};

use pgtrickle_tests::nexmark::{Feed, QUERIES, create_tables};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{AT_ONCE, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, oracle};

use crate::report::{Figure, Report, percentile};
use crate::{Effort, SETTINGS};

/// Events of a transaction.
const BATCH: usize = 500;
/// The rate at which the lag is measured, events a second.
const STEADY: f64 = 2_000.0;

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Nexmark, q0 to q9 as ten stream tables, schedule 0s");
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    create_tables(&mut session)?;
    let mut feed = Feed::default();
    feed.commit(&mut session, 10_000)?;
    session.run("ANALYZE")?;
    let mut recomputed = Vec::new();
    for (name, query) in QUERIES {
        let stream = StreamTable::new("public", name);
        stream.create(&mut session, query, AT_ONCE).during(name)?;
        if stream.mode(&mut session)? != "DIFFERENTIAL" {
            recomputed.push(name);
        }
    }
    session.run("ANALYZE")?;
    flood(effort, report, &mut session, &mut feed)?;
    exact(&mut session)?;
    steady(effort, report, &mut session, &mut feed)?;
    exact(&mut session)?;
    let recomputed = if recomputed.is_empty() { "none".to_owned() } else { recomputed.join(", ") };
    report.note(format!("Every stream table equals its query after either load. Without delta rules: {recomputed}."));
    Ok(())
}

/// As fast as one client commits; the clock stops when all is visible in every stream table.
fn flood(effort: &Effort, report: &mut Report, session: &mut Session, feed: &mut Feed) -> Outcome {
    let batches = 400 / effort.fraction as usize;
    let started = Instant::now();
    let mut last = String::new();
    for _ in 0..batches {
        last = feed.commit(session, BATCH)?;
    }
    visible(session, &last)?;
    let events = (batches * BATCH) as f64;
    let rate = events / started.elapsed().as_secs_f64();
    let what = format!("{events} events in transactions of {BATCH}, until visible in all ten");
    report.add(Figure { what, ours: format!("{rate:.0} events/s"), rival: "–".into(), value: rate, goal: None });
    Ok(())
}

fn steady(effort: &Effort, report: &mut Report, session: &mut Session, feed: &mut Feed) -> Outcome {
    const FEW: usize = 100;
    let interval = Duration::from_secs_f64(FEW as f64 / STEADY);
    let mut lags = Vec::new();
    let mut due = Instant::now();
    for _ in 0..600 / effort.fraction {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due = (due + interval).max(Instant::now());
        let xid = feed.commit(session, FEW)?;
        let committed = Instant::now();
        visible(session, &xid)?;
        lags.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        let value = percentile(&mut lags, part);
        report.add(Figure {
            what: format!("at most {STEADY} events/s, commit to visible in all ten: {name} of {}, ms", lags.len()),
            ours: format!("{value:.1}"),
            rival: "–".into(),
            value,
            goal: None,
        });
    }
    Ok(())
}

/// Waits until every stream table has taken up a transaction.
fn visible(session: &mut Session, xid: &str) -> Outcome {
    let behind =
        format!("SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE NOT pg_visible_in_snapshot('{xid}', frontier)");
    let started = Instant::now();
    while session.number(&behind)? > 0 {
        if started.elapsed() > Duration::from_secs(300) {
            let late = session.rows(
                "SELECT pgt_name, frontier_lsn, last_error_message FROM pgtrickle.pgt_stream_tables ORDER BY 2 LIMIT 3",
            )?;
            return Err(Failure::new(format!("not visible after five minutes; last are {late:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn exact(session: &mut Session) -> Outcome {
    QUERIES.iter().try_for_each(|(name, query)| {
        StreamTable::new("public", name).refresh(session)?;
        // DISTINCT ON leaves a choice among equal bids, which the stream table's own audit makes as it does.
        if query.contains("DISTINCT ON") {
            return StreamTable::new("public", name).assert_verified(session);
        }
        oracle::assert_exact(session, name, query)
    })
}
