"""Order books kept in step with the venue: diffs over the websocket, snapshots over REST.

::

    async with open_book("btcusdt.spot") as live:
        while True:
            await live.wait_update()
            print(live.book.best_bid, live.book.best_ask)

:class:`BookKeeper` is the pure part, and what the replays drive; the rules of synchronisation are
those of :class:`piker.brokers.sequence.DepthSync`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS, PROVIDER, Kind, get_mkt_info, open_client, url
from piker.brokers.binance.streams import SENDS_PER_S
from piker.brokers.book import OrderBook
from piker.brokers.quality import QualityLog, venue_quality
from piker.brokers.rest import RestClient
from piker.brokers.sequence import Action, DepthSync, Step
from piker.brokers.ws import Frames, Link, Ws, open_ws
from piker.errors import DataQuality, PikerError, Transient
from piker.log import get_logger
from piker.market import MktPair

__all__ = ["BookKeeper", "LiveBook", "open_book"]

SNAPSHOT_LEVELS = 1000
SNAPSHOT_WEIGHT = {"spot": 50, "usdm": 20, "coinm": 20}  # of 1000 levels
RETRY_S = 0.5  # before a snapshot that was too old, or failed, is asked for again
_PATHS = {"spot": "/stream", "usdm": "/public/stream", "coinm": "/stream"}

log = get_logger("binance.depth")
_decoder = msgspec.json.Decoder(schema.Frame[schema.Depth])


class BookKeeper:
    """One market's book from its diffs and snapshots. Pure: it says what it needs.

    ``wants`` is ``snapshot`` while one is needed, ``reconnect`` when the stream itself is not to
    be trusted, else empty. ``synced`` tells whether the book is the venue's.
    """

    def __init__(self, wire: str, quality: QualityLog, *, futures: bool) -> None:
        self.wire = wire
        self.book = OrderBook()
        self.wants = ""
        self.resyncs = 0
        self._quality = quality
        self._sync: DepthSync[schema.Depth] = DepthSync(futures=futures)

    @property
    def synced(self) -> bool:
        """Return whether the book equals the venue's as of :attr:`update_id`."""
        return self._sync.synced

    @property
    def update_id(self) -> int:
        """Return the venue's id of the last change that is in the book, or -1."""
        return self._sync.last_id if self._sync.synced else -1

    def frame(self, frame: bytes) -> bool:
        """Take a frame; return whether the book changed."""
        try:
            event = _decoder.decode(frame).data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if b"depthUpdate" in frame[:120]:
                self._quality.count("malformed", f"depth: {error}")
            return False
        if event.s != self.wire:
            self._quality.count("wrong-symbol", event.s)
            return False
        return self._do(self._sync.event(event.U, event.u, event, previous=event.pu))

    def snapshot(self, snapshot: schema.Snapshot) -> bool:
        """Take a snapshot that was asked for; return whether the book is in step now."""
        self.wants = ""
        step = self._sync.snapshot(snapshot.last_update_id)
        if step.action is not Action.APPLY:
            return self._do(step)
        try:
            self.book.load(snapshot.bids, snapshot.asks)
        except DataQuality as error:
            return self._distrust(error)
        return self._do(step)

    def lost(self) -> None:
        """Start again: the connection was lost."""
        self._sync.reset()
        self.book.clear()
        self.wants = ""

    def _do(self, step: Step[schema.Depth]) -> bool:
        if step.action is Action.APPLY:
            try:
                for event in step.events:
                    self.book.apply(event.b, event.a)
            except DataQuality as error:
                return self._distrust(error)
            if self.book.crossed():
                return self._distrust(DataQuality("the book is crossed", kind="crossed-book"))
            return True
        if step.action is Action.RESYNC:
            self.resyncs += 1
            self._quality.count("depth-gap", f"{self.wire}: {step.detail}")
            self.book.clear()
        if step.action in (Action.RESYNC, Action.SNAPSHOT):
            self.wants = "snapshot"
        elif step.action is Action.RECONNECT:
            self.wants = "reconnect"
        return False

    def _distrust(self, error: DataQuality) -> bool:
        """Throw the book away: a change could not be applied, or made it impossible."""
        self._quality.count(error.kind, f"{self.wire} depth: {error}")
        self.resyncs += 1
        self._sync.reset()
        self.book.clear()
        self.wants = "reconnect"
        return False


