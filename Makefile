# make build   the extension for PostgreSQL 15 and 18 (a release build)
# make test    everything that is tested; the last line says how many passed and failed
# make demo    half a minute of load, watched, on PostgreSQL 18 (PG=15 make demo)
# make bench   the measurements of tests/bench/RESULTS.md (BENCH_QUICK=1: a fifth of the rows)
.PHONY: setup build test demo bench

setup:
	@scripts/setup.sh

build: setup
	@scripts/build.sh 15
	@scripts/build.sh 18

test:
	@scripts/test.sh

demo:
	@scripts/demo.sh

bench:
	@scripts/bench.sh
