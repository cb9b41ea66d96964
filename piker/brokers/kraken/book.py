"""Kraken's order book, proved by its checksum at every step.

The checksum is made of digits as the venue formats them (``price_precision`` and
``qty_precision`` of the market), so levels stay text from the frame to the book.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec
import trio

from piker.brokers.book import Level, OrderBook
from piker.brokers.kraken import schema
from piker.brokers.kraken.api import PROVIDER, Listing, find_listing, url
from piker.brokers.quality import QualityLog, venue_quality
from piker.brokers.sequence import book_crc32
from piker.brokers.ws import Frames, Link, Ws, open_ws
from piker.errors import ConfigError, DataQuality, Transient
from piker.log import get_logger

__all__ = ["DEPTHS", "BookSync", "LiveBook", "open_book"]

log = get_logger("kraken.book")

DEPTHS = (10, 25, 100, 500, 1000)  # what the venue offers
MAX_FAILURES = 4  # frames in a row that did not hold before the connection itself is distrusted
MAX_DIGITS = 40  # characters of one number; the longest price or size has some 20

_FRAME = msgspec.json.Decoder(schema.BookFrame)

#: What the caller is to do: nothing, tell that the book has changed, ask for a new snapshot.
Verdict = Literal["none", "changed", "resubscribe"]


def digits(raw: msgspec.Raw, places: int) -> str:
    """Return a JSON number as text with exactly ``places`` decimals.

    Raises ``DataQuality`` for what is no number or would lose digits.
    """
    text = bytes(raw).decode("ascii", "replace")
    if len(text) > MAX_DIGITS:
        raise DataQuality(f"not a level's number: {text[:MAX_DIGITS]!r}...")
    whole, _, fraction = text.partition(".")
    if whole.isdecimal() and len(fraction) <= places and (fraction.isdecimal() or not fraction):
        return f"{whole}.{fraction:0<{places}}" if places else whole
    try:
        value = Decimal(text)
        fixed = value.quantize(Decimal(1).scaleb(-places))
    except InvalidOperation:
        raise DataQuality(f"not a level's number: {text!r}") from None
    if fixed != value:
        raise DataQuality(f"{text!r} has more than {places} decimals", kind="digits")
    return f"{fixed:f}"


class BookSync:
    """One market's book, fed with frames. Pure: does no I/O."""

    def __init__(self, listing: Listing, depth: int, quality: QualityLog) -> None:
        self.book = OrderBook()
        self.synced = False
        self.checked = 0  # checksums that held
        self.failures = 0  # frames that did not hold since the last update that did
        self.wire = listing.wire
        self._listing = listing
        self._depth = depth
        self.quality = quality

    def take(self, frame: bytes) -> Verdict:
        """Apply a frame. One that does not hold clears the book: a new snapshot must come.

        Updates before a snapshot are dropped, and so is everything that is no book of the market.
        """
        if b'"book"' not in frame or b'"method"' in frame[:200]:
            return "none"  # the answer to our subscription names the channel too
        try:
            return self._message(_FRAME.decode(frame))
        except DataQuality as error:
            self.quality.count(error.kind, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.quality.count("malformed", f"book: {error}")
        self.lose()
        self.failures += 1
        return "resubscribe"

    def lose(self) -> None:
        """Forget the book."""
        self.book.clear()
        self.synced = False

    def _message(self, message: schema.BookFrame) -> Verdict:
        verdict: Verdict = "none"
        for part in message.data:
            if part.symbol != self._listing.wire:
                self.quality.count("wrong-symbol", part.symbol)
            elif message.type == "snapshot":
                self.book.load(self._levels(part.bids), self._levels(part.asks))
                self._verify(part.checksum)
                self.synced, verdict = True, "changed"
            elif self.synced:
                self.book.apply(self._levels(part.bids), self._levels(part.asks))
                self._verify(part.checksum)
                self.failures, verdict = 0, "changed"
        return verdict

    def _levels(self, levels: list[schema.BookLevel]) -> list[Level]:
        price_digits, size_digits = self._listing.price_digits, self._listing.size_digits
        return [(digits(x.price, price_digits), digits(x.qty, size_digits)) for x in levels]

    def _verify(self, checksum: int) -> None:
        """Cut the book to its depth and compare; the order is the venue's."""
        book = self.book
        book.truncate(self._depth)
        ours = book_crc32(book.asks.levels(10), book.bids.levels(10))
        if ours != checksum:
            raise DataQuality(
                f"{self._listing.wire}: our book sums to {ours}, the venue's to {checksum}",
                kind="checksum",
            )
        if book.crossed():
            raise DataQuality(f"{self._listing.wire}: the bid reaches the ask", kind="crossed-book")
        self.checked += 1


class LiveBook:
    """A market's book as it changes; made by :func:`open_book`."""

    def __init__(self, symbol: str, sync: BookSync) -> None:
        self.symbol = symbol
        self.resyncs = 0  # times that the book was lost
        self._sync = sync
        self._changed = trio.Event()

    @property
    def book(self) -> OrderBook:
        """Return the book; empty while it is not synced."""
        return self._sync.book

    @property
    def synced(self) -> bool:
        """Tell whether the book is the venue's."""
        return self._sync.synced

    @property
    def checked(self) -> int:
        """Return how many checksums held."""
        return self._sync.checked

    async def wait_update(self) -> None:
        """Wait until the book has changed or is lost; several changes may be one wake-up."""
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_book(symbol: str, *, depth: int = 10) -> AsyncIterator[LiveBook]:
    """Keep a verified book of ``symbol`` while the block runs; it may begin before the snapshot.

    A checksum that does not hold costs a new subscription, several in a row the connection.
    """
    if depth not in DEPTHS:
        raise ConfigError(f"kraken has no book of depth {depth}.", remedy=f"Valid: {DEPTHS}.")
    listing = await find_listing(symbol)
    sync = BookSync(listing, depth, venue_quality(PROVIDER))
    live = LiveBook(symbol, sync)

    async def subscribe(link: Link) -> None:
        await link.send(_request("subscribe", listing.wire, depth))

    async with open_ws(f"{url('spot_ws')}/v2", venue=PROVIDER, on_connect=subscribe) as ws:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, ws, live, depth)
            yield live
            nursery.cancel_scope.cancel()


async def _follow(ws: Ws, live: LiveBook, depth: int) -> None:
    sync = live._sync
    async for item in ws:
        if not isinstance(item, Frames):
            if sync.synced:
                sync.lose()
                live.resyncs += 1
                live._tell()
            continue
        verdicts = {sync.take(frame) for frame in item.frames}
        if "resubscribe" in verdicts:
            live.resyncs += 1
            await _mend(ws, live, depth)
        if verdicts != {"none"}:
            live._tell()


async def _mend(ws: Ws, live: LiveBook, depth: int) -> None:
    """Ask for a new book; a stream that never holds is dropped, and the back-off applies."""
    log.warning("book-lost", symbol=live.symbol, failures=live._sync.failures)
    live._sync.lose()
    if live._sync.failures >= MAX_FAILURES:
        ws.reset("checksum")
        return
    try:
        for method in ("unsubscribe", "subscribe"):
            await ws.send(_request(method, live._sync.wire, depth))
    except Transient:
        pass  # the connection is gone: the next one subscribes anyway


def _request(method: str, wire: str, depth: int) -> str:
    params: dict[str, object] = {"channel": "book", "symbol": [wire], "depth": depth}
    if method == "subscribe":
        params["snapshot"] = True
    return msgspec.json.encode({"method": method, "params": params}).decode()
