//! The background workers.

/// Registers what the postmaster starts by itself.
pub fn register() {}
