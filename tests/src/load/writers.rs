//! Eight manners of writing.

use std::time::Duration;

use fastrand::Rng;

use super::{ACCOUNTS, BRANCHES, Options, Shared};
use crate::server::Connector;
use crate::session::Session;
use crate::{Outcome, wait};

/// One writer: what its connection is set to, and what one transaction of it says.
pub struct Writer {
    number: usize,
    options: Options,
    settings: &'static str,
    script: Script,
}

/// The statements of the next transaction.
type Script = fn(&mut Context) -> Vec<String>;

/// What a script may use.
struct Context {
    rng: Rng,
    writer: usize,
    /// Transactions so far.
    round: u64,
    truncate: bool,
}

pub fn all(options: Options) -> Vec<Writer> {
    let manners: [(&'static str, Script); 8] = [
        ("", short),
        ("", long),
        ("", savepoints),
        ("", upserts),
        ("", journal),
        ("", two_phase),
        ("SET synchronous_commit = off", short),
        ("SET default_transaction_isolation = 'repeatable read'", branches),
    ];
    let writer = |(number, (settings, script))| Writer { number, options, settings, script };
    manners.into_iter().enumerate().map(writer).collect()
}

impl Writer {
    /// Works until told to stop; whatever goes wrong, it connects again.
    pub fn work(&self, connector: &Connector, shared: &Shared) {
        let mut context = Context {
            rng: Rng::with_seed(self.options.seed.wrapping_mul(31).wrapping_add(self.number as u64)),
            writer: self.number,
            round: 0,
            truncate: self.options.truncate,
        };
        while !shared.stopped() {
            let Ok(mut session) = self.connect(connector) else {
                let _ = wait::until("a moment", Duration::from_millis(50), || Ok(shared.stopped()));
                continue;
            };
            while !shared.stopped() {
                match self.transaction(&mut session, &mut context) {
                    Ok(committed) => shared.count(committed),
                    Err(_) => break,
                }
            }
        }
    }

    fn connect(&self, connector: &Connector) -> Outcome<Session> {
        let mut session = connector.session()?;
        session.run("SET application_name = 'load'; SET lock_timeout = '500ms'; SET deadlock_timeout = '50ms'")?;
        session.run(self.settings)?;
        Ok(session)
    }

    /// Runs one transaction; an SQL error rolls it back, a lost connection is an error.
    fn transaction(&self, session: &mut Session, context: &mut Context) -> Result<bool, ()> {
        context.round += 1;
        for sql in (self.script)(context) {
            match session.try_run(&sql) {
                Ok(()) => {}
                Err(None) => return Err(()),
                Err(Some(_)) => return session.try_run("ROLLBACK").map(|()| false).map_err(drop),
            }
        }
        Ok(true)
    }
}

impl Context {
    fn account(&mut self) -> i64 {
        self.rng.i64(1..=ACCOUNTS)
    }

    fn branch(&mut self) -> i64 {
        self.rng.i64(1..=BRANCHES)
    }

    /// Money moves between two accounts, in one statement or in two.
    fn transfer(&mut self) -> Vec<String> {
        let (from, to, amount) = (self.account(), self.account(), self.rng.i64(-50..100));
        if self.rng.bool() {
            return vec![format!(
                "UPDATE load.accounts SET balance = balance + CASE id WHEN {to} THEN {amount} ELSE -{amount} END \
                 WHERE id IN ({from}, {to}) AND {from} <> {to}",
                amount = format_args!("({amount})")
            )];
        }
        vec![
            format!("UPDATE load.accounts SET balance = balance - ({amount}) WHERE id = {from}"),
            format!("UPDATE load.accounts SET balance = balance + ({amount}) WHERE id = {to}"),
        ]
    }

    fn pause(&mut self) -> String {
        format!("SELECT pg_sleep({})", f64::from(self.rng.u32(..150)) / 1000.0)
    }
}

fn begin(body: Vec<String>) -> Vec<String> {
    let mut all = vec!["BEGIN".to_owned()];
    all.extend(body);
    all
}

fn short(context: &mut Context) -> Vec<String> {
    let mut all = begin(context.transfer());
    all.push(if context.rng.u32(..10) == 0 { "ROLLBACK" } else { "COMMIT" }.into());
    all
}

fn long(context: &mut Context) -> Vec<String> {
    let mut all = begin(Vec::new());
    for _ in 0..context.rng.u32(2..6) {
        all.extend(context.transfer());
        all.push(context.pause());
    }
    all.push("COMMIT".into());
    all
}

fn savepoints(context: &mut Context) -> Vec<String> {
    let mut all = begin(context.transfer());
    for _ in 0..context.rng.u32(1..5) {
        all.push("SAVEPOINT a".into());
        // Undone at once: money out of nothing must never be seen.
        if context.rng.bool() {
            all.push(format!("UPDATE load.accounts SET balance = balance + 1000000 WHERE id = {}", context.account()));
            all.push(format!("INSERT INTO load.journal VALUES ({}, 1000000, 'never')", context.account()));
            all.push("SAVEPOINT b".into());
            all.push("DELETE FROM load.visits WHERE id < 20".into());
            all.push("ROLLBACK TO a".into());
        }
        all.extend(context.transfer());
        all.push(if context.rng.bool() { "RELEASE a".into() } else { context.pause() });
    }
    all.push("COMMIT".into());
    all
}

fn upserts(context: &mut Context) -> Vec<String> {
    let first = context.rng.u32(..80);
    let tag = context.rng.u32(..5);
    vec![match context.rng.u32(..6) {
        0 => format!("DELETE FROM load.visits WHERE id % 17 = {}", context.rng.u32(..17)),
        1 => format!(
            "INSERT INTO load.visits SELECT i, 0, NULL FROM generate_series({first}, {first} + 9) i ON CONFLICT DO NOTHING"
        ),
        _ => format!(
            "INSERT INTO load.visits SELECT i, 1, 'tag {tag}' FROM generate_series({first}, {first} + 5) i \
             ON CONFLICT (id) DO UPDATE SET hits = load.visits.hits + 1, tag = excluded.tag"
        ),
    }]
}

fn journal(context: &mut Context) -> Vec<String> {
    let (account, amount) = (context.account(), context.rng.i32(-20..20));
    let note = context.rng.u32(..6);
    match context.rng.u32(..40) {
        0 if context.truncate => begin(vec![
            "TRUNCATE load.journal".into(),
            format!("INSERT INTO load.journal VALUES ({account}, {amount}, 'first')"),
            "COMMIT".into(),
        ]),
        1..=3 => vec!["DELETE FROM load.journal WHERE ctid IN (SELECT ctid FROM load.journal LIMIT 200)".into()],
        4..=6 => {
            vec![format!("UPDATE load.journal SET amount = amount + 1, note = 'note {note}' WHERE account = {account}")]
        }
        7 => vec![format!("UPDATE load.journal SET note = NULL WHERE amount = {amount}")],
        _ => vec![format!(
            "INSERT INTO load.journal SELECT ({account} + i) % {ACCOUNTS}, {amount} + i % 3, 'note {note}' FROM generate_series(1, 20) i"
        )],
    }
}

fn two_phase(context: &mut Context) -> Vec<String> {
    let mut all = begin(context.transfer());
    if context.rng.bool() {
        all.push("SAVEPOINT a".into());
        all.extend(context.transfer());
        all.push("ROLLBACK TO a".into());
    }
    let gid = format!("load {} {} {}", context.writer, context.round, context.rng.u32(..));
    all.push(format!("PREPARE TRANSACTION '{gid}'"));
    all.push(context.pause());
    let verb = if context.rng.u32(..3) == 0 { "ROLLBACK" } else { "COMMIT" };
    all.push(format!("{verb} PREPARED '{gid}'"));
    all
}

/// Accounts move to other branches and branches change: the other side of the join.
fn branches(context: &mut Context) -> Vec<String> {
    let (branch, other, account) = (context.branch(), context.branch(), context.account());
    let mut all = begin(vec![match context.rng.u32(..4) {
        0 => format!("UPDATE load.branches SET name = 'branch {branch} v{}' WHERE id = {branch}", context.round),
        1 => format!("UPDATE load.branches SET region = region + 1 WHERE id = {branch}"),
        2 => format!("UPDATE load.accounts SET branch = {other} WHERE id = {account}"),
        _ => format!("UPDATE load.accounts SET branch = {other} WHERE branch = {branch} AND id % 7 = 0"),
    }]);
    all.push(context.pause());
    all.extend(context.transfer());
    all.push("COMMIT".into());
    all
}
