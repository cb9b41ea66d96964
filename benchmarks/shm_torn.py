"""One writer and eight readers of the same arrays: rows read, and how many of them were torn.

Every value of a row follows from one number of it, so that a row mixed from two writes shows. The
writer appends ticks and bars, rewrites the open bar and revises closed ones as fast as it can, in
arrays so small that they wrap all the time. ``--careless`` is the control: readers that copy the
arrays without their rules, which must find torn rows. Prints one JSON line; exits 1 for a torn row.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from piker.data.sampling import Bar
from piker.data.shm import ShmArray, TickRing, attach_token
from piker.ticks import TICK_FORMAT

TICK_ROWS, BAR_ROWS = 16_384, 4_096
T0 = 1_700_000_000
_pack = struct.Struct(TICK_FORMAT).pack


def bar_of(number: int, version: int) -> Bar:
    """Make a bar whose every value is told by ``version``."""
    v = float(version)
    return Bar(T0 + number, v, v + 1, v - 1, v, 2 * v, version, v + 0.5)


def ticks_of(start: int, count: int) -> bytes:
    """Pack ticks whose every value is told by their number."""
    return b"".join(
        _pack(i, i + T0, i + 1.0, i + 2.0, i + 3.0, i + 4.0, i, i % 1000, 3, 0, i % 7)
        for i in range(start, start + count)
    )


def torn_ticks(rows: np.ndarray) -> int:
    """Count rows that no single write made."""
    i = rows["index"]
    good = (rows["time_ns"] == i + T0) & (rows["venue_id"] == i) & (rows["flags"] == i % 7)
    good &= (rows["recv_lag_us"] == i % 1000) & (rows["type"] == 3)
    for offset, name in enumerate(("price", "size", "price2", "size2"), 1):
        good &= rows[name] == i + offset
    return int((~good).sum())


def torn_bars(rows: np.ndarray) -> int:
    """Count rows that no single write made, or that stand at the wrong time."""
    if not len(rows):
        return 0
    v = rows["count"].astype("f8")
    good = (rows["open"] == v) & (rows["high"] == v + 1) & (rows["low"] == v - 1)
    good &= (rows["close"] == v) & (rows["volume"] == 2 * v) & (rows["bar_wap"] == v + 0.5)
    good &= rows["time"] - rows["index"] == rows["time"][0] - rows["index"][0]
    return int((~good).sum()) + int((np.diff(rows["index"]) != 1).sum())


def write(bars: ShmArray, ring: TickRing, until: float) -> None:
    """Write until the time is up; adopted arrays go on where they are."""
    chance = random.Random(1)
    tick, version = ring.last_index, 1
    number = int(bars.array["time"][-1]) - T0 if len(bars) else -1
    while time.monotonic() < until:
        for _ in range(50):
            count = chance.choice((1, 1, 1, 4, 64, 300))
            ring.extend_packed(ticks_of(tick, count))
            tick += count
            version += 1
            if chance.random() < 0.2 or number < 0:
                number += 1
                bars.write_bars([bar_of(number, version)], replaces_last=False)
            else:
                bars.write_bars([bar_of(number, version)], replaces_last=True)
            if chance.random() < 0.05:
                bars.revise_bar(bar_of(max(0, number - chance.randrange(200)), version))
        bars.beat()
        ring.beat()


def read_bars(bars: ShmArray, until: float, *, careless: bool) -> dict[str, int]:
    """Read whole windows of random size until the time is up."""
    chance, rows, torn, reads = random.Random(os.getpid()), 0, 0, 0
    while time.monotonic() < until:
        length = chance.choice((1, 2, 10, 200, BAR_ROWS))
        start = max(0, bars.last_index - length)
        found = bars.array[-length:].copy() if careless else bars.read(start)
        reads += 1
        rows += len(found)
        torn += torn_bars(found)
    return {"reads": reads, "rows": rows, "torn": torn, "missed": 0}


def read_ticks(ring: TickRing, until: float, *, careless: bool) -> dict[str, int]:
    """Follow the ring until the time is up, or look at all of it without care."""
    cursor, rows, torn, reads, lost = ring.cursor(newest=False), 0, 0, 0, 0
    while time.monotonic() < until:
        if careless:
            low = max(ring.last_index - ring._capacity, 0)
            slot = low % ring._capacity
            found, missed = ring._segment.rows[slot : slot + ring.last_index - low].copy(), 0
        else:
            before = cursor.position
            found, missed = cursor.take(4096)
            lost += before + missed + len(found) != cursor.position  # every row is accounted for
        reads += 1
        rows += len(found)
        torn += torn_ticks(found)
        if len(found) and not careless:
            torn += int((np.diff(found["index"]) != 1).sum())
    return {"reads": reads, "rows": rows, "torn": torn + lost, "missed": cursor.missed}


def in_child(work: Callable[[], dict[str, int]]) -> tuple[int, int]:
    """Run ``work`` in a process of its own; return (pid, where its answer comes from)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    status = 1
    try:
        os.write(theirs, json.dumps(work()).encode())
        status = 0
    finally:
        os._exit(status)


def measure(seconds: float, readers: int, *, careless: bool) -> dict[str, object]:
    """Write and read for a time; return the counts."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        ring, _ = TickRing.open_writer("bench", "x", rows=TICK_ROWS, path=Path(name) / "t.seg")
        bars, _ = ShmArray.open_writer(
            "bench", "x", period_s=1, rows=BAR_ROWS, path=Path(name) / "b.seg"
        )
        bars.write_bars([bar_of(0, 1)], replaces_last=False)
        until = time.monotonic() + seconds
        children = []
        for number in range(readers):
            token = (bars if number % 2 else ring).token

            def work(token: object = token) -> dict[str, int]:
                found = attach_token(token)  # type: ignore[arg-type]
                if isinstance(found, ShmArray):
                    return read_bars(found, until, careless=careless)
                return read_ticks(found, until, careless=careless)

            children.append(in_child(work))
        write(bars, ring, until)
        answers = []
        for pid, fd in children:
            answers.append(json.loads(os.read(fd, 4096) or b"{}"))
            os.close(fd)
            if os.waitpid(pid, 0)[1]:
                raise SystemExit("a reader died")
        counts = {key: sum(one[key] for one in answers) for key in answers[0]}
        return {
            "benchmark": "shm_torn", "seconds": seconds, "readers": readers, "careless": careless,
            "ticks_written": ring.last_index, "bars_written": bars.last_index - BAR_ROWS, **counts,
        }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--careless", action="store_true")
    asked = parser.parse_args()
    result = measure(asked.seconds, asked.readers, careless=asked.careless)
    print(json.dumps(result))
    sys.exit(bool(result["torn"]))


if __name__ == "__main__":
    main()
