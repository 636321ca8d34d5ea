//! `drop_stream_table`, and tidying up after any DROP that takes a stream table along.

use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::refresh::fill::{ddl, drop_state};
use crate::refresh::{program, sources};
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::{Ident, QualifiedName};

/// Drops a stream table. With `cascade`, also what depends on it, other stream tables included.
#[pg_extern]
fn drop_stream_table(name: &str, cascade: default!(bool, false)) {
    let st = or_raise(catalog::by_name_owned(name));
    or_raise(drop_one(&st, cascade));
}

/// Drops a stream table with the rights of the caller.
pub fn drop_one(st: &StreamTable, cascade: bool) -> Result<()> {
    if !pgtrickle_pg::spi::owns_relation(st.relid, pgtrickle_pg::spi::current_role()) {
        return Err(Error::not_owner(&st.label()));
    }
    let table = QualifiedName::new(&st.schema, &st.name);
    ddl(&match cascade {
        true => sql!("DROP TABLE {} CASCADE", table),
        false => sql!("DROP TABLE {}", table),
    });
    Ok(())
}

/// Removes all that belonged to a stream table whose table is gone. Called by the event trigger on drops.
#[pg_extern(name = "_forget")]
fn forget(pgt_id: i64) {
    let relid: Option<pg_sys::Oid> = catalog::write_scalar(
        "DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1 RETURNING pgt_relid",
        &[pgt_id.into()],
    );
    drop_state(pgt_id);
    if program::view_oid(pgt_id).is_ok() {
        ddl(&sql!("DROP VIEW {}", program::definition_view(pgt_id)));
    }
    if let Some(relid) = relid.filter(|relid| sources::buffer_of(relid.to_u32()).is_some()) {
        let buffer = QualifiedName {
            schema: Ident::new("pgtrickle_changes"),
            name: Ident::new(format!("changes_{}", relid.to_u32())),
        };
        ddl(&sql!("DROP TABLE {} CASCADE", buffer));
    }
    catalog::changed();
}
