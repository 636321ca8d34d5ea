//! What a refresh could miss for good: changes that look like others that it has seen, definitions that change while it runs or
//! beneath what the query names, rows that no change buffer can hold.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Outcome, oracle};

use crate::meanwhile::PARTITIONED;
use crate::{Test, arrange, assert_error, assert_text, follows};

pub const TESTS: &[Test] = &[
    ("refreshed_twice_in_a_transaction", refreshed_twice),
    ("functions_beneath_are_replaced", functions_beneath),
    ("a_row_that_cannot_be_computed_has_gone", impossible_row),
    ("a_view_without_tables_is_replaced", without_tables),
    ("text_search_is_redefined", text_search),
    ("casts_come_and_go", casts),
    ("keys_that_come", keys_that_come),
    ("virtual_columns_are_redefined", virtual_columns),
    ("tampered_with", tampered_with),
    ("a_failure_without_changes", failed_without_changes),
    ("a_transaction_that_only_reads", only_reads),
    ("programs_are_the_same_in_every_time_zone", time_zones),
    ("own_changes_of_a_partition", changed_partition),
    ("own_changes_of_what_is_maintained_at_once", changed_at_once),
    ("a_reader_is_current_when_its_parents_are", stale_parent),
    ("refreshes_that_write_no_row_of_the_result", only_state),
];

/// All that a parent writes in one transaction is told under one transaction id, at whichever of its refreshes.
fn refreshed_twice(server: &Server) -> Outcome {
    let mut session = arrange(server, "twice", "CREATE TABLE t (v int); INSERT INTO t VALUES (1)")?;
    let mut writer = server.session()?;
    session.each(
        "BEGIN; SELECT pgtrickle.create_stream_table('parent', 'SELECT v FROM t WHERE v > 0', '1h');
         SELECT pgtrickle.create_stream_table('child', 'SELECT sum(v) AS s FROM parent', '1h'); COMMIT",
    )?;
    for (first, second) in [("child", "child"), ("child", "parent"), ("parent", "child")] {
        writer.run("INSERT INTO twice.t VALUES (10)")?;
        session.each(&format!("BEGIN; SELECT pgtrickle.refresh_stream_table('{first}')"))?;
        writer.run("INSERT INTO twice.t VALUES (100)")?;
        session.run(&format!("SELECT pgtrickle.refresh_stream_table('{second}')"))?;
        let both = "SELECT (SELECT s FROM child) = (SELECT sum(v) FROM t)";
        if second == "child" {
            assert_text(&mut session, both, "t")?;
        }
        session.each("COMMIT; SELECT pgtrickle.refresh_stream_table('child')")?;
        assert_text(&mut session, both, "t")?;
    }
    Ok(())
}

