//! To and from other modes, pausing, repairing, looking, and definitions of sources.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::StreamTable;
use pgtrickle_tests::{During, Failure, Outcome, oracle};
use std::time::Duration;

use super::{Test, arrange, assert_error, assert_exact, create, exact_after_each};

pub const TESTS: &[Test] = &[
    ("what_replication_writes", what_replication_writes),
    ("altered_to_and_from", altered_to_and_from),
    ("altered_query", altered_query),
    ("paused_and_resumed", paused_and_resumed),
    ("paused_among_writers", paused_among_writers),
    ("cascades", cascades),
    ("partitions_come_and_go", partitions_come_and_go),
    ("source_definitions", source_definitions),
    ("a_key_that_holds_only_at_the_commit", late_key),
    ("triggers_go_when_unused", triggers_go_when_unused),
    ("a_wrong_one_is_repaired", a_wrong_one_is_repaired),
    ("readers_of_a_wrong_one", readers_of_a_wrong_one),
    ("what_is_shown", what_is_shown),
];

fn assert_mode(session: &mut Session, schema: &str, mode: &str) -> Outcome {
    match StreamTable::new(schema, "st").mode(session)? {
        found if found == mode => Ok(()),
        found => Err(Failure::new(format!("expected mode {mode}, found {found}"))),
    }
}

fn altered_to_and_from(server: &Server) -> Outcome {
    let schema = "now_alter";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")?;
    let query = "SELECT v, count(*) AS n FROM t GROUP BY v";
    let st = StreamTable::new(schema, "st");
    st.create(&mut session, query, "24h")?;
    session.run("INSERT INTO t VALUES (2, 1)")?;
    for round in 3..6 {
        session.run("SELECT pgtrickle.alter_stream_table('st', refresh_mode => 'IMMEDIATE')")?;
        assert_mode(&mut session, schema, "IMMEDIATE")?;
        session.run(&format!("INSERT INTO t VALUES ({round}, 1), ({round} + 10, {round})"))?;
        assert_exact(&mut session, schema, "st", query)?;
        session.run("SELECT pgtrickle.alter_stream_table('st', refresh_mode => 'DIFFERENTIAL')")?;
        assert_mode(&mut session, schema, "DIFFERENTIAL")?;
        session.run(&format!("INSERT INTO t VALUES ({round} + 20, 2)"))?;
        st.refresh(&mut session)?;
        oracle::assert_exact(&mut session, &st.quoted(), query)?;
        st.assert_verified(&mut session)?;
    }
    assert_error(
        &mut session,
        "SELECT pgtrickle.alter_stream_table('st', query => 'SELECT id, now() AS at FROM t', refresh_mode => 'IMMEDIATE')",
        "0A000",
        &["now()"],
    )
}

fn altered_query(server: &Server) -> Outcome {
    let schema = "now_query";
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1); INSERT INTO u VALUES (1, 5)",
    )?;
    create(&mut session, schema, "st", "SELECT id, v FROM t")?;
    create(&mut session, schema, "over", "SELECT count(*) AS n FROM st")?;
    for query in
        ["SELECT id, v FROM u", "SELECT id, v, id + v AS s FROM t", "SELECT t.id, u.v AS w FROM t JOIN u USING (id)"]
    {
        session.run(&format!("SELECT pgtrickle.alter_stream_table('st', query => '{query}')")).during(query)?;
        assert_exact(&mut session, schema, "st", query).during(query)?;
        assert_exact(&mut session, schema, "over", "SELECT count(*) AS n FROM st").during(query)?;
        session.each("INSERT INTO t SELECT max(id) + 1, 3 FROM t; INSERT INTO u SELECT max(id) + 1, 4 FROM u")?;
        assert_exact(&mut session, schema, "st", query).during("after changes")?;
        assert_exact(&mut session, schema, "over", "SELECT count(*) AS n FROM st").during("after changes")?;
    }
    assert_error(
        &mut session,
        "SELECT pgtrickle.alter_stream_table('st', refresh_mode => 'AUTO')",
        "2BP01",
        &["now_query.over"],
    )
}

