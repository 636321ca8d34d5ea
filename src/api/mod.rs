//! The SQL functions, one file per verb.

mod preview;
