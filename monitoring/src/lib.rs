//! The table of metrics, their text exposition and the HTTP server that shows them.
#![forbid(unsafe_code)]
