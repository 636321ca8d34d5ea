//! Any bytes as a frame's payload: no panic, and what is read is written back as the same bytes.
//!
//! `cd decoder/wire && cargo +nightly fuzz run payload` (needs `cargo install cargo-fuzz`).
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    common::read_anything(payload);
});
