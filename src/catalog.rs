//! The catalog of stream tables: reading and writing `pgtrickle.pgt_*`.

use crate::error::{Error, Result};
use crate::refresh::pinned;
use crate::shmem;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, datum::DatumWithOid, spi};
use pgtrickle_pg::class;
use pgtrickle_pg::snapshot::{Snapshot, XidSet};
use pgtrickle_pg::spi::{LocalSettings, RunAs};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// The snapshot that a stream table's contents correspond to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontier {
    /// Transactions whose changes are in the contents.
    pub visible: XidSet,
    /// End of WAL just before the snapshot was taken.
    pub lsn: u64,
    /// The transaction that stored the frontier; changes of parent stream tables made by it are in the contents.
    pub xid: u64,
}

impl Frontier {
    /// That of a stream table that has not been filled: nothing is known to be in it.
    pub const EMPTY: &'static Frontier = &Frontier { visible: XidSet::EMPTY, lsn: 0, xid: 0 };
}

/// What a source is, as `pgt_dependencies.source_type` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceType {
    /// An ordinary or partitioned table: changes are captured from the WAL.
    Table,
    /// Another stream table: its refreshes write its changes.
    StreamTable,
    /// One that is maintained at once: its changes are written by those who change what it reads.
    Immediate,
    /// Anything that leaves no changes behind; compared at each refresh.
    Other,
}

/// A relation that a stream table reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dependency {
    pub relid: u32,
    pub kind: SourceType,
}

/// A stream table as the catalog has it.
#[derive(Clone, Debug)]
pub struct StreamTable {
    pub pgt_id: i64,
    pub relid: u32,
    pub schema: String,
    pub name: String,
    pub query_hash: i64,
    pub schedule: String,
    /// The schedule's interval; None for 'calculated' and cron's.
    pub schedule_seconds: Option<f64>,
    /// Seconds since the snapshot of the last refresh was taken; None before the first.
    pub age_seconds: Option<f64>,
    pub refresh_mode: String,
    pub status: String,
    pub frontier: Option<Frontier>,
    pub generation: i64,
    pub fingerprint: i64,
    pub needs_reinit: bool,
    /// The result may change while the sources do not.
    pub time_dependent: bool,
    /// Settings under which the query is evaluated.
    pub settings: Vec<pinned::Setting>,
    /// The row came with a dump of another database and nothing of it is known here until it is repaired.
    pub restored: bool,
    /// It has been filled.
    pub is_populated: bool,
    pub owner: u32,
    pub sources: Vec<Dependency>,
    /// Which version of the catalog's row this is; see [`row_versions`].
    pub row_version: i64,
}

impl StreamTable {
    /// `schema.name` for messages.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Its counters in shared memory; None where there are none, or no place is left.
    pub fn counters(&self) -> Option<&'static shmem::StreamTableShared> {
        let dboid = pgtrickle_pg::spi::my_database_id();
        shmem::available().then(|| shmem::stream_table(dboid, self.pgt_id, &self.schema, &self.name)).flatten()
    }
}

/// The query for stream tables, with a condition.
macro_rules! select_stream_tables {
    ($condition:literal) => {
        concat!(
            "SELECT s.pgt_id, s.pgt_relid::oid, n.nspname::text, c.relname::text, s.defining_query_hash, s.schedule, s.refresh_mode,
                        s.status, s.frontier::text, (s.frontier_lsn - '0/0'::pg_lsn)::bigint, s.frontier_xid::text::bigint,
                        s.generation, s.program_fingerprint, s.needs_reinit, c.relowner,
                        array(SELECT d.source_relid::oid FROM pgtrickle.pgt_dependencies d WHERE d.pgt_id = s.pgt_id ORDER BY 1),
                        array(SELECT coalesce(p.refresh_mode, d.source_type)
                                FROM pgtrickle.pgt_dependencies d
                                LEFT JOIN pgtrickle.pgt_stream_tables p ON p.pgt_relid = d.source_relid AND p.refresh_mode = 'IMMEDIATE'
                               WHERE d.pgt_id = s.pgt_id ORDER BY d.source_relid),
                        CASE WHEN s.schedule <> 'calculated' AND s.schedule !~ '^(@[A-Za-z]|[-0-9*/,?]+\\s+[-0-9*/,?]+(\\s+\\S+){3})'
                             THEN extract(epoch FROM s.schedule::interval)::float8 END,
                        extract(epoch FROM clock_timestamp() - s.data_timestamp)::float8, s.time_dependent, s.settings,
                        s.home_relid <> s.pgt_relid, s.is_populated, s.xmin::text::bigint
                   FROM pgtrickle.pgt_stream_tables s
                   JOIN pg_catalog.pg_class c ON c.oid = s.pgt_relid
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ",
            $condition
        )
    };
}

