//! Every function that looks or explains, over a graph with a diamond in it.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, wait};

use crate::{Test, arrange, assert_error, assert_text};

pub const TESTS: &[Test] = &[
    ("graph_functions", graph),
    ("figures_by_function", figures),
    ("explanations", explanations),
    ("checks_of_the_server", checks),
    ("progress_of_a_fill", progress),
];

/// base → left_arm, right_arm → top
fn diamond(server: &Server, schema: &str) -> Outcome<Session> {
    let mut session = arrange(server, schema, "CREATE TABLE base (a int, b int)")?;
    for (name, query) in [
        ("left_arm", "SELECT a, sum(b) AS s FROM base GROUP BY a"),
        ("right_arm", "SELECT a, count(*) AS n FROM base GROUP BY a"),
        ("top", "SELECT l.a, s, n FROM left_arm l JOIN right_arm r ON l.a = r.a"),
    ] {
        session.each(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', schedule => '1h')"))?;
    }
    session.each("INSERT INTO base VALUES (1, 2), (1, 3), (2, 4); SELECT pgtrickle.refresh_stream_table('top')")?;
    Ok(session)
}

fn graph(server: &Server) -> Outcome {
    let mut session = diamond(server, "diamonds")?;
    assert_text(
        &mut session,
        "SELECT string_agg(tree_line, '|') FROM pgtrickle.dependency_tree() WHERE tree_line LIKE '%diamonds%'",
        "diamonds.base|└─ diamonds.left_arm|   └─ diamonds.top|└─ diamonds.right_arm|   └─ diamonds.top",
    )?;
    let kinds = "SELECT count(*) FROM pgtrickle.dependency_tree() WHERE relation LIKE 'diamonds.%' AND kind = 'stream table' AND status = 'ACTIVE'";
    assert_text(&mut session, kinds, "4")?;
    let groups = "SELECT source || ' ' || stream_table || ' ' || arms::text FROM pgtrickle.diamond_groups() WHERE source = 'diamonds.base'";
    assert_text(&mut session, groups, "diamonds.base diamonds.top {diamonds.left_arm,diamonds.right_arm}")
}

fn figures(server: &Server) -> Outcome {
    let mut session = diamond(server, "figures")?;
    for (sql, expected) in [
        (
            "SELECT total_refreshes >= 1 AND rows_inserted >= 2 AND failed_refreshes = 0 FROM pgtrickle.st_refresh_stats() WHERE stream_table = 'figures.top'",
            "t",
        ),
        (
            "SELECT count(*) > 0 FROM pgtrickle.refresh_timeline(100) WHERE stream_table = 'figures.top' AND status = 'COMPLETED'",
            "t",
        ),
        ("SELECT pgtrickle.get_staleness('top') BETWEEN 0 AND 60", "t"),
        (
            "SELECT samples > 0 AND p50_seconds <= p95_seconds AND p95_seconds <= p99_seconds FROM pgtrickle.freshness()",
            "t",
        ),
        ("SELECT hits + misses > 0 FROM pgtrickle.cache_stats()", "t"),
        ("SELECT value > 0 FROM pgtrickle.reliability_counters() WHERE name = 'records_total'", "t"),
        ("SELECT value > 0 FROM pgtrickle.metrics_summary() WHERE metric LIKE 'completed refreshes%'", "t"),
        (
            "SELECT string_agg(DISTINCT worker, ' ') FROM pgtrickle.worker_pool_status() WHERE worker !~ '_(tracker|dispatcher|pool_[0-9]+)$'",
            "pg_trickle_apply pg_trickle_launcher pg_trickle_scheduler pg_trickle_wal_decoder",
        ),
        (
            "SELECT count(*) > 0 FROM pgtrickle.parallel_job_status(300) WHERE stream_table = 'figures.top' AND status = 'COMPLETED'",
            "t",
        ),
        (
            "SELECT state || ' ' || replica_identity || ' ' || slot_active FROM pgtrickle.check_cdc_health() WHERE source_table = 'figures.base' AND alert IS NULL",
            "ACTIVE FULL true",
        ),
        (
            "SELECT refreshes >= 1 AND failures = 0 AND staleness < interval '1 minute' FROM pgtrickle.pg_stat_stream_tables WHERE schema = 'figures' AND name = 'top'",
            "t",
        ),
        ("SELECT stream_tables > 0 AND active > 0 FROM pgtrickle.quick_health", "t"),
        ("SELECT stream_tables = active + paused + failing FROM pgtrickle.health_summary()", "t"),
    ] {
        assert_text(&mut session, sql, expected)?;
    }
    assert_error(&mut session, "SELECT pgtrickle.get_staleness('nothing')", "42P01", &["hint"])
}

fn explanations(server: &Server) -> Outcome {
    let mut session = diamond(server, "explanations")?;
    session.each("SELECT pgtrickle.create_stream_table('quoted', 'SELECT ''it''''s'' AS x, a FROM base', schedule => '2m', refresh_mode => 'FULL')")?;
    let mode = "SELECT configured_mode || ' ' || effective_mode FROM pgtrickle.explain_refresh_mode('left_arm')";
    assert_text(&mut session, mode, "AUTO DIFFERENTIAL")?;
    assert_text(&mut session, "SELECT reason LIKE '%because%' FROM pgtrickle.explain_refresh_mode('quoted')", "t")?;
    let delta = session.rows("SELECT pgtrickle.explain_delta('left_arm')")?;
    if !delta.iter().flatten().flatten().any(|line| line.contains("pgt_delta_")) {
        return Err(Failure::new(format!("no delta: {delta:?}")));
    }
    // What is exported makes the same again.
    let definition = "SELECT pgtrickle.export_definition('quoted')";
    let exported = session.text(definition)?;
    session.each("SELECT pgtrickle.drop_stream_table('quoted')")?;
    session.run(&exported)?;
    assert_text(&mut session, definition, &exported)?;
    assert_error(&mut session, "SELECT pgtrickle.export_definition('nothing')", "42P01", &["hint"])?;
    let errors = "SELECT count(*) FROM pgtrickle.error_catalog() WHERE hint IS NOT NULL AND length(sqlstate) = 5";
    let (with_hint, all) = (session.number(errors)?, session.number("SELECT count(*) FROM pgtrickle.error_catalog()")?);
    if all < 8 || with_hint < all - 1 {
        return Err(Failure::new(format!("{with_hint} of {all} errors have a hint")));
    }
    assert_text(
        &mut session,
        "SELECT sqlstate FROM pgtrickle.error_catalog() WHERE message LIKE 'there is no stream table%'",
        "42P01",
    )
}

fn checks(server: &Server) -> Outcome {
    let mut session = server.session()?;
    assert_text(&mut session, "SELECT matches FROM pgtrickle.version_check()", "t")?;
    assert_text(&mut session, "SELECT count(*) FROM pgtrickle.preflight() WHERE severity = 'ERROR'", "0")?;
    assert_text(&mut session, "SELECT severity FROM pgtrickle.preflight() WHERE check_name = 'wal_level'", "OK")?;
    // The test servers run with fsync off, and with no limit to what a slot keeps.
    let unwell =
        "SELECT string_agg(check_name, ' ' ORDER BY check_name) FROM pgtrickle.preflight() WHERE severity = 'WARNING'";
    assert_text(&mut session, unwell, "fsync max_slot_wal_keep_size")
}

fn progress(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "progress",
        "CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 40);
         CREATE FUNCTION slow(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 FROM pg_sleep(0.1)'",
    )?;
    let connector = server.connector();
    let filling = std::thread::spawn(move || {
        connector.session()?.each(
            "SELECT pgtrickle.create_stream_table('progress.st', 'SELECT progress.slow(a) AS a FROM progress.t', schedule => '1h')",
        )
    });
    let running = "SELECT count(*) > 0 FROM pgtrickle.pg_stat_progress_pgtrickle WHERE phase = 'filling' AND step BETWEEN 1 AND steps";
    let seen = wait::until("a fill is seen", wait::PATIENCE, || session.holds(running));
    filling.join().map_err(|_| Failure::new("the fill panicked"))??;
    seen?;
    assert_text(
        &mut session,
        "SELECT count(*) FROM pgtrickle.pg_stat_progress_pgtrickle WHERE schema = 'progress'",
        "0",
    )
}
