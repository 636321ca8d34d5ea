//! What users define on stream tables themselves, and what drops take along.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Outcome, oracle, wait};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("rows_and_columns_are_ours", rows_and_columns),
    ("what_users_may_define", allowed),
    ("published", published),
    ("owner_and_name_change", owner_and_name),
    ("schema_is_renamed", schema_renamed),
    ("drops_that_take_along", drops),
];

fn rows_and_columns(server: &Server) -> Outcome {
    let mut session = arrange(server, "guarded", "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x')")?;
    session.each(
        "CREATE TYPE row_type AS (a int, b text); SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h'); \
         CREATE UNIQUE INDEX ON st (a)",
    )?;
    for statement in [
        "INSERT INTO st VALUES (2)",
        "UPDATE st SET a = 2",
        "DELETE FROM st",
        "TRUNCATE st",
        "TRUNCATE t, st",
        "COPY st FROM PROGRAM 'echo 1'",
        "MERGE INTO st USING t ON st.a = t.a WHEN MATCHED THEN DELETE",
        "ALTER TABLE st ADD COLUMN c int",
        "ALTER TABLE st DROP COLUMN b",
        "ALTER TABLE st RENAME COLUMN b TO c",
        "ALTER TABLE st ALTER COLUMN a TYPE bigint",
        "ALTER TABLE st ALTER COLUMN a TYPE int USING a + 1",
        "ALTER TABLE st OF guarded.row_type",
        "ALTER TABLE st ADD UNIQUE (a) DEFERRABLE INITIALLY DEFERRED",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON st DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()",
        "CREATE TABLE reader (a int REFERENCES st (a) DEFERRABLE INITIALLY DEFERRED)",
    ] {
        assert_error(&mut session, statement, "42809", &["stream table guarded.st", "hint"])?;
    }
    // What arrives by replication is the publisher's business.
    session.each("SET session_replication_role = replica; DELETE FROM st; RESET session_replication_role")?;
    session.each("SELECT pgtrickle.reinitialize_stream_table('st')")?;
    oracle::assert_exact(&mut session, "st", "TABLE t")
}

fn allowed(server: &Server) -> Outcome {
    let mut session = arrange(server, "allowed", "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x')")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', schedule => '1h'); \
         CREATE INDEX ON st (b); COMMENT ON TABLE st IS 'mine'; COMMENT ON COLUMN st.a IS 'mine'; GRANT SELECT ON st TO PUBLIC; \
         CREATE PUBLICATION allowed_p FOR TABLE st; ALTER TABLE st ADD CHECK (a > 0); ALTER TABLE st ALTER COLUMN b SET STORAGE EXTERNAL; \
         ALTER TABLE st REPLICA IDENTITY FULL; CREATE STATISTICS allowed_s ON a, b FROM st; ALTER TABLE st SET (fillfactor = 70); \
         CREATE TABLE seen (a int)",
    )?;
    session.run("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO allowed.seen VALUES (NEW.a); RETURN NEW; END $$")?;
    session.each("CREATE TRIGGER note AFTER INSERT ON st FOR EACH ROW EXECUTE FUNCTION note()")?;
    session.each("INSERT INTO t VALUES (2, 'y'); VACUUM FULL st; CLUSTER st USING st_b_idx; SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT string_agg(a::text, ',') FROM seen", "2")?;
    oracle::assert_exact(&mut session, "st", "TABLE t")?;
    session.each("DROP PUBLICATION allowed_p")
}

