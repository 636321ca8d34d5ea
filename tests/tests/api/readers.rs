//! Whoever reads a stream table while its query is replaced sees the old contents or the new, whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, wait};

use crate::{Test, arrange};

pub const TESTS: &[Test] = &[("alter_beneath_readers", beneath_readers)];

/// Each says by its first column which one it is. Columns stay, come and go.
const QUERIES: [&str; 5] = [
    "SELECT 1 AS tag, a FROM t",
    "SELECT 2 AS tag, a FROM t",
    "SELECT 3 AS tag, a, c, b FROM t",
    "SELECT 4 AS tag, b, count(*) AS n FROM t GROUP BY b",
    "SELECT 5 AS tag, a::bigint AS p, c FROM t",
];
const LOOK: &str = "SELECT count(*)::int AS n, min(tag) AS least, max(tag) AS most FROM st";
const MOMENT: Duration = Duration::from_millis(20);

/// A hundred rows of one query, or five of the one that groups them.
fn check(rows: &[Vec<Option<String>>], how: &str) -> Outcome {
    let found: Vec<_> = rows.iter().flatten().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    let expected = if found.last() == Some(&"4") { "5" } else { "100" };
    match found[..] {
        [n, least, most] if n == expected && least == most => Ok(()),
        _ => Err(Failure::new(format!("{how}: {found:?}"))),
    }
}

fn prepared(session: &mut Session) -> Outcome {
    check(&session.rows("EXECUTE look")?, "a prepared statement")
}

/// Its snapshot is older than its first look at the stream table.
fn one_snapshot(session: &mut Session) -> Outcome {
    session.each("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t")?;
    std::thread::sleep(MOMENT);
    let first = session.rows(LOOK)?;
    std::thread::sleep(MOMENT);
    let second = session.rows("EXECUTE look")?;
    session.run("COMMIT")?;
    check(&first, "a snapshot")?;
    if first == second { Ok(()) } else { Err(Failure::new(format!("{first:?}, then {second:?}"))) }
}

fn cursor(session: &mut Session) -> Outcome {
    session.each("BEGIN; DECLARE tags CURSOR FOR SELECT tag FROM st")?;
    let mut tags = session.rows("FETCH 3 FROM tags")?;
    std::thread::sleep(MOMENT);
    tags.extend(session.rows("FETCH ALL FROM tags")?);
    session.run("COMMIT")?;
    let (least, most) =
        (tags.iter().flatten().flatten().min().cloned(), tags.iter().flatten().flatten().max().cloned());
    check(&[vec![Some(tags.len().to_string()), least, most]], "a cursor")
}

fn change(session: &mut Session) -> Outcome {
    std::thread::sleep(MOMENT / 4);
    session.run("UPDATE t SET c = md5(c) WHERE a % 7 = 0")
}

fn beneath_readers(server: &Server) -> Outcome {
    let mut session = arrange(
        server,
        "alter_read",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE t (a int PRIMARY KEY, b int, c text); \
         INSERT INTO t SELECT i, i % 5, 'c' FROM generate_series(1, 100) i",
    )?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('st', '{}', '0s')", QUERIES[0]))?;
    let done = AtomicBool::new(false);
    let connector = server.connector();
    let many_times = |act: fn(&mut Session) -> Outcome| -> Outcome<usize> {
        let mut session = connector.session()?;
        session.each(&format!("SET search_path = alter_read, public; PREPARE look AS {LOOK}"))?;
        let mut times = 0;
        while !done.load(Ordering::Relaxed) {
            act(&mut session)?;
            times += 1;
        }
        Ok(times)
    };
    std::thread::scope(|scope| {
        let many_times = &many_times;
        let kinds: [fn(&mut Session) -> Outcome; 4] = [prepared, one_snapshot, cursor, change];
        let readers = kinds.map(|act| scope.spawn(move || many_times(act)));
        let altered = (1..=20).try_for_each(|round| {
            wait::retry("altering", wait::PATIENCE, || {
                let query = QUERIES[round % QUERIES.len()];
                session.each(&format!("SELECT pgtrickle.alter_stream_table('st', query => '{query}')"))
            })
        });
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let times = reader.join().map_err(|_| Failure::new("a reader panicked"))??;
            if times < 10 {
                return Err(Failure::new(format!("somebody was kept waiting: {times} times")));
            }
        }
        altered
    })?;
    crate::assert_error(
        &mut session,
        "SELECT pgtrickle.alter_stream_table('st', query => 'SELECT 5 AS tag, a::positive AS p FROM t')",
        "0A000",
        &["of a domain with constraints", "Cast the column"],
    )?;
    crate::assert_text(&mut session, "SELECT missing + extra FROM pgtrickle.verify_stream_table('st')", "0")
}
