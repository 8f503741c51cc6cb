#!/usr/bin/env bash
# Installs the real parts that tests, demos and benches drive, pinned by the lock files beside this script,
# into one cached folder outside the sources: $X402_TOOLS_DIR, by default ~/.cache/x402-verifier-tools.
#
# Each tool has a recipe (a function below) and a stamp, the hash of the recipe and of the files it reads. A tool
# whose stamp still fits is left alone, so a second run takes a second; a change reinstalls only what it touches.
# An install that fails leaves no stamp and ends this script with its last lines and what to do.
# What this machine cannot have at all (no Node, not root for apt, another platform) is no failure here: it is
# written to the file `missing`, one `tool: reason` a line, and `make test` names it at its end.
# shellcheck disable=SC2329 # the recipes are called by name
set -euo pipefail

parts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=$(cd "$parts/../peers" && pwd)
tools=${X402_TOOLS_DIR:-$HOME/.cache/x402-verifier-tools}
mkdir -p "$tools/stamps" "$tools/logs"
tools=$(cd "$tools" && pwd)

# One installation at a time: checkouts share the folder.
exec 9>"$tools/lock"
if ! flock --nonblock 9; then
  echo "waiting for another make tools to finish with $tools"
  flock 9
fi
: >"$tools/missing"

# ---- recipes: each fills the empty folder $dest, or names what it leaves elsewhere ----

