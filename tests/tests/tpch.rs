//! The 22 queries of TPC-H on generated data at scale factor 0.01, with refresh functions and updates of every table:
//! all maintained by deltas, all exact.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::stream::{self, BY_HAND, StreamTable};
use pgtrickle_tests::{During, Failure, Outcome, oracle, suite, tpch};

const CYCLES: u64 = 3;

fn main() {
    suite::main(1, |version| Ok(vec![suite::on_own_server(version, "all_queries", &[], all_queries)]))
}

fn all_queries(server: &Server) -> Outcome {
    let mut session = server.session()?;
    tpch::load(&mut session, 0.01)?;
    let queries = tpch::queries()?;
    if queries.len() != 22 {
        return Err(Failure::new(format!("{} queries", queries.len())));
    }
    for query in &queries {
        let stream = StreamTable::new("public", &query.name);
        // AUTO would recompute after the upheaval.
        let creation = stream.creation(&query.query, BY_HAND);
        session.run(&creation.replace("schedule =>", "refresh_mode => 'DIFFERENTIAL', schedule =>"))?;
        let mode = stream.mode(&mut session)?;
        if mode != "DIFFERENTIAL" {
            return Err(Failure::new(format!("{} is maintained in mode {mode}", query.name)));
        }
    }
    for cycle in 1..=CYCLES {
        tpch::change(&mut session, cycle)?;
        if cycle == CYCLES {
            session.run(UPHEAVAL)?;
        }
        for query in &queries {
            StreamTable::new("public", &query.name).refresh(&mut session).during(&query.name)?;
            oracle::assert_exact(&mut session, &query.name, &query.query).during(format!("cycle {cycle}"))?;
        }
    }
    stream::assert_never_recomputed(&mut session)
}

/// Names and keys that all queries hang on, of a fifth and more of everything.
const UPHEAVAL: &str = "
    UPDATE region SET r_name = CASE r_name WHEN 'ASIA' THEN 'EUROPE' WHEN 'EUROPE' THEN 'ASIA' ELSE r_name END;
    UPDATE nation SET n_name = CASE n_name WHEN 'FRANCE' THEN 'GERMANY' WHEN 'GERMANY' THEN 'FRANCE' ELSE n_name END;
    UPDATE supplier SET s_nationkey = (s_nationkey + 1) % 25 WHERE s_suppkey % 3 = 0;
    UPDATE lineitem SET l_orderkey = l_orderkey + 3 WHERE l_orderkey % 32 = 7;
    UPDATE part SET p_name = 'forest green', p_type = 'PROMO BRASS', p_brand = 'Brand#23', p_container = 'MED BOX' WHERE p_partkey % 20 = 0;
    DELETE FROM customer WHERE c_custkey % 50 = 0;";
