#!/usr/bin/env bash
# Runs one of our Node scripts against an installed package set: node.sh v1|v2 SCRIPT [ARGUMENT]...
set -euo pipefail

parts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${X402_TOOLS_DIR:-$HOME/.cache/x402-verifier-tools}
set_name=$1 script=$2
shift 2
export X402_NODE_ROOT=$tools/npm-$set_name
if [[ ! -d $X402_NODE_ROOT/node_modules ]]; then
  echo "$X402_NODE_ROOT is not installed: run \`make tools\`" >&2
  exit 1
fi
exec node --import "$parts/resolve.mjs" "$parts/$script" "$@"
