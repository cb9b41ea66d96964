"""Live data for clients: open markets, follow their quotes, be told of every loss.

    async with open_feed(["btcusdt.spot.binance"], tick_throttle=5) as feed:
        async for item in feed:
            if isinstance(item, Resync): ...      # what you derived may be wrong
            else: ...                             # {fqme: Quote}

Quotes are made here, in the client, from the shared tick rings (docs/adr/0001). The feed survives
the death of datad and of pikerd: it says so (``Outage``), attaches again by itself, and says that
too (``Resync``).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio_typing import TaskStatus

from piker import service
from piker.data.daemon import feed_stats, open_feed_bus
from piker.data.messages import FeedEvent, FeedStats, FlumeInfo
from piker.data.quotes import QuoteMaker
from piker.data.shm import Cursor, ShmArray, TickRing, attach_token
from piker.data.wake import WakeReceiver, wake_dir
from piker.errors import ConfigError, PeerLost, PikerError
from piker.market import MktPair, parse_fqme
from piker.ticks import Backfill, Outage, Quote, Resync

__all__ = ["Feed", "Flume", "open_feed"]

FLOOR_S, CAP_S = 0.05, 2.0  # waits between attempts to attach again: live within seconds
AT_ONCE = 4096  # ticks a market and quote, where no throttle asks for more: some 5 ms of folding,
# then the program's other tasks have their turn
WHOLE = 65_536  # with a throttle: whatever came since the last quote, up to the default ring
EVENTS = 1024  # events kept for a client that does not read; the oldest news is that it is lagging
Item = dict[str, Quote] | Resync | Outage | Backfill


class Flume:
    """One market's handles: metadata, first quote, both arrays and the tick ring."""

    def __init__(self, info: FlumeInfo) -> None:
        self.mkt: MktPair = info.mkt
        self.first_quote: Quote = info.first_quote
        self.ticks, self.bars_1s, self.bars_1m = _attach(info)

    @property
    def fqme(self) -> str:
        """Return the market's full address."""
        return self.mkt.fqme

    @property
    def state(self) -> str:
        """Return ``live``, ``reconnecting``, or ``lost`` when its writer gives no sign of life."""
        if self.ticks.stale_for_s() > 1.0 or self.ticks.state == "closed":
            return "lost"
        return self.ticks.state

    def close(self) -> None:
        """Let go of the segments; views that were taken stay valid."""
        for segment in (self.ticks, self.bars_1s, self.bars_1m):
            segment.close()


def _attach(info: FlumeInfo) -> tuple[TickRing, ShmArray, ShmArray]:
    ring = attach_token(info.ticks)
    seconds, minutes = attach_token(info.bars_1s), attach_token(info.bars_1m)
    assert isinstance(ring, TickRing)
    assert isinstance(seconds, ShmArray)
    assert isinstance(minutes, ShmArray)
    return ring, seconds, minutes


class _Line:
    """One market's place in the quote stream."""

    def __init__(self, flume: Flume) -> None:
        self.maker = QuoteMaker(flume.first_quote)
        self.cursor: Cursor = flume.ticks.cursor()