fn paused_and_resumed(server: &Server) -> Outcome {
    let schema = "now_paused";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")?;
    let query = "SELECT id, 10 / v AS q FROM t";
    create(&mut session, schema, "st", query)?;
    session.each("SELECT pgtrickle.pause_stream_table('st'); INSERT INTO t VALUES (2, 0), (3, 5)")?;
    let rows = session.number("SELECT count(*) FROM st")?;
    if rows != 1 {
        return Err(Failure::new(format!("{rows} rows, although it is paused")));
    }
    assert_error(&mut session, "SELECT pgtrickle.resume_stream_table('st')", "22012", &["now_paused.st"])?;
    session.each("DELETE FROM t WHERE v = 0; SELECT pgtrickle.resume_stream_table('st')")?;
    assert_exact(&mut session, schema, "st", query)?;
    session.run("INSERT INTO t VALUES (4, 2)")?;
    assert_exact(&mut session, schema, "st", query)
}

/// It keeps no writer from others, and misses none of them when it follows again, whatever it was asked for meanwhile.
fn paused_among_writers(server: &Server) -> Outcome {
    let schema = "now_left_alone";
    let tables = "CREATE TABLE t (id int, g int) PARTITION BY LIST (g); CREATE TABLE leaf PARTITION OF t FOR VALUES IN (1); \
                  CREATE TABLE rest PARTITION OF t DEFAULT; INSERT INTO t VALUES (1, 1)";
    let mut session = arrange(server, schema, tables)?;
    let query = "SELECT g, count(*) AS n FROM t GROUP BY g";
    let over = "SELECT sum(n) AS n FROM st";
    create(&mut session, schema, "st", query)?;
    create(&mut session, schema, "over", over)?;
    let mut writer = server.session()?;
    let writes = ["INSERT INTO leaf VALUES (2, 1)", "INSERT INTO t VALUES (3, 3)"];
    let asked = ["pgtrickle.refresh_stream_table('st')", "pgtrickle.reinitialize_stream_table('st')"];
    for (write, ask) in writes.into_iter().zip(asked) {
        session.each(&format!("SELECT pgtrickle.pause_stream_table('st'); SELECT {ask}"))?;
        writer.each(&format!("SET search_path = {schema}; BEGIN; {write}"))?;
        session.each("SET lock_timeout = '5s'; INSERT INTO t VALUES (4, 1)").during("a paused one holds nobody up")?;
        std::thread::scope(|scope| {
            let resumed = scope.spawn(|| session.run("SELECT pgtrickle.resume_stream_table('st')"));
            std::thread::sleep(std::time::Duration::from_millis(200));
            writer.run("COMMIT")?;
            resumed.join().expect("no panic")
        })?;
        assert_exact(&mut session, schema, "st", query).during(write)?;
        assert_exact(&mut session, schema, "over", over).during(write)?;
    }
    let altered = "SELECT g, count(*) AS n, min(id) AS least FROM t GROUP BY g";
    session.each(&format!(
        "SELECT pgtrickle.pause_stream_table('over'); SELECT pgtrickle.drop_stream_table('over'); SELECT pgtrickle.pause_stream_table('st'); \
         SELECT pgtrickle.alter_stream_table('st', query => '{altered}'); INSERT INTO t VALUES (5, 5); \
         SELECT pgtrickle.resume_stream_table('st')"
    ))?;
    assert_exact(&mut session, schema, "st", altered)
}

