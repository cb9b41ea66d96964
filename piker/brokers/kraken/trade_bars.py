"""Trades into bars, exactly as the venue makes them. Pure.

Sums are decimal, so that volumes are the venue's to the last digit, and so is the average, which
is cut to the price's decimals as the venue cuts it: one made of floats would fall a tick short
whenever all trades of a bar have one price.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np

from piker.brokers.kraken import schema
from piker.brokers.quality import MAX_VALUE
from piker.clock import NS
from piker.errors import DataQuality
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = ["PastTrade", "TradeBars", "past_trades"]

PRECISION = 60  # digits of sums: a price of 20 times a size of 20, a billion times over
MAX_NUMBER = Decimal(MAX_VALUE)  # no price or size is more
MIN_EXPONENT = -30  # no price or size has more decimals


class PastTrade(NamedTuple):
    """A trade of the past with all its digits; ``number`` is the venue's id."""

    number: int
    time_ns: int
    price: Decimal
    size: Decimal
    buyer: bool  # whether the taker bought


def past_trades(rows: Sequence[schema.ExactTrade]) -> list[PastTrade]:
    """Return an answer's trades by ascending id; raise ``DataQuality`` for what can not be."""
    found = [
        PastTrade(number, int(time_s * NS), price, size, side == "b")
        for price, size, time_s, side, _, _, number in rows
        if _sound(price, positive=True) and _sound(size) and _sound(time_s) and side in ("b", "s")
    ]
    if len(found) != len(rows):
        raise DataQuality("kraken: Trades holds a trade that can not be.", kind="impossible-trade")
    return sorted(found)


def _sound(value: Decimal, *, positive: bool = False) -> bool:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < MIN_EXPONENT or value > MAX_NUMBER:
        return False
    return value > 0 if positive else value >= 0


class _Bar:
    __slots__ = (
        "close", "count", "high", "low", "open", "taker_turnover", "taker_volume", "turnover",
        "volume",
    )  # fmt: skip

    def __init__(self, price: Decimal) -> None:
        self.open = self.high = self.low = self.close = price
        self.count = 0
        self.volume = self.turnover = self.taker_volume = self.taker_turnover = Decimal(0)

    def add(self, trade: PastTrade) -> None:
        price, size = trade.price, trade.size
        self.high, self.low, self.close = max(self.high, price), min(self.low, price), price
        self.count += 1
        worth = price * size
        self.volume += size
        self.turnover += worth
        if trade.buyer:
            self.taker_volume += size
            self.taker_turnover += worth

    def row(self, time_s: int, tick: Decimal) -> tuple[Any, ...]:
        wap = Decimal(0)
        if self.volume:
            wap = (self.turnover / self.volume).quantize(tick, rounding=ROUND_FLOOR)
        return (
            0, time_s, *map(float, (self.open, self.high, self.low, self.close, self.volume)),
            self.count, float(wap), float(self.turnover), float(self.taker_volume),
            float(self.taker_turnover),
        )  # fmt: skip


class TradeBars:
    """The bars that open in [start_s, stop_s), out of trades that come with ascending ids.

    Both ends are on the grid. What memory it takes is by the bars, not by the trades.
    """

    def __init__(self, timeframe: Timeframe, start_s: int, stop_s: int, *, digits: int) -> None:
        self.timeframe = timeframe
        self.start_s, self.stop_s = start_s, stop_s
        self._tick = Decimal(1).scaleb(-digits)
        self._bars: dict[int, _Bar] = {}
        self._end_ns = 0  # of the bar of the last trade
        self._begin_ns = 0
        self._bar: _Bar | None = None

    def add(self, trades: Iterable[PastTrade]) -> None:
        """Add trades; those outside of the range are left out."""
        start_ns, stop_ns = self.start_s * NS, self.stop_s * NS
        with localcontext() as context:
            context.prec = PRECISION
            for trade in trades:
                if start_ns <= trade.time_ns < stop_ns:
                    self._bar_of(trade).add(trade)

    def _bar_of(self, trade: PastTrade) -> _Bar:
        if self._bar is None or not self._begin_ns <= trade.time_ns < self._end_ns:
            begin_s = self.timeframe.floor(trade.time_ns // NS)
            self._begin_ns, self._end_ns = begin_s * NS, self.timeframe.next(begin_s) * NS
            self._bar = self._bars.setdefault(begin_s, _Bar(trade.price))
        return self._bar

    @property
    def lacks_first(self) -> bool:
        """Tell whether the first bar has no trade: then the price before it is needed."""
        return self.start_s not in self._bars

    def rows(self, before: Decimal | None) -> np.ndarray[Any, Any]:
        """Return the bars as ``KLINE_DTYPE``, none left out in between.

        A bar without trades repeats the last close, with no volume and an average of 0. Bars
        before the first trade repeat the price ``before``; where that is None there are none.
        """
        times = self.timeframe.grid(self.start_s, self.stop_s)
        rows = np.zeros(len(times), KLINE_DTYPE)
        rows["time"] = times
        full = np.zeros(len(times), bool)
        with localcontext() as context:
            context.prec = PRECISION
            for time_s, bar in self._bars.items():
                at = int(np.searchsorted(times, time_s))
                rows[at], full[at] = bar.row(time_s, self._tick), True
        last = np.maximum.accumulate(np.where(full, np.arange(len(rows)), -1))
        first = 0.0 if before is None else float(before)
        close = np.where(last < 0, first, rows["close"][last])
        for name in ("open", "high", "low", "close"):
            rows[name] = np.where(full, rows[name], close)
        return rows if before is not None else rows[last >= 0]
