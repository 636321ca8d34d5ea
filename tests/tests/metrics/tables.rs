//! Figures of stream tables, of the age of changes and of buffers.

use std::time::Duration;

use libtest_mimic::Trial;
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Outcome, wait};

use crate::bench::{Bench, assert, trial, within};

pub fn trials(version: PgVersion) -> Vec<Trial> {
    vec![
        trial(version, "refreshes", refreshes),
        trial(version, "failures", failures),
        trial(version, "lag", lag),
        trial(version, "buffers", buffers),
        trial(version, "program_cache", program_cache),
    ]
}

const ST: &[(&str, &str)] = &[("schema", "public"), ("name", "st"), ("db_name", "postgres")];

fn create(name: &str, query: &str, schedule: &str) -> String {
    format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', schedule => '{schedule}')")
}

fn refreshes(version: PgVersion) -> Outcome {
    let tables = format!("CREATE TABLE t (a int); {}", create("st", "SELECT a FROM t", "1h"));
    let mut b = Bench::start(version, &[], &tables)?;
    let id = b.session.text("SELECT pgt_id FROM pgtrickle.pgt_stream_tables")?;
    let by_id = [("pgt_id", id.as_str())];
    b.session.each("INSERT INTO t VALUES (0); SELECT pgtrickle.refresh_stream_table('st')")?;
    let (refreshes, rows) = (b.value("refreshes_total", ST)?, b.value("rows_changed_total", ST)?);
    let differential = b.value("differential_refreshes_total", &by_id)?;
    let full = b.value("full_refreshes_total", &by_id)?;
    for change in
        ["INSERT INTO t SELECT generate_series(1, 5)", "DELETE FROM t WHERE a <= 2", "INSERT INTO t VALUES (9)"]
    {
        b.session.each(change)?;
        b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    }
    let scrape = b.scrape()?;
    let value = |name: &str| scrape.value(&format!("pg_trickle_{name}"), ST);
    within("refreshes", value("refreshes_total")? - refreshes, &(3.0..=3.0))?;
    within("rows", value("rows_changed_total")? - rows, &(9.0..=9.0))?;
    within("timed", value("refresh_duration_seconds_count")? - refreshes, &(3.0..=3.0))?;
    within("seconds", value("refresh_duration_seconds_sum")?, &(1e-6..=30.0))?;
    within("failures", value("refresh_failures_total")?, &(0.0..=0.0))?;
    b.becomes("differential_refreshes_total", &by_id, differential + 3.0)?;
    b.session.each("SELECT pgtrickle.reinitialize_stream_table('st'); SELECT pgtrickle.refresh_stream_table('st')")?;
    within("full", b.value("full_refreshes_total", &by_id)? - full, &(1.0..=2.0))?;
    let full = b.value("full_refreshes_total", &by_id)?;
    within("all", b.value("refreshes_total", ST)?, &(full + differential + 3.0..=full + differential + 3.0))?;

    // A worker's death takes nothing away.
    b.terminate("pg_trickle_scheduler")?;
    b.becomes("full_refreshes_total", &by_id, full)?;
    staleness(&mut b)?;
    b.session.each("SELECT pgtrickle.pause_stream_table('st')")?;
    b.becomes("active", ST, 0.0)?;
    b.session.each("INSERT INTO t VALUES (10); SELECT pgtrickle.refresh_stream_table('st')")?;
    b.becomes("active", ST, 0.0)?;
    b.session.each("SELECT pgtrickle.resume_stream_table('st')")?;
    b.becomes("active", ST, 1.0)?;
    b.session.each("SELECT pgtrickle.drop_stream_table('st')")?;
    wait::until("the counters are given back", Duration::from_secs(20), || {
        let scrape = b.scrape()?;
        Ok(scrape.count_with("name", "st") + scrape.count_with("pgt_id", &id) == 0)
    })
}

