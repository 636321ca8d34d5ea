//! What the event triggers of `sql/definitions.sql` cannot ask in SQL.

use pgrx::prelude::*;

/// What a table inherited from before the current command dropped it.
#[pg_extern(name = "_parents_before_drop")]
fn parents_before_drop(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    pgtrickle_pg::inherit::parents_before_drop(relid.to_u32()).into_iter().map(pg_sys::Oid::from).collect()
}
