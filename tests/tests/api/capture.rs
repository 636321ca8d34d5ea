//! What capture does to a database, and what it leaves alone.

use std::time::Duration;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, wait};

use crate::{Test, arrange, assert_text};

pub const TESTS: &[Test] = &[
    ("replica_identity_is_put_back", replica_identity),
    ("fill_does_not_block_writers", fill_does_not_block),
    ("buffers_stay_small", buffers_stay_small),
    ("idle_slot_advances", idle_slot_advances),
    ("wrap_of_many_sources", many_sources),
    ("columns_that_nobody_reads_go_or_change", unread_columns),
];

const IDENTITY: &str = "SELECT relreplident FROM pg_class WHERE oid = 't'::regclass";

fn replica_identity(server: &Server) -> Outcome {
    let mut session = arrange(server, "identity", "CREATE TABLE t (id int PRIMARY KEY, a int)")?;
    assert_text(&mut session, IDENTITY, "d")?;
    session.each("SELECT pgtrickle.create_stream_table('one', 'SELECT id, a FROM t', schedule => '1h')")?;
    session.each("SELECT pgtrickle.create_stream_table('two', 'SELECT id FROM t', schedule => '1h')")?;
    assert_text(&mut session, IDENTITY, "f")?;
    session.each("SELECT pgtrickle.drop_stream_table('one')")?;
    assert_text(&mut session, IDENTITY, "f")?;
    session.each("SELECT pgtrickle.drop_stream_table('two')")?;
    wait::until("it is put back", wait::PATIENCE, || Ok(session.text(IDENTITY)? == "d"))
}

/// A transaction that was writing before the creation and ends after it belongs to the contents.
fn fill_does_not_block(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "filling", "CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 300000)")?;
    let mut writer = server.session()?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let slowest = std::thread::scope(|scope| -> Outcome<Duration> {
        let writing = scope.spawn(|| -> Outcome<Duration> {
            let mut slowest = Duration::ZERO;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let started = std::time::Instant::now();
                writer.each("INSERT INTO filling.t VALUES (0)")?;
                slowest = slowest.max(started.elapsed());
            }
            Ok(slowest)
        });
        let created = session.each(
            "SELECT pgtrickle.create_stream_table('st', 'SELECT a, count(*) AS n FROM t GROUP BY a', schedule => '1h')",
        );
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let slowest = writing.join().expect("the writer panicked")?;
        created?;
        Ok(slowest)
    })?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    pgtrickle_tests::oracle::assert_exact(&mut session, "st", "SELECT a, count(*) AS n FROM t GROUP BY a")?;
    if slowest > Duration::from_secs(5) {
        return Err(Failure::new(format!("a writer waited {slowest:?}")));
    }
    Ok(())
}

fn buffers_stay_small(server: &Server) -> Outcome {
    const LIMIT_BYTES: i64 = 24 << 20;
    let mut session = arrange(server, "small", "CREATE TABLE t (a int, pad text)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, count(pad) AS n FROM t GROUP BY a', schedule => '1h')",
    )?;
    // Not change_buffer_sizes(): it reads the buffer, and while somebody reads it nobody empties it.
    let size = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ ('^changes_' || 'small.t'::regclass::oid || '_[01]$')";
    for _ in 0..8 {
        session.each("INSERT INTO t SELECT i % 10, repeat('p', 100) FROM generate_series(1, 50000) i")?;
        session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
        wait::until("what was consumed is emptied", wait::PATIENCE, || Ok(session.number(size)? < LIMIT_BYTES))?;
    }
    assert_text(&mut session, "SELECT sum(n) FROM st", "400000")
}

/// Unrelated WAL must not be retained by a slot whose sources are idle.
fn idle_slot_advances(server: &Server) -> Outcome {
    let mut session = arrange(server, "idle", "CREATE TABLE t (a int); CREATE TABLE unrelated (a int)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', schedule => '1h')")?;
    session.each("INSERT INTO unrelated SELECT generate_series(1, 100000)")?;
    let end = session.text("SELECT pg_current_wal_insert_lsn()")?;
    let passed = format!("SELECT bool_and(confirmed_flush_lsn >= '{end}') FROM pgtrickle.slot_health()");
    wait::until("the slot advances", wait::PATIENCE, || session.holds(&passed))
}

fn many_sources(server: &Server) -> Outcome {
    let mut session = arrange(server, "sources", "SELECT 1")?;
    let mut query = String::from("SELECT 0 AS n");
    for n in 0..30 {
        session.each(&format!("CREATE TABLE t{n} (a int)"))?;
        query.push_str(&format!(" UNION ALL SELECT a FROM t{n}"));
    }
    session.each(&format!("SELECT pgtrickle.create_stream_table('st', '{query}', schedule => '1h')"))?;
    for n in 0..30 {
        session.each(&format!("INSERT INTO t{n} VALUES ({n})"))?;
    }
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    pgtrickle_tests::oracle::assert_exact(&mut session, "st", &query)
}

/// Capture goes on when they are dropped. When they get another type it is given up at the next row, and repairing is enough.
fn unread_columns(server: &Server) -> Outcome {
    const STATE: &str = "SELECT state FROM pgtrickle.pgt_change_tracking WHERE source_relid = 't'::regclass";
    let tables = "CREATE TABLE t (a int PRIMARY KEY, b int, c int, d text); INSERT INTO t VALUES (1, 1, 1, 'd')";
    let mut session = arrange(server, "unread", tables)?;
    let stream_tables = [("n", "SELECT count(*) AS n FROM t"), ("rows", "SELECT a, to_jsonb(t)::text AS r FROM t")];
    for (name, query) in stream_tables {
        session.run(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', '1h')"))?;
    }
    let mut row = 1;
    let mut follow = |session: &mut Session, expected: &str| -> Outcome {
        row += 1;
        session.run(&format!("INSERT INTO t VALUES ({row})"))?;
        session.run("UPDATE t SET d = d || 'd' WHERE a = 1")?;
        for (name, query) in stream_tables {
            session.run(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
            pgtrickle_tests::oracle::assert_exact(session, name, query)?;
        }
        assert_text(session, STATE, expected)
    };
    session.run("ALTER TABLE t DROP COLUMN b")?;
    follow(&mut session, "ACTIVE")?;
    session.run("ALTER TABLE t ALTER COLUMN c TYPE bigint")?;
    follow(&mut session, "DEGRADED")?;
    session.run("SELECT pgtrickle.repair_stream_table('n')")?;
    follow(&mut session, "ACTIVE")?;
    follow(&mut session, "ACTIVE")?;
    session.run("ALTER TABLE t DROP COLUMN c; ALTER TABLE t ADD COLUMN e int DEFAULT 5")?;
    session.run("SELECT pgtrickle.create_stream_table('more', 'SELECT e FROM t', '1h')")?;
    follow(&mut session, "ACTIVE")
}
