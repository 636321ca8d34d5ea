//! Commands that PostgreSQL runs only on a database that nobody is connected to.

use pgtrickle_tests::server::{Server, Shutdown};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

const QUERY: &str = "SELECT a, count(*) AS n FROM t GROUP BY a";

/// A database with a stream table, captured and followed.
fn shop(server: &Server) -> Outcome<Session> {
    server.session()?.run("CREATE DATABASE shop")?;
    let mut session = server.session_in("shop")?;
    session.each("CREATE EXTENSION pg_trickle; CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")?;
    session.each(&format!("SELECT pgtrickle.create_stream_table('st', '{QUERY}', '1s')"))?;
    follows(&mut session)?;
    Ok(session)
}

/// Changes the source and waits for the scheduler.
fn follows(session: &mut Session) -> Outcome {
    session.run("INSERT INTO t VALUES (1), (2)")?;
    wait::retry("the stream table follows", 2 * wait::PATIENCE, || {
        if !session.holds("SELECT pgtrickle.wait_for_stream_table('st', timeout => '5 s')")? {
            return Err(Failure::new("not refreshed"));
        }
        oracle::assert_exact(session, "st", QUERY)
    })
}

fn workers(session: &mut Session, database: &str) -> Outcome<Vec<Vec<Option<String>>>> {
    session.rows(&format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND backend_type LIKE 'pg_trickle%' ORDER BY 1"
    ))
}

/// Neither slot nor origin nor socket, and no worker that looks for what is gone.
fn check_gone(server: &Server, session: &mut Session, dboid: i64) -> Outcome {
    let left = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pg_trickle_{dboid}')
              + (SELECT count(*) FROM pg_replication_origin WHERE roname = 'pg_trickle_{dboid}')"
    );
    wait::until("slot and origin are gone", wait::PATIENCE, || Ok(session.number(&left)? == 0))?;
    if server.data_dir().join(format!("pg_stat_tmp/pg_trickle.{dboid}.sock")).exists() {
        return Err(Failure::new("the socket is still there"));
    }
    let log = server.log();
    match log
        .lines()
        .find(|line| line.contains("] pg_trickle") && line.contains("FATAL") && !line.contains("administrator command"))
    {
        Some(line) => Err(Failure::new(format!("in the log: {line}"))),
        None => Ok(()),
    }
}

const DBOID: &str = "SELECT oid FROM pg_database WHERE datname = 'shop'";

pub fn drop_database(server: &Server) -> Outcome {
    let mut session = server.session()?;
    drop(shop(server)?);
    let dboid = session.number(DBOID)?;
    wait::until("nobody else is connected", wait::PATIENCE, || {
        session.holds(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'shop' AND backend_type = 'client backend'",
        )
    })?;
    session.run("DROP DATABASE shop")?;
    check_gone(server, &mut session, dboid)?;
    // The place in shared memory is free again, and another database of this name is another database.
    drop(shop(server)?);
    session.run("DROP DATABASE shop WITH (FORCE)")
}

/// As for any database: refused, unless by FORCE. What was refused has changed nothing.
pub fn drop_database_in_use(server: &Server) -> Outcome {
    let mut session = server.session()?;
    let mut user = shop(server)?;
    let dboid = session.number(DBOID)?;
    let (state, text) = session.error("DROP DATABASE shop")?;
    if state != "55006" || !text.contains("There is 1 other session using the database") {
        return Err(Failure::new(text));
    }
    follows(&mut user)?;
    session.run("DROP DATABASE shop WITH (FORCE)")?;
    check_gone(server, &mut session, dboid)
}

pub fn rename_database(server: &Server) -> Outcome {
    let mut session = server.session()?;
    drop(shop(server)?);
    session.run("BEGIN")?;
    session.run("ALTER DATABASE shop RENAME TO store")?;
    session.run("COMMIT")?;
    follows(&mut server.session_in("store")?)?;
    session.run("BEGIN")?;
    session.run("ALTER DATABASE store RENAME TO nothing")?;
    session.run("ROLLBACK")?;
    follows(&mut server.session_in("store")?)?;
    // Two in one transaction, one of them just about to get its first worker.
    drop(shop(server)?);
    session.run("CREATE DATABASE fresh")?;
    server.session_in("fresh")?.run("CREATE EXTENSION pg_trickle")?;
    session.each(
        "BEGIN; ALTER DATABASE fresh RENAME TO young; ALTER DATABASE store RENAME TO one; ALTER DATABASE shop RENAME TO two; COMMIT",
    )?;
    follows(&mut server.session_in("one")?)?;
    follows(&mut server.session_in("two")?)
}

