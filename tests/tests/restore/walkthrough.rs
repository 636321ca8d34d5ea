//! INSTALL.md from configuration to removal: its SQL, as it stands there, on a server configured as it says.

use std::process::Command;

use crate::common::shell;
use pgtrickle_tests::install::{self, PgVersion};
use pgtrickle_tests::server::Server;
use pgtrickle_tests::{Failure, Outcome, oracle, wait};

/// The blocks of a kind, in order.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let opening = format!("\n```{kind}\n");
    text.split(&opening).skip(1).filter_map(|part| part.split("\n```").next()).map(str::to_owned).collect()
}

pub fn walkthrough(version: PgVersion) -> Outcome {
    let text = std::fs::read_to_string(install::root().join("INSTALL.md"))?;
    let configuration = blocks(&text, "").into_iter().find(|block| block.starts_with("shared_preload_libraries"));
    let configuration =
        configuration.ok_or_else(|| Failure::new("INSTALL.md does not say how to configure the server"))?;
    let settings: Vec<(&str, &str)> = configuration
        .lines()
        .filter_map(|line| line.split('#').next()?.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let server = Server::start_bare(version, &settings)?;
    shell(&server, "createdb shop")?;
    let sql = blocks(&text, "sql");
    if settings.len() < 5 || sql.len() < 5 {
        return Err(Failure::new(format!("{} settings, {} blocks of SQL", settings.len(), sql.len())));
    }
    for block in &sql {
        // Older minors do not know the setting.
        if block.contains("output_plugin_libraries") && !version.restricts_plugins()? {
            continue;
        }
        shell(&server, &format!("psql -XAtq -v ON_ERROR_STOP=1 -d shop <<'SQL'\n{block}\nSQL"))
            .map_err(|e| e.during(block))?;
        if block.contains("pg_create_logical_replication_slot") {
            by_hand(&server, &text)?;
        }
        if block.contains("'per_customer'") {
            shell(&server, "psql -Xqd shop -c 'INSERT INTO orders VALUES (1, 1, 5)'")?;
            let mut session = server.session_in("shop")?;
            wait::until("the first stream table", 2 * wait::PATIENCE, || {
                session.holds("SELECT count(*) = 1 FROM per_customer")
            })?;
            // Test servers do not sync.
            let unwell = session.rows(
                "SELECT check_name, detail FROM pgtrickle.preflight() WHERE severity <> 'OK' AND check_name <> 'fsync'",
            )?;
            if let Some(row) = unwell.first() {
                return Err(Failure::new(format!("configured as INSTALL.md says: {}", oracle::row_text(row))));
            }
        }
    }
    // Removed without a trace.
    let mut session = server.session_in("shop")?;
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_replication_origin)
                     + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgtrickle%')
                     + (SELECT count(*) FROM pg_class WHERE relname = 'orders' AND relreplident <> 'd')";
    wait::until("nothing is left", 2 * wait::PATIENCE, || Ok(session.number(left)? == 0))
}

/// What reads a slot and prints it, which runs until it is interrupted where it follows.
fn by_hand(server: &Server, text: &str) -> Outcome {
    let bash = blocks(text, "bash");
    let block = bash.iter().find(|block| block.contains("pg_recvlogical"));
    let block = block.ok_or_else(|| Failure::new("INSTALL.md does not say how to print a stream"))?;
    shell(server, "psql -XAtqd shop -c \"SELECT pg_create_logical_replication_slot('s', 'pg_trickle')\"")?;
    shell(server, "psql -Xqd shop -c 'INSERT INTO orders VALUES (10, 1, 5)'")?;
    let mut command = Command::new("bash");
    command
        .arg("-ec")
        .arg(block.replace("pg_recvlogical", "timeout -s INT 5 pg_recvlogical"))
        .current_dir(install::root());
    let path = format!("{}:{}", server.version().bin_dir()?.display(), std::env::var("PATH").unwrap_or_default());
    command.env("PATH", path).env("PGHOST", server.dir()).env("PGPORT", server.port().to_string());
    let printed = install::run(command.env("PGUSER", "postgres"))?;
    // The second look finds what the first has not confirmed, or nothing.
    if !printed.contains("+ #0 public.orders id=10 ") || printed.matches("HELLO Binary").count() != 2 {
        return Err(Failure::new(printed));
    }
    shell(server, "psql -XAtqd shop -c \"SELECT pg_drop_replication_slot('s')\"").map(drop)
}
