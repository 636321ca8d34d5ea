//! Statements of every kind, triggers and foreign keys, and what is not let through.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::{During, Failure, Outcome};

use super::{Test, arrange, assert_error, assert_exact, create, exact_after_each};

pub const TESTS: &[Test] = &[
    ("triggers_write_sources", triggers_write_sources),
    ("foreign_keys_cascade", foreign_keys_cascade),
    ("errors_name_the_stream_table", errors_name_the_stream_table),
    ("rolled_back_parts_leave_nothing", rolled_back_parts_leave_nothing),
    ("rights", rights),
    ("refused_queries", refused_queries),
    ("many_statements_in_a_transaction", many_statements),
];

/// What a statement needed is given back before the transaction ends.
fn many_statements(server: &Server) -> Outcome {
    let schema = "now_many";
    let columns: Vec<String> = (0..20).map(|i| format!("c{i} int")).collect();
    let mut session = arrange(server, schema, &format!("CREATE TABLE t ({})", columns.join(", ")))?;
    create(&mut session, schema, "st", "SELECT sum(c0) AS s, max(c19) AS m FROM t")?;
    let used = "SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext'";
    let many = "DO $$ BEGIN FOR i IN 1..500 LOOP INSERT INTO t (c0) VALUES (i); END LOOP; END $$";
    session.run("BEGIN")?;
    session.run(many)?;
    let before: i64 = session.text(used)?.parse().unwrap_or(0);
    session.run(many)?;
    let after: i64 = session.text(used)?.parse().unwrap_or(i64::MAX);
    session.run("COMMIT")?;
    if after - before < 200_000 { Ok(()) } else { Err(Failure::new(format!("{before} bytes have become {after}"))) }
}

fn triggers_write_sources(server: &Server) -> Outcome {
    let schema = "now_triggers";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE log (id int, v int)")?;
    session.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO log VALUES (new.id, new.v);
             IF new.v > 0 THEN UPDATE t SET v = v - 1 WHERE id = new.id; END IF;
             BEGIN
                 INSERT INTO log VALUES (new.id, -1);
                 RAISE division_by_zero;
             EXCEPTION WHEN division_by_zero THEN NULL;
             END;
             RETURN NULL;
         END $$;
         CREATE TRIGGER a_row AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
         CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN DELETE FROM log WHERE v = 1; RETURN NULL; END $$;
         CREATE TRIGGER a_first AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION sweep();
         CREATE TRIGGER z_last AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION sweep();",
    )?;
    let query =
        "SELECT t.id, t.v, count(log.v) AS n, sum(log.v) AS s FROM t LEFT JOIN log USING (id) GROUP BY t.id, t.v";
    create(&mut session, schema, "st", query)?;
    let statements = [
        "INSERT INTO t VALUES (1, 3), (2, 1)",
        "UPDATE t SET v = 2",
        "WITH a AS (INSERT INTO t VALUES (3, 2) RETURNING id) INSERT INTO log SELECT id, 7 FROM a",
        "DELETE FROM t WHERE id = 1",
    ];
    exact_after_each(&mut session, schema, &[("st", query)], &statements)
}

fn foreign_keys_cascade(server: &Server) -> Outcome {
    let schema = "now_cascade";
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE p (id int PRIMARY KEY, boss int REFERENCES p ON DELETE CASCADE); \
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE); \
         CREATE TABLE d (id int PRIMARY KEY, c int REFERENCES c ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED)",
    )?;
    let query = "SELECT p.id, count(c.id) AS cs, count(d.id) AS ds FROM p LEFT JOIN c ON c.p = p.id LEFT JOIN d ON d.c = c.id GROUP BY p.id";
    create(&mut session, schema, "st", query)?;
    let all = "SELECT p.boss, c.p, d.c FROM d LEFT JOIN c ON d.c = c.id LEFT JOIN p ON p.id = c.p";
    create(&mut session, schema, "every", all)?;
    let statements = [
        "INSERT INTO p SELECT i, nullif(i / 2, 0) FROM generate_series(1, 12) i",
        "INSERT INTO c SELECT i, i % 12 + 1 FROM generate_series(1, 30) i",
        "INSERT INTO d SELECT i, i % 30 + 1 FROM generate_series(1, 60) i",
        "DELETE FROM p WHERE id = 3",
        "UPDATE p SET id = 100 WHERE id = 12",
        "DELETE FROM c WHERE id % 4 = 0",
        "TRUNCATE p CASCADE",
    ];
    exact_after_each(&mut session, schema, &[("st", query), ("every", all)], &statements)
}