class LiveBook:
    """A book that is kept in step; made by :func:`open_book`. Any number of tasks may wait."""

    def __init__(self, market: MktPair, keeper: BookKeeper) -> None:
        self.market = market
        self.keeper = keeper
        self._changed = trio.Event()
        self._error: PikerError | None = None

    @property
    def book(self) -> OrderBook:
        """Return the book; it is empty while :attr:`synced` is false."""
        return self.keeper.book

    @property
    def synced(self) -> bool:
        """Return whether the book is the venue's; false during an outage."""
        return self.keeper.synced

    async def wait_update(self) -> None:
        """Wait until the book has changed and is in step.

        Several changes may make one update. Blocks as long as an outage lasts; raises what ended
        the book for good (``SymbolNotFound``, ``Rejected``).
        """
        while True:
            if self._error is not None:
                raise self._error
            await self._changed.wait()
            if self._error is None and self.synced:
                return

    def _tell(self, error: PikerError | None = None) -> None:
        self._error = error or self._error
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_book(symbol: str) -> AsyncIterator[LiveBook]:
    """Keep the order book of ``symbol`` (a market id or fqme) for the block.

    Returns at once; the book is there after the first ``wait_update``. Survives outages: the book
    is then empty until a new snapshot fits. Closes its connection with the block.
    """
    market = await get_mkt_info(symbol)
    kind = KINDS[market.address.venue]
    keeper = BookKeeper(
        market.bs_mktid, venue_quality(PROVIDER), futures=market.address.venue != "spot"
    )
    live = LiveBook(market, keeper)
    async with open_client(kind) as client, _open_diffs(kind, market) as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, live, kind, client, ws)
            yield live
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_diffs(kind: Kind, market: MktPair) -> AsyncIterator[Ws]:
    name = f"{market.bs_mktid.lower()}@depth@100ms"

    async def subscribe(link: Link) -> None:
        command = {"method": "SUBSCRIBE", "params": [name], "id": 1}
        await link.send(msgspec.json.encode(command).decode())

    async with open_ws(
        url(kind, "ws") + _PATHS[kind.name],
        venue=f"{PROVIDER}.{kind.name}",
        on_connect=subscribe,
        is_live=lambda frame: frame.startswith(b'{"stream"'),
        sends_per_s=SENDS_PER_S[kind.name],
    ) as ws:
        yield ws


async def _keep(live: LiveBook, kind: Kind, client: RestClient, ws: Ws) -> None:
    """Feed the keeper and do what it wants."""
    keeper = live.keeper
    wanted = trio.Event()
    async with trio.open_nursery() as nursery:

        async def fetch_for_ever() -> None:
            nonlocal wanted
            while True:
                await wanted.wait()
                wanted = trio.Event()
                while keeper.wants == "snapshot":
                    await _fetch(live, kind, client)
                    if keeper.wants == "reconnect":
                        keeper.lost()
                        ws.reset("no snapshot fits")

        nursery.start_soon(fetch_for_ever)
        async for item in ws:
            if not isinstance(item, Frames):
                keeper.lost()
                continue
            changed = False
            for frame in item.frames:
                changed = keeper.frame(frame) or changed
            if keeper.wants == "snapshot":
                wanted.set()
            elif keeper.wants == "reconnect":
                keeper.lost()
                ws.reset("impossible depth")
            if changed:
                live._tell()


async def _fetch(live: LiveBook, kind: Kind, client: RestClient) -> None:
    """Fetch one snapshot and show it; on a failure wait, so that the caller can try again."""
    try:
        snapshot = await client.get_json(
            f"{kind.prefix}/depth",
            {"symbol": live.market.bs_mktid, "limit": SNAPSHOT_LEVELS},
            type=schema.Snapshot,
            weight=SNAPSHOT_WEIGHT[kind.name],
        )
    except (Transient, DataQuality) as error:
        log.warning("depth.snapshot_failed", symbol=live.market.fqme, why=error)
        await trio.sleep(RETRY_S)
        return
    except PikerError as error:
        live._tell(error)
        live.keeper.wants = ""
        return
    if live.keeper.wants != "snapshot":
        return  # the connection was lost meanwhile: this belongs to no diff
    if live.keeper.snapshot(snapshot):
        live._tell()
    else:
        await trio.sleep(RETRY_S)
