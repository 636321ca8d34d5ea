//! Receiving side of the change stream: reading frames, assembling transactions, the bounded queue, the `Sink` trait.
#![forbid(unsafe_code)]
