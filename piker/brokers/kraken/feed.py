"""Kraken's streams and bars behind the provider contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import numpy as np
import pendulum
import trio
from trio_typing import TaskStatus

from piker.brokers.hub import open_hub_feed
from piker.brokers.kraken import schema
from piker.brokers.kraken.api import (
    PROVIDER,
    Listing,
    fetch_ohlc,
    fetch_tickers,
    find_listing,
    open_client,
)
from piker.brokers.kraken.decode import HALTED, MarketStatus, MissedTrades
from piker.brokers.kraken.repair import repair_for_ever
from piker.brokers.kraken.streams import source
from piker.brokers.quality import sound_bars, venue_quality
from piker.errors import DataUnavailable, NoData
from piker.ohlcv import OHLC_DTYPE
from piker.ticks import Outage, Resync, TickBatch

__all__ = ["open_history_client", "stream_quotes"]

MAX_GAPS = 1000  # holes that wait to be filled; an outage makes one for each symbol
ROWS = 720  # bars the venue serves, whatever is asked (its OHLC documents)
# Weeks (10080) and half months (21600) are left out: where theirs begin was not checked.
_MINUTES = {60: 1, 300: 5, 900: 15, 1800: 30, 3600: 60, 14_400: 240, 86_400: 1440}

quality = venue_quality(PROVIDER)


# -- live ----------------------------------------------------------------------------------------
async def stream_quotes(
    send_chan: trio.abc.SendChannel[Any],
    symbols: list[str],
    shm: Any,  # the contract's array of bars; this backend does not read it
    feed_is_live: trio.Event,
    loglevel: str | None = None,
    task_status: TaskStatus[tuple[dict[str, Any], dict[str, Any]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Stream trades, top of book and closed one-minute bars.

    Runs until cancelled; survives outages of any length.
    """
    listings = {symbol: await find_listing(symbol) for symbol in symbols}
    first = await _first_quotes(listings)
    init = {symbol: {"mkt_info": listing.market} for symbol, listing in listings.items()}
    task_status.started((init, first))
    shared = source()
    shared.listings.update(listings)
    gaps, to_repair = trio.open_memory_channel[MissedTrades](MAX_GAPS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair_for_ever, to_repair, listings, send_chan)
        halts = Halts()
        for symbol, listing in listings.items():
            for event in halts.take(MarketStatus(symbol, listing.market.status)):
                await send_chan.send(event)
        async with open_hub_feed(shared, list(listings)) as feed:
            async for item in feed:
                if isinstance(item, MarketStatus):
                    for event in halts.take(item):
                        await send_chan.send(event)
                    continue
                if isinstance(item, MissedTrades):
                    await send_chan.send(item.resync)
                    _note(gaps, item)
                    continue
                await send_chan.send(item)
                if type(item) is TickBatch:
                    feed_is_live.set()


class Halts:
    """Which markets the venue has halted. Pure: it says what their readers are to be told."""

    def __init__(self) -> None:
        self._halted: set[str] = set()

    def take(self, news: MarketStatus) -> list[Outage | Resync]:
        """Return an Outage when a market stops matching orders, a Resync when it goes on."""
        symbol, halted = news.symbol, news.status in HALTED
        if halted == (symbol in self._halted):
            return []
        said = f"the venue says: {news.status.replace('_', ' ')}"
        if halted:
            self._halted.add(symbol)
            return [Outage(said, symbol)]
        self._halted.discard(symbol)
        return [Resync("venue", symbol, detail=said)]


def _note(gaps: trio.MemorySendChannel[MissedTrades], gap: MissedTrades) -> None:
    try:
        gaps.send_nowait(gap)
    except trio.WouldBlock:
        quality.count("gap-not-filled", f"{gap}: too many at once")


async def _first_quotes(listings: dict[str, Listing]) -> dict[str, Any]:
    """Return a first quote for each symbol in one request, whatever their number."""
    async with open_client() as client:
        tickers = await fetch_tickers(client, listings.values())
    quotes: dict[str, Any] = {}
    for symbol, listing in listings.items():
        ticker = tickers.get(listing.altname)
        if ticker is not None:
            quotes[symbol] = {"symbol": symbol, "last": ticker.c[0], "ticks": _ticks(ticker)}
    return quotes


def _ticks(ticker: schema.RestTicker) -> list[dict[str, Any]]:
    ticks = [{"type": "last", "price": ticker.c[0], "size": 0.0}]
    if 0 < ticker.b[0] < ticker.a[0]:
        ticks.append({"type": "bid", "price": ticker.b[0], "size": ticker.b[2]})
        ticks.append({"type": "ask", "price": ticker.a[0], "size": ticker.a[2]})
    return ticks


# -- history -------------------------------------------------------------------------------------
@asynccontextmanager
async def open_history_client(symbol: str) -> AsyncIterator[tuple[Any, dict[str, int]]]:
    """Yield ``(get_ohlc, config)`` as seed 002 says. One request a call, the newest 720 bars."""
    listing = await find_listing(symbol)
    async with open_client() as client:

        async def get_ohlc(
            timeframe: float, end_dt: datetime | None = None, start_dt: datetime | None = None
        ) -> tuple[np.ndarray[Any, Any], pendulum.DateTime, pendulum.DateTime]:
            """Return bars with open time in [start_dt, end_dt), ascending; None = the newest.

            ``DataUnavailable`` for a range before the newest 720: the venue never has it.
            """
            minutes = _MINUTES.get(int(timeframe)) if int(timeframe) == timeframe else None
            if minutes is None:
                raise DataUnavailable(f"kraken has no bars of {timeframe:g} s.")
            found, final = await fetch_ohlc(client, listing, minutes)
            rows = sound_bars(bars_of(found), quality, symbol)
            rows = select(rows, final, start_dt, end_dt)
            return rows, _moment(rows["time"][0]), _moment(rows["time"][-1])

        yield get_ohlc, {"erlangs": 3, "rate": 3}


def bars_of(found: list[schema.OhlcRow]) -> np.ndarray[Any, Any]:
    """Return OHLC rows as bars. An empty bar repeats the last close; its average is 0."""
    rows = np.zeros(len(found), OHLC_DTYPE)
    if found:
        columns = list(zip(*found, strict=True))
        for at, name in enumerate(("time", "open", "high", "low", "close", "bar_wap", "volume")):
            rows[name] = columns[at]
        rows["count"] = columns[7]
        rows["bar_wap"] = np.where(rows["volume"] > 0, rows["bar_wap"], 0.0)
    return rows


def select(
    rows: np.ndarray[Any, Any], final_s: int, start_dt: datetime | None, end_dt: datetime | None
) -> np.ndarray[Any, Any]:
    """Return the bars in [start_dt, end_dt); the unfinished one only where no end is given.

    Raises ``DataUnavailable`` where the range ends before the oldest row, ``NoData`` where it
    is empty otherwise.
    """
    if len(rows) and end_dt is not None and end_dt.timestamp() <= rows["time"][0]:
        raise DataUnavailable(f"kraken serves the newest {ROWS} bars only.")
    keep = np.ones(len(rows), bool)
    if start_dt is not None:
        keep &= rows["time"] >= start_dt.timestamp()
    if end_dt is not None:
        keep &= (rows["time"] < end_dt.timestamp()) & (rows["time"] <= final_s)
    if not keep.any():
        raise NoData("kraken: no bars there.", frame_size=ROWS)
    return rows[keep]


def _moment(time_s: Any) -> pendulum.DateTime:
    return pendulum.from_timestamp(int(time_s))
