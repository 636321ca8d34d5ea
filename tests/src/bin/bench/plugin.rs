//! The output plugin alone, through `pg_recvlogical`, against pgoutput and wal2json: the same WAL, one base slot a plugin
//! copied for each turn, the same end.

use std::time::Duration;

use pgtrickle_tests::server::Server;
use pgtrickle_tests::session::Session;
use pgtrickle_tests::{During, Outcome};

use crate::capture::timed;
use crate::report::{Figure, Goal, Report, median, rate};
use crate::{Effort, SETTINGS};

struct Contender {
    plugin: &'static str,
    options: &'static [&'static str],
}

const OURS: Contender = Contender { plugin: "pg_trickle", options: &["encoding=binary"] };
const PGOUTPUT: Contender =
    Contender { plugin: "pgoutput", options: &["proto_version=1", "publication_names=p", "binary=true"] };
const WAL2JSON: Contender = Contender { plugin: "wal2json", options: &["format-version=2"] };

pub fn measure(effort: &Effort, report: &mut Report) -> Outcome {
    report.section("The output plugin alone, through pg_recvlogical");
    let rows = 1_000_000 / effort.fraction;
    let server = Server::start(effort.version, SETTINGS)?;
    let mut session = server.session()?;
    session.run("CREATE TABLE t (id int, a int, b bigint, c text); ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t")?;
    let mut contenders = vec![OURS, PGOUTPUT];
    for contender in [OURS, PGOUTPUT, WAL2JSON] {
        let slot = format!("SELECT pg_create_logical_replication_slot('base_{0}', '{0}')", contender.plugin);
        match session.run(&slot) {
            Ok(()) if contender.plugin == WAL2JSON.plugin => contenders.push(contender),
            Err(_) if contender.plugin == WAL2JSON.plugin => {
                report.note("wal2json is not installed for this version".into())
            }
            result => result?,
        }
    }
    session.run(&format!(
        "DO $$ BEGIN FOR n IN 0..{} LOOP
           INSERT INTO t SELECT i, i % 100, i, 'text of row ' || i FROM generate_series(n * 1000 + 1, n * 1000 + 1000) i;
           COMMIT;
         END LOOP; END $$",
        rows / 1000 - 1
    ))?;
    let end = session.text("SELECT pg_current_wal_lsn()")?;
    // Something must follow the end, or the receivers wait for it.
    session.run("SELECT pg_logical_emit_message(true, 'end', 'end'); SELECT pg_switch_wal()")?;
    let mut taken: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.rounds {
        for (i, contender) in contenders.iter().enumerate() {
            taken[i].push(receive(&server, &mut session, contender, &end, "/dev/null")?.as_secs_f64());
        }
    }
    let speeds: Vec<f64> = taken.into_iter().map(|times| rows as f64 / median(times)).collect();
    let mut sizes = Vec::new();
    for contender in &contenders {
        let file = server.dir().join(format!("{}.out", contender.plugin));
        receive(&server, &mut session, contender, &end, &file.display().to_string())?;
        sizes.push(std::fs::metadata(&file)?.len() as f64 / rows as f64);
    }
    for (i, (speed_goal, size_goal)) in [(2.5, 0.85), (4.0, 0.22)].into_iter().enumerate().take(contenders.len() - 1) {
        let rival = &contenders[i + 1];
        report.add(Figure {
            what: format!("inserts, {rows} rows"),
            ours: rate(speeds[0]),
            rival: format!("{} {}", rival.plugin, rate(speeds[i + 1])),
            value: speeds[0] / speeds[i + 1],
            goal: Some(Goal::AtLeast(speed_goal)),
        });
        report.add(Figure {
            what: "bytes a row".into(),
            ours: format!("{:.1}", sizes[0]),
            rival: format!("{} {:.1}", rival.plugin, sizes[i + 1]),
            value: sizes[0] / sizes[i + 1],
            goal: Some(Goal::AtMost(size_goal)),
        });
    }
    Ok(())
}

fn receive(server: &Server, session: &mut Session, contender: &Contender, end: &str, file: &str) -> Outcome<Duration> {
    session.run(&format!("SELECT pg_copy_logical_replication_slot('base_{}', 'turn')", contender.plugin))?;
    let mut command = server.program("pg_recvlogical")?;
    command.args(["-d", "postgres", "-S", "turn", "--start", "-F", "0", "-E", end, "-f", file]);
    for option in contender.options {
        command.args(["-o", option]);
    }
    let taken = timed(&mut command).during(contender.plugin);
    session.run("SELECT pg_drop_replication_slot('turn')")?;
    taken
}
