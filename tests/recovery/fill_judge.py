"""What a store ought to hold after ``fill_kills.py``: the venue's own bars, and nothing else."""

from __future__ import annotations

import fcntl
import http.client
import json
import subprocess
import sys
import zlib
from collections import Counter
from typing import Any

import numpy as np

from piker.clock import wall_s
from piker.data.ranges import Range, union
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.dsm import MarketType
from piker.ohlcv import KLINE_DTYPE

__all__ = [
    "MARKETS",
    "PIKER",
    "SPOT",
    "USDM",
    "VALUES",
    "Truth",
    "checksum",
    "judge",
    "left_over",
    "verified",
]

PIKER = [sys.executable, "-m", "piker.cli"]
END_S = 120.0  # nothing that is asked of a process here takes longer unless it is broken
PAGE = 1000  # bars of one answer
SPOT, USDM = MarketType.SPOT, MarketType.FUTURES_USDT
MARKETS = (
    (SPOT, "BTCUSDT", Series.of("btcusdt.spot.binance", "1m"), "/api/v3/klines"),
    (SPOT, "ETHUSDT", Series.of("ethusdt.spot.binance", "1m"), "/api/v3/klines"),
    (USDM, "BTCUSDT", Series.of("btcusdt.usdtm.perp.binance", "1m"), "/fapi/v1/klines"),
    (SPOT, "BTCUSDT", Series.of("btcusdt.spot.binance", "1h"), "/api/v3/klines"),
)
#: Columns that are compared as they were returned; of what is stored all are.
VALUES = ("open", "high", "low", "close", "volume", "count")
COUNTS = ("fills_that_fetched", "acknowledged", "bars", "lost", "holes", "wrong", "wrong_answers",
          "damaged")  # fmt: skip


def checksum(columns: list[Any]) -> int:
    """Return a checksum of columns as numbers."""
    return zlib.crc32(b"".join(np.ascontiguousarray(one, "f8").tobytes() for one in columns))


# -- the truth -------------------------------------------------------------------------------------
class Truth:
    """The venue's bars, by its REST interface and nothing of piker's."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=END_S)
        self._pages: dict[tuple[int, int], Rows] = {}

    def bars(self, at: int, span: Range) -> Rows:
        """Return all bars that open in a range."""
        length = PAGE * MARKETS[at][2].timeframe.seconds
        first, last = span.start // length, -(-span.end // length)
        rows = np.concatenate([self._page(at, number * length) for number in range(first, last)])
        low, high = np.searchsorted(rows["time"], span)
        return rows[low:high]

    def _page(self, at: int, start: int) -> Rows:
        if (at, start) in self._pages:
            return self._pages[at, start]
        _, symbol, series, path = MARKETS[at]
        query = f"?symbol={symbol}&interval={series.interval}&limit={PAGE}"
        end = start + PAGE * series.timeframe.seconds
        self._http.request("GET", f"{path}{query}&startTime={start}000&endTime={end - 1}999")
        rows = _rows(json.loads(self._http.getresponse().read()))
        if end < wall_s():
            self._pages[at, start] = rows
        return rows


def _rows(found: list[list[Any]]) -> Rows:
    rows = np.zeros(len(found), KLINE_DTYPE)
    names = ("time", "open", "high", "low", "close", "volume", "", "turnover", "count",
             "taker_volume", "taker_turnover")  # fmt: skip
    for column, name in enumerate(names):
        if name:
            rows[name] = [float(bar[column]) for bar in found]
    rows["time"] //= 1000
    return rows


# -- judging ---------------------------------------------------------------------------------------
def judge(truth: Truth, said: list[str]) -> dict[str, Any]:
    """Compare the store with what was acknowledged and with the venue."""
    store, count = Store(), Counter[str]()
    acknowledged = [tuple(int(word) for word in line.split()) for line in said]
    for at, (*_, series, _) in enumerate(MARKETS):
        answers = [one[1:] for one in acknowledged if one[0] == at]
        promised = union((start, end) for start, end, *_ in answers)
        held = store.coverage(series, 0, 1 << 40).covered
        rows, _ = store.rows(series, 0, 1 << 40)
        parts = [truth.bars(at, span) for span in union([*held, *promised])]
        real = np.concatenate(parts) if parts else rows
        there = np.isin(real["time"], rows["time"], assume_unique=True)
        inside = _inside(real["time"], promised)
        count["acknowledged"] += int(inside.sum())
        count["bars"] += len(rows)
        count["lost"] += int((inside & ~there).sum())
        count["holes"] += int((_inside(real["time"], held) & ~there).sum())
        count["wrong"] += _differences(rows, real)
        for start, end, length, crc, damaged, requests in answers:
            low, high = np.searchsorted(real["time"], (start, end))
            meant = real[low:high]
            good = len(meant) == length and checksum([meant[name] for name in VALUES]) == crc
            count["wrong_answers"] += not good
            count["damaged"] += damaged
            count["fills_that_fetched"] += requests > 0
    store.close()
    return {name: count[name] for name in COUNTS}


def _inside(times: Any, spans: tuple[Range, ...]) -> Any:
    found = np.zeros(len(times), bool)
    for start, end in spans:
        low, high = np.searchsorted(times, (start, end))
        found[low:high] = True
    return found


def _differences(rows: Rows, real: Rows) -> int:
    """Return how many rows are not the venue's, not once there, or not in order."""
    where = np.searchsorted(real["time"], rows["time"])
    known = (where < len(real)) & (real["time"][np.minimum(where, len(real) - 1)] == rows["time"])
    names = [name for name in KLINE_DTYPE.names or () if name not in ("index", "bar_wap")]
    wrong = ~known
    for name in names:
        wrong[known] |= rows[name][known] != real[name][where[known]]
    return int(wrong.sum()) + int((np.diff(rows["time"]) <= 0).sum())


def verified() -> int:
    """Return how many problems ``piker store verify`` finds."""
    done = subprocess.run(
        [*PIKER, "store", "verify", "--json"], capture_output=True, text=True, timeout=END_S
    )
    if done.returncode not in (0, 9):
        raise RuntimeError(done.stderr)
    return 0 if done.returncode == 0 else 1


def left_over() -> list[str]:
    """Return what lies about in the store that nobody will ever use, and locks that are held."""
    store = Store()
    known = {"manifest.db", "manifest.db-wal", "manifest.db-shm"}
    found = [path.name for path in store.root.iterdir() if path.is_file()]
    left = [name for name in found if name not in known]
    for number, series in store.manifest.all_series():
        named = {one.name for one in store.manifest.segments(number, 0, 1 << 40)}
        for path in store.folder(series).iterdir():
            if path.name == ".lock":
                with path.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif path.name not in named:
                left.append(str(path.relative_to(store.root)))
    left += [str(path) for path in (store.root / "quarantine").glob("*")]
    store.close()
    return left
