"""What spot tells an account of itself: orders, fills, balances, fees, counts."""

from __future__ import annotations

from typing import Any

from piker.testing import binance_account_wire as wire
from piker.testing.accounts import ZERO, Account
from piker.testing.binance_account_params import Params, VenueRefusal
from piker.testing.binance_account_spot import FEES, SpotDesk

__all__ = ["account_status", "all_orders", "commission", "my_trades", "one_order", "open_orders"]

DAY_MS = 86_400_000  # that a query of trades may span


def one_order(desk: SpotDesk, account: Account, p: Params) -> dict[str, Any]:
    """Return an order; -2013 where there is none."""
    symbol = p.needed("symbol")
    desk.place_of(symbol)
    return wire.order_row(desk.asked(account, symbol, p.order_name()))


def open_orders(desk: SpotDesk, account: Account, p: Params) -> list[dict[str, Any]]:
    """Return the open orders of a market, or of all."""
    return [wire.order_row(order) for order in desk.listed(account, p.word("symbol"))]


def all_orders(desk: SpotDesk, account: Account, p: Params) -> list[dict[str, Any]]:
    """Return the orders of a market, closed ones too."""
    return [wire.order_row(order) for order in desk.of_symbol(account, p)]


def my_trades(desk: SpotDesk, account: Account, p: Params) -> list[dict[str, Any]]:
    """Return the fills of a market, oldest first: from a number or a moment on, else the newest."""
    symbol = p.needed("symbol")
    desk.place_of(symbol)
    if ("startTime" in p or "endTime" in p) and ("fromId" in p or "orderId" in p):
        raise VenueRefusal(-1128, "Combination of optional parameters invalid.")
    start, end = p.whole("startTime"), p.whole("endTime", 10**15)
    if "startTime" in p and "endTime" in p and end - start > DAY_MS:
        raise VenueRefusal(-1127, "More than 24 hours between startTime and endTime.")
    limit, first, number = p.whole("limit", 500, top=1000), p.whole("fromId"), p.whole("orderId")
    found = [
        row for row in account.fills
        if row["symbol"] == symbol and row["id"] >= first and start <= row["time"] <= end
        and number in (0, row["orderId"]) and desk.shows_trade(row["time"])
    ]  # fmt: skip
    return found[:limit] if "fromId" in p or "startTime" in p else found[-limit:]


def account_status(desk: SpotDesk, account: Account, p: Params) -> dict[str, Any]:
    """Return the account with its balances."""
    bare = p.flag("omitZeroBalances")
    rows = []
    for asset, holding in sorted(account.purse.assets.items()):
        if not bare or holding.free or holding.locked:
            free, locked = wire.money(holding.free), wire.money(holding.locked)
            rows.append({"asset": asset, "free": free, "locked": locked})
    rights = account.spec.permissions
    changed = [order.changed_ms for order in account.orders.values()]
    return {
        "makerCommission": int(FEES["maker"] * 10_000),
        "takerCommission": int(FEES["taker"] * 10_000),
        "buyerCommission": 0, "sellerCommission": 0,
        "commissionRates": {**_rates(), "buyer": wire.money(ZERO), "seller": wire.money(ZERO)},
        "canTrade": "spot" in rights, "canWithdraw": "withdraw" in rights, "canDeposit": True,
        "brokered": False, "requireSelfTradePrevention": False, "preventSor": False,
        "updateTime": max(changed, default=0), "accountType": "SPOT", "balances": rows,
        "permissions": ["SPOT"], "uid": 354_937_868 + list(desk.accounts).index(account.spec.name),
    }  # fmt: skip


def _rates() -> dict[str, str]:
    return {name: wire.money(rate) for name, rate in FEES.items()}


def commission(desk: SpotDesk, account: Account, p: Params) -> dict[str, Any]:
    """Return the fees of a market."""
    symbol = p.needed("symbol")
    desk.place_of(symbol)
    none = dict.fromkeys(("maker", "taker", "buyer", "seller"), wire.money(ZERO))
    return {
        "symbol": symbol, "standardCommission": none | _rates(), "specialCommission": none,
        "taxCommission": none,
        "discount": {"enabledForAccount": False, "enabledForSymbol": False,
                     "discountAsset": "BNB", "discount": wire.money(ZERO)},
    }  # fmt: skip
