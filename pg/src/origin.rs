//! The replication origin under which the apply worker writes. Its progress commits with the rows, so it says exactly
//! what the buffers contain.

use pgrx::pg_sys;
use std::ffi::CStr;

/// An origin's id, None if it does not exist. In a transaction.
pub fn find(name: &CStr) -> Option<u16> {
    // SAFETY: the name is copied.
    match unsafe { pg_sys::replorigin_by_name(name.as_ptr().cast_mut(), true) } {
        0 => None,
        id => Some(id),
    }
}

/// Makes an origin. It can be used once the transaction has committed.
pub fn create(name: &CStr) -> u16 {
    // SAFETY: the name is copied.
    unsafe { pg_sys::replorigin_create(name.as_ptr().cast_mut()) }
}

/// Takes an origin's progress back to nothing. Nobody may be using it.
pub fn reset(id: u16) {
    // SAFETY: the origin exists; the change is logged before it is made.
    unsafe { pg_sys::replorigin_advance(id, 0, 0, true, true) }
}

/// Takes an origin for the rest of this process's life: its transactions carry it.
pub fn take(id: u16) {
    // SAFETY: once per process, with an existing origin.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::replorigin_session_setup(id);
        #[cfg(not(feature = "pg15"))]
        pg_sys::replorigin_session_setup(id, 0);
        pg_sys::replorigin_session_origin = id;
    }
}

/// How far the origin that this process took has come.
pub fn progress() -> u64 {
    // SAFETY: take was called.
    unsafe { pg_sys::replorigin_session_get_progress(false) }
}

/// How far any origin has come. In a transaction.
pub fn progress_of(id: u16) -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::replorigin_get_progress(id, false) }
}

/// The current transaction will, as it commits, take the origin's progress here. If it has written anything.
pub fn advance(lsn: u64, commit_time: i64) {
    // SAFETY: plain variables of this process that its next commit reads.
    unsafe {
        pg_sys::replorigin_session_origin_lsn = lsn;
        pg_sys::replorigin_session_origin_timestamp = commit_time;
    }
}
