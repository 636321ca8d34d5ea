//! The trigger functions of stream tables that are maintained at once.

use crate::error::or_raise;
use crate::immediate;
use pgrx::WhoAllocated;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgtrickle_pg::transition::Firing;
use pgtrickle_pg::{class, depend};

/// On each source, before and after each statement.
#[pg_trigger]
fn _immediate<'a>(trigger: &'a PgTrigger<'a>) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    or_raise(immediate::fired(&Firing::of(trigger.trigger_data())));
    Ok(None::<PgHeapTuple<'a, pgrx::AllocatedByRust>>)
}

/// On the catalog: a row of a stream table that is, or was, maintained at once has changed, so every process looks again.
#[pg_trigger]
fn _immediate_changed<'a>(
    _trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    if let Some(relid) = class::named(c"pgtrickle", "pgt_immediate") {
        depend::invalidate(relid);
    }
    Ok(None::<PgHeapTuple<'a, pgrx::AllocatedByRust>>)
}
