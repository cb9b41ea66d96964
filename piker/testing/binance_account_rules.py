"""The filters of a market, as exchangeInfo lists them, and the venue's refusals by them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from piker.testing import binance_wire as wire
from piker.testing.accounts import ZERO
from piker.testing.binance_account_params import VenueRefusal
from piker.testing.binance_market import Listing

__all__ = ["Rules"]


class Rules:
    """One market's filters."""

    def __init__(self, listing: Listing) -> None:
        said = wire.symbol_of(listing)["filters"]
        self._filters: dict[str, dict[str, Any]] = {rule["filterType"]: rule for rule in said}

    def check_price(self, price: Decimal) -> None:
        """Refuse a price off the grid or out of bounds: -1013."""
        rule = self._filters["PRICE_FILTER"]
        self._check("PRICE_FILTER", price, rule["minPrice"], rule["maxPrice"], rule["tickSize"])

    def check_size(self, size: Decimal, *, market: bool) -> None:
        """Refuse a size off the grid or out of bounds: -1013."""
        for name in ("LOT_SIZE", *(("MARKET_LOT_SIZE",) if market else ())):
            rule = self._filters[name]
            self._check(name, size, rule["minQty"], rule["maxQty"], rule["stepSize"])

    def check_worth(self, worth: Decimal, *, market: bool) -> None:
        """Refuse an order that is worth too little or too much."""
        rule = self._filters.get("NOTIONAL")
        if rule is None:
            return
        low = ZERO if market and not rule["applyMinToMarket"] else Decimal(rule["minNotional"])
        above = not (market and not rule["applyMaxToMarket"])
        if worth < low or (above and worth > Decimal(rule["maxNotional"])):
            raise _failed("NOTIONAL")

    def most_size(self, *, market: bool) -> Decimal:
        """Return the largest size of an order."""
        return Decimal(self._filters["MARKET_LOT_SIZE" if market else "LOT_SIZE"]["maxQty"])

    def least_worth(self) -> Decimal:
        """Return the least that an order of a future is worth."""
        return Decimal(self._filters.get("MIN_NOTIONAL", {}).get("notional", "0"))

    def check_count(self, open_orders: int, waiting: int, *, waits: bool) -> None:
        """Refuse an order where as many as allowed are open."""
        if open_orders >= self._filters.get("MAX_NUM_ORDERS", {}).get("maxNumOrders", 10**9):
            raise _failed("MAX_NUM_ORDERS")
        most = self._filters.get("MAX_NUM_ALGO_ORDERS", {}).get("maxNumAlgoOrders", 10**9)
        if waits and waiting >= most:
            raise _failed("MAX_NUM_ALGO_ORDERS")

    @staticmethod
    def _check(name: str, value: Decimal, low: str, high: str, step: str) -> None:
        if not Decimal(low) <= value <= Decimal(high) or value % Decimal(step):
            raise _failed(name)


def _failed(name: str) -> VenueRefusal:
    return VenueRefusal(-1013, f"Filter failure: {name}")
