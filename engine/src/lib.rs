//! The delta engine: relational algebra over Z-sets, lowering, stages, delta rules and the SQL that they become.
#![forbid(unsafe_code)]
