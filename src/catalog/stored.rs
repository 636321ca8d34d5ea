//! Reading the catalog: what is committed now and what this transaction has written, whatever the caller's snapshot shows.
//! Every refresh does so several times.

use super::{Dependency, Frontier, SourceType, StreamTable};
use crate::refresh::pinned;
use crate::schedule;
use pgrx::pg_sys;
use pgtrickle_pg::rows::{Key, Row, Table, Values};
use pgtrickle_pg::snapshot::{Snapshot, XidSet};
use pgtrickle_pg::{class, types, worker};
use std::collections::{BTreeSet, HashMap};

const STREAM_TABLES: Table = Table {
    schema: c"pgtrickle",
    name: "pgt_stream_tables",
    columns: &[
        c"pgt_id",
        c"pgt_relid",
        c"schedule",
        c"refresh_mode",
        c"time_dependent",
        c"status",
        c"is_populated",
        c"frontier",
        c"frontier_lsn",
        c"frontier_xid",
        c"generation",
        c"data_timestamp",
        c"program_fingerprint",
        c"needs_reinit",
        c"defining_query_hash",
        c"settings",
        c"home_relid",
    ],
};

const DEPENDENCIES: Table = Table {
    schema: c"pgtrickle",
    name: "pgt_dependencies",
    columns: &[c"source_relid", c"source_type", c"columns_used"],
};

const TRACKING: Table = Table {
    schema: c"pgtrickle",
    name: "pgt_change_tracking",
    columns: &[c"source_relid", c"columns", c"state", c"detail"],
};

const CAPTURE: Table = Table { schema: c"pgtrickle", name: "pgt_capture", columns: &[c"generation"] };

const IMMEDIATE: Table = Table { schema: c"pgtrickle", name: "pgt_immediate", columns: &[c"xid"] };

/// The rows of stream tables with these ids.
pub fn with_ids(pgt_ids: &[i64]) -> Key<'_> {
    Key { index: "pgt_stream_tables_pkey", column: c"pgt_id", values: Values::Bigint(pgt_ids) }
}

fn stored_in(relid: &u32) -> Key<'_> {
    let values = Values::Oid(std::slice::from_ref(relid));
    Key { index: "pgt_stream_tables_pgt_relid_key", column: c"pgt_relid", values }
}

fn of_stream_table(pgt_id: &i64) -> Key<'_> {
    let values = Values::Bigint(std::slice::from_ref(pgt_id));
    Key { index: "pgt_dependencies_pkey", column: c"pgt_id", values }
}

fn oid(row: &Row<'_>, place: usize) -> u32 {
    row.get::<pg_sys::Oid>(place).map_or(0, |oid| oid.to_u32())
}

fn number(row: &Row<'_>, place: usize) -> i64 {
    row.get(place).unwrap_or_default()
}

fn text(row: &Row<'_>, place: usize) -> String {
    row.get(place).unwrap_or_default()
}

fn flag(row: &Row<'_>, place: usize) -> bool {
    row.get(place).unwrap_or_default()
}

/// The stream table of a row; None if its relation is gone.
fn stream_table(row: &Row<'_>) -> Option<StreamTable> {
    let (pgt_id, relid) = (number(row, 0), oid(row, 1));
    let named = class::named_as(relid)?;
    let schedule = text(row, 2);
    let interval = schedule != "calculated" && !schedule::is_cron(&schedule);
    let frontier = row.text(7).map(|snapshot| Frontier {
        visible: snapshot.parse().unwrap_or(XidSet::EMPTY),
        lsn: number(row, 8) as u64,
        xid: number(row, 9) as u64,
    });
    let taken_at: Option<i64> = row.get(11);
    Some(StreamTable {
        pgt_id,
        relid,
        schema: named.schema,
        name: named.name,
        owner: named.owner,
        schedule_seconds: interval.then(|| types::interval_seconds(&schedule)),
        schedule,
        age_seconds: taken_at.map(|at| (worker::now_us() - at) as f64 / 1e6),
        refresh_mode: text(row, 3),
        time_dependent: flag(row, 4),
        status: text(row, 5),
        is_populated: flag(row, 6),
        frontier,
        generation: number(row, 10),
        fingerprint: number(row, 12),
        needs_reinit: flag(row, 13),
        query_hash: number(row, 14),
        settings: pinned::parse(&row.get::<Vec<String>>(15).unwrap_or_default()),
        restored: oid(row, 16) != relid,
        sources: sources(pgt_id),
        row_version: i64::from(row.xmin()),
    })
}

