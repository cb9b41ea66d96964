"""Binance on this machine: spot, USD-M and COIN-M market data, by its wire protocol.

One port serves REST and websocket of all three: REST tells them apart by its prefix, websockets by
their path (``/public`` and ``/market``, or ``/usdm``, lead to USD-M, ``/coinm`` to COIN-M, all else
to spot). The bulk archive is below ``/data/``. Facts: docs/brokers/binance.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import trio
from trio_typing import TaskStatus

from piker.clock import wall_ns
from piker.testing.accounts import AccountSpec
from piker.testing.bar_table import GivenBars
from piker.testing.binance_account import AccountSide
from piker.testing.binance_account_private import is_private
from piker.testing.binance_account_ws import SocketApi
from piker.testing.binance_archive import LATE_S, Archive
from piker.testing.binance_limits import MAX_STREAMS, BinanceLimits, refusal, ws_kind_of
from piker.testing.binance_market import (
    Listing,
    expired_listing,
    given_listings,
    make_listings,
)
from piker.testing.binance_rest import answer
from piker.testing.binance_streams import TICK_S, Market, Streams
from piker.testing.faults import Fault
from piker.testing.gate import Gate
from piker.testing.requests import Reply, Request
from piker.testing.server import Client, serve

__all__ = ["BinanceVenue"]

PING_S = 20.0  # a ping this often (spot's)
PONG_S = 60.0  # without a pong for this long a client is cut off
SLICE_S = 0.01  # how finely the order flow is paced
MAX_ELAPSED_S = 1.0  # of order flow that is made up for, when this process could not run
_PING = b"\x89\x00"
_encode = msgspec.json.encode


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
        bars: GivenBars | None = None,
        archive_late_s: float = LATE_S,
        accounts: Iterable[AccountSpec] = (),
    ) -> None:
        """Make its markets.

        ``bars`` are served in place of made ones; their markets stand beside the synthetic ones.
        ``archive_late_s`` after a period's end the archive has its file. ``accounts`` may trade.
        """
        self.rate = rate
        self.limits = BinanceLimits() if limits else None
        self.gate = Gate(
            seed=seed, faults=faults, limits=self.limits, refusal=refusal,
            more=lambda: self.accounts.stats(),
        )  # fmt: skip
        now_s = wall_ns() // 10**9
        self.listings: dict[tuple[str, str], Listing] = {
            **make_listings(symbols, seed, now_s),
            **given_listings(bars or {}, seed, now_s),
        }
        self._seed, self._start_s = seed, now_s
        #: Those that the archive has files of: the ones that were delisted among them.
        self._ever = dict(self.listings)
        self.archive = Archive(self._ever, late_s=archive_late_s)
        self.port = 0  # once it serves
        self.clients: set[Client] = set()
        accounts = tuple(accounts)
        self.streams = Streams(
            self.listings.values(), always=("spot", "usdm")[: 1 + bool(accounts)]
        )
        self._random = random.Random(seed)
        self.accounts = AccountSide(
            accounts, self.listings, self.streams, self.limits, seed=seed
        )  # fmt: skip
        self._socket_api = SocketApi(self.accounts, lambda ask: answer(ask, self.listings))

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

    def cut(self, *, refuse_s: float = 0.0) -> None:
        """Cut every websocket without a word, and refuse new ones for a while."""
        self.gate.cut(for_s=refuse_s)

    # -- the list of markets -------------------------------------------------------------------
    def delist(self, kind: str, wire: str, at_s: int, *, status: str = "") -> None:
        """End a market at a moment of the past: there are no bars from then on.

        REST knows it no more, unless a ``status`` is given (``BREAK``, ``SETTLING``): then it is
        listed with that, and has its bars. The archive keeps its files. A market that was never
        listed and whose name has a date is a future of its perpetual's pair that expired then.
        """
        found = self._ever.get((kind, wire))
        if found is None:
            pair = wire.partition("_")[0]
            perpetual = self.listings[kind, f"{pair}_PERP" if kind == "coinm" else pair]
            found = expired_listing(perpetual, wire, self._seed, self._start_s)
            self._ever[kind, wire] = found
        found.ended_s = min(at_s, found.ended_s or at_s)
        found.status = status
        self.listings.pop((kind, wire), None)
        if status:
            self.listings[kind, wire] = found
        self.streams.end(found)

    # -- the market's life ---------------------------------------------------------------------
    async def _trade(self) -> None:
        """Step every market at its rate, and publish what came of it."""
        last = trio.current_time()
        while True:
            await trio.sleep(SLICE_S)
            now = trio.current_time()
            elapsed, last = min(now - last, MAX_ELAPSED_S), now
            for market in self.streams.live:
                market.owed += elapsed * self.rate * self._random.uniform(0.5, 1.5)
                while market.owed >= 1:
                    market.owed -= 1
                    self._step(market)

    def _step(self, market: Market) -> None:
        synthetic, time_ms = market.listing.market, wall_ns() // 1_000_000
        before = synthetic.engine.top()
        trades = synthetic.step(time_ms)
        if trades and market.streams:
            self.streams.traded(market, trades, time_ms)
        self.streams.moved(market, before, time_ms)
        if trades:
            self.accounts.heed(market.listing, trades)

    async def _tick(self) -> None:
        """Publish what comes with time: depth, bars, marks, days; and pings in between."""
        count = 0
        while True:
            await trio.sleep(TICK_S)
            count += 1
            self.streams.tick(count, trio.current_time(), wall_ns() // 1_000_000)
            self.accounts.tick(trio.current_time(), wall_ns() // 1_000_000)
            if count % round(PING_S / TICK_S) == 0:
                self._ping()

    def _ping(self) -> None:
        now = trio.current_time()
        for client in list(self.clients):
            if now - client.answered_at > PONG_S:
                self.gate.drop(client)
            else:
                client.send_control(_PING)

    async def http(self, request: Request) -> Reply:
        """Answer a request for market data, of an account, or for a file of the archive."""
        if request.path.startswith("/data/"):
            return await self.archive.answer(request)
        if request.path == "/" and "prefix" in request.params:
            return self.archive.index(request)
        return self.accounts.http(request) or answer(request, self.listings)

    # -- websocket clients ---------------------------------------------------------------------
    def refused(self, request: Request) -> Reply | None:
        """Take websockets at the venue's paths only."""
        if _is_api(request):
            return None
        known = ("/ws", "/stream")
        parts = request.path.rstrip("/").split("/")
        return None if any(f"/{part}" in known for part in parts) else Reply(404, b"")

    def connected(self, client: Client) -> None:
        """Take a websocket in, with the streams that its address names."""
        request = client.request
        names = request.params.get("streams", "").split("/")
        if "/ws/" in request.path:
            names = request.path.partition("/ws/")[2].split("/")
        self.clients.add(client)
        if _is_api(request):
            self._socket_api.connected(client)
            return
        if is_private(request):
            self.accounts.private.connected(client)
            return
        if request.path.rstrip("/").endswith("/stream"):
            self.streams.combined.add(client)
        self._subscribe(client, [name for name in names if name])

    def gone(self, client: Client) -> None:
        """Forget a client."""
        self.clients.discard(client)
        if _is_api(client.request):
            self._socket_api.gone(client)
            return
        if is_private(client.request):
            self.accounts.private.gone(client)
        self.streams.combined.discard(client)
        self.streams.unsubscribe(client, ws_kind_of(client.request.path), client.streams)

    def text(self, client: Client, message: str) -> None:
        """Do what a control message says, and answer it."""
        if _is_api(client.request):
            self._socket_api.text(client, message)
            return
        try:
            ask = msgspec.json.decode(message, type=_Ask)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._refuse(client, None, 2, f"Invalid request: {error}")
            return
        names = [name for name in ask.params if isinstance(name, str)]
        result: Any = None
        if ask.method == "SUBSCRIBE":
            self._subscribe(client, names)
        elif ask.method == "UNSUBSCRIBE":
            self.streams.unsubscribe(client, ws_kind_of(client.request.path), names)
        elif ask.method == "LIST_SUBSCRIPTIONS":
            result = sorted(client.streams)
        elif ask.method in ("SET_PROPERTY", "GET_PROPERTY"):
            if ask.params[:1] != ["combined"]:
                self._refuse(client, ask.id, 0, "Unknown property")
                return
            if ask.method == "GET_PROPERTY":
                result = client in self.streams.combined
            else:
                change = self.streams.combined.add if True in ask.params[1:] else None
                (change or self.streams.combined.discard)(client)
        else:
            self._refuse(client, ask.id, 2, f"Invalid request: unknown variant `{ask.method}`")
            return
        client.send(_encode({"result": result, "id": ask.id}))

    @staticmethod
    def _refuse(client: Client, number: Any, code: int, text: str) -> None:
        client.send(_encode({"error": {"code": code, "msg": text}, "id": number}))

    def _subscribe(self, client: Client, names: list[str]) -> None:
        kind = ws_kind_of(client.request.path)
        if len(client.streams.union(names)) > MAX_STREAMS[kind]:
            if self.limits is not None:
                self.limits.violations["streams"] += 1
            self.gate.drop(client)
            return
        self.streams.subscribe(client, kind, names)


def _is_api(request: Request) -> bool:
    """Tell a connection of the websocket API."""
    return request.path.rstrip("/") == "/ws-api/v3"


class _Ask(msgspec.Struct, frozen=True):
    """A control message."""

    method: str
    params: list[Any] = []  # names of streams, or a property with its value
    id: int | str | None = None