fn errors_name_the_stream_table(server: &Server) -> Outcome {
    let schema = "now_errors";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")?;
    create(&mut session, schema, "st", "SELECT id, 10 / v AS q FROM t")?;
    let parts = ["division by zero", "Stream table now_errors.st", "alter_stream_table"];
    assert_error(&mut session, "INSERT INTO t VALUES (2, 0)", "22012", &parts)?;
    assert_error(&mut session, "DELETE FROM st", "42809", &["now_errors.st"])?;
    session.run("INSERT INTO t VALUES (2, 5)")?;
    assert_exact(&mut session, schema, "st", "SELECT id, 10 / v AS q FROM t")
}

fn rolled_back_parts_leave_nothing(server: &Server) -> Outcome {
    let schema = "now_rollback";
    let mut session = arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, v int)")?;
    let query = "SELECT v, count(*) AS n FROM t GROUP BY v";
    create(&mut session, schema, "st", query)?;
    session.run(
        "DO $$
         BEGIN
             FOR i IN 1..20 LOOP
                 BEGIN
                     INSERT INTO t VALUES (i, i % 3);
                     IF i % 2 = 0 THEN INSERT INTO t VALUES (i, 9); END IF;
                 EXCEPTION WHEN unique_violation THEN
                     INSERT INTO t VALUES (i + 100, 5);
                 END;
             END LOOP;
         END $$",
    )?;
    assert_exact(&mut session, schema, "st", query)?;
    session.each(
        "BEGIN; INSERT INTO t VALUES (300, 1); SAVEPOINT a; UPDATE t SET v = 7; RELEASE a; SAVEPOINT b; DELETE FROM t",
    )?;
    session.each("ROLLBACK TO b; INSERT INTO t VALUES (301, 1); COMMIT")?;
    assert_exact(&mut session, schema, "st", query)?;
    session.each("BEGIN; DELETE FROM t; ROLLBACK")?;
    assert_exact(&mut session, schema, "st", query)?;
    session.each("BEGIN; INSERT INTO t VALUES (400, 400); PREPARE TRANSACTION 'now rollback'")?;
    let mut other = server.session()?;
    assert_error(
        &mut other,
        "BEGIN; SET LOCAL lock_timeout = '200ms'; INSERT INTO now_rollback.t VALUES (401, 1)",
        "55P03",
        &[],
    )?;
    other.run("ROLLBACK")?;
    session.run("COMMIT PREPARED 'now rollback'")?;
    assert_exact(&mut session, schema, "st", query)
}

/// Writers need no rights on the stream table, its owner needs that of having triggers on the sources.
fn rights(server: &Server) -> Outcome {
    let schema = "now_rights";
    let mut session = arrange(
        server,
        schema,
        "CREATE ROLE now_owner; CREATE ROLE now_maker; CREATE ROLE now_writer; CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t OWNER TO now_owner; \
         GRANT USAGE, CREATE ON SCHEMA now_rights TO now_maker; GRANT USAGE ON SCHEMA now_rights TO now_owner, now_writer; \
         GRANT SELECT ON t TO now_maker; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO now_writer",
    )?;
    let creation = "SELECT pgtrickle.create_stream_table('st', 'SELECT v, count(*) AS n FROM t GROUP BY v', refresh_mode => 'IMMEDIATE')";
    session.run("SET ROLE now_maker")?;
    assert_error(&mut session, creation, "42501", &["now_rights.t", "GRANT TRIGGER"])?;
    session.each("RESET ROLE; GRANT TRIGGER ON t TO now_maker; SET ROLE now_maker")?;
    session.run(creation)?;
    session.each(
        "RESET ROLE; SET ROLE now_writer; INSERT INTO t VALUES (1, 1), (2, 1); UPDATE t SET v = 2 WHERE id = 1",
    )?;
    assert_error(&mut session, "SELECT * FROM st", "42501", &[])?;
    session.run("RESET ROLE")?;
    assert_exact(&mut session, schema, "st", "SELECT v, count(*) AS n FROM t GROUP BY v")
}

fn refused_queries(server: &Server) -> Outcome {
    let schema = "now_refused";
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE MATERIALIZED VIEW m AS SELECT * FROM t; \
         CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent); \
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); \
         SELECT pgtrickle.create_stream_table('deferred', 'SELECT id FROM t')",
    )?;
    for (query, reason) in [
        ("SELECT id, now() AS at FROM t", "now()"),
        ("SELECT * FROM m", "materialized view"),
        ("SELECT * FROM parent", "inheritance"),
        ("SELECT * FROM late", "deferrable"),
        ("SELECT * FROM deferred", "now_refused.deferred"),
    ] {
        let sql = format!("SELECT pgtrickle.create_stream_table('st', '{query}', refresh_mode => 'IMMEDIATE')");
        assert_error(&mut session, &sql, "0A000", &["cannot be maintained at once", reason]).during(query)?;
    }
    assert_error(
        &mut session,
        "SELECT pgtrickle.create_stream_table('st', 'SELECT id FROM t', refresh_mode => 'IMMEDIATE', initialize => false)",
        "22023",
        &["filled"],
    )
}
