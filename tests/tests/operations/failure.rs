//! Refreshes that fail: each kind of error by its policy, and never at the expense of other stream tables.

use crate::exhaustion::SmallDisk;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

/// The query of the one that fails calls a function that raises what is asked for.
const FAILING: &str = "SELECT id, mood(id) AS m FROM t";
const OTHER: &str = "SELECT count(*) AS n, sum(id) AS s FROM t";

pub const SETTINGS: &[(&str, &str)] =
    &[("pg_trickle.max_consecutive_errors", "2"), ("pg_trickle.scheduler_interval_ms", "50")];

fn set_up(server: &Server) -> Outcome<Session> {
    let mut session = server.session()?;
    session.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE moods (state text); \
         CREATE FUNCTION mood(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ \
         DECLARE bad text := (SELECT min(state) FROM public.moods); \
         BEGIN IF bad IS NOT NULL THEN RAISE 'bad mood' USING ERRCODE = bad; END IF; RETURN $1; END $$",
    )?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('failing', '{FAILING}', '100 ms')"))?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('other', '{OTHER}', '100 ms')"))?;
    Ok(session)
}

/// A new row of the source.
fn change(session: &mut Session) -> Outcome {
    session.run("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
}

fn follows(session: &mut Session, name: &str, query: &str) -> Outcome {
    wait::retry(name, wait::PATIENCE, || oracle::assert_exact(session, name, query))
}

/// Waits until the failing one is in a state, and gives what its operator reads.
fn becomes(session: &mut Session, state: &str) -> Outcome<String> {
    const LOOK: &str =
        "SELECT status, coalesce(last_error_message, '') FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'failing'";
    wait::poll(&format!("the stream table is {state}"), wait::PATIENCE, || {
        let rows = session.rows(LOOK)?;
        let row = rows.first().ok_or_else(|| Failure::new("no such stream table"))?;
        Ok((row[0].as_deref() == Some(state)).then(|| row[1].clone().unwrap_or_default()))
    })
}

/// Errors that pass by themselves: tried again for as long as it takes.
pub fn tried_again(server: &Server) -> Outcome {
    let mut session = set_up(server)?;
    for (state, hint) in [
        ("40001", "in conflict with another transaction"),
        ("40P01", "in conflict with another transaction"),
        ("55P03", "Another session holds a lock"),
        ("53100", "The disk is full"),
        ("53200", "lacks memory"),
        ("57014", "It was cancelled"),
        ("57P01", "ended it"),
    ] {
        let failures = "SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE status = 'FAILED'";
        let before = session.number(failures)?;
        session.run(&format!("INSERT INTO moods VALUES ('{state}')"))?;
        change(&mut session)?;
        follows(&mut session, "other", OTHER)?;
        wait::until(state, wait::PATIENCE, || Ok(session.number(failures)? >= before + 3))?;
        // From the first pause on, though the catalog is read anew in between.
        let paused = format!(
            "SELECT bool_and(pause > '150 ms') FROM (
                 SELECT lead(start_time) OVER (ORDER BY refresh_id) - start_time AS pause FROM pgtrickle.pgt_refresh_history
                  WHERE status = 'FAILED' ORDER BY refresh_id OFFSET {before} LIMIT 2) p"
        );
        if !session.holds(&paused)? {
            return Err(Failure::new(format!("{state}: tried again without a pause")));
        }
        let text = becomes(&mut session, "ERROR")?;
        if !text.contains("bad mood") || !text.contains(hint) {
            return Err(Failure::new(format!("{state}: {text}")));
        }
        session.run("DELETE FROM moods")?;
        follows(&mut session, "failing", FAILING).map_err(|e| e.during(state))?;
        becomes(&mut session, "ACTIVE")?;
    }
    Ok(())
}

/// Errors that stay until somebody does something: suspended after as many as are allowed, told, resumed.
pub fn suspended(server: &Server) -> Outcome {
    let mut session = set_up(server)?;
    let mut listener = server.session()?;
    listener.run("LISTEN pg_trickle_alert")?;
    for (state, hint) in [
        ("22012", "A value cannot be computed"),
        ("23505", "constraint or unique index"),
        ("42501", "lacks a privilege"),
        ("53400", "A limit of the server"),
        ("P0001", "bad mood"),
        ("XX000", "bad mood"),
    ] {
        session.run(&format!("INSERT INTO moods VALUES ('{state}')"))?;
        change(&mut session)?;
        let text = becomes(&mut session, "SUSPENDED")?;
        if !text.contains(hint) {
            return Err(Failure::new(format!("{state}: {text}")));
        }
        change(&mut session)?;
        follows(&mut session, "other", OTHER)?;
        let told = listener.notifications()?;
        if !told.iter().any(|payload| payload.contains("auto_suspended") && payload.contains("failing")) {
            return Err(Failure::new(format!("{state}: {told:?}")));
        }
        session.each("DELETE FROM moods; SELECT pgtrickle.resume_stream_table('failing')")?;
        follows(&mut session, "failing", FAILING).map_err(|e| e.during(state))?;
    }
    Ok(())
}

