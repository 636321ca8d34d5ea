//! What others do while a refresh, a creation or an audit runs.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Outcome, wait};

use crate::{Test, arrange, assert_error, assert_text, follows};

pub const TESTS: &[Test] = &[
    ("replaced_while_it_is_recomputed", replaced_meanwhile),
    ("a_child_made_during_the_creation", child_during_creation),
    ("who_writes_a_partition_is_waited_for", writer_of_partition),
    ("a_partition_attached_during_the_creation", attached_during_creation),
    ("a_refresh_that_waited_for_another_query", waited_for_query),
    ("a_definition_replaced_during_the_audit", redefined_during_audit),
    ("a_definition_that_needs_more_columns", more_columns),
    ("a_refresh_that_waited_for_another_owner", waited_for_owner),
    ("a_pause_that_is_not_committed", half_paused),
    ("a_refresh_under_one_snapshot", one_snapshot),
];

/// A table whose partition can be written to directly.
pub const PARTITIONED: &str = "CREATE TABLE p (a int, b int) PARTITION BY RANGE (a);
     CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100)";

/// What asks for a recomputation while one runs asks for another.
fn replaced_meanwhile(server: &Server) -> Outcome {
    let mut session = arrange(server, "meanwhile", "CREATE TABLE t (v int); INSERT INTO t VALUES (1)")?;
    let definition = |value: i32| {
        // It can be made to wait for a lock, once it is called by a refresh.
        format!(
            "CREATE OR REPLACE FUNCTION meanwhile.f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN {value}; END $$"
        )
    };
    session.run(&definition(1))?;
    session.run("SELECT pgtrickle.create_stream_table('st', 'SELECT meanwhile.f(v) AS f FROM t', '1s')")?;
    let mut gate = server.session()?;
    gate.run("SELECT pg_advisory_lock(4711)")?;
    session.run(&definition(2))?;
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted)";
    wait::until("a recomputation", wait::PATIENCE, || session.holds(waiting))?;
    session.run(&definition(3))?;
    gate.run("SELECT pg_advisory_unlock(4711)")?;
    follows(&mut session, "SELECT f FROM st", "3")
}

/// Who defines it finds no reader, as the creation of that has not committed yet.
fn child_during_creation(server: &Server) -> Outcome {
    let mut session = arrange(server, "unborn", "CREATE TABLE t (v int); INSERT INTO t VALUES (1)")?;
    session.each("BEGIN; SELECT pgtrickle.create_stream_table('st', 'SELECT v FROM t', '0s')")?;
    server.session()?.each("CREATE TABLE unborn.child () INHERITS (unborn.t); INSERT INTO unborn.child VALUES (10)")?;
    session.each("COMMIT; INSERT INTO t VALUES (100)")?;
    follows(&mut session, "SELECT sum(v) FROM st", "111")?;
    session.each("INSERT INTO child VALUES (1000)")?;
    follows(&mut session, "SELECT sum(v) FROM st", "1111")?;
    session.each("DELETE FROM child WHERE v = 10; SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT sum(v) FROM st", "1101")
}

/// They have locked the partition, not the whole table. What they wrote before another column was captured is of no use.
fn writer_of_partition(server: &Server) -> Outcome {
    let mut session = arrange(server, "of_partition", PARTITIONED)?;
    session.run("SELECT pgtrickle.create_stream_table('of_a', 'SELECT a FROM p', '1h')")?;
    let mut writer = server.session()?;
    writer.each("BEGIN; INSERT INTO of_partition.p_1 VALUES (1, 10)")?;
    let pid = session.backend_pid()?;
    let creation = std::thread::spawn(move || {
        session.run("SELECT pgtrickle.create_stream_table('of_b', 'SELECT b FROM p', '1h')").map(|()| session)
    });
    let waiting =
        format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND locktype = 'virtualxid' AND NOT granted)");
    let mut watch = server.session()?;
    wait::until("a creation", wait::PATIENCE, || Ok(creation.is_finished() || watch.holds(&waiting)?))?;
    writer.run("COMMIT")?;
    let mut session = creation.join().expect("the creation panicked")?;
    session.run("SELECT pgtrickle.refresh_stream_table('of_b')")?;
    assert_text(&mut session, "SELECT string_agg(b::text, ',') FROM of_b", "10")
}

/// Runs `first` and leaves its transaction open until `second`, in another session, waits for it.
fn overlap(server: &Server, mut session: Session, first: &str, second: &'static str) -> Outcome<Session> {
    let schema = session.text("SELECT current_schema()")?;
    let mut other = server.session()?;
    other.each(&format!("SET search_path = {schema}; BEGIN; {first}"))?;
    let pid = session.backend_pid()?;
    let waiter = std::thread::spawn(move || session.run(second).map(|()| session));
    let waiting = format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)");
    let mut watch = server.session()?;
    wait::until("who waits", wait::PATIENCE, || Ok(waiter.is_finished() || watch.holds(&waiting)?))?;
    other.run("COMMIT")?;
    waiter.join().expect("the waiter panicked")
}

/// What a table consists of is known only once nobody can change it.
fn attached_during_creation(server: &Server) -> Outcome {
    let session = arrange(server, "attached", &format!("{PARTITIONED}; CREATE TABLE p_9 (a int, b int)"))?;
    let mut session = overlap(
        server,
        session,
        "ALTER TABLE p ATTACH PARTITION p_9 FOR VALUES FROM (900) TO (1000)",
        "SELECT pgtrickle.create_stream_table('st', 'SELECT sum(b) AS s FROM p', refresh_mode => 'IMMEDIATE')",
    )?;
    session.run("INSERT INTO p_9 VALUES (901, 5)")?;
    assert_text(&mut session, "SELECT s FROM st", "5")
}