fn staleness(b: &mut Bench) -> Outcome {
    b.session.each("INSERT INTO t VALUES (7); SELECT pgtrickle.refresh_stream_table('st')")?;
    within("just refreshed", b.value("staleness_seconds", ST)?, &(0.0..=1.5))?;
    b.reaches("staleness_seconds", ST, 2.0..=5.0)?;
    // Old for a schedule of a second, not for one of an hour.
    b.set("pg_trickle.enabled", "off")?;
    b.reaches("staleness_seconds", ST, 12.0..=30.0)?;
    b.becomes("stale", ST, 0.0)?;
    b.session.each("SELECT pgtrickle.alter_stream_table('st', schedule => '1s')")?;
    b.becomes("stale", ST, 1.0)?;
    b.set("pg_trickle.enabled", "on")?;
    b.becomes("stale", ST, 0.0)?;
    b.session.each("SELECT pgtrickle.alter_stream_table('st', schedule => '1h')")
}

fn failures(version: PgVersion) -> Outcome {
    let tables = format!("CREATE TABLE t (a int); {}", create("st", "SELECT 1 / a AS x FROM t", "0s"));
    let mut b = Bench::start(version, &[("pg_trickle.max_consecutive_errors", "2")], &tables)?;
    b.session.each("INSERT INTO t VALUES (0)")?;
    b.becomes("active", ST, 0.0)?;
    b.becomes("refresh_failures_total", ST, 2.0)?;
    b.becomes("consecutive_errors", ST, 2.0)?;
    let health = pgtrickle_tests::metrics::get(b.port, "/health")?;
    assert(health.contains("22012") && health.contains("suspended"), health)?;
    b.session.each(
        "DELETE FROM t; SELECT pgtrickle.reinitialize_stream_table('st'); SELECT pgtrickle.resume_stream_table('st')",
    )?;
    b.becomes("active", ST, 1.0)?;
    b.session.each("INSERT INTO t VALUES (1)")?;
    b.becomes("consecutive_errors", ST, 0.0)?;
    b.becomes("refresh_failures_total", ST, 2.0)
}

/// One change in twenty becomes visible two seconds after it was committed.
fn lag(version: PgVersion) -> Outcome {
    let tables = format!("CREATE TABLE t (a int); {}", create("st", "SELECT a FROM t", "1h"));
    let mut b = Bench::start(version, &[], &tables)?;
    assert(b.value("cdc_lag_p50_seconds", &[]).is_err(), "a lag without a change")?;
    b.session.each("INSERT INTO t VALUES (0)")?;
    std::thread::sleep(Duration::from_secs(2));
    b.session.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    for percentile in ["p50", "p95", "p99"] {
        within(percentile, b.value(&format!("cdc_lag_{percentile}_seconds"), &[])?, &(2.0..=4.0))?;
    }
    for i in 1..=30 {
        b.session.each(&format!("INSERT INTO t VALUES ({i}); SELECT pgtrickle.refresh_stream_table('st')"))?;
    }
    within("p50", b.value("cdc_lag_p50_seconds", &[])?, &(0.0..=0.5))?;
    within("p95", b.value("cdc_lag_p95_seconds", &[])?, &(0.0..=1.5))?;
    within("p99", b.value("cdc_lag_p99_seconds", &[])?, &(2.0..=4.0))
}

/// How often the health cycle has come round.
const HEALTH_CYCLES: &str = "SELECT value::bigint FROM pgtrickle.reliability_counters() WHERE name = 'health_cycles'";

/// Waits until whatever was the case before has been looked at.
fn health_cycles_pass(session: &mut Session, count: i64) -> Outcome {
    let target = session.number(HEALTH_CYCLES)? + count;
    wait::until("the next health cycles", wait::PATIENCE, || Ok(session.number(HEALTH_CYCLES)? >= target))
}

