"""Attach a client to a feed that runs: milliseconds to its first bar, whatever the history.

By ``open_feed`` (a connection to pikerd, one to datad, the segments) and by the notebook's
``attach`` (the segments alone); and the shared memory that a market keeps resident at the default
sizes, all rows written. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import trio

from piker import config
from piker.cli import demo
from piker.data import attach
from piker.data.feed import open_feed
from piker.data.shm import ShmArray, TickRing, attach_token
from piker.ohlcv import OHLC_DTYPE

FQME = "btcusdt.spot.binance"


async def measure(count: int) -> dict[str, object]:
    """Attach again and again to a running feed."""
    feeds: list[float] = []
    notebooks: list[float] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.keep_venue, 3, 1)
        await nursery.start(demo.keep_pikerd)
        async with open_feed([FQME], start_pikerd=False) as running:
            history = len(running.flumes[FQME].bars_1m)
            for _ in range(count):
                began = time.perf_counter()
                async with open_feed([FQME], start_pikerd=False) as feed:
                    assert feed.flumes[FQME].bars_1m.last(1)["close"][0] > 0
                    feeds.append(time.perf_counter() - began)
                began = time.perf_counter()
                assert attach(FQME).bars_1m.last(1)["close"][0] > 0
                notebooks.append(time.perf_counter() - began)
            nursery.cancel_scope.cancel()
    return {"minutes_of_history": history, "open_feed_ms": spread(feeds),
            "attach_ms": spread(notebooks)}  # fmt: skip


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median and maximum in milliseconds."""
    return {"p50": round(median(seconds) * 1e3, 2), "max": round(max(seconds) * 1e3, 2)}


def full_history_ms(folder: Path) -> dict[str, float]:
    """Return what attaching takes when every row of the default array is written."""
    sizes = config.FeedConf()
    array, _ = ShmArray.open_writer(
        "bench", "full", period_s=60, rows=sizes.rows_1m, path=folder / "full"
    )
    rows = np.zeros(sizes.rows_1m - 2048, OHLC_DTYPE)
    rows["time"] = np.arange(len(rows)) * 60
    rows["close"] = 1.0
    array.push(rows)
    taken = []
    for _ in range(50):
        began = time.perf_counter()
        found = attach_token(array.token)
        assert isinstance(found, ShmArray)
        assert found.last(1)["close"][0] == 1.0
        taken.append(time.perf_counter() - began)
    return spread(taken)


def resident_mb(folder: Path) -> float:
    """Return the bytes of one market's files at the default sizes, all rows in use."""
    sizes = config.FeedConf()
    paths = []
    for period, rows in ((1, sizes.rows_1s), (60, sizes.rows_1m)):
        array, _ = ShmArray.open_writer(
            "bench", "x", period_s=period, rows=rows, path=folder / f"{period}"
        )
        array._segment.reserve(0, array._capacity)
        paths.append(folder / f"{period}")
    ring, _ = TickRing.open_writer("bench", "x", rows=sizes.ring_ticks, path=folder / "t")
    ring._segment.reserve(0, ring._capacity)
    return round(sum(path.stat().st_blocks * 512 for path in (*paths, folder / "t")) / 1e6, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    asked = parser.parse_args()
    with demo.own_directories():
        result = trio.run(measure, asked.count)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        full, resident = full_history_ms(Path(name)), resident_mb(Path(name))
    print(json.dumps({"benchmark": "attach", **result, "full_array_ms": full,
                      "resident_mb_per_market": resident}))  # fmt: skip


if __name__ == "__main__":
    main()
