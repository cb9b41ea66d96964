"""Record a live feed: run a backend as datad would, and write down what crosses the wire.

Beside ``stream_quotes`` the recent bars are asked for once, and the order books are followed where
the backend has ``open_book``, so that a replay has what a feed begins with. A backend that makes
its connections without the venue toolkit is recorded by what it sends on its quote channel.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import trio

from piker.brokers.spec import Backend
from piker.brokers.tap import use_tap
from piker.clock import wall_ns
from piker.data.normalise import Item, normalise
from piker.errors import BrokerError, DataQuality, PikerError, ProviderError
from piker.log import get_logger
from piker.testing import scrub
from piker.testing.capture import (
    FORMAT_VERSION,
    CaptureWriter,
    Close,
    Header,
    In,
    Open,
    Out,
    Quoted,
    Record,
    Rest,
    text_fields,
)
from piker.ticks import TickBatch

__all__ = ["CaptureTap", "Tally", "find_open_book", "record"]

QUEUE = 256  # messages between the backend and us, as in datad
START_S = 30.0  # a backend must call started() within this, as in datad
WRITE_S = 0.2  # how often records go to the file: what a kill may cost
MAX_PENDING = 256 * 2**20  # bytes of payload that wait for the disk
HISTORY_S = 20.0  # recent bars are waited for no longer, as in datad
PERIODS = (1.0, 60.0)  # the bars that datad asks for
_BOOK_HOMES = ("", ".depth", ".book")  # where a backend's open_book may stand

log = get_logger("record")


class Tally(msgspec.Struct):
    """What was recorded so far."""

    frames: int = 0
    rows: int = 0  # tick rows that the backend made of them
    answers: int = 0
    bytes: int = 0  # of frames and bodies
    quotes: int = 0  # records of a backend with a wire of its own
    redacted: int = 0
    written: int = 0  # bytes of the capture, before compression


class CaptureTap:
    """A wire tap that makes records; whoever owns it takes them. Never blocks, never raises."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.connected = False  # a websocket of the toolkit was opened
        self.overflown = False  # the disk is too slow: records are missing
        self._records: list[Record] = []
        self._pending = 0
        self._connections = 0

    def take(self) -> list[Record]:
        """Return and forget what was recorded since the last call."""
        taken, self._records, self._pending = self._records, [], 0
        return taken

    def add(self, record: Record, size: int) -> None:
        """Append a record of ``size`` bytes of payload."""
        if self._pending > MAX_PENDING:
            self.overflown = True
            return
        self._pending += size
        self._records.append(record)

    # -- what the toolkit shows ----------------------------------------------------------------
    def opened(self, venue: str, url: str) -> int:
        """Record that a websocket begins."""
        self.connected = True
        self._connections += 1
        url, redacted = scrub.scrub_url(url)
        self.tally.redacted += redacted
        self.add(Open(t=wall_ns(), c=self._connections, venue=venue, url=url), len(url))
        return self._connections

    def received(self, number: int, messages: list[bytes], recv_ns: int) -> None:
        """Record frames."""
        self.tally.frames += len(messages)
        for message in messages:
            text, redacted = scrub.scrub_heard(message)
            self.tally.redacted += redacted
            self.tally.bytes += len(message)
            fields = text_fields(text)
            self.add(In(t=recv_ns, c=number, redacted=redacted, **fields), len(message))

    def sent(self, number: int, text: str) -> None:
        """Record a message of ours."""
        body, redacted = scrub.scrub_said(text.encode())
        self.tally.redacted += redacted
        record = Out(t=wall_ns(), c=number, redacted=redacted, **text_fields(body))
        self.add(record, len(body))

    def closed(self, number: int, reason: str) -> None:
        """Record that a websocket is lost."""
        self.add(Close(t=wall_ns(), c=number, reason=reason), len(reason))

    def answered(
        self,
        venue: str,
        method: str,
        url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        """Record a REST answer."""
        self.tally.answers += 1
        self.tally.bytes += len(body)
        url, hidden = scrub.scrub_url(url)
        text, redacted = scrub.scrub_heard(body)
        self.tally.redacted += hidden + redacted
        parts = urlsplit(url)
        self.add(
            Rest(
                t=wall_ns(), venue=venue, method=method, base=f"{parts.scheme}://{parts.netloc}",
                path=parts.path, query=parts.query, status=max(100, min(status, 599)),
                headers=scrub.keep_headers(headers), redacted=hidden + redacted,
                **text_fields(text),
            ),
            len(body),
        )  # fmt: skip

    # -- what a backend without the toolkit sends ----------------------------------------------
    def quoted(self, item: Item) -> None:
        """Record an item of the quote channel."""
        self.tally.quotes += 1
        if isinstance(item, TickBatch):
            self.add(Quoted(t=item.recv_ns, rows=item.rows), 100 * len(item.rows))
        else:
            self.add(Quoted(t=wall_ns(), event=msgspec.to_builtins(item)), 100)


# -- running -------------------------------------------------------------------------------------
async def record(
    backend: Backend,
    symbols: Sequence[str],
    path: Path,
    *,
    force: bool = False,
    book: bool = True,
    on_start: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Record the feed of ``symbols`` (market ids) into ``path`` until cancelled.

    Nothing is written before every symbol was found. ``on_start`` is given the tally, which goes on
    counting. Raises ``SymbolNotFound``, ``ConfigError`` (the file), ``ProviderError``, and whatever
    ends the backend's stream; the capture is whole up to there in every case.
    """
    tap = CaptureTap()
    with use_tap(tap):
        names = await _resolve(backend, symbols)
        header = Header(
            version=FORMAT_VERSION, provider=backend.name, t=wall_ns(), piker=version("piker"),
            symbols=tuple(names),
        )  # fmt: skip
        with CaptureWriter(path, header, force=force) as writer:
            on_start(tap.tally)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_write_for_ever, tap, writer)
                    await _stream(backend, names, tap, book)
            finally:
                writer.write(tap.take())
                tap.tally.written = writer.bytes
    return tap.tally


async def _resolve(backend: Backend, symbols: Sequence[str]) -> list[str]:
    """Return the market ids; raise ``SymbolNotFound`` where the backend says so."""
    if backend.get_mkt_info is None:
        return list(dict.fromkeys(symbols))
    found = [await backend.get_mkt_info(f"{name}.{backend.name}") for name in symbols]
    return list(dict.fromkeys(market.mktid for market in found))


async def _write_for_ever(tap: CaptureTap, writer: CaptureWriter) -> None:
    while True:
        await trio.sleep(WRITE_S)
        if records := tap.take():
            # Not abandoned on cancellation: a block is written whole.
            await trio.to_thread.run_sync(writer.write, records)
            tap.tally.written = writer.bytes
        if tap.overflown:
            raise PikerError(
                f"{writer.path}: the disk is slower than the venue: the capture ends here.",
                remedy="Record fewer markets, or to another disk.",
            )


async def _stream(backend: Backend, symbols: list[str], tap: CaptureTap, book: bool) -> None:
    """Run the backend's stream, and what else a feed begins with. Never returns by itself."""
    send, receive = trio.open_memory_channel[Any](QUEUE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_consume, receive, tap)
        with trio.move_on_after(START_S) as deadline:
            await nursery.start(
                partial(
                    backend.stream_quotes, send_chan=send, symbols=symbols, shm=None,
                    feed_is_live=trio.Event(), loglevel=None,
                )
            )  # fmt: skip
        if deadline.cancelled_caught:
            raise ProviderError(
                f"the backend {backend.name!r} did not call task_status.started() "
                f"within {START_S:.0f} s."
            )
        open_book = find_open_book(backend) if book else None
        for symbol in symbols:
            nursery.start_soon(_history, backend, symbol)
            if open_book is not None:
                nursery.start_soon(_follow, open_book, symbol)


async def _consume(receive: trio.MemoryReceiveChannel[Any], tap: CaptureTap) -> None:
    async for sent in receive:
        try:
            items = normalise(sent, wall_ns())
        except DataQuality as error:
            log.warning("record.bad_message", why=error)
            continue
        for item in items:
            if isinstance(item, TickBatch):
                tap.tally.rows += len(item.rows)
            if not tap.connected:
                tap.quoted(item)


async def _history(backend: Backend, symbol: str) -> None:
    """Ask for recent bars, as datad does; what can not be had is left out."""
    for period in PERIODS:
        try:
            with trio.move_on_after(HISTORY_S):
                async with backend.open_history_client(symbol) as opened:
                    get_ohlc = opened[0] if isinstance(opened, tuple) else opened
                    await get_ohlc(period)
        except BrokerError as error:
            log.info("record.no_history", symbol=symbol, period_s=period, why=error)
        except Exception as error:  # a backend's bug in history must not end its stream
            log.warning("record.history_failed", symbol=symbol, error=repr(error))


def find_open_book(backend: Backend) -> Callable[[str], Any] | None:
    """Return the backend's ``open_book``, or None where it has none."""
    name = backend.module.__name__
    for home in _BOOK_HOMES:
        module = backend.module
        if home:
            if not hasattr(module, "__path__") or importlib.util.find_spec(name + home) is None:
                continue
            module = importlib.import_module(name + home)
        found: Callable[[str], Any] | None = getattr(module, "open_book", None)
        if found is not None:
            return found
    return None


async def _follow(open_book: Callable[[str], Any], symbol: str) -> None:
    """Keep a book, so that its frames come."""
    async with open_book(symbol):
        await trio.sleep_forever()
