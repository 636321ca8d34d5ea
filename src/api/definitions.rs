//! What the event triggers of `sql/definitions.sql` cannot ask in SQL.

use crate::catalog;
use pgrx::prelude::*;

/// What a table inherited from before the current command dropped it.
#[pg_extern(name = "_parents_before_drop")]
fn parents_before_drop(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    pgtrickle_pg::inherit::parents_before_drop(relid.to_u32()).into_iter().map(pg_sys::Oid::from).collect()
}

/// Has stream tables recomputed that read columns of an enum type, whose labels may have been renamed: their text may be
/// in the results.
#[pg_extern(name = "_enum_changed")]
fn enum_changed(enum_type: pg_sys::Oid) {
    catalog::execute(
        "UPDATE pgtrickle.pgt_stream_tables SET needs_reinit = true
          WHERE pgt_id IN (SELECT d.pgt_id
                             FROM pgtrickle.pgt_dependencies d
                             JOIN pg_catalog.pg_attribute a ON a.attrelid = d.source_relid
                             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                            WHERE $1 IN (t.oid, t.typelem, t.typbasetype))",
        &[enum_type.into()],
    );
    catalog::changed();
}
