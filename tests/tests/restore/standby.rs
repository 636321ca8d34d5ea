//! Standbys and their promotion, physical copies.

use crate::common::{STREAM_TABLES, check_following, name_now, set_up, shell};
use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::server::{Server, Shutdown};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

/// A server with stream tables in database mydb, and a standby of it.
fn pair(version: PgVersion, settings: &[(&str, &str)]) -> Outcome<(Server, Server)> {
    let primary = Server::start_bare(version, settings)?;
    shell(&primary, "createdb mydb")?;
    set_up(&mut primary.session_in("mydb")?)?;
    primary.session()?.run("SELECT pg_create_physical_replication_slot('standby')")?;
    let standby = Server::copy_of(&primary, &["-R", "-S", "standby"], &[])?;
    if primary.log().contains("skipping special file") {
        return Err(Failure::new("the backup warns of a socket"));
    }
    standby.launch()?;
    Ok((primary, standby))
}

fn caught_up(primary: &Server, standby: &Server) -> Outcome {
    let target = primary.session()?.text("SELECT pg_current_wal_flush_lsn()")?;
    let mut session = standby.session()?;
    let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
    wait::until("the standby has caught up", wait::PATIENCE, || session.holds(&reached))
}

/// Functions that change stream tables or wait for a change of theirs, as called.
const WRITERS: &[&str] = &[
    "alter_stream_table('totals', schedule => '2s')",
    "create_or_replace_stream_table('totals', 'SELECT 1 AS a')",
    "create_stream_table('more', 'SELECT 1 AS a')",
    "create_stream_table_if_not_exists('more', 'SELECT 1 AS a')",
    "drain()",
    "drop_stream_table('totals')",
    "pause_all()",
    "pause_stream_table('totals')",
    "pg_trickle_repair_stream_table('totals')",
    "refresh_if_stale('totals', '0 s')",
    "refresh_stream_table('totals')",
    "reinitialize_stream_table('totals')",
    "repair_stream_table('totals')",
    "resume_all()",
    "resume_stream_table('totals')",
    "verify_stream_table('totals')",
    "wait_for_stream_table('totals')",
];

/// Everything else that can be called with at most a stream table's name or a query.
const READERS: &str = "
    SELECT format('pgtrickle.%I(%s)', proname,
                  CASE WHEN proname IN ('preview_stream_table', 'validate_query') THEN '''SELECT 1 AS a'''
                       WHEN pronargs > pronargdefaults THEN '''totals''' END)
      FROM pg_proc
     WHERE pronamespace = 'pgtrickle'::regnamespace AND pronargs - pronargdefaults < 2 AND proname NOT LIKE '\\_%'
       AND prorettype NOT IN ('event_trigger'::regtype, 'trigger'::regtype) AND provariadic = 0
       AND NOT (ARRAY['anyelement', 'record']::regtype[]::oid[] && proargtypes::oid[])
       AND proname <> ALL (string_to_array('WRITERS', ' '))
     UNION ALL
    SELECT 'pgtrickle.' || viewname FROM pg_views WHERE schemaname = 'pgtrickle' AND viewname NOT LIKE 'def\\_%'";

/// On a standby whoever looks is answered, whoever writes is told where, and no worker runs.
fn check_standby(standby: &Server) -> Outcome {
    let mut session = standby.session_in("mydb")?;
    for call in WRITERS {
        let (state, text) = session.error(&format!("SELECT pgtrickle.{call}"))?;
        if state != "25006" || !text.contains("on a standby") {
            return Err(Failure::new(format!("{call}: {text}")));
        }
    }
    let names: Vec<&str> = WRITERS.iter().filter_map(|call| call.split('(').next()).collect();
    let readers = session.rows(&READERS.replace("WRITERS", &names.join(" ")))?;
    if readers.len() < 30 {
        return Err(Failure::new(format!("only {} functions and views to look with", readers.len())));
    }
    for reader in readers {
        session.rows(&format!("SELECT * FROM {}", oracle::row_text(&reader)))?;
    }
    oracle::assert_exact(&mut session, "big", "SELECT customer, amount FROM public.totals WHERE amount > 50")?;
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_trickle%'";
    let told = "SELECT count(*) FROM pgtrickle.health_check() WHERE check_name = 'standby'";
    if session.number(workers)? != 0 || session.number(told)? != 1 || standby.log().contains("] pg_trickle") {
        return Err(Failure::new("a worker runs on the standby, or health_check() does not say what it is"));
    }
    Ok(())
}

/// Promotes, and waits until writing is possible.
fn promote(standby: &Server) -> Outcome<Session> {
    standby.session()?.run("SELECT pg_promote()")?;
    standby.session_in("mydb")
}

/// Everything is followed again though nobody has done anything.
fn check_healed(session: &mut Session) -> Outcome {
    session.each("SELECT pgtrickle.resume_stream_table(st.pgt_relid::text) FROM pgtrickle.pgt_stream_tables st")?;
    for (name, query) in STREAM_TABLES {
        wait::retry("the scheduler has recomputed", 2 * wait::PATIENCE, || {
            oracle::assert_exact(session, name_now(name), query)
        })?;
    }
    check_following(session)
}

