//! `create_stream_table` and its variants.

use super::names::{self, Target};
use super::track;
use crate::analyze::{self, Analysis, Analyzed, Capture, Input, Source};
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, notice, or_raise};
use crate::refresh::{fill, pinned, program, sources};
use crate::shmem::{self, CaptureState};
use crate::workers::{self, tracker};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::Sql;
use pgtrickle_pg::snapshot::{self, Snapshot};
use pgtrickle_pg::spi::{LocalSettings, RunAs, current_role};
use pgtrickle_pg::{depend, lock, wait, wal, worker, xact};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// How long a creation waits for capture to start, before it goes on without.
const CAPTURE_START: Duration = Duration::from_secs(30);

/// Creates a stream table: a table that holds the result of `query` and follows the tables that it reads.
///
/// `schedule` is an interval ('0s' for as soon as changes arrive, '5s', '1h30m') or 'calculated'; `refresh_mode` is AUTO,
/// DIFFERENTIAL (an error when the query cannot be maintained by its changes) or FULL. Returns the stream table's id.
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

/// As [`create_stream_table`]; a stream table of that name is replaced unless it already is as asked for.
#[pg_extern]
fn create_or_replace_stream_table(
    name: &str,
    query: &str,
    schedule: default!(Option<&str>, "'calculated'"),
    refresh_mode: default!(&str, "'AUTO'"),
    initialize: default!(bool, true),
) -> i64 {
    let target = or_raise(names::resolve(name));
    if let Some(existing) = target.existing().and_then(catalog::by_relid) {
        let same = existing.query_hash == catalog::query_hash(query)
            && existing.schedule == schedule.unwrap_or("calculated")
            && existing.refresh_mode == refresh_mode.to_uppercase();
        if same {
            return existing.pgt_id;
        }
        or_raise(super::drop::drop_one(&existing, false));
    }
    or_raise(create(name, query, schedule, refresh_mode, initialize))
}

fn create(name: &str, query: &str, schedule: Option<&str>, mode: &str, initialize: bool) -> Result<i64> {
    super::require_server()?;
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
    let ready = start_capture(&first)?;
    hold_buffers(&first)?;
    let made = define(&target, query, &schedule, &mode)?;
    if initialize {
        populate(&made, ready)?;
    }
    catalog::changed();
    Ok(made.st.pgt_id)
}

/// Raises an error unless the caller may run the query: nothing is captured on behalf of who may not read it.
fn check_rights(query: &str) {
    let probe = sql!("SELECT FROM (\n{}\n) AS query LIMIT 0", Sql::deparsed(without_semicolon(query)));
    xact::undone(|| Spi::connect(|client| client.select(probe.as_str(), None, &[]).map(drop))).unwrap_or_report();
}

fn without_semicolon(query: &str) -> &str {
    query.trim_end().trim_end_matches(';')
}

fn check_mode(mode: &str, analysis: &Analysis) -> Result<()> {
    match &analysis.plan {
        Analyzed::Opaque { reason } if mode == "DIFFERENTIAL" => Err(Error::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "the query cannot be maintained differentially",
        )
        .detail(format!("It has to be recomputed at each refresh because {reason}."))
        .hint("Use refresh_mode => 'AUTO'.")),
        _ => Ok(()),
    }
}

/// Whether the first fill may store its snapshot as frontier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Yes,
    /// Capture did not start before this transaction's snapshots; the first refresh has to compare.
    No,
}

fn is_stream_table(source: &Source) -> bool {
    catalog::by_relid(source.relid.to_u32()).is_some()
}

/// Sees to it that the changes of all sources are captured, if possible from before now.
fn start_capture(analysis: &Analysis) -> Result<Ready> {
    let mut ready = Ready::Yes;
    for source in &analysis.sources {
        let relid = source.relid.to_u32();
        if is_stream_table(source) {
            track::create_parent_buffer(relid)?;
            continue;
        }
        if source.capture != Capture::Wal {
            continue;
        }
        let columns = if source.columns.is_empty() { catalog::live_attributes(relid) } else { source.columns.clone() };
        let known = catalog::tracking(&[relid]).pop();
        let covered = known.is_some_and(|t| t.degraded.is_none() && columns.iter().all(|c| t.columns.contains(c)));
        if covered && sources::buffer_of(relid).is_some() {
            continue;
        }
        let identity: Option<i8> =
            catalog::scalar("SELECT relreplident FROM pg_catalog.pg_class WHERE oid = $1", &[source.relid.into()]);
        if identity != Some(b'f' as i8) {
            // The tracker has settings of its own; the caller's count as well.
            track::may_set_identity(&source.name)?;
            notice(
                &format!("table {} gets REPLICA IDENTITY FULL", source.name),
                Some(
                    "Its changes are captured with their old rows; it is put back when no stream table reads the table any more.",
                ),
            );
        }
        // A worker cannot see a table that this transaction made, nor get past a lock that it holds.
        if super::locked_by_us(relid) || snapshot::current_xid().is_some() {
            track::track(relid, &columns)?;
            ready = Ready::No;
        } else {
            tracker::start_capture(relid, &columns)?;
        }
    }
    if ready == Ready::Yes && analysis.sources.iter().any(|s| s.capture == Capture::Wal) {
        ready = wait_until_running();
    }
    Ok(ready)
}