/// The columns are those of the query that it finds.
fn waited_for_query(server: &Server) -> Outcome {
    let mut session = arrange(server, "waited_query", "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('parent', 'SELECT a, b FROM t', '1h');
         SELECT pgtrickle.create_stream_table('child', 'SELECT sum(a) AS s FROM parent', '1h');
         INSERT INTO t VALUES (2, 2)",
    )?;
    let mut fresh = server.session()?;
    fresh.run("SET search_path = waited_query")?;
    let mut session = overlap(
        server,
        fresh,
        "SELECT pgtrickle.alter_stream_table('parent', 'SELECT a, b + 1 AS c FROM t')",
        "SELECT pgtrickle.refresh_stream_table('parent')",
    )?;
    session.each("INSERT INTO t VALUES (3, 3); SELECT pgtrickle.refresh_stream_table('child')")?;
    assert_text(&mut session, "SELECT s FROM child", "6")
}

/// In whose name it runs then.
fn waited_for_owner(server: &Server) -> Outcome {
    let session = arrange(
        server,
        "waited_owner",
        "CREATE ROLE heir; CREATE TABLE t (a int); GRANT SELECT ON t TO heir; GRANT USAGE, CREATE ON SCHEMA waited_owner TO heir;
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, current_user::text AS who FROM t', '1h'); INSERT INTO t VALUES (1)",
    )?;
    let refresh = "SELECT pgtrickle.refresh_stream_table('st')";
    let mut session = overlap(server, session, "ALTER TABLE st OWNER TO heir", refresh)?;
    assert_text(&mut session, "SELECT who FROM st", "heir")?;
    session.run("DROP TABLE st")
}

/// The audit is of one definition.
fn redefined_during_audit(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "audited_meanwhile",
        "CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 9); CREATE VIEW v AS SELECT a FROM t WHERE a > 5;
         CREATE TABLE audits (missing bigint, extra bigint)",
    )?;
    // Its program is known to the session: a refresh has no need to look at the view.
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM v', '1h'); SELECT pgtrickle.refresh_stream_table('st')",
    )?;
    let audit = "INSERT INTO audits SELECT * FROM pgtrickle.verify_stream_table('st')";
    let mut session = overlap(server, session, "CREATE OR REPLACE VIEW v AS SELECT a FROM t WHERE a < 3", audit)?;
    assert_text(&mut session, "SELECT missing || ',' || extra FROM audits", "0,0")?;
    assert_text(&mut session, "SELECT count(*) FROM st", "2")
}

/// Neither writers nor capture wait for the transaction that makes another column of a source matter.
fn more_columns(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "more_columns",
        "CREATE TABLE t (a int, b int); CREATE TABLE u (v int); CREATE VIEW v AS SELECT a FROM t; INSERT INTO t VALUES (1, 1)",
    )?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT sum(a) AS s FROM v', '1h');
         SELECT pgtrickle.create_stream_table('other', 'SELECT sum(v) AS s FROM u', '1h');
         BEGIN; CREATE OR REPLACE VIEW v AS SELECT a FROM t WHERE b > 0",
    )?;
    let mut writer = server.session()?;
    writer.each(
        "SET statement_timeout = '20s'; SET search_path = more_columns; INSERT INTO t VALUES (10, 1), (100, -1);
         INSERT INTO u VALUES (1); SELECT pgtrickle.refresh_stream_table('other')",
    )?;
    session.each("COMMIT; INSERT INTO t VALUES (1000, 1); SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT s FROM st", "1011")
}

/// What the scheduler cannot even note keeps no other stream table waiting.
fn half_paused(server: &Server) -> Outcome {
    let mut session = arrange(server, "half_paused", "CREATE TABLE t (a int); CREATE TABLE u (a int)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('paused', 'SELECT a FROM t', '0s');
         SELECT pgtrickle.create_stream_table('other', 'SELECT a FROM u', '0s')",
    )?;
    let mut idle = server.session()?;
    idle.each("BEGIN; SELECT pgtrickle.pause_stream_table('half_paused.paused')")?;
    session.run("INSERT INTO t VALUES (1)")?;
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'pg_trickle%' AND wait_event_type = 'Lock')";
    wait::until("somebody waits for the row", wait::PATIENCE, || session.holds(waits))?;
    session.run("INSERT INTO u VALUES (1)")?;
    follows(&mut session, "SELECT count(*) FROM other", "1")?;
    idle.run("ROLLBACK")?;
    follows(&mut session, "SELECT count(*) FROM paused", "1")
}

/// It would show its own changes and not those of others.
fn one_snapshot(server: &Server) -> Outcome {
    let mut session = arrange(server, "one_snapshot", "CREATE TABLE t (a int)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', '1h')")?;
    let mut other = server.session()?;
    other.run("SET search_path = one_snapshot")?;
    let refresh = "SELECT pgtrickle.refresh_stream_table('st')";
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        session.each(&format!("TRUNCATE t; {refresh}; BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM st"))?;
        other.each("INSERT INTO t VALUES (1)")?;
        // The first to do so sees what it has done, as often as it likes.
        session.each(&format!("{refresh}; {refresh}"))?;
        assert_text(&mut session, "SELECT count(*) FROM st", "1")?;
        session.each(&format!("COMMIT; BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM st"))?;
        other.each(&format!("INSERT INTO t VALUES (2); {refresh}; INSERT INTO t VALUES (3)"))?;
        assert_error(&mut session, refresh, "40001", &["one_snapshot.st", "concurrent refresh", "retried"])?;
        session.each(&format!("ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; {refresh}"))?;
        assert_text(&mut session, "SELECT count(*) FROM st", "3")?;
        session.run("COMMIT")?;
    }
    Ok(())
}
