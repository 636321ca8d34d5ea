//! Query text to relational algebra.
