"""A matching engine with price-time priority: what a loopback venue trades on.

Prices and sizes are integers (ticks and lots), so that books, trades and bars agree exactly.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

__all__ = ["BUY", "SELL", "Fill", "MatchingEngine", "Top"]

BUY, SELL = 1, -1


class Fill(NamedTuple):
    """A trade: ``side`` is the taker's."""

    price: int
    size: int
    side: int
    maker_id: int
    taker_id: int


class Top(NamedTuple):
    """Best bid and ask with their sizes; 0 where a side is empty."""

    bid: int
    bid_size: int
    ask: int
    ask_size: int


class MatchingEngine:
    """One market's book."""

    def __init__(self) -> None:
        self._levels: dict[int, dict[int, deque[list[int]]]] = {BUY: {}, SELL: {}}
        self._prices: dict[int, list[int]] = {BUY: [], SELL: []}  # ascending keys: side * -price
        self._totals: dict[int, dict[int, int]] = {BUY: {}, SELL: {}}
        self._orders: dict[int, tuple[int, int]] = {}  # id -> (side, price)
        self._next_id = 1
        self.changed: dict[int, set[int]] = {BUY: set(), SELL: set()}  # prices since last taken

    def limit(self, side: int, price: int, size: int) -> tuple[int, list[Fill]]:
        """Place a limit order; return (order id, fills). What is left rests in the book."""
        number = self._next_id
        self._next_id += 1
        fills, left = self._match(side, price, size, number)
        if left:
            self._rest(number, side, price, left)
        return number, fills

    def market(self, side: int, size: int) -> list[Fill]:
        """Take up to ``size`` from the other side, at any price; what is left is dropped."""
        number = self._next_id
        self._next_id += 1
        return self._match(side, 0 if side == SELL else 1 << 62, size, number)[0]

    def cancel(self, number: int) -> bool:
        """Take an order out; return whether it was there."""
        place = self._orders.pop(number, None)
        if place is None:
            return False
        side, price = place
        queue = self._levels[side][price]
        for order in queue:
            if order[0] == number:
                queue.remove(order)
                self._reduce(side, price, order[1])
                break
        return True

    def shrink(self, number: int, size: int) -> None:
        """Take ``size`` off a resting order, less than it has; its place in the queue stays."""
        side, price = self._orders[number]
        order = next(one for one in self._levels[side][price] if one[0] == number)
        assert 0 < size < order[1]
        order[1] -= size
        self._reduce(side, price, size)

    def takeable(self, side: int, price: int | None = None) -> list[tuple[int, int]]:
        """Return the levels, best first, that such an order would take from: (price, size)."""
        other = self._totals[-side]
        prices = [abs(key) for key in self._prices[-side]]
        return [(p, other[p]) for p in prices if price is None or (p - price) * side <= 0]

    def top(self) -> Top:
        """Return the best bid and ask."""
        bid, ask = self._best(BUY), self._best(SELL)
        return Top(bid, self._totals[BUY].get(bid, 0), ask, self._totals[SELL].get(ask, 0))

    def depth(self, side: int, limit: int) -> list[tuple[int, int]]:
        """Return up to ``limit`` levels as (price, size), best first."""
        totals = self._totals[side]
        return [(abs(key), totals[abs(key)]) for key in self._prices[side][:limit]]

    def size_at(self, side: int, price: int) -> int:
        """Return the total size at a price, 0 when the level is gone."""
        return self._totals[side].get(price, 0)

    def orders(self) -> list[int]:
        """Return the ids of resting orders, oldest first."""
        return list(self._orders)

    # -- inside --------------------------------------------------------------------------------
    def _best(self, side: int) -> int:
        prices = self._prices[side]
        return abs(prices[0]) if prices else 0

    def _match(self, side: int, price: int, size: int, taker: int) -> tuple[list[Fill], int]:
        fills: list[Fill] = []
        other = -side
        while size:
            best = self._best(other)
            if not best or (best - price) * side > 0:
                break
            queue = self._levels[other][best]
            order = queue[0]
            traded = min(size, order[1])
            fills.append(Fill(best, traded, side, order[0], taker))
            size -= traded
            order[1] -= traded
            if not order[1]:
                queue.popleft()
                del self._orders[order[0]]
            self._reduce(other, best, traded)
        return fills, size

    def _rest(self, number: int, side: int, price: int, size: int) -> None:
        levels = self._levels[side]
        if price not in levels:
            levels[price] = deque()
            insort(self._prices[side], -side * price)
        levels[price].append([number, size])
        self._orders[number] = (side, price)
        self._totals[side][price] = self._totals[side].get(price, 0) + size
        self.changed[side].add(price)

    def _reduce(self, side: int, price: int, size: int) -> None:
        left = self._totals[side][price] - size
        self.changed[side].add(price)
        if left:
            self._totals[side][price] = left
            return
        del self._totals[side][price], self._levels[side][price]
        prices = self._prices[side]
        del prices[bisect_left(prices, -side * price)]
