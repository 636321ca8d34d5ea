//! The logical-decoding output plugin and the decoding loop that drives it in process.
//!
//! | module | owns |
//! |---|---|
//! | [`options`] | the plugin's options and their errors |
//! | [`callbacks`] | PostgreSQL's table of callbacks: the only unsafe code here |
//! | [`session`] | one run of the plugin: the open transaction, what is written and to whom |
//! | [`relations`] | which relations are captured and how, cached until PostgreSQL says that they changed |
//! | [`link`] | the socket to the apply worker |
//! | [`stream`] | the loop: reading WAL, sleeping, confirming |
#![warn(missing_docs)]

pub mod callbacks;
pub mod link;
pub mod options;
pub mod relations;
pub mod session;
pub mod stream;

/// Name of the plugin, of the library, and prefix of the logical messages that are for us.
pub const PLUGIN: &str = "pg_trickle";