fn read_row(row: &spi::SpiHeapTupleData<'_>) -> std::result::Result<StreamTable, spi::Error> {
    let text = |i| row.get::<String>(i).map(Option::unwrap_or_default);
    let number = |i| row.get::<i64>(i).map(Option::unwrap_or_default);
    let flag = |i| row.get::<bool>(i).map(Option::unwrap_or_default);
    let oid = |i| row.get::<pg_sys::Oid>(i).map(|o| o.map_or(0, |o| o.to_u32()));
    let frontier = match row.get::<String>(9)? {
        Some(snapshot) => Some(Frontier {
            visible: snapshot.parse().unwrap_or(XidSet::EMPTY),
            lsn: number(10)? as u64,
            xid: number(11)? as u64,
        }),
        None => None,
    };
    let relids = row.get::<Vec<pg_sys::Oid>>(16)?.unwrap_or_default();
    let kinds = row.get::<Vec<String>>(17)?.unwrap_or_default();
    let sources = relids
        .into_iter()
        .zip(kinds)
        .map(|(relid, kind)| Dependency {
            relid: relid.to_u32(),
            kind: match kind.as_str() {
                "TABLE" => SourceType::Table,
                "STREAM_TABLE" => SourceType::StreamTable,
                "IMMEDIATE" => SourceType::Immediate,
                _ => SourceType::Other,
            },
        })
        .collect();
    Ok(StreamTable {
        pgt_id: number(1)?,
        relid: oid(2)?,
        schema: text(3)?,
        name: text(4)?,
        query_hash: number(5)?,
        schedule: text(6)?,
        schedule_seconds: row.get::<f64>(18)?,
        age_seconds: row.get::<f64>(19)?,
        refresh_mode: text(7)?,
        status: text(8)?,
        frontier,
        generation: number(12)?,
        fingerprint: number(13)?,
        needs_reinit: flag(14)?,
        time_dependent: flag(20)?,
        settings: pinned::parse(&row.get::<Vec<String>>(21)?.unwrap_or_default()),
        restored: flag(22)?,
        is_populated: flag(23)?,
        owner: oid(15)?,
        sources,
        row_version: number(24)?,
    })
}

thread_local! {
    /// Queries that every refresh runs, planned once per process.
    static KEPT: RefCell<HashMap<&'static str, spi::OwnedPreparedStatement>> = RefCell::default();
}

/// Runs a query of one argument under the newest snapshot, as the statement that called us may have begun before the last
/// refresh ended.
fn select<T>(
    sql: &'static str,
    argument: DatumWithOid<'_>,
    read: impl Fn(&spi::SpiHeapTupleData<'_>) -> spi::Result<T>,
) -> Vec<T> {
    Snapshot::latest().active(|| select_here(sql, argument, read))
}

/// As [`select`], under the active snapshot.
fn select_here<T>(
    sql: &'static str,
    argument: DatumWithOid<'_>,
    read: impl Fn(&spi::SpiHeapTupleData<'_>) -> spi::Result<T>,
) -> Vec<T> {
    let _path = pinned_path();
    Spi::connect(|client| {
        let kept = KEPT.with_borrow_mut(|kept| kept.remove(sql));
        let plan = kept.unwrap_or_else(|| {
            let types = [PgOid::from(argument.oid())];
            client.prepare(sql, &types).unwrap_or_report().keep()
        });
        let rows = client.select(&plan, None, &[argument]).unwrap_or_report();
        let found = rows.map(|row| read(&row).unwrap_or_report()).collect();
        KEPT.with_borrow_mut(|kept| kept.insert(sql, plan));
        found
    })
}

/// Every stream table of this database, by id.
pub fn all() -> Vec<StreamTable> {
    select(select_stream_tables!("WHERE $1 ORDER BY s.pgt_id"), true.into(), read_row)
}

/// Those that are maintained at once, by id.
pub fn immediate() -> Vec<StreamTable> {
    select(select_stream_tables!("WHERE s.refresh_mode = 'IMMEDIATE' AND $1 ORDER BY s.pgt_id"), true.into(), read_row)
}

/// Their sources, and which columns of each any of them reads.
pub fn immediate_columns() -> HashMap<u32, BTreeSet<i16>> {
    let sql = "SELECT d.source_relid::oid, d.columns_used
                 FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_stream_tables s USING (pgt_id)
                WHERE s.refresh_mode = 'IMMEDIATE' AND $1";
    let rows = select(sql, true.into(), |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<Vec<i16>>(2)?)));
    let mut columns: HashMap<u32, BTreeSet<i16>> = HashMap::new();
    for (relid, numbers) in rows {
        columns.entry(relid.map_or(0, |r| r.to_u32())).or_default().extend(numbers.unwrap_or_default());
    }
    columns
}