/// Who publishes all tables publishes those without a key, and what refreshes keep, too.
fn published(server: &Server) -> Outcome {
    // A database of its own: others do not expect to be published.
    server.session()?.run("CREATE DATABASE published")?;
    let mut session = server.session_in("published")?;
    session.each(
        "SET statement_timeout = '60s'; CREATE EXTENSION pg_trickle; CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)",
    )?;
    let (bag, groups) = ("SELECT a, b FROM t", "SELECT a, max(b) AS m, count(*) AS n FROM t GROUP BY a");
    let create = |name, query| format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', schedule => '1h')");
    let check = |session: &mut Session, name, query| {
        session.each(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        oracle::assert_exact(session, name, query)
    };
    session.run(&create("before_bag", bag))?;
    session.run(&create("before_groups", groups))?;
    session.run("CREATE PUBLICATION published_all FOR ALL TABLES")?;
    session.run(&create("bag", bag))?;
    session.run(&create("groups", groups))?;
    session.each("DELETE FROM t WHERE a = 1; INSERT INTO t VALUES (2, 3)")?;
    ["before_bag", "bag"].into_iter().try_for_each(|name| check(&mut session, name, bag))?;
    ["before_groups", "groups"].into_iter().try_for_each(|name| check(&mut session, name, groups))?;
    drop(session);
    server.session()?.run("DROP DATABASE published WITH (FORCE)")
}

fn owner_and_name(server: &Server) -> Outcome {
    let mut session = arrange(server, "owning", "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1)")?;
    session.each(
        "CREATE ROLE owned_one; CREATE ROLE owned_two; CREATE SCHEMA owning_other; GRANT ALL ON SCHEMA owning, owning_other TO owned_one, owned_two; \
         GRANT SELECT ON t TO owned_one, owned_two; SET ROLE owned_one; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT b, count(*) AS n FROM t GROUP BY b', schedule => '1s'); RESET ROLE; \
         ALTER TABLE st OWNER TO owned_two; SET ROLE owned_two",
    )?;
    let query = "SELECT b, count(*) AS n FROM owning.t GROUP BY b";
    let mut name = "owning.st";
    for (value, change, next) in [
        (2, "SELECT 1", "owning.st"),
        (3, "ALTER TABLE owning.st RENAME TO renamed", "owning.renamed"),
        (4, "ALTER TABLE owning.renamed SET SCHEMA owning_other", "owning_other.renamed"),
    ] {
        session.each(&format!("{change}; RESET ROLE; INSERT INTO t VALUES ({value}, {value}); SET ROLE owned_two"))?;
        name = next;
        // Both by the scheduler and by hand.
        wait::until(name, wait::PATIENCE, || session.holds(&format!("SELECT count(*) = {value} FROM {name}")))?;
        session.each(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        oracle::assert_exact(&mut session, name, query)?;
    }
    session.each("RESET ROLE")?;
    let noted = "SELECT pgt_schema || '.' || pgt_name FROM pgtrickle.pgt_stream_tables WHERE pgt_schema LIKE 'owning%'";
    assert_text(&mut session, noted, name)?;
    let strays = "SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) = 'owned_one'";
    assert_text(&mut session, strays, "0")
}

fn schema_renamed(server: &Server) -> Outcome {
    let mut session = arrange(server, "renaming", "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT b, count(*) AS n FROM t GROUP BY b', schedule => '1s')",
    )?;
    session.each("ALTER SCHEMA renaming RENAME TO renamed; INSERT INTO renamed.t VALUES (2, 2)")?;
    wait::until("the scheduler", wait::PATIENCE, || session.holds("SELECT count(*) = 2 FROM renamed.st"))?;
    session.each("INSERT INTO renamed.t VALUES (3, 3); SELECT pgtrickle.refresh_stream_table('renamed.st')")?;
    assert_text(&mut session, "SELECT count(*) FROM renamed.st", "3")?;
    assert_text(&mut session, "SELECT missing + extra FROM pgtrickle.verify_stream_table('renamed.st')", "0")
}

fn drops(server: &Server) -> Outcome {
    let mut session = arrange(server, "dropping", "CREATE TABLE t (a int, b int)")?;
    session.each(
        "CREATE ROLE dropping_one; CREATE SCHEMA dropping_too; GRANT ALL ON SCHEMA dropping TO dropping_one; GRANT SELECT ON t TO dropping_one; \
         SELECT pgtrickle.create_stream_table('dropping_too.st', 'SELECT b, count(*) AS n FROM t GROUP BY b', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('kept', 'SELECT a FROM t', schedule => '1s'); SET ROLE dropping_one; \
         SELECT pgtrickle.create_stream_table('theirs', 'SELECT b, count(*) AS n FROM t GROUP BY b', schedule => '1s'); \
         SELECT pgtrickle.create_stream_table('child', 'SELECT n FROM theirs', schedule => '1s'); RESET ROLE; \
         DROP OWNED BY dropping_one; DROP ROLE dropping_one; DROP SCHEMA dropping_too CASCADE; INSERT INTO t VALUES (1, 1)",
    )?;
    assert_text(
        &mut session,
        "SELECT string_agg(pgt_name, ',') FROM pgtrickle.pgt_stream_tables WHERE pgt_schema LIKE 'dropping%'",
        "kept",
    )?;
    wait::until("the one that stays", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM kept"))?;
    let left = "SELECT count(*) FROM pg_class c, regexp_matches(relname, '^(?:def|state)_([0-9]+)') AS id \
                 WHERE relnamespace IN ('pgtrickle'::regnamespace, 'pgtrickle_changes'::regnamespace) AND relkind IN ('v', 'r') \
                   AND NOT EXISTS (SELECT FROM pgtrickle.pgt_stream_tables WHERE pgt_id = id[1]::bigint)";
    wait::until("nothing is left behind", wait::PATIENCE, || session.holds(&format!("SELECT ({left}) = 0")))
}
