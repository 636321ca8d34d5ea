//! Logical decoding: writing logical messages, and the context and WAL reader that a decoding loop drives.

use crate::bindings;
use std::ffi::CStr;

/// Writes a non-transactional logical message and returns the LSN just after it. It is not flushed.
pub fn emit_message(prefix: &CStr, content: &[u8]) -> u64 {
    let (prefix, len) = (prefix.as_ptr(), content.len());
    // SAFETY: both buffers outlive the call, which copies them into the WAL; an error becomes a panic.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return bindings::LogLogicalMessage(prefix, content.as_ptr().cast(), len, false);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return bindings::LogLogicalMessage(prefix, content.as_ptr().cast(), len, false, false);
    }
}