/// Pending is what some reader has not seen, and one query finds it for all sources.
fn buffers(version: PgVersion) -> Outcome {
    let mut tables = String::from("CREATE EXTENSION pg_stat_statements; ");
    for i in 0..10 {
        let st = create(&format!("st{i}"), &format!("SELECT a FROM t{i}"), "1h");
        tables += &format!("CREATE TABLE t{i} (a int); {st}; ");
    }
    tables += &create("other", "SELECT count(*) AS n FROM t0", "1h");
    let preload = ("shared_preload_libraries", "'pg_trickle, pg_stat_statements'");
    let mut b = Bench::start(version, &[preload, ("pg_stat_statements.track", "all")], &tables)?;
    let source = [("source", "public.t0"), ("db_name", "postgres")];
    b.becomes("cdc_buffers_pending_rows", &source, 0.0)?;
    b.session.each("INSERT INTO t0 SELECT generate_series(1, 7)")?;
    b.becomes("cdc_buffers_pending_rows", &source, 7.0)?;
    b.reaches("cdc_buffers_buffer_bytes", &source, 8192.0..=1e6)?;
    b.session.each("SELECT pgtrickle.refresh_stream_table('st0')")?;
    health_cycles_pass(&mut b.session, 2)?;
    b.becomes("cdc_buffers_pending_rows", &source, 7.0)?;
    b.session.each("SELECT pgtrickle.refresh_stream_table('other')")?;
    b.becomes("cdc_buffers_pending_rows", &source, 0.0)?;
    // What is compared keeps no changes, and still belongs to the graph.
    b.session
        .each("CREATE UNLOGGED TABLE u (a int); SELECT pgtrickle.create_stream_table('of_u', 'SELECT a FROM u')")?;
    wait::until("the page knows the source", Duration::from_secs(30), || {
        let page = pgtrickle_tests::metrics::get(b.port, "/status.json")?;
        Ok(page.contains(r#""name":"public.u","buffered":false"#))
    })?;
    assert(b.scrape()?.count_with("source", "public.u") == 0, "a buffer of what has none")?;
    // One query per cycle at most, whatever the number of sources.
    let calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '%changes_%' AND query LIKE '%count(*)%'
                    AND query NOT LIKE '%pg_stat_statements%'";
    b.session.each("SELECT pg_stat_statements_reset()")?;
    let before = b.session.number(HEALTH_CYCLES)?;
    for _ in 0..3 {
        b.session.each("INSERT INTO t0 VALUES (1)")?;
        health_cycles_pass(&mut b.session, 2)?;
    }
    let (calls, cycles) = (b.session.number(calls)?, b.session.number(HEALTH_CYCLES)? - before);
    assert((2..=cycles + 1).contains(&calls), format!("{calls} queries in {cycles} cycles"))?;
    b.session.each("SELECT pgtrickle.drop_stream_table('st0'); SELECT pgtrickle.drop_stream_table('other')")?;
    wait::until("the source is forgotten", Duration::from_secs(30), || {
        Ok(b.scrape()?.count_with("source", "public.t0") == 0)
    })
}

fn program_cache(version: PgVersion) -> Outcome {
    let two = [create("st", "SELECT a FROM t", "1h"), create("st2", "SELECT a FROM t", "1h")].join("; ");
    let tables = format!("CREATE TABLE t (a int); {two}");
    let mut b = Bench::start(version, &[("pg_trickle.template_cache_max_entries", "1")], &tables)?;
    let figures = |b: &Bench| -> Outcome<[f64; 3]> {
        let value = |what| b.value(&format!("template_cache_{what}_total"), &[]);
        Ok([value("hits")?, value("misses")?, value("evictions")?])
    };
    let change = |b: &mut Bench, name: &str| -> Outcome {
        b.session.each(&format!("INSERT INTO t VALUES (1); SELECT pgtrickle.refresh_stream_table('{name}')"))
    };
    change(&mut b, "st")?;
    let before = figures(&b)?;
    change(&mut b, "st")?;
    let again = figures(&b)?;
    within("hits", again[0] - before[0], &(1.0..=1.0))?;
    within("misses", again[1] - before[1], &(0.0..=0.0))?;
    change(&mut b, "st2")?;
    let other = figures(&b)?;
    within("misses", other[1] - again[1], &(1.0..=1.0))?;
    within("evictions", other[2] - again[2], &(1.0..=1.0))
}
