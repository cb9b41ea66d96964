"""Websocket streams of the loopback Binance: who listens to what, and what they are sent.

Work is done only for streams that somebody listens to: each market knows its own listeners.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from piker.ohlcv import Timeframe
from piker.testing import binance_wire as wire
from piker.testing.binance_market import KINDS, Listing
from piker.testing.binance_rest import INTERVALS
from piker.testing.engine import BUY, SELL, Top
from piker.testing.injection import frame_of
from piker.testing.server import Client
from piker.testing.synthetic import Trade

__all__ = ["TICK_S", "Market", "Streams"]

TICK_S = 0.1  # the finest pace of diffs, and of looking whether a bar has closed
_DEPTH = re.compile(r"depth(5|10|20)?(?:@(\d+)ms)?")
_DEPTH_MS = {"spot": (1000, 100), "usdm": (250, 500, 100), "coinm": (250, 500, 100)}
_KLINE_TICKS = {"1s": 10}  # ticks between two of a bar in progress; 20 otherwise
_MARK_TICKS = {"markPrice": 30, "markPrice@1s": 10}  # ticks between two marks
_ALL_MARKS = {"!markPrice@arr": 30, "!markPrice@arr@1s": 10}
_PUBLIC = ("bookTicker", "depth", "trade", "!bookTicker")  # streams of USD-M's /public path
_encode = msgspec.json.encode


class _Depth:
    """One depth stream of a market: diffs since the last one, or the best levels."""

    def __init__(self, levels: int, every_s: float, update_id: int) -> None:
        self.levels = levels  # 0: diffs
        self.every_s = every_s
        self.due = 0.0
        self.changed: dict[int, set[int]] = {BUY: set(), SELL: set()}
        self.sent_id = update_id  # u of the last event


class Market:
    """A listing with its listeners."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.owed = 0.0  # steps of order flow due
        self.streams: dict[str, set[Client]] = {}
        self.depths: dict[str, _Depth] = {}
        self.klines: dict[str, int] = {}  # interval -> open time of the bar last seen

    def regroup(self) -> None:
        """Make what the streams need that now have listeners."""
        depths: dict[str, _Depth] = {}
        klines: dict[str, int] = {}
        for name in self.streams:
            interval = name.removeprefix("kline_")
            if (pace := _depth_of(name, self.listing.kind)) is not None:
                fresh = _Depth(*pace, self.listing.market.update_id)
                depths[name] = self.depths.get(name) or fresh
            elif interval != name and interval in INTERVALS:
                klines[interval] = self.klines.get(interval, -1)
        self.depths, self.klines = depths, klines


def _depth_of(name: str, kind: str) -> tuple[int, float] | None:
    """Return (levels, seconds) of a depth stream's name, or None for another name."""
    found = _DEPTH.fullmatch(name)
    if found is None:
        return None
    paces = _DEPTH_MS[kind]
    pace_ms = int(found[2] or paces[0])
    return (int(found[1] or 0), pace_ms / 1000) if pace_ms in paces else None


