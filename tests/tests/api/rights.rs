//! Who may call what, and what others see: every function of the API by the owner of a stream table, by somebody who may read
//! it, and by a stranger.

use std::collections::BTreeSet;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("rights_of_every_function", every_function),
    ("errors_are_for_their_owner", errors),
    ("rights_are_revoked", revoked),
    ("row_security_as_for_materialized_views", row_security),
];

const FINE: &str = "";
/// insufficient_privilege
const DENIED: &str = "42501";

/// What may be done by the owner alone.
const OF_ITS_OWNER: &[&str] = &[
    "alter_stream_table('st', schedule => '2h')",
    "alter_stream_table('st', query => 'SELECT a FROM t')",
    "create_or_replace_stream_table('st', 'SELECT a FROM t')",
    "drop_stream_table('st')",
    "drop_stream_table('st', cascade => true)",
    "explain_delta('st')",
    "explain_st('st')",
    "explain_st('st', with_analyze => true)",
    "pause_stream_table('st')",
    "pg_trickle_repair_stream_table('st')",
    "refresh_if_stale('st', '1 s')",
    "refresh_stream_table('st')",
    "reinitialize_stream_table('st')",
    "repair_stream_table('st')",
    "resume_stream_table('st')",
    "verify_stream_table('st')",
];

/// What takes the right to create in the schema and to read the sources.
const OF_WHO_MAY_CREATE: &[&str] = &[
    "create_stream_table('another', 'SELECT a FROM t')",
    "create_stream_table_if_not_exists('another', 'SELECT a FROM t')",
    "create_or_replace_stream_table('another', 'SELECT a FROM t')",
    "create_stream_table('at_once', 'SELECT a FROM t', refresh_mode => 'IMMEDIATE')",
];

/// What concerns everybody's stream tables.
const OF_A_SUPERUSER: &[&str] = &["drain(0)"];

/// What everybody may call; of the stream tables of others it tells names, queries, times and counts.
const OF_EVERYBODY: &[&str] = &[
    "cache_stats()",
    "change_buffer_sizes()",
    "check_cdc_health()",
    "dependency_tree()",
    "diamond_groups()",
    "error_catalog()",
    "explain_dag()",
    "explain_refresh_mode('st')",
    "export_definition('st')",
    "freshness()",
    "get_refresh_history('st')",
    "get_staleness('st')",
    "health_check()",
    "health_summary()",
    "image_hash(1)",
    "is_drained()",
    "least_image(1)",
    "lesser_image(1, 2)",
    "list_sources('st')",
    "metrics_summary()",
    "parallel_job_status()",
    "pause_all()",
    "pgt_status()",
    "preflight()",
    "preview_stream_table('SELECT a FROM t')",
    "refresh_timeline()",
    "reliability_counters()",
    "resume_all()",
    "row_hash(1)",
    "row_image(1)",
    "slot_health()",
    "st_refresh_stats()",
    "validate_query('SELECT a FROM t')",
    "validate_recovery()",
    "version()",
    "version_check()",
    "wait_for_stream_table('st')",
    "worker_pool_status()",
];

/// A schema with table `t`, stream table `st` of role `{schema}_owner`, whom `{schema}_reader` may read and `{schema}_stranger` not.
fn arrange_roles(server: &Server, schema: &str) -> Outcome<Session> {
    let mut session =
        arrange(server, schema, "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'x'), (2, 'y')")?;
    session.each(&format!(
        "CREATE ROLE {schema}_owner; CREATE ROLE {schema}_reader; CREATE ROLE {schema}_stranger; \
         GRANT USAGE ON SCHEMA {schema} TO {schema}_owner, {schema}_reader, {schema}_stranger; \
         GRANT CREATE ON SCHEMA {schema} TO {schema}_owner; GRANT SELECT, TRIGGER ON t TO {schema}_owner; SET ROLE {schema}_owner; \
         SELECT pgtrickle.create_stream_table('st', 'SELECT a, b FROM t', '24h'); GRANT SELECT ON st TO {schema}_reader; RESET ROLE"
    ))?;
    Ok(session)
}

