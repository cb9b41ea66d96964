"""Kraken spot on this machine: public REST and websocket v2, by its wire protocol.

One port serves both. Facts: docs/brokers/kraken.md. Trades, books, bars and checksums come from one
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
from piker.testing.accounts import AccountSpec
from piker.testing.engine import Top
from piker.testing.faults import Fault
from piker.testing.gate import Gate
from piker.testing.injection import frame_of
from piker.testing.kraken_account import AccountSide
from piker.testing.kraken_limits import KrakenLimits, refusal
from piker.testing.kraken_rest import MINUTES, answer
from piker.testing.kraken_wire import Listing
from piker.testing.requests import Reply, Request
from piker.testing.server import Client, serve
from piker.testing.synthetic import Trade

__all__ = ["KrakenVenue"]

SLICE_S = 0.01  # how finely the order flow is paced
SNAPSHOT_TRADES = 50  # by its documents
SNAPSHOT_BARS = 60
DEPTHS = (10, 25, 100, 500, 1000)
_OPTIONS: dict[str, tuple[str, tuple[Any, ...], Any]] = {  # channel -> (option, values, default)
    "trade": ("", (), ""),
    "ticker": ("event_trigger", ("trades", "bbo"), "trades"),
    "ohlc": ("interval", MINUTES, 1),
    "book": ("depth", DEPTHS, 10),
}
_INSTRUMENTS = "instrument:|"  # the name of that stream among a client's
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
        accounts: Iterable[AccountSpec] = (),
    ) -> None:
        """Make its markets; ``accounts`` may trade in them."""
        self.rate = rate
        kept = KrakenLimits() if limits else None
        self.gate = Gate(
            seed=seed, faults=faults, limits=kept, refusal=refusal,
            more=lambda: self.accounts.stats(),
        )  # fmt: skip
        self.listings = wire.make_listings(symbols, seed, wall_ns() // 10**9)
        self.port = 0  # once it serves
        self.clients: set[Client] = set()
        self.by_stream: dict[str, set[Client]] = defaultdict(set)
        self.system = "online"
        self.connects = 0
        self._random = random.Random(seed)
        self.accounts = AccountSide(accounts, self.listings, kept, self._announce, seed=seed)

    async def run(
        self, host: str, port: int, task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve and trade until cancelled; the started value is the port."""
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve, self, self.gate, address=host, port=port))
            self.port = bound
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
        time_ms = wall_ns() // 1_000_000
        trades = market.step(time_ms)
        self._announce(listing, before, trades, time_ms)
        if trades:
            self.accounts.heed(listing, trades)

    def _announce(self, listing: Listing, before: Top, trades: list[Trade], time_ms: int) -> None:
        """Publish what happened to a book, and what traded; ``before`` was its top."""
        market = listing.market
        if trades:
            fills = listing.tape.note(trades)
            self._publish("trade", "", listing, wire.trades(listing, fills, "update"))
            self._publish("ticker", "trades", listing, wire.ticker(listing, "update"))
            listing.traded = True
        if market.engine.top() != before:
            listing.note_top()
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
            self.accounts.tick()
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
        self.accounts.socket.gone(client)
        self.clients.discard(client)
        for name in client.streams:
            self.by_stream[name].discard(client)

    def text(self, client: Client, message: str) -> None:
        """Do what a request says, and answer it."""
        if self.accounts.socket.text(client, message):
            return
        try:
            ask = msgspec.json.decode(message, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _answer(client, {}, error="Malformed request", success=False)
            return
        params, method = ask.get("params") or {}, ask.get("method")
        if not isinstance(method, str) or not isinstance(params, dict):
            _answer(client, ask, error="Malformed request", success=False)
            return
        channel, symbols = params.get("channel"), params.get("symbol")
        if method == "ping":
            _answer(client, ask, method="pong")
        elif method not in ("subscribe", "unsubscribe"):
            _answer(client, ask, method=method, success=False, error="Unsupported method")
        elif channel == "instrument":
            self._instruments(client, ask, method)
        elif not isinstance(channel, str) or channel not in _OPTIONS:
            _answer(client, ask, method=method, success=False, error="Channel not supported")
        elif not symbols or not isinstance(symbols, list):
            _answer(client, ask, method=method, success=False, error="Symbol(s) not found")
        else:
            for symbol in symbols:
                self._change(client, ask, method, channel, params, str(symbol))

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
            fills = listing.tape.newest(SNAPSHOT_TRADES, live=True)
            return wire.trades(listing, fills, "snapshot")
        if channel == "ticker":
            return wire.ticker(listing, "snapshot")
        if channel == "book":
            return listing.book_snapshot(int(option))
        now_s = wall_ns() // 10**9
        begin = Timeframe(f"{option}m").floor(now_s) - (SNAPSHOT_BARS - 1) * option * 60
        return wire.ohlc(listing, option, listing.bars(option, begin, now_s), "snapshot")

    def set_status(self, name: str, status: str) -> None:
        """Change the status of a market (``BTC/USD``), as ``maintenance``, and tell who listens."""
        listing = next(x for x in self.listings if x.wire == name)
        listing.status = status
        data = {"assets": [], "pairs": [wire.instrument(listing)]}
        frame = _encode({"channel": "instrument", "type": "update", "data": data})
        for client in self.clients:
            if _INSTRUMENTS in client.streams:
                client.send(frame)

    def _instruments(self, client: Client, ask: dict[str, Any], method: str) -> None:
        """Answer for the reference data: a snapshot, unless it is not wanted."""
        stream = _INSTRUMENTS
        if (stream in client.streams) == (method == "subscribe"):
            error = "Already subscribed" if method == "subscribe" else "Subscription Not Found"
            _answer(client, ask, method=method, success=False, error=error)
            return
        _answer(client, ask, method=method, success=True, result={"channel": "instrument"})
        if method == "unsubscribe":
            client.streams.discard(stream)
            return
        client.streams.add(stream)
        if ask["params"].get("snapshot", True) is False:
            return
        names = dict.fromkeys(name for x in self.listings for name in x.wire.split("/"))
        data = {
            "assets": [wire.asset(name) for name in names],
            "pairs": [wire.instrument(x) for x in self.listings],
        }
        client.send(_encode({"channel": "instrument", "type": "snapshot", "data": data}))

    async def http(self, request: Request) -> Reply:
        """Answer a request for market data, or one of an account."""
        return self.accounts.http(request) or answer(request, self.listings, self.system)


def _answer(client: Client, ask: dict[str, Any], **body: Any) -> None:
    now = wire.stamp(wall_ns())
    number = {"req_id": ask["req_id"]} if "req_id" in ask else {}
    client.send(_encode({**body, "time_in": now, "time_out": now, **number}))
