#!/usr/bin/env bash
# What needs no real part: format, lints, unit tests, in-process integration tests. `make check`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
phase=tests/parts/phase.sh

"$phase" format cargo fmt --check
"$phase" clippy cargo clippy --locked --all-targets -- -D warnings
"$phase" "unit tests" cargo test --locked --lib --bins
"$phase" "doc tests" cargo test --locked --doc
"$phase" "integration tests in process" cargo test --locked --test it -- --skip real::
