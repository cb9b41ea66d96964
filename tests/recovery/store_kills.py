"""Writers and compactors of one store, killed at random; counts what was lost. A script.

    python store_kills.py FOLDER KILLS SEED

Children fill two series with bars whose values follow from their time, append and compact, read
what they wrote, and say what was acknowledged after it was. The parent kills one after the other
and starts it again. At the end every acknowledged bar must be there, be right, and the store must
verify.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from piker.data.store import maintenance
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.ohlcv import KLINE_DTYPE

T0, DAY = 1_706_745_600, 86_400
DAYS = 40
HOT_BARS, BARS_PER_S = 120, 500  # where bars are appended and written at once; how it moves
SERIES = (Series.of("aaa.spot.binance", "1m"), Series.of("bbb.spot.binance", "1m"))
CHILDREN = 4


def bars(start: int, count: int) -> Rows:
    """Make bars that say when they are."""
    rows = np.zeros(count, KLINE_DTYPE)
    rows["time"] = start + np.arange(count) * 60
    for name in ("open", "high", "low", "close"):
        rows[name] = 100.0 + rows["time"] % 9973
    rows["volume"], rows["count"] = rows["time"] % 31, rows["time"] % 17
    return rows


def work(folder: Path, seed: int, begun_s: float, out: int) -> None:
    """Write, append and compact for ever: anywhere, and where the others do at this moment."""
    chance, store = random.Random(seed), Store(folder)
    while True:
        series = chance.choice(SERIES)
        first, count = chance.randrange(DAYS * 1440), chance.choice((1, 30, 1440, 4000))
        if chance.random() < 0.6:
            moved = int((time.monotonic() - begun_s) * BARS_PER_S) % (DAYS * 1440)
            first, count = moved + chance.randrange(HOT_BARS), chance.choice((1, 30, 60))
        start = T0 + first * 60
        what = chance.random()
        if what < 0.15:
            maintenance.compact(store, series, always=chance.random() < 0.5)
            continue
        if what < 0.4:
            count = 1
            store.append(series, bars(start, 1)[0])
        else:
            source = chance.choice(("archive", "rest"))
            store.write(series, bars(start, count), start, start + count * 60, source=source)
        found, _ = store.rows(series, start, start + count * 60)
        assert found.tobytes() == bars(start, count).tobytes(), "read otherwise than written"
        os.write(out, f"{SERIES.index(series)} {start} {count}\n".encode())


def begin(folder: Path, seed: int, begun_s: float) -> tuple[int, int]:
    """Fork a child; return (pid, where its acknowledgements come from)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(ours)
            work(folder, seed, begun_s, theirs)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    os.close(theirs)
    return pid, ours


def main() -> None:
    """Kill, and count."""
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    acknowledged: list[str] = []
    begun_s = time.monotonic()
    running = [begin(folder, seed * 1000 + number, begun_s) for number in range(CHILDREN)]
    died_by_itself = 0
    for number in range(kills + CHILDREN):
        time.sleep(chance.uniform(0.01, 0.15))
        at = number % CHILDREN
        pid, out = running[at]
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        died_by_itself += os.WIFEXITED(status)
        with os.fdopen(out, "rb") as said:
            acknowledged += said.read().decode().splitlines()
        if number < kills:
            running[at] = begin(folder, seed * 1000 + CHILDREN + number, begun_s)
    print(json.dumps(judge(folder, acknowledged) | {
        "kills": kills + CHILDREN, "died_by_itself": died_by_itself,
    }))  # fmt: skip


def judge(folder: Path, acknowledged: list[str]) -> dict[str, int]:
    """Compare the store with what was acknowledged."""
    store = Store(folder)
    promised: list[set[int]] = [set() for _ in SERIES]
    for line in acknowledged:
        which, start, count = (int(part) for part in line.split())
        promised[which].update(range(start, start + count * 60, 60))
    lost = wrong = rows_read = 0
    for series, times in zip(SERIES, promised, strict=True):
        rows, _ = store.rows(series, T0, T0 + 2 * DAYS * DAY)
        rows_read += len(rows)
        lost += len(times - set(rows["time"].tolist()))
        there = np.concatenate([bars(int(time), 1) for time in rows["time"]]) if len(rows) else rows
        wrong += int((rows != there).sum()) + int((np.diff(rows["time"]) <= 0).sum())
    unsound = sum(bool(one.problem) for one in maintenance.verify(store))
    left = sum(1 for _ in maintenance.repair(store))
    unsound += sum(bool(one.problem) for one in maintenance.verify(store))
    return {
        "acknowledged": sum(len(times) for times in promised), "writes": len(acknowledged),
        "rows": rows_read, "lost": lost, "wrong": wrong, "unsound": unsound, "repairs": left,
    }  # fmt: skip


if __name__ == "__main__":
    main()