/// Copies and moves: original and copy are followed afterwards, each by itself.
pub fn database_moves(server: &Server) -> Outcome {
    let mut session = server.session()?;
    drop(shop(server)?);
    session.run("CREATE DATABASE copy TEMPLATE shop")?;
    follows(&mut server.session_in("copy")?)?;
    follows(&mut server.session_in("shop")?)?;
    let dir = server.dir().join("space");
    session.run("SET allow_in_place_tablespaces = on")?;
    session.run("CREATE TABLESPACE space LOCATION ''").map_err(|e| e.during(dir.display()))?;
    session.run("ALTER DATABASE shop SET TABLESPACE space")?;
    follows(&mut server.session_in("shop")?)?;
    // A template of one's own is followed like any other, also after a restart.
    session.run("ALTER DATABASE shop IS_TEMPLATE true")?;
    server.crash_restart(Shutdown::Fast)?;
    follows(&mut server.session_in("shop")?)?;
    server.session()?.run("CREATE DATABASE another TEMPLATE shop")?;
    follows(&mut server.session_in("another")?)?;
    follows(&mut server.session_in("shop")?)
}

pub fn only_owners_send_workers_away(server: &Server) -> Outcome {
    let mut session = server.session()?;
    drop(shop(server)?);
    session.each("CREATE ROLE outsider LOGIN CREATEDB; CREATE ROLE keeper LOGIN CREATEDB")?;
    let before = workers(&mut session, "shop")?;
    let mut outsider = server.session_as("outsider")?;
    for command in ["DROP DATABASE shop", "ALTER DATABASE shop RENAME TO x", "CREATE DATABASE x TEMPLATE shop"] {
        let (state, text) = outsider.error(command)?;
        if state != "42501" {
            return Err(Failure::new(text));
        }
    }
    if before.len() < 3 || workers(&mut session, "shop")? != before {
        return Err(Failure::new("workers were disturbed by who may not"));
    }
    session.run("ALTER DATABASE shop OWNER TO keeper")?;
    server.session_as("keeper")?.run("DROP DATABASE shop")
}

/// Closed to users, followed all the same: a slot that nobody reads would keep all WAL.
pub fn connections_not_allowed(server: &Server) -> Outcome {
    let mut session = server.session()?;
    drop(shop(server)?);
    let active = format!(
        "SELECT count(*) = 1 FROM pg_replication_slots WHERE active AND slot_name = 'pg_trickle_{}'",
        session.number(DBOID)?
    );
    session.run("ALTER DATABASE shop ALLOW_CONNECTIONS false")?;
    server.crash_restart(Shutdown::Fast)?;
    let mut session = server.session()?;
    wait::until("the slot is in use", wait::PATIENCE, || session.holds(&active))?;
    session.run("ALTER DATABASE shop ALLOW_CONNECTIONS true")?;
    follows(&mut server.session_in("shop")?)
}

/// What a database has its sessions begin with does not reach the workers.
pub fn settings_of_a_database(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run("CREATE ROLE clerk")?;
    drop(shop(server)?);
    for setting in ["role = clerk", "row_security = off", "exit_on_error = on", "default_transaction_read_only = on"] {
        session.run(&format!("ALTER DATABASE shop SET {setting}"))?;
    }
    session.run("ALTER DATABASE shop SET statement_timeout = '1ms'")?;
    server.crash_restart(Shutdown::Fast)?;
    let mut session = server.session()?;
    let dboid = session.number(DBOID)?;
    session.run("SET exit_on_error = off")?;
    // Slot, origin and buffers are made anew, too.
    let pids = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'shop' AND backend_type = 'pg_trickle_wal_decoder'";
    wait::until("the decoder is there", wait::PATIENCE, || session.holds(&format!("SELECT ({pids}) = 1")))?;
    let drop_slot = format!("SELECT pg_drop_replication_slot('pg_trickle_{dboid}')");
    wait::retry("the slot is dropped", wait::PATIENCE, || session.run(&drop_slot))?;
    let mut user = server.session_in("shop")?;
    user.each("SET default_transaction_read_only = off; SET statement_timeout = 0; RESET role; SET role = none; SET exit_on_error = off")?;
    follows(&mut user)?;
    user.run("CREATE TABLE late (a int)")?;
    user.run("SELECT pgtrickle.create_stream_table('of_late', 'SELECT a FROM late', '1s')")?;
    user.run("SELECT pgtrickle.repair_stream_table('st')")?;
    follows(&mut user)
}

const PLACES: usize = 64;
/// Three for each database, and the launchers.
pub const ROOM: &[(&str, &str)] =
    &[("max_worker_processes", "200"), ("max_replication_slots", "70"), ("max_connections", "100")];

