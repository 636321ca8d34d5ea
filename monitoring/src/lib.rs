//! The table of metrics, their text exposition and the HTTP server that shows them.
//!
//! [`metrics::METRICS`] declares each metric once: name, kind, help, labels and where its value is in a [`Snapshot`].
//! Exposition and `METRICS.md` derive from it. The server runs on a thread of its own and sees nothing but the
//! snapshots that a closure makes for it; that closure reads atomics only.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod metrics;
mod server;
mod snapshot;

pub use metrics::render;
pub use server::Server;
pub use snapshot::{
    Buffer, CaptureState, Database, Durations, Lag, Pool, Slot, Snapshot, StreamTable, TemplateCache, WalDecoder,
};
