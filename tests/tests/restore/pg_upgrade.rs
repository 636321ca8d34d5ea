//! `pg_upgrade` to a newer major version, as INSTALL.md says.

use crate::common::{STREAM_TABLES, check_following, name_now, set_up, shell};
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
    from.stop_with(Shutdown::Fast)?;
    let upgrade = format!(
        "{checksums} cd {dir}; pg_upgrade -U postgres -b {old_bin} -B {new_bin} -d {old_data} -D {new_data} -s {dir} || \
         {{ find {new_data}/pg_upgrade_output.d -name '*.log' | xargs tail -n 30; exit 1; }}",
        checksums = "pg_checksums --disable -D data >/dev/null 2>&1 || true;",
        dir = to.dir().display(),
        old_bin = old.bin_dir()?.display(),
        new_bin = new.bin_dir()?.display(),
        old_data = from.data_dir().display(),
        new_data = to.data_dir().display(),
    );
    shell(&to, &upgrade)?;
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
