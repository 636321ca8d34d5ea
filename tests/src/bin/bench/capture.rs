//! Committed rows captured and written: our decoder and apply worker against a built-in subscription, and COPY BINARY.
//!
//! Both are held while the WAL is written, then let go: the time until everything has arrived is what counts.

use std::time::{Duration, Instant};

use pgtrickle_tests::fault::{DECODER, worker_pid};
use pgtrickle_tests::server::{Server, send_signal};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::{Failure, Outcome, install, wait};

use crate::report::{Figure, Goal, Report, median, rate};
use crate::{Effort, SETTINGS};

const TABLE: &str = "CREATE TABLE t (id int, a int, b bigint, c text)";
const PATIENCE: Duration = Duration::from_secs(600);

/// A flood of changes and what it is to achieve.
struct Flood {
    what: &'static str,
    rows: u64,
    /// Statements that prepare it, before capture is held.
    before: fn(u64) -> String,
    sql: fn(u64) -> String,
    /// Whether the subscriber gets a primary key: it looks for the rows to update, and would scan for each without one.
    keyed: bool,
    goal: f64,
}

const FLOODS: &[Flood] = &[
    Flood {
        what: "inserts, 1,000 rows a transaction",
        rows: 1_000_000,
        before: nothing,
        sql: inserts,
        keyed: false,
        goal: 6.0,
    },
    Flood {
        what: "updates, REPLICA IDENTITY FULL",
        rows: 500_000,
        before: one_insert,
        sql: updates,
        keyed: true,
        goal: 9.0,
    },
    Flood { what: "single-row transactions", rows: 200_000, before: nothing, sql: singles, keyed: false, goal: 8.0 },
    Flood {
        what: "one transaction of inserts",
        rows: 1_000_000,
        before: nothing,
        sql: one_insert,
        keyed: false,
        goal: 4.0,
    },
];

fn nothing(_: u64) -> String {
    "SELECT 1".into()
}

fn one_insert(rows: u64) -> String {
    format!("INSERT INTO t SELECT i, i % 100, i, 'text of row ' || i FROM generate_series(1, {rows}) i")
}

fn inserts(rows: u64) -> String {
    format!(
        "DO $$ BEGIN FOR n IN 0..{} LOOP
           INSERT INTO t SELECT i, i % 100, i, 'text of row ' || i FROM generate_series(n * 1000 + 1, n * 1000 + 1000) i;
           COMMIT;
         END LOOP; END $$",
        rows / 1000 - 1
    )
}

/// In transactions of 10,000.
fn updates(rows: u64) -> String {
    format!(
        "DO $$ BEGIN FOR n IN 0..{} LOOP
           UPDATE t SET b = b + 1 WHERE id > n * 10000 AND id <= n * 10000 + 10000;
           COMMIT;
         END LOOP; END $$",
        rows / 10_000 - 1
    )
}

fn singles(rows: u64) -> String {
    format!(
        "DO $$ BEGIN FOR i IN 1..{rows} LOOP INSERT INTO t VALUES (i, i % 100, i, 'text of row ' || i); COMMIT; END LOOP; END $$"
    )
}

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Capture: committed rows decoded and written");
    let ours = Ours::start(effort)?;
    let builtin = Subscription::start(effort)?;
    let mut insert_rate = 0.0;
    for flood in FLOODS {
        let rows = flood.rows / effort.fraction;
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            own.push(rows as f64 / ours.drain(flood, rows)?.as_secs_f64());
            other.push(rows as f64 / builtin.drain(flood, rows)?.as_secs_f64());
        }
        let (own, other) = (median(own), median(other));
        if flood.goal == 6.0 {
            insert_rate = own;
        }
        report.add(Figure {
            what: format!("{}, {rows} rows", flood.what),
            ours: rate(own),
            rival: format!("built-in subscription {}", rate(other)),
            value: own / other,
            goal: Some(Goal::AtLeast(flood.goal)),
        });
    }
    copy(effort, report, &ours, insert_rate)
}

/// The same rows by COPY BINARY into a table like a buffer.
fn copy(effort: &Effort, report: &mut Report, ours: &Ours, insert_rate: f64) -> Outcome {
    let rows = FLOODS[0].rows / effort.fraction;
    let mut session = ours.server.session()?;
    let file = ours.server.dir().join("rows.bin");
    session.run(
        "CREATE TABLE like_buffer (xid xid8, lsn pg_lsn, seq bigint, w bigint, c1 int, c2 int, c3 bigint, c4 text)",
    )?;
    session.run(&format!(
        "COPY (SELECT '7'::xid8, '0/7'::pg_lsn, i::bigint, 1::bigint, i, i % 100, i::bigint, 'text of row ' || i FROM generate_series(1, {rows}) i) \
         TO '{}' (FORMAT binary)",
        file.display()
    ))?;
    let mut rates = Vec::new();
    for _ in 0..effort.rounds {
        session.each("TRUNCATE like_buffer; CHECKPOINT")?;
        let started = Instant::now();
        session.run(&format!("COPY like_buffer FROM '{}' (FORMAT binary)", file.display()))?;
        rates.push(rows as f64 / started.elapsed().as_secs_f64());
    }
    let copied = median(rates);
    report.add(Figure {
        what: format!("inserts, {rows} rows"),
        ours: rate(insert_rate),
        rival: format!("COPY BINARY into a buffer {}", rate(copied)),
        value: insert_rate / copied,
        goal: Some(Goal::AtLeast(1.3)),
    });
    Ok(())
}

