//! The delta engine: relational algebra over Z-sets, lowering, stages, delta rules and the SQL that they become.
#![forbid(unsafe_code)]

pub mod ir;
pub mod program;
pub mod sql;