/// Whoever keeps a source, or the stream table, locked holds up no other stream table.
pub fn locked(server: &Server) -> Outcome {
    let mut session = set_up(server)?;
    session.each(
        "CREATE TABLE u (id int); SELECT pgtrickle.create_stream_table('others', 'SELECT id FROM u', '100 ms')",
    )?;
    for lock in ["LOCK TABLE t IN ACCESS EXCLUSIVE MODE", "LOCK TABLE failing IN SHARE MODE"] {
        change(&mut session)?;
        let mut locker = server.session()?;
        locker.run("BEGIN")?;
        locker.run(lock)?;
        for _ in 0..3 {
            session.run("INSERT INTO u VALUES (1)")?;
            follows(&mut session, "others", "SELECT id FROM u")?;
        }
        if lock.contains("failing") {
            change(&mut session)?;
            let text = becomes(&mut session, "ERROR")?;
            if !text.contains("lock timeout") || !text.contains("Another session holds a lock") {
                return Err(Failure::new(text));
            }
        }
        locker.run("COMMIT")?;
        follows(&mut session, "failing", FAILING)?;
    }
    Ok(())
}

/// Limits of the server, for real: what does not fit into memory goes to disk; what may not go there is told.
pub fn limits(server: &Server) -> Outcome {
    let mut session = server.session()?;
    const WIDE: &str = "SELECT k, count(*) AS n, string_agg(v, ',' ORDER BY v) AS all FROM w GROUP BY k";
    session.each("ALTER SYSTEM SET work_mem = '64kB'; ALTER SYSTEM SET hash_mem_multiplier = 1")?;
    session.each("SELECT pg_reload_conf(); CREATE TABLE w (k int, v text)")?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('failing', $${WIDE}$$, '100 ms', 'FULL')"))?;
    session.run("INSERT INTO w SELECT i % 5000, repeat('x', 700) || i FROM generate_series(1, 120000) i")?;
    follows(&mut session, "failing", WIDE)?;
    if let Some(disk) = SmallDisk::mount(server, 4)? {
        disk.make_tablespace(&mut session)?;
        session
            .each("ALTER SYSTEM SET temp_tablespaces = 'small'; SELECT pg_reload_conf(); UPDATE w SET v = v || 'x'")?;
        let text = becomes(&mut session, "ERROR")?;
        if !text.contains("No space left on device") || !text.contains("make room") {
            return Err(Failure::new(text));
        }
        session.each("ALTER SYSTEM RESET temp_tablespaces; SELECT pg_reload_conf()")?;
        follows(&mut session, "failing", WIDE)?;
    }
    session.each("ALTER SYSTEM SET temp_file_limit = '64kB'; SELECT pg_reload_conf(); UPDATE w SET v = v || 'y'")?;
    let text = becomes(&mut session, "SUSPENDED")?;
    if !text.contains("temporary file size exceeds") || !text.contains("raise that") {
        return Err(Failure::new(text));
    }
    session.each("ALTER SYSTEM RESET temp_file_limit; SELECT pg_reload_conf()")?;
    session.each("SELECT pgtrickle.resume_stream_table('failing')")?;
    follows(&mut session, "failing", WIDE)
}

/// A refresh that is cancelled is tried again; a worker that was idle is started again.
pub fn cancelled(server: &Server) -> Outcome {
    let mut session = server.session()?;
    const SLOW: &str = "SELECT id, slow(id) AS s FROM t";
    session.run(
        "CREATE TABLE t (id int); CREATE TABLE speed (seconds float); INSERT INTO speed VALUES (0); \
         CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ \
         BEGIN PERFORM pg_sleep((SELECT seconds FROM public.speed)); RETURN $1; END $$",
    )?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('failing', '{SLOW}', '100 ms')"))?;
    session.each("UPDATE speed SET seconds = 100; INSERT INTO t VALUES (1)")?;
    let sleeping = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'pg_trickle%' AND wait_event = 'PgSleep'";
    let pid = wait::poll("the refresh runs", wait::PATIENCE, || Ok(session.rows(sleeping)?.pop()))?;
    session.run(&format!("SELECT pg_cancel_backend({})", oracle::row_text(&pid)))?;
    let text = becomes(&mut session, "ERROR")?;
    if !text.contains("canceling statement") || !text.contains("It was cancelled and is tried again") {
        return Err(Failure::new(text));
    }
    session.run("UPDATE speed SET seconds = 0")?;
    session.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pg_trickle%'")?;
    follows(&mut session, "failing", SLOW)?;
    session.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pg_trickle%'")?;
    change(&mut session)?;
    follows(&mut session, "failing", SLOW)
}
