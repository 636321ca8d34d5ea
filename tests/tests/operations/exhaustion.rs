//! What a server runs out of, and who gets into each other's way, for real: a full disk, little memory, deadlocks.

use std::path::PathBuf;
use std::process::Command;

use pgtrickle_tests::server::{Connector, Server};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{self, AT_ONCE, BY_HAND, StreamTable};
use pgtrickle_tests::{Failure, Outcome, install, oracle, wait};

/// A small disk of its own, there as long as this lives.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where nothing may be mounted: such machines have to do without these tests.
    pub fn mount(server: &Server, megabytes: u32) -> Outcome<Option<SmallDisk>> {
        let path = server.dir().join("disk");
        std::fs::create_dir(&path)?;
        let size = format!("size={megabytes}m,mode=0777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("nothing can be mounted here: the test of a full disk is left out");
            return Ok(None);
        }
        let disk = SmallDisk(path);
        std::fs::create_dir(disk.space())?;
        install::give_to_server_user(&disk.space())?;
        Ok(Some(disk))
    }

    /// The directory for a tablespace.
    fn space(&self) -> PathBuf {
        self.0.join("space")
    }

    /// Tablespace `small`.
    pub fn make_tablespace(&self, session: &mut Session) -> Outcome {
        session.run(&format!("CREATE TABLESPACE small LOCATION '{}'", self.space().display()))
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Outcome {
        let filler = format!("of={}", self.filler().display());
        let _ = Command::new("dd").args(["if=/dev/zero", &filler, "bs=4k", "status=none"]).output()?;
        Ok(())
    }

    pub fn make_room(&self) -> Outcome {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server that uses it may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn follows(session: &mut Session, name: &str, query: &str) -> Outcome {
    wait::retry(name, wait::PATIENCE, || oracle::assert_exact(session, name, query))
}

/// The disk of a stream table is full.
pub fn disk_full(server: &Server) -> Outcome {
    const ALL: &str = "SELECT id, v FROM t";
    const OTHER: &str = "SELECT count(*) AS n FROM t";
    let mut session = server.session()?;
    let Some(disk) = SmallDisk::mount(server, 24)? else { return Ok(()) };
    disk.make_tablespace(&mut session)?;
    session.each("CREATE TABLE t (id int PRIMARY KEY, v text)")?;
    for (name, query) in [("everything", ALL), ("other", OTHER)] {
        StreamTable::new("public", name).create(&mut session, query, "100 ms")?;
    }
    session.each("ALTER TABLE everything SET TABLESPACE small")?;
    let mut listener = server.session()?;
    listener.run("LISTEN pg_trickle_alert")?;
    disk.fill()?;
    session.run("INSERT INTO t SELECT i, repeat('x', 100) || i FROM generate_series(1, 20000) i")?;
    out_of_room(&mut session, &mut listener, "everything")?;
    follows(&mut session, "other", OTHER)?;
    session.each("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = v || 'y' WHERE id % 3 = 0")?;
    disk.make_room()?;
    for (name, query) in [("everything", ALL), ("other", OTHER)] {
        follows(&mut session, name, query)?;
        StreamTable::new("public", name).assert_verified(&mut session)?;
    }
    Ok(())
}

/// It fails for want of room, is tried again and again, and its operator is told.
fn out_of_room(session: &mut Session, listener: &mut Session, name: &str) -> Outcome {
    let failures = format!(
        "SELECT count(*) >= 3 FROM pgtrickle.pgt_refresh_history h JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
          WHERE s.pgt_name = '{name}' AND h.status = 'FAILED' AND s.consecutive_errors = 0 AND s.status = 'ERROR'"
    );
    wait::until("it fails three times", wait::PATIENCE, || session.holds(&failures))?;
    let text = session
        .text(&format!("SELECT last_error_message FROM pgtrickle.pgt_stream_tables WHERE pgt_name = '{name}'"))?;
    if !text.contains("No space left on device") || !text.contains("make room") {
        return Err(Failure::new(text));
    }
    let told = listener.notifications()?;
    match told.iter().any(|t| t.contains("refresh_failed") && t.contains(name) && t.contains("make room")) {
        true => Ok(()),
        false => Err(Failure::new(format!("not told: {told:?}"))),
    }
}

/// The disk of a whole database is full, buffers and catalog and all; its writers have another.
pub fn disk_full_of_a_database(server: &Server) -> Outcome {
    const QUERY: &str = "SELECT g, count(*) AS n, sum(id) AS s, max(v) AS v FROM t GROUP BY g";
    let Some(disk) = SmallDisk::mount(server, 40)? else { return Ok(()) };
    disk.make_tablespace(&mut server.session()?)?;
    server.session()?.run("CREATE DATABASE shop TABLESPACE small")?;
    let mut session = server.session_in("shop")?;
    session.each(
        "CREATE EXTENSION pg_trickle; CREATE TABLE t (id int PRIMARY KEY USING INDEX TABLESPACE pg_default, g int, v text) TABLESPACE pg_default",
    )?;
    StreamTable::new("public", "st").create(&mut session, QUERY, AT_ONCE)?;
    let mut rows = 0;
    for round in 0..2 {
        session.run("UPDATE t SET g = g + 1 WHERE id % 5 = 0")?;
        follows(&mut session, "st", QUERY)?;
        disk.fill()?;
        let (before, log) = (rows, server.log().len());
        // More than the pages that the buffers have already.
        rows += 40_000;
        session.run(&format!(
            "INSERT INTO t SELECT i, i % 500, repeat('x', 200) || i FROM generate_series({before} + 1, {rows}) i"
        ))?;
        wait::until("capture is out of room", wait::PATIENCE, || {
            Ok(server.log()[log..].contains("No space left on device"))
        })?;
        session.run(&format!("DELETE FROM t WHERE id % 7 = {round}"))?;
        disk.make_room()?;
        follows(&mut session, "st", QUERY)?;
    }
    StreamTable::new("public", "st").assert_verified(&mut session)?;
    let started = "SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE action = 'REINITIALIZE'";
    match session.number(started)? {
        0 => Ok(()),
        times => Err(Failure::new(format!("recomputed {times} times instead of carrying on"))),
    }
}

/// A change that does not fit into the memory that a refresh takes, 64 MB or `work_mem` if that is more.
pub fn large_change_in_little_memory(server: &Server) -> Outcome {
    const GROUPED: &str = "SELECT c.region, count(*) AS n, sum(o.amount) AS total, max(o.note) AS last \
                           FROM orders o JOIN customers c ON c.id = o.customer GROUP BY 1";
    const JOINED: &str = "SELECT o.id, o.note, c.region FROM orders o LEFT JOIN customers c ON c.id = o.customer";
    let mut session = server.session()?;
    session.each(
        "CREATE TABLE customers (id int PRIMARY KEY, region int); SET work_mem = '64kB'; SET hash_mem_multiplier = 1; \
         CREATE TABLE orders (id int PRIMARY KEY, customer int, amount int, note text); \
         INSERT INTO customers SELECT i, i % 50 FROM generate_series(1, 5000) i; \
         INSERT INTO orders SELECT i, i % 6000, i, repeat('n', 900) || i % 999 FROM generate_series(1, 45000) i",
    )?;
    for (name, query) in [("grouped", GROUPED), ("joined", JOINED)] {
        StreamTable::new("public", name).create(&mut session, query, BY_HAND)?;
    }
    session.each("ALTER SYSTEM SET pg_trickle.differential_max_change_ratio = 1e6; SELECT pg_reload_conf()")?;
    session.run("UPDATE orders SET amount = amount + 1, note = note || 'm', customer = customer + 1")?;
    for (name, query) in [("grouped", GROUPED), ("joined", JOINED)] {
        let mut refresher = server.session()?;
        refresher.each("SET work_mem = '64kB'; SET log_temp_files = 0")?;
        StreamTable::new("public", name).refresh(&mut refresher)?;
        let pid = format!("[{}]", refresher.backend_pid()?);
        if !server.log().lines().any(|line| line.contains(&pid) && line.contains("temporary file")) {
            return Err(Failure::new(format!("{name} fitted into memory")));
        }
        oracle::assert_exact(&mut session, name, query)?;
    }
    stream::assert_never_recomputed(&mut session)
}

/// A user's transaction and a refresh wait for each other; the refresh is the one that is given up.
pub fn deadlocks(server: &Server) -> Outcome {
    const QUERY: &str = "SELECT g, count(*) AS n FROM (TABLE t UNION ALL TABLE u) AS x GROUP BY g";
    let mut session = server.session()?;
    session.each(
        "ALTER SYSTEM SET deadlock_timeout = '500 ms'; SELECT pg_reload_conf(); CREATE TABLE t (id int PRIMARY KEY, g int); \
         INSERT INTO t SELECT i, i % 3 FROM generate_series(1, 9) i; CREATE TABLE u (LIKE t)",
    )?;
    let st = StreamTable::new("public", "st");
    st.create(&mut session, QUERY, AT_ONCE)?;
    let found = "SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE error_message LIKE 'deadlock detected%is tried again%'";
    for round in 1..=3 {
        wait::until("a deadlock is found", wait::PATIENCE, || {
            embrace(server, |_| Ok(()))?;
            Ok(session.number(found)? >= round)
        })?;
        follows(&mut session, "st", QUERY)?;
    }
    wait::until("it is active again", wait::PATIENCE, || {
        session.holds("SELECT status = 'ACTIVE' AND consecutive_errors = 0 FROM pgtrickle.pgt_stream_tables")
    })?;
    st.assert_verified(&mut session)?;
    // Who refreshes by hand gets the error.
    session.run("SELECT pgtrickle.alter_stream_table('st', schedule => '24h')")?;
    let (state, text) =
        embrace(server, |connector| connector.session()?.error("SELECT pgtrickle.refresh_stream_table('st')"))?;
    if state != "40P01" {
        return Err(Failure::new(text));
    }
    st.refresh(&mut session)?;
    oracle::assert_exact(&mut session, "st", QUERY)
}

/// Nobody takes notifications, so that there is no room for alerts. Capture needs none.
pub fn notifications_are_not_taken(server: &Server) -> Outcome {
    const QUERY: &str = "SELECT a FROM t";
    let (mut session, mut sleeper) = (server.session()?, server.session()?);
    session.run("CREATE TABLE t (a int)")?;
    session.run(&format!("SELECT pgtrickle.create_stream_table('st', '{QUERY}', '1s')"))?;
    sleeper.each("LISTEN anything; BEGIN; SELECT 1")?;
    let notify = "SELECT pg_notify('anything', repeat('x', 7000) || i) FROM generate_series(1, 20) i";
    wait::until("the queue is full", wait::PATIENCE, || Ok(session.run(notify).is_err()))?;
    // Both are told by alerts: a source that cannot be captured any more, and capture that starts anew.
    session.each("ALTER TABLE t REPLICA IDENTITY DEFAULT; INSERT INTO t VALUES (1); DELETE FROM t")?;
    let state = "SELECT state = 'DEGRADED' FROM pgtrickle.pgt_change_tracking";
    wait::until("it is told to be incomplete", wait::PATIENCE, || session.holds(state))?;
    let slot = session.text("SELECT slot_name FROM pgtrickle.pgt_capture")?;
    wait::retry("the slot is dropped", wait::PATIENCE, || {
        session.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_trickle_wal_decoder'",
        )?;
        session.run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
    })?;
    wait::retry("repaired", wait::PATIENCE, || session.run("SELECT pgtrickle.repair_stream_table('st')"))?;
    session.run("INSERT INTO t VALUES (2)")?;
    follows(&mut session, "st", QUERY)
}

/// A transaction that changes the source as no refresh may see it, and then defines something on the stream table.
fn embrace<T: Send>(server: &Server, refresh: impl FnOnce(Connector) -> Outcome<T> + Send) -> Outcome<T> {
    let mut user = server.session()?;
    let waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
    user.each("SET deadlock_timeout = '60 s'; BEGIN; LOCK TABLE t; UPDATE t SET g = g + 1 WHERE id % 2 = 0")?;
    server.session()?.run("INSERT INTO u VALUES (1, 1)")?;
    std::thread::scope(|scope| {
        let refreshed = scope.spawn(|| refresh(server.connector()));
        wait::until("the refresh waits", wait::PATIENCE, || user.holds(waits))?;
        user.each("CREATE INDEX ON st (n); COMMIT")?;
        refreshed.join().map_err(|_| Failure::new("the refresh panicked"))?
    })
}
