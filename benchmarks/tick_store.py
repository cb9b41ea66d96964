"""Ticks a second that one recorder of the store keeps up with, and what that is of a bare disk.

``stored_per_s`` is the store alone: flushes of 50,000 rows out of a ring into files and the
manifest, one after the other, beside a bare write and fdatasync of as many bytes (``bare_per_s``)
in the same folder. ``recorded_per_s`` is the highest of the rates tried at which the whole recorder
and its feed's client, fed by a writer in another process through a ring of the default size, missed
nothing; ``cpu`` are its cores at that rate. ``merge_per_s`` is a day's files becoming one,
``read_per_s`` reading it again, checked. Prints one JSON line; the ratios count, the rates are of
this machine under whatever load it had.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import trio

from piker.data.feed import Feed
from piker.data.messages import FlumeInfo
from piker.data.shm import ShmArray, TickRing
from piker.data.store import ticks_upkeep
from piker.data.store.store import Store
from piker.data.store.ticks import Batch, TickStore
from piker.data.store.ticks_recorder import EVENT_HZ, FLUSH_ROWS, TickRecorder
from piker.data.store.ticks_segment import series_of, tick_rows
from piker.data.wake import WakeReceiver, WakeSender
from piker.market import Asset, MktPair
from piker.ticks import TICK_DTYPE, TRADE, Quote

FQME = "btcusdt.spot.binance"
RING = 65_536  # conf.toml's default
RATES = (25_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000)
EVER = (0, 1 << 62)


def ticks(first: int, count: int, now_ns: int) -> Any:
    """Make rows like a busy venue's."""
    rows = np.zeros(count, TICK_DTYPE)
    rows["index"] = np.arange(first, first + count)
    rows["time_ns"] = now_ns
    rows["price"], rows["size"] = 60_000 + rows["index"] % 997 / 100, rows["index"] % 89 / 1000
    rows["venue_id"], rows["type"], rows["recv_lag_us"] = rows["index"], TRADE, 700
    return rows


def write(folder: Path, rate: int, seconds: float) -> None:
    """Write to a ring at a rate, in flushes five milliseconds apart. A process of its own."""
    ring, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=RING, path=folder / "ring")
    wake = WakeSender(folder)
    began, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - began) < seconds:
        due = int(now * rate) - sent
        if due > 0:
            ring.extend_packed(ticks(sent, due, time.time_ns()).tobytes())
            sent += due
            wake.notify()
        time.sleep(0.005)
    print(sent)


def feed_of(folder: Path) -> Feed:
    """Return a feed's client that is attached to segments of ours, as datad would tell it."""
    ring, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=RING, path=folder / "ring")
    bars = [
        ShmArray.open_writer("b", "x", period_s=period, rows=64, path=folder / f"{period}")[0]
        for period in (1, 60)
    ]
    unknown, none = Asset(""), Decimal(0)
    mkt = MktPair(
        fqme=FQME, bs_mktid="x", dst=unknown, src=unknown, price_tick=none, size_tick=none
    )
    tokens = (ring.token, *(array.token for array in bars))
    ring.close()
    feed = Feed(EVENT_HZ)
    feed._receivers["binance"] = WakeReceiver(folder)
    feed._install([FlumeInfo(FQME, mkt, Quote(FQME), *tokens)])
    return feed


async def record(folder: Path, rate: int, seconds: float) -> tuple[int, int, float]:
    """Run a recorder on a writer; return (rows written, rows stored, cores used)."""
    folder = folder / f"{rate}"
    folder.mkdir()
    feed, store = feed_of(folder), TickStore(Store(folder / "store"))
    command = [sys.executable, __file__, "--write", str(folder), str(rate), str(seconds)]
    recorder = TickRecorder(feed, store, on_kept=lambda _: None, on_trouble=lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        before = os.times()
        done = await trio.run_process(command, capture_stdout=True)
        after = os.times()
        recorder.stop()
    cores = (after.user + after.system - before.user - before.system) / seconds
    rows = tick_rows(store.read(FQME, *EVER).table)[0]
    assert (np.diff(rows["index"]) > 0).all()
    store.store.close()
    feed._receivers["binance"].close()
    return int(done.stdout), len(rows), cores


def flushes(folder: Path, count: int) -> dict[str, float]:
    """Store flush after flush; then merge and read what became of them."""
    store, series = TickStore(Store(folder / "store")), series_of(FQME)
    ring, _ = TickRing.open_writer("binance", "btcusdt.spot", rows=RING, path=folder / "ring")
    store.attach(series, ring)
    cursor, spent, now_ns = ring.cursor(), 0.0, time.time_ns()
    for number in range(count):
        ring.extend_packed(ticks(number * FLUSH_ROWS, FLUSH_ROWS, now_ns).tobytes())
        began = time.perf_counter()
        store.append([Batch(series, 1, cursor.take().rows)])
        spent += time.perf_counter() - began
    size = sum(one.size for one in store.manifest.all_files(1))
    rows = count * FLUSH_ROWS
    began = time.perf_counter()
    ticks_upkeep.compact(store, series)
    merged = time.perf_counter() - began
    store.store.close()
    again = TickStore(Store(folder / "store"))
    began = time.perf_counter()
    assert again.read(FQME, *EVER).table.num_rows == rows
    read = time.perf_counter() - began
    again.store.close()
    return {
        "stored_per_s": rows / spent, "merge_per_s": rows / merged, "read_per_s": rows / read,
        "bytes": size / count,
    }  # fmt: skip


def bare(folder: Path, count: int, size: int) -> float:
    """Write and sync files of one size; return ticks a second that their bytes would be."""
    data, spent = os.urandom(size), 0.0
    for number in range(count):
        began = time.perf_counter()
        fd = os.open(folder / f"bare-{number}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, data)
        os.fdatasync(fd)
        os.close(fd)
        spent += time.perf_counter() - began
    return count * FLUSH_ROWS / spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each rate")
    parser.add_argument("--flushes", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write(Path(asked.write[0]), int(asked.write[1]), float(asked.write[2]))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        alone = flushes(folder, asked.flushes)
        floor = bare(folder, asked.flushes, round(alone.pop("bytes")))
        best, cores, tried = 0.0, 0.0, {}
        for rate in RATES:
            sent, kept, used = trio.run(record, folder, rate, asked.seconds)
            tried[rate] = sent - kept
            if sent > kept:
                break
            best, cores = sent / asked.seconds, used
    print(json.dumps({
        "benchmark": "tick_store", **{key: round(value) for key, value in alone.items()},
        "bare_per_s": round(floor), "stored_of_bare": round(alone["stored_per_s"] / floor, 2),
        "recorded_per_s": round(best), "cpu": round(cores, 2), "missed_at": tried,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
