//! Creating, refreshing, pausing, dropping.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Outcome, wait};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("create_variants", create_variants),
    ("create_refuses", create_refuses),
    ("initialize_later", initialize_later),
    ("create_where_the_table_is_made", create_where_the_table_is_made),
    ("writes_of_the_creating_transaction", writes_of_the_creating_transaction),
    ("refreshes_by_itself", refreshes_by_itself),
    ("pause_and_resume", pause_and_resume),
    ("read_your_own_writes", read_your_own_writes),
    ("own_changes_are_refused", own_changes_are_refused),
    ("drops", drops),
    ("columns_are_those_of_the_query", columns_are_those_of_the_query),
    ("value_that_came_and_went", value_that_came_and_went),
    ("many_idle_stream_tables", many_idle_stream_tables),
];

fn create_variants(server: &Server) -> Outcome {
    let mut session = arrange(server, "variants", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t')")?;
    assert_text(&mut session, "SELECT a FROM variants.st", "1")?;
    session.each("SELECT pgtrickle.create_stream_table_if_not_exists('st', 'SELECT a + 1 AS a FROM t')")?;
    assert_text(&mut session, "SELECT a FROM st", "1")?;
    session.each("SELECT pgtrickle.create_or_replace_stream_table('st', 'SELECT a + 1 AS b FROM t')")?;
    assert_text(&mut session, "SELECT b FROM st", "2")?;
    session.each("SELECT pgtrickle.create_or_replace_stream_table('other', 'SELECT a FROM t', schedule => '1h30m')")?;
    session.each("SELECT pgtrickle.create_stream_table('\"Quoted Name\"', 'SELECT a FROM t', schedule => '5s', refresh_mode => 'FULL')")?;
    let mode = "SELECT effective_refresh_mode FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'Quoted Name'";
    assert_text(&mut session, mode, "FULL")
}

fn create_refuses(server: &Server) -> Outcome {
    let mut session = arrange(server, "refuses", "CREATE TABLE t (a int, j json); CREATE TABLE st (a int)")?;
    let mut refused = |call: &str, state: &str, parts: &[&str]| {
        assert_error(&mut session, &format!("SELECT pgtrickle.create_stream_table({call})"), state, parts)
    };
    refused("'st', 'SELECT a FROM t'", "42P07", &["already exists"])?;
    refused("'nowhere.st', 'SELECT a FROM t'", "3F000", &["nowhere"])?;
    refused("'new', 'SELECT a FROM t', schedule => 'often'", "22023", &["schedule", "hint"])?;
    refused("'new', 'SELECT a FROM t', schedule => '-5s'", "22023", &["schedule", "hint"])?;
    refused("'new', 'SELECT a FROM t', refresh_mode => 'SOMETIMES'", "22023", &["mode", "hint"])?;
    refused("'new', 'SELECT a, random() AS r FROM t'", "0A000", &["random"])?;
    refused("'new', E'SELECT a\\n FROM t, nosuch AS n'", "42P01", &["In line 2 of the query, at: nosuch AS n"])?;
    refused("'new', E'SELECT a\\n FORM t'", "42601", &["In line 2 of the query, at: t"])?;
    refused("'new', E'SELECT a FROM\\n'", "42601", &["At the end of line 2 of the query."])?;
    refused("'new', 'SELECT a, now() AS n FROM t', refresh_mode => 'DIFFERENTIAL'", "0A000", &["hint"])?;
    assert_error(&mut session, "SELECT pgtrickle.refresh_stream_table('absent')", "42P01", &["absent", "hint"])
}

fn initialize_later(server: &Server) -> Outcome {
    let mut session = arrange(server, "later", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session
        .each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h', initialize => false)")?;
    assert_text(&mut session, "SELECT is_populated FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'later'", "f")?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT is_populated FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'later'", "t")?;
    assert_text(&mut session, "SELECT a FROM st", "1")
}

/// Source and stream table made in one transaction, which other transactions cannot see yet.
fn create_where_the_table_is_made(server: &Server) -> Outcome {
    let mut session = arrange(server, "together", "SELECT 1")?;
    session.each("BEGIN; CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')")?;
    session.each("INSERT INTO t VALUES (2); COMMIT; INSERT INTO t VALUES (3)")?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT string_agg(a::text, ',' ORDER BY a) FROM st", "1,2,3")?;
    session.each("BEGIN; SELECT pgtrickle.create_stream_table('never', 'SELECT a FROM t'); ROLLBACK")?;
    assert_text(&mut session, "SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'never'", "0")
}

/// What the creating transaction writes after the creation is a change like any other, and outlives many refreshes.
fn writes_of_the_creating_transaction(server: &Server) -> Outcome {
    let mut session = arrange(server, "creating", "CREATE TABLE t (a int, pad text); INSERT INTO t VALUES (0)")?;
    session.each("BEGIN; SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')")?;
    session.each("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i; COMMIT")?;
    session.each("SELECT pgtrickle.create_stream_table('twin', 'SELECT count(pad) AS n FROM t', schedule => '1h')")?;
    assert_text(&mut session, "SELECT pgtrickle.wait_for_stream_table('st', timeout => '100ms')", "f")?;
    // The twin's refreshes would empty the buffer if nobody needed it any more.
    session.each("SELECT pgtrickle.refresh_stream_table('twin'); SELECT pgtrickle.refresh_stream_table('twin')")?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT count(*) FROM st", "20001")
}

fn refreshes_by_itself(server: &Server) -> Outcome {
    let mut session = arrange(server, "itself", "CREATE TABLE t (a int)")?;
    for (name, schedule) in [("at_once", "0s"), ("soon", "1s"), ("calculated", "calculated")] {
        session.each(&format!(
            "SELECT pgtrickle.create_stream_table('{name}', 'SELECT a FROM t', schedule => '{schedule}')"
        ))?;
    }
    for value in 1..=3 {
        session.each(&format!("INSERT INTO t VALUES ({value})"))?;
        for name in ["at_once", "soon", "calculated"] {
            let seen = format!("SELECT count(*) = {value} FROM {name}");
            wait::until(name, wait::PATIENCE, || session.holds(&seen))?;
        }
    }
    Ok(())
}

fn pause_and_resume(server: &Server) -> Outcome {
    let mut session = arrange(server, "paused", "CREATE TABLE t (a int)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '0s')")?;
    session.each("SELECT pgtrickle.create_stream_table('witness', 'SELECT a FROM t', schedule => '0s')")?;
    session.each("SELECT pgtrickle.pause_stream_table('st'); INSERT INTO t VALUES (1)")?;
    // When its twin has seen the row, it would have, too.
    wait::until("the witness", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM witness"))?;
    session.each("INSERT INTO t VALUES (2)")?;
    wait::until("the witness", wait::PATIENCE, || session.holds("SELECT count(*) = 2 FROM witness"))?;
    assert_text(&mut session, "SELECT count(*) FROM st", "0")?;
    assert_text(
        &mut session,
        "SELECT status FROM pgtrickle.pgt_status() WHERE schema = 'paused' AND name = 'st'",
        "PAUSED",
    )?;
    session.each("SELECT pgtrickle.resume_stream_table('st')")?;
    wait::until("resumed", wait::PATIENCE, || session.holds("SELECT count(*) = 2 FROM st"))
}

fn read_your_own_writes(server: &Server) -> Outcome {
    let mut session = arrange(server, "own_writes", "CREATE TABLE t (a int)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT count(*) AS n FROM t', schedule => '0s')")?;
    for value in 1..=30 {
        session.each(&format!("INSERT INTO t VALUES ({value})"))?;
        assert_text(&mut session, "SELECT pgtrickle.wait_for_stream_table('st')", "t")?;
        assert_text(&mut session, "SELECT n FROM st", &value.to_string())?;
    }
    // Nobody refreshes this one, so the wait must end by its timeout.
    session.each(
        "SELECT pgtrickle.create_stream_table('never', 'SELECT a FROM t', schedule => '1h'); INSERT INTO t VALUES (0)",
    )?;
    assert_text(&mut session, "SELECT pgtrickle.wait_for_stream_table('never', timeout => '100ms')", "f")
}

fn own_changes_are_refused(server: &Server) -> Outcome {
    let mut session = arrange(server, "own_changes", "CREATE TABLE t (a int)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')")?;
    session.each("BEGIN; INSERT INTO t VALUES (1)")?;
    assert_error(
        &mut session,
        "SELECT pgtrickle.refresh_stream_table('st')",
        "55000",
        &["source table", "own_changes.t", "hint", "ommit"],
    )?;
    session.each("ROLLBACK; BEGIN; SELECT count(*) FROM t; SELECT pgtrickle.refresh_stream_table('st'); COMMIT")
}

fn drops(server: &Server) -> Outcome {
    let tables = "CREATE TABLE t (a int, unused int); CREATE TABLE u (a int)";
    let mut session = arrange(server, "drops", tables)?;
    session.each("SELECT pgtrickle.create_stream_table('parent', 'SELECT a FROM t', schedule => '1h')")?;
    session.each("SELECT pgtrickle.create_stream_table('child', 'SELECT a FROM parent', schedule => '1h')")?;
    session.each("SELECT pgtrickle.create_stream_table('third', 'SELECT a FROM u', schedule => '1h')")?;
    assert_error(&mut session, "DROP TABLE t", "2BP01", &["parent"])?;
    assert_error(&mut session, "ALTER TABLE t DROP COLUMN a", "2BP01", &[])?;
    session.each("ALTER TABLE t DROP COLUMN unused")?;
    assert_error(&mut session, "SELECT pgtrickle.drop_stream_table('parent')", "2BP01", &["child"])?;
    session.each("SELECT pgtrickle.drop_stream_table('parent', cascade => true)")?;
    assert_text(&mut session, "SELECT count(*) FROM pg_class WHERE relname IN ('parent', 'child')", "0")?;
    session.each("DROP TABLE t; DROP TABLE third; DROP TABLE u")?;
    for leftover in [
        "SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'drops'",
        "SELECT count(*) FROM pgtrickle.pgt_change_tracking c WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = c.source_relid)",
        "SELECT count(*) FROM pgtrickle.pgt_dependencies d WHERE NOT EXISTS (SELECT FROM pgtrickle.pgt_stream_tables s WHERE s.pgt_id = d.pgt_id)",
    ] {
        wait::until(leftover, wait::PATIENCE, || session.holds(&format!("SELECT ({leftover}) = 0")))?;
    }
    Ok(())
}

fn columns_are_those_of_the_query(server: &Server) -> Outcome {
    let mut session = arrange(server, "columns", "CREATE TABLE t (a int, b varchar(7), c numeric(5,2))")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT DISTINCT b, c, a AS \"A x\", avg(a) OVER () AS m FROM t')",
    )?;
    let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute \
                   WHERE attrelid = 'st'::regclass AND attnum > 0";
    assert_text(&mut session, columns, "b character varying(7), c numeric(5,2), A x integer, m numeric")
}

fn many_idle_stream_tables(server: &Server) -> Outcome {
    let mut session = arrange(server, "many", "CREATE TABLE t (a int)")?;
    for n in 0..40 {
        session.each(&format!(
            "SELECT pgtrickle.create_stream_table('st{n}', 'SELECT a + {n} AS a FROM t', schedule => '0s')"
        ))?;
    }
    session.each("INSERT INTO t VALUES (1)")?;
    for n in 0..40 {
        let seen = format!("SELECT count(*) = 1 FROM st{n} WHERE a = {n} + 1");
        wait::until("all of them see it", wait::PATIENCE, || session.holds(&seen))?;
    }
    Ok(())
}

/// A row whose value cannot be computed, and which is gone before the query could see it, is in the changes all the same.
fn value_that_came_and_went(server: &Server) -> Outcome {
    let mut session = arrange(server, "came", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT 10 / a AS x FROM t', schedule => '0s')")?;
    session.each("SELECT pgtrickle.pause_stream_table('st')")?;
    session.each("INSERT INTO t VALUES (0)")?;
    session.each("DELETE FROM t WHERE a = 0; INSERT INTO t VALUES (2)")?;
    session.each("SELECT pgtrickle.resume_stream_table('st')")?;
    wait::until("the stream table goes on", wait::PATIENCE, || {
        session.holds("SELECT string_agg(x::text, ',' ORDER BY x) = '5,10' FROM st")
    })?;
    assert_text(&mut session, "SELECT status FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'came'", "ACTIVE")
}
