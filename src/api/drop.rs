//! `drop_stream_table`, and tidying up after any DROP that takes a stream table along.

use super::track;
use crate::catalog::{self, StreamTable};
use crate::error::{Error, Result, or_raise};
use crate::immediate::triggers;
use crate::refresh::fill::{ddl, drop_state};
use crate::refresh::program;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgtrickle_engine::sql;
use pgtrickle_engine::sql::QualifiedName;
use pgtrickle_pg::drops::Dropped;
use pgtrickle_pg::{before_drop_function, depend};

/// Drops a stream table. With `cascade`, also what depends on it, other stream tables included.
#[pg_extern]
fn drop_stream_table(name: &str, cascade: default!(bool, false)) {
    let st = or_raise(super::to_change(name));
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
        "DELETE FROM pgtrickle.pgt_stream_tables WHERE pgt_id = $1 RETURNING pgt_relid::oid",
        &[pgt_id.into()],
    );
    drop_state(pgt_id);
    if program::view_oid(pgt_id).is_ok() {
        ddl(&sql!("DROP VIEW {}", program::definition_view(pgt_id)));
    }
    if let Some(relid) = relid {
        track::drop_buffer(relid.to_u32());
    }
    catalog::changed();
}

before_drop_function!(pgtrickle_before_drop, pg_finfo_pgtrickle_before_drop, before_drop);

/// Once the extension is gone nobody knows any more how its sources were before. If the command fails, so does what is done
/// here. It is for who may drop the extension: others cannot succeed.
fn before_drop(dropped: Dropped) {
    let drops_extension = match dropped {
        Dropped::Extensions(names, cascade) => {
            names.iter().any(|name| name == "pg_trickle" || name == "plpgsql" && cascade)
        }
        Dropped::Schemas(names, cascade) => cascade && names.iter().any(|name| name == "pgtrickle"),
        Dropped::OwnedBy(roles) => roles.contains(&catalog::extension_owner()),
    };
    let allowed = || {
        catalog::scalar::<bool>(
            "SELECT pg_catalog.pg_has_role(extowner, 'USAGE') FROM pg_catalog.pg_extension WHERE extname = 'pg_trickle'",
            &[],
        )
    };
    if drops_extension && allowed() == Some(true) {
        release_tables();
    }
}

/// Prepares for the end of the extension: sources get the replica identity back that they had, and stream tables become
/// ordinary tables, without the views that define them.
fn release_tables() {
    let _owner = catalog::as_owner();
    for st in catalog::all() {
        if let Ok(view) = program::view_oid(st.pgt_id) {
            depend::release(st.relid, view);
            ddl(&sql!("DROP VIEW {}", program::definition_view(st.pgt_id)));
        }
    }
    triggers::remove_all();
    // Nothing that is triggered by what follows shall look for them.
    catalog::execute("DELETE FROM pgtrickle.pgt_stream_tables", &[]);
    let tracked: Vec<(pg_sys::Oid, String)> = Spi::connect(|client| {
        client
            // In a restored copy of a database the OIDs are those of other tables.
            .select(
                "SELECT t.source_relid::oid, t.replica_identity::text
                   FROM pgtrickle.pgt_change_tracking t JOIN pg_catalog.pg_database d ON t.slot_name = 'pg_trickle_' || d.oid
                  WHERE d.datname = current_database()",
                None,
                &[],
            )
            .unwrap_or_report()
            .filter_map(|row| Some((row.get(1).unwrap_or_report()?, row.get(2).unwrap_or_report()?)))
            .collect()
    });
    tracked.iter().for_each(|(relid, identity)| track::put_identity_back(relid.to_u32(), identity));
}
