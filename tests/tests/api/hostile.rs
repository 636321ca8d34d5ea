//! What users might do to get rights that they have not, to harm others, or to have a stream table differ from its query.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

use crate::{Test, arrange, assert_error, assert_text, follows};

pub const TESTS: &[Test] = &[
    ("functions_in_types_run_as_their_user", functions_in_types),
    ("functions_in_queries_run_as_their_user", functions_in_queries),
    ("messages_of_anybody", messages_of_anybody),
    ("only_its_owner_prepares_the_end_of_the_extension", end_of_the_extension),
    ("no_way_around_the_guard", no_way_around_the_guard),
    ("transition_tables_called_like_changes", transition_tables),
    ("views_are_replaced", views_are_replaced),
    ("domains_over_domains", domains_over_domains),
    ("ddl_of_replicas_counts", ddl_of_replicas),
    ("partitions_that_are_about_to_leave", detaching),
    ("refreshes_rolled_back", refreshes_rolled_back),
    ("creators_are_terminated", creators_are_terminated),
    ("other_encodings", other_encodings),
    ("prepared_refreshes_and_creations", prepared),
    ("settings_of_the_session", settings_of_the_session),
    ("errors_of_any_characters", errors_of_any_characters),
    ("row_security_comes_and_goes", row_security_comes_and_goes),
];

/// A schema, and a role that may create in it. Its function `spy` notes as whom it runs.
fn arrange_user(server: &Server, schema: &str) -> Outcome<Session> {
    let mut session = arrange(server, schema, "CREATE TABLE seen (who text)")?;
    session.run(&format!(
        "CREATE FUNCTION spy(int) RETURNS bigint LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO {schema}.seen VALUES (current_user); RETURN 5; END $$"
    ))?;
    session.each(&format!(
        "CREATE ROLE {schema}_user; GRANT ALL ON SCHEMA {schema} TO {schema}_user; GRANT ALL ON seen TO {schema}_user; \
         SET ROLE {schema}_user; CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)"
    ))?;
    Ok(session)
}

/// Already the parser reads a constant of a type whose values are checked by a user's function.
fn functions_in_types(server: &Server) -> Outcome {
    let mut session = arrange_user(server, "spied_types")?;
    session
        .each("CREATE DOMAIN inner_d AS int CHECK (spied_types.spy(VALUE) = 5); CREATE DOMAIN outer_d AS inner_d")?;
    session.each("CREATE TABLE d (a int PRIMARY KEY, b outer_d); INSERT INTO d VALUES (1, 1)")?;
    session.run("SELECT pgtrickle.create_stream_table('st', $$SELECT a, '{1}'::inner_d[] AS b FROM t$$, '0s')")?;
    session.run("SELECT pgtrickle.create_stream_table('parent', 'SELECT a, b FROM d', '0s')")?;
    session.run("SELECT pgtrickle.create_stream_table('child', 'SELECT b, count(*) FROM parent GROUP BY b', '0s')")?;
    session.run("SELECT pgtrickle.alter_stream_table('st', $$SELECT a, '{1,2}'::inner_d[] AS b FROM t$$)")?;
    session.each("INSERT INTO t VALUES (2); INSERT INTO d VALUES (2, 2)")?;
    follows(&mut session, "SELECT (SELECT count(*) FROM st) + (SELECT count(*) FROM child)", "4")?;
    // When a superuser alters it, new columns get their types' defaults.
    session.each("CREATE DOMAIN defaulted AS bigint DEFAULT spied_types.spy(1); RESET ROLE")?;
    session.run("SELECT pgtrickle.alter_stream_table('st', $$SELECT a, a::bigint::defaulted AS c FROM t$$)")?;
    assert_text(&mut session, "SELECT string_agg(DISTINCT who, ',') FROM seen", "spied_types_user")
}

