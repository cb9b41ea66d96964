"""History into the live arrays: make a frame regular, and join it to rows that are there. Pure.

Live arrays are equidistant: row i and row i+1 are one period apart, so that a reader finds a time
by arithmetic. A hole in what the venue gave is filled with flat bars whose ``count`` is -1, the
mark of a bar that is not known to be complete.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from piker.errors import DataQuality
from piker.ohlcv import OHLC_DTYPE

__all__ = ["Join", "join", "regularise"]

MAX_ROWS = 5_000_000  # a frame longer than 9 years of minutes is a fault of the backend

Rows = np.ndarray[Any, np.dtype[Any]]


class Join(NamedTuple):
    """What to do with an array: drop its rows or not, rows to overwrite, rows to append."""

    reset: bool
    overwrite: Rows
    append: Rows


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


def join(last_time: int | None, frame: Rows, period_s: int) -> Join:
    """Join a regular frame to an array whose newest row is at ``last_time`` (None when empty).

    A frame that starts after a hole replaces the rows: equidistance is kept, and what was dropped
    comes back from the store or the venue when it is asked for.
    """
    none = frame[:0]
    if last_time is None or len(frame) == 0:
        return Join(False, none, frame)
    if frame["time"][0] > last_time + period_s:
        return Join(True, none, frame)
    newer = frame["time"] > last_time
    return Join(False, frame[~newer], frame[newer])
