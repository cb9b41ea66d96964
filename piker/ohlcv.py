"""Bars: their row, their timeframes, and the arithmetic of boundaries.

Boundaries are UTC and calendar-correct: weeks start on Monday, months on the first. All of it is
pure; times are integer seconds since the epoch unless a name says otherwise.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import total_ordering
from typing import Any

import msgspec
import numpy as np

__all__ = ["KLINE_DTYPE", "OHLC_DTYPE", "ClosedBar", "Timeframe", "ohlc_dtype"]

#: The row that seed 002 fixes. ``index`` is the monotonic row number, ``time`` the bar's open in
#: epoch seconds UTC, ``count`` the number of trades, ``bar_wap`` the volume-weighted price of the
#: bar (0.0 for a bar without trades).
OHLC_DTYPE = np.dtype(
    [
        ("index", "<i8"),
        ("time", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8"),
        ("count", "<i8"),
        ("bar_wap", "<f8"),
    ]
)
ohlc_dtype = OHLC_DTYPE  # seed 002's name

#: A bar of history, as archives and REST interfaces know it. ``turnover`` is the sum of price times
#: size, in the quote asset; of an inverse market the contracts' worth in coins. ``taker_volume``
#: and ``taker_turnover`` are the parts that buyers took. NaN where the source does not say.
KLINE_DTYPE = np.dtype(
    [*OHLC_DTYPE.descr, ("turnover", "<f8"), ("taker_volume", "<f8"), ("taker_turnover", "<f8")]
)


class ClosedBar(msgspec.Struct, frozen=True, tag="bar"):
    """A bar that the venue itself published as final.

    ``time_s`` is its open, ``timeframe_s`` its length. A backend sends it on the quote channel;
    ours is checked against it and corrected.
    """

    symbol: str
    timeframe_s: int
    time_s: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int
    bar_wap: float = 0.0


_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONDAY = 4 * 86_400  # the first Monday after the epoch was 1970-01-05


@total_ordering
class Timeframe:
    """A bar length: ``1s``, ``5m``, ``4h``, ``1d``, ``1w`` or ``1M`` (a calendar month).

    ``origin_s`` is the open time of any of its bars: Mondays for weeks, multiples of the length
    since the epoch for others, unless a market has a grid of its own (Binance's three-day bars).
    Months have none.
    """

    __slots__ = ("count", "origin_s", "unit")

    def __init__(self, text: str, *, origin_s: int | None = None) -> None:
        number, unit = text[:-1], text[-1:]
        if unit not in (*_UNIT_SECONDS, "M") or not number.isdigit() or int(number) < 1:
            raise ValueError(f"{text!r} is not a timeframe; examples: 1s 1m 15m 4h 1d 1w 1M")
        self.count = int(number)
        self.unit = unit
        self.origin_s = _MONDAY if unit == "w" else 0
        if origin_s is not None:
            if unit == "M":
                raise ValueError("a calendar month has no other origin than its first day")
            self.origin_s = origin_s % self.seconds

    @classmethod
    def from_seconds(cls, seconds: float) -> Timeframe:
        """Return the timeframe of a fixed length, in the largest unit that divides it."""
        whole = int(seconds)
        if whole != seconds or whole < 1:
            raise ValueError(f"{seconds!r} s is not a bar length; it must be whole seconds")
        for unit in ("w", "d", "h", "m", "s"):
            if whole % _UNIT_SECONDS[unit] == 0:
                return cls(f"{whole // _UNIT_SECONDS[unit]}{unit}")
        raise AssertionError("every whole number is divisible by one")

    @property
    def seconds(self) -> int:
        """Return the nominal length in seconds (a month counts 30 days)."""
        if self.unit == "M":
            return 30 * 86_400 * self.count
        return _UNIT_SECONDS[self.unit] * self.count

    def floor(self, time_s: int) -> int:
        """Return the open time of the bar that holds ``time_s``."""
        if self.unit == "M":
            return _month_start(_month_number(time_s) // self.count * self.count)
        return (time_s - self.origin_s) // self.seconds * self.seconds + self.origin_s

    def next(self, time_s: int) -> int:
        """Return the open time of the bar after the one that holds ``time_s``."""
        if self.unit == "M":
            return _month_start((_month_number(time_s) // self.count + 1) * self.count)
        return self.floor(time_s) + self.seconds

    def grid(self, start_s: int, end_s: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the open times of all bars that open in [start_s, end_s), ascending."""
        first = self.floor(start_s)
        first = first if first >= start_s else self.next(start_s)
        if self.unit != "M":
            return np.arange(first, end_s, self.seconds, dtype=np.int64)
        times = []
        while first < end_s:
            times.append(first)
            first = self.next(first)
        return np.array(times, np.int64)

    def count_between(self, start_s: int, end_s: int) -> int:
        """Return how many bars open in [start_s, end_s)."""
        if self.unit == "M":
            return len(self.grid(start_s, end_s))
        first = self.floor(start_s)
        first = first if first >= start_s else first + self.seconds
        return max(0, -(-(end_s - first) // self.seconds))

    def on_grid(
        self, times_s: np.ndarray[Any, np.dtype[np.int64]]
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell for each time whether a bar opens there."""
        if self.unit == "M":
            return np.array([self.floor(int(time)) == time for time in times_s], bool)
        found: np.ndarray[Any, np.dtype[np.bool_]] = (times_s - self.origin_s) % self.seconds == 0
        return found

    def __str__(self) -> str:
        """Return the text form, as given."""
        return f"{self.count}{self.unit}"

    def __repr__(self) -> str:
        """Return a form that evaluates to an equal timeframe."""
        if self.origin_s == Timeframe(str(self)).origin_s:
            return f"Timeframe({str(self)!r})"
        return f"Timeframe({str(self)!r}, origin_s={self.origin_s})"

    def __eq__(self, other: object) -> bool:
        """Compare by text and grid: ``60s`` and ``1m`` are different names of bars."""
        return (
            isinstance(other, Timeframe)
            and str(self) == str(other)
            and self.origin_s == other.origin_s
        )

    def __lt__(self, other: Timeframe) -> bool:
        """Order by length."""
        return (self.seconds, self.unit) < (other.seconds, other.unit)

    def __hash__(self) -> int:
        """Hash text and grid."""
        return hash((self.count, self.unit, self.origin_s))


def _month_number(time_s: int) -> int:
    moment = datetime.fromtimestamp(time_s, UTC)
    return (moment.year - 1970) * 12 + moment.month - 1


def _month_start(number: int) -> int:
    return int(datetime(1970 + number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp())
