"""History into the live arrays: make a frame regular, and join it to rows that are there.

Live arrays are equidistant: row i and row i+1 are one period apart, so that a reader finds a time
by arithmetic. A hole in what the venue gave is filled with flat bars whose ``count`` is -1, the
mark of a bar that is not known to be complete.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from piker.data.sampling import REVISABLE, Bar, BarBuilder
from piker.data.shm import ShmArray
from piker.errors import DataQuality
from piker.ohlcv import OHLC_DTYPE

__all__ = ["bars_of", "fill", "padded", "regularise"]

MAX_ROWS = 5_000_000  # a frame longer than 9 years of minutes is a fault of the backend

Rows = np.ndarray[Any, np.dtype[Any]]


def regularise(frame: Rows, period_s: int, *, now_s: int) -> Rows:
    """Return the frame as ``OHLC_DTYPE`` rows, ascending, unique, on the grid, without holes.

    Raises ``DataQuality`` for a frame that is not bars: not finite, not positive, off the grid,
    from the future, or with high and low the wrong way round.
    """
    if len(frame) == 0:
        return np.zeros(0, OHLC_DTYPE)
    rows = np.zeros(len(frame), OHLC_DTYPE)
    for name in OHLC_DTYPE.names or ():
        if name in (frame.dtype.names or ()):
            rows[name] = frame[name]
        elif name == "count":
            rows[name] = -1  # the backend does not say how many trades there were
    rows = rows[np.argsort(rows["time"], kind="stable")]
    keep = np.append(rows["time"][1:] != rows["time"][:-1], True)  # the last of equals wins
    rows = rows[keep]
    _check(rows, period_s, now_s)
    return _fill(rows, period_s)


def _check(rows: Rows, period_s: int, now_s: int) -> None:
    prices = np.stack([rows[name] for name in ("open", "high", "low", "close")])
    if not (np.isfinite(prices).all() and (prices > 0).all()):
        raise DataQuality("history holds a price that is not a positive number.", kind="nan")
    if not (np.isfinite(rows["volume"]).all() and (rows["volume"] >= 0).all()):
        raise DataQuality("history holds a negative or absent volume.", kind="negative-size")
    if (rows["high"] < prices.max(axis=0)).any() or (rows["low"] > prices.min(axis=0)).any():
        raise DataQuality("history holds a bar beyond its own high or low.", kind="impossible-bar")
    if (rows["time"] % period_s).any():
        raise DataQuality(f"history is off the {period_s} s grid.", kind="off-grid")
    if rows["time"][-1] > now_s + period_s:
        raise DataQuality("history holds a bar from the future.", kind="future-time")


def _fill(rows: Rows, period_s: int) -> Rows:
    position = (rows["time"] - rows["time"][0]) // period_s
    total = int(position[-1]) + 1
    if total == len(rows):
        return rows
    if total > MAX_ROWS:
        raise DataQuality(f"history spans {total} bars, more than {MAX_ROWS}.", kind="huge-frame")
    full = np.zeros(total, OHLC_DTYPE)
    source = np.searchsorted(position, np.arange(total), side="right") - 1
    for name in ("open", "high", "low", "close"):
        full[name] = rows["close"][source]
    full["count"] = -1
    full[position] = rows
    full["time"] = rows["time"][0] + np.arange(total) * period_s
    return full


def padded(rows: Rows, period_s: int, end_s: int) -> Rows:
    """Return sound rows as ``OHLC_DTYPE`` without holes, the last one right before ``end_s``."""
    frame = np.zeros(len(rows), OHLC_DTYPE)
    if not len(rows):
        return frame
    for name in OHLC_DTYPE.names or ():
        frame[name] = rows[name]
    if int(rows["time"][-1]) + period_s < end_s:
        last = frame[-1:].copy()
        last["time"], last["count"], last["volume"], last["bar_wap"] = (
            end_s - period_s,
            -1,
            0.0,
            0.0,
        )
        for name in ("open", "high", "low"):
            last[name] = last["close"]
        frame = np.concatenate([frame, last])
    return _fill(frame, period_s)


def fill(array: ShmArray, builder: BarBuilder, frame: Rows, *, closed: bool = False) -> None:
    """Join a regular frame to an array that its builder may already be writing. Synchronous.

    Into an empty array the frame goes whole and the builder continues it. Otherwise older rows
    go below the first, when they reach up to it, and rows of ours that are not known to be
    complete take the venue's values; what we made trade by trade stays. The frame's last bar is
    in progress unless it is ``closed``.
    """
    if len(frame) == 0:
        return
    if len(array) == 0:
        array.push(frame)
        builder.resume(bars_of(frame[-REVISABLE:]))
        return
    first = int(array.array["time"][0])
    older = frame[frame["time"] < first]
    if len(older) and int(older["time"][-1]) == first - builder.period_s:
        array.push(older, prepend=True)
    kept_from = builder.time - (REVISABLE - 1) * builder.period_s
    newest = int(frame["time"][-1])
    for bar in bars_of(frame[frame["time"] >= first]):
        if bar.time >= kept_from:
            builder.absorb(bar, closed=closed or bar.time < newest)
        elif _incomplete_at(array, bar.time):
            array.revise_bar(bar)


def bars_of(rows: Rows) -> list[Bar]:
    """Return array rows as bars."""
    return [Bar(*row[1:]) for row in rows.tolist()]


def _incomplete_at(array: ShmArray, time_s: int) -> bool:
    rows = array.array
    at = (time_s - int(rows["time"][0])) // array.period_s
    return 0 <= at < len(rows) and int(rows["count"][at]) < 0
