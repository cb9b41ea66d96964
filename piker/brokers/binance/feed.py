"""Binance's streams and bars behind the provider contract."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pendulum
import trio
from trio_typing import TaskStatus

from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS, Kind, get_mkt_info, open_client, url
from piker.brokers.binance.decode import Decoder, MissedTrades
from piker.brokers.quality import venue_quality
from piker.brokers.ws import Frames, Link, Ws, open_ws
from piker.errors import DataUnavailable, NoData
from piker.market import MktPair
from piker.ohlcv import OHLC_DTYPE
from piker.ticks import Outage, Resync, TickBatch

__all__ = ["open_history_client", "stream_quotes"]

STREAMS_PER_MESSAGE = 150  # a SUBSCRIBE of this many names stays well under 8 KB
STREAMS_PER_CONNECTION = 1000  # of 1024 that the venue allows (venues.md 1.4)
LOSS_S = 0.1  # how often a connection's state is looked at, so that a loss is told within a second
_INTERVALS = {
    1: "1s", 60: "1m", 180: "3m", 300: "5m", 900: "15m", 1800: "30m", 3600: "1h", 7200: "2h",
    14_400: "4h", 21_600: "6h", 28_800: "8h", 43_200: "12h", 86_400: "1d", 604_800: "1w",
}  # fmt: skip

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
    markets = [await get_mkt_info(symbol) for symbol in symbols]
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for market, symbol in zip(markets, symbols, strict=True):
        groups[market.address.venue][market.bs_mktid] = symbol
    first: dict[str, Any] = {}
    for venue, names in groups.items():
        first.update(await _first_quotes(KINDS[venue], names))
    init = {s: {"mkt_info": market} for s, market in zip(symbols, markets, strict=True)}
    task_status.started((init, first))
    async with trio.open_nursery() as nursery:
        for venue, names in groups.items():
            for path, streams in _plan(KINDS[venue], names):
                decoder = Decoder(names, quality)
                nursery.start_soon(
                    _run_connection, KINDS[venue], path, streams, decoder, send_chan, feed_is_live
                )


def _plan(kind: Kind, names: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Return (path, streams) for each connection: USD-M routes kinds of streams apart."""
    public = [f"{name.lower()}@bookTicker" for name in names]
    market = [f"{name.lower()}@{what}" for name in names for what in ("aggTrade", "kline_1m")]
    if kind.venue == "spot":
        market += [f"{name.lower()}@kline_1s" for name in names]
    else:
        market += [f"{name.lower()}@markPrice@1s" for name in names]
    if kind.venue == "usdtm":
        parts = [("/public/stream", public), ("/market/stream", market)]
    else:
        parts = [("/stream", public + market)]
    cap = STREAMS_PER_CONNECTION
    return [
        (path, streams[at : at + cap])
        for path, streams in parts
        for at in range(0, len(streams), cap)
    ]


async def _run_connection(
    kind: Kind,
    path: str,
    streams: list[str],
    decoder: Decoder,
    send_chan: trio.abc.SendChannel[Any],
    feed_is_live: trio.Event,
) -> None:
    async def subscribe(link: Link) -> None:
        for at in range(0, len(streams), STREAMS_PER_MESSAGE):
            names = streams[at : at + STREAMS_PER_MESSAGE]
            await link.send(_command("SUBSCRIBE", names, at + 1))

    async with open_ws(
        url(kind, "ws") + path,
        venue=f"binance.{kind.name}",
        on_connect=subscribe,
        is_live=_is_data,
    ) as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_losses, ws, decoder, send_chan)
            async for item in ws:
                if not isinstance(item, Frames):
                    for symbol in decoder.markets.values():
                        await send_chan.send(_for_symbol(item, symbol))
                    continue
                rows = decoder.decode(item.frames, item.recv_ns)
                if rows:
                    await send_chan.send(TickBatch(rows, item.recv_ns))
                    feed_is_live.set()
                for other in decoder.take_outband():
                    if isinstance(other, MissedTrades):
                        await send_chan.send(Resync("sequence-gap", other.symbol, other.count))
                    else:
                        await send_chan.send(other)
                if decoder.shutdown:
                    decoder.shutdown = False
                    ws.rotate("serverShutdown")
            nursery.cancel_scope.cancel()


