"""Binance's streams and bars behind the provider contract."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pendulum
import trio
from trio_typing import TaskStatus

from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS, Kind, get_mkt_info, open_client
from piker.brokers.binance.decode import MissedTrades
from piker.brokers.binance.repair import repair_for_ever
from piker.brokers.binance.streams import StreamSource, sources
from piker.brokers.hub import Continuity, open_hub_feed
from piker.brokers.quality import sound_bars, venue_quality
from piker.clock import wall_ns
from piker.errors import DataQuality, DataUnavailable, NoData
from piker.market import MktPair
from piker.ohlcv import OHLC_DTYPE
from piker.ticks import Outage, Resync, TickBatch

__all__ = ["open_history_client", "stream_quotes"]

MAX_GAPS = 1000  # gaps that wait to be filled; an outage makes one for each symbol
MAX_MS = 2**53  # later than any time that is asked for
COINM_WINDOW_MS = 200 * 86_400_000  # from startTime to endTime
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
                await send_chan.send(Resync("sequence-gap", item.symbol, item.count))
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
            """Return bars with open time in [start_dt, end_dt), ascending; None = the newest.

            A range of more bars than one request brings gives its newest part. The bar that is
            still open is the last row when ``end_dt`` is None, and left out otherwise.
            """
            period = int(timeframe)
            interval = _INTERVALS.get(period) if period == timeframe else None
            if interval is None or (period == 1 and kind.venue != "spot"):
                raise DataUnavailable(f"binance {kind.venue} has no bars of {timeframe:g} s.")
            params: dict[str, Any] = {
                "symbol": market.bs_mktid, "interval": interval, "limit": kind.max_klines
            }  # fmt: skip
            params.update(_range(kind, period, start_dt, end_dt))
            if params.get("startTime", 0) > params.get("endTime", MAX_MS):
                raise NoData(f"{symbol}: the range is empty.", frame_size=kind.max_klines)
            found = await client.get_json(
                f"{kind.prefix}/klines", params, type=list[schema.KlineRow],
                weight=kind.kline_weight, strict=False,
            )  # fmt: skip
            if end_dt is not None:
                now_ms = wall_ns() // 1_000_000
                found = [row for row in found if row.close_ms < now_ms]  # closed ones only
            if not found:
                raise NoData(f"{symbol}: no bars there.", frame_size=kind.max_klines)
            rows = sound_bars(bars_of(found, market), quality, symbol)
            if not len(rows):
                raise DataQuality(f"{symbol}: no bar of the answer is possible.", kind="bad-answer")
            return rows, _moment(rows["time"][0]), _moment(rows["time"][-1])

        yield get_ohlc, {"erlangs": 3, "rate": 3}


def _range(
    kind: Kind, period: int, start_dt: datetime | None, end_dt: datetime | None
) -> dict[str, int]:
    """Return startTime and endTime (inclusive, on open time) for a half-open range.

    With a startTime the venue counts from the oldest bar on: a range that is longer than one
    answer is shortened at its beginning, so that it ends where it was asked to.
    """
    limits: dict[str, int] = {}
    end_ms = wall_ns() // 1_000_000
    if end_dt is not None:
        end_ms = limits["endTime"] = _ms(end_dt) - 1
    if start_dt is not None:
        span_ms = kind.max_klines * period * 1000
        if kind.venue == "coinm":
            span_ms = min(span_ms, COINM_WINDOW_MS)
        limits["startTime"] = max(_ms(start_dt), end_ms - span_ms + 1)
    return limits


def _ms(moment: datetime) -> int:
    """Return milliseconds UTC; a time without a zone is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def bars_of(found: list[schema.KlineRow], market: MktPair) -> np.ndarray[Any, Any]:
    """Return kline rows as bars. COIN-M volume is in contracts, its column 7 in coins."""
    rows = np.zeros(len(found), OHLC_DTYPE)
    rows["time"] = [row.open_ms // 1000 for row in found]
    for name in ("open", "high", "low", "close", "volume"):
        rows[name] = [getattr(row, name) for row in found]
    rows["count"] = [row.trades for row in found]
    turnover = np.array([row.turnover for row in found], "f8")
    with np.errstate(divide="ignore", invalid="ignore"):
        if market.inverse:
            wap = rows["volume"] * float(market.contract_size) / turnover
        else:
            wap = turnover / rows["volume"]
    held = np.clip(wap, rows["low"], rows["high"])  # the venue rounds its turnover
    rows["bar_wap"] = np.where((rows["volume"] > 0) & (turnover > 0), held, 0.0)
    return rows


def _moment(time_s: Any) -> pendulum.DateTime:
    return pendulum.from_timestamp(int(time_s))