/// Anybody may write logical messages, in the name of anything.
fn messages_of_anybody(server: &Server) -> Outcome {
    let mut session = arrange_user(server, "messages")?;
    session.run("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', '0s')")?;
    follows(&mut session, "SELECT count(*) FROM st", "1")?;
    let pid = server.session()?.text(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_trickle_apply' AND datname = current_database()",
    )?;
    let data_kb = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    let before = data_kb();
    session.run(
        "SELECT count(pg_logical_emit_message(true, 'pg_trickle', 'reinit ' || g || ' x')) FROM generate_series(1000000, 1010000) g",
    )?;
    session.run("INSERT INTO t VALUES (2)")?;
    follows(&mut session, "SELECT count(*) FROM st", "2")?;
    match (before, data_kb()) {
        (Some(before), Some(after)) if after < before + 50_000 => Ok(()),
        sizes => Err(Failure::new(format!("the apply worker has grown: kB before and after: {sizes:?}"))),
    }
}

/// Constants are folded when a query is analysed, in every process that refreshes.
fn functions_in_queries(server: &Server) -> Outcome {
    let mut session = arrange_user(server, "spied_queries")?;
    session.run(
        "CREATE FUNCTION limits() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
             IF current_user <> 'spied_queries_user' THEN RAISE 'run as %', current_user; END IF; RETURN 5; END $$",
    )?;
    session.run(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t ORDER BY a LIMIT spied_queries.limits()', '0s')",
    )?;
    session.each("INSERT INTO t VALUES (2)")?;
    follows(&mut session, "SELECT count(*) FROM st", "2")?;
    session.each("RESET ROLE; SELECT pgtrickle.refresh_stream_table('st')")
}

/// Anybody may drop an extension that does not exist.
fn end_of_the_extension(server: &Server) -> Outcome {
    let mut session = arrange_user(server, "ending")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', '0s')")?;
    session.run("DROP EXTENSION IF EXISTS nonexistent /* drop extension pg_trickle */")?;
    assert_text(&mut session, "SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'ending'", "1")?;
    assert_text(&mut session, "SELECT relreplident FROM pg_class WHERE oid = 't'::regclass", "f")
}

/// Rows that come or go without the statement trigger, and what keeps a refresh from changing rows.
fn no_way_around_the_guard(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "around", "CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h'); \
         CREATE TABLE parted (a int, b int) PARTITION BY RANGE (a); CREATE TABLE parent (a int, b int)",
    )?;
    session.run("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")?;
    for statement in [
        "ALTER TABLE parted ATTACH PARTITION st FOR VALUES FROM (0) TO (100)",
        "ALTER TABLE st INHERIT parent",
        "CREATE TABLE child () INHERITS (st)",
        "ALTER TABLE st FORCE ROW LEVEL SECURITY",
        "ALTER TABLE st SET UNLOGGED",
        "CREATE RULE nothing AS ON DELETE TO st DO INSTEAD NOTHING",
        "CREATE TRIGGER nothing BEFORE DELETE ON st FOR EACH ROW EXECUTE FUNCTION nothing()",
    ] {
        assert_error(&mut session, statement, "42809", &["stream table", "hint"])?;
    }
    triggers_of_users(&mut session)?;
    session
        .each("ALTER TABLE st ENABLE ROW LEVEL SECURITY; DELETE FROM t; SELECT pgtrickle.refresh_stream_table('st')")?;
    oracle::assert_exact(&mut session, "st", "TABLE t")
}

/// What a refresh may do the triggers that it fires may not.
fn triggers_of_users(session: &mut Session) -> Outcome {
    session.each("SELECT pgtrickle.create_stream_table('other', 'SELECT a FROM t', schedule => '1h')")?;
    for target in ["other", "st"] {
        session.run(&format!(
            "CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO around.{target} (a) VALUES (99); RETURN NULL; END $$"
        ))?;
        session.each(
            "CREATE OR REPLACE TRIGGER meddle AFTER INSERT ON st FOR EACH ROW EXECUTE FUNCTION meddle(); \
             INSERT INTO t SELECT max(a) + 1, 0 FROM t",
        )?;
        let refused = &["cannot change rows of stream table", target];
        assert_error(session, "SELECT pgtrickle.refresh_stream_table('st')", "42809", refused)?;
    }
    session.each("DROP TRIGGER meddle ON st; SELECT pgtrickle.refresh_stream_table('st')")
}

