//! Writers at every isolation level: whatever they do, each stream table is its query at every snapshot that anybody has.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::StreamTable;
use pgtrickle_tests::{During, Failure, Outcome, oracle};

use super::{Test, arrange, assert_error, create};

pub const TESTS: &[Test] = &[
    ("writers_read_committed", |server| under_load(server, "now_rc", &["read committed"])),
    ("writers_repeatable_read", |server| under_load(server, "now_rr", &["repeatable read"])),
    ("writers_serializable", |server| under_load(server, "now_ser", &["serializable"])),
    ("writers_mixed", |server| under_load(server, "now_mix", &["read committed", "repeatable read", "serializable"])),
    ("one_snapshot_meets_a_later_change", one_snapshot_meets_a_later_change),
];

const WRITERS: usize = 4;
/// On a busy machine they get more time to commit so often.
const ENOUGH: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(60);

/// Parents first. Those of the second list are refreshed by the scheduler, and read one of the first.
const AT_ONCE: &[(&str, &str)] = &[
    ("sums", "SELECT branch, count(*) AS n, sum(balance) AS total, max(balance) AS hi FROM accounts GROUP BY branch"),
    ("named", "SELECT a.id, a.balance, b.name FROM accounts a JOIN branches b ON b.id = a.branch"),
    ("lonely", "SELECT b.id, b.name FROM branches b WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.branch = b.id)"),
    ("names", "SELECT name, count(*) AS n FROM named GROUP BY name"),
    ("ranks", "SELECT id, rank() OVER (PARTITION BY branch ORDER BY balance, id) AS r FROM accounts"),
    ("pairs", "SELECT x.id AS a, y.id AS b FROM accounts x JOIN accounts y ON y.balance = x.balance AND y.id > x.id"),
];
const DEFERRED: &[(&str, &str)] = &[("later", "SELECT n, count(*) AS names FROM names GROUP BY n")];

fn duration() -> Duration {
    let seconds = std::env::var("PGTEST_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    Duration::from_secs(seconds)
}

fn under_load(server: &Server, schema: &'static str, levels: &[&'static str]) -> Outcome {
    let mut session = arrange(
        server,
        schema,
        "CREATE TABLE branches (id int PRIMARY KEY, name text); \
         CREATE TABLE accounts (id int PRIMARY KEY, branch int, balance int); \
         INSERT INTO branches SELECT i, 'b' || i % 3 FROM generate_series(1, 6) i; \
         INSERT INTO accounts SELECT i, i % 6 + 1, i * 10 FROM generate_series(1, 40) i",
    )?;
    for (name, query) in AT_ONCE {
        create(&mut session, schema, name, query).during(*name)?;
    }
    for (name, query) in DEFERRED {
        StreamTable::new(schema, name).create(&mut session, query, "0s").during(*name)?;
    }
    let seed = fastrand::u64(..);
    let work = Work { until: Instant::now() + duration(), failed: AtomicBool::new(false), commits: AtomicU64::new(0) };
    let looks = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (work, level) = (&work, levels[number % levels.len()]);
                let rng = Rng::with_seed(seed.wrapping_add(number as u64));
                scope.spawn(move || work.guard(write(server, schema, level, rng, work)))
            })
            .collect();
        let looks = work.guard(watch(server, schema, &work));
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer panicked"))?;
        looks
    })
    .during(format!("seed {seed}"))?;
    for (name, query) in AT_ONCE {
        super::assert_exact(&mut session, schema, name, query).during("at the end")?;
    }
    for (name, query) in DEFERRED {
        let table = StreamTable::new(schema, name);
        table.assert_verified(&mut session)?;
        oracle::assert_exact(&mut session, &table.quoted(), query)?;
    }
    let commits = work.commits.load(Ordering::Relaxed);
    eprintln!("    {levels:?}: seed {seed}, {commits} commits, {looks} looks");
    if commits < ENOUGH { Err(Failure::new(format!("only {commits} transactions committed"))) } else { Ok(()) }
}

struct Work {
    until: Instant,
    failed: AtomicBool,
    commits: AtomicU64,
}

impl Work {
    fn goes_on(&self) -> bool {
        let few = self.commits.load(Ordering::Relaxed) < ENOUGH && Instant::now() < self.until + PATIENCE;
        (few || Instant::now() < self.until) && !self.failed.load(Ordering::Relaxed)
    }