/// Stream tables over such stream tables, at once and later.
fn cascades(server: &Server) -> Outcome {
    let schema = "now_over";
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE t (id int PRIMARY KEY, g int, v int); CREATE TABLE u (g int PRIMARY KEY, x text)",
    )?;
    let streams = [
        ("a", "SELECT g, sum(v) AS s FROM t GROUP BY g"),
        ("b", "SELECT g, max(v) AS m FROM t GROUP BY g"),
        ("c", "SELECT a.g, a.s, b.m, u.x FROM a JOIN b USING (g) LEFT JOIN u USING (g)"),
        ("d", "SELECT x, count(*) AS n, sum(s) AS s FROM c GROUP BY x"),
    ];
    for (name, query) in streams {
        create(&mut session, schema, name, query)?;
    }
    let later = StreamTable::new(schema, "later");
    let query = "SELECT m, count(*) AS n, (SELECT count(*) FROM u) AS us FROM c GROUP BY m";
    later.create(&mut session, query, "24h")?;
    for sql in [
        "INSERT INTO t SELECT i, i % 4, i FROM generate_series(1, 20) i",
        "INSERT INTO u VALUES (1, 'x'), (2, 'y'), (3, 'x')",
        "WITH a AS (DELETE FROM u WHERE g = 1) UPDATE t SET g = g + 1 WHERE id > 15",
        "BEGIN; DELETE FROM t WHERE g = 4; INSERT INTO t VALUES (100, 4, 1); COMMIT",
        "TRUNCATE t",
        "INSERT INTO t VALUES (1, 1, 1)",
    ] {
        session.run(sql).during(sql)?;
        for (name, query) in streams {
            assert_exact(&mut session, schema, name, query).during(sql)?;
        }
        later.refresh(&mut session)?;
        oracle::assert_exact(&mut session, &later.quoted(), query).during(sql)?;
        later.assert_verified(&mut session)?;
    }
    // In a transaction that has changed a parent's source, the child shows committed changes only.
    session.each("BEGIN; INSERT INTO t VALUES (7, 7, 7)")?;
    assert_error(&mut session, "SELECT pgtrickle.refresh_stream_table('later')", "55000", &["changed"])?;
    session.run("ROLLBACK")?;
    // What is written after a refresh in the same transaction is not taken for known.
    session.each("BEGIN; SELECT pgtrickle.refresh_stream_table('later'); INSERT INTO t VALUES (8, 8, 8); COMMIT")?;
    later.refresh(&mut session)?;
    oracle::assert_exact(&mut session, &later.quoted(), query)
}

fn partitions_come_and_go(server: &Server) -> Outcome {
    let schema = "now_parts";
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE t (id int, k int, v text) PARTITION BY RANGE (k); \
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); \
         CREATE TABLE t2 (v text, k int, id int); ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)",
    )?;
    let query = "SELECT k % 3 AS r, count(*) AS n, max(v) AS v FROM t GROUP BY 1";
    create(&mut session, schema, "st", query)?;
    let statements = [
        "INSERT INTO t SELECT i, i % 20, 'v' || i FROM generate_series(1, 60) i",
        "INSERT INTO t2 (id, k, v) VALUES (100, 11, 'direct')",
        "UPDATE t SET k = (k + 7) % 20 WHERE id % 5 = 0",
        "DELETE FROM t2 WHERE k = 12",
        "CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30)",
        "INSERT INTO t3 VALUES (200, 22, 'new')",
        "UPDATE t SET k = 25 WHERE k = 3",
        "ALTER TABLE t DETACH PARTITION t2",
        "INSERT INTO t2 (id, k, v) VALUES (101, 11, 'outside')",
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (10) TO (20)",
        "UPDATE t2 SET v = 'zz'",
        "TRUNCATE t1",
        "DROP TABLE t3",
        "INSERT INTO t VALUES (7, 7, 'seven')",
    ];
    exact_after_each(&mut session, schema, &[("st", query)], &statements)
}

