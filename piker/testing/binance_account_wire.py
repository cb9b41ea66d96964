"""Spot's bodies of orders, fills and balances: answers, queries and user events.

The shapes are those of Binance's own examples (docs/brokers/binance.md); numbers have 8 decimals.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from piker.testing.account_matching import OwnFill
from piker.testing.accounts import ZERO, Account, VenueOrder
from piker.testing.engine import BUY

__all__ = [
    "account_position",
    "amended_order",
    "cancelled_order",
    "execution_report",
    "fill_row",
    "money",
    "new_order",
    "order_row",
]


def money(value: Decimal) -> str:
    """Return a number as the venue writes it."""
    return f"{value:.8f}"


def _side(order: VenueOrder) -> str:
    return "BUY" if order.side == BUY else "SELL"


def _amounts(order: VenueOrder) -> dict[str, Any]:
    return {
        "price": money(order.price), "origQty": money(order.size),
        "executedQty": money(order.filled), "origQuoteOrderQty": money(order.quote_size),
        "cummulativeQuoteQty": money(order.worth), "status": order.status,
        "timeInForce": order.tif, "type": order.kind, "side": _side(order),
    }  # fmt: skip


def _extras(order: VenueOrder) -> dict[str, Any]:
    stop = {"stopPrice": money(order.stop)} if order.stop else {}
    return {**stop, **order.more, "selfTradePreventionMode": "EXPIRE_MAKER"}


def new_order(order: VenueOrder, shape: str, fills: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer to a new order: ``ACK``, ``RESULT`` or ``FULL`` with its fills."""
    body: dict[str, Any] = {
        "symbol": order.market, "orderId": order.number, "orderListId": -1,
        "clientOrderId": order.client_id, "transactTime": order.changed_ms,
    }  # fmt: skip
    if shape == "ACK":
        return body
    working = {"workingTime": order.working_ms} if order.working_ms else {}
    body |= {**_amounts(order), **working, **_extras(order)}
    if shape == "FULL":
        names = {"price": "price", "qty": "qty", "commission": "commission",
                 "commissionAsset": "commissionAsset", "tradeId": "id"}  # fmt: skip
        body["fills"] = [{name: row[of] for name, of in names.items()} for row in fills]
    return body


def cancelled_order(order: VenueOrder, cancel_id: str) -> dict[str, Any]:
    """Return the answer to a cancel."""
    return {
        "symbol": order.market, "origClientOrderId": order.client_id, "orderId": order.number,
        "orderListId": -1, "clientOrderId": cancel_id, "transactTime": order.changed_ms,
        **_amounts(order), **_extras(order),
    }  # fmt: skip


def amended_order(order: VenueOrder, execution: int) -> dict[str, Any]:
    """Return the answer to an amendment."""
    return {
        "transactTime": order.changed_ms, "executionId": execution,
        "amendedOrder": {
            "symbol": order.market, "orderId": order.number, "orderListId": -1,
            "origClientOrderId": order.original_id, "clientOrderId": order.client_id,
            "price": money(order.price), "qty": money(order.size),
            "executedQty": money(order.filled), "preventedQty": money(ZERO),
            "quoteOrderQty": money(order.quote_size), "cumulativeQuoteQty": money(order.worth),
            "status": order.status, "timeInForce": order.tif, "type": order.kind,
            "side": _side(order), "workingTime": order.working_ms,
            "selfTradePreventionMode": "EXPIRE_MAKER",
        },
    }  # fmt: skip


def order_row(order: VenueOrder) -> dict[str, Any]:
    """Return an order as queries show it."""
    return {
        "symbol": order.market, "orderId": order.number, "orderListId": -1,
        "clientOrderId": order.client_id, **_amounts(order), "stopPrice": money(order.stop),
        "icebergQty": money(ZERO), "time": order.made_ms, "updateTime": order.changed_ms,
        "isWorking": bool(order.working_ms), "workingTime": order.working_ms or -1,
        **order.more, "selfTradePreventionMode": "EXPIRE_MAKER",
    }  # fmt: skip


def fill_row(order: VenueOrder, fill: OwnFill, fee: Decimal, asset: str) -> dict[str, Any]:
    """Return a fill as myTrades shows it."""
    return {
        "symbol": order.market, "id": fill.number, "orderId": order.number, "orderListId": -1,
        "price": money(fill.price), "qty": money(fill.size),
        "quoteQty": money(fill.price * fill.size), "commission": money(fee),
        "commissionAsset": asset, "time": fill.time_ms, "isBuyer": order.side == BUY,
        "isMaker": fill.maker, "isBestMatch": True,
    }  # fmt: skip


def execution_report(
    order: VenueOrder,
    what: str,
    execution: int,
    *,
    cancel_id: str = "",
    fill: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the user event of what happened to an order; ``fill`` is a row of myTrades."""
    traded = fill or {"qty": money(ZERO), "price": money(ZERO), "quoteQty": money(ZERO), "id": -1}
    own, original = order.client_id, order.original_id if what == "REPLACED" else ""
    if cancel_id:
        own, original = cancel_id, order.client_id
    body: dict[str, Any] = {
        "e": "executionReport", "E": order.changed_ms, "s": order.market, "c": own,
        "S": _side(order), "o": order.kind, "f": order.tif, "q": money(order.size),
        "p": money(order.price), "P": money(order.stop), "F": money(ZERO), "g": -1,
        "C": original, "x": what, "X": order.status, "r": "NONE", "i": order.number,
        "l": traded["qty"], "z": money(order.filled), "L": traded["price"],
        "n": fill["commission"] if fill else "0", "N": fill["commissionAsset"] if fill else None,
        "T": order.changed_ms, "t": traded["id"], "v": 0, "I": execution,
        "w": bool(order.engine_id), "m": bool(fill and fill["isMaker"]), "M": bool(fill),
        "O": order.made_ms, "Z": money(order.worth), "Y": traded["quoteQty"],
        "Q": money(order.quote_size), "V": "EXPIRE_MAKER",
    }  # fmt: skip
    if order.working_ms:
        body["W"] = order.working_ms
    return body


def account_position(account: Account, assets: list[str], time_ms: int) -> dict[str, Any]:
    """Return the user event of balances that may have changed."""
    rows = []
    for asset in assets:
        holding = account.purse.of(asset)
        rows.append({"a": asset, "f": money(holding.free), "l": money(holding.locked)})
    return {"e": "outboundAccountPosition", "E": time_ms, "u": time_ms, "B": rows}
