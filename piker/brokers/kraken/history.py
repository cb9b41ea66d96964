"""Kraken's bars behind the provider contract: the newest as it serves them, all others made.

``OHLC`` serves the newest 720 bars of some lengths. Whatever lies before them, and every other
length, is built from ``Trades``, equal to the venue's own bars: docs/brokers/kraken.md.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pendulum

from piker.brokers.kraken import schema
from piker.brokers.kraken.api import PROVIDER, fetch_ohlc, find_listing, open_client
from piker.brokers.kraken.trade_history import TradeHistory
from piker.brokers.quality import sound_bars, venue_quality
from piker.clock import NS, wall_ns
from piker.errors import NoData, NotOffered
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = ["NATIVE", "TIMEFRAMES", "open_history_client"]

ROWS = 720  # bars of an answer of OHLC, whatever is asked (its documents)
DAY_S = 86_400
MONTH_S = 30 * DAY_S  # what a calendar month is called in seconds
#: What is offered by name: shorter ones must divide a day, longer ones are these.
TIMEFRAMES = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d",
              "3d", "1w", "1M")  # fmt: skip
# Weeks (10080) and half months (21600) are left out: where theirs begin was not checked.
_MINUTES = {60: 1, 300: 5, 900: 15, 1800: 30, 3600: 60, 14_400: 240, DAY_S: 1440}
#: The lengths that OHLC has. History composes the others of these rather than of trades.
NATIVE = tuple(str(Timeframe.from_seconds(seconds)) for seconds in _MINUTES)
_MADE = ("turnover", "taker_volume", "taker_turnover")  # what OHLC does not say

quality = venue_quality(PROVIDER)
Rows = np.ndarray[Any, Any]


@asynccontextmanager
async def open_history_client(symbol: str) -> AsyncIterator[tuple[Any, dict[str, int]]]:
    """Yield ``(get_ohlc, config)`` as seed 002 says."""
    listing = await find_listing(symbol)
    async with open_client() as client:
        trades = TradeHistory(client, listing)

        async def get_ohlc(
            timeframe: float | str | Timeframe,
            end_dt: datetime | None = None,
            start_dt: datetime | None = None,
        ) -> tuple[Rows, pendulum.DateTime, pendulum.DateTime]:
            """Return bars with open time in [start_dt, end_dt), ascending; None = the newest.

            ``KLINE_DTYPE``. A range of more than one call brings gives its newest part: ask again
            with the first time as ``end_dt`` for what is before it. The bar in progress is the
            last row when ``end_dt`` is None, and left out otherwise. Times without a zone are UTC.

            One request for what is among the newest 720 bars; otherwise trades, up to
            ``MAX_PAGES`` pages and some at a second each. ``timeframe`` is in seconds
            (2,592,000 are a calendar month), or a name. Raises ``NotOffered`` for lengths that
            do not divide a day, and for a bar of too many trades; ``DataUnavailable`` before the
            first trade ever; ``NoData`` for a range without bars.
            """
            frame = _timeframe(timeframe)
            start_s, end_s = _seconds(start_dt), _seconds(end_dt)
            minutes = _MINUTES.get(frame.seconds) if frame.unit != "M" else None
            if minutes is not None and _may_serve(frame, end_s):
                found, final_s = await fetch_ohlc(client, listing, minutes)
                rows = sound_bars(bars_of(found), quality, symbol)
                if not len(rows):
                    raise NoData(f"{symbol}: no bars yet.", frame_size=ROWS)
                if end_s is None or end_s > rows["time"][0]:
                    return _frame(select(rows, final_s, start_s, end_s))
            return _frame(await trades.bars(frame, start_s, end_s))

        yield get_ohlc, {"erlangs": 3, "rate": 3}


def _timeframe(asked: float | str | Timeframe) -> Timeframe:
    """Return the bar length; ``NotOffered`` for one that is none, or not aligned to days."""
    try:
        if isinstance(asked, str | Timeframe):
            frame = Timeframe(str(asked))
        else:
            frame = Timeframe.from_seconds(asked if math.isfinite(asked) else 0)
            frame = Timeframe("1M") if frame.seconds == MONTH_S else frame
    except ValueError as err:
        raise NotOffered(f"kraken: {err}.") from err
    if str(frame) not in TIMEFRAMES and (frame.unit == "M" or DAY_S % frame.seconds):
        raise NotOffered(
            f"kraken: bars of {frame} do not divide a day.",
            remedy=f"Longer than a day there are {', '.join(TIMEFRAMES[-3:])}.",
        )
    return frame


def _seconds(moment: datetime | None) -> int | None:
    """Return a bound in seconds UTC. Bars open on whole seconds: fractions are rounded up."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return math.ceil(moment.timestamp())


def _may_serve(frame: Timeframe, end_s: int | None) -> bool:
    """Tell whether a range may reach into the newest 720 bars."""
    oldest_s = frame.floor(wall_ns() // NS) - ROWS * frame.seconds
    return end_s is None or end_s > oldest_s


def bars_of(found: list[schema.OhlcRow]) -> Rows:
    """Return OHLC rows as bars. An empty bar repeats the last close; its average is 0."""
    rows = np.zeros(len(found), KLINE_DTYPE)
    for name in _MADE:
        rows[name] = np.nan
    if found:
        columns = list(zip(*found, strict=True))
        for at, name in enumerate(("time", "open", "high", "low", "close", "bar_wap", "volume")):
            rows[name] = columns[at]
        rows["count"] = columns[7]
        rows["bar_wap"] = np.where(rows["volume"] > 0, rows["bar_wap"], 0.0)
    return rows


def select(rows: Rows, final_s: int, start_s: int | None, end_s: int | None) -> Rows:
    """Return the bars in [start_s, end_s); the unfinished one only where no end is given.

    Raises ``NoData`` where there is none.
    """
    keep = np.ones(len(rows), bool)
    if start_s is not None:
        keep &= rows["time"] >= start_s
    if end_s is not None:
        keep &= (rows["time"] < end_s) & (rows["time"] <= final_s)
    if not keep.any():
        raise NoData("kraken: no bars there.", frame_size=ROWS)
    return rows[keep]


def _frame(rows: Rows) -> tuple[Rows, pendulum.DateTime, pendulum.DateTime]:
    first, last = (pendulum.from_timestamp(int(rows["time"][at])) for at in (0, -1))
    return rows, first, last