recipe_debian() { # promtool reads our /metrics as Prometheus would, wrk drives the load benches
  local wanted=()
  command -v promtool >/dev/null || wanted+=(prometheus)
  command -v wrk >/dev/null || wanted+=(wrk)
  if ((${#wanted[@]} == 0)); then return; fi
  export DEBIAN_FRONTEND=noninteractive
  local install=(apt-get install --yes --no-install-recommends "${wanted[@]}")
  "${install[@]}" || { apt-get update && "${install[@]}"; }
  hash -r
  command -v promtool
  command -v wrk
}

recipe_traefik() { # --target, not a venv: Debian may lack python3-venv, and a venv cannot be moved
  python3 -m pip install --no-deps --only-binary=:all: --target "$dest" --requirement "$parts/python/traefik.txt"
  "$dest/bin/traefik" version
}

recipe_python() {
  python3 -m pip install --no-deps --only-binary=:all: --target "$dest" --requirement "$parts/python/requirements.txt"
}

npm_set() {
  cp "$parts/$1/package.json" "$parts/$1/package-lock.json" "$parts/$1/.npmrc" "$dest"
  (cd "$dest" && npm ci --omit=optional)
}

recipe_npm-v2() { # anvil, facilitator, express middleware, v2 buyers, solc
  npm_set npm-v2
  "$dest/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil" --version
}

recipe_npm-v1() { # the v1 buyer, apart because of its size (wallets of every kind)
  npm_set npm-v1
}

recipe_token() { # bytecode of the EIP-3009 token
  "$parts/node.sh" v2 token/compile.mjs "$dest/MockUSDC.json"
}

recipe_peers() { # the target folder stays beside it, so that a small change builds in seconds
  export CARGO_TARGET_DIR=$tools/peers-target
  cargo build --release --locked --manifest-path "$peers/Cargo.toml"
  cp "$CARGO_TARGET_DIR"/release/{buyer,axum-static,paygate,paced,payments,yes-facilitator} "$dest"
}

# A Kubernetes control plane. The versions are those of kube/go.mod; Go's own cache makes a rebuild take seconds.
recipe_kube() {
  local version major minor flags
  cd "$parts/kube"
  go mod download
  version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
  IFS=. read -r major minor _ <<<"${version#v}"
  # The API server takes its version, and with it what it can emulate, from these.
  local package=k8s.io/component-base/version
  flags=(-mod=readonly -trimpath -ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor")
  go build "${flags[@]}" -o "$dest/etcd" go.etcd.io/etcd/server/v3
  go build "${flags[@]}" -o "$dest/" k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
  "$dest/etcd" --version
  "$dest/kube-apiserver" --version
}

recipe_traefik-crds() { # for a Traefik that reads a cluster; the wheel has the program alone
  local module sum json
  read -r module sum <"$parts/kube/traefik-crds.txt"
  json=$(cd "$dest" && go mod download -json "$module")
  [[ $json == *"\"$sum\""* ]] || { echo "another sum than $sum: $json" && return 1; }
  cp "$(go env GOMODCACHE)/$module/docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml" "$dest/crds.yaml"
}

# ---- machinery ----

say() { printf '%-12s  %s\n' "$1" "$2"; }

missing() { # TOOL REASON
  echo "$1: $2" >>"$tools/missing"
  say "$1" "not here: $2"
}

# Installs TOOL unless its stamp fits. FILE... and the words after -- are what it depends on besides its recipe.
tool() { # TOOL FILE... [-- WORD...]
  local name=$1 stamp started dest files=() status=0
  shift
  while (($# > 0)) && [[ $1 != -- ]]; do files+=("$1") && shift; done
  stamp=$({ declare -f "recipe_$name" npm_set; printf '%s\n' "$@"; if ((${#files[@]})); then cat "${files[@]}"; fi; } | sha256sum)
  if [[ $(cat "$tools/stamps/$name" 2>/dev/null) == "$stamp" ]]; then
    say "$name" "up to date"
    return
  fi
  started=$SECONDS dest=$tools/$name.new
  rm -rf "$tools/stamps/$name" "$dest"
  mkdir "$dest"
  (set -e; "recipe_$name") >"$tools/logs/$name.log" 2>&1 </dev/null &
  wait $! || status=$?
  if ((status != 0)); then
    rm -rf "$dest"
    {
      say "$name" "FAILED after $((SECONDS - started)) s, exit $status; the end of $tools/logs/$name.log:"
      tail -n 20 "$tools/logs/$name.log" | sed 's/^/    /'
      say "$name" "what to do: see that the package registries can be reached, then run \`make tools\` again"
    } >&2
    return 1
  fi
  rm -rf "${tools:?}/$name"
  mv "$dest" "$tools/$name"
  echo "$stamp" >"$tools/stamps/$name"
  say "$name" "installed in $((SECONDS - started)) s, $(du -sm "$tools/$name" | cut -f1) MB"
}

debian() {
  if command -v promtool >/dev/null && command -v wrk >/dev/null; then
    say debian "up to date"
  elif ! command -v apt-get >/dev/null; then
    missing promtool "no apt-get to install it with; install Prometheus and wrk by hand"
  elif ((EUID != 0)); then
    missing promtool "not root; run \`apt-get install prometheus wrk\` as root"
  else
    rm -f "$tools/stamps/debian"
    tool debian
  fi
}

packages() {
  debian
  if [[ $(uname -sm) != "Linux x86_64" ]]; then
    missing traefik "pinned for Linux x86_64, this is $(uname -sm)"
    missing npm-v2 "anvil is pinned for Linux x86_64, this is $(uname -sm)"
    return
  fi
  if command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1; then
    tool traefik "$parts/python/traefik.txt"
    tool python "$parts/python/requirements.txt" -- "$(python3 --version)"
  else
    missing traefik "no python3 with pip"
    missing python "no python3 with pip"
  fi
  # 20.6 is the first with module.register, which resolve.mjs needs.
  if command -v npm >/dev/null && node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 6) ? 0 : 1)'; then
    tool npm-v2 "$parts"/npm-v2/{package.json,package-lock.json,.npmrc}
    tool token "$parts"/token/{MockUSDC.sol,compile.mjs} "$parts/npm-v2/package-lock.json"
    tool npm-v1 "$parts"/npm-v1/{package.json,package-lock.json,.npmrc}
  else
    missing npm-v2 "no Node 20.6 or later with npm"
    missing npm-v1 "no Node 20.6 or later with npm"
  fi
}

rust_peers() {
  local sources=()
  mapfile -t sources < <(find "$peers/src" -name '*.rs' | sort)
  tool peers "$peers/Cargo.toml" "$peers/Cargo.lock" "${sources[@]}" -- "$(rustc --version)"
}

kube() {
  # 1.25 is what kube/go.mod asks for.
  if command -v go >/dev/null && go version | awk '{ sub("go", "", $3); split($3, v, "."); exit !(v[1] > 1 || v[2] >= 25) }'; then
    tool kube "$parts"/kube/{go.mod,go.sum} -- "$(go version)"
    tool traefik-crds "$parts/kube/traefik-crds.txt"
  else
    missing kube "no Go 1.25 or later"
    missing traefik-crds "no Go 1.25 or later"
  fi
}

# Some tests give the verifier a mount namespace of its own, which is nothing to install: root has it, and whoever may
# make user namespaces.
namespaces() {
  if ! unshare --mount true 2>/dev/null && ! unshare --map-root-user --mount true 2>/dev/null; then
    missing unshare "no mount namespaces for this user (unshare --mount)"
  fi
}

# Jobs in the background do not hear Ctrl-C by themselves.
trap 'trap "" TERM; kill -TERM 0; exit 130' INT

echo "tools in $tools"
# Two long compilations, the rest mostly downloads: all at once.
rust_peers &
rust=$!
kube &
go=$!
namespaces
packages &
rest=$!
failed=0
wait "$rest" || failed=1
if kill -0 "$rust" 2>/dev/null; then say peers "compiling (3 to 5 minutes when cold)"; fi
if kill -0 "$go" 2>/dev/null; then say kube "compiling (4 to 6 minutes when cold)"; fi
wait "$rust" || failed=1
wait "$go" || failed=1
exit "$failed"