struct Ours {
    server: Server,
}

impl Ours {
    fn start(effort: &Effort) -> Outcome<Ours> {
        let mut settings = SETTINGS.to_vec();
        settings.push(("pg_trickle.decoding_work_mem", "'1GB'"));
        let server = Server::start(effort.version, &settings)?;
        let mut session = server.session()?;
        session.run(TABLE)?;
        session.run("CREATE TABLE nothing (a int)")?;
        let stream = StreamTable::new("public", "st");
        stream.create(&mut session, "SELECT id, a, b, c FROM t WHERE a < 0", BY_HAND)?;
        // Its refresh waits until everything before it has been captured, and has nothing else to do.
        StreamTable::new("public", "barrier").create(&mut session, "SELECT a FROM nothing", BY_HAND)?;
        Ok(Ours { server })
    }

    fn drain(&self, flood: &Flood, rows: u64) -> Outcome<Duration> {
        let mut session = self.server.session()?;
        let barrier = StreamTable::new("public", "barrier");
        session.run(&(flood.before)(rows))?;
        session.each("VACUUM t; CHECKPOINT")?;
        StreamTable::new("public", "st").refresh(&mut session)?;
        barrier.refresh(&mut session)?;
        let decoder = wait::poll("the decoder", wait::PATIENCE, || worker_pid(&mut session, DECODER))?;
        send_signal(decoder, "STOP")?;
        let written = session.run(&(flood.sql)(rows));
        let started = Instant::now();
        send_signal(decoder, "CONT")?;
        written?;
        wait::retry("everything is captured", PATIENCE, || barrier.refresh(&mut session))?;
        let taken = started.elapsed();
        session.run("TRUNCATE t")?;
        StreamTable::new("public", "st").refresh(&mut session)?;
        Ok(taken)
    }
}

struct Subscription {
    publisher: Server,
    subscriber: Server,
}

impl Subscription {
    /// Two servers, so that the subscriber's own writing is not in the publisher's WAL.
    fn start(effort: &Effort) -> Outcome<Subscription> {
        let mut settings = SETTINGS.to_vec();
        settings.push(("shared_preload_libraries", "''"));
        // The walsender is stopped while the load is written, as our decoder is.
        settings.extend([("wal_sender_timeout", "0"), ("wal_receiver_timeout", "0")]);
        let publisher = Server::start_bare(effort.version, &settings)?;
        let subscriber = Server::start_bare(effort.version, &settings)?;
        let mut there = publisher.session()?;
        there.run(TABLE)?;
        there.run("CREATE TABLE mark (n int)")?;
        there.run("ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t, mark")?;
        let mut here = subscriber.session()?;
        here.run(TABLE)?;
        here.run("CREATE TABLE mark (n int)")?;
        here.run(&format!(
            "CREATE SUBSCRIPTION s CONNECTION 'host={} port={} user=postgres dbname=postgres' PUBLICATION p WITH (binary = true)",
            publisher.dir().display(),
            publisher.port()
        ))?;
        Ok(Subscription { publisher, subscriber })
    }

    fn drain(&self, flood: &Flood, rows: u64) -> Outcome<Duration> {
        let mut there = self.publisher.session()?;
        let mut here = self.subscriber.session()?;
        here.run("ALTER TABLE t DROP CONSTRAINT IF EXISTS t_pkey")?;
        if flood.keyed {
            here.run("ALTER TABLE t ADD PRIMARY KEY (id)")?;
        }
        there.run(&(flood.before)(rows))?;
        there.each("VACUUM t; CHECKPOINT")?;
        self.catch_up(&mut there, &mut here)?;
        here.each("CHECKPOINT; ANALYZE t")?;
        let sender = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
        let sender: u32 = there.text(sender)?.parse().map_err(|e| Failure::new(format!("no walsender: {e}")))?;
        send_signal(sender, "STOP")?;
        let written = there.run(&(flood.sql)(rows));
        let started = Instant::now();
        send_signal(sender, "CONT")?;
        written?;
        self.catch_up(&mut there, &mut here)?;
        let taken = started.elapsed();
        there.run("TRUNCATE t")?;
        self.catch_up(&mut there, &mut here)?;
        Ok(taken)
    }

    /// Waits until a mark that is written now can be seen at the subscriber, and with it everything before.
    fn catch_up(&self, there: &mut Session, here: &mut Session) -> Outcome {
        let mark = there.text("INSERT INTO mark SELECT count(*) FROM mark RETURNING n")?;
        let arrived = format!("SELECT count(*) > 0 FROM mark WHERE n = {mark}");
        wait::until("the subscriber has it", PATIENCE, || here.holds(&arrived))
    }
}

/// Runs a client program of the server and returns how long it took.
pub fn timed(command: &mut std::process::Command) -> Outcome<Duration> {
    let started = Instant::now();
    install::run(command)?;
    Ok(started.elapsed())
}
