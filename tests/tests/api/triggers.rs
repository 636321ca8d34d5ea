//! What users' triggers on stream tables may do, and what becomes of it.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Outcome, oracle};

use crate::{Test, arrange, assert_error, assert_text, follows};

pub const TESTS: &[Test] = &[("refreshes_within_a_refresh", nested), ("triggers_write_sources", sources_written)];

/// Its changes would be told twice.
fn nested(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "refreshed_within", "CREATE TABLE t (k int); CREATE TABLE calls (statement text)")?;
    let query = "SELECT k, count(*) AS n FROM t GROUP BY k";
    session.each(&format!(
        "SELECT pgtrickle.create_stream_table('a', '{query}', '1h');
         SELECT pgtrickle.create_stream_table('b', 'SELECT count(*) AS n FROM a', '1h');
         SELECT pgtrickle.create_stream_table('now', 'SELECT count(*) AS n FROM t', refresh_mode => 'IMMEDIATE');
         SELECT pgtrickle.create_stream_table('also_now', 'SELECT n FROM now', refresh_mode => 'IMMEDIATE')"
    ))?;
    session.run(
        "CREATE FUNCTION call() RETURNS trigger LANGUAGE plpgsql SET search_path = refreshed_within AS
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
    // Nor can it do to others what the refresh may do to its own.
    for (call, state) in [
        ("DROP TRIGGER pgtrickle_guard ON b", "2BP01"),
        ("DROP TRIGGER pgtrickle_update ON t", "2BP01"),
        ("ALTER TABLE b ADD x int", "42809"),
        ("ALTER TABLE b ALTER n TYPE numeric", "42809"),
        ("UPDATE b SET n = 0", "42809"),
    ] {
        session.run(&format!("INSERT INTO calls VALUES ($${call}$$)"))?;
        let refresh = "SELECT pgtrickle.refresh_stream_table('a')";
        assert_error(&mut session, refresh, state, &["stream table"]).map_err(|e| e.during(call))?;
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

/// What a trigger or a cascade of a stream table writes is seen by those that are refreshed with it, and told as a change afterwards.
fn sources_written(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "sources_written",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE log (id int); INSERT INTO t VALUES (1)",
    )?;
    session.each(
        "SELECT pgtrickle.create_stream_table('a', 'SELECT id FROM t', '1h'); CREATE UNIQUE INDEX ON a (id);
         CREATE TABLE part (id int REFERENCES a (id) ON DELETE CASCADE)",
    )?;
    let queries = [
        ("b", "SELECT count(*) AS n FROM a JOIN log USING (id)"),
        ("c", "SELECT count(*) AS n FROM a FULL JOIN part USING (id)"),
    ];
    for (name, query) in queries {
        session.run(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', '1h')"))?;
    }
    session.run(
        "CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql SET search_path = sources_written AS
         $$ BEGIN INSERT INTO log VALUES (NEW.id); RETURN NULL; END $$",
    )?;
    session.each("CREATE TRIGGER logged AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION logged()")?;
    for (change, reader) in [("INSERT INTO t VALUES (2)", 0), ("DELETE FROM t WHERE id = 1", 1)] {
        session.run(change)?;
        let (name, query) = queries[reader];
        for _ in 0..2 {
            session.run(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        }
        oracle::assert_exact(&mut session, name, query).map_err(|e| e.during(change))?;
        session.run("INSERT INTO part SELECT id FROM a")?;
    }
    // The scheduler compares again by itself.
    session.each(
        "SELECT pgtrickle.alter_stream_table('b', schedule => '0s'), pgtrickle.alter_stream_table('a', schedule => '0s');
         INSERT INTO t VALUES (3)",
    )?;
    let compared =
        "SELECT n = 2 AND NOT needs_reinit FROM pgtrickle.pgt_stream_tables, b WHERE pgt_relid = 'b'::regclass";
    follows(&mut session, compared, "t")?;
    session.each("INSERT INTO t VALUES (4); SELECT pgtrickle.refresh_stream_table('b')")?;
    oracle::assert_exact(&mut session, "b", queries[0].1)
}
