#!/usr/bin/env bash
# A paid request with real parts: Traefik asks the verifier, an official buyer SDK pays, the official facilitator
# settles on a chain of our own. `make demo-traefik`; --once ends with the purchase, else it runs until Ctrl-C.
#
# Everything listens on loopback and writes into one temporary folder, which goes away unless something failed.
# $X402_VERIFIER names a built verifier; without it the one of this checkout is built.
# shellcheck disable=SC2016 # what stands in single quotes is JavaScript
set -euo pipefail

parts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${X402_TOOLS_DIR:-$HOME/.cache/x402-verifier-tools}
once=no
if [[ ${1:-} == --once ]]; then once=yes; fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/x402-demo-XXXXXX")
declare -A pids=()

cleanup() {
  local status=$?
  trap - EXIT INT TERM HUP
  if ((${#pids[@]})); then
    kill "${pids[@]}" 2>/dev/null || true
    for ((tenths = 0; tenths < 100; tenths++)); do
      kill -0 "${pids[@]}" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
  fi
  if ((status == 0)); then rm -rf "$dir"; else echo "logs are kept in $dir" >&2; fi
  exit "$status"
}
trap cleanup EXIT
trap 'echo; echo "ending"; exit 0' INT TERM HUP

fail() {
  echo "$1" >&2
  if [[ -f ${2:-} ]]; then tail -n 20 "$2" | sed 's/^/    /' >&2; fi
  exit 1
}

start() { # NAME COMMAND [ARGUMENT]...
  local name=$1
  shift
  "$@" >"$dir/$name.log" 2>&1 </dev/null &
  pids[$name]=$!
}

# Repeats a check until it holds; the part must stay alive, and a minute must do.
until_ready() { # NAME COMMAND [ARGUMENT]...
  local name=$1 limit=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    kill -0 "${pids[$name]}" 2>/dev/null || fail "$name ended; the end of its log:" "$dir/$name.log"
    ((SECONDS < limit)) || fail "$name is not ready after a minute; the end of its log:" "$dir/$name.log"
    sleep 0.1
  done
}

logged() { # NAME MARKER: what follows the marker in the log, once it is there
  until_ready "$1" grep -q "$2" "$dir/$1.log"
  sed -n "s/.*$2//p" "$dir/$1.log" | head -n 1
}

answers() { # URL: 200 within a second
  node -e 'fetch(process.argv[1], { signal: AbortSignal.timeout(1000) }).then((r) => process.exit(r.status === 200 ? 0 : 1), () => process.exit(1))' "$1"
}

field() { # JSON EXPRESSION: of `it`
  node -e 'const it = JSON.parse(process.argv[1]); console.log(eval(process.argv[2]))' "$1" "$2"
}

for tool in traefik npm-v2 token; do
  [[ -f $tools/stamps/$tool ]] || fail "$tool is not installed in $tools: run \`make tools\`"
done
verifier=(cargo run --locked --quiet --)
if [[ -n ${X402_VERIFIER:-} ]]; then
  verifier=("$X402_VERIFIER")
else
  echo "building the verifier"
  (cd "$parts/../.." && cargo build --locked --quiet)
fi
cd "$parts/../.."

# Ports for those who cannot report one that they picked.
read -r verify admin web ping < <(node -e '
  const servers = [1, 2, 3, 4].map(() => require("net").createServer().listen(0, "127.0.0.1"));
  Promise.all(servers.map((s) => new Promise((done) => s.on("listening", done)))).then(() => {
    console.log(servers.map((s) => s.address().port).join(" "));
    servers.forEach((s) => s.close());
  });')

payee=0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65 # anvil's account 4

start anvil "$tools/npm-v2/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil" --host 127.0.0.1 --port 0 --chain-id 84532
rpc=http://$(logged anvil "Listening on ")
node "$parts/token/deploy.mjs" "$rpc" "$tools/token/MockUSDC.json" >"$dir/deploy.json"
echo "chain         $rpc  (anvil as Base Sepolia, with a token where it has USDC)"

start facilitator "$parts/node.sh" v2 servers/facilitator.mjs 0 "$rpc"
facilitator=$(logged facilitator "listening on ")
echo "facilitator   $facilitator  (the official TypeScript one)"

start upstream node "$parts/servers/upstream.mjs" 0
upstream=$(logged upstream "listening on ")
echo "upstream      $upstream  (the seller's service; copies the receipt to its answer)"

cat >"$dir/pricing.yaml" <<EOF
wallet: "$payee"
chain: base-sepolia
facilitatorURL: $facilitator
routes:
  - pattern: /premium/*
    price: "0.001"
    description: A paid report
    offerNamespace: demo
    offerName: premium
EOF
start verifier "${verifier[@]}" serve --config "$dir/pricing.yaml" --listen "127.0.0.1:$verify" \
  --admin-listen "127.0.0.1:$admin" --ledger "sqlite:$dir/ledger.db" --log-format text
until_ready verifier answers "http://127.0.0.1:$admin/readyz"
echo "verifier      http://127.0.0.1:$verify  (admin http://127.0.0.1:$admin)"

cat >"$dir/traefik.yml" <<EOF
global: {checkNewVersion: false, sendAnonymousUsage: false}
log: {level: INFO}
ping: {entryPoint: ping}
entryPoints:
  web: {address: "127.0.0.1:$web"}
  ping: {address: "127.0.0.1:$ping"}
providers: {file: {filename: "$dir/dynamic.yml", watch: false}}
EOF
cat >"$dir/dynamic.yml" <<EOF
http:
  routers:
    premium: {rule: "PathPrefix(\`/premium\`)", entryPoints: [web], middlewares: [pay], service: upstream}
    free: {rule: "PathPrefix(\`/free\`)", entryPoints: [web], service: upstream}
  middlewares:
    pay:
      forwardAuth:
        address: "http://127.0.0.1:$verify/verify/demo/premium"
        trustForwardHeader: false
        maxResponseBodySize: 65536
        # The last two are never set by the verifier: naming them keeps the buyer's payment from the upstream.
        authResponseHeaders: [Authorization, X-Payment-Payer, X-Verified-Wallet, Payment-Response, X-Payment-Response, Payment-Signature, X-Payment]
  services:
    upstream: {loadBalancer: {servers: [{url: "$upstream"}]}}
EOF
start traefik "$tools/traefik/bin/traefik" --configFile="$dir/traefik.yml"
until_ready traefik answers "http://127.0.0.1:$web/free"
url=http://127.0.0.1:$web/premium/report
echo "Traefik       http://127.0.0.1:$web"
echo

unpaid=$(node "$parts/buyers/unpaid.mjs" "$url")
status=$(field "$unpaid" it.status)
[[ $status == 402 ]] || fail "GET $url without payment: $status instead of 402: $unpaid" "$dir/verifier.log"
echo "1. GET /premium/report without payment: 402"
echo "   price: $(field "$unpaid" it.body.detail)"

before=$(field "$(node "$parts/token/balances.mjs" "$rpc")" "it['${payee,,}']")
paid=$("$parts/node.sh" v2 buyers/fetch.mjs "$url" 1 2>"$dir/buyer.log") ||
  fail "the buyer did not get its answer: ${paid:-$(tail -n 3 "$dir/buyer.log")}" "$dir/verifier.log"
after=$(field "$(node "$parts/token/balances.mjs" "$rpc")" "it['${payee,,}']")
echo "2. The same with @x402/fetch, which signs and asks again: $(field "$paid" it.status)"
echo "   answer:  $(field "$paid" 'JSON.stringify(it.body)')"
echo "   receipt: $(field "$paid" '`transaction ${it.receipt.transaction}, payer ${it.receipt.payer}`')"
echo "   payee's balance: $before before, $after after"
[[ $((after - before)) == 1000 ]] || fail "the payee's balance moved by $((after - before)) instead of 1000" "$dir/verifier.log"

again=$("$parts/node.sh" v2 buyers/again.mjs "$url" 2 2>"$dir/again.log") ||
  fail "the second buyer failed: $(tail -n 3 "$dir/again.log")" "$dir/verifier.log"
refused() { # TITLE FIELD STATUS: what became of one attempt
  local got
  got=$(field "$again" "it.$2.status")
  [[ $got == "$3" ]] || fail "$1: $got instead of $3: $again" "$dir/verifier.log"
  echo "$1: $got $(field "$again" "it.$2.reason")"
}
[[ $(field "$again" it.paid.status) == 200 ]] || fail "the second buyer did not get its answer: $again" "$dir/verifier.log"
refused "3. A payment presented a second time" replay 409
refused "4. A payment whose amount was changed after signing" tampered 402
end=$(field "$(node "$parts/token/balances.mjs" "$rpc")" "it['${payee,,}']")
[[ $((end - after)) == 1000 ]] || fail "the payee's balance moved by $((end - after)) instead of 1000" "$dir/verifier.log"
echo "   payee's balance: $end after one more purchase, nothing for the rest"

if [[ $once == yes ]]; then exit 0; fi
cat <<EOF

It keeps running; Ctrl-C ends it. To try:
  curl -i $url
  tests/parts/node.sh v2 buyers/fetch.mjs $url 2
  curl -s http://127.0.0.1:$admin/metrics | grep charged_requests_total
EOF
wait -n "${pids[@]}" || true
for name in "${!pids[@]}"; do
  kill -0 "${pids[$name]}" 2>/dev/null || fail "$name ended; the end of its log:" "$dir/$name.log"
done