fn source_definitions(server: &Server) -> Outcome {
    let schema = "now_ddl";
    let mut session = arrange(
        server,
        schema,
        "CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TABLE t (a int, id int PRIMARY KEY, v int, m mood); INSERT INTO t VALUES (1, 1, 1, 'ok')",
    )?;
    let query = "SELECT id, v * 2 AS w, m::text AS m FROM t";
    create(&mut session, schema, "st", query)?;
    for sql in [
        "ALTER TABLE t ADD COLUMN extra text DEFAULT 'x'",
        "INSERT INTO t (id, v, m) VALUES (2, 2, 'bad')",
        "ALTER TABLE t DROP COLUMN a",
        "UPDATE t SET v = v + 1",
        "ALTER TABLE t RENAME COLUMN v TO value",
        "ALTER TABLE t RENAME COLUMN value TO v",
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'good'",
        "INSERT INTO t (id, v, m) VALUES (3, 2, 'good')",
        "ALTER TABLE t RENAME TO renamed",
        "INSERT INTO renamed (id, v, m) VALUES (4, 2, 'good')",
        "ALTER TABLE renamed RENAME TO t",
        "VACUUM FULL t",
        "ALTER TABLE t ALTER extra DROP DEFAULT, ALTER extra TYPE bytea USING NULL",
        "DELETE FROM t WHERE id = 1",
        "ALTER TABLE st RENAME TO st2",
        "UPDATE t SET v = v + 1",
        "ALTER TABLE st2 RENAME TO st",
    ] {
        session.run(sql).during(sql)?;
        let name = if session.holds("SELECT to_regclass('st') IS NULL")? { "st2" } else { "st" };
        let query = if session.holds("SELECT to_regclass('t') IS NULL")? {
            query.replace(" t", " renamed")
        } else {
            query.into()
        };
        if !sql.contains("TO value") {
            assert_exact(&mut session, schema, name, &query).during(sql)?;
        }
    }
    assert_error(&mut session, "ALTER TABLE t DISABLE TRIGGER ALL", "2BP01", &["pgtrickle_", "refresh_mode"])?;
    assert_error(&mut session, "DROP TRIGGER pgtrickle_insert ON t", "2BP01", &["pgtrickle_insert", "refresh_mode"])?;
    for (trigger, table) in [("pgtrickle_before", "t"), ("pgtrickle_guard", "st")] {
        let replace = format!(
            "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION tsvector_update_trigger()"
        );
        assert_error(&mut session, &replace, "2BP01", &[trigger, "refresh_mode"])?;
    }
    let rename = "ALTER TRIGGER pgtrickle_insert ON t RENAME TO mine";
    assert_error(&mut session, rename, "2BP01", &["mine", "refresh_mode"])?;
    assert_error(&mut session, "CREATE TABLE child () INHERITS (t)", "0A000", &["now_ddl.st", "inheritance"])?;
    session.run("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
}

/// Statements count in every replication role; rows that a subscription applies would be missed, and are refused.
fn what_replication_writes(server: &Server) -> Outcome {
    let schema = "now_replica";
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
    )?;
    let query = "SELECT v, count(*) AS n FROM t GROUP BY v";
    create(&mut session, schema, "st", query)?;
    create(&mut session, schema, "stp", "SELECT max(v) AS m FROM p")?;
    session.each("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)")?;
    session.each("SET session_replication_role = replica; INSERT INTO t VALUES (1, 1), (2, 2); UPDATE t SET v = 3; DELETE FROM t WHERE id = 1")?;
    session
        .each("INSERT INTO p VALUES (1, 1), (101, 5); DELETE FROM p2; TRUNCATE t; RESET session_replication_role")?;
    assert_exact(&mut session, schema, "st", query)?;
    assert_exact(&mut session, schema, "stp", "SELECT max(v) AS m FROM p")?;
    // A publication of this server's own, applied to the same table of another database.
    session.run("CREATE DATABASE now_subscriber")?;
    session.each("CREATE PUBLICATION now_pub FOR TABLE t")?;
    let mut far = server.session_in("now_subscriber")?;
    far.each("CREATE EXTENSION pg_trickle; CREATE SCHEMA now_replica; CREATE TABLE now_replica.t (id int PRIMARY KEY, v int)")?;
    far.run(
        &StreamTable::new(schema, "st").immediate_creation("SELECT v, count(*) AS n FROM now_replica.t GROUP BY v"),
    )?;
    session.run("SELECT pg_create_logical_replication_slot('now_sub', 'pgoutput')")?;
    far.run(&format!(
        "CREATE SUBSCRIPTION now_sub CONNECTION 'host={} port={} dbname=postgres user=postgres' PUBLICATION now_pub \
         WITH (create_slot = false, slot_name = 'now_sub', copy_data = false)",
        server.dir().display(),
        server.port()
    ))?;
    session.run("INSERT INTO t VALUES (7, 7)")?;
    pgtrickle_tests::wait::until("the subscription says why it stops", Duration::from_secs(60), || {
        Ok(server.log().contains("stream table now_replica.st cannot follow changes that replication applies"))
    })?;
    far.run("SELECT pgtrickle.alter_stream_table('now_replica.st', refresh_mode => 'AUTO')")?;
    pgtrickle_tests::wait::until("the subscription goes on", Duration::from_secs(60), || {
        far.holds("SELECT count(*) = 1 FROM now_replica.t")
    })?;
    far.each("ALTER SUBSCRIPTION now_sub DISABLE; ALTER SUBSCRIPTION now_sub SET (slot_name = NONE); DROP SUBSCRIPTION now_sub")?;
    StreamTable::new(schema, "st").refresh(&mut far)?;
    StreamTable::new(schema, "st").assert_verified(&mut far)
}

