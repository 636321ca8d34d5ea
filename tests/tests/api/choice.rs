//! How mode AUTO chooses between deltas and recomputing, by what they have cost.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{During, Failure, Outcome};

use crate::{Test, arrange};

pub const TESTS: &[Test] = &[("choice_auto_learns", learns), ("choice_differential_stays", never)];

const TABLES: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT i, i FROM generate_series(1, 5) AS i";

/// A function whose cost the session decides, far beyond what any machine's load adds to the rest.
const SLOW: &str = "
    CREATE FUNCTION slow(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        PERFORM pg_catalog.pg_sleep(coalesce(nullif(pg_catalog.current_setting('test.seconds', true), ''), '0')::float8);
        RETURN a;
    END $$";

/// Recomputations in the place of deltas until deltas get another try.
const TRY_AGAIN: usize = 16;

/// Deltas that were dear give way, are tried again, and stay when they have become cheap.
fn learns(server: &Server) -> Outcome {
    let mut session = arrange(server, "choice_auto", TABLES)?;
    create(&mut session, "AUTO")?;
    refreshes(&mut session, "nothing is known of deltas", "DIFFERENTIAL", 1, 2.0)?;
    refreshes(&mut session, "the first one may have planned", "DIFFERENTIAL", 1, 2.0)?;
    refreshes(&mut session, "two were dear", "FULL", TRY_AGAIN - 1, 0.0)?;
    // Some 20 rows: dearer than a cheap delta on any machine, cheaper than the dear ones.
    refreshes(&mut session, "two were dear", "FULL", 1, 0.025)?;
    refreshes(&mut session, "another try", "DIFFERENTIAL", 1, 0.0)?;
    refreshes(&mut session, "it was cheap", "DIFFERENTIAL", 3, 0.0)
}

/// Who asks for deltas gets them.
fn never(server: &Server) -> Outcome {
    let mut session = arrange(server, "choice_differential", TABLES)?;
    create(&mut session, "DIFFERENTIAL")?;
    refreshes(&mut session, "as asked for", "DIFFERENTIAL", 3, 1.0)
}

fn create(session: &mut Session, mode: &str) -> Outcome {
    session.run(SLOW)?;
    session.each(&format!(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT id, slow(a) AS a FROM t', schedule => '24h', refresh_mode => '{mode}')"
    ))
}

/// So many refreshes after a new row each, at this cost of the function, are all of this kind, and exact.
fn refreshes(session: &mut Session, when: &str, action: &str, count: usize, seconds: f64) -> Outcome {
    for i in 1..=count {
        session.each(&format!(
            "INSERT INTO t SELECT max(id) + 1, {i} FROM t; SET test.seconds = {seconds}; \
             SELECT pgtrickle.refresh_stream_table('st'); SET test.seconds = 0"
        ))?;
        let found = session.text("SELECT action FROM pgtrickle.get_refresh_history('st', 1)")?;
        if found != action {
            return Err(Failure::new(format!("{when}: {found} instead of {action}, refresh {i}")));
        }
        crate::assert_text(session, "SELECT missing + extra FROM pgtrickle.verify_stream_table('st')", "0")
            .during(when)?;
    }
    Ok(())
}
