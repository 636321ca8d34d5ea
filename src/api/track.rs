//! Starting, widening and ending the capture of a source table.

use crate::error::{Error, Result};
use crate::refresh::fill::ddl;
use crate::refresh::lock_all;
use crate::refresh::sources::buffer_of;
use crate::{catalog, settings};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::depend;
use std::cell::Cell;

/// A live column: its number, its name, and its type, which is that beneath a domain.
struct Column {
    attnum: i16,
    name: String,
    definition: Sql,
}

/// What the catalog says of a table that is to be captured.
struct Source {
    name: QualifiedName,
    kind: String,
    /// The live columns.
    columns: Vec<Column>,
    /// Tables whose replica identity matters (itself, or itself and its partitions): those where it is FULL, and the others.
    full: Vec<QualifiedName>,
    not_full: Vec<QualifiedName>,
    identity: i8,
}

/// Columns of a buffer in front of those that are captured.
const PREFIX: usize = 4;

/// An error if replica identities are left to the user.
pub fn may_set_identity(table: &QualifiedName) -> Result<()> {
    if settings::MANAGE_REPLICA_IDENTITY.get() {
        return Ok(());
    }
    Err(Error::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {table} needs REPLICA IDENTITY FULL to be the source of a stream table"),
    )
    .hint(format!("ALTER TABLE {table} REPLICA IDENTITY FULL, or set pg_trickle.manage_replica_identity = on.")))
}

fn buffer(relid: u32) -> QualifiedName {
    QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(format!("changes_{relid}")) }
}

fn segment(relid: u32, number: u32) -> QualifiedName {
    QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(format!("changes_{relid}_{number}")) }
}

/// Starts the capture of columns of a table, or adds columns to it. The effect begins with the commit.
pub fn track(relid: u32, columns: &[i16]) -> Result<()> {
    let _owner = catalog::as_owner();
    let source = Source::read(relid)?;
    let known = catalog::tracking(&[relid]).pop();
    let mut captured = known.as_ref().map(|t| t.columns.clone()).unwrap_or_default();
    captured.retain(|&c| source.column(c).is_some());
    captured.extend(columns.iter().filter(|c| !captured.contains(c)).copied().collect::<Vec<_>>());
    source.set_identity_full()?;
    if known.is_none() {
        create_buffer(relid, &source.definitions(&captured));
        catalog::execute(
            "INSERT INTO pgtrickle.pgt_change_tracking (source_relid, slot_name, columns, replica_identity)
             SELECT $1, 'pg_trickle_' || oid, $2, $3 FROM pg_catalog.pg_database WHERE datname = current_database()",
            &[pg_sys::Oid::from(relid).into(), captured.into(), source.identity.into()],
        );
    } else {
        let mut retyped = false;
        if let Some(buffer) = buffer_of(relid) {
            (captured, retyped) = source.alter_buffer(relid, buffer.relid, captured);
        } else {
            create_buffer(relid, &source.definitions(&captured));
        }
        // Rows on their way that are of the type that a column had are told to be missing.
        catalog::execute(
            "UPDATE pgtrickle.pgt_change_tracking
                SET columns = $2, state = CASE WHEN state = 'ACTIVE' AND NOT $3 THEN 'ACTIVE' ELSE 'RESUMING' END,
                    tracked_at = CASE WHEN state = 'ACTIVE' AND NOT $3 THEN tracked_at ELSE clock_timestamp() END,
                    slot_name = 'pg_trickle_' || (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
              WHERE source_relid = $1",
            &[pg_sys::Oid::from(relid).into(), captured.into(), retyped.into()],
        );
    }
    depend::invalidate(relid);
    Ok(())
}

/// Whether all changes of the table carry the old rows.
pub fn has_full_identity(relid: u32) -> bool {
    Source::read(relid).is_ok_and(|source| source.not_full.is_empty())
}

/// Whether capture of the table has begun again but is not yet complete.
pub fn is_resuming(relid: u32) -> bool {
    catalog::tracking(&[relid]).pop().is_some_and(|t| t.degraded.is_some())
}

/// Ends the time in which capture was incomplete: whoever may have written without being captured has ended. What was
/// missed is made up for by recomputing.
pub fn resume(relid: u32) {
    let source = pg_sys::Oid::from(relid);
    catalog::execute(
        "UPDATE pgtrickle.pgt_change_tracking SET state = 'ACTIVE', detail = NULL
          WHERE source_relid = $1 AND state = 'RESUMING'",
        &[source.into()],
    );
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
          WHERE pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_dependencies WHERE source_relid = $1)",
        &[source.into()],
    );
    depend::invalidate(relid);
    catalog::changed();
}

