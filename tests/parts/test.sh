#!/usr/bin/env bash
# Everything there is to test, at counts that fit; `make test`. X402_SOAK=1 (`make soak`) asks the same tests for
# their full counts. The last line names what this machine could not run and why; with CI=true that is a failure.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
phase=tests/parts/phase.sh
tools=${X402_TOOLS_DIR:-$HOME/.cache/x402-verifier-tools}
started=$SECONDS
if [[ ${X402_SOAK:-} == 1 ]]; then
  export PROPTEST_CASES=${PROPTEST_CASES:-1024}
fi

"$phase" tools tests/parts/tools.sh
tests/parts/check.sh

# Tests with real parts live in modules named `real`; those that need promtool have it in their name, those that
# need an API server live in `real::kube`, and in `real::kube::pod` what needs a mount namespace besides.
skip=() not_run=() real=yes kube=yes
while IFS= read -r line; do
  case $line in
    kube:*) kube=no skip+=(--skip real::kube) not_run+=("tests that need an API server, ${line#kube: }") ;;
    unshare:*) skip+=(--skip real::kube::pod) not_run+=("a verifier as in a pod, ${line#unshare: }") ;;
    promtool:*) skip+=(--skip promtool) not_run+=("tests that need $line") ;;
    *) real=no not_run+=("tests with real parts need $line") ;;
  esac
done <"$tools/missing"
if [[ $real == yes ]]; then
  "$phase" "tests with real parts" cargo test --locked --test it real:: -- --test-threads=2 "${skip[@]}"
fi
# Once more at the oldest version that the API server can pretend to be, which is the documented minimum: what asks
# most of it, or everything, but never at full counts.
if [[ $real == yes && $kube == yes ]]; then
  oldest=$(sed -n 's/.*OLDEST_EMULATED: &str = "\(.*\)";/\1/p' tests/it/parts/control_plane.rs)
  filters=(real::kube::oldest real::kube::rbac real::kube::policy real::kube::schema)
  if [[ ${X402_SOAK:-} == 1 ]]; then
    filters=(real::kube)
  fi
  X402_SOAK=0 X402_EMULATED_VERSION=${oldest:?} \
    "$phase" "with Kubernetes $oldest" cargo test --locked --test it -- "${filters[@]}" --test-threads=2 "${skip[@]}"
fi
"$phase" demo cargo run --locked -- demo
if [[ $real == yes ]]; then
  "$phase" "demo with Traefik" tests/parts/demo-traefik.sh --once
fi

echo "== all: $((SECONDS - started)) s"
if ((${#not_run[@]} == 0)); then
  echo "not run here: nothing"
else
  printf -v list '%s; ' "${not_run[@]}"
  echo "not run here: ${list%; }"
  if [[ ${CI:-} == true ]]; then
    exit 1
  fi
fi
