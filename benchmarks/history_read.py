"""How fast stored history becomes a frame, against the bare memory map and the bare conversion.

A store of five years of minutes is made and compacted; the same 365 days of the middle are written
as one plain Arrow file with the same columns. In one process and in turn: that file is mapped, and
every byte of it is touched, by hand and as polars' frame of piker.dsm; it is converted to pandas by
arrow alone, and by piker.dsm. One day of the middle of the five years is asked for. In fresh
processes: the peak of memory (pages of the mapped files, which the system may take back at any
time, and the process's own) of one year as pandas and as polars, against the size of the frame;
and the time of the first call, imports included, of one stored day, beside the import of the frame
library alone. Prints one JSON line; the ratios count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from piker.data.store import maintenance
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.dsm import DataProvider, DataSource, DataSourceManager, Interval, MarketType
from piker.ohlcv import KLINE_DTYPE

BEGIN = datetime(2019, 1, 1, tzinfo=UTC)
YEARS = 5
YEAR = (BEGIN + timedelta(days=2 * 365 + 180), BEGIN + timedelta(days=3 * 365 + 180))
DAY = (BEGIN + timedelta(days=900), BEGIN + timedelta(days=901))
SERIES = Series("binance", "btcusdt.spot", "1m")

PRELUDE = """
import os, sys, time
began = time.perf_counter()
from datetime import datetime, timezone
from piker.dsm import DataSource, DataProvider, DataSourceManager, Interval, MarketType
def memory(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) * 1024
def get(begin, end, polars):
    manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT, cache_dir=sys.argv[1])
    return manager.get_data("BTCUSDT", begin, end, Interval.MINUTE_1, return_polars=polars,
                            enforce_source=DataSource.CACHE)
"""
FIRST = (
    PRELUDE
    + """
frame = get(sys.argv[2], sys.argv[3], sys.argv[4] == "polars")
print(time.perf_counter() - began, len(frame))
"""
)
PEAK = (
    PRELUDE
    + """
polars = sys.argv[4] == "polars"
import polars as pl, pandas as pd
warm = get(sys.argv[5], sys.argv[6], polars)
before, anonymous = memory("VmHWM"), memory("RssAnon")
frame = get(sys.argv[2], sys.argv[3], polars)
size = frame.estimated_size() if polars else int(frame.memory_usage(index=True).sum())
print((memory("VmHWM") - before) / size, (memory("RssAnon") - anonymous) / size)
"""
)


def fill(root: Path) -> None:
    """Make a compacted store of five years of minutes."""
    count = YEARS * 365 * 1440
    rng = np.random.default_rng(1)
    rows = np.zeros(count, KLINE_DTYPE)
    rows["time"] = int(BEGIN.timestamp()) + 60 * np.arange(count)
    price = 30_000 * np.exp(np.cumsum(rng.normal(0, 1e-4, count)))
    for name in ("open", "high", "low", "close"):
        rows[name] = price
    for name in ("volume", "turnover", "taker_volume", "taker_turnover"):
        rows[name] = rng.random(count)
    rows["count"] = rng.integers(1, 1000, count)
    store = Store(root)
    start = int(rows["time"][0])
    store.write(SERIES, rows, start, start + count * 60, source="archive")
    maintenance.compact(store, SERIES, always=True)
    store.close()


def write_plain(manager: DataSourceManager, path: Path) -> None:
    """Write the year as one Arrow file, by the columns of the frame."""
    table = get(manager, YEAR, True).to_arrow().combine_chunks()
    codes = pa.array(np.zeros(table.num_rows, "u1"))
    table = table.set_column(table.schema.get_field_index("_data_source"), "_data_source", codes)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def get(manager: DataSourceManager, span: tuple[datetime, datetime], polars: bool) -> Any:
    """Ask piker.dsm."""
    return manager.get_data("BTCUSDT", *span, Interval.MINUTE_1, return_polars=polars)


def mapped(path: Path) -> pa.Table:
    """Open the plain file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def touch_table(table: pa.Table) -> int:
    """Read every byte of a table."""
    total = 0
    for name in table.schema.names:
        for chunk in table.column(name).chunks:
            width = chunk.type.bit_width // 8
            view = np.frombuffer(chunk.buffers()[1], f"u{width}", len(chunk), chunk.offset * width)
            total += int(view.sum())
    return total


def touch_polars(frame: Any) -> int:
    """Read every byte of a frame."""
    total = 0
    for column in frame.get_columns():
        for chunk in column.to_physical().get_chunks():
            view = chunk.to_numpy(allow_copy=False)
            total += int(view.view(f"u{view.itemsize}").sum())
    return total


def compare(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each, done in turn so that all have the same company."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            kept = work()
            times[name].append((time.perf_counter() - began) * 1e3)
            del kept
    return {name: statistics.median(found) for name, found in times.items()}


def fresh(code: str, root: Path, *args: str) -> list[float]:
    """Run a program of its own whose modules are compiled; return the numbers that it prints."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(root.parent / "pycache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    best: list[float] = []
    for _ in range(4):  # the first one compiles
        done = subprocess.run(
            [sys.executable, "-c", code, str(root), *args], env=env, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        found = [float(word) for word in done.stdout.split()]
        best = min(best, found) if best else found
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piker-bench-") as folder:
        root, plain = Path(folder) / "store", Path(folder) / "plain.arrow"
        fill(root)
        manager = DataSourceManager.create(
            DataProvider.BINANCE, MarketType.SPOT, cache_dir=root, enforce_source=DataSource.CACHE
        )
        write_plain(manager, plain)
        year = compare({
            "map_open": lambda: mapped(plain),
            "map_touch": lambda: touch_table(mapped(plain)),
            "polars": lambda: get(manager, YEAR, True),
            "polars_touch": lambda: touch_polars(get(manager, YEAR, True)),
            "arrow_pandas": lambda: mapped(plain).to_pandas(),
            "pandas": lambda: get(manager, YEAR, False),
        }, asked.rounds)  # fmt: skip
        day = compare({
            "polars": lambda: get(manager, DAY, True), "pandas": lambda: get(manager, DAY, False),
        }, 10 * asked.rounds)  # fmt: skip
        spans = [moment.isoformat() for moment in (*YEAR, *DAY)]
        result: dict[str, object] = {
            "benchmark": "history_read",
            "rows": len(get(manager, YEAR, True)),
            "year_ms": {name: round(value, 2) for name, value in year.items()},
            "polars_to_map": round(year["polars_touch"] / year["map_touch"], 2),
            "pandas_to_arrow": round(year["pandas"] / year["arrow_pandas"], 2),
            "day_of_5_years_ms": {name: round(value, 2) for name, value in day.items()},
        }
        for kind in ("pandas", "polars"):
            first = fresh(FIRST, root, *spans[2:], kind)[0]
            alone = fresh(f"import time; t = time.perf_counter(); import {kind}; "
                          "print(time.perf_counter() - t)", root)[0]  # fmt: skip
            peak, own = fresh(PEAK, root, spans[0], spans[1], kind, *spans[2:])
            result |= {
                f"first_call_{kind}_s": round(first, 3),
                f"import_{kind}_alone_s": round(alone, 3),
                f"peak_to_frame_{kind}": round(peak, 2),
                f"own_memory_to_frame_{kind}": round(own, 2),
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
