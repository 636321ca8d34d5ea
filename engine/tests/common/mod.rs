//! Random relations over three small tables, and the tables' contents.

#![allow(dead_code)]

pub mod generate;
pub mod random;
pub mod tables;
