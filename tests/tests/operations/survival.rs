//! What is under way when a server goes down, and a slot that the server itself gives up.

use pgtrickle_tests::fault;
use pgtrickle_tests::server::{Server, Shutdown, send_signal};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{AT_ONCE, BY_HAND, StreamTable};
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

const QUERY: &str = "SELECT g, count(*) AS n, sum(id) AS s FROM t GROUP BY g";

fn follows(session: &mut Session, name: &str, query: &str) -> Outcome {
    wait::retry(name, 2 * wait::PATIENCE, || oracle::assert_exact(session, name, query))
}

/// A writer, a refresh, a creation and a drop are prepared, the server crashes or restarts, and they are committed by others.
pub fn prepared_over_a_restart(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE t (id int PRIMARY KEY, g int); INSERT INTO t SELECT i, i % 3 FROM generate_series(1, 9) i",
    )?;
    session.run(&StreamTable::new("public", "at_once").immediate_creation(QUERY))?;
    for (how, first) in [(Shutdown::Immediate, 100), (Shutdown::Fast, 200)] {
        for (name, query, schedule) in [
            ("followed", QUERY, AT_ONCE),
            ("by_hand", "SELECT id, g FROM t", BY_HAND),
            ("child", "SELECT g, max(id) AS id FROM by_hand GROUP BY g", AT_ONCE),
            ("dropped", "SELECT id FROM t", AT_ONCE),
        ] {
            StreamTable::new("public", name).create(&mut session, query, schedule)?;
        }
        session.each(&format!(
            "BEGIN; INSERT INTO t SELECT i, i % 4 FROM generate_series({first}, {first} + 20) i; PREPARE TRANSACTION 'refreshed'; COMMIT PREPARED 'refreshed'; \
             BEGIN; SELECT pgtrickle.refresh_stream_table('by_hand'); PREPARE TRANSACTION 'refresh'; \
             BEGIN; SELECT pgtrickle.create_stream_table('created', 'SELECT id FROM t', schedule => '0s'); PREPARE TRANSACTION 'creation'; \
             BEGIN; SELECT pgtrickle.drop_stream_table('dropped'); PREPARE TRANSACTION 'drop'; \
             BEGIN; DELETE FROM t WHERE id % 5 = 0; UPDATE t SET g = g + 1 WHERE id % 5 = 1; PREPARE TRANSACTION 'writer'"
        ))?;
        server.crash_restart(how)?;
        session = server.session_after_crash()?;
        // Others go on meanwhile.
        session.run(&format!("INSERT INTO u VALUES ({first})")).or_else(|_| session.run("CREATE TABLE u (a int)"))?;
        session.each(
            "COMMIT PREPARED 'creation'; COMMIT PREPARED 'refresh'; COMMIT PREPARED 'drop'; COMMIT PREPARED 'writer'",
        )?;
        for (name, query) in [("followed", QUERY), ("at_once", QUERY), ("created", "SELECT id FROM t")] {
            follows(&mut session, name, query)?;
        }
        follows(&mut session, "child", "SELECT g, max(id) AS id FROM by_hand GROUP BY g")?;
        StreamTable::new("public", "child").refresh(&mut session)?;
        follows(&mut session, "by_hand", "SELECT id, g FROM t")?;
        session.run("INSERT INTO t SELECT max(id) + 1, 1 FROM t")?;
        for name in ["followed", "at_once", "created", "by_hand", "child"] {
            StreamTable::new("public", name).assert_verified(&mut session)?;
        }
        for name in ["followed", "created", "child", "by_hand"] {
            StreamTable::new("public", name).drop(&mut session)?;
        }
    }
    Ok(())
}

