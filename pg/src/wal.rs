//! The write-ahead log: marks in it, and how far it is.

use crate::bindings;
use pgrx::pg_sys;

/// Prefix of the logical messages that are ours.
pub const MESSAGE_PREFIX: &std::ffi::CStr = c"pg_trickle";

/// Writes a non-transactional logical message and flushes WAL up to and including it. Returns the position after it:
/// whoever has decoded up to there has seen every transaction that committed before this call.
pub fn emit_barrier() -> u64 {
    // SAFETY: prefix and message are static; the message needs no transaction id.
    unsafe {
        let (prefix, body) = (MESSAGE_PREFIX.as_ptr(), c"barrier".as_ptr());
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let lsn = bindings::LogLogicalMessage(prefix, body, 7, false);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let lsn = bindings::LogLogicalMessage(prefix, body, 7, false, false);
        pg_sys::XLogFlush(lsn);
        lsn
    }
}

/// End of the newest commit record that this backend wrote, 0 if it has not written one.
pub fn last_commit_end() -> u64 {
    // SAFETY: a plain variable of the backend.
    unsafe { pg_sys::XactLastCommitEnd }
}

/// Whether `wal_level` allows logical decoding.
pub fn is_logical() -> bool {
    // SAFETY: a plain variable, fixed at server start.
    unsafe { pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32 }
}

/// The timeline that this server writes. Not on a standby.
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory, which is set once recovery has ended.
    unsafe { pgrx::pg_sys::GetWALInsertionTimeLine() }
}