/// A trigger may call the rows that have come whatever it likes, like changes that a refresh has staged: the planner knows
/// nothing of them.
fn transition_tables(server: &Server) -> Outcome {
    let mut session = arrange(server, "transition", "CREATE TABLE v (a int); CREATE TABLE x (c1 text)")?;
    session.each("INSERT INTO v SELECT i % 3 FROM generate_series(1, 300) i; ANALYZE v")?;
    let oid = session.text("SELECT 'v'::regclass::oid")?;
    session.run(&format!(
        "CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN ASSERT (SELECT count(*) FROM pgt_delta_{oid} WHERE c1 = 'abc') = 1; RETURN NULL; END $$"
    ))?;
    session.each(&format!(
        "CREATE TRIGGER looks AFTER INSERT ON x REFERENCING NEW TABLE AS pgt_delta_{oid} \
         FOR EACH STATEMENT EXECUTE FUNCTION looks(); INSERT INTO x VALUES ('abc'), ('b')"
    ))
}

/// A view that the query reads gets other columns, other tables, other conditions.
fn views_are_replaced(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "redefined",
        "CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i; \
         CREATE TABLE u (a int PRIMARY KEY, b int, c int); INSERT INTO u SELECT i, i, i % 2 FROM generate_series(1, 5) i; \
         CREATE VIEW below AS SELECT a, b FROM t WHERE b < 5; CREATE VIEW v AS TABLE below; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT b, count(*) AS n FROM v GROUP BY b', '0s')",
    )?;
    let missing = "SELECT count(*) FROM ((SELECT b, count(*) AS n FROM v GROUP BY b) EXCEPT ALL TABLE st) AS missing";
    for (view, change) in [
        ("SELECT a, b FROM t WHERE b > 5", "INSERT INTO t VALUES (10, 10)"),
        ("SELECT a, b FROM u", "INSERT INTO u VALUES (6, 6, 0)"),
        ("SELECT a, c AS b FROM u", "UPDATE u SET c = 7 WHERE a = 2"),
        ("SELECT a, b FROM t NATURAL JOIN u", "DELETE FROM u WHERE a < 4"),
    ] {
        session.each(&format!("CREATE OR REPLACE VIEW below AS {view}"))?;
        follows(&mut session, missing, "0")?;
        session.each(change)?;
        follows(&mut session, missing, "0")?;
        assert_text(&mut session, "SELECT missing || ',' || extra FROM pgtrickle.verify_stream_table('st')", "0,0")?;
    }
    Ok(())
}

fn domains_over_domains(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "nested",
        "CREATE DOMAIN short AS varchar(3) COLLATE \"C\"; CREATE DOMAIN shorter AS short CHECK (VALUE <> 'no'); \
         CREATE TABLE t (a int PRIMARY KEY, b shorter); INSERT INTO t VALUES (1, 'x'); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT b, count(*) AS n FROM t GROUP BY b', '0s')",
    )?;
    session.each("INSERT INTO t VALUES (2, 'x'), (3, 'yyy'); UPDATE t SET b = 'z' WHERE a = 1")?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(
        &mut session,
        "SELECT state FROM pgtrickle.pgt_change_tracking WHERE source_relid = 't'::regclass",
        "ACTIVE",
    )?;
    oracle::assert_exact(&mut session, "st", "SELECT b, count(*) AS n FROM t GROUP BY b")
}

/// Event triggers do their work for subscriptions and whoever else sets session_replication_role, too.
fn ddl_of_replicas(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "replica_ddl",
        "CREATE TABLE t (a int, b int) PARTITION BY RANGE (a); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); \
         CREATE TABLE t2 (a int, b int); INSERT INTO t VALUES (1, 1); INSERT INTO t2 VALUES (11, 11); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', '0s')",
    )?;
    session.each(
        "SET session_replication_role = replica; ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20); \
         RESET session_replication_role",
    )?;
    follows(&mut session, "SELECT count(*) FROM st", "2")?;
    session.each("DELETE FROM t WHERE a = 11")?;
    follows(&mut session, "SELECT count(*) FROM st", "1")
}

