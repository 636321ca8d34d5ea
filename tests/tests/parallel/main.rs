//! Stream tables that are due together: refreshed at the same time by a pool of workers, under one snapshot and after one
//! barrier; and what becomes of that when a setting, an error or the lack of workers forbids it.

mod diamonds;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, suite, wait};

fn main() {
    suite::main(1, |version| {
        Ok(vec![
            suite::on_own_server(version, "at_the_same_time", &[], at_the_same_time),
            suite::on_own_server(version, "one_barrier_per_tick", &[], one_barrier_per_tick),
            suite::on_own_server(version, "one_barrier_without_pool", OFF, one_barrier_without_pool),
            suite::on_own_server(version, "settings", &[], settings),
            suite::on_own_server(version, "no_free_workers", CROWDED, no_free_workers),
            suite::on_own_server(version, "errors_stay_alone", &[], errors_stay_alone),
            suite::on_own_server(version, "diamond_agrees", &[], diamonds::agree),
            suite::on_own_server(version, "diamond_with_a_busy_arm", &[], diamonds::a_busy_arm),
            suite::on_own_server(version, "diamond_with_a_busy_arm_without_pool", OFF, diamonds::a_busy_arm),
            suite::on_own_server(version, "diamond_with_a_failing_arm", diamonds::FAILING, diamonds::a_failing_arm),
            suite::on_own_server(version, "diamond_of_one_schedule", &[], diamonds::arms_of_one_schedule),
            suite::on_own_server(
                version,
                "diamond_with_an_arm_refreshed_by_hand",
                &[],
                diamonds::an_arm_refreshed_by_hand,
            ),
            suite::on_own_server(version, "locks_do_not_hold_rounds_up", &[], locks_do_not_hold_rounds_up),
            suite::on_own_server(version, "a_busy_one_starves_nobody", ONE, a_busy_one_starves_nobody),
            suite::on_own_server(version, "a_busy_one_starves_nobody_without_pool", OFF, a_busy_one_starves_nobody),
            suite::on_own_server(version, "ends_with_the_extension", &[], ends_with_the_extension),
        ])
    })
}

const ONE: &[(&str, &str)] = &[("pg_trickle.max_dynamic_refresh_workers", "1")];
const OFF: &[(&str, &str)] = &[("pg_trickle.parallel_refresh_mode", "off")];
/// The launcher, PostgreSQL's own for subscriptions, and three for the database: two are left.
const CROWDED: &[(&str, &str)] = &[("max_worker_processes", "7"), ("pg_trickle.max_dynamic_refresh_workers", "4")];

/// Stream tables `st_1` … over `t`, refreshed as soon as it changes.
fn several(session: &mut Session, number: usize, query: &str) -> Outcome {
    session.each("CREATE TABLE t (a int)")?;
    for n in 1..=number {
        session.each(&format!("SELECT pgtrickle.create_stream_table('st_{n}', '{query}', schedule => '0s')"))?;
    }
    Ok(())
}

fn all_show(session: &mut Session, number: usize, rows: usize) -> Outcome {
    let each: Vec<String> = (1..=number).map(|n| format!("(SELECT count(*) FROM st_{n}) = {rows}")).collect();
    let all = format!("SELECT {}", each.join(" AND "));
    wait::until("all stream tables show it", wait::PATIENCE, || session.holds(&all))
}

fn insert_and_see(session: &mut Session, number: usize, row: usize) -> Outcome {
    session.each(&format!("INSERT INTO t VALUES ({row})"))?;
    all_show(session, number, row)
}

fn counter(session: &mut Session, name: &str) -> Outcome<i64> {
    session.number(&format!("SELECT value FROM pgtrickle.reliability_counters() WHERE name = '{name}'"))
}

fn workers(session: &mut Session, like: &str) -> Outcome<i64> {
    session.number(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '{like}' AND application_name = backend_type"
    ))
}

