"""Long bars out of short ones, where a venue has only these. Pure.

A long bar is there when each of its short bars is, or is known not to exist: none is made of what
may be a part of it. Weeks open on Mondays, months on the first, three-day
bars on the grid of their series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from piker.data.ranges import Range, subtract, union
from piker.ohlcv import Timeframe

__all__ = ["Composed", "Composer", "compose", "finer_of"]

DAY_S = 86_400  # lengths that divide it tile every calendar month

Rows = np.ndarray[Any, np.dtype[Any]]


def finer_of(frame: Timeframe, offered: Iterable[str]) -> Timeframe | None:
    """Return the longest of the offered bars that tile those of ``frame``; None for none."""
    tiles = [one for one in map(Timeframe, offered) if _tiles(one, frame)]
    return max(tiles, key=lambda one: one.seconds, default=None)


def _tiles(finer: Timeframe, frame: Timeframe) -> bool:
    if finer.unit == "M":
        return frame.unit == "M" and frame.count % finer.count == 0 and frame.count > finer.count
    if frame.unit == "M":
        return DAY_S % finer.seconds == 0
    if finer.seconds >= frame.seconds or frame.seconds % finer.seconds:
        return False
    return (frame.origin_s - finer.origin_s) % finer.seconds == 0


def compose(rows: Rows, frame: Timeframe) -> Rows:
    """Return the bars of ``frame`` that ascending shorter ones make, of those that hold any.

    Short bars without trades count only where all of a long one are: its open is the price of its
    first trade. What a short bar does not say (NaN, a count of -1) the long one does not, either.
    """
    if not len(rows):
        return rows
    opens = np.array([frame.floor(int(time)) for time in rows["time"]], np.int64)
    traded = (rows["count"] > 0) | (rows["volume"] > 0)
    firsts = _firsts(opens)
    any_traded = np.repeat(np.logical_or.reduceat(traded, firsts), _sizes(firsts, len(rows)))
    used = traded | ~any_traded
    rows, opens = rows[used], opens[used]
    firsts = _firsts(opens)
    lasts = np.append(firsts[1:], len(rows)) - 1
    found = np.zeros(len(firsts), rows.dtype)
    found["time"] = opens[firsts]
    found["open"], found["close"] = rows["open"][firsts], rows["close"][lasts]
    found["high"] = np.maximum.reduceat(rows["high"], firsts)
    found["low"] = np.minimum.reduceat(rows["low"], firsts)
    for name in ("volume", "count", "turnover", "taker_volume", "taker_turnover"):
        found[name] = np.add.reduceat(rows[name], firsts)
    found["count"][np.minimum.reduceat(rows["count"], firsts) < 0] = -1
    worth = np.add.reduceat(rows["bar_wap"] * rows["volume"], firsts)
    full = found["volume"] > 0
    mean = np.divide(worth, found["volume"], out=np.zeros(len(found)), where=full)
    found["bar_wap"] = np.where(mean > 0, np.clip(mean, found["low"], found["high"]), 0.0)
    return found


def _firsts(opens: Rows) -> Rows:
    """Return where each run of equal values begins."""
    return np.flatnonzero(np.append(True, opens[1:] != opens[:-1]))


def _sizes(firsts: Rows, total: int) -> Rows:
    return np.diff(firsts, append=total)


class Composed(NamedTuple):
    """Long bars that are settled: ``rows`` are all there are of the range; none: none exists."""

    start_s: int
    end_s: int
    rows: Rows


class Composer:
    """Takes short bars in any order, and gives each long bar once it is whole.

    ``within`` begins and ends on the grid of ``frame``.
    """

    def __init__(self, frame: Timeframe, finer: Timeframe, within: Range) -> None:
        self._frame, self._finer = frame, finer
        self._open: tuple[Range, ...] = tuple(
            Range(int(time), frame.next(int(time))) for time in frame.grid(*within)
        )
        self._settled: tuple[Range, ...] = ()
        self._rows: Rows | None = None

    def add(self, rows: Rows, absent: Sequence[tuple[int, int]] = ()) -> list[Composed]:
        """Add short bars, and ranges in which there are no others; return what is now whole."""
        spans = [(int(time), self._finer.next(int(time))) for time in rows["time"]]
        self._settled = union([*self._settled, *spans, *absent])
        if len(rows):
            both = rows if self._rows is None else np.concatenate((self._rows, rows))
            _, last = np.unique(both["time"][::-1], return_index=True)
            self._rows = both[len(both) - 1 - last]  # of a bar that came twice the later one
        whole = [span for span in self._open if not subtract([span], self._settled)]
        self._open = tuple(span for span in self._open if span not in whole)
        return [self._composed(span, rows[:0]) for span in whole]

    def _composed(self, span: Range, none: Rows) -> Composed:
        rows = none if self._rows is None else self._rows
        mine = rows[(rows["time"] >= span.start) & (rows["time"] < span.end)]
        return Composed(span.start, span.end, compose(mine, self._frame))
