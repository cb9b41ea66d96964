"""Feeds that share connections, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from wsserver import Peer, Venue, on_loopback

from piker.brokers import hub
from piker.brokers.hub import Continuity, HubFeed, open_hub_feed
from piker.errors import Rejected
from piker.ticks import QUOTE, TRADE, Outage, Resync, TickBatch, TickRow


class Words:
    """A decoder of frames ``["symbol", number, kind]``; counts what it was told."""

    def __init__(self) -> None:
        self.symbols: set[str] = set()
        self.outband: list[Any] = []
        self.wish = ("", "")

    def add(self, symbols: Iterable[str]) -> None:
        self.symbols.update(symbols)

    def remove(self, symbols: Iterable[str]) -> None:
        self.symbols.difference_update(symbols)

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        rows: list[TickRow] = []
        for frame in frames:
            said = json.loads(frame)
            if said == "bug":
                raise ZeroDivisionError("a decoder's bug")
            if said == "rotate":
                self.wish = ("rotate", "wanted")
            elif said == "reset":
                self.wish = ("reset", "distrust")
            elif isinstance(said, list):
                symbol, number, kind = said
                rows.append((symbol, kind, recv_ns, 1.0, 1.0, 0.0, 0.0, 0, number))
        return rows

    def take_outband(self) -> Sequence[Any]:
        return ()

    def take_wish(self) -> tuple[str, str]:
        taken, self.wish = self.wish, ("", "")
        return taken


class Source:
    """A venue whose messages are ``{"op": .., "names": [..]}``."""

    venue = "hubtest"
    sends_per_s = 1000.0

    greetings: tuple[str, ...] = ()

    def __init__(self, url: str, *, max_symbols: int = 100) -> None:
        self.url = url
        self.key = url
        self.max_symbols = max_symbols
        self.decoders: list[Words] = []

    def subscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        return [json.dumps({"op": "sub", "names": sorted(symbols)})]

    def unsubscribe_messages(self, symbols: Sequence[str]) -> list[str]:
        return [json.dumps({"op": "unsub", "names": sorted(symbols)})]

    def is_live(self, frame: bytes) -> bool:
        return frame.startswith(b"[")

    def decoder(self) -> Words:
        self.decoders.append(Words())
        return self.decoders[-1]


class Book:
    """The venue's side: who is connected, and what each has subscribed."""

    def __init__(self) -> None:
        self.names: dict[Peer, set[str]] = {}
        self.said: list[tuple[int, str, list[str]]] = []  # (connection, op, names)
        self.greet: bytes = b""  # sent to every connection once it has subscribed
        self._changed = trio.Event()

    async def script(self, peer: Peer) -> None:
        """Serve one connection."""
        await peer.handshake()
        self.names[peer] = set()
        try:
            while True:
                ask = json.loads(await peer.text())
                self.said.append((peer.number, ask["op"], ask["names"]))
                change = set(ask["names"])
                if ask["op"] == "sub":
                    assert not change & self.names[peer], "subscribed twice"
                    self.names[peer] |= change
                    if self.greet:
                        await peer.send(self.greet)
                else:
                    assert change <= self.names[peer], "unsubscribed what is not"
                    self.names[peer] -= change
                self._stir()
        finally:
            del self.names[peer]
            self._stir()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, *wanted: set[str]) -> None:
        """Wait until the connections' subscriptions are exactly these."""
        with trio.fail_after(10):
            while sorted(map(sorted, self.names.values())) != sorted(map(sorted, wanted)):
                await self._changed.wait()

    async def send(self, *frames: object) -> None:
        """Send to every connection."""
        for peer in list(self.names):
            await peer.send(*(json.dumps(frame).encode() for frame in frames))


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Venue, Book]]:
    """Serve a book of subscriptions on a real socket."""
    book = Book()
    async with on_loopback(book.script) as venue:
        yield venue, book


async def numbers(feed: HubFeed, count: int) -> list[tuple[str, int]]:
    """Return (symbol, number) of the next rows, at least ``count`` of them."""
    found: list[tuple[str, int]] = []
    with trio.fail_after(10):
        while len(found) < count:
            item = await feed.__anext__()
            if isinstance(item, TickBatch):
                found += [(row[0], row[8]) for row in item.rows]
    return found


async def until(feed: HubFeed, accept: Callable[[Any], bool]) -> list[Any]:
    """Return the items up to the first that is accepted."""
    found: list[Any] = []
    with trio.fail_after(10):
        while not found or not accept(found[-1]):
            found.append(await feed.__anext__())
    return found


