//! Functions of PostgreSQL that pgrx leaves out, made by `build.rs` from the installed headers.
//! Those at the top level are guarded (an error becomes a panic); those in [`raw`] are the plain symbols.
#![allow(
    non_snake_case,
    non_upper_case_globals,
    non_camel_case_types,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments
)]

use pgrx::pg_sys::*;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// Unguarded: to be handed to PostgreSQL as function pointers, or called where they cannot raise an error, or within a guard over
/// frames without destructors.
pub mod raw {
    use pgrx::pg_sys::*;

    // The headers' name; pgrx has a module of that name with the values in it.
    type ProcessUtilityContext = pgrx::pg_sys::ProcessUtilityContext::Type;
    type ScanDirection = pgrx::pg_sys::ScanDirection::Type;

    include!(concat!(env!("OUT_DIR"), "/raw.rs"));
}
