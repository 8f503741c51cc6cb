#!/usr/bin/env bash
# Runs one phase of a longer task and says how long it took: phase.sh NAME COMMAND [ARGUMENT]...
set -euo pipefail

name=$1
shift
echo "== $name: $*"
started=$SECONDS
status=0
"$@" || status=$?
if ((status != 0)); then
  echo "== $name: FAILED after $((SECONDS - started)) s, exit $status" >&2
  exit "$status"
fi
echo "== $name: $((SECONDS - started)) s"