fn every_function(server: &Server) -> Outcome {
    let mut session = arrange_roles(server, "rights")?;
    let groups = [
        (OF_ITS_OWNER, [FINE, DENIED, DENIED]),
        (OF_WHO_MAY_CREATE, [FINE, DENIED, DENIED]),
        (OF_A_SUPERUSER, [DENIED; 3]),
        (OF_EVERYBODY, [FINE; 3]),
    ];
    let mut wrong = Vec::new();
    let mut called = BTreeSet::new();
    for (call, expected) in groups.iter().flat_map(|(calls, expected)| calls.iter().map(move |call| (*call, *expected)))
    {
        called.insert(call.split('(').next().unwrap_or_default().to_owned());
        for (role, expected) in ["owner", "reader", "stranger"].into_iter().zip(expected) {
            session.each(&format!("BEGIN; SET LOCAL ROLE rights_{role}"))?;
            let found = session.try_run(&format!("SELECT pgtrickle.{call}")).err().map(Option::unwrap_or_default);
            session.run("ROLLBACK")?;
            if found.clone().unwrap_or_default() != expected {
                wrong.push(format!("{call} as {role}: {found:?}, not {expected:?}"));
            }
        }
    }
    let all = session.rows(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pgtrickle'::regnamespace AND proname !~ '^_'",
    )?;
    let all: BTreeSet<String> = all.into_iter().flatten().flatten().collect();
    wrong.extend(all.difference(&called).map(|name| format!("{name} is not called here")));
    session.each("SET ROLE rights_stranger")?;
    assert_text(&mut session, "SELECT pgtrickle.pause_all() + pgtrickle.resume_all()", "0")?;
    session.each("RESET ROLE")?;
    assert_internal(&mut session, &mut wrong)?;
    match wrong.is_empty() {
        true => oracle::assert_exact(&mut session, "st", "TABLE t"),
        false => Err(Failure::new(wrong.join("\n"))),
    }
}

/// What the extension needs for itself and is no use to anybody else can be called by nobody else.
fn assert_internal(session: &mut Session, wrong: &mut Vec<String>) -> Outcome {
    // Those that only look, or are called in the name of whoever writes.
    const OPEN: &str =
        "^_(id_of|diamonds|lag|progress|stream_table_counters|sees_errors_of|before_drop_extension|guard)$";
    let open = session.rows(&format!(
        "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'pgtrickle'::regnamespace AND proname ~ '^_' AND proname !~ '{OPEN}'
            AND has_function_privilege('rights_stranger', oid, 'EXECUTE')"
    ))?;
    wrong.extend(open.into_iter().flatten().flatten().map(|name| format!("{name} is for everybody")));
    Ok(())
}

/// The text of an error holds a value that its reader may not see.
fn errors(server: &Server) -> Outcome {
    let mut session = arrange_roles(server, "secrets")?;
    let mut listener = server.session()?;
    listener.run("LISTEN pg_trickle_alert")?;
    session.each(
        "CREATE ROLE secrets_monitor; GRANT pg_monitor TO secrets_monitor; SET ROLE secrets_owner; \
         SELECT pgtrickle.create_stream_table('bad', 'SELECT a, b::int AS b FROM t WHERE a > 2', '0s'); \
         GRANT SELECT ON bad TO secrets_reader; RESET ROLE; INSERT INTO t VALUES (3, 'secret value')",
    )?;
    let fails = "SELECT status IN ('ERROR', 'SUSPENDED') FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'bad'";
    wait::until("it fails", wait::PATIENCE, || session.holds(fails))?;
    const PLACES: &[&str] = &[
        "SELECT v::text FROM pgtrickle.pg_stat_stream_tables v",
        "SELECT v::text FROM pgtrickle.stream_tables_info v",
        "SELECT v::text FROM pgtrickle.quick_health v",
        "SELECT v::text FROM pgtrickle.pgt_status() v",
        "SELECT v::text FROM pgtrickle.health_check() v",
        "SELECT v::text FROM pgtrickle.refresh_timeline(1000) v",
        "SELECT v::text FROM pgtrickle.parallel_job_status(1000) v",
        "SELECT v::text FROM pgtrickle.get_refresh_history('secrets.bad', 1000) v",
    ];
    for (role, sees) in [("owner", true), ("monitor", true), ("reader", false), ("stranger", false)] {
        session
            .each(&format!("RESET ROLE; GRANT USAGE ON SCHEMA secrets TO secrets_{role}; SET ROLE secrets_{role}"))?;
        for place in PLACES.iter().filter(|place| !(sees && place.contains("quick_health"))) {
            let seen =
                session.number(&format!("SELECT count(*) FROM ({place}) x (t) WHERE t LIKE '%secret value%'"))? > 0;
            if seen != sees {
                return Err(Failure::new(format!("{place} as {role}: sees it is {seen}")));
            }
        }
    }
    for column in
        ["last_error_message FROM pgtrickle.pgt_stream_tables", "error_message FROM pgtrickle.pgt_refresh_history"]
    {
        assert_error(&mut session, &format!("SELECT {column}"), DENIED, &["permission denied"])?;
    }
    session.each("SET ROLE secrets_stranger; SELECT pgt_name, status, defining_query FROM pgtrickle.pgt_stream_tables; RESET ROLE")?;
    let told = listener.notifications()?;
    if told.iter().any(|payload| payload.contains("secret value"))
        || !told.iter().any(|payload| payload.contains("22P02"))
    {
        return Err(Failure::new(format!("{told:?}")));
    }
    session.each("SELECT pgtrickle.drop_stream_table('bad')")
}

