//! What a stream table consists of besides its rows: definition view, table, state tables, catalog rows; and its first fill.

use super::capture::{Ready, is_stream_table};
use super::names::Target;
use super::refresh::source_changed_by_us;
use crate::analyze::{self, Analysis, Analyzed, Capture, Input};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result};
use crate::refresh::{choice, fill, pinned, program};
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::complete::complete_view;
use pgtrickle_pg::snapshot::{self, Snapshot};
use pgtrickle_pg::spi::{LocalSettings, RunAs, current_role};
use pgtrickle_pg::{depend, lock, worker};
use std::ffi::CString;
use std::time::Instant;

/// What [`define`] made.
pub struct Made {
    pub st: StreamTable,
    pub loaded: program::Loaded,
    /// The tables whose changes are captured.
    pub bases: Vec<u32>,
}

/// Creates view, table, state tables and catalog rows.
pub fn define(target: &Target, query: &str, schedule: &str, mode: &str) -> Result<Made> {
    let owner = current_role();
    let pgt_id = catalog::next_id();
    create_view(pgt_id, query, owner)?;
    let view = program::definition_view(pgt_id);
    fill::ddl(&sql!("CREATE TABLE {} AS SELECT * FROM {} WITH NO DATA", target.name, view));
    complete(pgt_id, target, query, schedule, mode, owner)
}

/// Makes a stream table of an empty table and a definition view: state tables and catalog rows.
pub fn complete(pgt_id: i64, target: &Target, query: &str, schedule: &str, mode: &str, owner: u32) -> Result<Made> {
    let relid = target.existing().unwrap_or_default();
    let view_oid = program::view_oid(pgt_id)?;
    let analysis = analyze::analyze(Input::View(view_oid.into()))?;
    let bases = analysis
        .sources
        .iter()
        .filter(|s| s.capture == Capture::Wal && !is_stream_table(s))
        .map(|s| s.relid.to_u32())
        .collect();
    insert_rows(pgt_id, relid, target, query, schedule, mode, &analysis);
    let mut st = catalog::by_id(pgt_id).ok_or_else(|| Error::no_such_stream_table(&target.label()))?;
    let loaded = program::build(&st, analysis);
    {
        let _owner = catalog::as_owner();
        fill::create_state(owner, &loaded);
        depend::needs(relid, view_oid);
    }
    st.fingerprint = loaded.fingerprint;
    Ok(Made { st, loaded, bases })
}

/// A query as part of a statement.
pub fn without_semicolon(query: &str) -> &str {
    query.trim_end().trim_end_matches(';')
}

/// The definition view: PostgreSQL itself then follows renames and keeps columns that are used from being dropped.
pub fn create_view(pgt_id: i64, query: &str, owner: u32) -> Result<()> {
    let path = super::resolved_search_path();
    let path = CString::new(path).unwrap_or_default();
    let role = fill::role_name(owner);
    let view = program::definition_view(pgt_id);
    // Only the extension's owner may create in its schema. But already the parser can run functions of the user (values of
    // types with constraints), which must not get that role: the view is made elsewhere by the user, then moved.
    let nursery = Ident::new(format!("pgtrickle_new_{pgt_id}"));
    let made = QualifiedName { schema: nursery.clone(), name: view.name.clone() };
    {
        let _owner = catalog::as_owner();
        fill::ddl(&sql!("CREATE SCHEMA {} AUTHORIZATION {}", nursery, role));
    }
    {
        // Names mean what they mean to the caller.
        let _path = LocalSettings::new(&[(c"search_path", &path)]);
        let _user = RunAs::restricted(owner);
        fill::ddl(&sql!("CREATE VIEW {} AS {}", made, Sql::deparsed(without_semicolon(query))));
    }
    let _owner = catalog::as_owner();
    fill::ddl(&sql!("ALTER VIEW {} SET SCHEMA {}", made, view.schema));
    fill::ddl(&sql!("DROP SCHEMA {}", nursery));
    // The stream table's query leaves no choice, even where the user's does.
    complete_view(program::view_oid(pgt_id)?.into());
    Ok(())
}

fn insert_rows(pgt_id: i64, relid: u32, target: &Target, query: &str, schedule: &str, mode: &str, analysis: &Analysis) {
    let effective =
        if matches!(analysis.plan, Analyzed::Differential(_)) && mode != "FULL" { "DIFFERENTIAL" } else { "FULL" };
    catalog::execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_id, pgt_relid, home_relid, pgt_schema, pgt_name, defining_query,
             defining_query_hash, schedule, refresh_mode, effective_refresh_mode, time_dependent, settings)
         VALUES ($1, $2, $2, $3, $4, $5, pg_catalog.hashtextextended($5, 0), $6, $7, $8, $9, $10)",
        &[
            pgt_id.into(),
            pg_sys::Oid::from(relid).into(),
            target.name.schema.as_str().into(),
            target.name.name.as_str().into(),
            query.into(),
            schedule.into(),
            mode.into(),
            effective.into(),
            analysis.restless.into(),
            pinned::current().into(),
        ],
    );
    insert_dependencies(pgt_id, analysis);
}

/// What the stream table reads, as catalog rows.
pub fn insert_dependencies(pgt_id: i64, analysis: &Analysis) {
    for source in &analysis.sources {
        let kind = match source.relkind {
            _ if is_stream_table(source) => "STREAM_TABLE",
            _ if source.capture == Capture::Wal => "TABLE",
            'm' => "MATERIALIZED_VIEW",
            'v' => "VIEW",
            _ => "FOREIGN_TABLE",
        };
        catalog::execute(
            "INSERT INTO pgtrickle.pgt_dependencies VALUES ($1, $2, $3, $4)",
            &[pgt_id.into(), source.relid.into(), kind.into(), source.columns.clone().into()],
        );
    }
}

/// Fills the stream table under a new snapshot and stores that as its frontier.
pub fn populate(made: &Made, ready: Ready) -> Result<()> {
    let Made { st, loaded, bases } = made;
    for &base in bases {
        if ready == Ready::Yes {
            // Whoever was writing before capture began may have left no old rows in the WAL.
            lock::wait_for_writers(base);
        }
    }
    // As in a refresh: read before the snapshot.
    let generation = catalog::generation();
    let own_changes = source_changed_by_us(st).is_some();
    let lsn = snapshot::insert_lsn();
    let snapshot = Snapshot::latest();
    let visible = snapshot.xids();
    let at = worker::now_us();
    let started = Instant::now();
    fill::fill(st, loaded, &snapshot)?;
    choice::filled(st, started.elapsed());
    let frontier = (ready == Ready::Yes && !own_changes).then(|| visible.to_string());
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables
            SET frontier = $2::pg_snapshot, frontier_lsn = '0/0'::pg_lsn + $3::numeric,
                frontier_xid = pg_catalog.pg_current_xact_id(), generation = $4,
                data_timestamp = '2000-01-01 00:00:00+00'::timestamptz + $5 * interval '1 microsecond',
                last_refresh_at = pg_catalog.clock_timestamp(), program_fingerprint = $6,
                effective_refresh_mode = $7, full_reason = $8, is_populated = true, status = 'ACTIVE'
          WHERE pgt_id = $1",
        &[
            st.pgt_id.into(),
            frontier.into(),
            (lsn as i64).into(),
            generation.into(),
            at.into(),
            loaded.fingerprint.into(),
            if loaded.program.is_differential() { "DIFFERENTIAL" } else { "FULL" }.into(),
            loaded.full_reason.clone().into(),
        ],
    );
    Ok(())
}
