"""A replay's feed: what a strategy is given in the place of :func:`piker.data.feed.open_feed`'s.

:class:`Moments` makes of a recording's tick rows what a client's feed makes of a tick ring: the
quotes of every market that one read of the socket changed, and the events between them.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import msgspec
import trio

from piker.data.feed import Feed, Flume, Item
from piker.data.tape import MAX_VALUE
from piker.errors import DataUnavailable
from piker.market import MktPair
from piker.ticks import (
    ASK,
    BID,
    QUOTE,
    Outage,
    Quote,
    Resync,
    Side,
    Tick,
    TickBatch,
    TickRow,
    TickType,
)

__all__ = ["Moment", "ReplayFeed", "ReplayFlume", "Stage", "merged", "moments"]

#: What was seen at one time: {fqme: Quote}, or an event. Times are UTC, ns, and never go back.
Moment = tuple[int, Item]
UNREAD_TICKS = 65_536  # of a market that nobody reads: a live ring's default; then they are lost
_TYPES = {int(kind): kind for kind in TickType}
_SIDES = {int(side): side for side in Side}
_LAST = frozenset({int(TickType.TRADE), int(TickType.LAST)})
_NONE, _BID, _ASK = Side.NONE, TickType.BID, TickType.ASK


class _Top:
    """The running state of one market."""

    __slots__ = ("ask", "ask_size", "bid", "bid_size", "fqme", "last", "ticks", "time_ns")

    def __init__(self, fqme: str) -> None:
        self.fqme = fqme
        self.last: float | None = None
        self.bid: float | None = None
        self.bid_size: float | None = None
        self.ask: float | None = None
        self.ask_size: float | None = None
        self.time_ns = 0
        self.ticks: list[Tick] = []

    def take(self, row: TickRow) -> None:
        """Fold a row, as :class:`piker.data.quotes.QuoteMaker` does those of a ring."""
        _, kind, time_ns, price, size, price2, size2, side, venue_id = row
        if kind == QUOTE and not (price > 0 or price2 > 0):
            return  # an empty book gives no tick, and no time
        if time_ns > self.time_ns:
            self.time_ns = time_ns
        if kind == QUOTE:
            if price > 0:
                self.bid, self.bid_size = price, size
                self.ticks.append(Tick(_BID, price, size, time_ns, _NONE, venue_id))
            if price2 > 0:
                self.ask, self.ask_size = price2, size2
                self.ticks.append(Tick(_ASK, price2, size2, time_ns, _NONE, venue_id))
            return
        if kind in _LAST:
            self.last = price
        elif kind == BID:
            self.bid, self.bid_size = price, size
        elif kind == ASK:
            self.ask, self.ask_size = price, size
        self.ticks.append(
            Tick(_TYPES[kind], price, size, time_ns, _SIDES.get(side, _NONE), venue_id)
        )

    def quote(self) -> Quote:
        """Return the quote with the ticks since the last one."""
        ticks, self.ticks = self.ticks, []
        return Quote(
            self.fqme, self.last, self.bid, self.bid_size, self.ask, self.ask_size, self.time_ns,
            ticks,
        )  # fmt: skip


def moments(
    told: Iterable[TickBatch | Resync | Outage], names: Mapping[str, str]
) -> Iterator[Moment]:
    """Yield what a client's feed would have shown, in order; ``names`` maps market id to fqme.

    A batch's time is that of its receipt. Rows of other markets are left out; so are numbers that
    no market can have, as datad leaves them out. An event has the time of what came before it.
    """
    tops = {symbol: _Top(fqme) for symbol, fqme in names.items()}
    now = 0
    for item in told:
        if not isinstance(item, TickBatch):
            if not item.symbol or item.symbol in names:
                yield now, _addressed(item, names)
            continue
        now = max(now, item.recv_ns)
        changed: dict[str, _Top] = {}
        for row in item.rows:
            top = tops.get(row[0])
            if top is not None and row[1] in _TYPES and _is_sound(row):
                top.take(row)
                changed[top.fqme] = top
        if changed:
            yield now, {fqme: top.quote() for fqme, top in changed.items()}


def _is_sound(row: TickRow) -> bool:
    return all(-MAX_VALUE < number < MAX_VALUE for number in row[3:7])


def _addressed(event: Resync | Outage, names: Mapping[str, str]) -> Resync | Outage:
    symbol = names.get(event.symbol, "")
    return msgspec.structs.replace(event, symbol=symbol)


def merged(earlier: Quote, later: Quote) -> Quote:
    """Return the later quote with the ticks of both."""
    return Quote(
        later.symbol, later.last, later.bid, later.bid_size, later.ask, later.ask_size,
        later.time_ns, earlier.ticks + later.ticks,
    )  # fmt: skip


class ReplayFlume:
    """One market's handles in a replay: what it is, and its first quote."""

    def __init__(self, mkt: MktPair, first_quote: Quote) -> None:
        self.mkt = mkt
        self.first_quote = first_quote
        self.state = "live"

    @property
    def fqme(self) -> str:
        """Return the market's full address."""
        return self.mkt.fqme

    def __getattr__(self, name: str) -> object:
        """Say what a replay does not have."""
        if name in ("bars_1s", "bars_1m", "ticks"):
            raise DataUnavailable(
                f"a replay has no {name} of {self.mkt.fqme}.",
                remedy="Make bars of the quotes' trades: then the strategy runs on both.",
            )
        raise AttributeError(name)


class Stage(Protocol):
    """What drives a feed: whoever moves the time. ``resyncs`` counts those that were given."""

    resyncs: int

    async def next_item(self) -> Item:
        """Wait for the next item; raise ``StopAsyncIteration`` when there are no more."""


class ReplayFeed(Feed):
    """Iterate it for quotes and events, to the recording's end."""

    def __init__(self, stage: Stage, flumes: Mapping[str, ReplayFlume]) -> None:
        self._stage = stage
        super().__init__(None)
        self.flumes = cast(dict[str, Flume], dict(flumes))  # what strategies use of one

    @property
    def resyncs(self) -> int:
        """Return how many times the feed had to begin anew."""
        return self._stage.resyncs

    @resyncs.setter
    def resyncs(self, count: int) -> None:
        self._stage.resyncs = count

    def __anext__(self) -> Coroutine[Any, Any, Item]:
        """Return the next event, or the quotes of every market that changed."""
        return self._stage.next_item()

    async def receive(self) -> Item:
        """Return the next item; raise ``trio.EndOfChannel`` at the recording's end."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None