/// The transaction that last changed what a stream table is made of that is maintained at once.
pub fn last_change(pgt_id: i64) -> Option<u64> {
    let sql = "SELECT xid::text::bigint FROM pgtrickle.pgt_immediate WHERE pgt_id = $1";
    select(sql, pgt_id.into(), |row| row.get::<i64>(1)).pop().flatten().map(|xid| xid as u64)
}

/// The stream table with this id.
pub fn by_id(pgt_id: i64) -> Option<StreamTable> {
    select(select_stream_tables!("WHERE s.pgt_id = $1"), pgt_id.into(), read_row).pop()
}

/// Which versions of these stream tables' rows the active snapshot shows: what wrote each last.
pub fn row_versions(pgt_ids: &[i64]) -> Vec<(i64, i64)> {
    let sql = "SELECT pgt_id, xmin::text::bigint FROM pgtrickle.pgt_stream_tables WHERE pgt_id = ANY ($1)";
    let number = |row: &spi::SpiHeapTupleData<'_>, i| row.get::<i64>(i).map(Option::unwrap_or_default);
    select_here(sql, pgt_ids.to_vec().into(), |row| Ok((number(row, 1)?, number(row, 2)?)))
}

/// The stream table stored in this relation.
pub fn by_relid(relid: u32) -> Option<StreamTable> {
    select(select_stream_tables!("WHERE s.pgt_relid = $1"), pg_sys::Oid::from(relid).into(), read_row).pop()
}

/// The stream table that a user names, by the search path.
pub fn by_name(name: &str) -> Result<StreamTable> {
    class::by_text(name).and_then(by_relid).ok_or_else(|| Error::no_such_stream_table(name))
}

/// The stream table that a user names, which the user must own.
pub fn by_name_owned(name: &str) -> Result<StreamTable> {
    let st = by_name(name)?;
    must_own(&st).map(|()| st)
}

/// An error unless the caller owns the stream table.
pub fn must_own(st: &StreamTable) -> Result<()> {
    match pgtrickle_pg::spi::owns_relation(st.relid, pgtrickle_pg::spi::current_role()) {
        true => Ok(()),
        false => Err(Error::not_owner(&st.label())),
    }
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
    let oids: Vec<pg_sys::Oid> = relids.iter().map(|&r| pg_sys::Oid::from(r)).collect();
    select(
        "SELECT source_relid::oid, columns, CASE WHEN state <> 'ACTIVE' THEN coalesce(detail, '') END
           FROM pgtrickle.pgt_change_tracking WHERE source_relid = ANY ($1)",
        oids.into(),
        |row| {
            Ok(Tracking {
                relid: row.get::<pg_sys::Oid>(1)?.map_or(0, |o| o.to_u32()),
                columns: row.get::<Vec<i16>>(2)?.unwrap_or_default(),
                degraded: row.get::<String>(3)?,
            })
        },
    )
}

/// The generation of capture as committed now; 0 while there is no slot. What commits after this call, in the same
/// generation, is captured.
pub fn generation() -> i64 {
    let sql = "SELECT coalesce(max(generation), 0) FROM pgtrickle.pgt_capture WHERE $1";
    select(sql, true.into(), |row| row.get::<i64>(1)).pop().flatten().unwrap_or_default()
}

/// Names mean PostgreSQL's own things, whatever the caller's search path says; statements of ours that run under it could
/// otherwise be made to call the caller's functions.
pub fn pinned_path() -> LocalSettings {
    LocalSettings::new(&[(c"search_path", c"pg_catalog, pg_temp"), (c"standard_conforming_strings", c"on")])
}

/// As long as it lives, statements run as the owner of the extension.
pub struct AsOwner {
    _role: RunAs,
    _path: LocalSettings,
}

