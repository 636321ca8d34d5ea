//! Any bytes as a frame's payload: no panic, and what is read is written back as the same bytes.
//!
//! `decoder/wire/fuzz/run.sh 300` runs it for five minutes with a stable compiler; with nightly and cargo-fuzz,
//! `cd decoder/wire && cargo fuzz run payload` does too, with the address sanitizer.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    common::read_anything(payload);
});