/// A transaction stays open for too much WAL: the server invalidates the slot, capture starts anew, nobody has to do anything.
pub fn slot_beyond_its_limit(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE t (id int PRIMARY KEY, g int); INSERT INTO t SELECT i, i % 3 FROM generate_series(1, 9) i",
    )?;
    StreamTable::new("public", "st").create(&mut session, QUERY, AT_ONCE)?;
    let generation = "SELECT max(generation) FROM pgtrickle.pgt_capture";
    for round in 1..=2 {
        session.run(&format!("INSERT INTO t VALUES ({round} * 1000, {round})"))?;
        follows(&mut session, "st", QUERY)?;
        let before = session.number(generation)?;
        let mut open = server.session()?;
        open.each(&format!("BEGIN; INSERT INTO t VALUES ({round} * 1000 + 1, 7)"))?;
        let lost = "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name LIKE 'pg_trickle_%' AND wal_status IN ('reserved', 'extended', 'unreserved')
                        AND confirmed_flush_lsn IS NOT NULL";
        wait::until("the slot is lost", wait::PATIENCE, || {
            session.each("SELECT pg_logical_emit_message(true, 'x', 'x'); SELECT pg_switch_wal(); CHECKPOINT")?;
            session.holds(lost)
        })?;
        session.run("DELETE FROM t WHERE id < 3")?;
        open.run("COMMIT")?;
        wait::until("capture starts anew", 2 * wait::PATIENCE, || Ok(session.number(generation)? > before))?;
        follows(&mut session, "st", QUERY)?;
        session.run("UPDATE t SET g = g + 1")?;
        follows(&mut session, "st", QUERY)?;
    }
    StreamTable::new("public", "st").assert_verified(&mut session)
}

/// The decoder is ended time and again. Once it decodes all is well, whatever its restarts looked like.
pub fn decoder_ended_often(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each("CREATE TABLE t (id int PRIMARY KEY)")?;
    StreamTable::new("public", "st").create(&mut session, "SELECT id FROM t", AT_ONCE)?;
    let decoding = |session: &mut Session, role: &str| {
        wait::until(role, wait::PATIENCE, || {
            session.holds(&format!(
                "SELECT count(*) = 1 FROM pgtrickle.worker_pool_status() WHERE worker = 'pg_trickle_{role}' AND doing ~ 'decoding|waiting for changes'"
            ))
        })
    };
    for _ in 0..4 {
        session.run("SELECT pg_terminate_backend(pid, 5000) FROM pgtrickle.worker_pool_status() WHERE worker = 'pg_trickle_wal_decoder'")?;
        decoding(&mut session, "wal_decoder")?;
    }
    // Its end has the launcher look at all workers.
    session.run("SELECT pg_terminate_backend(pid, 5000) FROM pgtrickle.worker_pool_status() WHERE worker = 'pg_trickle_scheduler'")?;
    decoding(&mut session, "scheduler")?;
    let health =
        session.text("SELECT severity || ': ' || detail FROM pgtrickle.health_check() WHERE check_name = 'capture'")?;
    if !health.starts_with("OK") {
        return Err(Failure::new(health));
    }
    session.run("INSERT INTO t VALUES (1)")?;
    follows(&mut session, "st", "SELECT id FROM t")
}

/// Rows on their way whose column has another type by the time they arrive: its buffer has been made to fit meanwhile, so that
/// what they mean is computed anew, and capture goes on.
pub fn retyped_behind_a_backlog(server: &Server) -> Outcome {
    const ALL: &str = "SELECT count(*) AS n FROM t";
    let mut session = server.session()?;
    session.run("CREATE TABLE t (a int PRIMARY KEY, b int)")?;
    let (n, more) = (StreamTable::new("public", "n"), StreamTable::new("public", "more"));
    n.create(&mut session, ALL, BY_HAND)?;
    let apply = wait::poll("the apply worker", wait::PATIENCE, || fault::worker_pid(&mut session, fault::APPLY))?;
    send_signal(apply, "STOP")?;
    session.each("INSERT INTO t VALUES (1, 1); ALTER TABLE t ALTER b TYPE bigint, ADD COLUMN c int")?;
    let created = more.create(&mut session, "SELECT c FROM t", BY_HAND);
    send_signal(apply, "CONT")?;
    created?;
    session.run("INSERT INTO t VALUES (2, 2, 2)")?;
    for (stream_table, query) in [(n, ALL), (more, "SELECT c FROM t")] {
        stream_table.refresh(&mut session)?;
        oracle::assert_exact(&mut session, &stream_table.name, query)?;
    }
    match session.text("SELECT state FROM pgtrickle.pgt_change_tracking")?.as_str() {
        "ACTIVE" => Ok(()),
        state => Err(Failure::new(format!("the source is {state}"))),
    }
}
