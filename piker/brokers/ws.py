"""A venue's websocket that outlives its connections.

::

    async with open_ws(url, venue="binance", on_connect=subscribe) as ws:
        async for item in ws:
            if isinstance(item, Outage):
                ...  # nothing follows until the connection is back
            elif isinstance(item, Resync):
                ...  # what was derived from older frames may be wrong: start again
            else:
                decode(item.frames, item.recv_ns)

The stream never ends and never raises for an outage, however long: it says ``Outage``, falls
silent, and its first item after the connection is back is a ``Resync``. Before the venue's 24 h
are over a second connection is opened, subscribed and heard before the first is closed.
"""

from __future__ import annotations

import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Literal

import msgspec
import trio

from piker.brokers._backoff import Backoff
from piker.brokers._frames import MAX_MESSAGE
from piker.brokers._link import Connect, Link, LinkOptions, connect_tcp
from piker.brokers.limits import CONNECT, Budget, venue_budget
from piker.config import load_conf
from piker.errors import PikerError, Transient
from piker.log import get_logger
from piker.ticks import Outage, Resync

__all__ = ["PENDING_BYTES", "Backoff", "Counters", "Frames", "Link", "Ws", "open_ws"]

log = get_logger("ws")

PENDING_BYTES = 8 * 2**20  # frames read ahead of the consumer; then the venue's TCP is held up
FRAME_COST = 64  # bytes a frame costs beside its payload: the object and its place in a list
SUBSCRIBE_S = 60.0  # on_connect may take this long: 240 messages at Binance's pace
ROTATE_AFTER_S = 23 * 3600.0  # venues cut a connection at 24 h (Binance says so)
ROTATE_JITTER = 0.05  # connections opened together are not rotated together

State = Literal["connecting", "live", "waiting", "closed"]
#: A URL, or how to get one: for venues that hand out a token per connection.
Url = str | Callable[[], Awaitable[str]]


class Frames(msgspec.Struct, frozen=True):
    """The messages that one read delivered, in order, and the wall time of the read."""

    frames: list[bytes]
    recv_ns: int


Item = Frames | Outage | Resync


class Counters(msgspec.Struct):
    """What happened to a :class:`Ws` since it was opened."""

    connects: int = 0
    failures: int = 0  # attempts that made no usable connection
    losses: int = 0
    rotations: int = 0
    frames: int = 0
    bytes: int = 0
    stalls: int = 0  # times the consumer was so far behind that reading stopped


