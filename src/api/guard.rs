//! A stream table's rows and columns are the extension's to change; its owner, name, indexes, grants, triggers are the user's.

use super::replace::columns;
use crate::catalog;
use crate::error::Error;
use crate::refresh::{fill, ours, program};
use pgrx::WhoAllocated;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName, Sql};
use pgtrickle_pg::{class, depend, table};
use std::ffi::CStr;

/// The name of the trigger on each stream table.
pub const NAME: &CStr = c"pgtrickle_guard";

/// That trigger: a statement that is not a refresh's may not change its rows.
#[pg_trigger]
fn _guard<'a>(trigger: &'a PgTrigger<'a>) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    if !ours::fired(trigger.relid()?.to_u32()) {
        let name = format!("{}.{}", trigger.table_schema()?, trigger.table_name()?);
        Error::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("cannot change rows of stream table {name}"))
            .detail("Its rows are those of its query.")
            .hint("Change the tables that it reads.")
            .raise()
    }
    Ok(None::<PgHeapTuple<'a, pgrx::AllocatedByRust>>)
}

/// The statement that sets the guard.
pub fn set(table: &QualifiedName) -> Sql {
    sql!(
        "CREATE OR REPLACE TRIGGER pgtrickle_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}
             FOR EACH STATEMENT EXECUTE FUNCTION pgtrickle._guard()",
        table
    )
}

/// When somebody's command drops a trigger of ours that is needed, calls it otherwise, or puts another in its place.
#[pg_extern(name = "_own_trigger_gone")]
fn own_trigger_gone(trigger: &str, relid: pg_sys::Oid) {
    // A partition's trigger may be that of its table.
    if [relid, table::partition_root(relid)].iter().any(|part| ours::working_on(part.to_u32())) {
        return;
    }
    let table = table::Relation::describe(relid);
    Error::new(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("cannot drop, rename or replace trigger {trigger} on table {}.{}", table.schema, table.name),
    )
    .detail("Stream tables would no longer be what their queries say.")
    .hint("The trigger goes with the stream tables that need it; another refresh_mode than IMMEDIATE needs none on their sources.")
    .raise()
}

/// After ALTER TABLE on a stream table: its columns must be those of its query, what belongs to it follows its owner and name.
#[pg_extern(name = "_stream_table_altered")]
fn stream_table_altered(pgt_id: i64) {
    let Some(st) = catalog::by_id(pgt_id).filter(|st| !st.restored) else { return };
    let Ok(view) = program::view_oid(pgt_id) else { return };
    if !ours::working_on(st.relid) && columns(st.relid) != columns(view) {
        Error::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("cannot change columns of stream table {}", st.label()),
        )
        .detail("Its columns are those of its query.")
        .hint("SELECT pgtrickle.alter_stream_table(name, query => …) changes the query.")
        .raise()
    }
    let _owner = catalog::as_owner();
    if class::owner(view) != Some(st.owner) {
        let role = fill::role_name(st.owner);
        fill::ddl(&sql!("ALTER VIEW {} OWNER TO {}", program::definition_view(pgt_id), role));
        for name in fill::state_tables(pgt_id) {
            let table = QualifiedName { schema: Ident::new("pgtrickle_changes"), name: Ident::new(name) };
            fill::ddl(&sql!("ALTER TABLE {} OWNER TO {}", table, role));
        }
    }
    note_name(&st);
}

/// Before a stream table is rewritten: values could be others afterwards, and a refresh that has taken its snapshot sees no
/// row any more. (VACUUM FULL and CLUSTER are no such rewrites.)
#[pg_extern(name = "_stream_table_rewritten")]
fn stream_table_rewritten(pgt_id: i64) {
    let Some(st) = catalog::by_id(pgt_id).filter(|st| !ours::working_on(st.relid)) else { return };
    Error::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("cannot rewrite stream table {}", st.label()))
        .detail("Its rows are those of its query.")
        .hint("Drop it and create it anew as it shall be.")
        .raise()
}

fn note_name(st: &catalog::StreamTable) {
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET pgt_schema = $2, pgt_name = $3
          WHERE pgt_id = $1 AND (pgt_schema, pgt_name) <> ($2, $3)",
        &[st.pgt_id.into(), st.schema.as_str().into(), st.name.as_str().into()],
    );
    catalog::changed();
}

/// After ALTER SCHEMA: programs that name its tables are made anew.
#[pg_extern(name = "_schema_altered")]
fn schema_altered(schema: pg_sys::Oid) {
    for st in catalog::all() {
        let concerned = std::iter::once(st.relid).chain(st.sources.iter().map(|s| s.relid));
        for relid in concerned.filter(|&relid| class::namespace(relid) == Some(schema.to_u32())) {
            depend::invalidate(relid);
        }
        note_name(&st);
    }
}

/// Sets the guard of a stream table that came without, from a dump or an older version.
pub fn ensure(st: &catalog::StreamTable) {
    let _owner = catalog::as_owner();
    fill::ddl(&set(&QualifiedName::new(&st.schema, &st.name)));
}
