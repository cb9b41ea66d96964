"""USD-M's bodies of orders, fills, balances and positions: answers and user events."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from piker.testing.account_matching import OwnFill
from piker.testing.accounts import ZERO, Account, VenueOrder
from piker.testing.engine import BUY

if TYPE_CHECKING:
    from piker.testing.binance_account_usdm import UsdmDesk

__all__ = ["account_update", "balance_rows", "fill_row", "order_row", "order_update",
           "position_rows", "trade_lite"]  # fmt: skip


def text_of(value: Decimal) -> str:
    """Return a number as the venue writes it: no exponent, no needless zeros."""
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _side(order: VenueOrder) -> str:
    return "BUY" if order.side == BUY else "SELL"


def _average(order: VenueOrder) -> str:
    return text_of(order.worth / order.filled) if order.filled else "0"


def order_row(order: VenueOrder) -> dict[str, Any]:
    """Return an order as answers and queries show it."""
    return {
        "orderId": order.number, "symbol": order.market, "status": order.status,
        "clientOrderId": order.client_id, "price": text_of(order.price),
        "avgPrice": _average(order), "origQty": text_of(order.size),
        "executedQty": text_of(order.filled), "cumQty": text_of(order.filled),
        "cumQuote": text_of(order.worth), "timeInForce": order.tif, "type": order.kind,
        "reduceOnly": order.reduce_only, "closePosition": False, "side": _side(order),
        "positionSide": order.position_side, "stopPrice": "0", "workingType": "CONTRACT_PRICE",
        "priceProtect": False, "origType": order.kind, "priceMatch": "NONE",
        "selfTradePreventionMode": "EXPIRE_MAKER", "goodTillDate": order.more.get("gtd", 0),
        "time": order.made_ms, "updateTime": order.changed_ms,
    }  # fmt: skip


def fill_row(order: VenueOrder, fill: OwnFill, fee: Decimal, gain: Decimal) -> dict[str, Any]:
    """Return a fill as userTrades shows it."""
    return {
        "symbol": order.market, "id": fill.number, "orderId": order.number, "side": _side(order),
        "price": text_of(fill.price), "qty": text_of(fill.size), "realizedPnl": text_of(gain),
        "quoteQty": text_of(fill.price * fill.size), "commission": text_of(fee),
        "commissionAsset": "USDT", "time": fill.time_ms, "positionSide": order.position_side,
        "buyer": order.side == BUY, "maker": fill.maker,
    }  # fmt: skip


def order_update(order: VenueOrder, what: str, fill: dict[str, Any] | None) -> dict[str, Any]:
    """Return ORDER_TRADE_UPDATE; ``fill`` is a row of userTrades."""
    body: dict[str, Any] = {
        "s": order.market, "c": order.client_id, "S": _side(order), "o": order.kind,
        "f": order.tif, "q": text_of(order.size), "p": text_of(order.price),
        "ap": _average(order), "sp": "0", "x": what, "X": order.status, "i": order.number,
        "l": fill["qty"] if fill else "0", "z": text_of(order.filled),
        "L": fill["price"] if fill else "0", "T": order.changed_ms, "t": fill["id"] if fill else 0,
        "b": "0", "a": "0", "m": bool(fill and fill["maker"]), "R": order.reduce_only,
        "wt": "CONTRACT_PRICE", "ot": order.kind, "ps": order.position_side, "cp": False,
        "rp": fill["realizedPnl"] if fill else "0", "pP": False, "si": 0, "ss": 0,
        "V": "EXPIRE_MAKER", "pm": "NONE", "gtd": order.more.get("gtd", 0),
        "er": order.more.get("er", "0"),
    }  # fmt: skip
    if fill:
        body |= {"N": "USDT", "n": fill["commission"]}
    return {"e": "ORDER_TRADE_UPDATE", "E": order.changed_ms, "T": order.changed_ms, "o": body}


def trade_lite(order: VenueOrder, fill: dict[str, Any]) -> dict[str, Any]:
    """Return TRADE_LITE, which comes before the whole update."""
    return {
        "e": "TRADE_LITE", "E": order.changed_ms, "T": order.changed_ms, "s": order.market,
        "q": text_of(order.size), "p": text_of(order.price), "m": fill["maker"],
        "c": order.client_id, "S": _side(order), "L": fill["price"], "l": fill["qty"],
        "t": fill["id"], "i": order.number,
    }  # fmt: skip


def account_update(desk: UsdmDesk, order: VenueOrder, change: Decimal) -> dict[str, Any]:
    """Return ACCOUNT_UPDATE: the wallet, and the position that an order changed.

    In hedge mode the venue tells the market's side BOTH as well, which is empty then.
    """
    margin = desk.margin_of(order.account)
    wallet = text_of(margin.wallet)
    sides = ["BOTH"] if order.position_side == "BOTH" else ["BOTH", order.position_side]
    return {
        "e": "ACCOUNT_UPDATE", "E": order.changed_ms, "T": order.changed_ms, "a": {
            "m": "ORDER", "B": [{"a": "USDT", "wb": wallet, "cw": wallet, "bc": "0"}],
            "P": [_held(desk, order, side) for side in sides],
        },
    }  # fmt: skip


def _held(desk: UsdmDesk, order: VenueOrder, side: str) -> dict[str, Any]:
    """Return one side of an order's market, as ACCOUNT_UPDATE has it."""
    position = desk.margin_of(order.account).position(order.market, side)
    return {
        "s": order.market, "pa": text_of(position.amount), "ep": text_of(position.entry),
        "bep": text_of(position.entry), "cr": text_of(position.realised),
        "up": text_of(desk.unrealised(order.market, position)), "mt": "cross", "iw": "0",
        "ps": side,
    }  # fmt: skip