/// What a stream table reads, by OID.
fn sources(pgt_id: i64) -> Vec<Dependency> {
    let dependency = |row: &Row<'_>| {
        let relid = oid(row, 0);
        let kind = match text(row, 1).as_str() {
            "TABLE" => SourceType::Table,
            "STREAM_TABLE" if is_immediate(relid) => SourceType::Immediate,
            "STREAM_TABLE" => SourceType::StreamTable,
            _ => SourceType::Other,
        };
        Dependency { relid, kind }
    };
    let mut sources = DEPENDENCIES.read_here(Some(&of_stream_table(&pgt_id)), dependency);
    sources.sort_unstable_by_key(|source| source.relid);
    sources
}

fn is_immediate(relid: u32) -> bool {
    STREAM_TABLES.read_here(Some(&stored_in(&relid)), |row| text(row, 3) == "IMMEDIATE").contains(&true)
}

/// By id.
fn stream_tables(key: Option<&Key>) -> Vec<StreamTable> {
    // Names and owners are those of committed definitions, too.
    class::accept_changes();
    let found = Snapshot::latest().active(|| STREAM_TABLES.read_here(key, stream_table));
    let mut found: Vec<StreamTable> = found.into_iter().flatten().collect();
    found.sort_unstable_by_key(|st| st.pgt_id);
    found
}

/// Every stream table of this database, by id.
pub fn all() -> Vec<StreamTable> {
    stream_tables(None)
}

/// Those that are maintained at once, by id.
pub fn immediate() -> Vec<StreamTable> {
    let mut all = all();
    all.retain(StreamTable::is_immediate);
    all
}

/// Their sources, and which columns of each any of them reads.
pub fn immediate_columns() -> HashMap<u32, BTreeSet<i16>> {
    let mut columns: HashMap<u32, BTreeSet<i16>> = HashMap::new();
    for st in immediate() {
        let read = DEPENDENCIES.read(Some(&of_stream_table(&st.pgt_id)), |row| (oid(row, 0), row.get::<Vec<i16>>(2)));
        for (relid, numbers) in read {
            columns.entry(relid).or_default().extend(numbers.unwrap_or_default());
        }
    }
    columns
}

/// The transaction that last changed what a stream table is made of that is maintained at once.
pub fn last_change(pgt_id: i64) -> Option<u64> {
    let key = Key { index: "pgt_immediate_pkey", column: c"pgt_id", values: Values::Bigint(&[pgt_id]) };
    IMMEDIATE.read(Some(&key), |row| row.get::<i64>(0)).pop().flatten().map(|xid| xid as u64)
}

/// The stream table with this id.
pub fn by_id(pgt_id: i64) -> Option<StreamTable> {
    stream_tables(Some(&with_ids(&[pgt_id]))).pop()
}

/// The stream table stored in this relation.
pub fn by_relid(relid: u32) -> Option<StreamTable> {
    stream_tables(Some(&stored_in(&relid))).pop()
}

/// Which versions of these stream tables' rows the active snapshot shows: what wrote each last.
pub fn row_versions(pgt_ids: &[i64]) -> Vec<(i64, i64)> {
    let version = |row: &Row<'_>| (number(row, 0), i64::from(row.xmin()));
    STREAM_TABLES.read_here(Some(&with_ids(pgt_ids)), version)
}

/// How capture of one source stands.
#[derive(Clone, Debug)]
pub struct Tracking {
    pub relid: u32,
    pub columns: Vec<i16>,
    pub degraded: Option<String>,
}

/// The tracking rows of these sources, as committed now.
pub fn tracking(relids: &[u32]) -> Vec<Tracking> {
    let tracking = |row: &Row<'_>| Tracking {
        relid: oid(row, 0),
        columns: row.get(1).unwrap_or_default(),
        degraded: (text(row, 2) != "ACTIVE").then(|| text(row, 3)),
    };
    let key = Key { index: "pgt_change_tracking_pkey", column: c"source_relid", values: Values::Oid(relids) };
    TRACKING.read(Some(&key), tracking)
}

/// The generation of capture as committed now; 0 while there is no slot. What commits after this call, in the same
/// generation, is captured.
pub fn generation() -> i64 {
    CAPTURE.read(None, |row| number(row, 0)).into_iter().max().unwrap_or_default()
}
