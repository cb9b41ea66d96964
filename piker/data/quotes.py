"""Ring rows to quotes: what a client makes for itself, at its own pace. Pure.

One :class:`QuoteMaker` per market folds new rows of the tick ring into the running top of book
and hands out a :class:`~piker.ticks.Quote` with the ticks since the last one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from piker.ticks import ASK, BID, QUOTE, Quote, Side, Tick, TickType

__all__ = ["QuoteMaker", "ticks_of"]

_LAST_SETTERS = frozenset({int(TickType.TRADE), int(TickType.LAST)})
_TYPES = {int(kind): kind for kind in TickType}
_SIDES = {int(side): side for side in Side}

Rows = np.ndarray[Any, np.dtype[Any]]


class QuoteMaker:
    """The running state of one market's quote."""

    __slots__ = ("_state",)

    def __init__(self, first: Quote) -> None:
        self._state = first

    @property
    def state(self) -> Quote:
        """Return the state without ticks."""
        return self._state

    def fold(self, rows: Rows) -> Quote:
        """Take new rows, oldest first; return the quote with their ticks."""
        ticks = ticks_of(rows)
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


def ticks_of(rows: Rows) -> list[Tick]:
    """Return the ticks of ring rows; a QUOTE row gives a bid and an ask, an empty side none."""
    ticks: list[Tick] = []
    columns = (
        rows["type"].tolist(), rows["time_ns"].tolist(), rows["price"].tolist(),
        rows["size"].tolist(), rows["price2"].tolist(), rows["size2"].tolist(),
        rows["side"].tolist(), rows["venue_id"].tolist(),
    )  # fmt: skip
    for kind, time_ns, price, size, price2, size2, side, venue_id in zip(*columns, strict=True):
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
