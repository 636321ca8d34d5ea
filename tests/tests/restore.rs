//! Dump and restore, copies, and updates from the version before: a catalog that comes from elsewhere.

use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, suite, wait};

fn main() {
    suite::main(1, |version| {
        let trial = |name, test: fn(PgVersion) -> Outcome| suite::trial(version, name, move || test(version));
        Ok(vec![
            trial("dump_and_restore", dump_and_restore),
            trial("database_from_template", database_from_template),
            trial("update", update),
        ])
    })
}

/// Stream tables and their queries, parents first.
const STREAM_TABLES: &[(&str, &str)] = &[
    ("public.totals", "SELECT customer, count(*) AS n, sum(amount) AS amount FROM public.orders GROUP BY customer"),
    ("public.named", "SELECT o.id, c.name, o.amount FROM public.orders o JOIN public.customers c ON c.id = o.customer"),
    ("public.big", "SELECT customer, amount FROM public.totals WHERE amount > 50"),
    ("public.\"Ranked\"", "SELECT name, rank() OVER (ORDER BY name, id) AS r FROM public.customers"),
];

/// Tables whose column numbers differ after a restore, stream tables of each kind, changes not yet refreshed.
fn set_up(session: &mut Session) -> Outcome {
    session.each(
        "CREATE EXTENSION pg_trickle; \
         CREATE TABLE orders (gone text, id int PRIMARY KEY, customer int NOT NULL, never int, amount numeric NOT NULL); \
         ALTER TABLE orders DROP COLUMN gone; \
         CREATE TABLE customers (id int PRIMARY KEY, name text); \
         INSERT INTO customers SELECT i, 'c' || i % 7 FROM generate_series(1, 20) i; \
         INSERT INTO orders SELECT i, i % 20 + 1, 0, i FROM generate_series(1, 500) i",
    )?;
    for (name, query) in STREAM_TABLES {
        session.each(&format!("SELECT pgtrickle.create_stream_table('{name}', '{query}', schedule => '1s')"))?;
    }
    // The catalog remembers the old name, dump and repair the new one.
    session.each("ALTER TABLE named RENAME TO named_orders; CREATE INDEX ON named_orders (amount)")?;
    session.each("SELECT pgtrickle.pause_stream_table(st.pgt_relid::text) FROM pgtrickle.pgt_stream_tables st")?;
    session.each("DELETE FROM orders WHERE id % 3 = 0; INSERT INTO orders VALUES (1000, 1, 0, 7)")
}

fn name_now(name: &str) -> &str {
    if name == "public.named" { "public.named_orders" } else { name }
}

/// The commands of INSTALL.md, one text per block of its section on backups.
fn commands() -> Outcome<Vec<String>> {
    let text = std::fs::read_to_string(install::root().join("INSTALL.md"))?;
    let section = text.split("\n## ").find(|s| s.starts_with("Backup & Restore")).unwrap_or_default();
    Ok(section.split("```bash\n").skip(1).filter_map(|s| s.split("```").next()).map(str::to_owned).collect())
}

/// Runs a shell script with the programs of this server's version, connecting to it.
fn shell(server: &Server, script: &str) -> Outcome<String> {
    let mut command = install::as_server_user(std::path::Path::new("bash"));
    command.arg("-ec").arg(script).current_dir(server.dir());
    let path = format!("{}:{}", server.version().bin_dir()?.display(), std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path).env("PGHOST", server.dir()).env("PGPORT", server.port().to_string());
    install::run(command.env("PGUSER", "postgres"))
}

