"""Bars of an answer that can be believed, and what was wrong with the others. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from piker.brokers.archive import Defect
from piker.data.ranges import Range
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = ["possible", "sound"]

Rows = np.ndarray[Any, np.dtype[Any]]


def sound(frame: Rows, timeframe: Timeframe, within: Range) -> tuple[Rows, tuple[Defect, ...]]:
    """Return the bars of a frame that can be, as ``KLINE_DTYPE``, and what was wrong with others.

    Ascending, unique, on the grid, within the range; of bars of one time that differ none is
    trusted. Fields that the frame does not have are NaN, ``count`` -1.
    """
    rows = np.zeros(len(frame), KLINE_DTYPE)
    given = frame.dtype.names or ()
    for name in KLINE_DTYPE.names or ():
        if name in given:
            rows[name] = frame[name]
        elif name == "count":
            rows[name] = -1
        elif name != "index":
            rows[name] = np.nan
    if "turnover" not in given and "bar_wap" in given:
        rows["turnover"] = rows["bar_wap"] * rows["volume"]
    rows["index"] = 0
    defects: list[Defect] = []

    def drop(bad: Any, kind: str) -> None:
        nonlocal rows
        count = int(bad.sum())
        if count:
            defects.append(Defect(kind, count, str(rows[np.argmax(bad)])[:120]))
            rows = rows[~bad]

    drop(~timeframe.on_grid(rows["time"]), "off-grid")
    drop((rows["time"] < within.start) | (rows["time"] >= within.end), "out-of-range")
    drop(~possible(rows), "impossible-bar")
    if (np.diff(rows["time"]) < 0).any():
        defects.append(Defect("unsorted", int((np.diff(rows["time"]) < 0).sum())))
        rows = rows[np.argsort(rows["time"], kind="stable")]
    same = (
        np.append(False, rows["time"][1:] == rows["time"][:-1]) if len(rows) else np.zeros(0, bool)
    )
    if same.any():
        rows, found = _unique(rows, same)
        defects += found
    return rows, tuple(defects)


def possible(rows: Rows) -> Any:
    """Tell for each bar whether a market could have had it."""
    low, high = rows["low"], rows["high"]
    good = (low > 0) & (high < np.inf) & (low <= high)
    for name in ("open", "close"):
        good &= (rows[name] >= low) & (rows[name] <= high)
    return good & (rows["volume"] >= 0) & (rows["volume"] < np.inf)


def _unique(rows: Rows, same: Any) -> tuple[Rows, list[Defect]]:
    """Leave out repeated bars; where they differ, all of that time."""
    times = np.unique(rows["time"][same])
    quarrel = [int(time) for time in times if len(np.unique(rows[rows["time"] == time])) > 1]
    kept = rows[~same & ~np.isin(rows["time"], quarrel)]
    defects = [Defect("duplicate", int(same.sum()), str(int(times[0])))]
    if quarrel:
        defects.append(Defect("contradiction", len(quarrel), str(quarrel[0])))
    return kept, defects
