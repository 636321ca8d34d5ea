//! Nexmark q0 to q9 on few events, with updates and deletions in between: all maintained by deltas, all exact.

use pgtrickle_tests::nexmark::{Feed, QUERIES, create_tables};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::stream::{self, BY_HAND, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, oracle, suite};

/// What is done besides each cycle's events.
const CYCLES: [&str; 4] = [
    "",
    // The highest bids go down, and an auction ends before most of its bids.
    "UPDATE bid SET price = 1 WHERE (auction, price) IN (SELECT auction, max(price) FROM bid GROUP BY auction);
     UPDATE auction SET expires = date_time + (expires - date_time) / 3 WHERE id % 5 = 0",
    // Auctions change hands, bids move to other auctions and other windows.
    "UPDATE auction SET seller = seller + 1, category = 10 WHERE id % 3 = 0;
     UPDATE bid SET auction = auction - auction % 123 WHERE bidder % 7 = 0;
     UPDATE bid SET date_time = date_time + interval '3 s' WHERE bidder % 5 = 0;
     UPDATE person SET state = 'or', date_time = date_time + interval '10 s' WHERE id % 4 = 0",
    "DELETE FROM bid WHERE price % 3 = 0; DELETE FROM auction WHERE id % 4 = 0; DELETE FROM person WHERE id % 6 = 0",
];

fn main() {
    suite::main(1, |version| Ok(vec![suite::on_own_server(version, "all_queries", &[], all_queries)]))
}

fn all_queries(server: &Server) -> Outcome {
    let mut session = server.session()?;
    create_tables(&mut session)?;
    let mut feed = Feed::default();
    feed.commit(&mut session, 3000)?;
    session.run("ANALYZE")?;
    for (name, query) in QUERIES {
        let stream = StreamTable::new("public", name);
        // AUTO would recompute after the greater changes.
        let creation = stream.creation(query, BY_HAND);
        session.run(&creation.replace("schedule =>", "refresh_mode => 'DIFFERENTIAL', schedule =>")).during(name)?;
        let mode = stream.mode(&mut session)?;
        if mode != "DIFFERENTIAL" {
            return Err(Failure::new(format!("{name} is maintained in mode {mode}: {}", stream.reason(&mut session)?)));
        }
    }
    for (cycle, changes) in CYCLES.iter().enumerate() {
        feed.commit(&mut session, 1000)?;
        session.run(changes)?;
        for (name, query) in QUERIES {
            let stream = StreamTable::new("public", name);
            stream.refresh(&mut session).during(name)?;
            oracle::assert_exact(&mut session, name, query).during(format!("cycle {cycle}"))?;
            stream.assert_verified(&mut session).during(format!("cycle {cycle}"))?;
        }
    }
    let empty: Vec<_> = QUERIES
        .iter()
        .filter(|(name, _)| session.holds(&format!("SELECT count(*) = 0 FROM {name}")).unwrap_or(true))
        .map(|(name, _)| *name)
        .collect();
    if !empty.is_empty() {
        return Err(Failure::new(format!("nothing is in {}", empty.join(", "))));
    }
    stream::assert_never_recomputed(&mut session)
}
