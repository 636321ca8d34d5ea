//! What takes away or moves much at once: roles, extensions, tablespaces, and the buffers themselves.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Outcome, oracle, wait};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("drop_owned_takes_sources_along", drop_owned),
    ("extensions_are_dropped", extensions),
    ("all_is_given_to_another_role", reassigned),
    ("tablespaces", tablespaces),
];

/// Which stream tables there are in the schemas of a test.
fn assert_left(session: &mut Session, schemas: &str, expected: &str) -> Outcome {
    let left = format!(
        "SELECT string_agg(pgt_name, ' ' ORDER BY pgt_name) FROM pgtrickle.pgt_stream_tables WHERE pgt_schema LIKE '{schemas}%'"
    );
    assert_text(session, &left, expected)
}

fn follows(session: &mut Session, name: &str, query: &str) -> Outcome {
    wait::retry(name, wait::PATIENCE, || oracle::assert_exact(session, name, query))
}

/// Tables of the role, its stream tables, and what others have made of both.
fn drop_owned(server: &Server) -> Outcome {
    let mut session = arrange(server, "leaving", "CREATE TABLE kept (a int, b int); INSERT INTO kept VALUES (1, 1)")?;
    session.each(
        "CREATE ROLE leaver; GRANT ALL ON SCHEMA leaving TO leaver; GRANT SELECT ON kept TO leaver; SET ROLE leaver; \
         CREATE TABLE theirs (a int, b int); SELECT pgtrickle.create_stream_table('own', 'SELECT a, count(*) FROM theirs GROUP BY a', '1s'); \
         SELECT pgtrickle.create_stream_table('of_kept', 'SELECT a FROM kept', '1s'); RESET ROLE; \
         SELECT pgtrickle.create_stream_table('others', 'SELECT t.a, k.b FROM theirs t JOIN kept k USING (a)', '1s'); \
         SELECT pgtrickle.create_stream_table('below', 'SELECT a FROM of_kept', '1s'); \
         SELECT pgtrickle.create_stream_table('unconcerned', 'SELECT a, b FROM kept', '1s'); \
         INSERT INTO theirs VALUES (1, 1)",
    )?;
    assert_error(&mut session, "DROP OWNED BY leaver", "2BP01", &["others", "CASCADE"])?;
    session.each("INSERT INTO kept VALUES (2, 2); INSERT INTO theirs VALUES (2, 2)")?;
    follows(&mut session, "others", "SELECT t.a, k.b FROM theirs t JOIN kept k USING (a)")?;
    session.each("DROP OWNED BY leaver CASCADE; DROP ROLE leaver; INSERT INTO kept VALUES (3, 3)")?;
    assert_left(&mut session, "leaving", "unconcerned")?;
    follows(&mut session, "unconcerned", "TABLE kept")?;
    // What looks can cope with what is gone, now and once it has been tidied away.
    session.each("SELECT pgtrickle.refresh_timeline(100000); SELECT pgtrickle.parallel_job_status(); SELECT pgtrickle.check_cdc_health()")?;
    let tracked = "SELECT count(*) FROM pgtrickle.pgt_change_tracking t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.source_relid)";
    wait::until("capture of what is gone ends", wait::PATIENCE, || Ok(session.number(tracked)? == 0))
}

/// Drops lock what they find in an order of their own, so a refresh and one of them may wait for each other; then one gives way.
fn dropped(session: &mut Session, statement: &str) -> Outcome {
    wait::retry(statement, wait::PATIENCE, || session.run(statement).map(drop))
}

fn refused(session: &mut Session, statement: &str, reader: &str) -> Outcome {
    wait::retry(statement, wait::PATIENCE, || assert_error(session, statement, "2BP01", &[reader]))
}

