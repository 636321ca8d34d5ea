//! Two ways from one table that meet again: whoever reads where they meet sees one moment, whatever keeps one of the ways.

use std::time::{Duration, Instant};

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

use crate::{all_show, counter, several};

const MET: &str = "SELECT f.s AS one, g.s AS other, f.n FROM first f, second g";
const AGREE: &str = "SELECT one IS NOT DISTINCT FROM other FROM met";
pub const FAILING: &[(&str, &str)] =
    &[("pg_trickle.max_consecutive_errors", "3"), ("pg_trickle.buffer_alert_threshold", "1000000")];

/// `met` above `first` and `second`, which read `t`; and `beside`, which reads `first` alone.
fn diamond(session: &mut Session, schedules: [&str; 3]) -> Outcome {
    for ((name, query), schedule) in [
        ("first", "SELECT count(*) AS n, sum(a) AS s FROM t"),
        ("second", "SELECT sum(a) AS s, sum(1 / (a + 1000)) AS fails FROM t"),
        ("met", MET),
    ]
    .into_iter()
    .zip(schedules)
    {
        session.each(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', '{schedule}')"))?;
        std::thread::sleep(Duration::from_millis(150));
    }
    session.each(&format!("SELECT pgtrickle.create_stream_table('beside', 'SELECT n FROM first', '{}')", schedules[0]))
}

/// Writes rows one after the other for as long as that, and finds `met` of one moment all the while; the last row's number.
fn agree_while(session: &mut Session, reader: &mut Session, from: usize, time: Duration) -> Outcome<usize> {
    let end = Instant::now() + time;
    let mut row = from;
    while Instant::now() < end {
        row += 1;
        session.each(&format!("INSERT INTO t VALUES ({row})"))?;
        if !reader.holds(AGREE)? {
            let found = reader.rows("SELECT m.*, f.*, g.* FROM met m, first f, second g")?;
            return Err(Failure::new(format!("the arms differ after {row} rows: {found:?}")));
        }
    }
    Ok(row)
}

fn shows(session: &mut Session, what: &str, row: usize) -> Outcome {
    wait::until(&format!("{what} shows {row} rows"), wait::PATIENCE, || {
        session.holds(&format!("SELECT n = {row} FROM {what}"))
    })
}

/// All show these rows, and what they should.
fn all_meet(session: &mut Session, row: usize) -> Outcome {
    shows(session, "met", row)?;
    shows(session, "beside", row)?;
    wait::until("the arms show the same", wait::PATIENCE, || {
        session.holds("SELECT f.s = g.s AND m.one = f.s AND m.other = g.s FROM met m, first f, second g")
    })
}

/// Beside other components that are due at the same time.
pub fn agree(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 2, "SELECT a FROM t")?;
    diamond(&mut session, ["0s"; 3])?;
    let mut reader = server.session()?;
    let end = Instant::now() + Duration::from_secs(5);
    let mut seen = std::collections::BTreeSet::new();
    let mut row = 0;
    while Instant::now() < end {
        row += 1;
        session.each(&format!("INSERT INTO t VALUES ({row})"))?;
        let found = reader.rows(
            "SELECT m.n, m.one IS NOT DISTINCT FROM m.other AND f.s IS NOT DISTINCT FROM g.s AND m.one IS NOT DISTINCT FROM f.s
               FROM met m, first f, second g",
        )?;
        if found[0][1].as_deref() != Some("t") {
            return Err(Failure::new(format!("the arms differ after {row} rows: {found:?}")));
        }
        seen.insert(found[0][0].clone());
    }
    all_meet(&mut session, row)?;
    all_show(&mut session, 2, row)?;
    if counter(&mut session, "round_refreshes")? == 0 || seen.len() < 10 {
        return Err(Failure::new(format!("this showed nothing: {} different contents, or no round", seen.len())));
    }
    Ok(())
}