/// Makes the buffer into which refreshes of a stream table write its changes for its readers.
pub fn create_parent_buffer(relid: u32) -> Result<()> {
    if buffer_of(relid).is_none() {
        // Whoever changes the stream table before we commit would not see the buffer, and tell its changes to nobody.
        lock_all(&catalog::by_relid(relid).map_or_else(Vec::new, |parent| vec![parent.pgt_id]));
        let _owner = catalog::as_owner();
        let source = Source::read(relid)?;
        let all: Vec<i16> = source.columns.iter().map(|c| c.attnum).collect();
        create_buffer(relid, &source.definitions(&all));
    }
    Ok(())
}

fn create_buffer(relid: u32, columns: &[(Ident, Sql)]) {
    let definitions = columns.iter().map(|(name, definition)| sql!(", {} {}", name, definition));
    ddl(&sql!(
        "CREATE TABLE {} (xid xid8 NOT NULL, lsn pg_lsn NOT NULL, seq bigint NOT NULL, w bigint NOT NULL{}) USING heap",
        buffer(relid),
        Sql::join("", definitions)
    ));
    for number in 0..crate::refresh::sources::SEGMENTS {
        // Rows are appended once, read a few times and truncated, so vacuum has nothing to do here.
        ddl(&sql!(
            "CREATE TABLE {} () INHERITS ({}) USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)",
            segment(relid, number),
            buffer(relid)
        ));
    }
    // The name is made of an OID, which means something else in a restored database: buffers are not dumped.
    let made = buffer_of(relid).into_iter().flat_map(|b| b.segments.into_iter().chain([b.relid]));
    made.for_each(depend::join_extension);
}

