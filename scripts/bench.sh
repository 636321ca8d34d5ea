#!/usr/bin/env bash
# The measurements of tests/bench/RESULTS.md.   BENCH_QUICK=1: a fifth of the rows.
#   scripts/bench.sh [capture plugin latency writers refresh scale scrape tpch tpch_full nexmark]   only these parts; the others' results stay
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
scripts/setup.sh
scripts/build.sh "${PG:-15}"
cargo build --quiet --package pgtrickle-tests --bin bench
exec target/debug/bench "$@"