/// What a refresh that did not happen has read must be read again. Many rows: a scan goes on at the block where the last ended.
fn refreshes_rolled_back(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "rolled_back",
        "CREATE TABLE t (a int PRIMARY KEY, b text); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h')",
    )?;
    let refresh = "SELECT pgtrickle.refresh_stream_table('st')";
    for (number, rolled_back) in [
        format!("BEGIN; SAVEPOINT s; {refresh}; ROLLBACK TO s; COMMIT"),
        format!("BEGIN; SAVEPOINT r; SAVEPOINT s; {refresh}; RELEASE s; ROLLBACK TO r; COMMIT"),
        format!("BEGIN; {refresh}; ROLLBACK"),
        format!(
            "BEGIN; {refresh}; PREPARE TRANSACTION 'rolled_back'; SELECT 1; ROLLBACK PREPARED 'rolled_back'; SELECT 1"
        ),
    ]
    .iter()
    .enumerate()
    {
        session
            .each(&format!("INSERT INTO t SELECT {number} * 10000 + i, 'some text' FROM generate_series(1, 2000) i"))?;
        session.each(rolled_back)?;
        session.each(refresh)?;
        oracle::assert_exact(&mut session, "st", "TABLE t").map_err(|e| e.during(rolled_back))?;
    }
    Ok(())
}

/// Who commits what another has prepared tells the scheduler.
fn prepared(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "prepared",
        "CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1); \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h'); \
         SELECT pgtrickle.create_stream_table('child', 'SELECT b FROM st', schedule => '0s')",
    )?;
    session.each(
        "BEGIN; SELECT pgtrickle.create_stream_table('other', 'SELECT b FROM t', schedule => '0s'); PREPARE TRANSACTION 'creation'; \
         INSERT INTO t VALUES (2, 2); BEGIN; SELECT pgtrickle.refresh_stream_table('st'); PREPARE TRANSACTION 'refresh'",
    )?;
    let mut another = server.session()?;
    another.each("COMMIT PREPARED 'creation'; COMMIT PREPARED 'refresh'")?;
    follows(&mut session, "SELECT count(*) FROM prepared.other", "2")?;
    follows(&mut session, "SELECT count(*) FROM prepared.child", "2")
}

/// Literals of the query mean what they meant when it was made, whatever the session that refreshes makes of literals.
fn settings_of_the_session(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "literals",
        "CREATE TABLE t (a int PRIMARY KEY, b text, c text[], d date); INSERT INTO t VALUES (1, 'x\\y', '{a,NULL}', '2024-02-01')",
    )?;
    let query = "SELECT a, b = 'x\\y' AS b, c = '{a,NULL}'::text[] AS c, d = '2024-02-01' AS d, b || 'v\\w' AS e FROM literals.t";
    session.run(&format!("SELECT pgtrickle.create_stream_table('st', $${query}$$, schedule => '1h')"))?;
    session.each(
        "SET standard_conforming_strings = off; SET array_nulls = off; SET datestyle = 'sql, dmy'; SET extra_float_digits = -5; \
         SET transform_null_equals = on; SET escape_string_warning = off; \
         INSERT INTO literals.t SELECT 2, b, c, d FROM literals.t; SELECT pgtrickle.refresh_stream_table('literals.st'); \
         RESET ALL; SET search_path = literals",
    )?;
    oracle::assert_exact(&mut session, "st", query)
}

/// The failure is recorded although JSON makes its message six times as long.
fn errors_of_any_characters(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "failing",
        "CREATE TABLE t (a int, b text); SELECT pgtrickle.create_stream_table('st', 'SELECT a, b::int AS b FROM t', '0s')",
    )?;
    session.each("INSERT INTO t VALUES (1, repeat(E'\\x01', 3000))")?;
    follows(
        &mut session,
        "SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE pgt_schema = 'failing' AND consecutive_errors > 0",
        "1",
    )?;
    session.each("SELECT pgtrickle.drop_stream_table('st')")
}