/// Nothing is captured, so nothing that capture needs is needed.
pub fn without_capture(server: &Server) -> Outcome {
    let mut session = arrange(server, "now_alone", "CREATE TABLE t (id int PRIMARY KEY, v int)")?;
    let query = "SELECT v, count(*) AS n FROM t GROUP BY v";
    create(&mut session, "now_alone", "st", query)?;
    session.each("INSERT INTO t VALUES (1, 1), (2, 1); UPDATE t SET v = 2 WHERE id = 1; SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_exact(&mut session, "now_alone", "st", query)?;
    let mode = "SELECT pgtrickle.alter_stream_table('st', refresh_mode => 'AUTO')";
    assert_error(&mut session, mode, "55000", &["wal_level"])
}

/// Housekeeping drops them some time after the last stream table that needed them.
fn triggers_go_when_unused(server: &Server) -> Outcome {
    let schema = "now_unused";
    let mut session = arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY)")?;
    create(&mut session, schema, "st", "SELECT id FROM t")?;
    create(&mut session, schema, "st2", "SELECT count(*) AS n FROM t")?;
    session.each("SELECT pgtrickle.drop_stream_table('st'); INSERT INTO t VALUES (1)")?;
    assert_exact(&mut session, schema, "st2", "SELECT count(*) AS n FROM t")?;
    session.each("SELECT pgtrickle.drop_stream_table('st2'); INSERT INTO t VALUES (2)")?;
    let triggers =
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'now_unused.t'::regclass AND tgname LIKE 'pgtrickle%'";
    pgtrickle_tests::wait::until("the triggers go", Duration::from_secs(30), || Ok(session.number(triggers)? == 0))
}

/// Until then two rows may have it.
fn late_key(server: &Server) -> Outcome {
    let schema = "now_late_key";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int NOT NULL, v text); INSERT INTO t VALUES (1, 'a')")?;
    let query = "SELECT id, v FROM t";
    create(&mut session, schema, "st", query)?;
    session.each(
        "ALTER TABLE t ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED; UPDATE t SET v = 'a2';
         BEGIN; INSERT INTO t VALUES (1, 'b'); DELETE FROM t WHERE v = 'a2'; COMMIT",
    )?;
    assert_exact(&mut session, schema, "st", query)
}