async def test_feeds_share_a_connection_when_their_venue_is_one() -> None:
    """One socket; each feed sees its own symbols; the shared one is subscribed once."""
    async with served() as (venue, book):
        source = Source(venue.url)
        async with open_hub_feed(source, ["a", "b"]) as one:
            await book.until({"a", "b"})
            async with open_hub_feed(Source(venue.url), ["b", "c"]) as two:
                await book.until({"a", "b", "c"})
                await book.send(["a", 1, TRADE], ["b", 2, TRADE], ["c", 3, TRADE])
                assert await numbers(one, 2) == [("a", 1), ("b", 2)]
                assert await numbers(two, 2) == [("b", 2), ("c", 3)]
            await book.until({"a", "b"})
            await book.send(["b", 4, TRADE])
            assert await numbers(one, 1) == [("b", 4)]
            assert source.decoders[0].symbols == {"a", "b"}
        await book.until()
        assert venue.accepted == 1


async def test_the_socket_is_closed_when_the_last_feed_is_cancelled() -> None:
    """Leaving waits for the close, also under cancellation."""
    async with served() as (venue, book):
        with trio.CancelScope() as scope:
            async with open_hub_feed(Source(venue.url), ["a"]):
                await book.until({"a"})
                scope.cancel()
                await trio.sleep_forever()
        with trio.fail_after(5):
            await venue.emptied()


async def test_symbols_go_to_more_connections_when_the_venue_bounds_one() -> None:
    """A connection takes what it may; a place that becomes free is used again."""
    async with served() as (venue, book):
        source = Source(venue.url, max_symbols=2)
        async with open_hub_feed(source, ["a", "b", "c"]):
            await book.until({"a", "b"}, {"c"})
            async with open_hub_feed(source, ["b", "d"]) as two:
                await book.until({"a", "b"}, {"c", "d"})
                await book.send(["b", 1, TRADE])
                assert ("b", 1) in await numbers(two, 1)
        await book.until()
        assert venue.accepted == 2


@pytest.mark.slow
async def test_exactly_the_wanted_is_subscribed_when_a_connection_comes_back() -> None:
    """After a loss: Outage, Resync, for each symbol of each feed; then data."""
    async with served() as (venue, book):
        source = Source(venue.url)
        async with open_hub_feed(source, ["a"]) as one, open_hub_feed(source, ["b"]) as two:
            await book.until({"a", "b"})
            async with open_hub_feed(source, ["z"]):
                await book.until({"a", "b", "z"})
            await book.until({"a", "b"})
            book.said.clear()
            for peer in list(book.names):
                await peer.stream.aclose()
            for feed, symbol in ((one, "a"), (two, "b")):
                items = await until(feed, lambda item: isinstance(item, Resync))
                assert items[-1].reason == "reconnect"
                assert {item.symbol for item in items} == {symbol}
                assert all(isinstance(item, Outage) for item in items[:-1])
            await book.until({"a", "b"})
            assert book.said == [(2, "sub", ["a", "b"])]
            await book.send(["a", 1, TRADE], ["b", 2, TRADE])
            assert await numbers(one, 1) == [("a", 1)]
            assert await numbers(two, 1) == [("b", 2)]


@pytest.mark.slow
async def test_an_outage_is_told_when_the_venue_is_gone() -> None:
    """A feed that joins during an outage hears of it too."""
    async with served() as (venue, book):
        source = Source(venue.url)
        async with open_hub_feed(source, ["a"]) as one:
            await book.until({"a"})

            async def refuse(peer: Peer) -> None:
                await peer.request()

            venue.script = refuse
            for peer in list(book.names):
                await peer.stream.aclose()
            (outage,) = await until(one, lambda item: True)
            assert isinstance(outage, Outage)
            async with open_hub_feed(source, ["a", "b"]) as two:
                items = [(await until(two, lambda item: True))[0] for _ in range(2)]
                assert {item.symbol for item in items} == {"a", "b"}
                venue.script = book.script
                await until(two, lambda item: isinstance(item, Resync))
                await book.until({"a", "b"})


async def test_old_quotes_are_left_out_when_connections_overlap() -> None:
    """A rotation's new connection repeats what the old one brought: only trades are taken."""
    async with served() as (venue, book):
        async with open_hub_feed(Source(venue.url), ["a"]) as feed:
            await book.until({"a"})
            book.greet = json.dumps(["a", 5, TRADE]).encode()
            await book.send("rotate")
            items = await until(feed, lambda item: isinstance(item, Resync))
            assert (items[-1].reason, items[-1].detail) == ("venue", "wanted")
            await book.until({"a"})
            assert venue.accepted == 2
            assert await numbers(feed, 1) == [("a", 5)]


