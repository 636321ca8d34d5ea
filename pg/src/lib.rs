//! The safe face of PostgreSQL: every `unsafe` of the project that is not an output-plugin callback lives here.

#![allow(clippy::wrong_self_convention, reason = "FROM is SQL's")]

// `pg_guard` on the extern blocks of `bindings` names this path.
use pgrx::pg_sys::ffi;

pub mod batch;
pub mod bindings;
pub mod calls;
mod casts;
pub mod class;
pub mod complete;
pub mod databases;
pub mod decoding;
pub mod deparse;
pub mod depend;
pub mod drops;
pub mod entry;
pub mod expr;
pub mod functions;
pub mod heap;
pub mod holes;
pub mod inherit;
pub mod inval;
mod json;
pub mod lock;
pub mod memory;
mod nodes;
pub mod on_commit;
pub mod origin;
pub mod place;
pub mod query;
pub mod records;
pub mod relation;
pub mod rowhash;
pub mod rows;
pub mod shmem;
pub mod slot;
pub mod snapshot;
pub mod spi;
pub mod staging;
pub mod statistics;
pub mod table;
pub mod transition;
pub mod tuple;
pub mod types;
pub mod utility;
pub mod wait;
pub mod wal;
pub mod window;
pub mod worker;
mod written;
pub mod xact;
