//! From commit to buffer, from commit to visible, and what an empty refresh takes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::stream::{AT_ONCE, BY_HAND, StreamTable};
use pgtrickle_tests::{Failure, Outcome};

use crate::report::{Figure, Goal, Report, median, percentile};
use crate::{Effort, SETTINGS};

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Latency, ms");
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    session.run("CREATE TABLE t (id int, a int); CREATE TABLE probe (id int); CREATE TABLE nothing (a int)")?;
    StreamTable::new("public", "copied").create(&mut session, "SELECT id, a FROM t", BY_HAND)?;
    StreamTable::new("public", "empty").create(&mut session, "SELECT a FROM nothing", BY_HAND)?;
    commit_to_buffer(effort, report, &server)?;
    nothing_to_do(effort, report, &mut session)?;
    commit_to_visible(effort, report, &server)
}

fn commit_to_buffer(effort: &Effort, report: &mut Report, server: &Server) -> Outcome {
    let mut writer = server.session()?;
    let mut reader = server.session()?;
    let relid = reader.text("SELECT 't'::regclass::oid")?;
    let count = format!("SELECT count(*) FROM pgtrickle_changes.changes_{relid}");
    let mut taken = Vec::new();
    for i in 0..1000 / effort.fraction {
        let before = reader.number(&count)?;
        writer.run(&format!("INSERT INTO t VALUES ({i}, {i})"))?;
        let committed = Instant::now();
        while reader.number(&count)? <= before {
            if committed.elapsed() > Duration::from_secs(20) {
                return Err(Failure::new("a row did not reach its buffer"));
            }
        }
        taken.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    add(report, "commit to buffer row, idle", &mut taken, [Some(1.0), None, Some(3.0)]);
    Ok(())
}

fn nothing_to_do(effort: &Effort, report: &mut Report, session: &mut Session) -> Outcome {
    let mut taken = Vec::new();
    let empty = StreamTable::new("public", "empty");
    for _ in 0..500 / effort.fraction {
        let started = Instant::now();
        empty.refresh(session)?;
        taken.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let value = median(taken);
    report.add(Figure {
        what: "refresh with nothing to do, with its barrier".into(),
        ours: format!("{value:.2}"),
        rival: "–".into(),
        value,
        goal: Some(Goal::AtMost(1.0)),
    });
    Ok(())
}

/// A thousand transactions a second beside the probes.
fn commit_to_visible(effort: &Effort, report: &mut Report, server: &Server) -> Outcome {
    let mut session = server.session()?;
    session.run("CREATE TABLE load (id int, g int)")?;
    StreamTable::new("public", "visible").create(&mut session, "SELECT id FROM probe", AT_ONCE)?;
    StreamTable::new("public", "loaded").create(
        &mut session,
        "SELECT g, count(*) AS n FROM load GROUP BY g",
        AT_ONCE,
    )?;
    let script = server.dir().join("load.sql");
    std::fs::write(&script, "\\set g random(1, 100)\nINSERT INTO load VALUES (1, :g);\n")?;
    let seconds = 20 / effort.fraction.min(4);
    let mut pgbench = server.program("pgbench")?;
    pgbench.args(["-n", "-c", "4", "-R", "1000", "-T", &seconds.to_string(), "-f"]).arg(&script).arg("postgres");
    let mut load = pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut reader = server.session()?;
    let mut taken = Vec::new();
    let mut number = 0;
    while load.try_wait()?.is_none() {
        number += 1;
        session.run(&format!("INSERT INTO probe VALUES ({number})"))?;
        let committed = Instant::now();
        while reader.number(&format!("SELECT count(*) FROM visible WHERE id = {number}"))? == 0 {
            if committed.elapsed() > Duration::from_secs(20) {
                return Err(Failure::new("a row did not become visible"));
            }
        }
        taken.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    add(report, "commit to visible, schedule 0s, 1,000 tx/s beside it", &mut taken, [Some(4.0), None, Some(20.0)]);
    Ok(())
}

fn add(report: &mut Report, what: &str, taken: &mut [f64], goals: [Option<f64>; 3]) {
    for ((name, part), goal) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)].into_iter().zip(goals) {
        let value = percentile(taken, part);
        report.add(Figure {
            what: format!("{what}: {name} of {}", taken.len()),
            ours: format!("{value:.2}"),
            rival: "–".into(),
            value,
            goal: goal.map(Goal::AtMost),
        });
    }
}
