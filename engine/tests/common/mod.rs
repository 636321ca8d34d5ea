//! Random relations over three small tables, and the tables' contents.

#![allow(dead_code)]

pub mod generate;
pub mod oracle;
pub mod random;
pub mod recursion;
pub mod scalars;
pub mod staging;
pub mod tables;
pub mod windows;