    /// A failure ends everybody's work.
    fn guard<T>(&self, result: Outcome<T>) -> Outcome<T> {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// Looks from outside, each time under one snapshot.
fn watch(server: &Server, schema: &str, work: &Work) -> Outcome<u64> {
    let mut session = open(server, schema)?;
    let mut looks = 0;
    while work.goes_on() {
        for (name, query) in AT_ONCE {
            oracle::assert_exact(&mut session, &StreamTable::new(schema, name).quoted(), query)
                .during("from outside")?;
            looks += 1;
        }
    }
    Ok(looks)
}

fn open(server: &Server, schema: &str) -> Outcome<Session> {
    let mut session = server.session()?;
    session
        .run(&format!("SET search_path = {schema}; SET deadlock_timeout = '20ms'; SET statement_timeout = '60s'"))?;
    Ok(session)
}

fn write(server: &Server, schema: &str, level: &str, mut rng: Rng, work: &Work) -> Outcome {
    let mut session = open(server, schema)?;
    while work.goes_on() {
        match transaction(&mut session, schema, level, &mut rng)? {
            true => work.commits.fetch_add(1, Ordering::Relaxed),
            false => 0,
        };
    }
    Ok(())
}

/// One transaction; says whether it was committed. Conflicts and deadlocks roll it back, anything else is a failure.
fn transaction(session: &mut Session, schema: &str, level: &str, rng: &mut Rng) -> Outcome<bool> {
    let commit = rng.u8(0..5) > 0;
    let mut statements = vec![format!("BEGIN ISOLATION LEVEL {level}")];
    statements.extend((0..rng.usize(1..4)).flat_map(|_| statement(rng)));
    let look = rng.bool();
    let end = if commit { "COMMIT" } else { "ROLLBACK" };
    for sql in &statements {
        if conflicts(session.try_run(sql), sql)? {
            session.run("ROLLBACK")?;
            return Ok(false);
        }
    }
    if look {
        let (name, query) = AT_ONCE[rng.usize(..AT_ONCE.len())];
        let table = StreamTable::new(schema, name).quoted();
        match oracle::assert_exact_within(session, &table, query) {
            // Serializable transactions may be chosen as victims while they read.
            Err(failure) if failure.to_string().contains("40001") => {
                session.run("ROLLBACK")?;
                return Ok(false);
            }
            result => result.during(format!("inside, after {statements:?}"))?,
        }
    }
    let conflict = conflicts(session.try_run(end), end)?;
    if conflict {
        session.run("ROLLBACK")?;
    }
    Ok(commit && !conflict)
}

fn conflicts(result: Result<(), Option<String>>, sql: &str) -> Outcome<bool> {
    match result {
        Ok(()) => Ok(false),
        // Serialization failure, deadlock, and a key that another has just taken.
        Err(Some(state)) if ["40001", "40P01", "23505"].contains(&state.as_str()) => Ok(true),
        Err(state) => Err(Failure::new(format!("{sql}: {state:?}"))),
    }
}

fn statement(rng: &mut Rng) -> Vec<String> {
    let (id, branch, amount) = (rng.i32(1..60), rng.i32(1..8), rng.i32(0..50) * 10);
    let one = match rng.u8(0..9) {
        0 => format!(
            "INSERT INTO accounts VALUES ({id}, {branch}, {amount}) ON CONFLICT (id) DO UPDATE SET balance = excluded.balance"
        ),
        1 => format!("DELETE FROM accounts WHERE id = {id}"),
        2 => format!("UPDATE accounts SET balance = balance + {amount} WHERE branch = {branch}"),
        3 => format!("UPDATE accounts SET branch = {branch} WHERE id BETWEEN {id} AND {id} + 5"),
        4 => format!("UPDATE branches SET name = 'b{}' WHERE id = {branch}", amount % 4),
        5 => format!("INSERT INTO branches VALUES ({branch}, 'b1') ON CONFLICT DO NOTHING"),
        6 => format!(
            "WITH moved AS (UPDATE accounts SET branch = {branch} WHERE id % 7 = {id} % 7 RETURNING id), \
                  gone AS (DELETE FROM branches WHERE id = {branch} + 1 RETURNING id) \
             INSERT INTO accounts SELECT id + 60, {branch}, {amount} FROM moved WHERE id < 60 ON CONFLICT (id) DO NOTHING"
        ),
        7 => format!("DELETE FROM accounts WHERE id > 60 AND id % 3 = {branch} % 3"),
        _ => {
            return vec![
                "SAVEPOINT s".into(),
                format!("UPDATE accounts SET balance = {amount} WHERE id = {id}"),
                "ROLLBACK TO s".into(),
                format!("INSERT INTO accounts VALUES ({id} + 200, {branch}, {amount}) ON CONFLICT DO NOTHING"),
            ];
        }
    };
    vec![one]
}

/// A transaction that keeps to its snapshot cannot have a stream table follow that has changed since.
fn one_snapshot_meets_a_later_change(server: &Server) -> Outcome {
    let schema = "now_later";
    let mut session =
        arrange(server, schema, "CREATE TABLE t (id int PRIMARY KEY, g int); CREATE TABLE u (g int PRIMARY KEY)")?;
    let query = "SELECT t.g, count(*) AS n FROM t JOIN u USING (g) GROUP BY t.g";
    create(&mut session, schema, "st", query)?;
    session.each("INSERT INTO t VALUES (1, 1)")?;
    let mut other = open(server, schema)?;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        session.each(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM t"))?;
        // The stream table itself stays as it is, but what it is made of does not.
        other.run("INSERT INTO u SELECT coalesce(max(g), 10) + 1 FROM u")?;
        assert_error(
            &mut session,
            "INSERT INTO t SELECT max(id) + 1, 1 FROM t",
            "40001",
            &["stream table now_later.st", "hint"],
        )?;
        session.run("ROLLBACK")?;
        // Own changes are no obstacle, nor are those before the snapshot.
        session.each(&format!(
            "BEGIN ISOLATION LEVEL {level}; INSERT INTO u SELECT max(g) + 1 FROM u; INSERT INTO t SELECT max(id) + 1, 11 FROM t; COMMIT"
        ))?;
        super::assert_exact(&mut session, schema, "st", query)?;
    }
    Ok(())
}
