//! What can go wrong, done on purpose.
