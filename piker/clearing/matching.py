"""How paper orders trade: against what the market shows and prints, and never better. Pure.

The model, by name ``queue``, which every fill of it carries:

- An order that takes trades with the shown size of the best level alone, at that level's price, and
  what it took is not there again until the market shows another size. What is left of a limit order
  stands; of a market order it waits for the next quote; of an immediate one it is gone.
- An order that stands joins the queue behind all that is shown at its price. Trades at its price
  move the queue up; so does a smaller shown size, which is taken for cancels in front of us only
  when no other reading is left (our place is never better than the size shown). What trades beyond
  the queue fills it. A trade, or a quote of the other side, through its price fills it: it would
  have been hit first.
- At a price deeper than the best level the queue is not known: it is counted from the moment when
  the price becomes the best.
- Fills are at the order's own limit, or at the quoted price that it took.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from piker.orders import BrokerdOrder, OrderKind, TimeInForce

__all__ = ["MODEL", "PaperFill", "PaperMarket", "Resting"]

MODEL = "paper.queue"
ZERO = Decimal(0)
BEYOND = Decimal("Infinity")  # above every price
_TAKES = "it would trade at once, and is post-only"


class PaperFill(NamedTuple):
    """A fill that the model made."""

    oid: str
    size: Decimal
    price: Decimal
    maker: bool


class Resting:
    """An order in the model's hands. ``ahead`` is what stands before it, None where not known."""

    __slots__ = ("ahead", "left", "limit", "oid", "side")

    def __init__(self, oid: str, side: int, left: Decimal, limit: Decimal | None) -> None:
        self.oid = oid
        self.side = side
        self.left = left
        self.limit = limit  # None: it takes whatever is quoted next
        self.ahead: Decimal | None = None


