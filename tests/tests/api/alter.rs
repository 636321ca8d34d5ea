//! Changing what a stream table is.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("alter_properties", properties),
    ("alter_query_in_place", query_in_place),
    ("alter_query_columns", query_columns),
    ("alter_query_refusals", query_refusals),
    ("alter_under_load", under_load),
    ("replace_is_idempotent", replace_is_idempotent),
];

const TABLES: &str = "CREATE TABLE t (a int PRIMARY KEY, b int, c text); CREATE TABLE u (a int, d int); \
    INSERT INTO t SELECT i, i % 5, 'c' || i % 3 FROM generate_series(1, 100) i; \
    INSERT INTO u SELECT i, i * 2 FROM generate_series(1, 50) i";

fn properties(server: &Server) -> Outcome {
    let mut session = arrange(server, "alter_properties", TABLES)?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h')")?;
    let row = "SELECT concat_ws(' ', schedule, refresh_mode, status) FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'alter_properties'";
    let alter = "SELECT pgtrickle.alter_stream_table('st'";
    session.each(&format!("{alter})"))?;
    assert_text(&mut session, row, "1h AUTO ACTIVE")?;
    session.each(&format!("{alter}, schedule => '5m')"))?;
    assert_text(&mut session, row, "5m AUTO ACTIVE")?;
    session.each(&format!("{alter}, refresh_mode => 'full', status => 'paused')"))?;
    assert_text(&mut session, row, "5m FULL PAUSED")?;
    session.each("INSERT INTO t VALUES (1000, 1, 'x'); SELECT pgtrickle.refresh_stream_table('st')")?;
    let last = "SELECT action FROM pgtrickle.get_refresh_history('st', 1)";
    assert_text(&mut session, last, "REINITIALIZE")?;
    session.each(&format!("{alter}, refresh_mode => 'AUTO', status => 'ACTIVE', schedule => 'calculated')"))?;
    assert_text(&mut session, row, "calculated AUTO ACTIVE")?;
    assert_error(&mut session, &format!("{alter}, schedule => 'often')"), "22023", &["schedule", "hint"])?;
    assert_error(&mut session, &format!("{alter}, status => 'ERROR')"), "22023", &["status", "hint"])?;
    assert_error(&mut session, &format!("{alter}, query => 'SELECT nonsense')"), "42703", &["nonsense"])?;
    assert_text(&mut session, row, "calculated AUTO ACTIVE")
}

/// The stream table is its query now, by what its rows are and by what they become.
fn follows(session: &mut Session, name: &str, query: &str, changes: &str) -> Outcome {
    oracle::assert_exact(session, name, query)?;
    session.each(&format!("{changes}; SELECT pgtrickle.refresh_stream_table('{name}')"))?;
    oracle::assert_exact(session, name, query).map_err(|e| e.during("after changes"))?;
    let action = session.text(&format!("SELECT action FROM pgtrickle.get_refresh_history('{name}', 1)"))?;
    if action == "DIFFERENTIAL" { Ok(()) } else { Err(Failure::new(format!("{name} was refreshed by {action}"))) }
}