/// From one server to another, where the same OIDs are other tables': as INSTALL.md says, as a whole, and by schema into a
/// database that has the extension already.
fn dump_and_restore(version: PgVersion) -> Outcome {
    let from = Server::start_bare(version, &[])?;
    let to = Server::start_bare(version, &[])?;
    shell(&from, "createdb mydb")?;
    set_up(&mut from.session_in("mydb")?)?;
    let commands = commands()?;
    let [dump, restore, repair, ..] = commands.as_slice() else {
        return Err(Failure::new("INSTALL.md does not say how to dump, restore and repair"));
    };
    let variants = [
        ("mydb", dump.as_str(), ""),
        ("whole", "pg_dump mydb > mydb_backup.sql", ""),
        (
            "prepared",
            "pg_dump --schema=public --schema=pgtrickle --schema=pgtrickle_changes mydb > mydb_backup.sql",
            "psql -d mydb -c 'CREATE EXTENSION pg_trickle'",
        ),
    ];
    for (database, dump, first) in variants {
        shell(&from, dump)?;
        shell(&to, &format!("cp '{}/mydb_backup.sql' '{}/'", from.dir().display(), to.dir().display()))?;
        let restore = restore.replacen('\n', &format!("\n{first}\n"), 1);
        shell(&to, &restore.replace("mydb", database).replace(&format!("{database}_backup"), "mydb_backup"))
            .map_err(|e| e.during(database))?;
        check_unrepaired(&mut to.session_in(database)?).map_err(|e| e.during(database))?;
        shell(&to, &repair.replace("mydb", database)).map_err(|e| e.during(database))?;
        check_following(&mut to.session_in(database)?).map_err(|e| e.during(database))?;
    }
    Ok(())
}

fn check_unrepaired(session: &mut Session) -> Outcome {
    let restored = session.number(
        "SELECT count(*) FROM pgtrickle.pgt_stream_tables WHERE home_relid <> pgt_relid AND pgt_relid::oid IN (SELECT oid FROM pg_class)",
    )?;
    if restored != STREAM_TABLES.len() as i64 {
        return Err(Failure::new(format!("{restored} stream tables were restored")));
    }
    let told =
        session.number("SELECT count(*) FROM pgtrickle.health_check() WHERE detail LIKE 'Restored from a dump%'")?;
    let (state, text) = session.error("SELECT pgtrickle.refresh_stream_table('totals')")?;
    if told != restored || state != "55000" || !text.contains("repair_stream_table") {
        return Err(Failure::new(format!("{told} of {restored} are told to be repaired; {state} {text}")));
    }
    Ok(())
}

