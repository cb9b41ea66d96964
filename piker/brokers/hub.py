"""One websocket for all who want a venue's streams: as few connections as the venue allows.

::

    async with open_hub_feed(source, symbols) as feed:
        async for item in feed:
            ...  # TickBatch, Outage, Resync, and what the decoder found beside rows

A :class:`Source` says what the venue needs: its URL, its messages, its decoder, its bound. Feeds of
sources with the same ``key`` share connections: a symbol that two feeds want is subscribed once,
each feed sees the rows of its own symbols only, and the last feed to leave closes the socket.

A connection belongs to no single feed, so it can not live in one feed's nursery: the first that
leaves would take it from the others. It runs in a system task of trio, from which no exception
escapes: an error of it ends the feeds that use it. A feed that does not read loses its oldest
items (``Resync("lagged")``) instead of holding up the others or filling the memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec
import trio

from piker.brokers.ws import Frames, Link, Url, Ws, open_ws
from piker.errors import PikerError, Transient
from piker.log import get_logger
from piker.ticks import TRADE, Outage, Resync, TickBatch, TickRow

__all__ = ["Continuity", "HubDecoder", "HubFeed", "Source", "open_hub_feed"]

PENDING_ROWS = 100_000  # held for a feed that does not read: some 20 MB; a busy venue's half second
PENDING_ITEMS = 10_000  # the same bound for items that are no rows
CLOSE_S = 3.0  # the last feed waits this long for its connection to close; open_ws needs up to 2

log = get_logger("hub")


class HubDecoder(Protocol):
    """What a hub asks of a venue's decoder. One per connection; pure."""

    def add(self, symbols: Iterable[str]) -> None:
        """Expect frames of these symbols from now on."""
        ...

    def remove(self, symbols: Iterable[str]) -> None:
        """Expect no more of these; frames that are under way are no fault."""
        ...

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        """Return the rows of frames, in order; count and leave out what is bad."""
        ...

    def take_outband(self) -> Sequence[Any]:  # Any: what the venue's feed understands
        """Return and forget what is no row. Each item has a ``symbol``, empty for all."""
        ...

    def take_wish(self) -> tuple[str, str]:
        """Return and forget (``rotate`` or ``reset``, why) for the connection, or two empties."""
        ...


class Source(Protocol):
    """What a hub asks of a venue: where, what to say, and how much of it."""

    key: str  # feeds with the same key share connections
    venue: str  # the name of its budget and in its logs
    max_symbols: int  # per connection
    sends_per_s: float

    @property
    def greetings(self) -> Sequence[str]:
        """Return the messages of a new connection, before any symbol's."""
        ...

    @property
    def url(self) -> Url:
        """Return where to connect, or how to find out."""
        ...

    def subscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        """Return the messages that subscribe symbols."""
        ...

    def unsubscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        """Return the messages that end their subscription."""
        ...

    def is_live(self, frame: bytes) -> bool:
        """Tell data from answers."""
        ...

    def decoder(self) -> HubDecoder:
        """Return a decoder for a new connection."""
        ...


class HubFeed:
    """The items of one caller's symbols; made by :func:`open_hub_feed`, iterated by one task."""

    def __init__(self, symbols: Collection[str]) -> None:
        self.symbols = frozenset(symbols)
        self.lagged = 0  # rows that were dropped because nobody read
        self._items: deque[Any] = deque()
        self._rows = 0
        #: Symbols of what was dropped since the last Resync for them, with the first row's time.
        self._lost: dict[str, int] = {}
        self._lost_rows = 0
        self._ready = trio.Event()
        self._error: PikerError | None = None

    def __aiter__(self) -> HubFeed:
        """Return itself: there is one stream."""
        return self

    async def __anext__(self) -> Any:
        """Return the next item, waiting as long as the venue is silent.

        Raises the error that ended the connection, when it was none that passes by itself.
        Cancellation loses nothing.
        """
        if self._items or self._lost:
            await trio.lowlevel.checkpoint()
        while not (self._items or self._lost):
            if self._error is not None:
                raise self._error
            self._ready = trio.Event()
            await self._ready.wait()
        if self._lost:
            return self._lag()
        item = self._items.popleft()
        if type(item) is TickBatch:
            self._rows -= len(item.rows)
        return item

    def _lag(self) -> Resync:
        symbol, since_ns = self._lost.popitem()
        missed = self._lost_rows if not self._lost else -1
        if not self._lost:
            self._lost_rows = 0
        return Resync("lagged", symbol, missed, "the feed was not read", since_ns)

    def put(self, item: Any) -> None:
        """Add an item; drop the oldest when too many wait. Never blocks."""
        self._items.append(item)
        if type(item) is TickBatch:
            self._rows += len(item.rows)
        while self._rows > PENDING_ROWS or len(self._items) > PENDING_ITEMS:
            oldest = self._items.popleft()
            if type(oldest) is TickBatch:
                self._rows -= len(oldest.rows)
                self._lost_rows += len(oldest.rows)
                self.lagged += len(oldest.rows)
                for row in oldest.rows:
                    self._lost[row[0]] = self._lost.get(row[0]) or row[2]
            elif getattr(oldest, "symbol", ""):
                self._lost.setdefault(oldest.symbol, 0)
        self._ready.set()

    def fail(self, error: PikerError) -> None:
        """End the feed with an error, after what is waiting."""
        self._error = error
        self._ready.set()


