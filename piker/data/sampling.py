"""Ticks to bars: one builder per market and timeframe, pure, on the venue's clock.

A builder holds the open bar in plain floats and hands out finished rows; writing them is its
owner's business (:mod:`piker.data.tape`). Rules:

- a bar's time is its aligned open on the venue's timestamps, so nothing drifts;
- a period without trades is a flat bar at the last close: volume 0, count 0, bar_wap 0;
- ``count`` is negative while a bar is not known to be complete (the feed was down, had just begun
  or skipped a trade during it): ``-(n + 1)`` for n trades seen; the venue's own closed bar, where
  it publishes one, makes it right;
- a trade that arrives after its bar was closed revises that bar.

A trade's cost here is a few float comparisons: :meth:`fold` takes the sum of many trades of the
same second (architecture.md section 4; costs in docs/performance.md).
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from piker.ohlcv import ClosedBar

__all__ = ["MAX_GAP_BARS", "REVISABLE", "Bar", "BarBuilder", "BarWrite"]

REVISABLE = 180  # closed bars kept at hand for late trades and the venue's corrections: 3 minutes
# of seconds, 3 hours of minutes. Venues publish a closed bar within a few seconds of its end.
MAX_GAP_BARS = 86_400  # flat bars made in one go: a day of seconds. A longer silence starts anew.
TOLERANCE = 1e-9  # relative; sums of floats in another order differ by less


class Bar(NamedTuple):
    """The values of one bar in ``OHLC_DTYPE`` order, without ``index``; ``trades`` is ``count``."""

    time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    bar_wap: float

    @property
    def complete(self) -> bool:
        """Tell whether every trade of the bar is known to be in it."""
        return self.trades >= 0


class BarWrite(NamedTuple):
    """What the owner must write: rows that were closed, the open row, older rows to revise.

    ``closed[0]`` replaces the last row of the array when ``replaces_last`` is set (it was its open
    row until now); the others and ``open`` follow it.
    """

    replaces_last: bool
    rows: list[Bar]
    revised: list[Bar]


class BarBuilder:
    """Builds one timeframe of one market from trades, the clock and the venue's own bars.

    A turnover is the sum of price times size; of an inverse market, whose sizes are contracts, the
    sum of size divided by price.
    """

    __slots__ = (
        "_close",
        "_closed",
        "_complete",
        "_count",
        "_down",
        "_final_time",
        "_finished",
        "_high",
        "_low",
        "_open",
        "_revised",
        "_turnover",
        "_volume",
        "_whole_from",
        "_written",
        "corrections",
        "inverse",
        "late",
        "period_s",
        "time",
    )

    def __init__(self, period_s: int, *, inverse: bool = False) -> None:
        self.period_s = period_s
        self.inverse = inverse
        self.time = -1  # open time of the current bar; -1 until something is known
        self.late = 0  # trades that arrived after their bar was closed
        self.corrections = 0  # bars that the venue's own closed bar put right
        self._open = self._high = self._low = self._close = math.nan
        self._volume = self._turnover = 0.0
        self._count = 0
        self._complete = False
        self._down = False
        self._whole_from = -math.inf  # bars that begin earlier are not known to be complete
        self._final_time = -1  # bars up to here have the venue's own values
        self._written = False  # the current bar has a row in the array
        self._closed: deque[Bar] = deque(maxlen=REVISABLE)
        self._finished: list[Bar] = []
        self._revised: list[Bar] = []

    # -- input -------------------------------------------------------------------------------
    def seed(self, price: float, time_s: int) -> None:
        """Begin with a known last price, before any trade; the first bar is incomplete."""
        if self.time < 0:
            self._begin(self._floor(time_s), price, complete=False)

    def resume(self, rows: list[Bar]) -> None:
        """Continue after rows that are already in the array; the last of them is the open bar.

        What was traded while nobody listened is unknown: bars are incomplete until ``restore``.
        """
        if not rows:
            return
        *older, last = rows
        self._closed.extend(older)
        self.time = last.time
        self._open, self._high, self._low, self._close = last.open, last.high, last.low, last.close
        self._volume = last.volume
        self._count = last.trades if last.complete else -last.trades - 1
        self._turnover = self._turnover_of(last.volume, last.bar_wap)
        self.interrupt()
        self._written = True

    def fold(
        self,
        time_s: int,
        first: float,
        high: float,
        low: float,
        last: float,
        volume: float,
        turnover: float,
        count: int,
    ) -> None:
        """Add ``count`` trades of one second, summed by the caller in arrival order."""
        start = time_s - time_s % self.period_s
        if start < self.time:
            self._fold_late(start, first, high, low, last, volume, turnover, count)
            return
        if start > self.time:
            self._roll_to(start, first)
        if not self._count:
            self._open = self._high = self._low = first
        if high > self._high:
            self._high = high
        if low < self._low:
            self._low = low
        self._close = last
        self._volume += volume
        self._turnover += turnover
        self._count += count

    def advance(self, venue_now_s: float) -> None:
        """Close every bar that has ended by the venue's clock, flat ones included."""
        start = self._floor(int(venue_now_s))
        if 0 <= self.time < start:
            self._roll_to(start, self._close)

    def interrupt(self) -> None:
        """Mark this bar and all that follow as incomplete: the feed is down."""
        self._down = True
        self._complete = False

    def restore(self, from_s: float) -> None:
        """Say that the feed is back: bars that begin after ``from_s``, its return, are complete."""
        self._down = False
        self._whole_from = from_s

    def doubt(self, since_s: float) -> None:
        """Mark the bars from ``since_s`` on that are kept as incomplete, the current one always.

        A trade that comes late belongs somewhere before those that were seen: it makes a bar's sums
        right, but neither its open nor its close.
        """
        self._complete = False
        for position in reversed(range(len(self._closed))):
            bar = self._closed[position]
            if bar.time + self.period_s <= since_s:
                return
            if bar.complete:
                self._revise(position, bar._replace(trades=-(bar.trades + 1)))

    @property
    def kept_from(self) -> int:
        """Return the time of the oldest bar that is kept, the current one's if there is none."""
        return self._closed[0].time if self._closed else self.time

    def correct(self, bar: ClosedBar) -> bool:
        """Take the venue's own closed bar; return whether a bar of ours proved wrong.

        The venue's word is final: trades of that bar that arrive later change nothing.
        """
        if self.time < 0 or bar.time_s <= self._final_time:
            return False
        theirs = Bar(
            bar.time_s, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.count, bar.bar_wap
        )
        if bar.time_s >= self.time:  # their close came before our clock's: close ours by theirs
            if bar.time_s > self.time:
                self._roll_to(bar.time_s, self._close)
            self._final_time = bar.time_s
            self._roll_to(bar.time_s + self.period_s, bar.close, closing=theirs)
            return False
        position = self._position_of(bar.time_s)
        if position is None:
            return False
        self._final_time = bar.time_s
        ours = self._closed[position]
        if _same(ours, theirs):
            return False
        self._revise(position, theirs)
        self._carry_close(position, ours.close, theirs.close)
        self.corrections += ours.complete
        return ours.complete

    def absorb(self, bar: Bar, *, closed: bool) -> None:
        """Take what a snapshot of the venue says of a bar, in time order; ``closed`` if it ended.

        A closed bar of ours that is complete is left alone: it was made trade by trade. For one
        that is not, or that we have not closed yet, the venue's word is final. The bar in progress
        takes the snapshot's volume, which holds what was traded before we listened, and perhaps
        some of what we are still to hear: it is not known to be complete.
        """
        if closed and bar.time >= self.time:
            if bar.time > self.time:
                self._roll_to(bar.time, self._close)
            self._final_time = bar.time
            self._roll_to(bar.time + self.period_s, bar.close, closing=bar)
            return
        if bar.time > self.time:
            self._roll_to(bar.time, self._close)
        if bar.time == self.time:
            seen = self._count
            self._open = bar.open
            self._high, self._low = max(self._high, bar.high), min(self._low, bar.low)
            if not seen:
                self._high, self._low, self._close = bar.high, bar.low, bar.close
            self._volume = bar.volume
            self._turnover = self._turnover_of(bar.volume, bar.bar_wap)
            self._count = max(seen, bar.trades)
            self._complete = False
            return
        position = self._position_of(bar.time)
        if position is None or self._closed[position].complete:
            return
        before = self._closed[position].close
        self._final_time = max(self._final_time, bar.time)
        self._revise(position, bar)
        self._carry_close(position, before, bar.close)

    # -- output ------------------------------------------------------------------------------
    def take(self) -> BarWrite | None:
        """Return what must be written since the last call, or None before the first bar."""
        if self.time < 0:
            return None
        rows = [*self._finished, self._current()]
        write = BarWrite(self._written, rows, self._revised)
        self._finished, self._revised = [], []
        self._written = True
        return write

    @property
    def last_close(self) -> float:
        """Return the last known price, NaN before there is one."""
        return self._close

    # -- inside ------------------------------------------------------------------------------
    def _floor(self, time_s: int) -> int:
        return time_s - time_s % self.period_s

    def _current(self) -> Bar:
        wap = self._mean(self._volume, self._turnover)
        count = self._count if self._complete else -(self._count + 1)
        return Bar(
            self.time, self._open, self._high, self._low, self._close, self._volume, count, wap
        )

    def _mean(self, volume: float, turnover: float) -> float:
        """Return the volume-weighted price, 0 without trades."""
        if volume <= 0.0 or turnover <= 0.0:
            return 0.0
        return volume / turnover if self.inverse else turnover / volume

    def _turnover_of(self, volume: float, mean: float) -> float:
        """Return the turnover that ``_mean`` makes ``mean`` of."""
        if not self.inverse:
            return mean * volume
        return volume / mean if mean > 0.0 else 0.0

    def _begin(self, start: int, price: float, *, complete: bool) -> None:
        self.time = start
        self._open = self._high = self._low = self._close = price
        self._volume = self._turnover = 0.0
        self._count = 0
        self._complete = complete

    def _roll_to(self, start: int, price: float, closing: Bar | None = None) -> None:
        """Close the current bar, make flat ones up to ``start``, and open a bar there."""
        if self.time < 0:
            self._begin(start, price, complete=False)
            return
        bar = closing or self._current()
        self._keep(bar)
        gap_from = self.time + self.period_s
        gap_from = max(gap_from, start - MAX_GAP_BARS * self.period_s)
        close = bar.close
        for time_s in range(gap_from, start, self.period_s):
            count = 0 if self._is_whole(time_s) else -1
            self._keep(Bar(time_s, close, close, close, close, 0.0, count, 0.0))
        self._begin(start, close, complete=self._is_whole(start))

    def _is_whole(self, start: int) -> bool:
        """Tell whether the feed is there from the beginning of a bar on."""
        return not self._down and start >= self._whole_from

    def _keep(self, bar: Bar) -> None:
        self._closed.append(bar)
        self._finished.append(bar)

    def _position_of(self, time_s: int) -> int | None:
        """Return where the closed bar of that time is kept; bars are equidistant."""
        if not self._closed:
            return None
        position = len(self._closed) - 1 - (self._closed[-1].time - time_s) // self.period_s
        if not 0 <= position < len(self._closed) or self._closed[position].time != time_s:
            return None
        return position

    def _revise(self, position: int, bar: Bar) -> None:
        self._closed[position] = bar
        self._revised.append(bar)

    def _fold_late(
        self,
        start: int,
        first: float,
        high: float,
        low: float,
        last: float,
        volume: float,
        turnover: float,
        count: int,
    ) -> None:
        """Add trades to a bar that was closed already, unless the venue has closed it itself."""
        self.late += count
        position = self._position_of(start) if start > self._final_time else None
        if position is None:
            return
        bar = self._closed[position]
        seen = bar.trades if bar.complete else -bar.trades - 1
        total = bar.volume + volume
        now = bar._replace(
            open=bar.open if seen else first,
            high=max(bar.high, high) if seen else high,
            low=min(bar.low, low) if seen else low,
            # Where in its bar a late trade belongs is not known; the close stays as it was.
            close=bar.close if seen else last,
            volume=total,
            trades=seen + count if bar.complete else -(seen + count + 1),
            bar_wap=self._mean(total, self._turnover_of(bar.volume, bar.bar_wap) + turnover),
        )
        self._revise(position, now)
        self._carry_close(position, bar.close, now.close)

    def _carry_close(self, position: int, ours: float, theirs: float) -> None:
        """Let a corrected close run through the flat bars that were made from it."""
        if ours == theirs:
            return
        for later in range(position + 1, len(self._closed)):
            bar = self._closed[later]
            if bar.trades > 0 or bar.trades < -1 or bar.close != ours:
                return
            flat = bar._replace(open=theirs, high=theirs, low=theirs, close=theirs)
            self._revise(later, flat)
        if not self._count and self._close == ours:
            self._open = self._high = self._low = self._close = theirs


def _same(ours: Bar, theirs: Bar) -> bool:
    if ours.trades != theirs.trades:
        return False
    return all(
        math.isclose(mine, venues, rel_tol=TOLERANCE)
        for mine, venues in zip(ours[1:6], theirs[1:6], strict=True)
    )
