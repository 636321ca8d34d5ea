//! What tracking costs those who write.

use pgtrickle_tests::server::Server;
use pgtrickle_tests::stream::{BY_HAND, StreamTable};
use pgtrickle_tests::{Failure, Outcome, install};

use crate::report::{Figure, Goal, Report, median};
use crate::{Effort, SETTINGS};

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("Writers' transactions per second (pgbench -N, synchronous commit)");
    let tracked = prepare(effort, true)?;
    let untracked = prepare(effort, false)?;
    let seconds = 10 / effort.fraction.min(4);
    for clients in [1, 4] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            without.push(tps(&untracked, clients, seconds)?);
            with.push(tps(&tracked, clients, seconds)?);
            // The buffer must not grow over the rounds.
            StreamTable::new("public", "st").refresh(&mut tracked.session()?)?;
        }
        let (with, without) = (median(with), median(without));
        report.add(Figure {
            what: format!("{clients} client{}", if clients == 1 { "" } else { "s" }),
            ours: format!("{with:.0} tracked"),
            rival: format!("{without:.0} untracked"),
            value: with / without,
            goal: Some(Goal::AtLeast(0.95)),
        });
    }
    Ok(())
}

fn prepare(effort: &Effort, tracked: bool) -> Outcome<Server> {
    let server = Server::start(effort.version, SETTINGS)?;
    install::run(server.program("pgbench")?.args(["-i", "-q", "-s", "10", "postgres"]))?;
    if tracked {
        let query = "SELECT bid, count(*) AS n, sum(abalance) AS s FROM pgbench_accounts GROUP BY bid";
        StreamTable::new("public", "st").create(&mut server.session()?, query, BY_HAND)?;
    }
    Ok(server)
}

fn tps(server: &Server, clients: u32, seconds: u64) -> Outcome<f64> {
    server.session()?.run("CHECKPOINT")?;
    let mut pgbench = server.program("pgbench")?;
    pgbench.args(["-n", "-N", "-c", &clients.to_string(), "-j", "1", "-T", &seconds.to_string(), "postgres"]);
    let output = install::run(&mut pgbench)?;
    let line = output.lines().find_map(|line| line.strip_prefix("tps = "));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).ok_or_else(|| Failure::new(output))
}
