//! The database that is moved about, and what must be true of it afterwards.

use pgtrickle_tests::install;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

/// The one that its sources' writers maintain.
const AT_ONCE: &str = "public.at_once";
/// Stream tables and their queries, parents first.
pub const STREAM_TABLES: &[(&str, &str)] = &[
    ("public.totals", "SELECT customer, count(*) AS n, sum(amount) AS amount FROM public.orders GROUP BY customer"),
    ("public.named", "SELECT o.id, c.name, o.amount FROM public.orders o JOIN public.customers c ON c.id = o.customer"),
    ("public.big", "SELECT customer, amount FROM public.totals WHERE amount > 50"),
    (AT_ONCE, "SELECT customer, max(amount) AS hi FROM public.orders GROUP BY customer"),
    ("public.\"Ranked\"", "SELECT name, rank() OVER (ORDER BY name, id) AS r FROM public.customers"),
];

/// Tables whose column numbers differ after a restore, stream tables of each kind, changes not yet refreshed.
pub fn set_up(session: &mut Session) -> Outcome {
    session.each(
        "CREATE EXTENSION pg_trickle; \
         CREATE TABLE orders (gone text, id int PRIMARY KEY, customer int NOT NULL, never int, amount numeric NOT NULL); \
         ALTER TABLE orders DROP COLUMN gone; \
         CREATE TABLE customers (id int PRIMARY KEY, name text); \
         INSERT INTO customers SELECT i, 'c' || i % 7 FROM generate_series(1, 20) i; \
         INSERT INTO orders SELECT i, i % 20 + 1, 0, i FROM generate_series(1, 500) i",
    )?;
    for (name, query) in STREAM_TABLES {
        let mode = if *name == AT_ONCE { "IMMEDIATE" } else { "AUTO" };
        session.each(&format!(
            "SELECT pgtrickle.create_stream_table('{name}', '{query}', schedule => '1s', refresh_mode => '{mode}')"
        ))?;
    }
    // The catalog remembers the old name, dump and repair the new one.
    session.each("ALTER TABLE named RENAME TO named_orders; CREATE INDEX ON named_orders (amount)")?;
    session.each("SELECT pgtrickle.pause_stream_table(st.pgt_relid::text) FROM pgtrickle.pgt_stream_tables st")?;
    session.each("DELETE FROM orders WHERE id % 3 = 0; INSERT INTO orders VALUES (1000, 1, 0, 7)")
}

pub fn name_now(name: &str) -> &str {
    if name == "public.named" { "public.named_orders" } else { name }
}

/// The commands that INSTALL.md gives, one text per block of a section.
pub fn commands(section: &str) -> Outcome<Vec<String>> {
    let text = std::fs::read_to_string(install::root().join("INSTALL.md"))?;
    let section = text.split("\n## ").find(|s| s.starts_with(section)).unwrap_or_default();
    Ok(section.split("```bash\n").skip(1).filter_map(|s| s.split("```").next()).map(str::to_owned).collect())
}

/// Runs a shell script with the programs of this server's version, connecting to it.
pub fn shell(server: &Server, script: &str) -> Outcome<String> {
    let mut command = install::as_server_user(std::path::Path::new("bash"));
    command.arg("-ec").arg(script).current_dir(server.dir());
    let path = format!("{}:{}", server.version().bin_dir()?.display(), std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path).env("PGHOST", server.dir()).env("PGPORT", server.port().to_string());
    install::run(command.env("PGUSER", "postgres"))
}

pub fn check_following(session: &mut Session) -> Outcome {
    let unpause = "SELECT pgtrickle.resume_stream_table(st.pgt_relid::text) FROM pgtrickle.pgt_stream_tables st";
    for round in 0..3 {
        for (name, query) in STREAM_TABLES {
            oracle::assert_exact(session, name_now(name), query).map_err(|e| e.during(format!("round {round}")))?;
        }
        session.each(unpause)?;
        session.each(&format!(
            "INSERT INTO orders (id, customer, never, amount) VALUES (2000 + {round}, 3, 1, 10); \
             UPDATE orders SET amount = amount + 1 WHERE id % 10 = {round}; DELETE FROM orders WHERE id = 4 + 10 * {round}; \
             UPDATE customers SET name = 'x{round}' WHERE id = {round} + 5"
        ))?;
        for (name, _) in STREAM_TABLES {
            let wait = format!("SELECT pgtrickle.wait_for_stream_table('{}')", name_now(name));
            wait::until(name, wait::PATIENCE, || session.holds(&wait))?;
        }
    }
    // Ids go on where the dump ended, and what is maintained by its changes still is.
    session.each("SELECT pgtrickle.create_stream_table('more', 'SELECT id FROM orders', schedule => '1s')")?;
    let differential = "SELECT count(*) >= 3 FROM pgtrickle.pgt_refresh_history WHERE action = 'DIFFERENTIAL'";
    if !session.holds(differential)? {
        return Err(Failure::new("nothing was refreshed by its changes after the restore"));
    }
    Ok(())
}
