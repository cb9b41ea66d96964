"""Bars of a loopback market, made or given, as the lines that every interface's text comes from."""

from __future__ import annotations

from piker.ohlcv import Timeframe
from piker.testing import binance_wire as wire
from piker.testing.bar_table import BarTable
from piker.testing.binance_market import Listing

__all__ = ["bars_between", "newest_bars", "oldest_bars"]

MONTH_S = 31 * 86_400  # the longest: nominal months would miss bars


def bars_between(
    listing: Listing, timeframe: Timeframe, start_s: int, stop_s: int, now_s: int
) -> list[str]:
    """Return the bars that open in [start_s, stop_s), up to the one in progress."""
    stop_s = _end(listing, stop_s)
    table = _table(listing, timeframe)
    if table is not None:
        return table.lines(start_s, stop_s)
    start_s = max(start_s, timeframe.floor(listing.listed_s))
    if start_s >= stop_s:
        return []
    return wire.bar_lines(
        listing, listing.market.bars(timeframe, start_s, stop_s, now_s), timeframe
    )


def newest_bars(
    listing: Listing, timeframe: Timeframe, limit: int, start_s: int, stop_s: int, *, now_s: int
) -> list[str]:
    """Return the last ``limit`` bars that open in [start_s, stop_s)."""
    stop_s = _end(listing, stop_s)
    table = _table(listing, timeframe)
    if table is not None:
        return table.newest(limit, start_s, stop_s)
    stop_s = min(stop_s, now_s + 1)
    start_s = max(start_s, stop_s - _span_s(timeframe, limit), 0)
    return bars_between(listing, timeframe, start_s, stop_s, now_s)[-limit:]


def oldest_bars(
    listing: Listing, timeframe: Timeframe, limit: int, start_s: int, stop_s: int, *, now_s: int
) -> list[str]:
    """Return the first ``limit`` bars that open in [start_s, stop_s)."""
    stop_s = _end(listing, stop_s)
    table = _table(listing, timeframe)
    if table is not None:
        return table.oldest(limit, start_s, stop_s)
    start_s = max(start_s, timeframe.floor(listing.listed_s))
    stop_s = min(stop_s, now_s + 1, start_s + _span_s(timeframe, limit))
    return bars_between(listing, timeframe, start_s, stop_s, now_s)[:limit]


def _end(listing: Listing, stop_s: int) -> int:
    """Return the end of a range as far as the market was traded."""
    return min(stop_s, listing.ended_s) if listing.ended_s else stop_s


def _table(listing: Listing, timeframe: Timeframe) -> BarTable | None:
    """Return the given bars, none of them where that interval is not; None where bars are made."""
    if listing.given is None:
        return None
    return listing.given.get(str(timeframe)) or BarTable(timeframe, ())


def _span_s(timeframe: Timeframe, limit: int) -> int:
    return (MONTH_S * timeframe.count if timeframe.unit == "M" else timeframe.seconds) * limit
