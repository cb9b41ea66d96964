"""Rows of the tick ring to quotes: what a client makes for itself, at its own pace. Pure.

One :class:`QuoteMaker` per market folds new rows of the tick ring into the running top of book
and hands out a :class:`~piker.ticks.Quote` with the ticks since the last one.
"""

from __future__ import annotations

import struct

from piker.ticks import ASK, BID, QUOTE, TICK_FORMAT, TRADE, Quote, Side, Tick, TickType

__all__ = ["QuoteMaker"]

LAST = int(TickType.LAST)
_TRADE, _BID, _ASK, _NONE = TickType.TRADE, TickType.BID, TickType.ASK, Side.NONE  # bound once
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
        """Take new rows as a cursor's ``take_packed`` gives them; return the quote with them.

        A QUOTE row gives a bid and an ask, an empty side none. A row of a type that only a
        newer writer knows gives nothing.
        """
        ticks: list[Tick] = []
        state, add = self._state, ticks.append
        last, bid, bid_size = state.last, state.bid, state.bid_size
        ask, ask_size, time_ns = state.ask, state.ask_size, state.time_ns
        for _, at, price, size, price2, size2, venue_id, _, kind, side, _ in _unpack(packed):
            if kind == TRADE:  # nearly always
                last = price
                add(Tick(_TRADE, price, size, at, _SIDES.get(side, _NONE), venue_id))
            elif kind == QUOTE:
                if price > 0:
                    bid, bid_size = price, size
                    add(Tick(_BID, price, size, at, _NONE, venue_id))
                if price2 > 0:
                    ask, ask_size = price2, size2
                    add(Tick(_ASK, price2, size2, at, _NONE, venue_id))
                elif price <= 0:
                    continue
            else:
                label = _TYPES.get(kind)
                if label is None:
                    continue
                add(Tick(label, price, size, at, _SIDES.get(side, _NONE), venue_id))
                if kind == LAST:
                    last = price
                elif kind == BID:
                    bid, bid_size = price, size
                elif kind == ASK:
                    ask, ask_size = price, size
            if at > time_ns:
                time_ns = at
        self._state = Quote(
            symbol=state.symbol, last=last, bid=bid, bid_size=bid_size,
            ask=ask, ask_size=ask_size, time_ns=time_ns,
        )  # fmt: skip
        return Quote(
            symbol=state.symbol, last=last, bid=bid, bid_size=bid_size,
            ask=ask, ask_size=ask_size, time_ns=time_ns, ticks=ticks,
        )  # fmt: skip
