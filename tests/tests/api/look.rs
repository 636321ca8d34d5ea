//! Looking at what is there.

use pgtrickle_tests::Outcome;
use pgtrickle_tests::server::Server;

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("look", look),
    ("ownership", ownership),
    ("own_changes_far_below", own_changes_far_below),
    ("audit_finds_what_is_wrong", audit),
];

fn look(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "look", "CREATE TABLE t (a int, b int, c int); CREATE VIEW v AS SELECT a, b FROM t")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, count(b) AS n FROM v GROUP BY a', schedule => '1h')",
    )?;
    session.each("SELECT pgtrickle.create_stream_table('child', 'SELECT n FROM st', schedule => '1h')")?;
    assert_text(&mut session, "SELECT pgtrickle.version()", "0.59.0")?;
    assert_text(
        &mut session,
        "SELECT status || effective_refresh_mode FROM pgtrickle.pgt_status() WHERE schema = 'look' AND name = 'st'",
        "ACTIVEDIFFERENTIAL",
    )?;
    assert_text(&mut session, "SELECT source_type FROM pgtrickle.list_sources('st')", "TABLE")?;
    assert_text(&mut session, "SELECT columns_used FROM pgtrickle.list_sources('st')", "{a,b}")?;
    assert_text(&mut session, "SELECT source_type FROM pgtrickle.list_sources('child')", "STREAM_TABLE")?;
    session.each("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2); SELECT pgtrickle.refresh_stream_table('child')")?;
    let sizes = "SELECT sum(pending_rows) FROM pgtrickle.change_buffer_sizes() WHERE source_table IN ('t', 'look.t')";
    assert_text(&mut session, sizes, "0")?;
    // Who looks in a transaction does not keep the buffers from being emptied.
    session.each(&format!(
        "BEGIN; INSERT INTO t VALUES (3, 3, 3); {sizes}; SELECT pgtrickle.wait_for_stream_table('child')"
    ))?;
    let locked = "SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation
                   WHERE pid = pg_backend_pid() AND relnamespace = 'pgtrickle_changes'::regnamespace";
    assert_text(&mut session, locked, "0")?;
    session.run("ROLLBACK")?;
    assert_text(&mut session, "SELECT count(*) FROM pgtrickle.slot_health() WHERE active", "1")?;
    let unwell = "SELECT string_agg(check_name || ': ' || detail, E'\\n') FROM pgtrickle.health_check() \
                  WHERE severity <> 'OK' AND check_name NOT LIKE 'stream table%' AND check_name NOT LIKE 'source%'";
    assert_text(&mut session, unwell, "")?;
    let action = "SELECT action FROM pgtrickle.get_refresh_history('st') LIMIT 1";
    assert_text(&mut session, action, "DIFFERENTIAL")
}

fn ownership(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "owned",
        "CREATE TABLE t (a int); CREATE TABLE secret (a int); CREATE ROLE reader LOGIN; CREATE ROLE other LOGIN;
         GRANT USAGE, CREATE ON SCHEMA owned TO reader, other; GRANT SELECT ON t TO reader",
    )?;
    let mut reader = server.session_as("reader")?;
    reader.each("SET search_path = owned")?;
    // What one may read, one may follow.
    session.each("SELECT pgtrickle.create_stream_table('first', 'SELECT a FROM t', schedule => '1h')")?;
    reader.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')")?;
    session.each("INSERT INTO t VALUES (1)")?;
    reader.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut reader, "SELECT a FROM st", "1")?;
    assert_error(&mut reader, "SELECT pgtrickle.create_stream_table('s2', 'SELECT a FROM secret')", "42501", &[])?;
    let relid = session.text("SELECT 't'::regclass::oid")?;
    assert_error(&mut reader, &format!("SELECT * FROM pgtrickle_changes.changes_{relid}"), "42501", &[])?;
    let mut other = server.session_as("other")?;
    other.each("SET search_path = owned")?;
    for verb in ["refresh_stream_table", "drop_stream_table", "pause_stream_table", "verify_stream_table", "explain_st"]
    {
        assert_error(&mut other, &format!("SELECT pgtrickle.{verb}('st')"), "42501", &[])?;
    }
    Ok(())
}

/// A transaction that has changed a source of a source cannot refresh either.
fn own_changes_far_below(server: &Server) -> Outcome {
    let mut session = arrange(server, "far", "CREATE TABLE t (a int)")?;
    session.each("SELECT pgtrickle.create_stream_table('parent', 'SELECT a FROM t', schedule => '1h')")?;
    session
        .each("SELECT pgtrickle.create_stream_table('child', 'SELECT count(*) AS n FROM parent', schedule => '1h')")?;
    session.each("BEGIN; INSERT INTO t VALUES (1)")?;
    assert_error(
        &mut session,
        "SELECT pgtrickle.refresh_stream_table('child')",
        "55000",
        &["source table", "far.t", "hint"],
    )?;
    session.each("ROLLBACK")
}

/// The audit is worth something only if it sees what is wrong.
fn audit(server: &Server) -> Outcome {
    let mut session = arrange(server, "audited", "CREATE TABLE t (id int PRIMARY KEY, a int)")?;
    session.each("INSERT INTO t SELECT i, i FROM generate_series(1, 10) i")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT id, a FROM t', schedule => '1h')")?;
    session.each("SET session_replication_role = replica; DELETE FROM st WHERE id <= 2; INSERT INTO st VALUES (99, 99); UPDATE st SET a = 0 WHERE id = 5; RESET session_replication_role")?;
    assert_text(&mut session, "SELECT missing || ' ' || extra FROM pgtrickle.verify_stream_table('st')", "3 2")
}
