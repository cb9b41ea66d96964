"""Binance's streams behind the provider contract; its bars are :mod:`.history`'s."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import trio
from trio_typing import TaskStatus

from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS, Kind, get_mkt_info, open_client
from piker.brokers.binance.decode import MissedTrades
from piker.brokers.binance.history import open_history_client
from piker.brokers.binance.repair import repair_for_ever
from piker.brokers.binance.streams import StreamSource, sources
from piker.brokers.hub import Continuity, open_hub_feed
from piker.brokers.quality import venue_quality
from piker.ticks import Outage, Resync, TickBatch

__all__ = ["open_history_client", "stream_quotes"]

MAX_GAPS = 1000  # gaps that wait to be filled; an outage makes one for each symbol

quality = venue_quality("binance")


# -- live --------------------------------------------------------------------------------------
async def stream_quotes(
    send_chan: trio.abc.SendChannel[Any],
    symbols: list[str],
    shm: Any,  # the contract's array of bars; this backend does not read it
    feed_is_live: trio.Event,
    loglevel: str | None = None,
    task_status: TaskStatus[tuple[dict[str, Any], dict[str, Any]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Stream trades, top of book, closed bars and (futures) mark prices of any of the kinds.

    Runs until cancelled; survives outages of any length.
    """
    found = [await get_mkt_info(symbol) for symbol in symbols]
    markets = dict(zip(symbols, found, strict=True))
    groups: dict[str, list[str]] = defaultdict(list)
    for symbol, market in markets.items():
        groups[market.address.venue].append(symbol)
    first: dict[str, Any] = {}
    for venue, group in groups.items():
        names = {markets[symbol].bs_mktid: symbol for symbol in group}
        first.update(await _first_quotes(KINDS[venue], names))
    task_status.started(({s: {"mkt_info": market} for s, market in markets.items()}, first))
    continuity = Continuity()
    gaps, to_repair = trio.open_memory_channel[MissedTrades](MAX_GAPS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair_for_ever, to_repair, markets, send_chan)
        for venue, group in groups.items():
            for source in sources(KINDS[venue]):
                source.markets.update({symbol: markets[symbol] for symbol in group})
                nursery.start_soon(_pump, source, group, send_chan, feed_is_live, gaps, continuity)


async def _pump(
    source: StreamSource,
    symbols: list[str],
    send_chan: trio.abc.SendChannel[Any],
    feed_is_live: trio.Event,
    gaps: trio.MemorySendChannel[MissedTrades],
    continuity: Continuity,
) -> None:
    """Pass on what one source brings."""
    async with open_hub_feed(source, symbols) as feed:
        async for item in feed:
            if isinstance(item, MissedTrades):
                await send_chan.send(item.resync)
                try:
                    gaps.send_nowait(item)
                except trio.WouldBlock:
                    quality.count("gap-not-filled", f"{item}: too many at once")
                continue
            if isinstance(item, Outage | Resync) and not continuity.tell(source.key, item):
                continue
            await send_chan.send(item)
            if type(item) is TickBatch:
                feed_is_live.set()


async def _first_quotes(kind: Kind, names: dict[str, str]) -> dict[str, Any]:
    """Return a first quote for each symbol in two requests, whatever their number."""
    params: dict[str, str] | None = None
    if kind.venue == "spot":
        params = {"symbols": msgspec.json.encode(sorted(names)).decode()}
    async with open_client(kind) as client:
        prices = await client.get_json(
            f"{kind.prefix}/ticker/price", params, type=list[schema.TickerPrice], weight=4,
            strict=False,
        )  # fmt: skip
        books = await client.get_json(
            f"{kind.prefix}/ticker/bookTicker", params, type=list[schema.TickerBook], weight=5,
            strict=False,
        )  # fmt: skip
    tops = {book.symbol: book for book in books}
    quotes: dict[str, Any] = {}
    for price in prices:
        symbol = names.get(price.symbol)
        if symbol is not None:
            ticks = _ticks(price, tops.get(price.symbol))
            quotes[symbol] = {"symbol": symbol, "last": price.price, "ticks": ticks}
    return quotes


def _ticks(price: schema.TickerPrice, top: schema.TickerBook | None) -> list[dict[str, Any]]:
    ticks = [{"type": "last", "price": price.price, "size": 0.0}]
    if top is not None and top.bid_price > 0 and top.ask_price > 0:
        ticks.append({"type": "bid", "price": top.bid_price, "size": top.bid_qty})
        ticks.append({"type": "ask", "price": top.ask_price, "size": top.ask_qty})
    return ticks
