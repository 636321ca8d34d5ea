#!/usr/bin/env bash
# Random queries and changes against the oracle, until they have made so many query × change cases on each version.
#   scripts/random.sh            20,000 on PostgreSQL 15 (about ten minutes on two cores)
#   scripts/random.sh 100000     PGTEST_VERSIONS="15 18" scripts/random.sh 5000     PGTEST_BASE=1 scripts/random.sh
# The line that counts: "… query × change cases, … mismatches". Findings are written to target/failed-cases.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
export PGTEST_VERSIONS=${PGTEST_VERSIONS:-15}
scripts/setup.sh
for version in $PGTEST_VERSIONS; do
    scripts/build.sh "$version"
done
PGTEST_RANDOM=${1:-20000} exec cargo test --quiet --package pgtrickle-tests --test random