def _for_symbol(resync: Any, symbol: str) -> Any:
    return msgspec.structs.replace(resync, symbol=symbol)


async def _tell_losses(ws: Ws, decoder: Decoder, send_chan: trio.abc.SendChannel[Any]) -> None:
    """Say so when a connection that was live is gone."""
    was_live = False
    while True:
        live = ws.state == "live"
        if was_live and not live:
            for symbol in decoder.markets.values():
                await send_chan.send(Outage(ws.last_error or "connection lost", symbol))
        was_live = live
        await trio.sleep(LOSS_S)


def _is_data(frame: bytes) -> bool:
    return frame.startswith(b'{"stream"')


def _command(method: str, streams: Sequence[str], number: int) -> str:
    body = {"method": method, "params": list(streams), "id": number}
    return msgspec.json.encode(body).decode()


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


# -- history -----------------------------------------------------------------------------------
@asynccontextmanager
async def open_history_client(symbol: str) -> AsyncIterator[tuple[Any, dict[str, int]]]:
    """Yield ``(get_ohlc, config)`` as seed 002 says. One request a call, at most 1000 bars."""
    market = await get_mkt_info(symbol)
    kind = KINDS[market.address.venue]
    async with open_client(kind) as client:

        async def get_ohlc(
            timeframe: float, end_dt: datetime | None = None, start_dt: datetime | None = None
        ) -> tuple[np.ndarray[Any, Any], pendulum.DateTime, pendulum.DateTime]:
            """Return bars with open time in [start_dt, end_dt), ascending; None = the newest."""
            period = int(timeframe)
            interval = _INTERVALS.get(period) if period == timeframe else None
            if interval is None or (period == 1 and kind.venue != "spot"):
                raise DataUnavailable(f"binance {kind.venue} has no bars of {timeframe:g} s.")
            params: dict[str, Any] = {
                "symbol": market.bs_mktid, "interval": interval, "limit": kind.max_klines
            }  # fmt: skip
            if start_dt is not None:
                params["startTime"] = int(start_dt.timestamp() * 1000)
            if end_dt is not None:
                params["endTime"] = int(end_dt.timestamp() * 1000) - 1
            found = await client.get_json(
                f"{kind.prefix}/klines", params, type=list[schema.KlineRow],
                weight=kind.kline_weight, strict=False,
            )  # fmt: skip
            if not found:
                raise NoData(f"{symbol}: no bars there.", frame_size=kind.max_klines)
            rows = bars_of(found, market)
            return rows, _moment(rows["time"][0]), _moment(rows["time"][-1])

        yield get_ohlc, {"erlangs": 3, "rate": 3}


def bars_of(found: list[schema.KlineRow], market: MktPair) -> np.ndarray[Any, Any]:
    """Return kline rows as bars. COIN-M volume is in contracts, its column 7 in coins."""
    rows = np.zeros(len(found), OHLC_DTYPE)
    columns = list(zip(*found, strict=True))
    rows["time"] = np.array(columns[0], "i8") // 1000
    for at, name in enumerate(("open", "high", "low", "close", "volume"), start=1):
        rows[name] = columns[at]
    rows["count"] = columns[8]
    turnover = np.array(columns[7], "f8")
    with np.errstate(divide="ignore", invalid="ignore"):
        if market.inverse:
            wap = rows["volume"] * float(market.contract_size) / turnover
        else:
            wap = turnover / rows["volume"]
    rows["bar_wap"] = np.where(rows["volume"] > 0, wap, 0.0)
    return rows


def _moment(time_s: Any) -> pendulum.DateTime:
    return pendulum.from_timestamp(int(time_s))
