#!/usr/bin/env bash
# Runs everything: set-up, both builds, unit tests of the crates, the suites on real servers.
#   scripts/test.sh                      all
#   SUITES="cases faults" scripts/test.sh   only these suites of tests/tests/ (no crate tests)
# The last line is `N passed, N failed` over all of them; the exit status says whether any failed.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
source "$here/scripts/env.sh"
cd "$here"

crates=(pgtrickle-wire pgtrickle-apply pgtrickle-engine pgtrickle-monitoring)
mapfile -t suites < <(sed -n '/^\[\[test\]\]$/{n;s/^name = "\(.*\)"$/\1/p}' tests/Cargo.toml)
logs=$here/target/test-logs
mkdir -p "$logs"
passed=0
failed=0

# Adds a suite's own closing counts; a suite that died without any counts as one failure.
account() {
    local log=$1 status=$2 p f
    p=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$log" | awk '{s += $1} END {print s + 0}')
    f=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$log" | awk '{s += $1} END {print s + 0}')
    [ "$status" != 0 ] && [ "$f" = 0 ] && f=1
    passed=$((passed + p))
    failed=$((failed + f))
}

run() {
    local name=$1 log started status
    shift
    log=$logs/$name.log
    started=$SECONDS
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    account "$log" "$status"
    printf '== %s took %s s\n' "$name" $((SECONDS - started))
}

prepare() {
    local major
    "$here/scripts/setup.sh" || return
    for major in "${PG_VERSIONS[@]}"; do
        "$here/scripts/build.sh" "$major" || return
    done
}

finish() {
    printf '\n%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
    exit
}

if ! prepare; then
    failed=1
    finish
fi
if [ -n "${SUITES:-}" ]; then
    read -ra suites <<<"$SUITES"
else
    run crates cargo test --quiet "${crates[@]/#/--package=}"
    run extension cargo test --quiet --lib --package pg_trickle --package pgtrickle-decoder --package pgtrickle-pg \
        --no-default-features --features pg15
    run tools cargo test --quiet --package pgtrickle-tests --lib
fi
for suite in "${suites[@]}"; do
    run "$suite" cargo test --quiet --package pgtrickle-tests --test "$suite"
done
finish
