"""USD-M's orders: what is asked of the venue, and what its answers and user events say.

Orders with a trigger are *algo* orders there (``/fapi/v1/algoOrder``): they have a number of their
own, and once they are triggered become an order with another. Sources: docs/brokers/binance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

from piker.brokers.binance.broker_facts import FillFact, OrderFact, PositionFact
from piker.brokers.binance.broker_rest import OrderLimit, Sent, Signed
from piker.brokers.binance.broker_usdm_facts import (
    AlgoRow,
    BalanceRow,
    OrderRow,
    PositionRow,
    TradeRow,
    algo_fact,
    balance_fact,
    order_fact,
    position_fact,
    trade_fact,
    usdm_events,
)
from piker.brokers.binance.broker_weeks import KEPT_MS, WEEK_MS, weeks
from piker.brokers.signing import Param
from piker.errors import BrokerError, Rejected, Unknown
from piker.log import get_logger
from piker.orders import Action, BrokerdOrder, OrderKind, TimeInForce, TriggerBy

__all__ = ["GTD_MIN_S", "UsdmDesk", "position_side", "unfit_for_usdm", "usdm_order"]

log = get_logger("binance.broker")

GTD_MIN_S = 600  # goodTillDate is later than that from now, by the venue's rule
MAX_TRADES = 1000  # rows of one answer
_NS = 1_000_000_000
_PLAIN = {OrderKind.MARKET: "MARKET", OrderKind.LIMIT: "LIMIT"}
_ALGO = {
    OrderKind.STOP: "STOP_MARKET", OrderKind.STOP_LIMIT: "STOP",
    OrderKind.TAKE_PROFIT: "TAKE_PROFIT_MARKET", OrderKind.TAKE_PROFIT_LIMIT: "TAKE_PROFIT",
}  # fmt: skip
_LIMITED = frozenset({OrderKind.LIMIT, OrderKind.STOP_LIMIT, OrderKind.TAKE_PROFIT_LIMIT})
_TIFS = {
    TimeInForce.GTC: "GTC", TimeInForce.IOC: "IOC", TimeInForce.FOK: "FOK", TimeInForce.GTD: "GTD",
}  # fmt: skip
_WORKING = {TriggerBy.LAST: "CONTRACT_PRICE", TriggerBy.MARK: "MARK_PRICE"}
_NO_ORDER = "-2013"
_OTHER_MODE = "-4061"  # the order's position side is not one of the account's mode


class _Dual(msgspec.Struct, rename="camel"):
    dual_side_position: bool


class _AlgoCanceled(msgspec.Struct, rename="camel"):
    client_algo_id: str = ""


def _check_name(client_id: str, answered: str) -> None:
    """Refuse an answer about another conditional order than was asked about."""
    if client_id and answered and client_id != answered:
        raise Unknown(f"binance: {client_id} was asked about, the answer is of {answered[:40]!r}")


# -- requests ----------------------------------------------------------------------------------
def unfit_for_usdm(order: BrokerdOrder) -> str:
    """Return why the venue can not do an order itself, or nothing."""
    if order.kind not in _PLAIN and order.kind not in _ALGO:
        return f"USD-M has no {order.kind} by a distance in price"
    if order.tif not in _TIFS:
        return f"USD-M has no time in force {order.tif}"
    if order.tif is TimeInForce.GTD and (order.expire_ns is None or order.kind in _ALGO):
        return "USD-M's gtd needs its time, and is for limit orders"
    if order.post_only and order.tif is not TimeInForce.GTC:
        return f"a post-only order can not be {order.tif}"
    if order.kind not in _LIMITED and (order.tif is not TimeInForce.GTC or order.post_only):
        return f"a {order.kind} has no time in force, and is not post-only"
    if order.kind in _ALGO and order.trigger_by not in _WORKING:
        return "USD-M's triggers go by the last trade or the mark price"
    return ""


def position_side(order: BrokerdOrder, *, is_dual: bool) -> str:
    """Return which side of a hedging account an order is for; one that reduces closes."""
    if not is_dual:
        return "BOTH"
    opens_long = order.action is Action.BUY
    return "LONG" if opens_long != order.reduce_only else "SHORT"


def usdm_order(
    order: BrokerdOrder, symbol: str, client_id: str, size: Decimal, *, is_dual: bool
) -> dict[str, Param]:
    """Return the parameters of a new order of ``size``; of ``algoOrder`` where it has a trigger."""
    waits = order.kind in _ALGO
    said: dict[str, Param] = {"algoType": "CONDITIONAL"} if waits else {}
    said |= {
        "symbol": symbol, "side": order.action.upper(),
        "type": (_ALGO if waits else _PLAIN)[order.kind],
    }  # fmt: skip
    if order.kind in _LIMITED:
        said["timeInForce"] = "GTX" if order.post_only else _TIFS[order.tif]
    said["quantity"] = size
    if order.kind in _LIMITED and order.price is not None:
        said["price"] = order.price
    if order.tif is TimeInForce.GTD and order.expire_ns is not None:
        said["goodTillDate"] = order.expire_ns // _NS * 1000  # whole seconds, in ms
    side = position_side(order, is_dual=is_dual)
    if side != "BOTH":
        said["positionSide"] = side
    elif order.reduce_only:
        said["reduceOnly"] = True
    if waits and order.trigger is not None:
        said |= {"triggerPrice": order.trigger, "workingType": _WORKING[order.trigger_by],
                 "clientAlgoId": client_id}  # fmt: skip
        return said
    return {**said, "newClientOrderId": client_id, "newOrderRespType": "RESULT"}


# -- the desk ----------------------------------------------------------------------------------
class UsdmDesk:
    """Orders and queries of one account at USD-M; every method may raise a ``BrokerError``."""

    venue = "usdm"
    edits_price = True

    def __init__(self, signed: Signed) -> None:
        self.signed = signed
        self.is_dual = False  # both sides of a market are held apart
        self.on_mode: Callable[[], None] = lambda: None  # is called when that is another

    async def prepare(self) -> None:
        """Learn whether the account hedges, and how many orders it may send."""
        await self.learn_mode()
        rows = await self.signed.query("/fapi/v1/rateLimit/order", type=list[OrderLimit], weight=1)
        self.signed.set_order_limits(rows)

    async def learn_mode(self) -> None:
        """Learn whether the account hedges: no event tells that it was changed."""
        dual = await self.signed.query("/fapi/v1/positionSide/dual", type=_Dual, weight=30)
        if dual.dual_side_position is not self.is_dual:
            self.is_dual = dual.dual_side_position
            log.info("binance.position_mode", account=self.signed.account, hedges=self.is_dual)
            self.on_mode()

    def unfit(self, order: BrokerdOrder) -> str:
        """Return why the venue can not do an order itself, or nothing."""
        return unfit_for_usdm(order)

    def is_algo(self, order: BrokerdOrder) -> bool:
        """Tell whether an order is a conditional one, apart from others."""
        return order.kind in _ALGO

    async def place(
        self, order: BrokerdOrder, symbol: str, client_id: str, size: Decimal, sent: Sent
    ) -> OrderFact:
        """Send a new order; where the account's mode was changed the next one knows."""
        try:
            return await self._place(order, symbol, client_id, size, sent)
        except Rejected as error:
            if error.code == _OTHER_MODE:
                with suppress(BrokerError):  # the next comparison asks, too
                    await self.learn_mode()
            raise

    async def _place(
        self, order: BrokerdOrder, symbol: str, client_id: str, size: Decimal, sent: Sent
    ) -> OrderFact:
        said = usdm_order(order, symbol, client_id, size, is_dual=self.is_dual)
        if order.kind in _ALGO:
            algo = await self.signed.ask(
                "POST", "/fapi/v1/algoOrder", said, type=AlgoRow, role="orders", sent=sent, weight=0
            )
            return algo_fact(algo)
        row = await self.signed.ask(
            "POST", "/fapi/v1/order", said, type=OrderRow, role="orders", sent=sent, weight=0
        )
        return order_fact(row)

    async def cancel(
        self, symbol: str, number: int, client_id: str, *, is_algo: bool, sent: Sent
    ) -> OrderFact | None:
        """Cancel an order by its number, else by its client id; return how it stands then.

        A conditional one is asked for: that its cancel was accepted is not its end, a trigger may
        have come first. None where no answer to that comes.
        """
        if is_algo:
            await self._cancel_algo(client_id, sent)
            try:
                return await self.order(symbol, number=number, client_id=client_id, is_algo=True)
            except BrokerError:
                return None
        name: dict[str, Param] = {"orderId": number} if number else {"origClientOrderId": client_id}
        row = await self.signed.ask(
            "DELETE", "/fapi/v1/order", {"symbol": symbol, **name}, type=OrderRow, role="cancels",
            sent=sent,
        )  # fmt: skip
        return order_fact(row)

    async def _cancel_algo(self, client_id: str, sent: Sent) -> None:
        said: dict[str, Param] = {"clientAlgoId": client_id}
        answer = await self.signed.ask(
            "DELETE", "/fapi/v1/algoOrder", said, type=_AlgoCanceled, role="cancels", sent=sent
        )
        _check_name(client_id, answer.client_algo_id)

    async def amend(
        self, order: BrokerdOrder, symbol: str, number: int, client_id: str, sent: Sent
    ) -> OrderFact:
        """Give a limit order another price and size where it stands; it keeps its ids."""
        said: dict[str, Param] = {
            "symbol": symbol, "orderId": number, "side": order.action.upper(),
            "quantity": order.size, "price": order.price or Decimal(0),
        }  # fmt: skip
        row = await self.signed.ask(
            "PUT", "/fapi/v1/order", said, type=OrderRow, role="orders", sent=sent, weight=0
        )
        return order_fact(row)

    async def count_down(self, symbol: str, wait_ms: int) -> None:
        """Have all orders of a market canceled after so long, unless told again; 0: never."""
        said: dict[str, Param] = {"symbol": symbol, "countdownTime": wait_ms}
        await self.signed.ask(
            "POST", "/fapi/v1/countdownCancelAll", said, type=dict[str, Any], weight=10,
            role="cancels",
        )  # fmt: skip

    # -- queries -------------------------------------------------------------------------------
    async def order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None:
        """Return an order by its number or client id; None where the venue says there is none."""
        try:
            if is_algo:
                name: dict[str, Param] = (
                    {"algoId": number} if number else {"clientAlgoId": client_id}
                )
                algo = await self.signed.query("/fapi/v1/algoOrder", name, type=AlgoRow, weight=1)
                _check_name(client_id, algo.client_algo_id)
                return algo_fact(algo)
            name = {"orderId": number} if number else {"origClientOrderId": client_id}
            row = await self.signed.query(
                "/fapi/v1/order", {"symbol": symbol, **name}, type=OrderRow, weight=1
            )
        except Rejected as error:
            if error.code == _NO_ORDER:
                return None
            raise
        return order_fact(row)

    async def open_orders(self, symbol: str = "") -> list[OrderFact]:
        """Return every open order of the account, or of one market; conditional ones too."""
        said: dict[str, Param] = {"symbol": symbol} if symbol else {}
        weight = 1 if symbol else 40
        rows = await self.signed.query(
            "/fapi/v1/openOrders", said, type=list[OrderRow], weight=weight
        )
        algos = await self.signed.query(
            "/fapi/v1/openAlgoOrders", said, type=list[AlgoRow], weight=weight
        )
        return [*map(order_fact, rows), *map(algo_fact, algos)]

    async def trades(self, leg: OrderFact) -> list[FillFact]:
        """Return every fill of an order: unasked the venue tells a week's, and the newest page."""
        said: dict[str, Param] = {"orderId": leg.number, "limit": MAX_TRADES}
        found = await self.trade_page(leg.symbol, said)
        is_cut = len(found) == MAX_TRADES
        if not is_cut and sum(fill.size for fill in found) >= leg.executed:
            return found
        now_ms = self.signed.clock.now_ms()
        start = max(leg.made_ms, now_ms - KEPT_MS)
        until = now_ms if is_cut else now_ms - WEEK_MS
        ask, whole = partial(self.trade_page, leg.symbol), [] if is_cut else found
        async with aclosing(weeks(ask, start, until, page_size=MAX_TRADES)) as pages:
            async for page in pages:
                whole += [fill for fill in page if fill.number == leg.number]
        return list({fill.trade: fill for fill in whole}.values())

    async def trades_since(self, symbol: str, since_ms: int) -> list[FillFact]:
        """Return the fills of a market from a moment on."""
        ask, until = partial(self.trade_page, symbol), self.signed.clock.now_ms()
        async with aclosing(weeks(ask, since_ms, until, page_size=MAX_TRADES)) as pages:
            return [fill async for page in pages for fill in page]

    async def trade_page(self, symbol: str, said: Mapping[str, Param]) -> list[FillFact]:
        """Return the fills of a market that ``said`` asks for, oldest first."""
        rows = await self.signed.query(
            "/fapi/v1/userTrades", {"symbol": symbol, **said}, type=list[TradeRow], weight=5
        )
        return [trade_fact(row) for row in rows]

    async def standing(self) -> list[Any]:
        """Return all balances and positions."""
        balances = await self.signed.query("/fapi/v3/balance", type=list[BalanceRow], weight=5)
        rows = await self.signed.query("/fapi/v3/positionRisk", type=list[PositionRow], weight=5)
        positions: list[PositionFact] = [position_fact(row) for row in rows]
        return [*map(balance_fact, balances), *positions]

    def events(self, kind: str, raw: bytes) -> list[Any]:
        """Return what a user event says."""
        return usdm_events(kind, raw)
