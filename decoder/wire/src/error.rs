//! Everything that can be wrong with input.

use std::fmt;

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, WireError>;

/// Why bytes could not be read as the change stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The input ends inside `what`.
    Truncated {
        /// The item that was being read.
        what: &'static str,
    },
    /// A varint that does not fit its type or is not in its shortest form.
    BadVarint,
    /// A value that the format does not allow.
    BadValue {
        /// The item that was being read.
        what: &'static str,
        /// The offending value.
        value: u64,
    },
    /// A mandatory message that this version does not know.
    UnknownTag(u8),
    /// The input does not begin with a Hello of this format.
    NotOurs,
    /// The peer speaks another version of the format.
    Version {
        /// What the peer speaks.
        theirs: u16,
    },
    /// The peer is not bound to the same server, so raw rows cannot be exchanged.
    Mismatch {
        /// The property that differs.
        what: &'static str,
        /// Its value here.
        ours: String,
        /// Its value there.
        theirs: String,
    },
    /// A frame announces more than any record can need.
    FrameTooLarge {
        /// The announced payload.
        bytes: usize,
    },
}

impl WireError {
    /// The SQLSTATE under which the error should be reported.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            WireError::Version { .. } | WireError::UnknownTag(_) => "0A000",
            WireError::Mismatch { .. } => "55000",
            _ => "08P01",
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated { what } => write!(f, "input ends inside {what}"),
            WireError::BadVarint => write!(f, "malformed variable-length integer"),
            WireError::BadValue { what, value } => write!(f, "invalid {what}: {value}"),
            WireError::UnknownTag(tag) => write!(f, "unknown message 0x{tag:02x}"),
            WireError::NotOurs => write!(f, "input is not a pg_trickle change stream"),
            WireError::Version { theirs } => {
                write!(f, "peer speaks format version {theirs}, this side {}", crate::FORMAT_VERSION)
            }
            WireError::Mismatch { what, ours, theirs } => {
                write!(f, "{what} differs: {ours} here, {theirs} at the peer")
            }
            WireError::FrameTooLarge { bytes } => write!(f, "frame of {bytes} bytes is too large"),
        }
    }
}

impl std::error::Error for WireError {}
