//! What users' triggers on stream tables may do, and what becomes of it.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Outcome, oracle};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[("refreshes_within_a_refresh", nested)];

/// Its changes would be told twice.
fn nested(server: &Server) -> Outcome {
    let mut session = arrange(server, "nested", "CREATE TABLE t (k int); CREATE TABLE calls (statement text)")?;
    let query = "SELECT k, count(*) AS n FROM t GROUP BY k";
    session.each(&format!(
        "SELECT pgtrickle.create_stream_table('a', '{query}', '1h');
         SELECT pgtrickle.create_stream_table('b', 'SELECT count(*) AS n FROM a', '1h');
         SELECT pgtrickle.create_stream_table('now', 'SELECT count(*) AS n FROM t', refresh_mode => 'IMMEDIATE');
         SELECT pgtrickle.create_stream_table('also_now', 'SELECT n FROM now', refresh_mode => 'IMMEDIATE')"
    ))?;
    session.run(
        "CREATE FUNCTION call() RETURNS trigger LANGUAGE plpgsql SET search_path = nested AS
         $$ DECLARE s text; BEGIN FOR s IN SELECT statement FROM calls LOOP EXECUTE s; END LOOP; RETURN NULL; END $$",
    )?;
    session.each(
        "CREATE TRIGGER calls AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION call();
         CREATE TRIGGER calls AFTER UPDATE ON now FOR EACH STATEMENT EXECUTE FUNCTION call();
         INSERT INTO t VALUES (1)",
    )?;
    for call in [
        "SELECT pgtrickle.refresh_stream_table('a')",
        "SELECT pgtrickle.refresh_stream_table('b')",
        "SELECT pgtrickle.verify_stream_table('a')",
        "SELECT pgtrickle.create_stream_table('c', 'SELECT k FROM a', '1h')",
        "SELECT pgtrickle.alter_stream_table('b', query => 'SELECT max(n) AS n FROM a')",
    ] {
        session.run(&format!("INSERT INTO calls VALUES ($${call}$$)"))?;
        let refresh = "SELECT pgtrickle.refresh_stream_table('a')";
        assert_error(&mut session, refresh, "55000", &["is being refreshed", "trigger", "scheduler"])
            .map_err(|e| e.during(call))?;
        assert_error(&mut session, "INSERT INTO t VALUES (2)", "55000", &["hint"]).map_err(|e| e.during(call))?;
        session.run("TRUNCATE calls")?;
    }
    // What computes nothing may be called.
    session.each(
        "INSERT INTO calls VALUES ($$SELECT pgtrickle.alter_stream_table('b', schedule => '2h')$$);
         INSERT INTO t VALUES (1), (2); SELECT pgtrickle.refresh_stream_table('b')",
    )?;
    oracle::assert_exact(&mut session, "a", query)?;
    assert_text(&mut session, "SELECT n FROM b", "2")?;
    assert_text(&mut session, "SELECT n FROM also_now", "3")
}