fn query_in_place(server: &Server) -> Outcome {
    let mut session = arrange(server, "alter_in_place", TABLES)?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('child', 'SELECT b, count(*) AS n FROM st GROUP BY b', schedule => '1h'); \
         CREATE INDEX st_b ON st (b); CREATE VIEW v AS SELECT * FROM st; GRANT SELECT ON st TO PUBLIC; COMMENT ON TABLE st IS 'kept'",
    )?;
    let same = "SELECT 'st'::regclass::oid::text || relacl::text || obj_description('st'::regclass) FROM pg_class WHERE oid = 'st'::regclass";
    let before = session.text(same)?;
    // Somebody reads all the while, and is neither blocked nor shown anything but the old rows.
    let mut reader = server.session()?;
    reader.each("SET search_path = alter_in_place; SET lock_timeout = '1s'; BEGIN; SELECT count(*) FROM st")?;
    session.each(
        "BEGIN; SELECT pgtrickle.alter_stream_table('st', query => 'SELECT a, b * 10 AS b FROM t WHERE a <= 70')",
    )?;
    assert_text(&mut reader, "SELECT count(*) FROM st", "100")?;
    session.each("COMMIT")?;
    assert_text(&mut reader, "SELECT count(*) FROM st", "70")?;
    reader.each("COMMIT")?;
    assert_text(&mut session, same, &before)?;
    let query = "SELECT a, b * 10 AS b FROM t WHERE a <= 70";
    follows(&mut session, "st", query, "UPDATE t SET b = b + 1 WHERE a < 9; DELETE FROM t WHERE a = 30")?;
    // The child gets the difference, not a recomputation.
    session.each("SELECT pgtrickle.refresh_stream_table('child')")?;
    assert_text(&mut session, "SELECT action FROM pgtrickle.get_refresh_history('child', 1)", "DIFFERENTIAL")?;
    follows(&mut session, "child", "SELECT b, count(*) AS n FROM st GROUP BY b", "INSERT INTO t VALUES (-5, 1, NULL)")?;
    // The same text with a constant more: nothing of the old plans may serve. And another table, another key, none.
    for query in [
        "SELECT a, b * 11 AS b FROM t WHERE a <= 70",
        "SELECT a, d AS b FROM u",
        "SELECT b AS a, count(*)::int AS b FROM t GROUP BY b",
        "SELECT DISTINCT b AS a, b FROM t",
        "SELECT a, b FROM t",
    ] {
        session.each(&format!("SELECT pgtrickle.alter_stream_table('st', query => '{query}')"))?;
        follows(&mut session, "st", query, "UPDATE t SET b = b + 1 WHERE a < 9; UPDATE u SET d = d + 1 WHERE a < 9")?;
    }
    session.each("SELECT pgtrickle.refresh_stream_table('child')")?;
    oracle::assert_exact(&mut session, "child", "SELECT b, count(*) AS n FROM st GROUP BY b")?;
    let indexes = "SELECT string_agg(pg_get_indexdef(indexrelid), '; ' ORDER BY indexrelid) FROM pg_index WHERE indrelid = 'st'::regclass";
    assert_text(
        &mut session,
        indexes,
        "CREATE INDEX st_b ON alter_in_place.st USING btree (b); CREATE UNIQUE INDEX st_a_idx ON alter_in_place.st USING btree (a)",
    )
}

fn query_columns(server: &Server) -> Outcome {
    let mut session = arrange(server, "alter_columns", TABLES)?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h', refresh_mode => 'DIFFERENTIAL'); \
         SELECT pgtrickle.create_stream_table('child', 'SELECT a FROM st WHERE a % 2 = 0', schedule => '1h', refresh_mode => 'DIFFERENTIAL'); CREATE INDEX st_a ON st (a)",
    )?;
    let oid = session.text("SELECT 'st'::regclass::oid")?;
    for (query, key) in [
        ("SELECT a, b, c FROM t", true),
        ("SELECT a, c, upper(c) AS d FROM t", true),
        ("SELECT b AS a, sum(a) AS total, count(*) AS n FROM t GROUP BY b", false),
        ("SELECT a, d FROM u", false),
        ("SELECT a, b, c FROM t", true),
    ] {
        session.each(&format!("SELECT pgtrickle.alter_stream_table('st', query => '{query}')"))?;
        let changes = "UPDATE t SET b = b + 1, c = c || 1 WHERE a < 9; INSERT INTO u VALUES (1, 1), (1, 1)";
        follows(&mut session, "st", query, changes).map_err(|e| e.during(query))?;
        session.each("SELECT pgtrickle.refresh_stream_table('child')")?;
        oracle::assert_exact(&mut session, "child", "SELECT a FROM st WHERE a % 2 = 0").map_err(|e| e.during(query))?;
        follows(
            &mut session,
            "child",
            "SELECT a FROM st WHERE a % 2 = 0",
            "INSERT INTO t SELECT 2 * max(a) + 2, 2 * max(a) + 2 FROM t; INSERT INTO u SELECT 2 * max(a) + 2, 1 FROM u",
        )
        .map_err(|e| e.during(query))?;
        assert_text(&mut session, "SELECT 'st'::regclass::oid", &oid)?;
        let unique = "SELECT count(*) FROM pg_index WHERE indrelid = 'st'::regclass AND indisunique";
        assert_text(&mut session, unique, if key { "1" } else { "0" })?;
    }
    assert_text(&mut session, "SELECT count(*) FROM pg_class WHERE relname ~ '^next_'", "0")?;
    assert_text(&mut session, "SELECT count(*) FROM pg_class WHERE oid = to_regclass('st_a')", "1")
}

