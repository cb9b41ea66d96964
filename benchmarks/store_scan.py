"""The store at work on many series, and on one bar: each beside the bare thing, in one run.

Scan: the sum of all closes of 500 markets, 30 days of minutes each, through ``Store.column``;
beside one warm pass over the same columns, mapped already and held in a list. Append: one closed
bar made durable, beside one write and ``fdatasync`` of as many bytes, and on a series that is long
already. Prints one JSON line, milliseconds and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.ohlcv import KLINE_DTYPE

T0 = 1_706_745_600
ROUNDS = 5


def bars(start: int, count: int) -> Rows:
    """Make bars."""
    rows = np.zeros(count, KLINE_DTYPE)
    rows["time"] = start + np.arange(count) * 60
    for name in ("open", "high", "low", "close", "volume"):
        rows[name] = 100.0 + np.arange(count) % 977
    return rows


def took_ms(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median of some rounds in milliseconds."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * 1000)
    return median(found)


def scan(store: Store, markets: int, days: int) -> dict[str, float]:
    """Measure a pass over the closes of every market."""
    count, end = days * 1440, T0 + days * 86_400
    every = [Series.of(f"m{number:03d}usdt.spot.binance", "1m") for number in range(markets)]
    for series in every:
        store.write(series, bars(T0, count), T0, end, source="archive")
    columns = [store.column(series, "close", T0, end) for series in every]

    def ours() -> float:
        return sum(float(store.column(s, "close", T0, end).sum()) for s in every)

    def bare() -> float:
        return sum(float(column.sum()) for column in columns)

    assert ours() == bare()
    first = Store(store.root)

    def fresh() -> float:
        return sum(float(first.column(s, "close", T0, end).sum()) for s in every)

    new_process = took_ms(fresh, 1)
    return {"ours_ms": took_ms(ours), "bare_ms": took_ms(bare), "first_ms": new_process}


def append(store: Store, folder: Path, count: int) -> dict[str, float]:
    """Measure one durable bar, on an empty series and on a long one."""
    short = Series.of("short.spot.binance", "1m")
    long = Series.of("long.spot.binance", "1m")
    size = 200_000
    store.write(long, bars(T0, size), T0, T0 + size * 60, source="archive")
    file = os.open(folder / "bare", os.O_RDWR | os.O_CREAT)
    row, at = bars(T0, 1)[0], [0]

    def one(series: Series, start: int) -> None:
        row["time"] = start + at[0] * 60
        at[0] += 1
        store.append(series, row)

    def bare() -> None:
        os.write(file, row.tobytes())
        os.fdatasync(file)

    found = {
        "append_ms": took_ms(lambda: one(short, T0), count),
        "append_long_ms": took_ms(lambda: one(long, T0 + size * 60), count),
        "fdatasync_ms": took_ms(bare, count),
    }
    os.close(file)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markets", type=int, default=500)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--appends", type=int, default=500)
    parser.add_argument("--folder", help="where the store is made; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        store = Store(Path(name) / "store")
        found = scan(store, asked.markets, asked.days)
        found |= append(store, Path(name), asked.appends)
        store.close()
    print(json.dumps({
        "benchmark": "store_scan", "markets": asked.markets, "days": asked.days,
        **{key: round(value, 3) for key, value in found.items()},
        "scan_to_bare": round(found["ours_ms"] / found["bare_ms"], 2),
        "append_to_fdatasync": round(found["append_ms"] / found["fdatasync_ms"], 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
