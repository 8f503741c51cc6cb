#!/usr/bin/env bash
# Everything that reads the code without running it. `make lint`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
phase=tests/parts/phase.sh

"$phase" format cargo fmt --check
"$phase" "format of the peers" cargo fmt --check --manifest-path tests/peers/Cargo.toml
"$phase" clippy cargo clippy --locked --all-targets -- -D warnings
"$phase" documentation env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
if cargo deny --version >/dev/null 2>&1; then
  "$phase" dependencies cargo deny --locked check bans licenses sources
else
  echo "== dependencies: not checked, cargo-deny is not installed (cargo install cargo-deny --locked)"
fi
if command -v shellcheck >/dev/null; then
  "$phase" scripts shellcheck tests/parts/*.sh .ci/run
else
  echo "== scripts: not checked, shellcheck is not installed"
fi
