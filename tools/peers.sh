#!/usr/bin/env bash
# Run third-party client libraries, unchanged, against the loopback venues. Each has an
# environment of its own under .peers/: their dependencies exclude each other's.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
work=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$work"' EXIT

start() { # venue and its options -> its JSON line in $work/venue.json
  $bin/piker venue "$@" --symbols 3 --rate 60 >"$work/$1.json" &
  pids+=($!)
  for _ in $(seq 100); do [ -s "$work/$1.json" ] && return; sleep 0.1; done
  echo "the loopback $1 did not start"; exit 1
}
url() { $bin/python -c "import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])" "$work/$1.json" "$2"; }

run() { # package==version script venue
  local name=${1%%=*}
  [ -x ".peers/$name/bin/python" ] || $bin/python -m venv ".peers/$name"
  $bin/uv pip install --quiet --python ".peers/$name" "$1"
  echo "== $1"
  timeout 120 ".peers/$name/bin/python" -W ignore "tests/peers/$2" "$(url "$3" http)" "$(url "$3" ws)"
}

start binance --account alice:alicekey:alicesecret
# Kraken's secrets are 64 bytes in base64: this one is 64 times the letter a.
start kraken --account "alice:alicekey:$(printf 'a%.0s' $(seq 64) | base64 -w0)"
run ccxt==4.5.90 peer_ccxt.py binance
run ccxt==4.5.90 peer_ccxt_orders.py binance
run python-binance==1.0.37 peer_python_binance.py binance
run python-binance==1.0.37 peer_python_binance_orders.py binance
run python-kraken-sdk==3.5.1 peer_kraken_sdk.py kraken
run python-kraken-sdk==3.5.1 peer_kraken_sdk_orders.py kraken
echo "every peer passed"
