"""What account endpoints weigh, and how many orders an account may send.

Figures: docs/brokers/binance.md. An order that is taken weighs nothing at spot and USD-M; one that
is refused weighs what the venue's page says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from piker.testing.rates import Window

__all__ = ["ORDER_LIMITS", "OrderCounts", "account_weight", "failed_weight", "order_limits"]

#: (interval, its number, its letter, seconds, orders) of each kind
ORDER_LIMITS = {
    "spot": (("SECOND", 10, "10S", 10, 100), ("DAY", 1, "1D", 86_400, 200_000)),
    "usdm": (("SECOND", 10, "10S", 10, 300), ("MINUTE", 1, "1M", 60, 1200)),
}
_WEIGHTS: dict[str, dict[str, int]] = {
    "spot": {
        "GET order": 4, "GET openOrders": 80, "GET allOrders": 20, "GET myTrades": 20,
        "GET account": 20, "GET account/commission": 20, "GET rateLimit/order": 40,
        "POST order": 0, "DELETE order": 0, "DELETE openOrders": 0, "POST order/cancelReplace": 0,
        "PUT order/amend/keepPriority": 4, "POST order/test": 1,
    },
    "usdm": {
        "GET order": 1, "GET openOrders": 40, "GET allOrders": 5, "GET userTrades": 5,
        "GET account": 5, "GET balance": 5, "GET positionRisk": 5, "POST order": 0,
        "DELETE order": 0, "DELETE allOpenOrders": 0, "PUT order": 0, "GET positionSide/dual": 30,
        "POST countdownCancelAll": 10, "GET openAlgoOrders": 40, "GET commissionRate": 20,
    },
}  # fmt: skip
_ONE_SYMBOL = {("spot", "GET openOrders"): 6, ("usdm", "GET openOrders"): 1,
               ("usdm", "GET openAlgoOrders"): 1}  # fmt: skip


def account_weight(kind: str, method: str, path: str, params: Mapping[str, str]) -> int | None:
    """Return what a request to an account endpoint weighs before it is done; None of another."""
    call = f"{method} {path}"
    if call == "GET myTrades" and "orderId" in params:
        return 5
    if "symbol" in params and (kind, call) in _ONE_SYMBOL:
        return _ONE_SYMBOL[kind, call]
    return _WEIGHTS.get(kind, {}).get(call)


def failed_weight(kind: str, method: str, path: str) -> int:
    """Return what a request weighs besides, once it was refused."""
    return int(_WEIGHTS.get(kind, {}).get(f"{method} {path}") == 0)


class OrderCounts:
    """The orders that the accounts of one kind of market have sent."""

    def __init__(self, kind: str) -> None:
        self._limits = ORDER_LIMITS[kind]
        self._windows = [Window(limit[3]) for limit in self._limits]

    def add(self, account: str, *, enforce: bool) -> str:
        """Count an order; return the limit that was passed in the venue's words, or nothing."""
        counts = [window.add(account, 1) for window in self._windows]
        for (interval, number, _, _, most), count in zip(self._limits, counts, strict=True):
            if enforce and count > most:
                return f"{most} orders per {number} {interval}"
        return ""

    def headers(self, account: str) -> dict[str, str]:
        """Return what an order's answer tells of the count."""
        return {
            f"X-MBX-ORDER-COUNT-{limit[2]}": f"{window.count(account):.0f}"
            for limit, window in zip(self._limits, self._windows, strict=True)
        }

    def rows(self, account: str) -> list[dict[str, Any]]:
        """Return the counts as the venue lists them."""
        counts = [int(window.count(account)) for window in self._windows]
        return [
            {**row, "count": count}
            for row, count in zip(_rows_of(self._limits), counts, strict=True)
        ]


def order_limits(kind: str) -> list[dict[str, Any]]:
    """Return the limits as exchangeInfo lists them."""
    return _rows_of(ORDER_LIMITS.get(kind, ()))


def _rows_of(limits: tuple[tuple[str, int, str, int, int], ...]) -> list[dict[str, Any]]:
    """Return limits of orders as the venue writes them."""
    return [
        {"rateLimitType": "ORDERS", "interval": interval, "intervalNum": number, "limit": most}
        for interval, number, _, _, most in limits
    ]