/// The owner's view of the sources is what is stored; policies of the stream table itself are for its readers.
/// Changes of a table are not for who may no longer read it, though telling them does not take reading it.
fn revoked(server: &Server) -> Outcome {
    let mut session = arrange_roles(server, "revoked")?;
    session.each("INSERT INTO t VALUES (8, 'seen'); SELECT pgtrickle.refresh_stream_table('st')")?;
    for (taken, given) in [
        ("REVOKE ALL ON t FROM revoked_owner", "GRANT SELECT ON t TO revoked_owner"),
        (
            "REVOKE ALL ON t FROM revoked_owner; GRANT SELECT (a) ON t TO revoked_owner",
            "GRANT SELECT (b) ON t TO revoked_owner",
        ),
        (
            "REVOKE ALL ON t FROM revoked_owner; CREATE ROLE revoked_group; GRANT SELECT ON t TO revoked_group; GRANT revoked_group TO revoked_owner; \
             SELECT pgtrickle.refresh_stream_table('st'); REVOKE revoked_group FROM revoked_owner",
            "GRANT revoked_group TO revoked_owner",
        ),
    ] {
        session.each(&format!("{taken}; INSERT INTO t SELECT max(a) + 1, 'unseen' FROM t"))?;
        assert_error(
            &mut session,
            "SELECT pgtrickle.refresh_stream_table('st')",
            DENIED,
            &["permission denied for table t"],
        )?;
        session.each(&format!("{given}; SELECT pgtrickle.refresh_stream_table('st')"))?;
        oracle::assert_exact(&mut session, "st", "SELECT a, b FROM t")?;
    }
    session.each("REVOKE revoked_group FROM revoked_owner; DROP OWNED BY revoked_group; DROP ROLE revoked_group")
}

fn row_security(server: &Server) -> Outcome {
    let mut session = arrange_roles(server, "secured_rows")?;
    session.each(
        "CREATE POLICY few ON t TO secured_rows_owner USING (a < 10); ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
         GRANT SELECT ON t TO secured_rows_reader; INSERT INTO t VALUES (3, 'z'), (30, 'hidden'); SET ROLE secured_rows_owner; \
         CREATE MATERIALIZED VIEW mv AS SELECT a, b FROM t; GRANT SELECT ON mv TO secured_rows_reader; \
         SELECT pgtrickle.refresh_stream_table('st'); RESET ROLE",
    )?;
    let same =
        "SELECT (SELECT array_agg(x ORDER BY a) FROM st x)::text = (SELECT array_agg(x ORDER BY a) FROM mv x)::text";
    for role in ["secured_rows_owner", "secured_rows_reader", "postgres"] {
        session.each(&format!("SET ROLE {role}"))?;
        assert_text(&mut session, same, "t")?;
        assert_text(&mut session, "SELECT count(*) FROM st", "3")?;
    }
    // A superuser who refreshes it, and the scheduler, see no more for it than its owner does.
    session.each(
        "RESET ROLE; INSERT INTO t VALUES (4, 'z'), (40, 'hidden'); SELECT pgtrickle.refresh_stream_table('st')",
    )?;
    assert_text(&mut session, "SELECT max(a) FROM st", "4")?;
    session.each(
        "CREATE POLICY odd ON st TO secured_rows_reader USING (a % 2 = 1); ALTER TABLE st ENABLE ROW LEVEL SECURITY; \
         INSERT INTO t VALUES (5, 'z'); SELECT pgtrickle.refresh_stream_table('st'); SET ROLE secured_rows_reader",
    )?;
    assert_text(&mut session, "SELECT string_agg(a::text, ' ' ORDER BY a) FROM st", "1 3 5")?;
    session.each("SET ROLE secured_rows_owner")?;
    assert_text(&mut session, "SELECT count(*) FROM st", "5")?;
    // A stream table of a reader over it holds what that reader sees.
    session.each(
        "RESET ROLE; GRANT CREATE ON SCHEMA secured_rows TO secured_rows_reader; SET ROLE secured_rows_reader; \
         SELECT pgtrickle.create_stream_table('child', 'SELECT a FROM st', '24h'); RESET ROLE; INSERT INTO t VALUES (6, 'z'), (7, 'z'); \
         SELECT pgtrickle.refresh_stream_table('child')",
    )?;
    assert_text(&mut session, "SELECT string_agg(a::text, ' ' ORDER BY a) FROM child", "1 3 5 7")
}