/// Runs what follows as the owner of the extension, with a pinned search path.
pub fn as_owner() -> AsOwner {
    AsOwner { _role: RunAs::role(extension_owner()), _path: pinned_path() }
}

/// Runs statements that write the catalog, as the owner of the extension.
pub fn write<T>(work: impl FnOnce(&mut spi::SpiClient<'_>) -> T) -> T {
    let _owner = as_owner();
    Spi::connect_mut(work)
}

/// One statement that writes the catalog; returns the number of rows.
pub fn execute(sql: &'static str, args: &[DatumWithOid<'_>]) -> usize {
    write(|client| client.update(sql, None, args).unwrap_or_report().len())
}

/// OID of `pgtrickle.pgt_stream_tables`, the class of refresh locks.
pub fn relid() -> u32 {
    class::named(c"pgtrickle", "pgt_stream_tables").unwrap_or_else(|| {
        Error::new(Code::ERRCODE_UNDEFINED_OBJECT, "extension pg_trickle is not installed in this database")
            .hint("CREATE EXTENSION pg_trickle;")
            .raise()
    })
}

/// The role that owns the extension's catalog, and with it the buffers.
pub fn extension_owner() -> u32 {
    class::owner(relid()).unwrap_or_default()
}

/// A new stream table id. Ids that an earlier installation left views of are passed over.
pub fn next_id() -> i64 {
    let next = "SELECT nextval(pg_get_serial_sequence('pgtrickle.pgt_stream_tables', 'pgt_id'))";
    loop {
        let id = scalar(next, &[]).unwrap_or_default();
        if class::named(c"pgtrickle", &format!("def_{id}")).is_none() {
            return id;
        }
    }
}

/// The hash of a defining query, the same that the catalog's upgrade script computes.
pub fn query_hash(query: &str) -> i64 {
    scalar("SELECT pg_catalog.hashtextextended($1, 0)", &[query.into()]).unwrap_or_default()
}

/// Numbers of a relation's columns that are not dropped, ascending, as they are now: the statement may have a snapshot of
/// before another query was given to the stream table.
pub fn live_attributes(relid: u32) -> Vec<i16> {
    const LIVE: &str = "
        SELECT array(SELECT attnum FROM pg_catalog.pg_attribute
                      WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum)";
    Snapshot::latest().active(|| scalar(LIVE, &[pg_sys::Oid::from(relid).into()])).unwrap_or_default()
}

/// The one value that a query returns, run as the owner of the extension; None if it is NULL. It needs, and gives, this
/// transaction no id.
pub fn scalar<T: FromDatum + IntoDatum>(sql: &'static str, args: &[DatumWithOid<'_>]) -> Option<T> {
    let _owner = as_owner();
    Spi::connect(|client| one_value(client.select(sql, Some(1), args).unwrap_or_report()))
}

/// The one value that a statement with RETURNING returns; None if it is NULL or no row was written.
pub fn write_scalar<T: FromDatum + IntoDatum>(sql: &'static str, args: &[DatumWithOid<'_>]) -> Option<T> {
    write(|client| one_value(client.update(sql, Some(1), args).unwrap_or_report()))
}

fn one_value<T: FromDatum + IntoDatum>(rows: spi::SpiTupleTable<'_>) -> Option<T> {
    let row = rows.first();
    if row.is_empty() { None } else { row.get_one::<T>().unwrap_or_report() }
}

/// Whether transactions of this database wait for COMMIT PREPARED.
pub fn has_prepared() -> bool {
    scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts WHERE database = current_database())", &[])
        == Some(true)
}

/// The name of this database.
pub fn database_name() -> String {
    scalar("SELECT current_database()::text", &[]).unwrap_or_default()
}

/// Whether the extension is installed in this database.
pub fn installed() -> bool {
    class::named(c"pgtrickle", "pgt_stream_tables").is_some()
}

/// What it holds is in doubt: it is compared with its query, and so are its readers. They have been told differences only, and
/// the next one is of what it holds by then.
pub fn doubt(st: &StreamTable) {
    execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
          WHERE pgt_id = $1 OR pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source_relid = $2)",
        &[st.pgt_id.into(), pg_sys::Oid::from(st.relid).into()],
    );
}

/// Makes the scheduler read the catalog again once this transaction commits.
pub fn changed() {
    crate::workers::on_commit_reread_catalog();
}