class Streams:
    """Every market of the venue, and the streams of all markets at once."""

    def __init__(self, listings: Iterable[Listing], *, always: Sequence[str] = ("spot",)) -> None:
        self._always = always  # kinds that trade though nobody listens
        self.markets = {(x.kind, x.name): Market(x) for x in listings}
        self.live: list[Market] = []  # those that trade
        self.combined: set[Client] = set()  # clients who want the stream's name with the data
        self._all: dict[str, dict[str, set[Client]]] = {kind: {} for kind in KINDS}
        self._choose()

    # -- who listens -----------------------------------------------------------------------------
    def subscribe(self, client: Client, kind: str, names: Iterable[str]) -> None:
        """Let a client listen; a name that means nothing here is never heard of again."""
        for name in names:
            client.streams.add(name)
            if _is_routed(client.request.path, name):
                market, streams = self._streams_of(kind, name)
                streams.setdefault(_short(name), set()).add(client)
                if market is not None:
                    market.regroup()
        self._choose()

    def unsubscribe(self, client: Client, kind: str, names: Iterable[str]) -> None:
        """End what a client listens to."""
        for name in list(names):
            client.streams.discard(name)
            market, streams = self._streams_of(kind, name)
            short = _short(name)
            streams.get(short, set()).discard(client)
            if not streams.get(short):
                streams.pop(short, None)
                if market is not None:
                    market.regroup()
        self._choose()

    def end(self, listing: Listing) -> None:
        """Trade and publish a market no more."""
        self.markets.pop((listing.kind, listing.name), None)
        self._choose()

    def _streams_of(
        self, kind: str, name: str
    ) -> tuple[Market | None, dict[str, set[Client]]]:  # fmt: skip
        if name.startswith("!"):
            return None, self._all[kind]
        market = self.markets.get((kind, name.partition("@")[0]))
        return market, market.streams if market is not None else {}

    def _choose(self) -> None:
        """Let spot trade always, so that its bars go on; futures while somebody is there."""
        self.live = [
            market for (kind, _), market in self.markets.items()
            if kind in self._always or market.streams or self._all[kind]
        ]  # fmt: skip

    # -- what comes of a step ----------------------------------------------------------------------
    def traded(self, market: Market, trades: list[Trade], time_ms: int) -> None:
        """Publish trades."""
        listing = market.listing
        for name, event in _TRADES.items():
            if clients := market.streams.get(name):
                for trade in trades:
                    body = event(listing, trade, time_ms)
                    self._send(clients, f"{listing.name}@{name}", body)

    def moved(self, market: Market, before: Top, time_ms: int) -> None:
        """Publish the top of the book where it is another than before."""
        listing = market.listing
        one, all_ = market.streams.get("bookTicker"), self._all[listing.kind].get("!bookTicker")
        if not (one or all_) or listing.market.engine.top() == before:
            return
        body = wire.book_ticker_event(listing, time_ms)
        if one:
            self._send(one, f"{listing.name}@bookTicker", body)
        if all_:
            self._send(all_, "!bookTicker", body)

    # -- what comes with time ----------------------------------------------------------------------
    def tick(self, count: int, now: float, time_ms: int) -> None:
        """Publish what is due; ``count`` counts ticks, ``now`` is trio's clock."""
        for market in self.live:
            self._depth(market, now, time_ms)
            if market.klines:
                self._klines(market, count, time_ms)
            if not count % 10 and market.streams:
                self._each_second(market, count, time_ms)
        if not count % 10:
            for kind, streams in self._all.items():
                if streams:
                    self._of_all(kind, streams, count, time_ms)

    def _depth(self, market: Market, now: float, time_ms: int) -> None:
        engine = market.listing.market.engine
        changed = engine.changed
        if changed[BUY] or changed[SELL]:
            engine.changed = {BUY: set(), SELL: set()}
            for depth in market.depths.values():
                if not depth.levels:
                    depth.changed[BUY] |= changed[BUY]
                    depth.changed[SELL] |= changed[SELL]
        for name, depth in market.depths.items():
            if now >= depth.due and market.listing.market.update_id > depth.sent_id:
                depth.due = max(depth.due + depth.every_s, now)
                self._publish_depth(market, name, depth, time_ms)

    def _publish_depth(self, market: Market, name: str, depth: _Depth, time_ms: int) -> None:
        listing = market.listing
        engine, update_id = listing.market.engine, listing.market.update_id
        bids: Sequence[tuple[int, int]]
        if depth.levels:
            bids, asks = engine.depth(BUY, depth.levels), engine.depth(SELL, depth.levels)
        elif depth.changed[BUY] or depth.changed[SELL]:
            bids, asks = (
                [(p, engine.size_at(side, p)) for p in sorted(depth.changed[side], reverse=down)]
                for side, down in ((BUY, True), (SELL, False))
            )
            depth.changed = {BUY: set(), SELL: set()}
        else:
            return
        if depth.levels and listing.kind == "spot":
            body: dict[str, Any] = {
                "lastUpdateId": update_id, "bids": wire.levels_of(listing, BUY, bids),
                "asks": wire.levels_of(listing, SELL, asks),
            }  # fmt: skip
        else:
            ids = (depth.sent_id + 1, update_id, depth.sent_id)
            body = wire.depth_event(listing, time_ms, ids, bids, asks)
        depth.sent_id = update_id
        self._send(market.streams[name], f"{listing.name}@{name}", body)

    def _klines(self, market: Market, count: int, time_ms: int) -> None:
        now_s = time_ms // 1000
        for interval, before in market.klines.items():
            timeframe = market.listing.grid(interval)
            open_s = timeframe.floor(now_s)
            if 0 <= before < open_s:
                self._kline(market, timeframe, before, time_ms, closed=True)
            elif count % _KLINE_TICKS.get(interval, 20) == 0:
                self._kline(market, timeframe, open_s, time_ms, closed=False)
            market.klines[interval] = open_s

    def _kline(
        self, market: Market, timeframe: Timeframe, open_s: int, time_ms: int, *, closed: bool
    ) -> None:
        listing = market.listing
        bars = listing.market.bars(timeframe, open_s, open_s + 1, time_ms // 1000)
        (line,) = wire.bar_lines(listing, bars, timeframe)
        body = wire.kline_event(listing, line, timeframe, time_ms, closed=closed)
        name = f"kline_{timeframe}"
        self._send(market.streams[name], f"{listing.name}@{name}", body)

    def _each_second(self, market: Market, count: int, time_ms: int) -> None:
        listing = market.listing
        for name, event in _DAYS.items():
            if clients := market.streams.get(name):
                self._send(clients, f"{listing.name}@{name}", event(listing, time_ms))
        if listing.kind == "spot":
            return
        for name, ticks in _MARK_TICKS.items():
            if not count % ticks and (clients := market.streams.get(name)):
                body = wire.mark_event(listing, time_ms)
                self._send(clients, f"{listing.name}@{name}", body)

    def _of_all(
        self, kind: str, streams: dict[str, set[Client]], count: int, time_ms: int
    ) -> None:  # fmt: skip
        """Publish the streams that carry every market of a kind in one message."""
        listings = [market.listing for market in self.live if market.listing.kind == kind]
        for name, event in _DAYS.items():
            if clients := streams.get(f"!{name}@arr"):
                rows = [event(listing, time_ms) for listing in listings]
                self._send(clients, f"!{name}@arr", rows)
        if kind == "spot":
            return
        for name, ticks in _ALL_MARKS.items():
            if not count % ticks and (clients := streams.get(name)):
                rows = [wire.mark_event(listing, time_ms) for listing in listings]
                self._send(clients, name, rows)

    # -- sending -----------------------------------------------------------------------------------
    def _send(self, clients: set[Client], name: str, body: Any) -> None:
        """Encode once, send to every client of the stream, wrapped where it asked for that."""
        raw = _encode(body)
        plain = wrapped = b""
        for client in tuple(clients):
            if client in self.combined:
                wrapped = wrapped or frame_of(b'{"stream":"%b","data":%b}' % (name.encode(), raw))
                client.send_frame(wrapped, name)
            else:
                plain = plain or frame_of(raw)
                client.send_frame(plain, name)


def _short(name: str) -> str:
    """Return a stream's name without the market's."""
    return name if name.startswith("!") else name.partition("@")[2]


def _is_routed(path: str, name: str) -> bool:
    """Tell whether a path brings that stream: USD-M has two, for different streams."""
    if not path.startswith(("/public/", "/market/")):
        return True
    return _short(name).startswith(_PUBLIC) == path.startswith("/public/")


_TRADES: dict[str, Callable[[Listing, Trade, int], dict[str, Any]]] = {
    "aggTrade": wire.agg_trade_event, "trade": wire.trade_event,
}  # fmt: skip
_DAYS: dict[str, Callable[[Listing, int], dict[str, Any]]] = {
    "ticker": wire.day_ticker_event, "miniTicker": wire.mini_ticker_event,
}  # fmt: skip