/// A type of a column that is read, one that is not, and a function.
fn extensions(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "extended",
        "CREATE EXTENSION citext SCHEMA extended; CREATE EXTENSION fuzzystrmatch SCHEMA extended; \
         CREATE TABLE t (id int PRIMARY KEY, c citext, v text); INSERT INTO t VALUES (1, 'a', 'one'), (2, 'A', 'two')",
    )?;
    for (name, query) in [
        ("typed", "SELECT c, count(*) AS n FROM t GROUP BY c"),
        ("called", "SELECT id, levenshtein(v, 'one') AS d FROM t"),
        ("plain", "SELECT id, v FROM t"),
    ] {
        session.run(&format!("SELECT pgtrickle.create_stream_table('{name}', $$ {query} $$, '0s')"))?;
    }
    session.each("SELECT pgtrickle.create_stream_table('child', 'SELECT n FROM typed', '0s')")?;
    refused(&mut session, "DROP EXTENSION citext", "typed")?;
    refused(&mut session, "DROP EXTENSION fuzzystrmatch", "called")?;
    assert_left(&mut session, "extended", "called child plain typed")?;
    dropped(&mut session, "DROP EXTENSION IF EXISTS fuzzystrmatch CASCADE")?;
    session.run("INSERT INTO t VALUES (3, 'b', 'three')")?;
    assert_left(&mut session, "extended", "child plain typed")?;
    follows(&mut session, "typed", "SELECT c, count(*) AS n FROM t GROUP BY c")?;
    dropped(&mut session, "DROP EXTENSION IF EXISTS citext CASCADE")?;
    session.run("INSERT INTO t VALUES (4, 'four')")?;
    assert_left(&mut session, "extended", "plain")?;
    follows(&mut session, "plain", "SELECT id, v FROM t")?;
    assert_text(&mut session, "SELECT missing + extra FROM pgtrickle.verify_stream_table('plain')", "0")
}

fn reassigned(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "given", "CREATE ROLE giver; CREATE ROLE taker; GRANT ALL ON SCHEMA given TO giver, taker")?;
    session.each(
        "SET ROLE giver; CREATE TABLE t (a int, b int); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, count(*) AS n FROM t GROUP BY a', '0s'); \
         SELECT pgtrickle.create_stream_table('child', 'SELECT max(n) AS n FROM st', '0s'); \
         SELECT pgtrickle.create_stream_table('at_once', 'SELECT sum(b) AS s FROM t', refresh_mode => 'IMMEDIATE'); RESET ROLE; \
         INSERT INTO t VALUES (1, 1); REASSIGN OWNED BY giver TO taker; INSERT INTO t VALUES (1, 2), (2, 2)",
    )?;
    follows(&mut session, "st", "SELECT a, count(*) AS n FROM t GROUP BY a")?;
    follows(&mut session, "child", "SELECT max(n) AS n FROM st")?;
    follows(&mut session, "at_once", "SELECT sum(b) AS s FROM t")?;
    session.each("DROP OWNED BY giver; DROP ROLE giver; SET ROLE taker; SELECT pgtrickle.refresh_stream_table('child'); RESET ROLE")?;
    assert_text(
        &mut session,
        "SELECT string_agg(DISTINCT pg_get_userbyid(relowner), ',') FROM pg_class WHERE relnamespace = 'given'::regnamespace",
        "taker",
    )
}

