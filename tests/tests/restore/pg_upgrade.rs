//! `pg_upgrade` to a newer major version, as INSTALL.md says.

use crate::common::{STREAM_TABLES, check_following, commands, name_now, set_up, shell};
use pgtrickle_tests::install::PgVersion;
use pgtrickle_tests::server::{Server, Shutdown};
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

pub fn pg_upgrade(old: PgVersion, new: PgVersion) -> Outcome {
    let from = Server::start_bare(old, &[])?;
    shell(&from, "createdb mydb")?;
    let mut session = from.session_in("mydb")?;
    set_up(&mut session)?;
    // As in a cluster from before 15.20: what newer minors note here is unknown to the newest 18 there is, so that no
    // table at all can be upgraded to it.
    session.run("UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '%pg_attver%'")?;
    drop(session);
    let to = Server::prepare(new, &[])?;
    let commands = commands("Upgrade")?;
    let [drop_slots, upgrade] = commands.as_slice() else {
        return Err(Failure::new("INSTALL.md does not say how to upgrade"));
    };
    if old >= PgVersion(17) {
        shell(&from, &format!("OLD='{}'\n{drop_slots}", from.data_dir().display()))?;
    }
    from.stop_with(Shutdown::Fast)?;
    // 18 makes new clusters with checksums, older versions without.
    let script = format!(
        "pg_checksums --disable -D '{new_data}' >/dev/null 2>&1 || true
         OLD='{old_data}' NEW='{new_data}' OLD_BIN='{old_bin}' NEW_BIN='{new_bin}'
         {upgrade}",
        old_bin = old.bin_dir()?.display(),
        new_bin = new.bin_dir()?.display(),
        old_data = from.data_dir().display(),
        new_data = to.data_dir().display(),
    );
    shell(&to, &script).map_err(|e| {
        let logs = format!("find '{}/pg_upgrade_output.d' -name '*.log' | xargs tail -n 30", to.data_dir().display());
        e.during(shell(&to, &logs).unwrap_or_default())
    })?;
    to.launch()?;
    let mut session = to.session_in("mydb")?;
    check_healing(&mut session)?;
    check_following(&mut session)
}

/// Nobody has to do anything: what was not refreshed before the upgrade is so at the first refresh after it.
fn check_healing(session: &mut Session) -> Outcome {
    wait::retry("a refresh after the upgrade", 2 * wait::PATIENCE, || {
        for (name, _) in STREAM_TABLES {
            session.run(&format!("SELECT pgtrickle.refresh_stream_table('{}')", name_now(name)))?;
        }
        Ok(())
    })?;
    let unhealthy =
        session.rows("SELECT check_name, severity, detail FROM pgtrickle.health_check() WHERE severity = 'ERROR'")?;
    if let Some(row) = unhealthy.first() {
        return Err(Failure::new(format!("after the upgrade: {}", oracle::row_text(row))));
    }
    Ok(())
}
