"""Rows of the tick ring to quotes: what a client makes for itself, at its own pace. Pure.

One :class:`QuoteMaker` per market folds new rows of the tick ring into the running top of book
and hands out a :class:`~piker.ticks.Quote` with the ticks since the last one.
"""

from __future__ import annotations

import struct

from piker.ticks import ASK, BID, QUOTE, TICK_FORMAT, Quote, Side, Tick, TickType

__all__ = ["QuoteMaker", "ticks_of"]

_LAST_SETTERS = frozenset({int(TickType.TRADE), int(TickType.LAST)})
_TYPES = {int(kind): kind for kind in TickType}
_SIDES = {int(side): side for side in Side}
_unpack = struct.Struct(TICK_FORMAT).iter_unpack


class QuoteMaker:
    """The running state of one market's quote."""

    __slots__ = ("_state",)

    def __init__(self, first: Quote) -> None:
        self._state = first

    @property
    def state(self) -> Quote:
        """Return the state without ticks."""
        return self._state

    def fold(self, packed: bytes | bytearray) -> Quote:
        """Take new rows as a cursor's ``take_packed`` gives them; return the quote with them."""
        ticks = ticks_of(packed)
        state = self._state
        last, bid, bid_size = state.last, state.bid, state.bid_size
        ask, ask_size, time_ns = state.ask, state.ask_size, state.time_ns
        for tick in ticks:
            kind = tick.type
            if kind in _LAST_SETTERS:
                last = tick.price
            elif kind == BID:
                bid, bid_size = tick.price, tick.size
            elif kind == ASK:
                ask, ask_size = tick.price, tick.size
            time_ns = max(time_ns, tick.time_ns)
        self._state = Quote(
            symbol=state.symbol, last=last, bid=bid, bid_size=bid_size,
            ask=ask, ask_size=ask_size, time_ns=time_ns,
        )  # fmt: skip
        return Quote(
            symbol=state.symbol, last=last, bid=bid, bid_size=bid_size,
            ask=ask, ask_size=ask_size, time_ns=time_ns, ticks=ticks,
        )  # fmt: skip


def ticks_of(packed: bytes | bytearray) -> list[Tick]:
    """Return the ticks of packed rows; a QUOTE row gives a bid and an ask, an empty side none."""
    ticks: list[Tick] = []
    for _, time_ns, price, size, price2, size2, venue_id, _, kind, side, _ in _unpack(packed):
        if kind == QUOTE:
            if price > 0:
                ticks.append(Tick(TickType.BID, price, size, time_ns, Side.NONE, venue_id))
            if price2 > 0:
                ticks.append(Tick(TickType.ASK, price2, size2, time_ns, Side.NONE, venue_id))
            continue
        label = _TYPES.get(kind)
        if label is not None:  # a newer writer may know types that this reader does not
            ticks.append(Tick(label, price, size, time_ns, _SIDES.get(side, Side.NONE), venue_id))
    return ticks
