//! What can go wrong, done on purpose, and what must hold after it.

use std::path::Path;
use std::time::Duration;

use fastrand::Rng;

use crate::install;
use crate::load::{Bank, Load, Options};
use crate::server::{Server, Shutdown, send_signal};
use crate::session::Session;
use crate::stream::AT_ONCE;
use crate::{During, Failure, Outcome, wait};

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of a process of this `backend_type`.
    Worker(&'static str),
    /// `kill -9` of a backend in the middle of a writer's transaction.
    Writer,
    /// The whole server goes down so, and comes up again.
    Crash(Shutdown),
    /// SIGTERM to a worker: the polite variant.
    Terminate(&'static str),
}

/// Workers by the name under which `pg_stat_activity` shows them.
pub const DECODER: &str = "pg_trickle_wal_decoder";
pub const APPLY: &str = "pg_trickle_apply";
pub const SCHEDULER: &str = "pg_trickle_scheduler";
pub const LAUNCHER: &str = "pg_trickle_launcher";
pub const DISPATCHER: &str = "pg_trickle_dispatcher";
/// The first worker of the pool.
pub const POOL: &str = "pg_trickle_pool_1";

/// How long capture and refresh may take to be back.
const RECOVERY: Duration = Duration::from_secs(90);

/// Does the fault again and again at random moments under load; exact after each, and nothing had to start anew.
pub fn repeat(server: &Server, fault: Fault, rounds: u32, seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let bank = Bank::set_up(server, AT_ONCE)?;
    let before = bank.restarts(&mut server.session()?)?;
    for round in 0..rounds {
        let load = bank.start(Options { seed: seed.wrapping_add(u64::from(round)), truncate: false });
        load.pass(rng.u64(20..600))?;
        inject(server, fault, &load).during(format!("round {round}"))?;
        recovered(server, &bank).during(format!("round {round}, back under load"))?;
        load.pass(rng.u64(1..200)).during(format!("round {round}"))?;
        load.stop()?;
        bank.assert_exact(&mut server.session()?).during(format!("round {round}, after the load"))?;
    }
    let after = bank.restarts(&mut server.session()?)?;
    if before == after {
        return Ok(());
    }
    Err(Failure::new(format!(
        "started anew instead of carrying on: (generation, reinitialised) {before:?} became {after:?}"
    )))
}

fn inject(server: &Server, fault: Fault, load: &Load) -> Outcome {
    match fault {
        Fault::Crash(how) => server.crash_restart(how),
        Fault::Writer => {
            let mut session = server.session()?;
            let pid = wait::poll("a busy writer", wait::PATIENCE, || load.a_writer(&mut session))?;
            send_signal(pid, "KILL")
        }
        Fault::Worker(kind) => signal_worker(server, kind, "KILL"),
        Fault::Terminate(kind) => signal_worker(server, kind, "TERM"),
    }
}

/// Signals the worker as soon as there is one.
fn signal_worker(server: &Server, kind: &str, signal: &str) -> Outcome {
    let mut session = server.session()?;
    let pid = wait::poll(kind, RECOVERY, || worker_pid(&mut session, kind))?;
    send_signal(pid, signal)?;
    wait::until("it is gone", wait::PATIENCE, || Ok(!process_exists(pid)))
}

/// The process of a worker, by its kind.
pub fn worker_pid(session: &mut Session, kind: &str) -> Outcome<Option<u32>> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}' LIMIT 1");
    Ok(session.rows(&sql)?.first().and_then(|row| row[0].as_deref()?.parse().ok()))
}

fn process_exists(pid: u32) -> bool {
    // A zombie waits for its parent only.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// The server answers, refreshes work and are exact, while the writers go on.
fn recovered(server: &Server, bank: &Bank) -> Outcome {
    let mut session = wait::retry("refreshing again", RECOVERY, || {
        let mut session = server.session_after_crash()?;
        session.run("SELECT pgtrickle.refresh_stream_table('load.totals')")?;
        Ok(session)
    })?;
    (0..8).try_for_each(|number| bank.verify_one(&mut session, number))?;
    bank.assert_invariants(&mut session)
}

/// The slot vanishes under running capture: everything is brought back by recomputing, told loudly.
pub fn drop_slot(server: &Server, rounds: u32, seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let bank = Bank::set_up(server, AT_ONCE)?;
    for round in 0..rounds {
        let load = bank.start(Options { seed: seed.wrapping_add(u64::from(round)), truncate: false });
        load.pass(rng.u64(20..300))?;
        let mut session = server.session()?;
        wait::until("the slot is dropped", RECOVERY, || {
            let terminate = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name LIKE 'pg_trickle_%' AND active";
            session.rows(terminate)?;
            Ok(session.try_run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'pg_trickle_%'").is_ok())
        })?;
        recovered(server, &bank).during(format!("round {round}"))?;
        load.stop()?;
        bank.assert_exact(&mut server.session()?).during(format!("round {round}, after the load"))?;
    }
    Ok(())
}

/// Writing a change buffer fails as on a full disk, again and again, until there is room.
pub fn disk_full(server: &Server) -> Outcome {
    const LIMIT_BYTES: u64 = 48 << 20;
    let mut session = server.session()?;
    session.run("CREATE TABLE big (id int PRIMARY KEY, g int, pad text)")?;
    let totals = crate::stream::StreamTable::new("public", "big_totals");
    let query = "SELECT g, count(*) AS n, sum(id) AS s FROM big GROUP BY g";
    totals.create(&mut session, query, crate::stream::BY_HAND)?;
    // All of it goes to one segment: nobody consumes it meanwhile. The pad must travel to make it large.
    let wide = crate::stream::StreamTable::new("public", "big_pads");
    let pads = "SELECT pad, count(*) AS n FROM big GROUP BY pad";
    wide.create(&mut session, pads, crate::stream::BY_HAND)?;
    for round in 0..3 {
        let apply = wait::poll("the apply worker", RECOVERY, || worker_pid(&mut session, APPLY))?;
        limit_file_size(apply, LIMIT_BYTES)?;
        session.run(&format!(
            "INSERT INTO big SELECT i, i % 10, repeat('p', 300) FROM generate_series({round} * 100000 + 1, {round} * 100000 + 100000) i"
        ))?;
    }
    wait::until("writing a buffer has failed", RECOVERY, || Ok(server.log().contains("File too large")))?;
    wait::retry("refreshing again", RECOVERY, || totals.refresh(&mut session))?;
    wide.refresh(&mut session)?;
    crate::oracle::assert_exact(&mut session, "big_totals", query)?;
    crate::oracle::assert_exact(&mut session, "big_pads", pads)
}

/// A file-size limit for one process: writing beyond it fails as it does on a full disk. Its successor has no limit.
fn limit_file_size(pid: u32, bytes: u64) -> Outcome {
    // Only the process's own user may do this without further rights.
    let mut prlimit = install::as_server_user(Path::new("/usr/bin/prlimit"));
    install::run(prlimit.arg(format!("--pid={pid}")).arg(format!("--fsize={bytes}:{bytes}"))).map(drop)
}
