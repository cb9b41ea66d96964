#!/usr/bin/env bash
# Run every benchmark; each prints one JSON line. cryptofeed is compared with where .peers has it.
set -euo pipefail
cd "$(dirname "$0")/.."
peer=()
[ -x .peers/cryptofeed/bin/python ] && peer=(--cryptofeed .peers/cryptofeed/bin/python)
.venv/bin/python benchmarks/ingest.py "${peer[@]}"
.venv/bin/python benchmarks/parse_binance.py "${peer[@]}"
.venv/bin/python benchmarks/ws_frames.py
.venv/bin/python benchmarks/shm_wake.py
.venv/bin/python benchmarks/load.py
.venv/bin/python benchmarks/attach.py
.venv/bin/python benchmarks/archive_parse.py
.venv/bin/python benchmarks/history_read.py
.venv/bin/python benchmarks/history_cold.py
.venv/bin/python benchmarks/store_scan.py
.venv/bin/python benchmarks/symbols.py
.venv/bin/python benchmarks/tick_store.py
.venv/bin/python benchmarks/journal.py
.venv/bin/python benchmarks/orders.py
.venv/bin/python benchmarks/cancels.py
.venv/bin/python benchmarks/replay.py
