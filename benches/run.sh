#!/usr/bin/env bash
# Measures speed and memory against peers in the same run and writes docs/performance.md; `make bench`.
#
# What is measured and how: benches/measure.py, and benches/kube.py for offers of a cluster; X402_SOAK=1 makes the
# latter change offers for ten minutes instead of one. Ends with 0 when everything was measured, also when a figure falls
# short: it is a measurement, not a test. X402_BENCH_QUICK=1 takes seconds instead of minutes, to see that the
# scripts work; its figures mean nothing and are written to target/ only.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
phase=tests/parts/phase.sh
warm_up=1 measurement=3
if [[ ${X402_BENCH_QUICK:-} == 1 ]]; then
  warm_up=0.1 measurement=0.2
fi

"$phase" "release build" cargo build --release --locked
"$phase" "build of the micro benches" cargo bench --locked --bench micro --bench table --no-run
"$phase" "micro benches" cargo bench --locked --quiet --bench micro -- \
  --noplot --warm-up-time "$warm_up" --measurement-time "$measurement"
"$phase" "load, latency and memory" python3 benches/measure.py