/// Changes are captured for certain only from when the slot exists.
fn wait_until_running() -> Ready {
    let begun = Instant::now();
    loop {
        let state = shmem::my_db().map_or(CaptureState::None, |db| db.capture_state());
        if state == CaptureState::Running {
            return Ready::Yes;
        }
        // Our own transaction id would keep the slot from being created.
        if begun.elapsed() > CAPTURE_START || snapshot::current_xid().is_some() || state == CaptureState::Failing {
            notice(
                "change capture is not running yet",
                Some("The stream table is filled now; its first refresh compares it with its query."),
            );
            return Ready::No;
        }
        wait::sleep(Duration::from_millis(10));
        pgrx::check_for_interrupts!();
    }
}

/// Keeps the sources' buffers, and what is in them from now on, until we commit.
fn hold_buffers(analysis: &Analysis) -> Result<()> {
    for source in analysis.sources.iter().filter(|s| s.capture == Capture::Wal || is_stream_table(s)) {
        let buffer = sources::buffer_of(source.relid.to_u32());
        let held = buffer.is_some_and(|b| b.segments.iter().chain([&b.relid]).all(|&relid| lock::access_share(relid)));
        if !held {
            return Err(Error::new(
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("capture of table {} ended while the stream table was being created", source.name),
            )
            .hint("Try again."));
        }
    }
    Ok(())
}

/// What [`define`] made.
struct Made {
    st: StreamTable,
    loaded: program::Loaded,
    bases: Vec<u32>,
}

/// Creates view, table, state tables and catalog rows.
fn define(target: &Target, query: &str, schedule: &str, mode: &str) -> Result<Made> {
    let owner = current_role();
    let pgt_id = catalog::next_id();
    let view = program::definition_view(pgt_id);
    create_view(pgt_id, query, owner);
    fill::ddl(&sql!("CREATE TABLE {} AS SELECT * FROM {} WITH NO DATA", target.name, view));
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

/// The definition view: PostgreSQL itself then follows renames and keeps columns that are used from being dropped.
fn create_view(pgt_id: i64, query: &str, owner: u32) {
    let path = super::resolved_search_path();
    let path = CString::new(path).unwrap_or_default();
    // Names mean what they mean to the caller, but only the extension's owner may create in its schema.
    let _path = LocalSettings::new(&[(c"search_path", &path)]);
    let role = fill::role_name(owner);
    let _owner = RunAs::role(catalog::extension_owner());
    let view = program::definition_view(pgt_id);
    fill::ddl(&sql!("CREATE VIEW {} AS {}", view, Sql::deparsed(without_semicolon(query))));
    fill::ddl(&sql!("ALTER VIEW {} OWNER TO {}", view, role));
}

fn insert_rows(pgt_id: i64, relid: u32, target: &Target, query: &str, schedule: &str, mode: &str, analysis: &Analysis) {
    let effective =
        if matches!(analysis.plan, Analyzed::Differential(_)) && mode != "FULL" { "DIFFERENTIAL" } else { "FULL" };
    catalog::execute(
        "INSERT INTO pgtrickle.pgt_stream_tables (pgt_id, pgt_relid, pgt_schema, pgt_name, defining_query,
             defining_query_hash, schedule, refresh_mode, effective_refresh_mode, time_dependent, settings)
         VALUES ($1, $2, $3, $4, $5, pg_catalog.hashtextextended($5, 0), $6, $7, $8, $9, $10)",
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
fn populate(made: &Made, ready: Ready) -> Result<()> {
    let Made { st, loaded, bases } = made;
    for &base in bases {
        if ready == Ready::Yes {
            // Whoever was writing before capture began may have left no old rows in the WAL.
            lock::wait_for_writers(base);
        }
    }
    // As in a refresh: read before the snapshot.
    let generation = catalog::generation();
    let own_changes = bases.iter().any(|&base| super::changed_by_us(base));
    let snapshot = Snapshot::latest();
    let visible = snapshot.xids();
    let lsn = snapshot::insert_lsn();
    let at = worker::now_us();
    fill::fill(st, loaded, &snapshot)?;
    if let Some(index) = loaded.program.identity_index() {
        fill::ddl(&index);
    }
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
