//! The logical-decoding output plugin and the decoding loop that drives it in process.