fn generation(session: &mut Session) -> Outcome<i64> {
    session.number("SELECT coalesce(max(generation), 0) FROM pgtrickle.pgt_capture")
}

/// Without synchronised slots, the slot is lost with the primary: made anew, which log and history tell.
pub fn standby_promoted(version: PgVersion) -> Outcome {
    let (primary, standby) = pair(version, &[])?;
    caught_up(&primary, &standby)?;
    check_standby(&standby)?;
    primary.stop_with(Shutdown::Immediate)?;
    let mut session = promote(&standby)?;
    check_healed(&mut session)?;
    let told = "SELECT count(DISTINCT pgt_id) >= 4 FROM pgtrickle.pgt_refresh_history WHERE action = 'REINITIALIZE'";
    if !session.holds(told)? || !standby.log().contains("change capture starts anew: its slot is gone") {
        return Err(Failure::new("nobody was told that capture started anew"));
    }
    Ok(())
}

/// With synchronised slots (17 and newer) capture goes on where the primary stopped, and nothing is recomputed.
pub fn standby_with_synced_slot(version: PgVersion) -> Outcome {
    let (primary, standby) = pair(version, &[("hot_standby_feedback", "on"), ("sync_replication_slots", "on")])?;
    standby.stop_with(Shutdown::Fast)?;
    let conninfo = format!("'host={} port={} user=postgres dbname=postgres'", primary.dir().display(), primary.port());
    standby.set(&[("primary_conninfo", &conninfo)])?;
    standby.launch()?;
    let mut session = primary.session_in("mydb")?;
    session.each("SELECT pgtrickle.resume_stream_table(st.pgt_relid::text) FROM pgtrickle.pgt_stream_tables st")?;
    session.each("SELECT pgtrickle.refresh_stream_table(st.pgt_relid::text) FROM pgtrickle.pgt_stream_tables st")?;
    let synced = "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name LIKE 'pg_trickle_%' AND synced AND NOT temporary";
    let mut observer = standby.session()?;
    wait::until("the slot is synchronised", 2 * wait::PATIENCE, || {
        session.run("UPDATE customers SET name = name WHERE id = 1")?;
        observer.holds(synced)
    })?;
    let before = generation(&mut session)?;
    // Not refreshed, perhaps not even captured, when the primary dies.
    session.each("SELECT pgtrickle.pause_all()")?;
    session
        .each("DELETE FROM orders WHERE id % 5 = 1; INSERT INTO orders (id, customer, amount) VALUES (5000, 2, 3)")?;
    caught_up(&primary, &standby)?;
    primary.stop_with(Shutdown::Immediate)?;
    drop(observer);
    let mut session = promote(&standby)?;
    check_healed(&mut session)?;
    if generation(&mut session)? != before {
        return Err(Failure::new(format!("capture started anew:\n{}", standby.log_tail(30))));
    }
    Ok(())
}

/// There and back again: the first server still has its slot of before, which knows nothing of what the other did.
pub fn switched_over_and_back(version: PgVersion) -> Outcome {
    let (first, second) = pair(version, &[])?;
    caught_up(&first, &second)?;
    first.stop_with(Shutdown::Fast)?;
    let mut session = promote(&second)?;
    check_healed(&mut session)?;
    session.each(
        "SELECT pg_create_physical_replication_slot('standby'); \
         ALTER TABLE orders ADD COLUMN later int; DELETE FROM orders WHERE id % 10 = 7; VACUUM FREEZE pg_attribute",
    )?;
    let conninfo = format!("'host={} port={} user=postgres'", second.dir().display(), second.port());
    first.set(&[("primary_conninfo", &conninfo), ("primary_slot_name", "standby")])?;
    std::fs::write(first.data_dir().join("standby.signal"), "")?;
    install::give_to_server_user(&first.data_dir())?;
    first.launch()?;
    caught_up(&second, &first)?;
    second.stop_with(Shutdown::Fast)?;
    let mut session = promote(&first)?;
    session.run("DELETE FROM orders WHERE id BETWEEN 2000 AND 2002; DROP TABLE more")?;
    check_healed(&mut session)?;
    let log = first.log();
    // From 16 on the slot does not survive what the other server vacuumed.
    let told = ["this server was promoted", "its slot cannot be used"].iter().any(|why| log.contains(why));
    if !told {
        return Err(Failure::new(format!("the old slot was used:\n{}", first.log_tail(30))));
    }
    Ok(())
}

/// A base backup of a busy server, started for itself.
pub fn base_backup(version: PgVersion) -> Outcome {
    let origin = Server::start_bare(version, &[])?;
    shell(&origin, "createdb mydb")?;
    set_up(&mut origin.session_in("mydb")?)?;
    let copy = Server::copy_of(&origin, &[], &[])?;
    drop(origin);
    copy.launch()?;
    check_healed(&mut copy.session_in("mydb")?)
}
