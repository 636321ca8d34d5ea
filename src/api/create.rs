//! `create_stream_table` and its variants.

use super::capture::{Ready, confirm, hold_buffers, start_capture};
use super::define::{define, populate, without_semicolon};
use super::{guard, names};
use crate::analyze::{self, Analysis, Analyzed, Input};
use crate::catalog;
use crate::error::{Error, Result, notice, or_raise};
use crate::refresh::{fill, ours, program};
use crate::{immediate, shmem, workers};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::{wal, xact};

/// Creates a stream table: a table that holds the result of `query` and follows the tables that it reads.
///
/// `schedule` is an interval ('0s' for as soon as changes arrive, '5s', '1h30m') or 'calculated'; `refresh_mode` is AUTO,
/// DIFFERENTIAL (an error when the query cannot be maintained by its changes), FULL, or IMMEDIATE: maintained by whoever
/// writes to its sources, in the same transaction. Returns the stream table's id.
#[pg_extern]
fn create_stream_table(
    name: &str,
    query: &str,
    schedule: default!(Option<&str>, "'calculated'"),
    refresh_mode: default!(&str, "'AUTO'"),
    initialize: default!(bool, true),
) -> i64 {
    or_raise(create(name, query, schedule, refresh_mode, initialize))
}

/// As [`create_stream_table`], but does nothing when there is a relation of that name already. Returns the id of the stream
/// table, or NULL when the relation is none.
#[pg_extern]
fn create_stream_table_if_not_exists(
    name: &str,
    query: &str,
    schedule: default!(Option<&str>, "'calculated'"),
    refresh_mode: default!(&str, "'AUTO'"),
    initialize: default!(bool, true),
) -> Option<i64> {
    let target = or_raise(names::resolve(name));
    match target.existing() {
        Some(relid) => {
            notice(&format!("relation {} already exists, skipping", target.label()), None);
            catalog::by_relid(relid).map(|st| st.pgt_id)
        }
        None => Some(or_raise(create(name, query, schedule, refresh_mode, initialize))),
    }
}

/// As [`create_stream_table`]; a stream table of that name is altered unless it already is as asked for.
#[pg_extern]
fn create_or_replace_stream_table(
    name: &str,
    query: &str,
    schedule: default!(Option<&str>, "'calculated'"),
    refresh_mode: default!(&str, "'AUTO'"),
    initialize: default!(bool, true),
) -> i64 {
    or_raise(super::require_primary());
    let target = or_raise(names::resolve(name));
    if let Some(existing) = target.existing().and_then(catalog::by_relid) {
        let mode = refresh_mode.to_uppercase();
        let schedule = schedule.unwrap_or("calculated");
        let same = existing.query_hash == catalog::query_hash(query)
            && existing.schedule == schedule
            && existing.refresh_mode == mode;
        if !same {
            or_raise(catalog::must_own(&existing));
            or_raise(super::alter::alter(&existing, Some(query), Some(schedule), Some(&mode), None));
        }
        return existing.pgt_id;
    }
    or_raise(create(name, query, schedule, refresh_mode, initialize))
}

fn create(name: &str, query: &str, schedule: Option<&str>, mode: &str, initialize: bool) -> Result<i64> {
    super::require_preloaded()?;
    ours::must_rest()?;
    let target = names::resolve(name)?;
    if target.existing().is_some() {
        return Err(Error::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
            format!("relation {} already exists", target.label()),
        ));
    }
    let schedule = names::schedule(schedule)?;
    let mode = names::refresh_mode(mode)?;
    // Analysing locks the sources, which would keep the tracker out; so it is done and undone first.
    let first = xact::undone(|| analyze::analyze(Input::Text(query)))?;
    check_mode(&mode, &first)?;
    check_rights(query);
    let ready = capture_for(&mode, initialize, &first)?;
    let made = define(&target, query, &schedule, &mode)?;
    let view = program::view_oid(made.st.pgt_id)?;
    confirm(&first, &mode, &analyze::analyze(Input::View(view.into()))?)?;
    if initialize {
        match made.st.is_immediate() {
            true => immediate::maintain::fill(&made.st, &made.loaded)?,
            false => populate(&made, ready)?,
        }
        fill::ensure_index(&made.st, &made.loaded);
    }
    fill::ddl(&guard::set(&target.name));
    catalog::changed();
    Ok(made.st.pgt_id)
}

/// Sees to it that nothing that happens to the sources from now on is missed.
fn capture_for(mode: &str, initialize: bool, analysis: &Analysis) -> Result<Ready> {
    if mode != immediate::MODE {
        super::require_server()?;
        let ready = start_capture(analysis)?;
        if hold_buffers(analysis).is_ok() {
            return Ok(ready);
        }
        // Housekeeping has just ended what nobody read any more: it begins again.
        let ready = start_capture(analysis)?;
        return hold_buffers(analysis).map(|()| ready);
    }
    if !initialize {
        return Err(Error::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a stream table that is maintained at once must be filled when it is created",
        )
        .hint("Leave out initialize => false, or use another refresh_mode and alter it later."));
    }
    immediate::follow(analysis).map(|()| Ready::Yes)
}

/// Raises an error unless the caller may run the query: nothing is captured on behalf of who may not read it.
pub fn check_rights(query: &str) {
    let probe = sql!("SELECT FROM (\n{}\n) AS query LIMIT 0", Sql::deparsed(without_semicolon(query)));
    xact::undone(|| Spi::connect(|client| client.select(probe.as_str(), None, &[]).map(drop))).unwrap_or_report();
}

pub fn check_mode(mode: &str, analysis: &Analysis) -> Result<()> {
    match &analysis.plan {
        _ if mode == immediate::MODE => immediate::feasible::check(analysis),
        Analyzed::Opaque { reason } if mode == "DIFFERENTIAL" => Err(Error::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "the query cannot be maintained differentially",
        )
        .detail(format!("It has to be recomputed at each refresh because {reason}."))
        .hint("Use refresh_mode => 'AUTO'.")),
        _ => Ok(()),
    }
}

/// What CREATE EXTENSION calls at its end, so that the launcher finds the database.
#[pg_extern(name = "_installed")]
fn installed() {
    if shmem::available() {
        workers::on_commit_look_for_databases();
    }
    if !wal::is_logical() {
        notice("pg_trickle needs wal_level = logical", Some("Set it in postgresql.conf and restart the server."));
    }
}
