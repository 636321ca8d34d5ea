#!/usr/bin/env bash
# Half a minute of load on three stream tables, watched.   PG=15 DEMO_SECONDS=60 scripts/demo.sh
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
scripts/setup.sh
scripts/build.sh "${PG:-18}"
cargo build --quiet --package pgtrickle-tests --bin demo
exec target/debug/demo
