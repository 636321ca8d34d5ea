//! Dumps and copies of databases.

use crate::common::{STREAM_TABLES, check_following, commands, name_now, set_up, shell};
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, wait};

/// From one server to another, where the same OIDs are other tables': as INSTALL.md says, as a whole, and by schema into a
/// database that has the extension already.
pub fn dump_and_restore(version: PgVersion) -> Outcome {
    let from = Server::start_bare(version, &[])?;
    let to = Server::start_bare(version, &[])?;
    shell(&from, "createdb mydb")?;
    set_up(&mut from.session_in("mydb")?)?;
    let commands = commands("Backup & Restore")?;
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

/// A copy has the same OIDs and heals by itself.
pub fn database_from_template(version: PgVersion) -> Outcome {
    let server = Server::start_bare(version, &[])?;
    shell(&server, "createdb mydb")?;
    set_up(&mut server.session_in("mydb")?)?;
    shell(&server, "createdb -T mydb copy")?;
    for database in ["copy", "mydb"] {
        let mut session = server.session_in(database)?;
        wait::retry(database, 2 * wait::PATIENCE, || {
            for (name, _) in STREAM_TABLES {
                session.each(&format!("SELECT pgtrickle.refresh_stream_table('{}')", name_now(name)))?;
            }
            Ok(())
        })?;
        check_following(&mut session).map_err(|e| e.during(database))?;
    }
    Ok(())
}