fn a_wrong_one_is_repaired(server: &Server) -> Outcome {
    let schema = "now_wrong";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")?;
    let query = "SELECT v, count(*) AS n FROM t GROUP BY v";
    create(&mut session, schema, "st", query)?;
    let st = StreamTable::new(schema, "st");
    assert_error(&mut session, "DROP TRIGGER pgtrickle_guard ON st", "2BP01", &["pgtrickle_guard"])?;
    session.each("ALTER TABLE st DISABLE TRIGGER pgtrickle_guard; UPDATE st SET n = 5 WHERE v = 1; ALTER TABLE st ENABLE TRIGGER pgtrickle_guard")?;
    if st.verify(&mut session)? != (1, 1) {
        return Err(Failure::new("the audit did not find what is wrong"));
    }
    // The next writer, or the scheduler, computes it anew.
    session.run("INSERT INTO t VALUES (3, 3)")?;
    assert_exact(&mut session, schema, "st", query)?;
    session.run("SELECT pgtrickle.repair_stream_table('st'), pgtrickle.reinitialize_stream_table('st')")?;
    session.run("INSERT INTO t VALUES (4, 3)")?;
    assert_exact(&mut session, schema, "st", query)
}

/// What was taken out of it before it was found to be wrong is no difference to what is computed anew.
fn readers_of_a_wrong_one(server: &Server) -> Outcome {
    let schema = "now_told";
    let mut session = arrange(server, schema, "CREATE TABLE t (v int); INSERT INTO t VALUES (1), (2), (3)")?;
    create(&mut session, schema, "st", "SELECT v FROM t")?;
    create(&mut session, schema, "at_once", "SELECT v FROM st")?;
    StreamTable::new(schema, "later").create(&mut session, "SELECT v FROM st", "24h")?;
    session.each(
        "ALTER TABLE st DISABLE TRIGGER pgtrickle_guard; DELETE FROM st WHERE v = 1;
         ALTER TABLE st ENABLE TRIGGER pgtrickle_guard; DELETE FROM t WHERE v < 3",
    )?;
    StreamTable::new(schema, "later").refresh(&mut session)?;
    ["st", "at_once", "later"].iter().try_for_each(|name| assert_exact(&mut session, schema, name, "SELECT v FROM t"))
}

fn what_is_shown(server: &Server) -> Outcome {
    let schema = "now_shown";
    let mut session = arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int)")?;
    create(&mut session, schema, "st", "SELECT v, count(*) AS n FROM t GROUP BY v")?;
    session
        .each("INSERT INTO t VALUES (1, 1); BEGIN; SAVEPOINT s; INSERT INTO t VALUES (2, 2); ROLLBACK TO s; COMMIT")?;
    for holds in [
        "SELECT effective_refresh_mode = 'IMMEDIATE' AND status = 'ACTIVE' FROM pgtrickle.pgt_status() WHERE schema = 'now_shown'",
        "SELECT count(*) = 0 FROM pgtrickle.health_check() WHERE check_name IN ('stream table st', 'stream table now_shown.st')",
        "SELECT state = 'FOLLOWING' FROM pgtrickle.validate_recovery() WHERE stream_table = 'now_shown.st'",
        "SELECT string_agg(l, E'\\n') LIKE '%IMMEDIATE%' FROM pgtrickle.explain_st('st') l",
        "SELECT effective_mode = 'IMMEDIATE' AND reason LIKE '%whoever writes%' FROM pgtrickle.explain_refresh_mode('st')",
        "SELECT pgtrickle.wait_for_stream_table('st')",
        "SELECT pgtrickle.get_staleness('st') < 10",
        "SELECT refreshes = 2 AND rows_changed = 1 FROM pgtrickle.pg_stat_stream_tables WHERE schema = 'now_shown'",
        "SELECT count(*) = 0 FROM pgtrickle.pgt_change_tracking WHERE source_relid = 'now_shown.t'::regclass",
        "SELECT bool_and(cdc_mode = 'TRIGGER') FROM pgtrickle.change_buffer_sizes() WHERE source_oid = 'now_shown.t'::regclass",
    ] {
        if !session.holds(holds).during(holds)? {
            return Err(Failure::new(format!("not so: {holds}")));
        }
    }
    session.run("SELECT pgtrickle.refresh_stream_table('st'), pgtrickle.refresh_if_stale('st', '0s'), pgtrickle.list_sources('st'), pgtrickle.export_definition('st')")
}
