#!/bin/sh
# Fuzzes the reader for the given number of seconds (60) with a stable compiler: the instrumentation is LLVM's own.
# New inputs go to target/corpus; one that fails is written to the current directory.
set -eu
cd "$(dirname "$0")"
llvm="-Cllvm-args=-sanitizer-coverage"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $llvm-level=4 $llvm-inline-8bit-counters $llvm-pc-table
  $llvm-trace-compares -Cdebug-assertions -Coverflow-checks" \
  cargo build --release --bin payload --target "$(rustc -vV | sed -n 's/^host: //p')"
mkdir -p target/corpus
exec target/*/release/payload target/corpus corpus/payload -max_total_time="${1:-60}"
