"""Ticks and quotes: what a feed carries, and the row of the tick ring that stores it.

Inside a backend and the data floor a tick travels as a plain tuple, :data:`TickRow`, because a
tuple is the cheapest thing Python can make: a busy venue sends hundreds of thousands a second.
People and strategies see :class:`Tick` and :class:`Quote`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

import msgspec
import numpy as np

__all__ = [
    "ASK",
    "BID",
    "QUOTE",
    "TICK_DTYPE",
    "TICK_FORMAT",
    "TRADE",
    "Backfill",
    "Outage",
    "Quote",
    "Resync",
    "Side",
    "Tick",
    "TickBatch",
    "TickRow",
    "TickType",
    "iterticks",
]


class TickType(IntEnum):
    """What a tick says. The numbers are part of the shared-memory format: never renumber."""

    TRADE = 1  # a print on the book; the only kind that makes bars
    DARK_TRADE = 2  # an off-book print; counted apart, never part of a bar
    QUOTE = 3  # the top of book at one instant: bid in price/size, ask in price2/size2
    BID = 4  # the best bid alone, for venues that send one side at a time
    ASK = 5  # the best ask alone
    LAST = 6  # a last price without a print (start-up snapshot)
    MARK = 7  # a derivative's mark price
    INDEX = 8  # the index price under a derivative
    FUNDING = 9  # price holds the funding rate (a fraction), size the seconds to the next one
    OPEN_INTEREST = 10  # size holds the open interest, in base units or contracts

    @property
    def label(self) -> str:
        """Return the word used in quotes: ``trade``, ``bid``, ..."""
        return self.name.lower()


class Side(IntEnum):
    """The aggressor of a trade."""

    SELL = -1
    NONE = 0
    BUY = 1


TRADE, QUOTE = int(TickType.TRADE), int(TickType.QUOTE)
BID, ASK = int(TickType.BID), int(TickType.ASK)

#: One tick on its way through the hot path:
#: (symbol, type, time_ns, price, size, price2, size2, side, venue_id).
#: ``symbol`` is the key that ``stream_quotes`` was given; ``time_ns`` the venue's time, UTC (the
#: time of receipt where the venue sends none); ``price2``/``size2`` are the ask of a QUOTE and 0.0
#: otherwise; ``side`` a :class:`Side` value; ``venue_id`` the venue's trade or update id, or -1.
#: Nothing in it is validated yet: the data floor does that, once, for every backend.
TickRow = tuple[str, int, int, float, float, float, float, int, int]

#: One row of a tick ring: 64 bytes, one cache line (docs/internals/shm.md).
TICK_DTYPE = np.dtype(
    [
        ("index", "<i8"),  # monotonic row number
        ("time_ns", "<i8"),  # the venue's time, UTC
        ("price", "<f8"),
        ("size", "<f8"),
        ("price2", "<f8"),  # the ask of a QUOTE, else 0
        ("size2", "<f8"),
        ("venue_id", "<i8"),  # the venue's trade or update id, -1 where it has none
        ("recv_lag_us", "<i4"),  # receipt minus time_ns in microseconds, saturating
        ("type", "<u1"),  # TickType
        ("side", "<i1"),  # Side
        ("flags", "<u2"),  # bit 0: first tick after a Resync
    ]
)
#: The same row for ``struct.pack_into``.
TICK_FORMAT = "<qqddddqiBbH"
assert TICK_DTYPE.itemsize == struct.calcsize(TICK_FORMAT) == 64


class TickBatch(msgspec.Struct, frozen=True):
    """All ticks that one wake-up of a connection produced.

    The fast form of what ``stream_quotes`` may send on its channel (a seed-002 quote dict is the
    plain one). ``rows`` are in the order the venue sent them; ``recv_ns`` is the wall time at
    which the frames were read.
    """

    rows: list[TickRow]
    recv_ns: int


class Resync(msgspec.Struct, frozen=True, tag="resync"):
    """Continuity was lost, and then restored: what you derived from older ticks may be wrong.

    Sent *in the stream*, where a consumer can not overlook it. ``symbol`` is empty when every
    symbol of the feed is affected; ``missed`` counts lost ticks, -1 where that is not known;
    ``reason`` is one of ``reconnect``, ``sequence-gap``, ``checksum``, ``writer-restart``,
    ``daemon-restart``, ``lagged``, ``venue``. ``since_ns`` is the venue's time of the last tick
    before the loss, 0 where that is not known: bars from then on are not known to be complete.
    """

    reason: str
    symbol: str = ""
    missed: int = -1
    detail: str = ""
    since_ns: int = 0


class Outage(msgspec.Struct, frozen=True, tag="outage"):
    """The upstream is silent or gone: nothing follows until a :class:`Resync`.

    ``symbol`` is empty when every symbol of the feed is affected.
    """

    reason: str
    symbol: str = ""


class Backfill(msgspec.Struct, frozen=True, tag="backfill"):
    """Bars of the past have come into an array, below its first row or over incomplete ones.

    ``rows`` of them open in [``start_s``, ``end_s``), ``period_s`` apart.
    """

    symbol: str
    period_s: int
    start_s: int
    end_s: int
    rows: int


class Tick(msgspec.Struct, frozen=True, gc=False):
    """One event of a market. ``price`` and ``size`` in the market's own units, time in ns UTC."""

    type: TickType
    price: float
    size: float
    time_ns: int
    side: Side = Side.NONE
    venue_id: int = -1


class Quote(msgspec.Struct):
    """The state of a market's top of book and the ticks that led to it since the last quote.

    ``symbol`` is the fqme. Fields are None until the venue has said them.
    """

    symbol: str
    last: float | None = None
    bid: float | None = None
    bid_size: float | None = None
    ask: float | None = None
    ask_size: float | None = None
    time_ns: int = 0
    ticks: list[Tick] = []


def iterticks(quote: Quote, types: Iterable[TickType] = (TickType.TRADE,)) -> Iterator[Tick]:
    """Yield the quote's ticks of the given types, oldest first."""
    wanted = frozenset(types)
    return (tick for tick in quote.ticks if tick.type in wanted)