thread_local! {
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// While the extension drops a buffer itself.
struct Dropping;

impl Dropping {
    fn begin() -> Dropping {
        DROPPING.set(true);
        Dropping
    }
}

impl Drop for Dropping {
    fn drop(&mut self) {
        DROPPING.set(false);
    }
}

/// Drops the change buffer of a source, if there is one.
pub fn drop_buffer(relid: u32) {
    if let Some(parts) = buffer_of(relid) {
        let _dropping = Dropping::begin();
        parts.segments.into_iter().chain([parts.relid]).for_each(depend::leave_extension);
        ddl(&sql!("DROP TABLE {} CASCADE", buffer(relid)));
    }
}

/// Somebody drops the buffer of a source that stream tables read.
#[pg_extern(name = "_buffer_gone")]
fn buffer_gone(source: &str, buffer: &str) {
    if !DROPPING.get() {
        Error::new(
            PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot drop table pgtrickle_changes.{buffer} because stream tables need it"),
        )
        .detail(format!("It holds the changes of {source}."))
        .hint("It goes by itself once no stream table reads that table any more.")
        .raise();
    }
}

/// Ends the capture of a source that no stream table reads any more, and puts its replica identity back.
pub fn untrack(relid: u32) {
    let identity: Option<String> = catalog::write(|client| {
        client
            .update(
                "DELETE FROM pgtrickle.pgt_change_tracking WHERE source_relid = $1 RETURNING replica_identity::text",
                Some(1),
                &[pg_sys::Oid::from(relid).into()],
            )
            .unwrap_or_report()
            .first()
            .get_one::<String>()
            .unwrap_or(None)
    });
    let _owner = catalog::as_owner();
    drop_buffer(relid);
    if let Some(identity) = identity {
        put_identity_back(relid, &identity);
    }
}

/// Gives a table, and its partitions, the replica identity that it had before it was captured.
pub fn put_identity_back(relid: u32, identity: &str) {
    let Ok(source) = Source::read(relid) else { return };
    let before = match identity {
        "d" => "DEFAULT",
        "n" => "NOTHING",
        // FULL it was, or by an index, which PostgreSQL remembers no longer.
        _ => return,
    };
    for table in &source.full {
        ddl(&sql!("ALTER TABLE {} REPLICA IDENTITY {}", table, before));
    }
    depend::invalidate(relid);
}

/// The live columns of a table.
fn columns(client: &SpiClient<'_>, oid: pg_sys::Oid) -> Vec<Column> {
    client
        .select(
            "SELECT a.attnum, a.attname::text,
                    pg_catalog.format_type(t.oid, base.typmod)
                    || CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
                            THEN pg_catalog.format(' COLLATE %I.%I', cn.nspname, co.collname) ELSE '' END
               FROM pg_catalog.pg_attribute a
              CROSS JOIN LATERAL (
                    WITH RECURSIVE types (oid, typmod) AS (
                        SELECT a.atttypid, a.atttypmod
                         UNION ALL
                        SELECT d.typbasetype, d.typtypmod FROM types JOIN pg_catalog.pg_type d ON d.oid = types.oid
                         WHERE d.typtype = 'd')
                    SELECT oid, typmod FROM types) AS base
               JOIN pg_catalog.pg_type t ON t.oid = base.oid AND t.typtype <> 'd'
               LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
               LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
              WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            None,
            &[oid.into()],
        )
        .unwrap_or_report()
        .map(|row| {
            let text = |i| row.get::<String>(i).unwrap_or_report().unwrap_or_default();
            let attnum = row.get::<i16>(1).unwrap_or_report().unwrap_or_default();
            Column { attnum, name: text(2), definition: Sql::deparsed(text(3)) }
        })
        .collect()
}

/// The tables whose replica identity matters for one of this kind: those that have FULL, and the others.
fn identities(client: &SpiClient<'_>, oid: pg_sys::Oid, kind: &str) -> (Vec<QualifiedName>, Vec<QualifiedName>) {
    let (mut full, mut not_full) = (Vec::new(), Vec::new());
    client
        .select(
            "SELECT n.nspname::text, c.relname::text, c.relreplident = 'f'
               FROM (SELECT $1::oid AS relid WHERE $2 <> 'p'
                     UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree($1::regclass) WHERE $2 = 'p') t
               JOIN pg_catalog.pg_class c ON c.oid = t.relid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p')",
            None,
            &[oid.into(), kind.into()],
        )
        .unwrap_or_report()
        .for_each(|row| {
            let part = |i| row.get::<String>(i).unwrap_or_report().unwrap_or_default();
            let name = QualifiedName { schema: Ident::new(part(1)), name: Ident::new(part(2)) };
            if row.get(3).unwrap_or_report().unwrap_or(false) { full.push(name) } else { not_full.push(name) }
        });
    (full, not_full)
}

impl Source {
    fn read(relid: u32) -> Result<Source> {
        let oid = pg_sys::Oid::from(relid);
        Spi::connect(|client| {
            let class = client
                .select(
                    "SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relreplident
                       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                      WHERE c.oid = $1",
                    Some(1),
                    &[oid.into()],
                )
                .unwrap_or_report()
                .first();
            if class.is_empty() {
                return Err(Error::new(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                    format!("there is no table with OID {relid}"),
                ));
            }
            let text = |i| class.get::<String>(i).unwrap_or_report().unwrap_or_default();
            let kind = text(3);
            let (full, not_full) = identities(client, oid, &kind);
            Ok(Source {
                name: QualifiedName { schema: Ident::new(text(1)), name: Ident::new(text(2)) },
                kind,
                columns: columns(client, oid),
                full,
                not_full,
                identity: class.get::<i8>(4).unwrap_or_report().unwrap_or_default(),
            })
        })
    }

    fn column(&self, attnum: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    /// Names and types of buffer columns.
    fn definitions(&self, attnums: &[i16]) -> Vec<(Ident, Sql)> {
        let definition = |&attnum: &i16| {
            self.column(attnum).map(|column| (Ident::new(format!("c{attnum}")), column.definition.clone()))
        };
        attnums.iter().filter_map(definition).collect()
    }

    /// Gives a buffer columns of these numbers. Those of columns that were dropped, or have another type now, go first. Says what
    /// the order is, and whether there was one of another type.
    fn alter_buffer(&self, relid: u32, buffer_relid: u32, attnums: Vec<i16>) -> (Vec<i16>, bool) {
        let there = Spi::connect(|client| columns(client, pg_sys::Oid::from(buffer_relid)));
        let named = |attnum: i16| there.iter().skip(PREFIX).find(|c| c.name == format!("c{attnum}"));
        let same = |&attnum: &i16| {
            let (here, there) = (self.column(attnum), named(attnum));
            here.zip(there).is_some_and(|(here, there)| here.definition == there.definition)
        };
        let (mut kept, new): (Vec<i16>, Vec<i16>) = attnums.into_iter().partition(same);
        let stale = there.iter().skip(PREFIX).filter(|c| !kept.iter().any(|attnum| c.name == format!("c{attnum}")));
        for column in stale {
            ddl(&sql!("ALTER TABLE {} DROP COLUMN {}", buffer(relid), Ident::new(&column.name)));
        }
        for (name, definition) in self.definitions(&new) {
            ddl(&sql!("ALTER TABLE {} ADD COLUMN {} {}", buffer(relid), name, definition));
        }
        let retyped = new.iter().any(|&attnum| named(attnum).is_some());
        kept.extend(new);
        (kept, retyped)
    }

    /// Deletes must carry the old row.
    fn set_identity_full(&self) -> Result<()> {
        if self.not_full.is_empty() {
            return Ok(());
        }
        may_set_identity(&self.name)?;
        debug_assert!(matches!(self.kind.as_str(), "r" | "p"));
        for table in &self.not_full {
            ddl(&sql!("ALTER TABLE {} REPLICA IDENTITY FULL", table));
        }
        Ok(())
    }
}