class Feed:
    """An open feed. Iterate it for quotes and events; ``flumes`` maps fqme to :class:`Flume`."""

    def __init__(self, throttle_hz: float | None, *, backfills: bool = False) -> None:
        self.flumes: dict[str, Flume] = {}
        self.resyncs = 0
        self._backfills = backfills
        self._lines: dict[str, _Line] = {}
        self._period_s = 1 / throttle_hz if throttle_hz else 0.0
        self._events: list[FeedEvent] = []
        self._news = trio.Event()
        self._receivers: dict[str, WakeReceiver] = {}
        self._peers: dict[str, service.Peer] = {}
        self._last_s = -1e9
        self._waiting: dict[str, Quote] = {}  # folded, and not returned yet

    def __aiter__(self) -> Feed:
        """Iterate for ever."""
        return self

    async def __anext__(self) -> Item:
        """Return the next event, or the quotes of every market that changed."""
        return await self.receive()

    async def receive(self) -> Item:
        """Wait for the next event or quotes; with a throttle, at most that many a second.

        Events come before the quotes that follow them. A client that reads too slowly gets a
        ``Resync`` with the exact number of ticks it missed, per market.
        """
        while True:
            if self._events:
                return self._next_event()
            if self._waiting:
                quotes, self._waiting = self._waiting, {}
                return quotes
            if self._period_s:
                await trio.sleep(max(0.0, self._last_s + self._period_s - trio.current_time()))
            quotes = self._collect()
            if self._events:
                self._waiting = quotes  # a lapped market's Resync goes first
                continue
            if quotes:
                self._last_s = trio.current_time()
                await trio.lowlevel.checkpoint()
                return quotes
            await self._wait()

    async def stats(self) -> FeedStats:
        """Return the counters of all datads behind this feed, added up."""
        total: dict[str, int] = defaultdict(int)
        quality: dict[str, int] = defaultdict(int)
        for peer in self._peers.values():
            stats = await peer.run(feed_stats, type=FeedStats)
            for name in FeedStats.__struct_fields__:
                if name != "data_quality":
                    total[name] += getattr(stats, name)
            for kind, count in stats.data_quality.items():
                quality[kind] += count
        return FeedStats(**total, data_quality=dict(quality))

    # -- inside --------------------------------------------------------------------------------
    def _next_event(self) -> FeedEvent:
        event = self._events.pop(0)
        self.resyncs += isinstance(event, Resync)
        return event

    def _push(self, event: FeedEvent) -> None:
        if len(self._events) < EVENTS:
            self._events.append(event)
        self._news.set()

    def _collect(self) -> dict[str, Quote]:
        quotes: dict[str, Quote] = {}
        for fqme, line in self._lines.items():
            if not line.cursor.pending():
                continue
            rows, missed = line.cursor.take_packed(WHOLE if self._period_s else AT_ONCE)
            if missed:
                self._push(Resync("lagged", fqme, missed))
            quotes[fqme] = line.maker.fold(rows)
        return quotes

    async def _wait(self) -> None:
        """Wait until a datad wakes us or an event comes."""
        async with trio.open_nursery() as nursery:

            async def until(wait: Any) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            for receiver in self._receivers.values():
                nursery.start_soon(until, receiver.wait)
            nursery.start_soon(until, self._news.wait)
        self._news = trio.Event()

    def _install(self, infos: Sequence[FlumeInfo]) -> None:
        """Attach, or attach again: old arrays stay readable until the new ones are there."""
        for info in infos:
            flume = Flume(info)
            old = self.flumes.get(flume.fqme)
            self.flumes[flume.fqme] = flume
            self._lines[flume.fqme] = _Line(flume)
            if old is not None:
                old.close()

    async def _follow(
        self, provider: str, symbols: Sequence[str], start_pikerd: bool,
        task_status: TaskStatus[None],
    ) -> None:  # fmt: skip
        """Keep one provider's markets open; the first failure is the opener's to see."""
        first = True
        wait_s = FLOOR_S
        while True:
            try:
                async with service.open_service(
                    f"datad.{provider}", start_pikerd=start_pikerd and first
                ) as peer:
                    async with peer.open_dialog(
                        open_feed_bus, type=list[FlumeInfo], stream_type=FeedEvent, symbols=symbols
                    ) as (infos, dialog):
                        self._install(infos)
                        self._peers[provider] = peer
                        if first:
                            task_status.started()
                        else:
                            self._push(Resync("daemon-restart", detail=f"datad.{provider}"))
                        first, wait_s = False, FLOOR_S
                        async for event in dialog:
                            event = self._addressed(event, provider)
                            if isinstance(event, Backfill) and not (
                                self._backfills and event.symbol in self._lines
                            ):
                                continue
                            self._push(event)
                        raise PeerLost(f"datad.{provider} ended.")
            except PikerError as err:
                if first:  # the opener's to see; later anything may pass
                    raise
                if self._peers.pop(provider, None) is not None:
                    self._push(Outage(str(err)))
            await trio.sleep(random.uniform(wait_s / 2, wait_s))
            wait_s = min(CAP_S, wait_s * 2)

    def _addressed(self, event: FeedEvent, provider: str) -> FeedEvent:
        """Turn a backend's market id into the fqme that the client knows."""
        if not event.symbol:
            return event
        fqme = f"{event.symbol}.{provider}"
        return msgspec.structs.replace(event, symbol=fqme)


@asynccontextmanager
async def open_feed(
    fqmes: Sequence[str],
    *,
    tick_throttle: float | None = None,
    start_pikerd: bool = True,
    backfills: bool = False,
) -> AsyncIterator[Feed]:
    """Open live data of one or more markets; yield a :class:`Feed` once every first quote is in.

    ``tick_throttle`` is the most quotes per second and market; None means every wake-up. pikerd
    is started in the background when none runs. With ``backfills`` the feed also gives a
    ``Backfill`` when bars of the past have come into an array. Raises ``ConfigError`` for a
    malformed address, ``ProviderError`` and ``SymbolNotFound`` with the nearest valid name. Leaving
    the block gives the markets back; datad releases them after a grace time.
    """
    if not fqmes:
        raise ConfigError("no market was named.", remedy="Name one, as btcusdt.spot.binance.")
    groups: dict[str, list[str]] = defaultdict(list)
    for text in dict.fromkeys(fqme.lower() for fqme in fqmes):
        groups[parse_fqme(text).provider].append(text)
    feed = Feed(tick_throttle, backfills=backfills)
    try:
        async with service.open_client_runtime():
            async with trio.open_nursery() as nursery:
                for provider in groups:
                    feed._receivers[provider] = WakeReceiver(wake_dir(provider))
                try:
                    for provider, symbols in groups.items():
                        await nursery.start(feed._follow, provider, symbols, start_pikerd)
                    yield feed
                finally:
                    nursery.cancel_scope.cancel()
    finally:
        for receiver in feed._receivers.values():
            receiver.close()
        for flume in feed.flumes.values():
            flume.close()