class PaperMarket:
    """One market's paper book. Levels are (price, size); sizes that we took are left out."""

    def __init__(self) -> None:
        self.resting: dict[str, Resting] = {}
        self._reach: tuple[Decimal, Decimal] | None = None  # until what rests changes
        self._best: dict[int, tuple[Decimal, Decimal]] = {}  # side of who quotes -> price, size
        self._taken = {1: ZERO, -1: ZERO}  # of the level shown now

    @property
    def is_known(self) -> bool:
        """Tell whether both sides have been quoted."""
        return len(self._best) == 2

    def price_for(self, side: int) -> Decimal | None:
        """Return the price at which an order of a side would take, None where there is none yet."""
        theirs = self._best.get(-side)
        return theirs[0] if theirs is not None else None

    def reach(self) -> tuple[Decimal, Decimal]:
        """Return (highest buy, lowest sell) that rests; nothing happens strictly between them."""
        if self._reach is None:
            buys = [_edge(one) for one in self.resting.values() if one.side > 0]
            sells = [_edge(one) for one in self.resting.values() if one.side < 0]
            self._reach = max(buys, default=ZERO), min(sells, default=BEYOND)
        return self._reach

    def _gone(self, one: Resting) -> None:
        """Look anew for the reach if it was this order's: a thousand may go one by one."""
        if self._reach is not None and _edge(one) == self._reach[one.side < 0]:
            self._reach = None

    # -- orders --------------------------------------------------------------------------------
    def submit(self, order: BrokerdOrder) -> tuple[list[PaperFill], str]:
        """Take an order; return its fills and what becomes of it at once.

        The latter is "" while it may still trade, ``closed``, or why it does not stand.
        """
        side = 1 if order.action == "buy" else -1
        limit = order.price if order.kind is OrderKind.LIMIT else None
        one = Resting(order.oid, side, order.size, limit)
        crosses = self._crosses(one)
        if order.post_only and crosses:
            return [], _TAKES
        if order.tif is TimeInForce.FOK and (not crosses or self._shown(-side) < one.left):
            return [], "it can not be filled whole at once"
        fills = self._take(one) if crosses else []
        if not one.left:
            return fills, "closed"
        if order.tif in (TimeInForce.IOC, TimeInForce.FOK):
            return fills, "the rest does not trade at once"
        self._join(one)
        return fills, ""

    def cancel(self, oid: str) -> Resting | None:
        """Take an order out; return it, or None when it is not there."""
        one = self.resting.pop(oid, None)
        if one is not None:
            self._gone(one)
        return one

    def amend(self, order: BrokerdOrder, filled: Decimal) -> tuple[list[PaperFill], str] | None:
        """Give an order new terms; None when it is gone. Only a smaller size keeps its place.

        The second is as in :meth:`submit`, but what does not stand so stands as it was.
        """
        one = self.resting.get(order.oid)
        if one is None:
            return None
        left = order.size - filled
        self._reach = None
        if left <= 0:
            del self.resting[order.oid]
            return [], "closed"
        if order.price == one.limit and left <= one.left:
            one.left = left
            return [], ""
        fresh = Resting(order.oid, one.side, left, order.price)
        crosses = self._crosses(fresh)
        if order.post_only and crosses:
            return [], _TAKES
        del self.resting[order.oid]
        fills = self._take(fresh) if crosses else []
        if not fresh.left:
            return fills, "closed"
        self._join(fresh)
        return fills, ""

    # -- the market ----------------------------------------------------------------------------
    def quote(
        self, bid: Decimal, bid_size: Decimal, ask: Decimal, ask_size: Decimal
    ) -> list[PaperFill]:
        """Take the top of the book; return what it fills."""
        for side, price, size in ((1, bid, bid_size), (-1, ask, ask_size)):
            before = self._best.get(side)
            if before != (price, size):
                self._taken[side] = ZERO
            self._best[side] = (price, size)
        if not self.resting:
            return []
        buy, sell = self.reach()
        if buy < bid and ask < sell:
            return []
        for side, price, size in ((1, bid, bid_size), (-1, ask, ask_size)):
            for one in self.resting.values():
                if one.side == side and one.limit == price:
                    one.ahead = size if one.ahead is None else min(one.ahead, size)
        fills = []
        for one in self._in_turn():
            if self._crosses(one):
                fills += self._take(one) if one.limit is None else self._through(one)
        self._forget()
        return fills

    def trade(self, price: Decimal, size: Decimal, aggressor: int) -> list[PaperFill]:
        """Take a print; return what it fills. ``aggressor``: 1 bought, -1 sold, 0 not known."""
        buy, sell = self.reach()
        if buy < price < sell:
            return []
        fills = []
        left = size
        for one in self._in_turn():
            if one.limit is None or aggressor == one.side or left <= 0:
                continue
            if (price - one.limit) * one.side < 0:  # through our price
                took = min(left, one.left)
            elif price == one.limit and one.ahead is not None:
                reached = left - one.ahead
                one.ahead = max(ZERO, one.ahead - left)
                took = min(max(ZERO, reached), one.left)
            else:
                continue
            if took:
                left -= took
                fills.append(self._fill(one, took, one.limit, maker=True))
        self._forget()
        return fills

    # -- inside --------------------------------------------------------------------------------
    def _in_turn(self) -> list[Resting]:
        """Return orders as they trade: the better price first, then who came first."""
        return sorted(
            self.resting.values(),
            key=lambda one: (one.limit is not None, -one.side * (one.limit or ZERO)),
        )

    def _crosses(self, one: Resting) -> bool:
        theirs = self._best.get(-one.side)
        return theirs is not None and (one.limit is None or (one.limit - theirs[0]) * one.side >= 0)

    def _shown(self, side: int) -> Decimal:
        return max(ZERO, self._best[side][1] - self._taken[side])

    def _take(self, one: Resting) -> list[PaperFill]:
        took = min(one.left, self._shown(-one.side))
        if not took:
            return []
        self._taken[-one.side] += took
        return [self._fill(one, took, self._best[-one.side][0], maker=False)]

    def _through(self, one: Resting) -> list[PaperFill]:
        """Fill a standing order that the other side quotes at or through: it is hit first."""
        assert one.limit is not None
        took = min(one.left, self._shown(-one.side))
        if not took:
            return []
        self._taken[-one.side] += took
        return [self._fill(one, took, one.limit, maker=True)]

    def _join(self, one: Resting) -> None:
        ours = self._best.get(one.side)
        if ours is not None and one.limit is not None:
            better = (one.limit - ours[0]) * one.side
            one.ahead = ours[1] if better == 0 else ZERO if better > 0 else None
        self.resting[one.oid] = one
        if self._reach is not None:
            buy, sell = self._reach
            edge = _edge(one)
            self._reach = (max(buy, edge), sell) if one.side > 0 else (buy, min(sell, edge))

    def _fill(self, one: Resting, size: Decimal, price: Decimal, *, maker: bool) -> PaperFill:
        one.left -= size
        return PaperFill(one.oid, size, price, maker)

    def _forget(self) -> None:
        for oid in [oid for oid, one in self.resting.items() if not one.left]:
            del self.resting[oid]
            self._reach = None


def _edge(one: Resting) -> Decimal:
    """Return the price at which an order may trade at the latest; an end of all prices without."""
    return one.limit or (BEYOND if one.side > 0 else ZERO)