/// While somebody else has an arm, by a refresh by hand that goes on, the tip waits; nobody else does.
pub fn a_busy_arm(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 1, "SELECT a FROM t")?;
    diamond(&mut session, ["0s"; 3])?;
    let mut reader = server.session()?;
    let mut row = agree_while(&mut session, &mut reader, 0, Duration::from_millis(500))?;
    for _ in 0..3 {
        let mut by_hand = server.session()?;
        by_hand.each("BEGIN; SELECT pgtrickle.refresh_stream_table('second')")?;
        row = agree_while(&mut session, &mut reader, row, Duration::from_millis(700))?;
        shows(&mut session, "first", row)?;
        shows(&mut session, "beside", row)?;
        all_show(&mut session, 1, row)?;
        by_hand.each("COMMIT")?;
        row = agree_while(&mut session, &mut reader, row, Duration::from_millis(300))?;
    }
    all_meet(&mut session, row)
}

/// An error in one arm stops neither the other nor its readers; the tip waits, and that is told.
pub fn a_failing_arm(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 1, "SELECT a FROM t")?;
    diamond(&mut session, ["0s"; 3])?;
    let mut reader = server.session()?;
    let row = agree_while(&mut session, &mut reader, 0, Duration::from_millis(500))?;
    session.each("INSERT INTO t VALUES (-1000)")?;
    let row = agree_while(&mut session, &mut reader, row + 1, Duration::from_secs(2))?;
    shows(&mut session, "first", row)?;
    shows(&mut session, "beside", row)?;
    all_show(&mut session, 1, row)?;
    wait::until("the arm is suspended", wait::PATIENCE, || {
        session.holds("SELECT status = 'SUSPENDED' FROM pgtrickle.pgt_stream_tables WHERE pgt_name = 'second'")
    })?;
    let row = agree_while(&mut session, &mut reader, row, Duration::from_millis(300))?;
    shows(&mut session, "first", row)?;
    let told = session.rows("SELECT status, consecutive_errors FROM pgtrickle.pgt_stream_tables WHERE pgt_name <> 'second' AND (status <> 'ACTIVE' OR consecutive_errors > 0)")?;
    if !told.is_empty() {
        return Err(Failure::new(format!("others failed with it: {told:?}")));
    }
    let told = session.text(
        "SELECT detail FROM pgtrickle.health_check() WHERE check_name = 'stream table met' AND severity = 'WARNING'",
    )?;
    if !told.contains("waits for second") {
        return Err(Failure::new(told));
    }
    session.each("UPDATE t SET a = 0 WHERE a = -1000; SELECT pgtrickle.resume_stream_table('second')")?;
    all_meet(&mut session, row)
}

/// Arms of equal schedules go together, whenever they were made and have last been refreshed.
pub fn arms_of_one_schedule(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 1, "SELECT a FROM t")?;
    diamond(&mut session, ["1s", "1s", "0s"])?;
    let mut reader = server.session()?;
    let row = agree_while(&mut session, &mut reader, 0, Duration::from_secs(4))?;
    all_meet(&mut session, row)
}

/// That is its user's will: the tip shows just what its parents hold, and the next refresh of all brings them together.
pub fn an_arm_refreshed_by_hand(server: &Server) -> Outcome {
    let mut session = server.session()?;
    several(&mut session, 1, "SELECT a FROM t")?;
    diamond(&mut session, ["1h", "1h", "0s"])?;
    for row in 1..=3 {
        session.each(&format!("INSERT INTO t VALUES ({row})"))?;
        let arm = ["second", "first"][row % 2];
        session.each(&format!("SELECT pgtrickle.refresh_stream_table('{arm}')"))?;
        wait::retry("the tip follows", wait::PATIENCE, || oracle::assert_exact(&mut session, "met", MET))?;
        if row == 1 && session.holds(AGREE)? {
            return Err(Failure::new("this showed nothing: the other arm was refreshed, too"));
        }
    }
    for arm in ["first", "second", "beside"] {
        session.each(&format!("SELECT pgtrickle.alter_stream_table('{arm}', schedule => '1s')"))?;
    }
    all_meet(&mut session, 3)
}