def test_only_trades_are_kept_when_frames_are_older_than_what_was_delivered() -> None:
    """The rule itself, without a socket."""
    connection = hub._Connection(Source("ws://x"))
    feed = HubFeed(["a"])
    connection.join(feed, ["a"])
    frames = [json.dumps(["a", n, kind]).encode() for n, kind in ((1, QUOTE), (2, TRADE))]
    for recv_ns in (10, 9, 11):
        connection._frames(hub.Frames(frames, recv_ns), None)  # type: ignore[arg-type]
    batches = list(feed._items)
    assert [[row[8] for row in batch.rows] for batch in batches] == [[1, 2], [2], [1, 2]]


@pytest.mark.slow
async def test_a_fresh_connection_is_made_when_the_decoder_distrusts_this_one() -> None:
    """The wish to reset."""
    async with served() as (venue, book):
        async with open_hub_feed(Source(venue.url), ["a"]) as feed:
            await book.until({"a"})
            await book.send("reset")
            items = await until(feed, lambda item: isinstance(item, Resync))
            assert items[-1].detail == "distrust"
            await book.until({"a"})
            assert venue.accepted == 2


async def test_a_feed_ends_with_an_error_when_its_decoder_has_a_bug() -> None:
    """The system task survives; the feeds are told; the next feed gets a new connection."""
    async with served() as (venue, book):
        source = Source(venue.url)
        async with open_hub_feed(source, ["a"]) as feed:
            await book.until({"a"})
            await book.send("bug")
            with pytest.raises(Exception, match="ZeroDivisionError"):
                await numbers(feed, 1)
            async with open_hub_feed(source, ["a"]) as again:
                await book.until({"a"})
                await book.send(["a", 1, TRADE])
                assert await numbers(again, 1) == [("a", 1)]


async def test_a_stalled_feed_loses_its_oldest_when_another_reads_on() -> None:
    """Bounded memory: a Resync("lagged") stands for what was dropped, and then come the newest."""
    feed = HubFeed(["a", "b"])
    row: TickRow = ("a", TRADE, 1, 1.0, 1.0, 0.0, 0.0, 0, 1)
    feed.put(TickBatch([("b", TRADE, 1, 1.0, 1.0, 0.0, 0.0, 0, 1)], 1))
    for _ in range(3):
        feed.put(TickBatch([row] * (hub.PENDING_ROWS // 2), 1))
    said = [await feed.__anext__() for _ in range(4)]
    assert {item.symbol for item in said[:2]} == {"a", "b"}
    assert all(item.reason == "lagged" for item in said[:2])
    assert [len(item.rows) for item in said[2:]] == [hub.PENDING_ROWS // 2] * 2
    assert feed.lagged == hub.PENDING_ROWS // 2 + 1


async def test_control_items_are_bounded_when_nobody_reads() -> None:
    """Outages without end do not fill the memory."""
    feed = HubFeed(["a"])
    for _ in range(hub.PENDING_ITEMS * 2):
        feed.put(Outage("gone", "a"))
    first = await feed.__anext__()
    assert (first.reason, first.symbol) == ("lagged", "a")
    assert len(feed._items) == hub.PENDING_ITEMS


async def test_subscriptions_are_right_when_feeds_come_and_go_in_a_rush() -> None:
    """Forty feeds of random symbols join and leave; the venue never sees a wrong message."""
    import random

    rng = random.Random(7)
    names = [f"s{number}" for number in range(30)]
    async with served() as (venue, book):
        source = Source(venue.url, max_symbols=12)

        async def visit() -> None:
            async with open_hub_feed(source, rng.sample(names, 6)):
                for _ in range(rng.randrange(30)):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(rng.random() / 50)

        async with open_hub_feed(source, ["s0", "stay"]) as feed:
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(visit)
            await book.until({"s0", "stay"})
            await book.send(["stay", 1, TRADE])
            assert await numbers(feed, 1) == [("stay", 1)]
        await book.until()


async def test_an_error_is_raised_when_the_url_can_not_be_made() -> None:
    """What is no passing failure ends the feed."""

    class Denied(Source):
        @property
        def url(self) -> Any:
            async def fetch() -> str:
                raise Rejected("no token for you", code="1")

            return fetch

        @url.setter
        def url(self, value: str) -> None:
            pass

    async with open_hub_feed(Denied("ws://denied"), ["a"]) as feed:
        with trio.fail_after(5), pytest.raises(Rejected):
            await feed.__anext__()


def test_outage_is_told_once_when_both_connections_of_a_market_are_lost() -> None:
    """From the first that goes to the last that is back; other markets have their own story."""
    story = Continuity()
    down, back = Outage("gone", "x"), Resync("reconnect", "x")
    told = [
        story.tell("a", down),
        story.tell("b", down),
        story.tell("a", back),
        story.tell("a", Resync("lagged", "x")),
        story.tell("c", Outage("gone", "y")),
        story.tell("b", back),
        story.tell("b", Resync("venue", "x")),
    ]
    assert told == [True, False, False, False, True, True, True]
