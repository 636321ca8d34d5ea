//! The SQL functions, one file per verb.

mod alter;
mod capture;
mod control;
pub mod counters;
mod create;
mod cycle;
mod define;
pub mod definitions;
mod drop;
mod explain;
pub mod guard;
pub mod health;
mod house;
pub mod look;
mod mode;
mod names;
mod refresh;
mod repair;
mod replace;
mod rows;
pub mod track;
pub mod triggers;
pub mod understand;
mod verify;

pub use capture::is_stream_table;
pub use house::{alert, drop_capture, drop_lost_origins, keep_house, record_failure};
pub use mode::tell_readers;
pub use refresh::source_changed_by_us;

use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use crate::shmem;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_pg::{table, wal, worker};

/// What every verb that makes a stream table needs of the server.
fn require_preloaded() -> Result<()> {
    if shmem::available() { Ok(()) } else { Err(Error::not_preloaded()) }
}

/// What those need that capture changes or refresh.
fn require_server() -> Result<()> {
    require_preloaded()?;
    if !wal::is_logical() {
        return Err(Error::wal_level());
    }
    if loses_invalidations(worker::server_version()) {
        return Err(Error::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "this minor release of PostgreSQL cannot capture changes reliably",
        )
        .detail(
            "Before 15.13, 16.9 and 17.5, logical decoding does not tell transactions that are open of new definitions, \
             so changes of a source could be lost for good.",
        )
        .hint("Install the current minor release of PostgreSQL, and restart the server."));
    }
    if !pgtrickle_pg::databases::speaks_utf8() {
        return Err(Error::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "stream tables need a database with encoding UTF8",
        )
        .hint("CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move the data there."));
    }
    require_primary()
}

/// Whether logical decoding leaves what it has cached as it was when definitions change beneath a transaction that is open.
fn loses_invalidations(server_version: u32) -> bool {
    match server_version / 10_000 {
        15 => server_version < 150_013,
        16 => server_version < 160_009,
        17 => server_version < 170_005,
        _ => false,
    }
}

/// Whoever changes stream tables, or waits for them, cannot do so on a standby.
fn require_primary() -> Result<()> {
    match worker::in_recovery() {
        true => Err(Error::standby()),
        false => Ok(()),
    }
}

/// The stream table of this name, if the caller may change it.
fn to_change(name: &str) -> Result<StreamTable> {
    require_primary()?;
    catalog::by_name_owned(name)
}

/// Whether this transaction holds any lock on the relation or its partitions.
fn locked_by_us(relid: u32) -> bool {
    holds_lock(relid, false)
}

/// Whether this transaction may have changed the relation: it holds a lock stronger than those of readers, there or on a
/// partition.
fn changed_by_us(relid: u32) -> bool {
    holds_lock(relid, true)
}

fn holds_lock(relid: u32, strong: bool) -> bool {
    catalog::scalar::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks
                         WHERE locktype = 'relation' AND pid = pg_catalog.pg_backend_pid() AND granted
                           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                           AND relation = ANY ($1)
                           AND NOT ($2 AND mode IN ('AccessShareLock', 'RowShareLock')))",
        &[table::parts(relid).into(), strong.into()],
    )
    .unwrap_or(false)
}

/// The caller's search path as it resolves now, as a list of quoted schemas.
fn resolved_search_path() -> String {
    let path = Spi::connect(|client| {
        client
            .select(
                "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s::text), ', ' ORDER BY n)
                   FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS u(s, n)",
                Some(1),
                &[],
            )
            .unwrap_or_report()
            .first()
            .get_one::<String>()
            .unwrap_or_report()
    });
    path.unwrap_or_else(|| "pg_catalog".into())
}

#[cfg(test)]
mod tests {
    use super::loses_invalidations;

    #[test]
    fn old_minor_releases_are_refused() {
        for (last_bad, first_good) in [(150_012, 150_013), (160_008, 160_009), (170_004, 170_005)] {
            assert!(loses_invalidations(last_bad) && !loses_invalidations(first_good));
        }
        assert!(!loses_invalidations(180_000));
    }
}