class Ws:
    """The frames of a venue's stream; made by :func:`open_ws`, iterated by one task."""

    def __init__(
        self,
        url: Url,
        options: LinkOptions,
        *,
        on_connect: Callable[[Link], Awaitable[None]] | None,
        is_live: Callable[[bytes], bool] | None,
        backoff: Backoff,
        budget: Budget,
        rotate_after_s: float,
    ) -> None:
        self.state: State = "connecting"
        self.attempts = 0  # failures in a row
        self.connected_since: int | None = None  # wall ns
        self.last_error = ""
        self.counters = Counters()
        self._url = url
        self._options = options
        self._on_connect = on_connect
        self._is_live = is_live
        self._backoff = backoff
        self._budget = budget
        self._rotate_after_s = rotate_after_s
        self._link: Link | None = None
        self._early: dict[
            Link, deque[tuple[Frames, int]]
        ] = {}  # of connections that are not yet the one
        self._heard: dict[Link, trio.Event] = {}
        self._items: deque[tuple[Item, int]] = deque()  # with what they cost in memory
        self._pending = 0
        self._ready = trio.Event()
        self._space = trio.Event()
        self._rotate = trio.Event()
        self._rotate_why = ""
        self._error: PikerError | None = None

    # -- the consumer's side --------------------------------------------------------------
    def __aiter__(self) -> Ws:
        """Return itself: there is one stream."""
        return self

    async def __anext__(self) -> Item:
        """Return the next frames, Outage or Resync; wait as long as an outage lasts.

        Raises what ``on_connect`` or the URL's maker raised, unless that was ``Transient``.
        Cancellation loses nothing. Always a checkpoint.
        """
        if self._items:
            await trio.lowlevel.checkpoint()
        while not self._items:
            if self._error is not None:
                raise self._error
            if self.state == "closed":
                raise StopAsyncIteration
            self._ready = trio.Event()
            await self._ready.wait()
        item, cost = self._items.popleft()
        self._pending -= cost
        if self._pending < PENDING_BYTES:
            self._space.set()
        return item

    async def send(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Send on the connection in use (:meth:`Link.send`); ``Transient`` while there is none."""
        if self._link is None or self._link.lost.is_set():
            raise Transient(f"{self._options.venue}: websocket not connected")
        await self._link.send(text, timeout_s=timeout_s)

    def reset(self, reason: str) -> None:
        """Drop the connection in use and make another: for a stream that can not be trusted.

        The back-off applies; frames already read are still delivered, then an Outage, then the
        Resync with ``reason`` as its detail. Never blocks; does nothing without a connection.
        """
        if self._link is not None:
            self._link.fail(reason)

    def rotate(self, reason: str = "rotation") -> None:
        """Move to a new connection without a gap: for a venue that says it will hang up."""
        self._rotate_why = reason
        self._rotate.set()

    # -- frames ---------------------------------------------------------------------------
    async def _deliver(self, link: Link, messages: list[bytes], recv_ns: int) -> None:
        """Take what one read brought; hold up the reading while the consumer is too far behind."""
        frames, size = Frames(messages, recv_ns), sum(map(len, messages))
        cost = size + FRAME_COST * len(messages)
        self.counters.frames += len(messages)
        self.counters.bytes += size
        if (early := self._early.get(link)) is not None:
            early.append((frames, cost))
            if self._is_live is None or any(map(self._is_live, messages)):
                self._heard[link].set()
        elif link is self._link:
            self._append(frames, cost)
        else:
            return  # retired: its successor brings these
        self._pending += cost
        if self._pending >= PENDING_BYTES:
            self.counters.stalls += 1
            link.stalled = True
            while self._pending >= PENDING_BYTES:
                if self._space.is_set():
                    self._space = trio.Event()
                await self._space.wait()
            link.stalled = False

    def _append(self, item: Item, cost: int = 0) -> None:
        self._items.append((item, cost))
        self._ready.set()

    def _interrupt(self, reason: str) -> None:
        """Tell the consumer that the connection is gone, once however often that happens."""
        self._forget_resync()
        if not (self._items and isinstance(self._items[-1][0], Outage)):
            self._append(Outage(reason))

    def _forget_resync(self) -> None:
        """Take back a Resync that nothing came after and nobody read: the next one says it all."""
        if self._items and isinstance(self._items[-1][0], Resync):
            self._items.pop()

    def _switch(self, link: Link, resync: Resync | None) -> None:
        """Make ``link`` the one that is listened to, from a Resync on."""
        if resync is not None:
            self._forget_resync()
            self._append(resync)
        for frames, cost in self._early.pop(link, ()):
            self._append(frames, cost)
        self._link = link
        self.state = "live"
        self.connected_since = link.opened_ns
        self.counters.connects += 1

    # -- the connection's side ------------------------------------------------------------
    async def _supervise(self, nursery: Any) -> None:
        resync: Resync | None = None
        try:
            while True:
                link = await self._establish(nursery)
                self._switch(link, resync)
                await self._subscribe(link)
                lost = await self._hold(link, nursery)
                self.state, self.connected_since, self._link = "waiting", None, None
                self.counters.losses += 1
                if lost.age_s >= self._backoff.healthy_s:
                    self.attempts = 0
                resync = Resync("reconnect", detail=lost.reason)
                self._interrupt(lost.reason)
                await self._wait(lost.reason, None)
        except PikerError as error:
            log.error("ws.gave_up", venue=self._options.venue, error=error)
            self._error, self.state = error, "closed"
            self._ready.set()

    async def _establish(self, nursery: Any) -> Link:
        """Try until there is a connection."""
        while True:
            self.state = "connecting"
            try:
                return await self._open(nursery)
            except Transient as error:
                self.counters.failures += 1
                self.state = "waiting"
                await self._wait(str(error), error.retry_after)

    async def _wait(self, why: str, retry_after: float | None) -> None:
        self.attempts += 1
        wait_s = max(self._backoff.wait_s(self.attempts), retry_after or 0.0)
        self.last_error = why
        milestone = self.attempts > 1 and self.attempts.bit_count() == 1  # 2, 4, 8, ...: no flood
        write = log.warning if milestone else log.info if self.attempts == 1 else log.debug
        write("ws.wait", venue=self._options.venue, attempt=self.attempts, wait_s=wait_s, why=why)
        await trio.sleep(wait_s)

    async def _open(self, nursery: Any) -> Link:
        """Make one connection; ``Transient`` if that fails."""
        permit = await self._budget.acquire(1, kind=CONNECT)
        try:
            url = self._url if isinstance(self._url, str) else await self._fetch_url(self._url)
            link = Link(self._options, self._deliver)
            self._early[link] = deque()
            self._heard[link] = trio.Event()
            try:
                await nursery.start(link.run, url)
            except BaseException:
                self._forget(link)
                raise
        finally:
            permit.done()
        return link

    async def _fetch_url(self, fetch: Callable[[], Awaitable[str]]) -> str:
        try:
            with trio.fail_after(self._options.connect_timeout_s):
                return await fetch()
        except (trio.TooSlowError, OSError) as error:
            raise Transient(f"{self._options.venue}: no websocket URL: {error!r}") from error

    async def _subscribe(self, link: Link) -> bool:
        """Let the owner subscribe; a failure that may pass gives the connection up."""
        if self._on_connect is None:
            return True
        try:
            with trio.fail_after(SUBSCRIBE_S):
                await self._on_connect(link)
            return True
        except (Transient, trio.TooSlowError) as error:
            link.fail(f"subscribing failed: {error or type(error).__name__}")
            return False

    def _forget(self, link: Link) -> None:
        for _, cost in self._early.pop(link, ()):
            self._pending -= cost
        self._heard.pop(link, None)
        self._space.set()

    # -- rotation -------------------------------------------------------------------------
    async def _hold(self, link: Link, nursery: Any) -> Link:
        """Stay connected, rotating in time; return the connection that was lost in the end."""
        failed = 0
        while True:
            self._heard.pop(link, None)
            due_s = self._rotate_after_s * (1 - ROTATE_JITTER * random.random())
            wait_s = due_s - link.age_s if not failed else self._backoff.wait_s(failed)
            await self._until(link, wait_s)
            if link.lost.is_set():
                return link
            successor = await self._succeed(link, nursery)
            if successor is None:
                failed += 1
                continue
            failed, self._rotate_why = 0, ""
            link = successor

    async def _until(self, link: Link, wait_s: float) -> None:
        """Wait for the link's loss, a wish to rotate, or the time to."""
        async with trio.open_nursery() as nursery:

            async def cancel_on(event: Any) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on, link.lost)
            nursery.start_soon(cancel_on, self._rotate)
            await trio.sleep(max(0.0, wait_s))
            nursery.cancel_scope.cancel()

    async def _succeed(self, link: Link, links: Any) -> Link | None:
        """Open, subscribe and hear a second connection, then switch to it; None if that fails."""
        self._rotate = trio.Event()
        detail = self._rotate_why or "rotation"
        successor: Link | None = None
        switched = False
        try:
            successor = await self._open(links)
            with trio.move_on_after(self._options.idle_timeout_s):
                if await self._subscribe(successor):
                    await self._heard[successor].wait()
                    switched = not (successor.lost.is_set() or link.lost.is_set())
        except Transient as error:
            self.last_error = str(error)
        finally:
            if successor is not None and not switched:
                successor.fail("rotation failed")
                self._forget(successor)
        if not switched or successor is None:
            log.warning("ws.rotation_failed", venue=self._options.venue, why=self.last_error)
            return None
        self._switch(successor, Resync("venue", detail=detail))
        link.fail("rotated")
        self.counters.rotations += 1
        return successor


