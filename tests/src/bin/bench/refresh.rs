//! A refresh of a join and aggregate over a million rows against REFRESH MATERIALIZED VIEW of the same query.

use std::time::Instant;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::{Outcome, oracle};

use crate::report::{Figure, Goal, Report, median};
use crate::{Effort, SETTINGS};

const QUERY: &str = "SELECT c.region, count(*) AS n, sum(o.amount) AS total FROM orders o JOIN customers c ON c.id = o.customer \
                     GROUP BY c.region";
const CHANGES: [(u64, f64); 4] = [(1, 150.0), (100, 60.0), (10_000, 12.0), (100_000, 1.5)];

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Refresh of a join and aggregate over a table, ms, without the barrier");
    let rows = 1_000_000;
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    session.run(&format!(
        "CREATE TABLE customers (id int PRIMARY KEY, region int NOT NULL);
         CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, amount bigint NOT NULL);
         INSERT INTO customers SELECT i, i % 1000 FROM generate_series(1, 10000) i;
         INSERT INTO orders SELECT i, i % 10000 + 1, i % 977 FROM generate_series(1, {rows}) i;
         CREATE INDEX ON orders (customer);
         CREATE MATERIALIZED VIEW mv AS {QUERY};
         ANALYZE"
    ))?;
    let stream = StreamTable::new("public", "st");
    stream.create(&mut session, QUERY, BY_HAND)?;
    session.run("ANALYZE")?;
    for (changes, goal) in CHANGES {
        let (mut own, mut barriers, mut other) = (Vec::new(), Vec::new(), Vec::new());
        // One more than counts: the first plans.
        for round in 0..=effort.rounds as u64 {
            change(&mut session, changes, round)?;
            let (refresh, barrier) = refresh(&mut session, &stream)?;
            let started = Instant::now();
            session.run("REFRESH MATERIALIZED VIEW mv")?;
            if round > 0 {
                own.push(refresh);
                barriers.push(barrier);
                other.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        }
        oracle::assert_exact(&mut session, "st", QUERY)?;
        let (own, other) = (median(own), median(other));
        report.add(Figure {
            what: format!("{changes} of {rows} rows changed"),
            ours: format!("{own:.2} (barrier {:.2} beside it)", median(barriers)),
            rival: format!("REFRESH MATERIALIZED VIEW {other:.1}"),
            value: other / own,
            goal: Some(Goal::AtLeast(goal)),
        });
    }
    Ok(())
}

/// Inserts, updates and deletes in equal parts, spread over the table.
fn change(session: &mut Session, changes: u64, round: u64) -> Outcome {
    if changes < 3 {
        return session.run(&format!("UPDATE orders SET amount = amount + 1 WHERE id = {}", 7 + round));
    }
    let part = changes / 3;
    session.run(&format!(
        "BEGIN;
         UPDATE orders SET amount = amount + 1 WHERE id IN (SELECT id FROM orders WHERE id % 3 = 0 ORDER BY id OFFSET {round} LIMIT {part});
         DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE id % 3 = 1 ORDER BY id OFFSET {round} LIMIT {part});
         INSERT INTO orders SELECT (SELECT max(id) FROM orders) + i, i % 10000 + 1, i FROM generate_series(1, {part}) i;
         COMMIT"
    ))
}

/// Milliseconds of work and of waiting for capture, as the refresh itself has measured them.
fn refresh(session: &mut Session, stream: &StreamTable) -> Outcome<(f64, f64)> {
    stream.refresh(session)?;
    let rows = session.rows(
        "SELECT extract(epoch FROM duration) * 1000, extract(epoch FROM coalesce(barrier_wait, '0')) * 1000 \
         FROM pgtrickle.pgt_refresh_history ORDER BY refresh_id DESC LIMIT 1",
    )?;
    let value = |i: usize| rows.first().and_then(|row| row[i].as_deref()?.parse().ok()).unwrap_or(f64::NAN);
    Ok((value(0), value(1)))
}
