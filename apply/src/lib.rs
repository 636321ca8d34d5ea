//! Receiving side of the change stream: reading frames, assembling transactions, the bounded queue, the [`Sink`] trait.
//!
//! A receiver thread owns the socket. It reads frames, checks everything that can be checked without PostgreSQL
//! ([`Assembler`]: structure, order, pairing, record counts, checksums) and queues them; the main thread only walks
//! messages that are known to be good and hands them to its [`Sink`]. The queue is bounded in bytes: when the main
//! thread is slower the receiver stops reading, the socket fills and the decoder waits.
//!
//! Nothing here can reach a PostgreSQL function. Whoever starts the receiver masks all signals around the call.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod assembler;
mod counters;
mod error;
mod gate;
mod peer;
mod queue;
mod receiver;
mod sink;

pub use assembler::{Assembler, Facts};
pub use counters::Counters;
pub use error::{Reason, StreamError};
pub use peer::Peer;
pub use queue::{Event, Frame, Queue};
pub use receiver::{Config, start};
pub use sink::{At, Delivery, Sink};
