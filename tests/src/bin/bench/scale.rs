//! A thousand stream tables: making them, leaving them alone, and half of them at work.

use std::time::{Duration, Instant};

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::StreamTable;
use pgtrickle_tests::{Outcome, wait};

use crate::report::{Figure, Goal, Report};
use crate::{Effort, SETTINGS};

const SOURCES: usize = 100;
const TABLES: usize = 1000;
/// Half of the sources change, and with them half of the stream tables.
const CHANGING: usize = SOURCES / 2;

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("A thousand stream tables over a hundred sources");
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    for source in 0..SOURCES {
        session.run(&format!(
            "CREATE TABLE s{source} (id int PRIMARY KEY, g int, a int); \
             INSERT INTO s{source} SELECT i, i % 10, i FROM generate_series(1, 100) i"
        ))?;
    }
    let one_each = create(&mut session, 0..TABLES / 2, "")?;
    seconds(report, "500 created, each in a transaction of its own", one_each);
    let together = create(&mut session, TABLES / 2..TABLES, "BEGIN")?;
    seconds(report, "500 more created in one transaction", together);
    idle(effort, report, &mut session)?;
    active(effort, report, &mut session)
}

fn seconds(report: &mut Report, what: &str, took: Duration) {
    let value = took.as_secs_f64();
    report.add(Figure {
        what: what.to_owned(),
        ours: format!("{value:.1} s"),
        rival: "–".into(),
        value,
        goal: Some(Goal::AtMost(30.0)),
    });
}

fn create(session: &mut Session, numbers: std::ops::Range<usize>, begin: &str) -> Outcome<Duration> {
    let started = Instant::now();
    session.run(begin)?;
    for number in numbers {
        let query = match number % 2 {
            0 => format!("SELECT g, count(*) AS n, sum(a) AS s FROM s{} GROUP BY g", number % SOURCES),
            _ => format!("SELECT id, a FROM s{} WHERE g < 5", number % SOURCES),
        };
        session.run(&format!("SELECT pgtrickle.create_stream_table('st_{number}', '{query}', schedule => '1s')"))?;
    }
    if !begin.is_empty() {
        session.run("COMMIT")?;
    }
    Ok(started.elapsed())
}

/// What all workers take of a core while nothing changes.
fn idle(effort: &Effort, report: &mut Report, session: &mut Session) -> Outcome {
    settled(session)?;
    let watched = Duration::from_secs(60) / effort.fraction.min(2) as u32;
    let before = worker_seconds(session)?;
    std::thread::sleep(watched);
    let used = worker_seconds(session)?;
    let percent = |seconds: f64| seconds / watched.as_secs_f64() * 100.0;
    let each = used.iter().map(|(worker, seconds)| {
        let earlier = before.iter().find(|(name, _)| name == worker).map_or(0.0, |(_, seconds)| *seconds);
        (worker, percent(seconds - earlier))
    });
    let each: Vec<_> = each.collect();
    let total = each.iter().map(|(_, percent)| percent).sum();
    report.add(Figure {
        what: "CPU of all workers while nothing changes, % of a core".into(),
        ours: format!("{total:.2} %"),
        rival: "–".into(),
        value: total,
        goal: Some(Goal::AtMost(1.0)),
    });
    let each: Vec<_> = each.iter().map(|(worker, percent)| format!("{worker} {percent:.2} %")).collect();
    report.note(format!("Idle: {}.", each.join(", ")));
    Ok(())
}

fn settled(session: &mut Session) -> Outcome {
    wait::until("all are known", Duration::from_secs(120), || {
        session
            .holds(&format!("SELECT count(*) = {TABLES} FROM pgtrickle.pg_stat_stream_tables WHERE status = 'ACTIVE'"))
    })?;
    std::thread::sleep(Duration::from_secs(10));
    Ok(())
}

/// Seconds of CPU that each worker has used so far.
fn worker_seconds(session: &mut Session) -> Outcome<Vec<(String, f64)>> {
    let workers = session.rows(
        "SELECT backend_type, pid::text FROM pg_stat_activity WHERE backend_type LIKE 'pg\\_trickle%' ORDER BY 1",
    )?;
    let used = |row: &pgtrickle_tests::session::TextRow| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", row[1].as_deref().unwrap_or_default()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // User and system time, in hundredths of a second.
        let ticks: f64 = fields[11..13].iter().filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok((row[0].clone().unwrap_or_default(), ticks / 100.0))
    };
    workers.iter().map(used).collect()
}

/// So often the plans of a stream table were not in the worker's cache.
const PROGRAMS_MADE: &str = "SELECT value FROM pgtrickle.reliability_counters() WHERE name = 'cache_misses'";

/// Every second each of the changing sources changes; each of their stream tables is to be refreshed as often.
fn active(effort: &Effort, report: &mut Report, session: &mut Session) -> Outcome {
    let changes = |session: &mut Session, seconds: u64| -> Outcome {
        for second in 0..seconds {
            let next = Instant::now() + Duration::from_secs(1);
            for source in 0..CHANGING {
                // A row that each of the source's stream tables shows.
                session.run(&format!("UPDATE s{source} SET a = a + 1 WHERE id = {}", second % 10 * 10 + 1))?;
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    };
    // Plans are made.
    changes(session, 10)?;
    let (refreshes, cpu, made) = (refreshes(session)?, worker_seconds(session)?, session.number(PROGRAMS_MADE)?);
    let started = Instant::now();
    changes(session, 60 / effort.fraction.min(3))?;
    let seconds = started.elapsed().as_secs_f64();
    let done = self::refreshes(session)? - refreshes;
    let used: f64 =
        worker_seconds(session)?.iter().map(|(_, s)| s).sum::<f64>() - cpu.iter().map(|(_, s)| s).sum::<f64>();
    let rate = done as f64 / seconds / (TABLES / 2) as f64;
    report.add(Figure {
        what: "500 of them change every second, schedule 1s: refreshes of each per second".into(),
        ours: format!("{rate:.2}"),
        rival: "–".into(),
        value: rate,
        goal: Some(Goal::AtLeast(0.9)),
    });
    let made = session.number(PROGRAMS_MADE)? - made;
    report.note(format!(
        "The workers use {:.0} % of a core then; {made} programs were made anew.",
        used / seconds * 100.0
    ));
    StreamTable::new("public", "st_0").assert_verified(session)
}

fn refreshes(session: &mut Session) -> Outcome<i64> {
    session.number("SELECT sum(refreshes)::bigint FROM pgtrickle.pg_stat_stream_tables")
}
