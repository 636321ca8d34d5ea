//! The 22 queries of TPC-H under refresh functions and updates: a refresh against a recomputation of the same query.

use std::time::Instant;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::tpch::{self, TpchQuery};
use pgtrickle_tests::{During, Failure, Outcome, oracle};

use crate::report::{Figure, Goal, Report, median};
use crate::{Effort, SETTINGS};

pub const SCALE: f64 = 0.1;
/// Cycles in which the contenders take turns at each query.
const IN_TURNS: u64 = 5;

/// Milliseconds, one per cycle.
#[derive(Default)]
struct Times {
    own: Vec<f64>,
    other: Vec<f64>,
}

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    let cycles = if effort.fraction > 1 { 3 } else { 10 };
    report.table(
        &format!("TPC-H, scale factor {SCALE}: refresh against REFRESH MATERIALIZED VIEW, ms"),
        &["query", "refresh", "recomputation", "ratio", "worst cycle's ratio"],
    );
    let server = Server::start(effort.version, SETTINGS)?;
    let (mut session, mut other_session) = (server.session()?, server.session()?);
    tpch::load(&mut session, SCALE)?;
    let queries = tpch::queries()?;
    for query in &queries {
        let stream = StreamTable::new("public", &query.name);
        stream.create(&mut session, &query.query, BY_HAND).during(&query.name)?;
        session.run(&format!("CREATE MATERIALIZED VIEW mv_{} AS {}", query.name, query.query))?;
    }
    session.run("ANALYZE")?;
    let mut times: Vec<Times> = queries.iter().map(|_| Times::default()).collect();
    // One more than counts: the first plans.
    for cycle in 0..=cycles {
        tpch::change(&mut session, cycle)?;
        // One after the other: what replaces a table's storage is told to all sessions, which would be counted as time of whoever
        // comes next.
        let own = queries.iter().map(|query| refresh(&mut session, query)).collect::<Outcome<Vec<f64>>>()?;
        let other = queries.iter().map(|query| recompute(&mut other_session, query)).collect::<Outcome<Vec<f64>>>()?;
        for ((own, other), times) in own.into_iter().zip(other).zip(&mut times).filter(|_| cycle > 0) {
            times.own.push(own);
            times.other.push(other);
        }
        for query in &queries {
            oracle::assert_exact(&mut session, &query.name, &query.query).during(format!("cycle {cycle}"))?;
        }
    }
    tell(report, &queries, times, cycles);
    let mut in_turns: Vec<Times> = queries.iter().map(|_| Times::default()).collect();
    for cycle in cycles + 1..=cycles + IN_TURNS {
        tpch::change(&mut session, cycle)?;
        for (query, times) in queries.iter().zip(&mut in_turns) {
            times.own.push(refresh(&mut session, query)?);
            times.other.push(recompute(&mut other_session, query)?);
        }
    }
    let ratios = in_turns.into_iter().map(|Times { own, other }| median(other) / median(own)).collect();
    report.note(format!(
        "In {IN_TURNS} more cycles the contenders took turns at each query, so that every refresh followed a table's replacement in another \
         session: there the median of the ratios is {:.1}.",
        median(ratios)
    ));
    all_by_deltas(&mut session, report)
}

/// Milliseconds without the wait for capture, which the first of those that refresh after a change has for all.
pub fn refresh(session: &mut Session, query: &TpchQuery) -> Outcome<f64> {
    let started = Instant::now();
    StreamTable::new("public", &query.name).refresh(session).during(&query.name)?;
    let total = started.elapsed().as_secs_f64() * 1000.0;
    let barrier = session.text(
        "SELECT extract(epoch FROM coalesce(barrier_wait, '0')) * 1000 FROM pgtrickle.pgt_refresh_history
          ORDER BY refresh_id DESC LIMIT 1",
    )?;
    Ok(total - barrier.parse::<f64>().unwrap_or(0.0))
}

pub fn recompute(session: &mut Session, query: &TpchQuery) -> Outcome<f64> {
    let started = Instant::now();
    session.run(&format!("REFRESH MATERIALIZED VIEW mv_{}", query.name))?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

fn tell(report: &mut Report, queries: &[TpchQuery], times: Vec<Times>, cycles: u64) {
    let mut ratios = Vec::new();
    for (query, Times { own, other }) in queries.iter().zip(times) {
        let worst = own.iter().zip(&other).map(|(own, other)| other / own).fold(f64::INFINITY, f64::min);
        let (own, other) = (median(own), median(other));
        let ratio = other / own;
        ratios.push(ratio);
        report.row(vec![
            query.name.clone(),
            format!("{own:.1}"),
            format!("{other:.1}"),
            format!("{ratio:.1}"),
            format!("{worst:.1}"),
        ]);
    }
    report.note(format!(
        "A cycle is RF1 (0.1 % new orders), RF2 (0.1 % of the orders deleted) and updates of 1 % of every table, taken up by one refresh \
         of each stream table, one after the other, and then by REFRESH of each materialized view in another session; {cycles} cycles, medians. Every stream table equals its query after each."
    ));
    let slowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    report.section("TPC-H: all queries");
    for (what, value, goal) in [
        ("median of the ratios", median(ratios), Goal::AtLeast(10.0)),
        ("smallest of the ratios", slowest, Goal::AtLeast(0.83)),
    ] {
        let (ours, rival) = (format!("{value:.1} times as fast"), "REFRESH MATERIALIZED VIEW".to_owned());
        report.add(Figure { what: what.into(), ours, rival, value, goal: Some(goal) });
    }
}

fn all_by_deltas(session: &mut Session, report: &mut Report) -> Outcome {
    let modes = session
        .rows("SELECT pgt_name FROM pgtrickle.pgt_stream_tables WHERE effective_refresh_mode <> 'DIFFERENTIAL'")?;
    let full = session.rows(
        "SELECT s.pgt_name, count(*) FROM pgtrickle.pgt_refresh_history h JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
          WHERE h.action = 'FULL' GROUP BY 1 ORDER BY 1",
    )?;
    if !modes.is_empty() {
        return Err(Failure::new(format!("not maintained by deltas: {modes:?}")));
    }
    let told: Vec<String> =
        full.iter().map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
    let told = if told.is_empty() { "none".to_owned() } else { told.join(", ") };
    report.note(format!("All 22 have delta rules. Refreshes for which a recomputation was chosen as cheaper: {told}."));
    Ok(())
}
