"""What an account's standing orders come to, kept up as they come and go. Pure.

An order costs the same however many stand. Sums are exact (:mod:`piker.money`), so that what was
added and taken away again leaves nothing behind.
"""

from __future__ import annotations

from decimal import Decimal
from heapq import heapify, heappop, heappush

import msgspec

from piker.money import EXACT, ZERO

__all__ = ["Exposure", "Stand"]

SLACK = 64  # prices of orders that are gone, kept beyond as many as there are of standing ones


class Stand(msgspec.Struct, frozen=True, gc=False):
    """An order that may still trade: its market, side, what is left of it, and at which price."""

    fqme: str
    side: int
    remaining: Decimal
    price: Decimal
    reduce_only: bool
    group: str = ""  # of which one at most trades

    def worse(self, remaining: Decimal, price: Decimal) -> Stand:
        """Return it with whichever terms are worse, while the venue may have either."""
        return msgspec.structs.replace(
            self, remaining=max(self.remaining, remaining), price=max(self.price, price)
        )


class _Market:
    """What stands in one market: sums by side, and the prices, the highest first."""

    __slots__ = ("count", "grows", "prices", "sides")

    def __init__(self) -> None:
        self.count = 0
        self.sides = {1: ZERO, 0: ZERO, -1: ZERO}
        self.grows = {1: ZERO, 0: ZERO, -1: ZERO}  # without what may only reduce a position
        self.prices: list[tuple[Decimal, int, str, Stand]] = []  # a heap; some are gone


class Exposure:
    """The orders of one account that may still trade, by oid."""

    def __init__(self) -> None:
        """Begin with none. Markets are kept, orders are not."""
        self._orders: dict[str, Stand] = {}
        self._markets: dict[str, _Market] = {}
        self._put = 0
        self._groups: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """Return how many stand."""
        return len(self._orders)

    def get(self, oid: str) -> Stand | None:
        """Return an order, if it stands."""
        return self._orders.get(oid)

    def put(self, oid: str, stand: Stand) -> None:
        """Take an order in, or how it stands now."""
        known = self._orders.get(oid)
        if known is not None:
            if known == stand:
                return
            self.drop(oid)
        self._orders[oid] = stand
        if stand.group:
            self._groups.setdefault(stand.group, set()).add(oid)
        market = self._markets.get(stand.fqme)
        if market is None:
            market = self._markets[stand.fqme] = _Market()
        market.count += 1
        market.sides[stand.side] = EXACT.add(market.sides[stand.side], stand.remaining)
        if not stand.reduce_only:
            market.grows[stand.side] = EXACT.add(market.grows[stand.side], stand.remaining)
            self._put += 1
            heappush(market.prices, (stand.price.copy_negate(), self._put, oid, stand))
            if len(market.prices) > 2 * market.count + SLACK:
                market.prices = [one for one in market.prices if self._orders.get(one[2]) is one[3]]
                heapify(market.prices)

    def drop(self, oid: str) -> Stand | None:
        """Let go of an order; return it, None where there is none."""
        stand = self._orders.pop(oid, None)
        if stand is None:
            return None
        if stand.group:
            group = self._groups[stand.group]
            group.discard(oid)
            if not group:
                del self._groups[stand.group]
        market = self._markets[stand.fqme]
        market.count -= 1
        market.sides[stand.side] = EXACT.subtract(market.sides[stand.side], stand.remaining)
        if not stand.reduce_only:
            market.grows[stand.side] = EXACT.subtract(market.grows[stand.side], stand.remaining)
        return stand

    def instead(self, oid: str, group: str) -> list[Stand]:
        """Return how an order stands, and others of a group: what another takes the place of."""
        oids = {oid} | self._groups.get(group, set())
        return [self._orders[one] for one in oids if one in self._orders]

    def on_side(self, fqme: str, side: int) -> Decimal:
        """Return all that may still trade on one side of a market."""
        market = self._markets.get(fqme)
        return market.sides[side] if market is not None else ZERO

    def growing(self, fqme: str) -> Decimal:
        """Return all that may still trade in a market, but for what may only reduce."""
        market = self._markets.get(fqme)
        return EXACT.add(market.grows[1], market.grows[-1]) if market is not None else ZERO

    def worst(self, fqme: str, held: Decimal) -> tuple[Decimal, Decimal]:
        """Return the largest position that a market's orders may lead to, and the highest price.

        ``held`` is the position now; what may only reduce it is left out. The price is zero where
        nothing stands.
        """
        market = self._markets.get(fqme)
        if market is None:
            return abs(held), ZERO
        prices = market.prices
        while prices and self._orders.get(prices[0][2]) is not prices[0][3]:
            heappop(prices)
        most = max(
            abs(EXACT.add(held, market.grows[1])), abs(EXACT.subtract(held, market.grows[-1])),
            abs(held),
        )  # fmt: skip
        return most, prices[0][0].copy_negate() if prices else ZERO