/// Both wait for the same lock at the same moment, while the scheduler goes on with what is quick.
fn at_the_same_time(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run(
        "CREATE FUNCTION gate(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql SET lock_timeout = 0 AS
         $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN a; END $$",
    )?;
    several(&mut session, 2, "SELECT gate(a) AS a FROM t")?;
    session.each(
        "CREATE TABLE u (a int); SELECT pgtrickle.create_stream_table('quick', 'SELECT a FROM u', schedule => '0s')",
    )?;
    insert_and_see(&mut session, 2, 1)?;
    let mut gatekeeper = server.session()?;
    gatekeeper.each("SELECT pg_advisory_lock(42)")?;
    session.each("INSERT INTO t VALUES (2)")?;
    wait::until("two workers of the pool wait at once", wait::PATIENCE, || {
        session.holds(
            "SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type LIKE 'pg\\_trickle\\_pool\\_%' AND wait_event = 'advisory'",
        )
    })?;
    if session.number("SELECT count(*) FROM pgtrickle.worker_pool_status() WHERE worker LIKE 'pg\\_trickle\\_pool\\_%' AND state = 'busy'")? != 2 {
        return Err(Failure::new("worker_pool_status() does not show the two busy workers"));
    }
    if counter(&mut session, "jobs_running")? != 2 || counter(&mut session, "jobs_queued")? != 0 {
        return Err(Failure::new("two jobs run and none waits, but the counters say otherwise"));
    }
    // Both workers are taken; the third waits for one of them, the scheduler does not.
    session.each("INSERT INTO u VALUES (1)")?;
    wait::until("the quick one", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM quick"))?;
    gatekeeper.each("SELECT pg_advisory_unlock(42)")?;
    all_show(&mut session, 2, 2)?;
    all_at_rest(&mut session)
}

const TICKS: usize = 10;

/// What a worker has not given back yet goes alone in the next tick.
fn all_at_rest(session: &mut Session) -> Outcome {
    wait::until("the workers are idle", wait::PATIENCE, || Ok(counter(session, "jobs_running")? == 0))
}

/// Ticks with `number` stream tables; how many rounds, barriers and refreshes in rounds each counter then tells.
fn ticks(session: &mut Session, number: usize) -> Outcome<[i64; 3]> {
    // The first one starts the workers.
    insert_and_see(session, number, 1)?;
    insert_and_see(session, number, 2)?;
    all_at_rest(session)?;
    let counters = |session: &mut Session| -> Outcome<[i64; 3]> {
        Ok([counter(session, "rounds")?, counter(session, "barriers")?, counter(session, "round_refreshes")?])
    };
    let before = counters(session)?;
    for row in 3..3 + TICKS {
        insert_and_see(session, number, row)?;
        all_at_rest(session)?;
    }
    let after = counters(session)?;
    Ok([0, 1, 2].map(|i| after[i] - before[i]))
}

fn expect_shared(found: [i64; 3], number: usize) -> Outcome {
    let (ticks, refreshes) = (TICKS as i64, (TICKS * number) as i64);
    let [rounds, barriers, shared] = found;
    // A change that is in the buffers and not visible yet asks for one tick more.
    if (ticks..ticks + 4).contains(&rounds) && barriers < ticks + 4 && shared >= refreshes {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{ticks} ticks of {number} refreshes: {rounds} rounds, {barriers} barriers, {shared} refreshes in them"
    )))
}

fn one_barrier_per_tick(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 6, "SELECT a FROM t")?;
    let found = ticks(&mut session, 6)?;
    expect_shared(found, 6)
}

/// The dispatcher holds the snapshot, the scheduler refreshes one after the other.
fn one_barrier_without_pool(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 6, "SELECT a FROM t")?;
    let found = ticks(&mut session, 6)?;
    expect_shared(found, 6)?;
    match (workers(&mut session, "pg\\_trickle\\_pool%")?, workers(&mut session, "pg\\_trickle\\_dispatcher")?) {
        (0, 1) => Ok(()),
        found => Err(Failure::new(format!("with parallel_refresh_mode = off there are (pool, dispatcher) {found:?}"))),
    }
}

fn settings(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 4, "SELECT a FROM t")?;
    let mut row = 0;
    for (setting, value, pool) in [
        ("max_dynamic_refresh_workers", "3", 3),
        ("max_dynamic_refresh_workers", "1", 1),
        ("parallel_refresh_mode", "off", 0),
        ("parallel_refresh_mode", "on", 1),
        ("max_dynamic_refresh_workers", "0", 0),
    ] {
        session.each(&format!("ALTER SYSTEM SET pg_trickle.{setting} = {value}"))?;
        session.each("SELECT pg_reload_conf()")?;
        wait::until(&format!("{pool} workers after {setting} = {value}"), wait::PATIENCE, || {
            row += 1;
            insert_and_see(&mut session, 4, row)?;
            Ok(workers(&mut session, "pg\\_trickle\\_pool\\_%")? == pool)
        })?;
    }
    Ok(())
}

/// The dispatcher and one worker of the pool get the last two slots; a creation then gets one of them.
fn no_free_workers(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 4, "SELECT a FROM t")?;
    insert_and_see(&mut session, 4, 1)?;
    wait::until("it is told", wait::PATIENCE, || {
        let log = server.log();
        Ok(log.contains("could not start pg_trickle_pool_") && log.contains("Refreshes go on without it."))
    })?;
    session.each(
        "CREATE TABLE u (a int); SELECT pgtrickle.create_stream_table('other', 'SELECT a FROM u', schedule => '0s')",
    )?;
    session.each("INSERT INTO u VALUES (1)")?;
    wait::until("the new one", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM other"))?;
    (2..6).try_for_each(|row| insert_and_see(&mut session, 4, row))
}