def balance_rows(desk: UsdmDesk, account: Account, now_ms: int) -> list[dict[str, Any]]:
    """Return the wallet as balance shows it."""
    margin = desk.margin_of(account)
    gains = sum((desk.unrealised(m, p) for (m, _), p in margin.positions.items()), ZERO)
    available = max(ZERO, desk.available(account))
    return [{
        "accountAlias": "SgsR", "asset": "USDT", "balance": text_of(margin.wallet),
        "crossWalletBalance": text_of(margin.wallet), "crossUnPnl": text_of(gains),
        "availableBalance": text_of(available), "maxWithdrawAmount": text_of(available),
        "marginAvailable": True, "updateTime": now_ms,
    }]  # fmt: skip


def position_rows(desk: UsdmDesk, account: Account, symbol: str) -> list[dict[str, Any]]:
    """Return the positions as positionRisk shows them: those that there are."""
    margin, rows = desk.margin_of(account), []
    for (market, side), position in sorted(margin.positions.items()):
        if not position.amount or symbol not in ("", market):
            continue
        last, size = desk.place_of(market).book.last, abs(position.amount)
        bound = size * last / margin.leverage(market)
        rows.append({
            "symbol": market, "positionSide": side, "positionAmt": text_of(position.amount),
            "entryPrice": text_of(position.entry), "breakEvenPrice": text_of(position.entry),
            "markPrice": text_of(last), "liquidationPrice": "0", "isolatedMargin": "0",
            "unRealizedProfit": text_of(desk.unrealised(market, position)),
            "unrealizedProfit": text_of(desk.unrealised(market, position)),
            "notional": text_of(position.amount * last), "marginAsset": "USDT",
            "isolatedWallet": "0", "initialMargin": text_of(bound), "maintMargin": "0",
            "positionInitialMargin": text_of(bound), "openOrderInitialMargin": "0", "adl": 0,
            "bidNotional": "0", "askNotional": "0", "updateTime": position.changed_ms,
            "leverage": str(margin.leverage(market)), "marginType": "cross",
        })  # fmt: skip
    return rows
