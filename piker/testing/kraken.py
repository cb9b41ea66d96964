"""Kraken spot on this machine: public REST and websocket v2, by its wire protocol.

One port serves both. Facts: venues.md section 6. Trades, books, bars and checksums come from one
matching engine for each market, so they agree exactly.
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
from piker.testing import kraken_wire as wire
from piker.testing.engine import BUY, SELL
from piker.testing.faults import Fault
from piker.testing.gate import Gate
from piker.testing.injection import frame_of
from piker.testing.kraken_limits import KrakenLimits, refusal
from piker.testing.kraken_wire import Listing
from piker.testing.requests import Reply, Request
from piker.testing.server import Client, serve

__all__ = ["KrakenVenue"]

SLICE_S = 0.01  # how finely the order flow is paced
SNAPSHOT_TRADES = 50  # venues.md 6.2
SNAPSHOT_BARS = 60
ROWS = 720  # bars of a REST answer, whatever was asked (venues.md 6.1)
PAGE = 1000  # trades of a REST answer
MINUTES = (1, 5, 15, 30, 60, 240, 1440, 10_080, 21_600)
DEPTHS = (10, 25, 100, 500, 1000)
_OPTIONS: dict[str, tuple[str, tuple[Any, ...], Any]] = {  # channel -> (option, values, default)
    "trade": ("", (), ""),
    "ticker": ("event_trigger", ("trades", "bbo"), "trades"),
    "ohlc": ("interval", MINUTES, 1),
    "book": ("depth", DEPTHS, 10),
}
_encode = msgspec.json.encode


class KrakenVenue:
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
            seed=seed, faults=faults, limits=KrakenLimits() if limits else None, refusal=refusal
        )
        self.listings = wire.make_listings(symbols, seed, wall_ns() // 10**9)
        self.clients: set[Client] = set()
        self.by_stream: dict[str, set[Client]] = defaultdict(set)
        self.system = "online"
        self.connects = 0
        self._random = random.Random(seed)

    async def run(
        self, host: str, port: int, task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve and trade until cancelled; the started value is the port."""
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve, self, self.gate, address=host, port=port))
            nursery.start_soon(self._trade)
            nursery.start_soon(self._tick)
            task_status.started(bound)

    # -- faults --------------------------------------------------------------------------------
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
            for listing in self.listings:
                listing.owed += elapsed * self.rate * self._random.uniform(0.5, 1.5)
                while listing.owed >= 1:
                    listing.owed -= 1
                    self._step(listing)

    def _step(self, listing: Listing) -> None:
        market = listing.market
        before = market.engine.top()
        trades = market.step(wall_ns() // 1_000_000)
        if trades:
            self._publish("trade", "", listing, wire.trades(listing, trades, "update"))
            self._publish("ticker", "trades", listing, wire.ticker(listing, "update"))
            listing.traded = True
        if market.engine.top() != before:
            self._publish("ticker", "bbo", listing, wire.ticker(listing, "update"))
        for depth in DEPTHS:
            if self._listeners("book", depth, listing):
                changes = listing.book_changes(depth)
                if changes:
                    self._publish("book", depth, listing, changes)

    async def _tick(self) -> None:
        """Ten times a second: bars that changed; each second: heartbeats."""
        count = 0
        while True:
            await trio.sleep(0.1)
            count += 1
            for listing in self.listings:
                if listing.traded:
                    listing.traded = False
                    self._publish_bars(listing)
            if count % 10 == 0:
                beat = frame_of(b'{"channel":"heartbeat"}')
                for client in list(self.clients):
                    if client.streams:
                        client.send_frame(beat)

    def _publish_bars(self, listing: Listing) -> None:
        now_s = wall_ns() // 10**9
        for minutes in MINUTES:
            if self._listeners("ohlc", minutes, listing):
                begin = Timeframe(f"{minutes}m").floor(now_s)
                rows = listing.bars(minutes, begin, now_s)
                self._publish("ohlc", minutes, listing, wire.ohlc(listing, minutes, rows, "update"))

    # -- publishing ----------------------------------------------------------------------------
    def _listeners(self, channel: str, option: object, listing: Listing) -> set[Client]:
        return self.by_stream.get(f"{channel}:{option}|{listing.wire}") or set()

    def _publish(self, channel: str, option: object, listing: Listing, body: bytes) -> None:
        clients = self._listeners(channel, option, listing)
        if not clients:
            return
        frame = frame_of(body)
        for client in list(clients):
            client.send_frame(frame)

    # -- websocket clients ---------------------------------------------------------------------
    def refused(self, request: Request) -> Reply | None:
        """Take websockets of version 2 only."""
        return Reply(404, b"") if request.path.rstrip("/") != "/v2" else None

    def connected(self, client: Client) -> None:
        """Take a websocket in."""
        self.clients.add(client)
        self.connects += 1
        status = {
            "api_version": "v2", "connection_id": self.connects, "system": self.system,
            "version": "2.0.10",
        }  # fmt: skip
        client.send(_encode({"channel": "status", "type": "update", "data": [status]}))

    def gone(self, client: Client) -> None:
        """Forget a client."""
        self.clients.discard(client)
        for name in client.streams:
            self.by_stream[name].discard(client)

    def text(self, client: Client, message: str) -> None:
        """Do what a request says, and answer it."""
        try:
            ask = msgspec.json.decode(message, type=dict[str, Any])
            params = ask.get("params") or {}
            method, channel = ask["method"], params.get("channel", "")
        except (msgspec.DecodeError, KeyError, AttributeError):
            _answer(client, {}, error="Malformed request")
            return
        if method == "ping":
            _answer(client, ask, method="pong")
        elif method not in ("subscribe", "unsubscribe"):
            _answer(client, ask, method=str(method), success=False, error="Unsupported method")
        elif channel == "instrument":
            self._instruments(client, ask)
        elif channel not in _OPTIONS:
            _answer(client, ask, method=method, success=False, error="Channel not supported")
        else:
            for symbol in params.get("symbol") or ():
                self._change(client, ask, method, channel, params, symbol)

    def _change(
        self,
        client: Client,
        ask: dict[str, Any],
        method: str,
        channel: str,
        params: dict[str, Any],
        symbol: str,
    ) -> None:
        """Subscribe or unsubscribe one symbol: one answer each."""
        name, allowed, default = _OPTIONS[channel]
        option = params.get(name, default) if name else default
        listing = next((x for x in self.listings if x.wire == symbol), None)
        stream = f"{channel}:{option}|{symbol}"
        error = ""
        if listing is None:
            error = f"Currency pair not supported {symbol}"
        elif name and option not in allowed:
            error = f"Subscription {name} not supported"
        elif (stream in client.streams) == (method == "subscribe"):
            error = "Already subscribed" if method == "subscribe" else "Subscription Not Found"
        if error or listing is None:
            _answer(client, ask, method=method, success=False, error=error, symbol=symbol)
            return
        result = {"channel": channel, "symbol": symbol, **({name: option} if name else {})}
        if method == "unsubscribe":
            client.streams.discard(stream)
            self.by_stream[stream].discard(client)
            _answer(client, ask, method=method, success=True, result=result)
            return
        snapshot = bool(params.get("snapshot", channel != "trade"))
        result["snapshot"] = snapshot
        _answer(client, ask, method=method, success=True, result=result)
        if channel == "book" and not self._listeners(channel, option, listing):
            listing.forget_book(int(option))
        client.streams.add(stream)
        self.by_stream[stream].add(client)
        if snapshot:
            client.send(self._snapshot(channel, option, listing))

    def _snapshot(self, channel: str, option: Any, listing: Listing) -> bytes:
        if channel == "trade":
            return wire.trades(listing, listing.market.trades[-SNAPSHOT_TRADES:], "snapshot")
        if channel == "ticker":
            return wire.ticker(listing, "snapshot")
        if channel == "book":
            return listing.book_snapshot(int(option))
        now_s = wall_ns() // 10**9
        begin = Timeframe(f"{option}m").floor(now_s) - (SNAPSHOT_BARS - 1) * option * 60
        return wire.ohlc(listing, option, listing.bars(option, begin, now_s), "snapshot")

    def _instruments(self, client: Client, ask: dict[str, Any]) -> None:
        _answer(client, ask, method=ask["method"], success=True, result={"channel": "instrument"})
        data = {"assets": [], "pairs": [wire.instrument(x) for x in self.listings]}
        client.send(_encode({"channel": "instrument", "type": "snapshot", "data": data}))

    # -- REST ----------------------------------------------------------------------------------
    async def http(self, request: Request) -> Reply:
        """Answer a request; errors are 200s too."""
        name = request.path.removeprefix("/0/public/")
        answer = getattr(self, f"_get_{name}", None) if name != request.path else None
        if answer is None:
            return Reply(body=_encode({"error": ["EGeneral:Unknown method"]}))
        try:
            result = answer(request.params)
        except KeyError:
            return Reply(body=_encode({"error": ["EQuery:Unknown asset pair"]}))
        except ValueError:
            return Reply(body=_encode({"error": ["EGeneral:Invalid arguments"]}))
        return Reply(body=_encode({"error": [], "result": result}))

    def _asked(self, params: dict[str, str]) -> dict[str, Listing]:
        """Return the listings of ``pair`` by the keys of the answer; all where it is absent.

        The key is the pair's id, but a websocket v2 name (BTC/USD) is answered under itself.
        """
        asked = params.get("pair")
        if not asked:
            return {x.pair_id: x for x in self.listings}
        names = {name: x for x in self.listings for name in (x.pair_id, x.altname, x.wsname)}
        wires = {x.wire: x for x in self.listings}
        found: dict[str, Listing] = {}
        for name in asked.split(","):
            if name in wires:
                found[name] = wires[name]
            else:
                found[names[name].pair_id] = names[name]
        return found

    def _one(self, params: dict[str, str]) -> tuple[str, Listing]:
        return next(iter(self._asked({"pair": params["pair"]}).items()))

    def _get_Time(self, params: dict[str, str]) -> Any:
        return {"unixtime": wall_ns() // 10**9, "rfc1123": ""}

    def _get_SystemStatus(self, params: dict[str, str]) -> Any:
        return {"status": self.system, "timestamp": wire.stamp(wall_ns())[:19] + "Z"}

    def _get_Assets(self, params: dict[str, str]) -> Any:
        return {name: value for x in self.listings for name, value in wire.assets(x).items()}

    def _get_AssetPairs(self, params: dict[str, str]) -> Any:
        return {key: wire.asset_pair(x) for key, x in self._asked(params).items()}

    def _get_Ticker(self, params: dict[str, str]) -> Any:
        return {key: wire.rest_ticker(x) for key, x in self._asked(params).items()}

    def _get_Depth(self, params: dict[str, str]) -> Any:
        key, listing = self._one(params)
        limit = int(params.get("count", "100"))
        now_s = wall_ns() // 10**9
        sides = {
            name: [[*listing.level(*level), now_s] for level in listing.depth(side, limit)]
            for name, side in (("asks", SELL), ("bids", BUY))
        }
        return {key: sides}

    def _get_OHLC(self, params: dict[str, str]) -> Any:
        key, listing = self._one(params)
        minutes = int(params.get("interval", "1"))
        if minutes not in MINUTES:
            raise ValueError(minutes)
        now_s, since = wall_ns() // 10**9, int(params.get("since", "0"))
        begin = Timeframe(f"{minutes}m").floor(now_s) - (ROWS - 1) * minutes * 60
        rows = [r for r in listing.bars(minutes, begin, now_s) if int(r["time"]) > since]
        last = int(rows[-2]["time"]) if len(rows) > 1 else since
        return {key: [wire.ohlc_row(listing, row) for row in rows], "last": last}

    def _get_Trades(self, params: dict[str, str]) -> Any:
        key, listing = self._one(params)
        count = min(int(params.get("count", str(PAGE))), PAGE)
        found = listing.market.trades[-count:]
        if "since" in params:
            made, since = listing.market.trades, int(params["since"])
            first = next((at for at, t in enumerate(made) if wire.trade_ns(t) > since), len(made))
            found = made[first : first + count]
        last = wire.trade_ns(found[-1]) if found else int(params.get("since", "0"))
        rows = [wire.trade_row(listing, trade) for trade in found]
        return {key: rows, "last": str(last)}


def _answer(client: Client, ask: dict[str, Any], **body: Any) -> None:
    now = wire.stamp(wall_ns())
    number = {"req_id": ask["req_id"]} if "req_id" in ask else {}
    client.send(_encode({**body, "time_in": now, "time_out": now, **number}))