class Continuity:
    """Makes one story of a market's outages when several connections bring its ticks. Pure."""

    def __init__(self) -> None:
        self._down: dict[str, set[str]] = {}  # symbol -> connections that are gone

    def tell(self, connection: str, item: Outage | Resync) -> bool:
        """Return whether the market's consumer is to hear of it.

        An Outage when the first connection goes, a Resync when the last one is back. What is no
        end of an outage (a rotation, a gap) is passed on as long as the market is live.
        """
        down = self._down.setdefault(item.symbol, set())
        before = len(down)
        if isinstance(item, Outage):
            down.add(connection)
            return before == 0
        if item.reason == "reconnect":
            down.discard(connection)
        return not down


class _Side:
    """What is subscribed on one link. Two links are open during a rotation."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lock = trio.Lock()


class _Connection:
    """One websocket and the feeds that use it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.decoder = source.decoder()
        self.feeds: dict[HubFeed, frozenset[str]] = {}  # with their symbols here
        self.owners: dict[str, list[HubFeed]] = {}
        self.closed = trio.Event()
        self.scope = trio.CancelScope()
        self._sides: dict[Link, _Side] = {}
        self._changed = trio.Event()
        self._newest_ns = 0  # receipt of the newest frames delivered
        self._down = ""  # why the connection is gone, while it is

    # -- who wants what -------------------------------------------------------------------
    @property
    def room(self) -> int:
        """Return how many more symbols the venue allows here."""
        return self.source.max_symbols - len(self.owners)

    def join(self, feed: HubFeed, symbols: Collection[str]) -> None:
        """Give ``feed`` the rows of ``symbols``, subscribing those that are new."""
        self.feeds[feed] = self.feeds.get(feed, frozenset()) | frozenset(symbols)
        fresh = [symbol for symbol in symbols if symbol not in self.owners]
        for symbol in symbols:
            self.owners.setdefault(symbol, []).append(feed)
        self.decoder.add(fresh)
        self._changed.set()
        if self._down:
            for symbol in symbols:
                feed.put(Outage(self._down, symbol))

    def leave(self, feed: HubFeed) -> None:
        """Take a feed out; symbols that nobody else wants are unsubscribed."""
        gone = []
        for symbol in self.feeds.pop(feed, ()):
            self.owners[symbol].remove(feed)
            if not self.owners[symbol]:
                del self.owners[symbol]
                gone.append(symbol)
        self.decoder.remove(gone)
        self._changed.set()
        if not self.feeds:
            self.scope.cancel()

    # -- the connection -------------------------------------------------------------------
    async def run(self) -> None:
        """Keep the connection until its last feed leaves. Raises nothing: a system task."""
        try:
            with self.scope:
                await self._run()
        except Exception as error:  # whatever it is, it belongs to the feeds, not to trio's root
            told = _mapped(error)
            log.error("hub.ended", venue=self.source.venue, error=told)
            for feed in list(self.feeds):
                feed.fail(told)
        finally:
            self.closed.set()

    async def _run(self) -> None:
        source = self.source
        async with open_ws(
            source.url,
            venue=source.venue,
            on_connect=self._subscribe,
            is_live=source.is_live,
            sends_per_s=source.sends_per_s,
        ) as ws:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._align_for_ever)
                async for item in ws:
                    if isinstance(item, Frames):
                        self._frames(item, ws)
                    elif isinstance(item, Outage):
                        self._outage(item)
                    else:
                        self._resync(item)
                nursery.cancel_scope.cancel()

    def _frames(self, item: Frames, ws: Ws) -> None:
        decoder = self.decoder
        rows = decoder.decode(item.frames, item.recv_ns)
        if item.recv_ns < self._newest_ns:
            # A rotation's new connection read these while the old one still delivered: trades are
            # told apart by id, but tops of book and marks of then are not news.
            rows = [row for row in rows if row[1] == TRADE]
        else:
            self._newest_ns = item.recv_ns
        if rows:
            self._deliver(rows, item.recv_ns)
        for other in decoder.take_outband():
            for feed in self.owners.get(other.symbol, ()) if other.symbol else self.feeds:
                feed.put(other)
        wish, why = decoder.take_wish()
        if wish == "rotate":
            ws.rotate(why)
        elif wish == "reset":
            ws.reset(why)

    def _deliver(self, rows: list[TickRow], recv_ns: int) -> None:
        if len(self.feeds) == 1:
            (feed,) = self.feeds
            feed.put(TickBatch(rows, recv_ns))
            return
        owners = self.owners
        portions: dict[HubFeed, list[TickRow]] = {}
        for row in rows:
            for feed in owners.get(row[0], ()):
                portions.setdefault(feed, []).append(row)
        for feed, portion in portions.items():
            feed.put(TickBatch(portion, recv_ns))

    # -- losses ---------------------------------------------------------------------------
    def _outage(self, outage: Outage) -> None:
        self._down = outage.reason or "connection lost"
        for feed, symbols in self.feeds.items():
            for symbol in symbols:
                feed.put(Outage(self._down, symbol))

    def _resync(self, resync: Resync) -> None:
        self._down = ""
        for feed, symbols in self.feeds.items():
            for symbol in symbols:
                feed.put(msgspec.structs.replace(resync, symbol=symbol))

    # -- subscriptions --------------------------------------------------------------------
    async def _subscribe(self, link: Link) -> None:
        self._sides = {old: side for old, side in self._sides.items() if not old.lost.is_set()}
        self._sides[link] = _Side()
        for message in self.source.greetings:
            await link.send(message)
        await self._align(link, self._sides[link])

    async def _align_for_ever(self) -> None:
        """Bring what is subscribed in line with what is wanted, whenever that changes."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            for link, side in list(self._sides.items()):
                if not link.lost.is_set():
                    await self._align_or_fail(link, side)

    async def _align_or_fail(self, link: Link, side: _Side) -> None:
        try:
            await self._align(link, side)
        except Transient as error:  # what is subscribed there is not known any more
            link.fail(f"subscribing failed: {error}")

    async def _align(self, link: Link, side: _Side) -> None:
        """Send what makes the link's subscriptions the wanted ones; bound by the venue's rate."""
        source = self.source
        async with side.lock:
            while side.names != self.owners.keys():
                gone = [name for name in side.names if name not in self.owners]
                fresh = [name for name in self.owners if name not in side.names]
                side.names = set(self.owners)
                for message in source.unsubscribe_messages(gone) if gone else ():
                    await link.send(message)
                for message in source.subscribe_messages(fresh) if fresh else ():
                    await link.send(message)


def _mapped(error: Exception) -> PikerError:
    """Return the error of ours that is inside, or one that names the foreign one."""
    while isinstance(error, ExceptionGroup):
        ours = [one for one in error.exceptions if isinstance(one, PikerError)]
        error = ours[0] if ours else error.exceptions[0]
    if isinstance(error, PikerError):
        return error
    return Transient(f"the shared connection ended: {type(error).__name__}: {error}")


# -- sharing -----------------------------------------------------------------------------------
_hubs: trio.lowlevel.RunVar[dict[str, list[_Connection]]] = trio.lowlevel.RunVar("piker.hubs")


@asynccontextmanager
async def open_hub_feed(source: Source, symbols: Collection[str]) -> AsyncIterator[HubFeed]:
    """Join the connections that bring ``symbols``, opening what is missing; leave at the end.

    Returns at once, connected or not. Leaving (cancelled or not) waits up to ``CLOSE_S`` for
    connections that nobody else uses to close.
    """
    feed = HubFeed(symbols)
    try:
        _place(feed, source)
        yield feed
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            for connection in _leave(feed, source.key):
                await connection.closed.wait()


def _connections(key: str) -> list[_Connection]:
    try:
        hubs = _hubs.get()
    except LookupError:
        hubs = {}
        _hubs.set(hubs)
    return hubs.setdefault(key, [])


def _place(feed: HubFeed, source: Source) -> None:
    """Give every symbol of the feed a connection: one that has it, one with room, a new one."""
    connections = _connections(source.key)
    connections[:] = [c for c in connections if not c.closed.is_set()]
    left = sorted(feed.symbols)
    for connection in connections:
        here = [symbol for symbol in left if symbol in connection.owners]
        new = [symbol for symbol in left if symbol not in connection.owners]
        here += new[: max(0, connection.room)]
        if here:
            connection.join(feed, here)
            left = [symbol for symbol in left if symbol not in set(here)]
    while left:
        connection = _Connection(source)
        connections.append(connection)
        connection.join(feed, left[: source.max_symbols])
        trio.lowlevel.spawn_system_task(connection.run, name=f"hub {source.key}")
        left = left[source.max_symbols :]


def _leave(feed: HubFeed, key: str) -> list[_Connection]:
    """Take the feed out everywhere; return the connections that close with it."""
    connections = _connections(key)
    closing = []
    for connection in [c for c in connections if feed in c.feeds]:
        connection.leave(feed)
        if not connection.feeds:
            connections.remove(connection)
            closing.append(connection)
    return closing