/// A query's aggregates and operators are made of functions, and so are functions whose body is parsed.
fn functions_beneath(server: &Server) -> Outcome {
    let mut session = arrange(server, "beneath", "CREATE TABLE t (v int); INSERT INTO t VALUES (1), (2), (9)")?;
    session.each(
        "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
         CREATE AGGREGATE total(int) (SFUNC = plus, STYPE = int, INITCOND = 0);
         CREATE FUNCTION above(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > $2';
         CREATE OPERATOR >>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = above);
         CREATE FUNCTION parsed(int) RETURNS boolean IMMUTABLE RETURN above($1, 1)",
    )?;
    let stream_tables = [
        ("of_aggregate", "SELECT total(v) AS x FROM t"),
        ("of_operator", "SELECT count(*) AS x FROM t WHERE v OPERATOR(beneath.>>>>) 1"),
        ("of_parsed", "SELECT count(*) AS x FROM t WHERE parsed(v)"),
    ];
    for (name, query) in stream_tables {
        session.run(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', '1h')"))?;
    }
    session
        .each("CREATE OR REPLACE FUNCTION plus(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2 + 1'")?;
    session.run(
        "CREATE OR REPLACE FUNCTION above(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS \
         'BEGIN RETURN $1 > $2 + 5; END'",
    )?;
    for (name, query) in stream_tables {
        session.run(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        assert_text(&mut session, &format!("SELECT (SELECT x FROM {name}) = ({query})"), "t")?;
    }
    Ok(())
}

/// A row that fills a page leaves no room for what a change buffer adds. Its source is given up; the others are captured on.
pub fn rows_too_wide(server: &Server) -> Outcome {
    let columns =
        |what: &str, between| (1..=127).map(|i| what.replace('#', &i.to_string())).collect::<Vec<_>>().join(between);
    let table = format!("CREATE TABLE wide ({}); CREATE TABLE other (v int)", columns("c# name", ", "));
    let mut session = arrange(server, "too_wide", &table)?;
    let query = format!("SELECT {} AS s FROM wide", columns("c#::text", " || "));
    session.run(&format!("SELECT pgtrickle.create_stream_table('st', '{query}', '0s')"))?;
    session.run("SELECT pgtrickle.create_stream_table('st_other', 'SELECT v FROM other', '0s')")?;
    session.run(&format!("INSERT INTO wide VALUES ({})", columns("'#'", ", ")))?;
    session.run("INSERT INTO other VALUES (7)")?;
    follows(&mut session, "SELECT max(v) FROM st_other", "7")?;
    let state = "SELECT state FROM pgtrickle.pgt_change_tracking WHERE source_relid = 'wide'::regclass";
    follows(&mut session, state, "DEGRADED")?;
    follows(&mut session, "SELECT max(s) FROM st", &columns("#", ""))?;
    // Mended, it is captured again, though nobody has written to it in between.
    session.each("TRUNCATE wide; SELECT pgtrickle.repair_stream_table('st')")?;
    session.run("INSERT INTO wide VALUES (NULL)")?;
    session.run("INSERT INTO other VALUES (8)")?;
    follows(&mut session, "SELECT max(v) FROM st_other", "8")?;
    follows(&mut session, "SELECT count(*) FROM st WHERE s IS NULL", "1")?;
    assert_text(&mut session, state, "ACTIVE")
}

/// A row that the query cannot be computed for has come and gone between two refreshes.
fn impossible_row(server: &Server) -> Outcome {
    let mut session = arrange(server, "impossible", "CREATE TABLE t (id int, v int); INSERT INTO t VALUES (1, 1)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('st', 'SELECT id FROM t WHERE 10 / v > 2', '0s');
         SELECT pgtrickle.pause_stream_table('st'); INSERT INTO t VALUES (2, 0); UPDATE t SET v = 3 WHERE id = 2;
         SELECT pgtrickle.resume_stream_table('st')",
    )?;
    follows(&mut session, "SELECT count(*) FROM st", "2")?;
    session.run("INSERT INTO t VALUES (3, 1)")?;
    follows(&mut session, "SELECT count(*) FROM st", "3")?;
    // By hand it is computed anew at once, and its reader misses nothing of what the first try had done.
    session.each(
        "SELECT pgtrickle.create_stream_table('u', 'SELECT id, 10 / v AS d FROM t WHERE v < 3', '1h');
         SELECT pgtrickle.create_stream_table('reader', 'SELECT sum(d) AS s FROM u', '1h');
         INSERT INTO t VALUES (4, 0), (5, 2); DELETE FROM t WHERE id = 1; DELETE FROM t WHERE v = 0;
         SELECT pgtrickle.refresh_stream_table('u'), pgtrickle.refresh_stream_table('reader')",
    )?;
    oracle::assert_exact(&mut session, "u", "SELECT id, 10 / v AS d FROM t WHERE v < 3")?;
    assert_text(&mut session, "SELECT s FROM reader", "15")?;
    // The one that is still there is an error, told as PostgreSQL tells it, and the transaction can go on behind a savepoint.
    session.each("INSERT INTO t VALUES (6, 0); BEGIN; SAVEPOINT s")?;
    assert_error(&mut session, "SELECT pgtrickle.refresh_stream_table('u')", "22012", &["division by zero"])?;
    session.each("ROLLBACK TO s; DELETE FROM t WHERE id = 6; COMMIT; SELECT pgtrickle.refresh_stream_table('u')")?;
    oracle::assert_exact(&mut session, "u", "SELECT id, 10 / v AS d FROM t WHERE v < 3")
}

/// There is no table whose definition could tell of the change.
fn without_tables(server: &Server) -> Outcome {
    let mut session = arrange(server, "tableless", "CREATE VIEW v AS SELECT 1 AS x")?;
    session.run("SELECT pgtrickle.create_stream_table('st', 'SELECT x FROM v', '1h')")?;
    for x in 2..5 {
        session.each(&format!(
            "CREATE OR REPLACE VIEW v AS SELECT {x} AS x; SELECT pgtrickle.refresh_stream_table('st')"
        ))?;
        assert_text(&mut session, "SELECT x FROM st", &x.to_string())?;
    }
    Ok(())
}

/// What makes words of texts is among what a query uses.
fn text_search(server: &Server) -> Outcome {
    let mut session = arrange(server, "words", "CREATE TABLE t (s text); INSERT INTO t VALUES ('running dogs')")?;
    session.each(
        "CREATE TEXT SEARCH CONFIGURATION mine (COPY = english); CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple); \
         SELECT pgtrickle.create_stream_table('st', $$SELECT to_tsvector('words.mine', s)::text AS w, count(*) AS n FROM t GROUP BY 1$$, '1h')",
    )?;
    for change in [
        "ALTER TEXT SEARCH CONFIGURATION mine ALTER MAPPING FOR asciiword WITH words, simple",
        "ALTER TEXT SEARCH DICTIONARY words (accept = false)",
    ] {
        session.each(&format!("{change}; SELECT pgtrickle.refresh_stream_table('st')"))?;
        oracle::assert_exact(
            &mut session,
            "st",
            "SELECT to_tsvector('words.mine', s)::text AS w, count(*) AS n FROM t GROUP BY 1",
        )?;
    }
    Ok(())
}

/// A view keeps the conversions that it was made with, whatever casts there are.
fn casts(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "casts",
        "CREATE TYPE pair AS (a int, b int); CREATE TABLE t (id int, p pair); INSERT INTO t VALUES (1, (1, 2)); \
         CREATE FUNCTION short(pair) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'short'::text $$",
    )?;
    let query = "SELECT id, p::text AS p FROM t";
    let follows = |session: &mut Session, name, shown: &str| {
        session.each(&format!("INSERT INTO t VALUES (2, (3, 4)); SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        assert_text(session, &format!("SELECT string_agg(DISTINCT p, ' ') FROM {name}"), shown)
    };
    session.each(&format!("SELECT pgtrickle.create_stream_table('by_text', '{query}', '1h')"))?;
    follows(&mut session, "by_text", "(1,2) (3,4)")?;
    session.run("CREATE CAST (pair AS text) WITH FUNCTION short(pair)")?;
    follows(&mut session, "by_text", "(1,2) (3,4)")?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('by_cast', '{query}', '1h')"))?;
    session.run("DROP CAST (pair AS text)")?;
    follows(&mut session, "by_cast", "short")?;
    follows(&mut session, "by_text", "(1,2) (3,4)")?;
    session.run("SELECT pgtrickle.reinitialize_stream_table('by_cast')")?;
    follows(&mut session, "by_cast", "short")
}

/// Rows that an earlier definition of a source allowed are in the way of a key that a later one gives.
fn keys_that_come(server: &Server) -> Outcome {
    let tables = "CREATE TABLE t (id int, x int); INSERT INTO t VALUES (1, NULL), (2, 3), (2, 3), (2, 4)";
    let queries = ["SELECT x, count(x) AS n FROM t GROUP BY x", "SELECT DISTINCT x FROM t", "SELECT id, x FROM t"];
    for (schema, mode) in [("keys_later", "AUTO"), ("keys_now", "IMMEDIATE")] {
        let mut session = arrange(server, schema, tables)?;
        for (number, query) in queries.iter().enumerate() {
            session.run(&format!("SELECT pgtrickle.create_stream_table('st{number}', '{query}', '1h', '{mode}')"))?;
        }
        session.each(
            "DELETE FROM t WHERE x IS NULL OR x = 3; ALTER TABLE t ALTER x SET NOT NULL; ALTER TABLE t ADD PRIMARY KEY (id)",
        )?;
        for change in ["SELECT 1", "INSERT INTO t VALUES (1, 4), (3, 5)", "DELETE FROM t WHERE x = 4"] {
            session.run(change)?;
            for (number, query) in queries.iter().enumerate() {
                session.run(&format!("SELECT pgtrickle.refresh_stream_table('st{number}')"))?;
                oracle::assert_exact(&mut session, &format!("st{number}"), query)?;
            }
        }
    }
    Ok(())
}

/// Nothing is rewritten when a column that is computed when it is read is computed otherwise.
fn virtual_columns(server: &Server) -> Outcome {
    let mut session = server.session()?;
    if !session.holds("SELECT current_setting('server_version_num')::int >= 180000")? {
        return Ok(());
    }
    session.each(
        "CREATE SCHEMA virtual; SET search_path = virtual; CREATE TABLE t (a int, v int GENERATED ALWAYS AS (a * 2)); INSERT INTO t VALUES (1); \
         SELECT pgtrickle.create_stream_table('later', 'SELECT a, v FROM t', '0s'); \
         SELECT pgtrickle.create_stream_table('now', 'SELECT a, v FROM t', refresh_mode => 'IMMEDIATE'); \
         ALTER TABLE t ALTER v SET EXPRESSION AS (a * 3)",
    )?;
    assert_text(&mut session, "SELECT v FROM now", "3")?;
    follows(&mut session, "SELECT v FROM later", "3")
}

/// What contradicts the changes is computed anew for whoever asks for a refresh.
fn tampered_with(server: &Server) -> Outcome {
    let mut session = arrange(server, "tampered", "CREATE TABLE t (g int); INSERT INTO t VALUES (1), (1), (2)")?;
    let query = "SELECT g, count(*) AS n FROM t GROUP BY g";
    session.each(&format!(
        "SELECT pgtrickle.create_stream_table('st', '{query}', '1h'); \
         SET session_replication_role = replica; DELETE FROM st WHERE g = 1; RESET session_replication_role; \
         INSERT INTO t VALUES (1), (3); SELECT pgtrickle.refresh_stream_table('st')"
    ))?;
    oracle::assert_exact(&mut session, "st", query)?;
    // Its readers hear of what was taken out of it before that was noticed, whoever notices.
    session.each(
        "CREATE TABLE u (v int); INSERT INTO u SELECT i % 5 FROM generate_series(1, 20) i; \
         SELECT pgtrickle.create_stream_table('bag', 'SELECT v FROM u', '1h'); \
         SELECT pgtrickle.create_stream_table('reader', 'SELECT count(*) AS n FROM bag', '1h')",
    )?;
    let tamper = |v: i32| {
        format!("SET session_replication_role = replica; DELETE FROM bag WHERE v = {v}; RESET session_replication_role")
    };
    for (v, notices) in [
        (1, "DELETE FROM u WHERE v = 1; SELECT pgtrickle.refresh_stream_table('bag')"),
        (2, "SELECT pgtrickle.reinitialize_stream_table('bag')"),
        (3, "SELECT pgtrickle.repair_stream_table('bag')"),
        (4, "SELECT * FROM pgtrickle.verify_stream_table('bag'); SELECT pgtrickle.refresh_stream_table('bag')"),
    ] {
        session.each(&format!("{}; {notices}; SELECT pgtrickle.refresh_stream_table('reader')", tamper(v)))?;
        oracle::assert_exact(&mut session, "reader", "SELECT count(*) AS n FROM u").map_err(|e| e.during(notices))?;
    }
    // Also those that are refreshed with it.
    session
        .each(&format!("{}; DELETE FROM u WHERE v = 0; SELECT pgtrickle.refresh_stream_table('reader')", tamper(0)))?;
    oracle::assert_exact(&mut session, "reader", "SELECT count(*) AS n FROM u")?;
    session.each(&format!("{}; DELETE FROM u WHERE v = 4; INSERT INTO u VALUES (7)", tamper(4)))?;
    session.run("SELECT pgtrickle.alter_stream_table('bag', schedule => '1s')")?;
    follows(&mut session, "SELECT count(*) FROM bag WHERE v = 7", "1")?;
    session.run("SELECT pgtrickle.refresh_stream_table('reader')")?;
    oracle::assert_exact(&mut session, "reader", "SELECT count(*) AS n FROM u")
}

/// It could not be refreshed, the server crashed, and after that there is nothing to refresh.
fn failed_without_changes(server: &Server) -> Outcome {
    let mut session = arrange(server, "recovered", "CREATE TABLE t (v int); INSERT INTO t VALUES (1)")?;
    session.each("SELECT pgtrickle.create_stream_table('st', 'SELECT v FROM t', '1h')")?;
    session.each(
        "UPDATE pgtrickle.pgt_stream_tables SET status = 'ERROR' WHERE pgt_name = 'st' AND pgt_schema = 'recovered'",
    )?;
    session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    assert_text(&mut session, "SELECT status FROM pgtrickle.pgt_status() WHERE schema = 'recovered'", "ACTIVE")
}

/// Or sessions and workers would take each other's for that of another query, and compute everything anew.
fn time_zones(server: &Server) -> Outcome {
    let mut session =
        arrange(server, "zones", "CREATE TABLE t (v int, at timestamptz); INSERT INTO t VALUES (1, 'now')")?;
    session.run(
        "SELECT pgtrickle.create_stream_table('st', $$SELECT v FROM t WHERE at > '2024-01-01 00:00:00+00'::timestamptz$$, '1h')",
    )?;
    for zone in ["Europe/Berlin", "America/New_York", "UTC"] {
        session.each(&format!(
            "SET TimeZone = '{zone}'; INSERT INTO t VALUES (2, 'now'); SELECT pgtrickle.refresh_stream_table('st')"
        ))?;
    }
    assert_text(
        &mut session,
        "SELECT string_agg(DISTINCT action, ',') FROM pgtrickle.get_refresh_history('st')",
        "DIFFERENTIAL",
    )
}

/// What the transaction itself has written is seen by its own refreshes and creations, and told again once it has committed.
fn changed_partition(server: &Server) -> Outcome {
    let mut session = arrange(server, "own_partition", PARTITIONED)?;
    session.each("SELECT pgtrickle.create_stream_table('first', 'SELECT sum(b) AS s FROM p', '1h'); BEGIN")?;
    session.run("INSERT INTO p_1 VALUES (1, 10)")?;
    assert_error(
        &mut session,
        "SELECT pgtrickle.refresh_stream_table('first')",
        "55000",
        &["own_partition.p", "commit"],
    )?;
    session.each(
        "ROLLBACK; BEGIN; INSERT INTO p_1 VALUES (1, 10);
         SELECT pgtrickle.create_stream_table('second', 'SELECT sum(b) AS s FROM p', '1h'); COMMIT",
    )?;
    for name in ["first", "second"] {
        session.run(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        assert_text(&mut session, &format!("SELECT s FROM {name}"), "10")?;
    }
    Ok(())
}

/// The transaction that writes the source writes the changes of its readers' parent, too.
fn changed_at_once(server: &Server) -> Outcome {
    let mut session = arrange(server, "own_parent", "CREATE TABLE t (v int)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('parent', 'SELECT v FROM t', refresh_mode => 'IMMEDIATE');
         SELECT pgtrickle.create_stream_table('altered', 'SELECT count(v) AS n FROM parent', '1h');
         BEGIN; INSERT INTO t VALUES (10);
         SELECT pgtrickle.create_stream_table('created', 'SELECT sum(v) AS s FROM parent', '1h');
         SELECT pgtrickle.alter_stream_table('altered', query => 'SELECT sum(v) AS s FROM parent'); COMMIT",
    )?;
    for name in ["created", "altered"] {
        session.run(&format!("SELECT pgtrickle.refresh_stream_table('{name}')"))?;
        assert_text(&mut session, &format!("SELECT s FROM {name}"), "10")?;
    }
    Ok(())
}

/// Nothing has come from a parent that has not been refreshed itself.
fn stale_parent(server: &Server) -> Outcome {
    let mut session = arrange(server, "stale", "CREATE TABLE t (v int); CREATE TABLE u (v int)")?;
    session.each(
        "SELECT pgtrickle.create_stream_table('parent', 'SELECT v FROM t', '1h');
         SELECT pgtrickle.create_stream_table('child', 'SELECT v FROM parent UNION ALL SELECT v FROM u', '0s');
         INSERT INTO t VALUES (1)",
    )?;
    let lsn = session.text("SELECT pg_current_wal_insert_lsn()")?;
    let waits = [
        "SELECT pgtrickle.wait_for_stream_table('child', timeout => '300 ms')".to_owned(),
        format!("SELECT pgtrickle.wait_for_stream_table('child', '{lsn}', '300 ms')"),
    ];
    assert_text(&mut session, &waits[0], "f")?;
    session.run("INSERT INTO u VALUES (2)")?;
    follows(&mut session, "SELECT sum(v) FROM child", "2")?;
    // Its frontier is younger by now, its parent's is not.
    assert_text(&mut session, &waits[1], "f")?;
    session.run("SELECT pgtrickle.refresh_stream_table('parent')")?;
    for wait in &waits {
        assert_text(&mut session, &wait.replace("300 ms", "30 s"), "t")?;
        assert_text(&mut session, "SELECT sum(v) FROM child", "3")?;
    }
    Ok(())
}

/// It has to write the frontier, even if the changes cancel out.
fn only_reads(server: &Server) -> Outcome {
    let mut session = arrange(server, "only_reads", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")?;
    session.run("SELECT pgtrickle.create_stream_table('st', 'SELECT a FROM t', '1h')")?;
    let refresh = "SELECT pgtrickle.refresh_stream_table('st')";
    for change in ["INSERT INTO t VALUES (2); DELETE FROM t WHERE a = 2", "INSERT INTO t VALUES (3)"] {
        session.each(&format!("{change}; BEGIN READ ONLY"))?;
        assert_error(&mut session, refresh, "25006", &["read-only transaction"])?;
        session.each(&format!("ROLLBACK; {refresh}"))?;
        oracle::assert_exact(&mut session, "st", "SELECT a FROM t")?;
    }
    Ok(())
}

/// Who has taken a snapshot before must see that the state is no longer what that shows.
fn only_state(server: &Server) -> Outcome {
    let mut session = arrange(server, "only_state", "CREATE UNLOGGED TABLE t (v int); CREATE TABLE u (v int)")?;
    session.each(
        // Whose creation waits for capture, as that begins a generation.
        "SELECT pgtrickle.create_stream_table('captured', 'SELECT v FROM u', '1h');
         INSERT INTO t VALUES (10); SELECT pgtrickle.create_stream_table('st', 'SELECT max(v) AS m FROM t', '1h')",
    )?;
    let version = "SELECT xmin FROM pgtrickle.pgt_stream_tables WHERE pgt_relid = 'st'::regclass";
    for (change, writes) in [("INSERT INTO t VALUES (1)", true), ("SELECT 1", false)] {
        let before = session.text(version)?;
        session.each(&format!("{change}; SELECT pgtrickle.refresh_stream_table('st')"))?;
        assert_text(&mut session, &format!("SELECT ({version})::text <> '{before}'"), if writes { "t" } else { "f" })?;
    }
    Ok(())
}
