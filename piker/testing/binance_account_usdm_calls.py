"""Which request is which deed at USD-M, and what it tells an account of itself."""

from __future__ import annotations

from typing import Any

from piker.testing import binance_account_usdm_wire as wire
from piker.testing.accounts import Account
from piker.testing.binance_account_algo import AlgoDesk
from piker.testing.binance_account_calls import Call
from piker.testing.binance_account_params import Params, VenueRefusal
from piker.testing.binance_account_usdm import FEES, MAX_LEVERAGE, UsdmDesk

__all__ = ["USDM_CALLS"]


def _test(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    return desk.new(account, p, now_ms, test=True)


def _one_order(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    symbol = p.needed("symbol")
    desk.place_of(symbol)
    return wire.order_row(desk.asked(account, symbol, p.order_name()))


def _open_orders(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    return [wire.order_row(order) for order in desk.listed(account, p.word("symbol"))]


def _all_orders(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    return [wire.order_row(order) for order in desk.of_symbol(account, p)]


def _trades(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    """Return the fills of a market, oldest first: of a week at most, or from a number on."""
    symbol = p.needed("symbol")
    desk.place_of(symbol)
    start, end = _week(p, now_ms, desk.window_days)
    first, number, limit = p.whole("fromId"), p.whole("orderId"), p.whole("limit", 500, top=1000)
    found = [
        row for row in account.fills
        if row["symbol"] == symbol and row["id"] >= first and start <= row["time"] <= end
        and number in (0, row["orderId"]) and desk.shows_trade(row["time"])
    ]  # fmt: skip
    return found[:limit] if "fromId" in p or "startTime" in p else found[-limit:]


def _week(p: Params, now_ms: int, days: int) -> tuple[int, int]:
    """Return from when to when fills are asked for; without bounds the last days, up to now.

    A bound alone has the other so many days away: docs/brokers/binance.md. The codes of refusals
    are our choice.
    """
    span, far = 86_400_000 * days, 10**15
    if "fromId" in p:
        if "startTime" in p or "endTime" in p:
            raise VenueRefusal(-1128, "Combination of optional parameters invalid.")
        return 0, far
    if "startTime" in p:
        start = p.whole("startTime")
        end = p.whole("endTime", start + span)
        if end - start > span:
            text = f"More than {24 * days} hours between startTime and endTime."
            raise VenueRefusal(-1127, text)
        return start, end
    end = p.whole("endTime", far)
    return min(end, now_ms) - span, end


def _balance(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    return wire.balance_rows(desk, account, now_ms)


def _positions(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    return wire.position_rows(desk, account, p.word("symbol"))


def _account(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    (row,) = wire.balance_rows(desk, account, now_ms)
    positions = wire.position_rows(desk, account, "")
    gains, wallet = row["crossUnPnl"], row["balance"]
    asset = {
        "asset": "USDT", "walletBalance": wallet, "unrealizedProfit": gains,
        "availableBalance": row["availableBalance"], "crossWalletBalance": wallet,
        "crossUnPnl": gains, "marginBalance": wallet, "maintMargin": "0", "initialMargin": "0",
        "positionInitialMargin": "0", "openOrderInitialMargin": "0",
        "maxWithdrawAmount": row["availableBalance"], "updateTime": now_ms,
    }  # fmt: skip
    return {
        "feeTier": 0, "canTrade": "futures" in account.spec.permissions, "canDeposit": True,
        "canWithdraw": "withdraw" in account.spec.permissions, "multiAssetsMargin": False,
        "totalWalletBalance": wallet, "totalUnrealizedProfit": gains, "totalMaintMargin": "0",
        "totalInitialMargin": "0", "totalMarginBalance": wallet,
        "availableBalance": row["availableBalance"], "maxWithdrawAmount": row["availableBalance"],
        "assets": [asset], "positions": positions,
    }  # fmt: skip


def _dual(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    return {"dualSidePosition": desk.margin_of(account).is_dual}


def _fees(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    symbol = p.needed("symbol")
    desk.place_of(symbol)
    return {"symbol": symbol, "makerCommissionRate": wire.text_of(FEES["maker"]),
            "takerCommissionRate": wire.text_of(FEES["taker"])}  # fmt: skip


def _brackets(desk: UsdmDesk, account: Account, p: Params, now_ms: int) -> Any:
    """Return one bracket for each market: whatever its size, the same leverage."""
    symbols = [p.word("symbol")] if "symbol" in p else desk.symbols()
    for symbol in symbols:
        desk.place_of(symbol)
    bracket = {"bracket": 1, "initialLeverage": MAX_LEVERAGE, "notionalCap": 1_000_000_000,
               "notionalFloor": 0, "maintMarginRatio": 0.004, "cum": 0.0}  # fmt: skip
    return [{"symbol": symbol, "brackets": [bracket]} for symbol in symbols]


#: By method and path below /fapi/v1/.
USDM_CALLS = {
    "POST order": Call(UsdmDesk.new, "futures", counts=True),
    "POST order/test": Call(_test, "futures"),
    "DELETE order": Call(UsdmDesk.cancel, "futures"),
    "DELETE allOpenOrders": Call(UsdmDesk.cancel_all, "futures"),
    "PUT order": Call(UsdmDesk.modify, "futures", counts=True),
    "GET order": Call(_one_order),
    "GET openOrders": Call(_open_orders),
    "GET allOrders": Call(_all_orders),
    "GET userTrades": Call(_trades),
    "GET balance": Call(_balance),
    "GET account": Call(_account),
    "GET positionRisk": Call(_positions),
    "GET positionSide/dual": Call(_dual),
    "POST positionSide/dual": Call(UsdmDesk.set_dual, "futures"),
    "POST leverage": Call(UsdmDesk.set_leverage, "futures"),
    "POST countdownCancelAll": Call(UsdmDesk.count_down, "futures"),
    "GET commissionRate": Call(_fees),
    "GET leverageBracket": Call(_brackets),
    "POST algoOrder": Call(AlgoDesk.new_algo, "futures", counts=True),
    "DELETE algoOrder": Call(AlgoDesk.cancel_algo, "futures"),
    "DELETE algoOpenOrders": Call(AlgoDesk.cancel_algos, "futures"),
    "GET algoOrder": Call(AlgoDesk.one_algo),
    "GET openAlgoOrders": Call(AlgoDesk.open_algos),
    "GET allAlgoOrders": Call(AlgoDesk.all_algos),
}
