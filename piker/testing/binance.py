"""Binance on this machine: spot, USD-M and COIN-M market data, by its wire protocol.

One port serves REST and websocket of all three. Facts: venues.md sections 1 to 4.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import trio
from trio_typing import TaskStatus

from piker.clock import wall_ns
from piker.ohlcv import Timeframe
from piker.testing.binance_limits import MAX_STREAMS, BinanceLimits, refusal
from piker.testing.binance_wire import (
    book_ticker,
    day_ticker,
    day_ticker_event,
    kline_row,
    mini_ticker_event,
    symbol_of,
    text_of,
)
from piker.testing.engine import BUY, SELL
from piker.testing.faults import Fault
from piker.testing.gate import Gate
from piker.testing.injection import frame_of
from piker.testing.requests import Reply, Request
from piker.testing.server import Client, serve
from piker.testing.synthetic import MarketSpec, SyntheticMarket, Trade

__all__ = ["BinanceVenue"]

PING_S = 20.0
SLICE_S = 0.01  # how finely the order flow is paced
KLINES = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d",
          "1w", "1M")  # fmt: skip
_BASES = (
    ("BTC", 60_000.0, 0.01, 0.00001), ("ETH", 3_000.0, 0.01, 0.0001), ("SOL", 150.0, 0.01, 0.001),
    ("BNB", 600.0, 0.1, 0.001), ("XRP", 0.6, 0.0001, 1.0), ("ADA", 0.4, 0.0001, 1.0),
    ("DOGE", 0.12, 0.00001, 1.0),
)  # fmt: skip
_PING = b"\x89\x00"
_encode = msgspec.json.encode


class Listing:
    """One market of one kind, with its synthetic engine."""

    def __init__(self, kind: str, wire: str, spec: MarketSpec, seed: int, start_s: int) -> None:
        self.kind = kind  # "spot", "usdm" or "coinm"
        self.wire = wire  # the venue's symbol
        self.market = SyntheticMarket(spec, seed, start_s)
        self.owed = 0.0  # steps of order flow due
        self.depth_from = self.market.update_id + 1  # U of the next diff
        self.previous_u = self.market.update_id
        self.open_bars: dict[str, int] = {}


class BinanceVenue:
    """The venue: markets, clients and what they subscribed."""

    def __init__(
        self,
        *,
        symbols: int,
        rate: float,
        seed: int,
        faults: Iterable[Fault] = (),
        limits: bool = True,
    ) -> None:
        self.rate = rate
        self.gate = Gate(
            seed=seed, faults=faults, limits=BinanceLimits() if limits else None, refusal=refusal
        )
        self.listings: dict[tuple[str, str], Listing] = {}
        self.clients: set[Client] = set()
        self.by_stream: dict[str, set[Client]] = defaultdict(set)
        self._random = random.Random(seed)
        start_s = wall_ns() // 10**9
        for spec in _specs(symbols):
            perp = f"{spec.base}USD_PERP"
            for kind, wire in (("spot", spec.symbol), ("usdm", spec.symbol), ("coinm", perp)):
                listing = Listing(kind, wire, spec, seed, start_s)
                self.listings[kind, wire] = listing

    async def run(
        self, host: str, port: int, task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve and trade until cancelled; the started value is the port."""
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve, self, self.gate, address=host, port=port))
            nursery.start_soon(self._trade)
            nursery.start_soon(self._tick)
            task_status.started(bound)

    def cut(self, *, refuse_s: float = 0.0) -> None:
        """Cut every websocket without a word, and refuse new ones for a while."""
        self.gate.cut(for_s=refuse_s)

    # -- the market's life ---------------------------------------------------------------------
    async def _trade(self) -> None:
        """Step every market at its rate, and publish what came of it."""
        last = trio.current_time()
        while True:
            await trio.sleep(SLICE_S)
            now = trio.current_time()
            elapsed, last = now - last, now
            for listing in self.listings.values():
                if not self._wanted(listing):
                    continue
                listing.owed += elapsed * self.rate * self._random.uniform(0.5, 1.5)
                while listing.owed >= 1:
                    listing.owed -= 1
                    self._step(listing)

    def _wanted(self, listing: Listing) -> bool:
        """Futures nobody listens to stand still; spot always trades, so that bars go on."""
        return listing.kind == "spot" or any(
            self.by_stream.get(name) for name in (f"{listing.kind}:{listing.wire}",)
        )

    def _step(self, listing: Listing) -> None:
        market, time_ms = listing.market, wall_ns() // 1_000_000
        before = market.engine.top()
        trades = market.step(time_ms)
        self._publish_trades(listing, trades, time_ms)
        top = market.engine.top()
        if top != before:
            self._publish_top(listing, time_ms)

    def _publish_trades(self, listing: Listing, trades: list[Trade], time_ms: int) -> None:
        spec = listing.market.spec
        for trade in trades:
            price, size = text_of(trade.price, spec.tick), text_of(trade.size, spec.lot)
            common = {"E": time_ms, "s": listing.wire}
            maker = trade.side == SELL
            self._publish(listing, "aggTrade", {
                "e": "aggTrade", **common, "a": trade.number, "p": price, "q": size,
                "f": trade.number, "l": trade.number, "T": trade.time_ms, "m": maker, "M": True,
            })  # fmt: skip
            self._publish(listing, "trade", {
                "e": "trade", **common, "t": trade.number, "p": price, "q": size,
                "T": trade.time_ms, "m": maker, "M": True,
            })  # fmt: skip

    def _publish_top(self, listing: Listing, time_ms: int) -> None:
        market = listing.market
        spec, top = market.spec, market.engine.top()
        body: dict[str, Any] = {"u": market.update_id, "s": listing.wire}
        if listing.kind != "spot":
            body = {"e": "bookTicker", **body, "E": time_ms, "T": time_ms}
        self._publish(listing, "bookTicker", {
            **body,
            "b": text_of(top.bid * spec.tick, spec.tick),
            "B": text_of(top.bid_size * spec.lot, spec.lot),
            "a": text_of(top.ask * spec.tick, spec.tick),
            "A": text_of(top.ask_size * spec.lot, spec.lot),
        })  # fmt: skip

    async def _tick(self) -> None:
        """Ten times a second: depth diffs; each second: bars, mark prices; pings in between."""
        count = 0
        while True:
            await trio.sleep(0.1)
            count += 1
            time_ms = wall_ns() // 1_000_000
            for listing in self.listings.values():
                self._publish_depth(listing, time_ms)
                self._publish_klines(listing, time_ms, count)
                if count % 10 == 0:
                    self._publish_seconds(listing, time_ms)
            if count % int(PING_S * 10) == 0:
                for client in list(self.clients):
                    client.send_control(_PING)

    def _publish_depth(self, listing: Listing, time_ms: int) -> None:
        market = listing.market
        changed = market.engine.changed
        if not changed[BUY] and not changed[SELL]:
            return
        market.engine.changed = {BUY: set(), SELL: set()}
        body: dict[str, Any] = {
            "e": "depthUpdate", "E": time_ms, "s": listing.wire, "U": listing.depth_from,
            "u": market.update_id, "b": self._levels(listing, BUY, changed[BUY]),
            "a": self._levels(listing, SELL, changed[SELL]),
        }  # fmt: skip
        if listing.kind != "spot":
            body |= {"T": time_ms, "pu": listing.previous_u}
        listing.previous_u, listing.depth_from = market.update_id, market.update_id + 1
        for name in ("depth@100ms", "depth"):
            self._publish(listing, name, body)

    @staticmethod
    def _levels(listing: Listing, side: int, prices: set[int]) -> list[list[str]]:
        market, spec = listing.market, listing.market.spec
        return [
            [
                text_of(p * spec.tick, spec.tick),
                text_of(market.engine.size_at(side, p) * spec.lot, spec.lot),
            ]
            for p in sorted(prices, reverse=side == BUY)
        ]

    def _publish_klines(self, listing: Listing, time_ms: int, count: int) -> None:
        now_s = time_ms // 1000
        for interval in KLINES:
            name = f"kline_{interval}"
            if not self._listeners(listing, name):
                continue
            timeframe = Timeframe(interval)
            open_s = timeframe.floor(now_s)
            before = listing.open_bars.get(interval, open_s)
            if before < open_s:
                self._publish_kline(listing, interval, before, time_ms, closed=True)
            elif count % (10 if interval == "1s" else 20) == 0:
                self._publish_kline(listing, interval, open_s, time_ms, closed=False)
            listing.open_bars[interval] = open_s

    def _publish_kline(
        self, listing: Listing, interval: str, open_s: int, time_ms: int, *, closed: bool
    ) -> None:
        timeframe, spec = Timeframe(interval), listing.market.spec
        (bar,) = listing.market.bars(timeframe, open_s, open_s + 1, time_ms // 1000)
        volume = float(bar["volume"])
        self._publish(listing, f"kline_{interval}", {
            "e": "kline", "E": time_ms, "s": listing.wire, "k": {
                "t": open_s * 1000, "T": timeframe.next(open_s) * 1000 - 1, "s": listing.wire,
                "i": interval, "f": -1, "L": -1,
                "o": text_of(float(bar["open"]), spec.tick),
                "c": text_of(float(bar["close"]), spec.tick),
                "h": text_of(float(bar["high"]), spec.tick),
                "l": text_of(float(bar["low"]), spec.tick),
                "v": text_of(volume, spec.lot), "n": int(bar["count"]), "x": closed,
                "q": text_of(volume * float(bar["bar_wap"]), 1e-8), "V": "0", "Q": "0", "B": "0",
            },
        })  # fmt: skip

    def _publish_seconds(self, listing: Listing, time_ms: int) -> None:
        """Publish what comes once a second: mark prices and the rolling day."""
        if listing.kind != "spot":
            self._publish_mark(listing, time_ms)
        if self._listeners(listing, "ticker"):
            event = day_ticker_event(listing.wire, listing.market, time_ms)
            self._publish(listing, "ticker", event)
        if self._listeners(listing, "miniTicker"):
            event = mini_ticker_event(listing.wire, listing.market, time_ms)
            self._publish(listing, "miniTicker", event)

    def _publish_mark(self, listing: Listing, time_ms: int) -> None:
        spec, last = listing.market.spec, listing.market.last
        body = {
            "e": "markPriceUpdate", "E": time_ms, "s": listing.wire, "p": text_of(last, spec.tick),
            "i": text_of(last * 1.0001, spec.tick), "P": text_of(last, spec.tick),
            "r": "0.00010000", "T": (time_ms // 28_800_000 + 1) * 28_800_000,
        }  # fmt: skip
        for name in ("markPrice@1s", "markPrice"):
            self._publish(listing, name, body)

    # -- publishing ----------------------------------------------------------------------------
    def _listeners(self, listing: Listing, name: str) -> set[Client]:
        return self.by_stream.get(f"{listing.kind}|{listing.wire.lower()}@{name}") or set()

    def _publish(self, listing: Listing, name: str, body: dict[str, Any]) -> None:
        """Encode once, send to every client of the stream, wrapped where it asked for that."""
        clients = self._listeners(listing, name)
        if not clients:
            return
        raw = _encode(body)
        plain = wrapped = b""
        for client in list(clients):
            if client.request.path.endswith("/stream"):
                if not wrapped:
                    head = f'{{"stream":"{listing.wire.lower()}@{name}","data":'.encode()
                    wrapped = frame_of(head + raw + b"}")
                client.send_frame(wrapped)
            else:
                plain = plain or frame_of(raw)
                client.send_frame(plain)

    # -- websocket clients ---------------------------------------------------------------------
    def refused(self, request: Request) -> Reply | None:
        """Take every websocket."""
        return None

    def connected(self, client: Client) -> None:
        """Take a websocket in."""
        path = client.request.path
        names = client.request.params.get("streams", "").split("/")
        if "/ws/" in path:
            names = path.partition("/ws/")[2].split("/")
        self.clients.add(client)
        self._subscribe(client, [name for name in names if name])

    def gone(self, client: Client) -> None:
        """Forget a client."""
        self.clients.discard(client)
        for name in client.streams:
            self.by_stream[name].discard(client)

    def text(self, client: Client, message: str) -> None:
        """Do what a control message says, and answer it."""
        try:
            ask = msgspec.json.decode(message)
            method, number, params = ask["method"], ask.get("id"), ask.get("params") or []
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            error = {"error": {"code": 2, "msg": "Invalid request: invalid JSON"}}
            client.send(_encode(error))
            return
        result: Any = None
        if method == "SUBSCRIBE":
            if len(client.streams) + len(params) > MAX_STREAMS[self._kind_of(client)]:
                client.cut()
                return
            self._subscribe(client, params)
        elif method == "UNSUBSCRIBE":
            for name in params:
                full = f"{self._kind_of(client)}|{name}"
                client.streams.discard(full)
                self.by_stream[full].discard(client)
        elif method == "LIST_SUBSCRIPTIONS":
            result = sorted(name.partition("|")[2] for name in client.streams)
        elif method == "GET_PROPERTY":
            result = True
        elif method != "SET_PROPERTY":
            client.send(_encode({"error": {"code": 1, "msg": "Unknown method"}, "id": number}))
            return
        client.send(_encode({"result": result, "id": number}))

    def _subscribe(self, client: Client, names: list[str]) -> None:
        kind = self._kind_of(client)
        for name in names:
            full = f"{kind}|{name}"
            client.streams.add(full)
            self.by_stream[full].add(client)
            wire = name.partition("@")[0].upper()
            self.by_stream[f"{kind}:{wire}"].add(client)

    def _kind_of(self, client: Client) -> str:
        """Tell the market kind by the routed path, else by the host header's first label."""
        path = client.request.path
        if path.startswith(("/public/", "/market/", "/usdm/")):
            return "usdm"
        return "coinm" if path.startswith("/coinm/") else "spot"

    # -- REST ----------------------------------------------------------------------------------
    async def http(self, request: Request) -> Reply:
        """Answer a request."""
        for prefix, kind in (("/api/v3/", "spot"), ("/fapi/v1/", "usdm"), ("/dapi/v1/", "coinm")):
            if request.path.startswith(prefix):
                return self._rest(kind, request.path.removeprefix(prefix), request.params)
        return Reply(404, b'{"code":-1,"msg":"Not found"}')

    def _rest(self, kind: str, path: str, params: dict[str, str]) -> Reply:
        answer = getattr(self, f"_get_{path.replace('/', '_')}", None)
        if answer is None:
            return Reply(404, b'{"code":-1,"msg":"Not found"}')
        wire = params.get("symbol")
        if wire is not None and (kind, wire) not in self.listings:
            return Reply(400, b'{"code":-1121,"msg":"Invalid symbol."}')
        try:
            body = answer(kind, params)
        except (KeyError, ValueError) as err:
            what = _encode({"code": -1102, "msg": f"Mandatory parameter {err} was not sent."})
            return Reply(400, what)
        return Reply(body=_encode(body))

    def _get_ping(self, kind: str, params: dict[str, str]) -> Any:
        return {}

    def _get_time(self, kind: str, params: dict[str, str]) -> Any:
        return {"serverTime": wall_ns() // 1_000_000}

    def _get_exchangeInfo(self, kind: str, params: dict[str, str]) -> Any:
        limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
                   "limit": 6000 if kind == "spot" else 2400}]  # fmt: skip
        mine = [x for x in self.listings.values() if x.kind == kind]
        return {
            "timezone": "UTC", "serverTime": wall_ns() // 1_000_000, "rateLimits": limits,
            "exchangeFilters": [],
            "symbols": [symbol_of(kind, x.wire, x.market.spec) for x in mine],
        }  # fmt: skip

    def _get_klines(self, kind: str, params: dict[str, str]) -> Any:
        listing = self.listings[kind, params["symbol"]]
        timeframe = Timeframe(params["interval"])
        limit = min(int(params.get("limit", "500")), 1000 if kind == "spot" else 1500)
        now_s = wall_ns() // 10**9
        span = timeframe.seconds * limit
        stop_s = now_s + 1
        if "endTime" in params:
            stop_s = min(stop_s, int(params["endTime"]) // 1000 + 1)
        start_s = stop_s - span
        if "startTime" in params:
            start_s = -(-int(params["startTime"]) // 1000)
            stop_s = min(stop_s, start_s + span)
        rows = listing.market.bars(timeframe, max(0, start_s), stop_s, now_s)[-limit:]
        return [kline_row(row, timeframe, listing.market.spec) for row in rows]

    _get_uiKlines = _get_klines

    def _get_depth(self, kind: str, params: dict[str, str]) -> Any:
        listing = self.listings[kind, params["symbol"]]
        engine, spec = listing.market.engine, listing.market.spec
        limit = int(params.get("limit", "100"))
        sides = {
            name: [
                [text_of(price * spec.tick, spec.tick), text_of(size * spec.lot, spec.lot)]
                for price, size in engine.depth(side, limit)
            ]
            for name, side in (("bids", BUY), ("asks", SELL))
        }
        return {"lastUpdateId": listing.market.update_id, **sides}

    def _get_aggTrades(self, kind: str, params: dict[str, str]) -> Any:
        listing = self.listings[kind, params["symbol"]]
        spec, limit = listing.market.spec, int(params.get("limit", "500"))
        trades = [t for t in listing.market.trades if t.number >= int(params.get("fromId", "0"))]
        chosen = trades[:limit] if "fromId" in params else trades[-limit:]
        return [
            {"a": t.number, "p": text_of(t.price, spec.tick), "q": text_of(t.size, spec.lot),
             "f": t.number, "l": t.number, "T": t.time_ms, "m": t.side == SELL, "M": True}
            for t in chosen
        ]  # fmt: skip

    def _get_trades(self, kind: str, params: dict[str, str]) -> Any:
        listing = self.listings[kind, params["symbol"]]
        spec, limit = listing.market.spec, int(params.get("limit", "500"))
        return [
            {"id": t.number, "price": text_of(t.price, spec.tick), "qty": text_of(t.size, spec.lot),
             "quoteQty": text_of(t.price * t.size, 1e-8), "time": t.time_ms,
             "isBuyerMaker": t.side == SELL, "isBestMatch": True}
            for t in listing.market.trades[-limit:]
        ]  # fmt: skip

    def _get_ticker_price(self, kind: str, params: dict[str, str]) -> Any:
        found = [
            {"symbol": x.wire, "price": text_of(x.market.last, x.market.spec.tick)}
            for x in self._asked(kind, params)
        ]
        return found[0] if "symbol" in params and kind == "spot" else found

    def _get_ticker_bookTicker(self, kind: str, params: dict[str, str]) -> Any:
        found = [book_ticker(x.wire, x.market) for x in self._asked(kind, params)]
        return found[0] if "symbol" in params and kind == "spot" else found

    def _get_ticker_24hr(self, kind: str, params: dict[str, str]) -> Any:
        now_s = wall_ns() // 10**9
        found = [day_ticker(x.wire, x.market, now_s) for x in self._asked(kind, params)]
        return found[0] if "symbol" in params and kind != "coinm" else found

    def _get_avgPrice(self, kind: str, params: dict[str, str]) -> Any:
        market = self.listings[kind, params["symbol"]].market
        price = text_of(market.last, market.spec.tick)
        return {"mins": 5, "price": price, "closeTime": wall_ns() // 1_000_000}

    def _asked(self, kind: str, params: dict[str, str]) -> list[Listing]:
        wires = None
        if "symbol" in params:
            wires = {params["symbol"]}
        elif "symbols" in params:
            wires = set(msgspec.json.decode(params["symbols"], type=list[str]))
        mine = [x for x in self.listings.values() if x.kind == kind]
        return [x for x in mine if not wires or x.wire in wires]


def _specs(count: int) -> list[MarketSpec]:
    """Return ``count`` markets: the well-known ones, then numbered ones."""
    specs = [
        MarketSpec(f"{base}USDT", base, "USDT", price, tick, lot)
        for base, price, tick, lot in _BASES[:count]
    ]
    for number in range(len(specs), count):
        base = f"C{number:03d}"
        specs.append(MarketSpec(f"{base}USDT", base, "USDT", 10.0 + number, 0.01, 0.001))
    return specs
