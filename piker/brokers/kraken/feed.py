"""Kraken's streams behind the provider contract; its bars are in :mod:`.history`."""

from __future__ import annotations

from typing import Any

import trio
from trio_typing import TaskStatus

from piker.brokers.hub import open_hub_feed
from piker.brokers.kraken import schema
from piker.brokers.kraken.api import (
    PROVIDER,
    Listing,
    fetch_tickers,
    find_listing,
    open_client,
)
from piker.brokers.kraken.decode import HALTED, MarketStatus, MissedTrades
from piker.brokers.kraken.history import open_history_client
from piker.brokers.kraken.repair import repair_for_ever
from piker.brokers.kraken.streams import source
from piker.brokers.quality import venue_quality
from piker.ticks import Outage, Resync, TickBatch

__all__ = ["open_history_client", "stream_quotes"]

MAX_GAPS = 1000  # holes that wait to be filled; an outage makes one for each symbol

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