/// One more than can be served: that is told wherever somebody may look, and it is served as soon as another makes room.
pub fn more_than_places(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run("CREATE DATABASE shop_0")?;
    server.session_in("shop_0")?.each("CREATE EXTENSION pg_trickle; CREATE TABLE t (a int)")?;
    for n in 1..PLACES {
        session.run(&format!("CREATE DATABASE shop_{n} TEMPLATE shop_0"))?;
    }
    session.run("DROP DATABASE shop_1")?;
    let full = "SELECT detail FROM pgtrickle.health_check() WHERE check_name = 'shared_memory'";
    wait::until("all are served", 4 * wait::PATIENCE, || {
        Ok(session.number("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_trickle_scheduler'")?
            == PLACES as i64)
    })
    .or_else(|e| Err(Failure::new(format!("{e}: {}", session.text(full)?))))?;
    session.run("CREATE DATABASE last")?;
    let mut last = server.session_in("last")?;
    last.each("CREATE EXTENSION pg_trickle; CREATE TABLE t (a int)")?;
    let told = "SELECT severity || ' ' || detail FROM pgtrickle.health_check() WHERE check_name = 'capture'";
    wait::until("that it is not served", wait::PATIENCE, || {
        Ok(last.text(told)?.starts_with("ERROR All 64 places for databases are taken"))
    })?;
    let text = session.text(full)?;
    if !text.contains("Further databases are not served.") || !text.contains("64 of 64 databases") {
        return Err(Failure::new(text));
    }
    wait::until("it is in the log", wait::PATIENCE, || {
        Ok(server.log().contains("pg_trickle serves 64 databases already"))
    })?;
    last.each(&format!("SELECT pgtrickle.create_stream_table('st', '{QUERY}', '1s')"))?;
    let (state, text) = last.error("SELECT pgtrickle.refresh_stream_table('st')")?;
    if state != "57P03" || !text.contains("Drop the extension in databases where it is not used") {
        return Err(Failure::new(format!("{state} {text}")));
    }
    server.session_in("shop_2")?.run("DROP EXTENSION pg_trickle CASCADE")?;
    follows(&mut last)
}

/// However the extension is dropped, the sources are as they were and stream tables stay as ordinary tables, and whoever may not drop
/// it changes nothing.
pub fn ends_of_the_extension(server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.each("CREATE ROLE keeper SUPERUSER LOGIN; CREATE ROLE outsider LOGIN CREATEROLE; CREATE DATABASE shop")?;
    let mut keeper = server.session_as_in("keeper", "shop")?;
    keeper.each(
        "CREATE TABLE t (a int); CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p_1 PARTITION OF p DEFAULT",
    )?;
    for end in [
        "DROP EXTENSION IF EXISTS \"pg_trickle\" CASCADE",
        "DROP /* ; */ EXTENSION -- it is this one\n pg_trickle CASCADE",
        "CREATE EXTENSION citext; DROP EXTENSION citext, pg_trickle CASCADE",
        "DO 'BEGIN DROP EXTENSION pg_trickle CASCADE; END'",
        "CREATE FUNCTION ends() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'drop extension ' || quote_ident('pg_' || 'trickle') || ' cascade'; END $$; SELECT ends()",
        "BEGIN; SAVEPOINT s; DROP EXTENSION pg_trickle CASCADE; ROLLBACK TO s; DROP EXTENSION pg_trickle CASCADE; COMMIT",
        "DROP SCHEMA pgtrickle CASCADE",
        "SET ROLE keeper; DROP OWNED BY CURRENT_USER CASCADE",
    ] {
        keeper
            .each("CREATE EXTENSION pg_trickle; CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1), (1)")?;
        keeper.each(&format!("SELECT pgtrickle.create_stream_table('st', '{QUERY}', '1s')"))?;
        keeper.run(
            "SELECT pgtrickle.create_stream_table('now', 'SELECT count(*) AS n FROM p', refresh_mode => 'IMMEDIATE')",
        )?;
        let mut outsider = server.session_as_in("outsider", "shop")?;
        let identity = "SELECT relreplident::text FROM pg_class WHERE relname = 't'";
        outsider.error("DROP EXTENSION pg_trickle CASCADE")?;
        outsider.error("DROP SCHEMA pgtrickle CASCADE")?;
        outsider.error("DROP OWNED BY keeper CASCADE")?;
        if keeper.text(identity)? != "f" {
            return Err(Failure::new("somebody else's command changed the source"));
        }
        let owned = end.contains("OWNED");
        if owned {
            keeper.each("ALTER TABLE t OWNER TO outsider; ALTER TABLE p OWNER TO outsider")?;
        }
        keeper.run(end).map_err(|e| e.during(end))?;
        if keeper.text(identity)? != "d" || !owned && keeper.number("SELECT count(*) FROM st")? == 0 {
            return Err(Failure::new(format!("not undone by {end}")));
        }
        keeper.each("DROP TABLE IF EXISTS st, now; DROP SCHEMA IF EXISTS pgtrickle")?;
        let slots = "SELECT count(*) = 0 FROM pg_replication_slots WHERE database = 'shop'";
        wait::until("the slot is gone", wait::PATIENCE, || keeper.holds(slots)).map_err(|e| e.during(end))?;
    }
    Ok(())
}
