//! Writers under load.
