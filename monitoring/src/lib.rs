//! The table of metrics, their text exposition and the HTTP server that shows them.
//!
//! [`metrics::METRICS`] declares each metric once: name, kind, unit, help, remedy, labels and where its value is in a
//! [`Snapshot`].
//! Exposition and the table in `docs/MONITORING.md` derive from it. The server runs on a thread of its own and sees nothing but the
//! snapshots that a closure makes for it; that closure reads atomics only.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod health;
mod history;
mod json;
pub mod metrics;
mod pages;
mod server;
mod snapshot;
mod status;

pub use history::{INTERVAL, Memory, POINTS, Point};
pub use metrics::render;
pub use server::{Limits, Server};
pub use snapshot::{
    Buffer, CaptureState, Database, Durations, Lag, LastError, LastRefresh, Pool, Reading, Slot, Snapshot, StreamTable,
    TemplateCache, WalDecoder,
};
