//! Background workers: starting, signals, identity.

use pgrx::pg_sys;

/// Whether the server is loading `shared_preload_libraries` right now.
pub fn preloading() -> bool {
    // SAFETY: a plain variable of the postmaster.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}