fn row_security_comes_and_goes(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "secured",
        "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9); CREATE ROLE secured_user; \
         GRANT ALL ON SCHEMA secured TO secured_user; GRANT SELECT ON t TO secured_user; CREATE TABLE allowed (a int); \
         GRANT SELECT ON allowed TO secured_user; SET ROLE secured_user; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', '0s'); RESET ROLE",
    )?;
    let count = "SELECT count(*) FROM st";
    session.each(
        "CREATE POLICY p ON t USING (a IN (SELECT a FROM secured.allowed)); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    )?;
    follows(&mut session, count, "0")?;
    session.each("INSERT INTO allowed VALUES (1), (2)")?;
    follows(&mut session, count, "2")?;
    session.each("ALTER TABLE t DISABLE ROW LEVEL SECURITY")?;
    follows(&mut session, count, "9")
}

/// DETACH PARTITION CONCURRENTLY ends, or is given up, long after newer snapshots have lost sight of the partition.
fn detaching(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "detaching",
        "CREATE TABLE t (a int, b int) PARTITION BY RANGE (a); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100); \
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200); INSERT INTO t SELECT i, i % 5 FROM generate_series(0, 199) i; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT b, count(*) AS n FROM t GROUP BY b', schedule => '1h')",
    )?;
    let verified = "SELECT missing || ',' || extra FROM pgtrickle.verify_stream_table('st')";
    let mut reader = server.session()?;
    reader.each("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM detaching.t")?;
    session.run("SET statement_timeout = '500ms'")?;
    assert_error(&mut session, "ALTER TABLE t DETACH PARTITION t2 CONCURRENTLY", "57014", &[])?;
    session.each("SET statement_timeout = '90s'; INSERT INTO t VALUES (1, 1); INSERT INTO t2 VALUES (101, 1)")?;
    assert_text(&mut session, verified, "0,0")?;
    reader.run("COMMIT")?;
    session.each(
        "ALTER TABLE t DETACH PARTITION t2 FINALIZE; INSERT INTO t2 VALUES (102, 1); DELETE FROM t WHERE a = 2",
    )?;
    assert_text(&mut session, verified, "0,0")
}

/// More often than there are places for creations in shared memory.
fn creators_are_terminated(server: &Server) -> Outcome {
    let mut session = arrange(server, "terminated", "CREATE TABLE t (a int)")?;
    let mut writer = server.session()?;
    writer.each("BEGIN; LOCK TABLE terminated.t IN ROW EXCLUSIVE MODE")?;
    for _ in 0..17 {
        let mut creator = server.session()?;
        let pid = creator.backend_pid()?;
        let waits = format!(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = {pid} AND lower(wait_event) = 'bgworkershutdown'"
        );
        std::thread::scope(|scope| {
            let create = "SELECT pgtrickle.create_stream_table('terminated.st', 'SELECT a FROM terminated.t')";
            let creation = scope.spawn(move || creator.run(create));
            let waiting = wait::until("the creator waits", wait::PATIENCE, || session.holds(&waits));
            session.run(&format!("SELECT pg_terminate_backend({pid}, 5000)"))?;
            let outcome = creation.join().expect("the thread does not panic");
            waiting.and(if outcome.is_err() { Ok(()) } else { Err(Failure::new("it was not terminated")) })
        })?;
    }
    // Nor do the workers that they had started try on.
    let trackers = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_trickle_tracker'
                       AND datid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait::until("the creators' workers end", wait::PATIENCE, || session.holds(trackers))?;
    writer.run("COMMIT")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t')")
}

fn other_encodings(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")?;
    let mut latin = server.session_in("latin")?;
    latin.each("CREATE EXTENSION pg_trickle; CREATE TABLE t (a int)")?;
    assert_error(
        &mut latin,
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t')",
        "0A000",
        &["UTF8", "hint"],
    )?;
    drop(latin);
    session.run("DROP DATABASE latin WITH (FORCE)")
}