fn errors_stay_alone(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 3, "SELECT a FROM t")?;
    session.each("SELECT pgtrickle.create_stream_table('bad', 'SELECT 1 / (a - 2) AS a FROM t', schedule => '0s')")?;
    (1..6).try_for_each(|row| insert_and_see(&mut session, 3, row))?;
    wait::until("the error is told", wait::PATIENCE, || {
        session.holds("SELECT last_error_message LIKE 'division by zero%' FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'bad'")
    })?;
    session.each("DELETE FROM t WHERE a = 2; SELECT pgtrickle.resume_stream_table('bad')")?;
    all_show(&mut session, 3, 4)?;
    wait::until("it has recovered", wait::PATIENCE, || session.holds("SELECT count(*) = 4 FROM bad"))
}

/// A TRUNCATE that waits for a round, and a stream table that somebody else is refreshing, hold nobody else up.
fn locks_do_not_hold_rounds_up(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 3, "SELECT a FROM t")?;
    session.each(
        "CREATE TABLE u (a int); SELECT pgtrickle.create_stream_table('other', 'SELECT a FROM u', schedule => '0s')",
    )?;
    insert_and_see(&mut session, 3, 1)?;
    // A refresh by hand that goes on keeps its stream table.
    let mut by_hand = server.session()?;
    by_hand.each("BEGIN; SELECT pgtrickle.refresh_stream_table('st_1')")?;
    // A table that is being rewritten.
    let mut rewriter = server.session()?;
    rewriter.each("BEGIN; LOCK TABLE u IN ACCESS EXCLUSIVE MODE; INSERT INTO u VALUES (1)")?;
    session.each("INSERT INTO t VALUES (2)")?;
    wait::until("the others go on", wait::PATIENCE, || {
        session.holds("SELECT (SELECT count(*) FROM st_2) = 2 AND (SELECT count(*) FROM st_3) = 2")
    })?;
    // That is no failure of the one that it keeps, however often it would be due.
    for row in 1..=20 {
        session.each(&format!("INSERT INTO t VALUES ({row}); DELETE FROM t WHERE a = {row} AND a > 2"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    session.each("DELETE FROM t; INSERT INTO t VALUES (1), (2)")?;
    let told =
        session.number("SELECT count(*) FROM pgtrickle.get_refresh_history('st_1') WHERE status <> 'COMPLETED'")?;
    if told > 0 || server.log().contains("refresh of stream table public.st_1 failed") {
        return Err(Failure::new("a refresh that somebody else does is told as a failure"));
    }
    by_hand.each("COMMIT")?;
    rewriter.each("COMMIT")?;
    all_show(&mut session, 3, 2)?;
    wait::until("the rewritten table", wait::PATIENCE, || session.holds("SELECT count(*) = 1 FROM other"))?;
    session.each("TRUNCATE t; INSERT INTO t VALUES (1)")?;
    all_show(&mut session, 3, 1)
}

/// One that changes all the time and takes a while to refresh, among many that change now and then.
fn a_busy_one_starves_nobody(server: &Server) -> Outcome {
    const OTHERS: usize = 60;
    let mut session = server.session()?;
    session.run(
        "CREATE FUNCTION slowly(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(0.1); RETURN a; END $$; CREATE TABLE busy_source (a int); INSERT INTO busy_source VALUES (1)",
    )?;
    several(&mut session, OTHERS, "SELECT a FROM t")?;
    session
        .each("SELECT pgtrickle.create_stream_table('busy', 'SELECT slowly(a) AS a FROM busy_source', '0s', 'FULL')")?;
    let refreshes = "SELECT refreshes FROM pgtrickle.pg_stat_stream_tables WHERE name = 'busy'";
    let connector = server.connector();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Outcome {
            let mut session = connector.session()?;
            while !done.load(Ordering::Relaxed) {
                session.each("UPDATE busy_source SET a = a + 1")?;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        let seen = (1..=10).try_for_each(|row| {
            let before = session.number(refreshes)?;
            insert_and_see(&mut session, OTHERS, row)?;
            wait::until("the busy one goes on", wait::PATIENCE, || Ok(session.number(refreshes)? > before))
        });
        done.store(true, Ordering::Relaxed);
        seen.and(writer.join().unwrap_or_else(|_| Err(Failure::new("the writer panicked"))))
    })
}

fn ends_with_the_extension(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 4, "SELECT a FROM t")?;
    insert_and_see(&mut session, 4, 1)?;
    wait::until("they are there", wait::PATIENCE, || Ok(workers(&mut session, "pg\\_trickle\\_%")? >= 6))?;
    session.each("DROP EXTENSION pg_trickle CASCADE")?;
    wait::until("all but the launcher have ended", wait::PATIENCE, || {
        Ok(workers(&mut session, "pg\\_trickle\\_%")? == 1)
    })?;
    wait::until("the slot is gone", wait::PATIENCE, || session.holds("SELECT count(*) = 0 FROM pg_replication_slots"))
}
