//! A small bank under load: eight writers of different manners, stream tables over what they write, and the truths that
//! hold at every moment although everything moves.

mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::oracle;
use crate::server::{Connector, Server};
use crate::session::Session;
use crate::stream::StreamTable;
use crate::{During, Failure, Outcome, wait};

/// Money in the bank: transfers move it, nothing makes or destroys it.
pub const TOTAL: i64 = ACCOUNTS * 1000;
const ACCOUNTS: i64 = 200;
const BRANCHES: i64 = 10;
const SCHEMA: &str = "load";

/// The stream tables over the bank, parents before children.
const STREAMS: &[(&str, &str)] = &[
    ("totals", "SELECT count(*) AS n, sum(balance) AS total FROM load.accounts"),
    (
        "by_branch",
        "SELECT b.id, b.name, count(*) AS n, sum(a.balance) AS total, max(a.balance) AS richest \
         FROM load.accounts a JOIN load.branches b ON b.id = a.branch GROUP BY b.id, b.name",
    ),
    (
        "balances",
        "SELECT a.id, a.balance, b.name, b.region FROM load.accounts a JOIN load.branches b ON b.id = a.branch",
    ),
    ("regions", "SELECT region, count(*) AS n, sum(balance) AS total FROM load.balances GROUP BY region"),
    (
        "journal_sums",
        "SELECT account, count(*) AS n, sum(amount) AS s, min(amount) AS lo, max(amount) AS hi FROM load.journal GROUP BY account",
    ),
    (
        "notes",
        "SELECT j.note, a.branch, count(*) AS n FROM load.journal j JOIN load.accounts a ON a.id = j.account GROUP BY 1, 2",
    ),
    ("visits_copy", "SELECT id, hits, tag FROM load.visits"),
    ("tags", "SELECT DISTINCT tag, hits % 3 AS rest FROM load.visits"),
];

/// What the writers do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seed: u64,
    /// TRUNCATE makes stream tables start anew, which would hide what a fault test is after.
    pub truncate: bool,
}

/// Tables and stream tables of the bank, in a server.
pub struct Bank {
    connector: Connector,
}

impl Bank {
    pub fn set_up(server: &Server, schedule: &str) -> Outcome<Bank> {
        let mut session = server.session()?;
        session.run(&format!(
            "CREATE SCHEMA load;
             CREATE TABLE load.branches (id int PRIMARY KEY, name text NOT NULL, region int NOT NULL);
             CREATE TABLE load.accounts (id int PRIMARY KEY, branch int NOT NULL, balance bigint NOT NULL, note text);
             CREATE TABLE load.journal (account int, amount int, note text);
             CREATE TABLE load.visits (id int PRIMARY KEY, hits int, tag text);
             INSERT INTO load.branches SELECT i, 'branch ' || i, i % 3 FROM generate_series(1, {BRANCHES}) i;
             INSERT INTO load.accounts SELECT i, i % {BRANCHES} + 1, 1000 FROM generate_series(1, {ACCOUNTS}) i;"
        ))?;
        for (name, query) in STREAMS {
            StreamTable::new(SCHEMA, name).create(&mut session, query, schedule)?;
        }
        Ok(Bank { connector: server.connector() })
    }

    /// Starts the writers.
    pub fn start(&self, options: Options) -> Load {
        let shared = Arc::new(Shared::default());
        let threads = writers::all(options)
            .into_iter()
            .map(|writer| {
                let (connector, shared) = (self.connector.clone(), shared.clone());
                std::thread::spawn(move || writer.work(&connector, &shared))
            })
            .collect();
        Load { connector: self.connector.clone(), shared, threads }
    }

    /// The sums that no transaction changes, read at any moment from outside.
    pub fn assert_invariants(&self, session: &mut Session) -> Outcome {
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let checks = [
            ("totals", "SELECT sum(total) FROM load.totals", TOTAL),
            ("totals", "SELECT sum(n) FROM load.totals", ACCOUNTS),
            ("by_branch", "SELECT sum(total) FROM load.by_branch", TOTAL),
            ("by_branch", "SELECT sum(n) FROM load.by_branch", ACCOUNTS),
            ("balances", "SELECT sum(balance) FROM load.balances", TOTAL),
            ("balances", "SELECT count(*) FROM load.balances", ACCOUNTS),
            ("regions", "SELECT sum(total) FROM load.regions", TOTAL),
        ];
        for (name, sql, expected) in checks {
            let found = session.number(sql)?;
            if found != expected {
                return Err(Failure::new(format!("{name}: {sql} is {found}, not {expected}")));
            }
        }
        session.run("COMMIT")
    }

    /// The extension's audit of one stream table, under whatever load there is. A lock conflict is tried again.
    pub fn verify_one(&self, session: &mut Session, number: usize) -> Outcome {
        let (name, _) = STREAMS[number % STREAMS.len()];
        StreamTable::new(SCHEMA, name).assert_verified(session)
    }

    /// After the writers have ended: everything refreshed, compared from outside, and audited.
    pub fn assert_exact(&self, session: &mut Session) -> Outcome {
        self.settle(session)?;
        for (name, _) in STREAMS {
            StreamTable::new(SCHEMA, name).refresh(session).during("refreshing at the end")?;
        }
        for (name, query) in STREAMS {
            oracle::assert_exact(session, &StreamTable::new(SCHEMA, name).quoted(), query)?;
            StreamTable::new(SCHEMA, name).assert_verified(session)?;
        }
        self.assert_invariants(session)
    }

    /// Ends what a crash has left prepared.
    fn settle(&self, session: &mut Session) -> Outcome {
        for row in session.rows("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'load %'")? {
            let gid = row[0].clone().unwrap_or_default();
            let verb = if gid.len() % 2 == 0 { "COMMIT" } else { "ROLLBACK" };
            session.run(&format!("{verb} PREPARED '{gid}'"))?;
        }
        Ok(())
    }

    /// How often capture or a stream table had to start anew instead of carrying on.
    pub fn restarts(&self, session: &mut Session) -> Outcome<(i64, i64)> {
        let generation = session.number("SELECT coalesce(max(generation), 0) FROM pgtrickle.pgt_capture")?;
        let anew = "SELECT count(*) FROM pgtrickle.pgt_refresh_history WHERE action = 'REINITIALIZE'";
        Ok((generation, session.number(anew)?))
    }
}

/// What the writers have in common.
#[derive(Default)]
pub struct Shared {
    stop: AtomicBool,
    commits: AtomicU64,
    errors: AtomicU64,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, committed: bool) {
        if committed { &self.commits } else { &self.errors }.fetch_add(1, Ordering::Relaxed);
    }
}

/// Running writers; stopped when dropped.
pub struct Load {
    connector: Connector,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Transactions that failed: deadlocks, conflicts, lost connections.
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    /// Waits until the writers have committed so many more: time measured in work.
    pub fn pass(&self, commits: u64) -> Outcome {
        let goal = self.commits() + commits;
        wait::until("the writers commit", Duration::from_secs(120), || Ok(self.commits() >= goal))
    }

    /// One process of the writers, to be killed.
    pub fn a_writer(&self, session: &mut Session) -> Outcome<Option<u32>> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'load' AND state <> 'idle' ORDER BY random() LIMIT 1";
        Ok(session.rows(sql)?.first().and_then(|row| row[0].as_deref()?.parse().ok()))
    }

    /// Stops the writers and waits for them.
    pub fn stop(mut self) -> Outcome<u64> {
        self.join();
        match self.commits() {
            0 => Err(Failure::new("no writer ever committed")),
            commits => Ok(commits),
        }
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// Where the writers connect to.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}
