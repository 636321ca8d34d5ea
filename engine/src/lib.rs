//! The delta engine: relational algebra over Z-sets, lowering, stages, delta rules and the SQL that they become.
//!
//! A query comes in as a [`Rel`](ir::Rel) and is [cut](mod@cut) into stages; [delta rules](delta) say how each changes;
//! [`Program`](program::Program) has the SQL for it. Everything here is a pure function of the query: no settings, no
//! catalog, no database.
#![forbid(unsafe_code)]

pub mod cut;
pub mod delta;
pub mod dependencies;
pub mod ir;
pub mod keys;
pub mod lower;
mod plan;
pub mod program;
pub mod sql;
pub mod zset;
