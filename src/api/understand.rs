//! What the functions that explain stand on, and the catalog of our errors.

use crate::catalog;
use crate::error::{Error, or_raise, sqlstate};
use pgrx::prelude::*;

/// The id of the stream table of this name; an error if there is none.
#[pg_extern(stable)]
fn _id_of(name: &str) -> i64 {
    or_raise(catalog::by_name(name)).pgt_id
}

/// Errors that pg_trickle itself raises: SQLSTATE, message, and what to do.
#[pg_extern(immutable)]
fn error_catalog() -> TableIterator<
    'static,
    (name!(sqlstate, String), name!(message, String), name!(detail, Option<String>), name!(hint, Option<String>)),
> {
    TableIterator::new(Error::examples().into_iter().map(|e| (sqlstate(e.code as i32), e.message, e.detail, e.hint)))
}
