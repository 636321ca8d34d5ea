//! The catalog of stream tables: reading and writing `pgtrickle.pgt_*`.

mod stored;

pub use stored::{
    all, by_id, by_relid, generation, immediate, immediate_columns, last_change, row_versions, tracking, with_ids,
};

use crate::error::{Error, Result};
use crate::refresh::pinned;
use crate::shmem;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, datum::DatumWithOid, spi};
use pgtrickle_pg::class;
use pgtrickle_pg::snapshot::{Snapshot, XidSet};
use pgtrickle_pg::spi::{LocalSettings, RunAs};

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
