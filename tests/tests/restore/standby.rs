//! Standbys and their promotion, physical copies.

use crate::common::{STREAM_TABLES, check_following, name_now, set_up, shell};
use pgtrickle_tests::install::PgVersion;
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
    standby.launch()?;
    Ok((primary, standby))
}

fn caught_up(primary: &Server, standby: &Server) -> Outcome {
    let target = primary.session()?.text("SELECT pg_current_wal_flush_lsn()")?;
    let mut session = standby.session()?;
    let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
    wait::until("the standby has caught up", wait::PATIENCE, || session.holds(&reached))
}

/// Readers, with what they need to be asked.
const LOOKS: &[&str] = &[
    "SELECT * FROM pgtrickle.health_check()",
];

pub fn standby_promoted(version: PgVersion) -> Outcome {
    let (primary, standby) = pair(version, &[])?;
    caught_up(&primary, &standby)?;
    let mut session = standby.session_in("mydb")?;
    for f in session.rows("SELECT p.oid::regprocedure::text, pronargs-pronargdefaults, p.proname FROM pg_proc p WHERE pronamespace='pgtrickle'::regnamespace AND prorettype <> 'event_trigger'::regtype AND prorettype <> 'trigger'::regtype ORDER BY 1")? {
        let name = f[2].clone().unwrap();
        let n: usize = f[1].clone().unwrap().parse().unwrap();
        let args = ["'totals'", "'SELECT 1 AS a'"];
        if n > 2 || name.starts_with('_') { println!("skip {name} {n}"); continue; }
        let sql = format!("SELECT * FROM pgtrickle.{name}({})", args[..n].join(", "));
        let t = std::time::Instant::now();
        match session.error(&sql) {
            Ok((state, text)) => println!("{sql}: {:?} {state} {text}", t.elapsed()),
            Err(e) => println!("{sql}: {:?} fine {}", t.elapsed(), e.to_string().lines().next().unwrap()),
        }
    }
    Ok(())
}
