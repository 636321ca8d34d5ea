//! What befalls the graph: DDL on sources and on stream tables, while everybody works.

use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use pgtrickle_tests::server::Connector;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome};

use crate::Watch;
use crate::graph::{STREAM_TABLES, tolerable};

/// Each is one transaction, or several statements one by one (`;`) where one of them cannot be in a transaction.
const ON_SOURCES: &[&str] = &[
    "ALTER TABLE orders ADD COLUMN IF NOT EXISTS later int DEFAULT 7",
    "ALTER TABLE orders DROP COLUMN IF EXISTS later",
    "BEGIN; ALTER TABLE orders ADD COLUMN brief text; UPDATE orders SET brief = 'x', amount = amount + 1 WHERE id % 30 = 3; ALTER TABLE orders DROP COLUMN brief; COMMIT",
    "ALTER TABLE items RENAME COLUMN price TO cost; ALTER TABLE items RENAME COLUMN cost TO price",
    "ALTER TABLE bag RENAME TO sack; ALTER TABLE sack RENAME TO bag",
    "ALTER TABLE items ALTER COLUMN note TYPE varchar(40); ALTER TABLE items ALTER COLUMN note TYPE text",
    "TRUNCATE bag",
    "BEGIN; TRUNCATE bag; INSERT INTO bag SELECT i % 5, 'again' FROM generate_series(1, 30) i; COMMIT",
    "TRUNCATE events_1",
    "VACUUM FULL bag",
    "CLUSTER orders USING orders_pkey",
    "CREATE INDEX IF NOT EXISTS orders_item ON orders (item)",
    "DROP INDEX IF EXISTS orders_item",
    "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (2000) TO (3000); INSERT INTO events VALUES (2500, 1, 2.5)",
    "DROP TABLE events_2",
    "ALTER TABLE events DETACH PARTITION events_1; UPDATE events_1 SET v = v + 100 WHERE id % 7 = 0; ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM (1000) TO (2000)",
    "ALTER TABLE bag REPLICA IDENTITY NOTHING; INSERT INTO bag VALUES (3, 'unseen'); ALTER TABLE bag REPLICA IDENTITY FULL",
    "CREATE OR REPLACE VIEW dear AS SELECT id, kind, price FROM items WHERE price > 90",
    "CREATE OR REPLACE VIEW dear AS SELECT id, kind, price FROM items WHERE price > 60",
    "ALTER TABLE bag SET UNLOGGED; INSERT INTO bag VALUES (4, 'unlogged'); ALTER TABLE bag SET LOGGED",
];

const ON_STREAM_TABLES: &[&str] = &[
    "CREATE INDEX IF NOT EXISTS mine ON o_value (kind)",
    "DROP INDEX IF EXISTS mine",
    "SELECT pgtrickle.pause_stream_table('o_customer'); SELECT pgtrickle.resume_stream_table('o_customer')",
    "SELECT pgtrickle.alter_stream_table('o_big', query => 'SELECT id, customer, amount FROM orders WHERE amount > 40')",
    "SELECT pgtrickle.alter_stream_table('o_big', query => 'SELECT id, customer, amount FROM orders WHERE amount > 50')",
    "SELECT pgtrickle.alter_stream_table('d_rich', query => 'SELECT count(*) AS n, max(s) AS most, min(s) AS least FROM c_rich')",
    "SELECT pgtrickle.alter_stream_table('d_rich', query => 'SELECT count(*) AS n, max(s) AS most FROM c_rich')",
    "SELECT pgtrickle.alter_stream_table('c_wanted', schedule => '100 ms'); SELECT pgtrickle.alter_stream_table('c_wanted', schedule => '0s')",
    "ALTER TABLE b_rows RENAME TO b_other; ALTER TABLE b_other RENAME TO b_rows",
    "SELECT pgtrickle.reinitialize_stream_table('e_kind')",
    "SELECT pgtrickle.repair_stream_table('o_all')",
    "VACUUM FULL e_rows",
    "CREATE STATISTICS IF NOT EXISTS both_s ON kind, n FROM d_both",
];

/// Leaves that are dropped and made again.
const LEAVES: &[&str] = &["i_top", "b_lists", "mixed", "average", "d_count", "e_first"];

pub fn create(session: &mut Session, name: &str, schedule: &str, query: &str) -> Outcome {
    session.run(&format!("SELECT pgtrickle.create_stream_table('{name}', $q${query}$q$, '{schedule}')"))
}

/// One command after the other until time is up; what a command has begun is always brought to its end.
pub fn change(watch: &Watch, connector: &Connector, seed: u64, commands: &AtomicU64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let mut session = connector.session()?;
    session.run("SET lock_timeout = '3s'")?;
    watch
        .repeat(|_| {
            match rng.u8(..5) {
                0 => again(&mut session, LEAVES[rng.usize(..LEAVES.len())])?,
                1 | 2 => one_by_one(&mut session, ON_STREAM_TABLES[rng.usize(..ON_STREAM_TABLES.len())])?,
                _ => one_by_one(&mut session, ON_SOURCES[rng.usize(..ON_SOURCES.len())])?,
            }
            commands.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(rng.u64(0..200)));
            Ok(())
        })
        .map(drop)
}

fn again(session: &mut Session, name: &str) -> Outcome {
    let (_, schedule, query) = STREAM_TABLES.iter().find(|(n, _, _)| *n == name).expect("a leaf of the graph");
    one_by_one(session, &format!("SELECT pgtrickle.drop_stream_table('{name}')"))?;
    let create = format!("SELECT pgtrickle.create_stream_table('{name}', $q${query}$q$, '{schedule}')");
    one_by_one(session, &create)
}

/// Statements that lose a conflict are tried again; the first one may also have nothing to do (any more).
fn one_by_one(session: &mut Session, statements: &str) -> Outcome {
    for (i, statement) in statements.split("; ").enumerate() {
        for tries in 0.. {
            let state = match session.try_run(statement) {
                Ok(()) => break,
                Err(state) => state,
            };
            if i == 0 && matches!(state.as_deref(), Some("42P07" | "42P01")) {
                return Ok(());
            }
            if !tolerable(&state) || tries > 50 {
                let (_, text) = session.error(statement).unwrap_or_default();
                return Err(Failure::new(format!("{statement}: {state:?} {text}")));
            }
            if statements.starts_with("BEGIN") {
                return session.run("ROLLBACK");
            }
        }
    }
    Ok(())
}
