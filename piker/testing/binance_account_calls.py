"""Which request is which deed: spot's account endpoints, by REST path and by websocket method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from piker.testing import binance_account_queries as ask
from piker.testing.accounts import Account
from piker.testing.binance_account_params import Params
from piker.testing.binance_account_spot import SpotDesk

__all__ = ["SOCKET_CALLS", "SPOT_CALLS", "Call"]


class Call(NamedTuple):
    """A deed of a desk: what does it, what right it takes, and whether it counts as an order."""

    run: Callable[[Any, Account, Params, int], Any]  # Any: the desk, and a JSON body
    right: str = "read"
    counts: bool = False


def _test(desk: SpotDesk, account: Account, p: Params, now_ms: int) -> Any:
    return desk.new(account, p, now_ms, test=True)


def _query(run: Callable[[Any, Account, Params], Any]) -> Call:
    return Call(lambda desk, account, p, now_ms: run(desk, account, p))


#: By method and path below /api/v3/.
SPOT_CALLS = {
    "POST order": Call(SpotDesk.new, "spot", counts=True),
    "POST order/test": Call(_test, "spot"),
    "DELETE order": Call(SpotDesk.cancel, "spot"),
    "DELETE openOrders": Call(SpotDesk.cancel_all, "spot"),
    "POST order/cancelReplace": Call(SpotDesk.replace, "spot", counts=True),
    "PUT order/amend/keepPriority": Call(SpotDesk.amend, "spot"),
    "GET order": _query(ask.one_order),
    "GET openOrders": _query(ask.open_orders),
    "GET allOrders": _query(ask.all_orders),
    "GET myTrades": _query(ask.my_trades),
    "GET account": _query(ask.account_status),
    "GET account/commission": _query(ask.commission),
}
#: By the websocket API's method: the call that does the same.
SOCKET_CALLS = {
    "order.place": "POST order",
    "order.test": "POST order/test",
    "order.cancel": "DELETE order",
    "openOrders.cancelAll": "DELETE openOrders",
    "order.cancelReplace": "POST order/cancelReplace",
    "order.amend.keepPriority": "PUT order/amend/keepPriority",
    "order.status": "GET order",
    "openOrders.status": "GET openOrders",
    "allOrders": "GET allOrders",
    "myTrades": "GET myTrades",
    "account.status": "GET account",
    "account.commission": "GET account/commission",
    "account.rateLimits.orders": "GET rateLimit/order",
}