@asynccontextmanager
async def open_ws(
    url: Url,
    *,
    venue: str,
    on_connect: Callable[[Link], Awaitable[None]] | None = None,
    is_live: Callable[[bytes], bool] | None = None,
    ping_every_s: float = 15.0,
    idle_timeout_s: float = 45.0,
    rotate_after_s: float = ROTATE_AFTER_S,
    connect_timeout_s: float = 10.0,
    sends_per_s: float = 4.0,
    max_frame: int = MAX_MESSAGE,
    backoff: Backoff | None = None,
    budget: Budget | None = None,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect: Connect = connect_tcp,
) -> AsyncIterator[Ws]:
    """Open a venue's stream and keep it open; returns at once, connected or not.

    ``on_connect(link)`` runs after every connect and subscribes by ``await link.send(text)``; it
    must not wait for answers, they arrive in the stream. ``is_live(frame)`` tells a frame that
    proves a subscription from an acknowledgement (all do when None): a rotation waits for one.
    A link that receives nothing, not even a pong, for ``idle_timeout_s`` is given up.
    ``sends_per_s`` is the venue's messages per second and connection, less one for pings.
    Handshakes are counted by the venue's budget where it has a limit for ``connect``.

    Errors other than ``Transient`` of ``on_connect`` or of the URL's maker are raised to the
    iterating task. On leaving, every connection is closed within ``CLOSE_S``.
    """
    options = LinkOptions(
        venue=venue,
        connect=connect,
        ssl_context=ssl_context,
        headers={"User-Agent": f"piker/{version('piker')}", **(headers or {})},
        connect_timeout_s=connect_timeout_s,
        ping_every_s=ping_every_s,
        idle_timeout_s=idle_timeout_s,
        max_frame=max_frame,
        sends_per_s=sends_per_s,
    )
    ws = Ws(
        url,
        options,
        on_connect=on_connect,
        is_live=is_live,
        backoff=backoff or Backoff(cap_s=load_conf().network.reconnect_cap_s),
        budget=budget or venue_budget(venue),
        rotate_after_s=rotate_after_s,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ws._supervise, nursery)
        try:
            yield ws
        finally:
            ws.state = "closed"
            ws._ready.set()
            nursery.cancel_scope.cancel()
