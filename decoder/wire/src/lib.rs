//! The change stream's messages and their bytes: what the output plugin writes and every consumer reads.
#![forbid(unsafe_code)]