/// Sources and stream tables move between tablespaces, with changes before and after in the same transaction.
fn tablespaces(server: &Server) -> Outcome {
    const QUERY: &str = "SELECT a, count(*) AS n, max(b) AS b FROM t GROUP BY a";
    const ROWS: &str = "SELECT a, b FROM t";
    let mut session =
        arrange(server, "spaces", "SET allow_in_place_tablespaces = on; CREATE TABLESPACE second LOCATION ''")?;
    session.each(
        "CREATE TABLE t (a int, b text) TABLESPACE second; INSERT INTO t VALUES (1, 'x'); SET default_tablespace = second",
    )?;
    for (name, query) in [("st", QUERY), ("row_wise", ROWS)] {
        session.run(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', '0s')"))?;
    }
    session.each("SELECT pgtrickle.create_stream_table('at_once', 'SELECT a, b FROM t', refresh_mode => 'IMMEDIATE'); RESET default_tablespace")?;
    for (of_source, of_stream_table) in [("pg_default", "second"), ("second", "pg_default"), ("pg_default", "second")] {
        session.each(&format!(
            "BEGIN; INSERT INTO t SELECT i, repeat('y', i) FROM generate_series(1, 50) i; ALTER TABLE t SET TABLESPACE {of_source}; \
             DELETE FROM t WHERE a % 7 = 3; COMMIT; UPDATE t SET b = b || 'z' WHERE a < 4; ALTER TABLE st SET TABLESPACE {of_stream_table}; \
             ALTER TABLE row_wise SET TABLESPACE {of_stream_table}; ALTER TABLE at_once SET TABLESPACE {of_stream_table}; \
             DELETE FROM t WHERE a = 2; VACUUM FULL row_wise"
        ))?;
        for (name, query) in [("st", QUERY), ("row_wise", ROWS), ("at_once", ROWS)] {
            follows(&mut session, name, query)?;
            assert_text(
                &mut session,
                &format!("SELECT missing + extra FROM pgtrickle.verify_stream_table('{name}')"),
                "0",
            )?;
        }
    }
    session.each("DROP SCHEMA spaces CASCADE")?;
    wait::until("the tablespace is empty", wait::PATIENCE, || Ok(session.try_run("DROP TABLESPACE second").is_ok()))
}

/// They belong to the extension and cannot be dropped; a superuser who manages to do so all the same finds nothing stale.
pub fn buffers(server: &Server) -> Outcome {
    const QUERY: &str = "SELECT a, count(*) AS n FROM t GROUP BY a";
    let mut session = arrange(server, "bufferless", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session.each(&format!(
        "SELECT pgtrickle.create_stream_table('st', '{QUERY}', '0s'); SELECT pgtrickle.create_stream_table('child', 'SELECT n FROM st', '0s')"
    ))?;
    for relation in ["t", "st"] {
        let buffer =
            format!("pgtrickle_changes.changes_{}", session.text(&format!("SELECT '{relation}'::regclass::oid"))?);
        let drop = format!("DROP TABLE {buffer} CASCADE");
        assert_error(&mut session, &drop, "2BP01", &["extension pg_trickle requires it"])?;
        // As who means to destroy it would; ALTER EXTENSION … DROP TABLE refuses it since 18, where row types have to be members too.
        for part in ["", "_0", "_1"] {
            session
                .run(&format!("DELETE FROM pg_depend WHERE deptype = 'e' AND objid = '{buffer}{part}'::regclass"))?;
        }
        assert_error(&mut session, &drop, "2BP01", &["stream tables need it", "bufferless", "hint"])?;
        if relation == "t" {
            session.each(&format!(
                "ALTER EVENT TRIGGER pg_trickle_on_drop DISABLE; {drop}; ALTER EVENT TRIGGER pg_trickle_on_drop ENABLE ALWAYS"
            ))?;
        }
    }
    for change in ["INSERT INTO t VALUES (2)", "DELETE FROM t WHERE a = 1"] {
        session.run(change)?;
        follows(&mut session, "st", QUERY)?;
        follows(&mut session, "child", "SELECT n FROM st")?;
    }
    let alert = "SELECT alert LIKE '%buffer is gone%repair_stream_table%' FROM pgtrickle.check_cdc_health() WHERE source_table = 'bufferless.t'";
    assert_text(&mut session, alert, "t")?;
    session.each("SELECT pgtrickle.repair_stream_table('st'); INSERT INTO t VALUES (3)")?;
    follows(&mut session, "st", QUERY)?;
    assert_text(&mut session, &alert.replace("alert LIKE '%buffer is gone%repair_stream_table%'", "alert IS NULL"), "t")
}