fn check_following(session: &mut Session) -> Outcome {
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

/// A copy has the same OIDs and heals by itself.
fn database_from_template(version: PgVersion) -> Outcome {
    let server = Server::start_bare(version, &[])?;
    shell(&server, "createdb mydb")?;
    set_up(&mut server.session_in("mydb")?)?;
    // Nobody may be connected to a template: the workers of this database are started again only afterwards.
    let copy = "for try in $(seq 200); do \
                  psql -Xqd postgres -c \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'mydb'\" >/dev/null; \
                  createdb -T mydb copy 2>/dev/null && exit 0; done; exit 1";
    shell(&server, copy)?;
    let mut session = server.session_in("copy")?;
    // The launcher would look for new databases within a minute.
    session.each("SELECT pgtrickle._installed()")?;
    wait::retry("a refresh of the copy", 2 * wait::PATIENCE, || {
        for (name, _) in STREAM_TABLES {
            session.each(&format!("SELECT pgtrickle.refresh_stream_table('{}')", name_now(name)))?;
        }
        Ok(())
    })?;
    check_following(&mut session)
}

/// Everything about the extension's objects that an update could get wrong, as text.
const CATALOG: &str = "
    SELECT o FROM (
        SELECT format('column %s.%s %s %s %s default %s', a.attrelid::regclass, a.attname, a.attnum, format_type(atttypid, atttypmod),
                      attnotnull, (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef d WHERE adrelid = attrelid AND adnum = attnum))
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'pgtrickle'::regnamespace AND attnum > 0
        UNION ALL SELECT format('class %s %s %s %s %s', oid::regclass, relkind, reloptions, relacl, obj_description(oid, 'pg_class'))
          FROM pg_class WHERE relnamespace IN ('pgtrickle'::regnamespace, 'pgtrickle_changes'::regnamespace)
        UNION ALL SELECT format('view %s %s', oid::regclass, pg_get_viewdef(oid))
          FROM pg_class WHERE relnamespace = 'pgtrickle'::regnamespace AND relkind = 'v'
        UNION ALL SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
          FROM pg_constraint WHERE connamespace = 'pgtrickle'::regnamespace
        UNION ALL SELECT format('function %s %s %s', pg_get_functiondef(oid), proacl, obj_description(oid, 'pg_proc'))
          FROM pg_proc WHERE pronamespace = 'pgtrickle'::regnamespace
        UNION ALL SELECT format('trigger %s %s %s %s', evtname, evtevent, evttags, evtfoid::regproc) FROM pg_event_trigger
        UNION ALL SELECT format('schema %s %s %s', nspname, nspacl, obj_description(oid, 'pg_namespace'))
          FROM pg_namespace WHERE nspname LIKE 'pgtrickle%'
        UNION ALL SELECT format('member %s', pg_describe_object(classid, objid, objsubid))
          FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_trickle')
        UNION ALL SELECT format('dumped %s %s', c.oid::regclass, condition)
          FROM pg_extension e, unnest(extconfig, extcondition) AS d (relation, condition) JOIN pg_class c ON c.oid = relation
         WHERE extname = 'pg_trickle') AS objects (o)
     WHERE o NOT LIKE '%def_%' ORDER BY 1";

/// A stream table as 0.58.0 left it: table, view and catalog rows.
const OLD_STREAM_TABLE: &str = "CREATE TABLE t (a int, b int); INSERT INTO t SELECT i, i FROM generate_series(1, 10) i; \
    CREATE TABLE st AS SELECT a FROM t WHERE b > 3; \
    CREATE VIEW pgtrickle.def_1 AS SELECT a FROM t WHERE b > 3; \
    INSERT INTO pgtrickle.pgt_stream_tables (pgt_relid, pgt_schema, pgt_name, defining_query, schedule, refresh_mode, \
        effective_refresh_mode, status, is_populated) \
    VALUES ('st'::regclass, 'public', 'st', 'SELECT a FROM t WHERE b > 3', '1s', 'AUTO', 'DIFFERENTIAL', 'ACTIVE', true); \
    INSERT INTO pgtrickle.pgt_dependencies VALUES (1, 't'::regclass, 'TABLE', '{1,2}')";

/// From the version before: the same catalog as a fresh one, stream tables and all.
fn update(version: PgVersion) -> Outcome {
    let server = Server::start_bare(version, &[])?;
    shell(&server, "createdb fresh; createdb updated")?;
    let mut fresh = server.session_in("fresh")?;
    fresh.each("CREATE EXTENSION pg_trickle")?;
    let mut updated = server.session_in("updated")?;
    updated.each("CREATE EXTENSION pg_trickle VERSION '0.58.0'")?;
    updated.each(OLD_STREAM_TABLE)?;
    updated.each("ALTER EXTENSION pg_trickle UPDATE TO '0.59.0'")?;
    let (expected, found) = (fresh.rows(CATALOG)?, updated.rows(CATALOG)?);
    let only = |one: &[Vec<Option<String>>], other: &[Vec<Option<String>>]| {
        one.iter().filter(|row| !other.contains(row)).map(oracle::row_text).collect::<Vec<_>>().join("\n")
    };
    if expected != found || expected.len() < 100 {
        let (missing, extra) = (only(&expected, &found), only(&found, &expected));
        return Err(Failure::new(format!("{} objects\nmissing:\n{missing}\nextra:\n{extra}", expected.len())));
    }
    let hashed = "SELECT defining_query_hash = hashtextextended(defining_query, 0) FROM pgtrickle.pgt_stream_tables";
    // The same text is the same stream table.
    let replace = "SELECT pgtrickle.create_or_replace_stream_table('st', 'SELECT a FROM t WHERE b > 3', '1s') = 1";
    if !updated.holds(hashed)? || !updated.holds(replace)? {
        return Err(Failure::new("the hash of the query is not what it would be if it were created now"));
    }
    updated
        .each("DELETE FROM t WHERE a = 5; SELECT pgtrickle.repair_stream_table('st'); INSERT INTO t VALUES (77, 77)")?;
    updated.each("SELECT pgtrickle.refresh_stream_table('st')")?;
    oracle::assert_exact(&mut updated, "st", "SELECT a FROM t WHERE b > 3")
}