fn query_refusals(server: &Server) -> Outcome {
    let mut session = arrange(server, "alter_refusals", TABLES)?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('child', 'SELECT b FROM st', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('grandchild', 'SELECT b, 1 AS one FROM child', schedule => '1h'); \
         CREATE VIEW v AS SELECT one FROM grandchild",
    )?;
    let mut refused = |name: &str, query: &str, state: &str, parts: &[&str]| {
        let sql = format!("SELECT pgtrickle.alter_stream_table('{name}', query => '{query}')");
        assert_error(&mut session, &sql, state, parts)
    };
    refused(
        "st",
        "SELECT a, 1 AS b FROM grandchild, u",
        "42P17",
        &[
            "alter_refusals.st reads alter_refusals.grandchild, which reads alter_refusals.child, which reads alter_refusals.st",
        ],
    )?;
    refused("st", "SELECT a, b FROM st", "42P17", &["alter_refusals.st reads alter_refusals.st"])?;
    refused("st", "SELECT a FROM t", "2BP01", &["child", "\"b\"", "hint"])?;
    refused("grandchild", "SELECT b FROM child", "2BP01", &["v depends on column one"])?;
    refused("st", "SELECT a, random() AS b FROM t", "0A000", &["random"])?;
    for name in ["st", "child", "grandchild"] {
        assert_text(
            &mut session,
            &format!("SELECT missing + extra FROM pgtrickle.verify_stream_table('{name}')"),
            "0",
        )?;
    }
    Ok(())
}

/// While others write.
fn under_load(server: &Server) -> Outcome {
    let mut session = arrange(server, "alter_load", TABLES)?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '0s')")?;
    let connector = server.connector();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || -> Outcome<u32> {
        let mut session = connector.session()?;
        session.each("SET search_path = alter_load")?;
        let mut round = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            round += 1;
            session.run(&format!("BEGIN; UPDATE t SET b = b + 1 WHERE a % 10 = {}; INSERT INTO t VALUES (1000 + {round}, 1, 'x'); COMMIT", round % 10))?;
        }
        Ok(round)
    });
    let queries = [
        "SELECT a, b + 1 AS b FROM t",
        "SELECT a, b, c FROM t",
        "SELECT b AS a, count(*) AS b FROM t GROUP BY b",
        "SELECT a, b FROM t",
    ];
    let mut result = Ok(());
    for round in 0..8 {
        let query = queries[round % queries.len()];
        // A refresh and an alteration may get in each other's way.
        let altered = wait::retry("altering", wait::PATIENCE, || {
            session.each(&format!("SELECT pgtrickle.alter_stream_table('st', query => '{query}')"))
        });
        let verified = altered
            .and_then(|()| session.text("SELECT missing || ' ' || extra FROM pgtrickle.verify_stream_table('st')"));
        result = match verified {
            Ok(differences) if differences == "0 0" => Ok(()),
            Ok(differences) => Err(Failure::new(format!("round {round}: {differences}"))),
            Err(error) => Err(error),
        };
        if result.is_err() {
            break;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let rounds = writer.join().map_err(|_| Failure::new("the writer panicked"))??;
    result?;
    if rounds > 10 { Ok(()) } else { Err(Failure::new(format!("the writer was blocked: {rounds} rounds"))) }
}

fn replace_is_idempotent(server: &Server) -> Outcome {
    let mut session = arrange(server, "replaced", TABLES)?;
    let replace = |query: &str| format!("SELECT pgtrickle.create_or_replace_stream_table('st', '{query}', '1h')");
    let id = session.text(&replace("SELECT a FROM t"))?;
    let state =
        "SELECT s.xmin || ' ' || 'st'::regclass::oid FROM pgtrickle.pgt_stream_tables s WHERE pgt_schema = 'replaced'";
    let before = session.text(state)?;
    assert_text(&mut session, &replace("SELECT a FROM t"), &id)?;
    assert_text(&mut session, state, &before)?;
    assert_text(&mut session, &replace("SELECT b FROM t"), &id)?;
    oracle::assert_exact(&mut session, "st", "SELECT b FROM t")?;
    assert_error(
        &mut session,
        "SELECT pgtrickle.create_or_replace_stream_table('t', 'SELECT a FROM u')",
        "42P07",
        &["already exists"],
    )
}
