"""Kraken's counters for accounts: private REST calls by key, the trading engine's by market.

Figures: docs/brokers/kraken.md, of an Intermediate account. A call that is refused counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from piker.clock import monotonic_ns
from piker.testing.rates import NS

__all__ = ["CALLS", "MAX_OPEN", "TRADES", "Counter", "age_cost", "call_cost"]

CALLS = (20.0, 0.5)  # private REST: at most, and what it falls by a second
TRADES = (125.0, 2.34)  # of the trading engine, by account and market
MAX_OPEN = 80  # orders of an account in a market
_HEAVY = frozenset({"ClosedOrders", "TradesHistory", "Ledgers", "QueryLedgers"})
_FREE = frozenset({"AddOrder", "AmendOrder", "EditOrder", "CancelOrder", "CancelAll",
                   "AddOrderBatch"})  # fmt: skip
#: what a deed costs besides by the order's age: (younger than s, cost);
#: the order that an edit places counts as one that is added
_BY_AGE: dict[str, tuple[float, Sequence[tuple[float, int]]]] = {
    "add": (1, ()),
    "amend": (1, ((5, 3), (10, 2), (15, 1))),
    "edit": (0, ((5, 6), (10, 5), (15, 4), (45, 2), (90, 1))),
    "cancel": (0, ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1))),
}


def call_cost(name: str) -> float:
    """Return what a private REST call adds to its key's counter."""
    return 0.0 if name in _FREE else 2.0 if name in _HEAVY else 1.0


def age_cost(deed: str, age_s: float) -> float:
    """Return what ``add``, ``amend``, ``edit`` or ``cancel`` adds for an order of that age."""
    fixed, ages = _BY_AGE[deed]
    return fixed + next((cost for limit, cost in ages if age_s < limit), 0)


class Counter:
    """Levels that calls raise and time lowers."""

    def __init__(self, most: float, fall_per_s: float) -> None:
        self.most, self.fall_per_s = most, fall_per_s
        self._levels: dict[str, tuple[float, float]] = {}  # key -> (level, as of)

    def now(self, key: str) -> float:
        """Return a level as it stands."""
        level, as_of = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (monotonic_ns() / NS - as_of) * self.fall_per_s)

    def take(self, key: str, cost: float) -> bool:
        """Raise a level; return whether there was room."""
        level = self.now(key) + cost
        if level > self.most:
            return False
        self._levels[key] = (level, monotonic_ns() / NS)
        return True

    def levels(self) -> dict[str, float]:
        """Return the levels that are not zero."""
        return {key: level for key in self._levels if (level := self.now(key))}
