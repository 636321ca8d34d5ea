//! The server: its settings, the library, the endpoint.

use super::{Row, error, ok, warning};
use crate::{catalog, settings, shmem};
use pgtrickle_pg::wal;
use std::sync::atomic::Ordering::Relaxed;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![wal_level(), preloaded(), plugin(), version()];
    if shmem::available() {
        rows.push(endpoint());
    }
    rows
}

fn wal_level() -> Row {
    match wal::is_logical() {
        true => ok("wal_level", "logical"),
        false => error("wal_level", "Set wal_level = logical in postgresql.conf and restart the server."),
    }
}

fn preloaded() -> Row {
    let check = "shared_preload_libraries";
    match shmem::available() {
        true => ok(check, "pg_trickle is preloaded"),
        false => error(check, "Add pg_trickle to shared_preload_libraries and restart the server."),
    }
}

/// Never a warning: pg_trickle's own capture does without, and most users want nothing else.
fn plugin() -> Row {
    let check = "output_plugin_libraries";
    let listed = |list: String| list.split(',').any(|name| name.trim().trim_matches('"') == "pg_trickle");
    match pgtrickle_pg::spi::setting(c"output_plugin_libraries").is_none_or(listed) {
        true => ok(check, "the output plugin may be used by hand, too"),
        false => ok(
            check,
            "pg_trickle's own capture needs no entry; to make slots with the plugin by hand, add pg_trickle to output_plugin_libraries and reload",
        ),
    }
}

fn version() -> Row {
    let library = env!("CARGO_PKG_VERSION");
    let installed: Option<String> =
        catalog::scalar("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pg_trickle'", &[]);
    let installed = installed.unwrap_or_default();
    match installed == library {
        true => ok("version", format!("{library}, library and SQL objects")),
        false => error(
            "version",
            format!(
                "The library that is loaded is of version {library}, the SQL objects of this database are of {installed}: ALTER EXTENSION pg_trickle UPDATE; if the library is the older one, restart the server after installing the new one."
            ),
        ),
    }
}

fn endpoint() -> Row {
    let (address, port) = (settings::metrics_listen_address(), settings::METRICS_PORT.get());
    match port {
        0 => ok("metrics_endpoint", "off; pg_trickle.metrics_port turns it on"),
        _ if shmem::shared().endpoint_failed.load(Relaxed) => warning(
            "metrics_endpoint",
            format!(
                "Nothing is served on {address}:{port}; the server log says why. Another program may use the port: set pg_trickle.metrics_port or metrics_listen_address and reload. It is tried again every 30 s."
            ),
        ),
        _ => ok("metrics_endpoint", format!("http://{address}:{port}/")),
    }
}
