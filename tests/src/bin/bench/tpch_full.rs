//! The 22 queries of TPC-H with `refresh_mode => 'FULL'`: what comparing with the stored rows costs beyond the query itself.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::{During, Outcome, oracle, tpch};

use crate::report::{Figure, Goal, Report, median};
use crate::tpch::{SCALE, recompute, refresh};
use crate::{Effort, SETTINGS};

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    let cycles = if effort.fraction > 1 { 3 } else { 5 };
    report.table(
        &format!("TPC-H, scale factor {SCALE}, refresh_mode FULL: refresh against REFRESH MATERIALIZED VIEW, ms"),
        &["query", "refresh", "materialized view", "ratio"],
    );
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    tpch::load(&mut session, SCALE)?;
    let mut times = Vec::new();
    for query in tpch::queries()? {
        session.run(&format!(
            "SELECT pgtrickle.create_stream_table('{0}', $query${1}$query$, schedule => '24h', refresh_mode => 'FULL');
             CREATE MATERIALIZED VIEW mv_{0} AS {1}",
            query.name, query.query
        ))?;
        times.push((query, Vec::new(), Vec::new()));
    }
    session.run("ANALYZE")?;
    // One more than counts: the first plans.
    for cycle in 0..=cycles {
        tpch::change(&mut session, cycle)?;
        for (query, own, other) in &mut times {
            // Twice the view, before and after: whatever the cache holds, both find it alike.
            let before = recompute(&mut session, query)?;
            let ours = refresh(&mut session, query)?;
            let after = recompute(&mut session, query)?;
            if cycle > 0 {
                own.push(ours);
                other.push((before + after) / 2.0);
            }
            oracle::assert_exact(&mut session, &query.name, &query.query).during(format!("cycle {cycle}"))?;
        }
    }
    let mut largest = 0.0f64;
    for (query, own, other) in times {
        let (own, other) = (median(own), median(other));
        largest = largest.max(own / other);
        report.row(vec![query.name, format!("{own:.1}"), format!("{other:.1}"), format!("{:.2}", own / other)]);
    }
    report.section("TPC-H in mode FULL: all queries");
    report.add(Figure {
        what: "largest of the ratios".into(),
        ours: format!("{largest:.2} times its time"),
        rival: "REFRESH MATERIALIZED VIEW".into(),
        value: largest,
        goal: Some(Goal::AtMost(1.2)),
    });
    Ok(())
}
