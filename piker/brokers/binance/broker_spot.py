"""Spot's orders: what is asked of the venue, and what its answers and user events say.

Sources: the venue's rest-api.md ("New order", "Cancel an Existing Order and Send a New Order",
"Order Amend Keep Priority") and user-data-stream.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

from piker.brokers.binance.broker_facts import (
    STATUSES,
    AnyOrder,
    AnyTrade,
    BalanceFact,
    Fact,
    FillFact,
    OrderFact,
    OrderStatus,
    number_of,
)
from piker.brokers.binance.broker_rest import OrderLimit, Sent, Signed
from piker.brokers.binance.broker_weeks import DAY_MS, weeks
from piker.brokers.signing import Param
from piker.errors import DataQuality, Rejected
from piker.orders import Action, BrokerdOrder, OrderKind, TimeInForce, TriggerBy

__all__ = ["SpotDesk", "spot_events", "spot_order", "unfit_for_spot"]

MAX_TRADES = 1000  # rows of one answer
_TYPES = {
    OrderKind.MARKET: "MARKET", OrderKind.LIMIT: "LIMIT", OrderKind.STOP: "STOP_LOSS",
    OrderKind.STOP_LIMIT: "STOP_LOSS_LIMIT", OrderKind.TAKE_PROFIT: "TAKE_PROFIT",
    OrderKind.TAKE_PROFIT_LIMIT: "TAKE_PROFIT_LIMIT",
}  # fmt: skip
_KINDS = {word: kind for kind, word in _TYPES.items()} | {"LIMIT_MAKER": OrderKind.LIMIT}
_LIMITED = frozenset({OrderKind.LIMIT, OrderKind.STOP_LIMIT, OrderKind.TAKE_PROFIT_LIMIT})
_TIFS = {TimeInForce.GTC: "GTC", TimeInForce.IOC: "IOC", TimeInForce.FOK: "FOK"}
_NO_ORDER = "-2013"


# -- requests ----------------------------------------------------------------------------------
def unfit_for_spot(order: BrokerdOrder) -> str:
    """Return why the venue can not do an order itself, or nothing."""
    if order.kind not in _TYPES:
        return f"spot has no {order.kind} by a distance in price"
    if order.tif not in _TIFS:
        return f"spot has no time in force {order.tif}"
    if order.reduce_only:
        return "spot holds no positions to reduce"
    if order.post_only and order.kind is not OrderKind.LIMIT:
        return f"spot has no {order.kind} that is post-only"
    if order.kind not in _LIMITED and order.tif is not TimeInForce.GTC:
        return f"a {order.kind} has no time in force"
    if order.trigger is not None and order.trigger_by is not TriggerBy.LAST:
        return "spot's triggers go by the last trade"
    return ""


def spot_order(
    order: BrokerdOrder, symbol: str, client_id: str, size: Decimal
) -> dict[str, Param]:  # fmt: skip
    """Return the parameters of a new order of ``size``."""
    said: dict[str, Param] = {
        "symbol": symbol, "side": order.action.upper(),
        "type": "LIMIT_MAKER" if order.post_only else _TYPES[order.kind],
    }  # fmt: skip
    if order.kind in _LIMITED and not order.post_only:
        said["timeInForce"] = _TIFS[order.tif]
    said["quantity"] = size
    if order.kind in _LIMITED and order.price is not None:
        said["price"] = order.price
    if order.trigger is not None:
        said["stopPrice"] = order.trigger
    return {**said, "newClientOrderId": client_id, "newOrderRespType": "FULL"}


# -- answers -----------------------------------------------------------------------------------
class _AnswerFill(msgspec.Struct, rename="camel"):
    price: str
    qty: str
    commission: str
    commission_asset: str
    trade_id: int


class _Row(AnyOrder, rename="camel"):
    """An order in answers and queries. Of a cancel ``clientOrderId`` is the cancel's own."""

    stop_price: str = "0"
    orig_client_order_id: str = ""
    transact_time: int = 0
    fills: list[_AnswerFill] = msgspec.field(default_factory=list)


class _Replaced(msgspec.Struct, rename="camel"):
    cancel_response: _Row
    new_order_response: _Row


class _Amended(msgspec.Struct, rename="camel"):
    order_id: int
    qty: str
    executed_qty: str


class _Amendment(msgspec.Struct, rename="camel"):
    amended_order: _Amended


class _Trade(AnyTrade, rename="camel"):
    is_buyer: bool
    is_maker: bool


class _Held(msgspec.Struct):
    asset: str
    free: str
    locked: str


class _Account(msgspec.Struct, rename="camel"):
    balances: list[_Held]


def _fact(row: _Row) -> OrderFact:
    symbol, number = row.symbol, row.order_id
    if number < 1 or row.side not in ("BUY", "SELL"):
        raise DataQuality(f"binance: an order {number} to {row.side[:20]!r}")
    action = Action.BUY if row.side == "BUY" else Action.SELL
    at_ms = max(row.transact_time, row.update_time)
    fills = tuple(
        FillFact(
            venue="spot", symbol=symbol, number=number, trade=fill.trade_id,
            size=number_of(fill.qty, "size"), price=number_of(fill.price, "price"), action=action,
            fee=number_of(fill.commission, "fee", signed=True),
            fee_asset=fill.commission_asset.lower(), maker=False, time_ms=at_ms,
        )
        for fill in row.fills
    )  # fmt: skip
    return _order_fact(
        symbol, number, row.orig_client_order_id or row.client_order_id, row.status, action,
        row.type, row.time_in_force, (row.orig_qty, row.executed_qty, row.price, row.stop_price),
        at_ms, fills=fills,
    )  # fmt: skip


def _order_fact(
    symbol: str, number: int, client_id: str, status: str, action: Action, kind: str, tif: str,
    numbers: tuple[str, str, str, str], time_ms: int, *,
    fills: tuple[FillFact, ...] = (), reason: str = "",
) -> OrderFact:  # fmt: skip
    size, executed, price, stop = (number_of(text, "number of an order") for text in numbers)
    found: OrderStatus = STATUSES.get(status, "open")
    return OrderFact(
        venue="spot", symbol=symbol, number=number, client_id=client_id, status=found,
        action=action, size=size, executed=executed, kind=_KINDS.get(kind, OrderKind.LIMIT),
        price=price or None, trigger=stop or None,
        tif=TimeInForce(tif.lower()) if tif in ("GTC", "IOC", "FOK") else TimeInForce.GTC,
        post_only=kind == "LIMIT_MAKER", time_ms=time_ms, fills=fills, reason=reason,
    )  # fmt: skip


# -- user events -------------------------------------------------------------------------------
class _Report(msgspec.Struct):
    """executionReport."""

    s: str
    c: str
    S: str
    o: str
    f: str
    q: str
    p: str
    P: str
    C: str
    x: str
    X: str
    r: str
    i: int
    l: str  # noqa: E741  # the venue's own name
    z: str
    L: str
    T: int
    t: int
    m: bool
    n: str | None = "0"
    N: str | None = None
    eR: str = ""  # why the venue ended it by itself; since March 2026


class _Changed(msgspec.Struct):
    a: str
    f: str
    l: str  # noqa: E741  # the venue's own name


class _Balances(msgspec.Struct):
    B: list[_Changed]


def spot_events(kind: str, raw: bytes) -> list[Fact]:
    """Return what a user event says; raise ``DataQuality`` for one that can not be read."""
    try:
        if kind == "executionReport":
            return _report(msgspec.json.decode(raw, type=_Report))
        if kind == "outboundAccountPosition":
            rows = msgspec.json.decode(raw, type=_Balances).B
            return [_balance(row.a, row.f, row.l) for row in rows]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataQuality(f"binance: a user event {kind}: {error}") from error
    return []


def _report(said: _Report) -> list[Fact]:
    if said.i < 1 or said.S not in ("BUY", "SELL"):
        raise DataQuality(f"binance: a report of order {said.i}")
    action = Action.BUY if said.S == "BUY" else Action.SELL
    # Of a cancel C is the order's own id and c the cancel's; of an amendment c is the new one.
    client_id = said.C if said.C and said.x != "REPLACED" else said.c
    fills: tuple[FillFact, ...] = ()
    if said.x == "TRADE":
        if said.t < 0:
            raise DataQuality(f"binance: a trade {said.t} of order {said.i}")
        fill = FillFact(
            venue="spot", symbol=said.s, number=said.i, trade=said.t,
            size=number_of(said.l, "size"), price=number_of(said.L, "price"), action=action,
            fee=number_of(said.n or "0", "fee", signed=True), fee_asset=(said.N or "").lower(),
            maker=said.m, time_ms=said.T,
        )  # fmt: skip
        fills = (fill,)
    fact = _order_fact(
        said.s, said.i, client_id, said.X, action, said.o, said.f,
        (said.q, said.z, said.p, said.P), said.T, fills=fills,
        reason=said.r if said.r != "NONE" else said.eR.replace("_", " ").lower(),
    )  # fmt: skip
    return [fact]


def _balance(asset: str, free: str, locked: str) -> BalanceFact:
    available = number_of(free, "balance")
    total = available + number_of(locked, "balance")
    return BalanceFact(venue="spot", asset=asset.lower(), total=total, available=available)


# -- the desk ----------------------------------------------------------------------------------
class SpotDesk:
    """Orders and queries of one account at spot; every method may raise a ``BrokerError``."""

    venue = "spot"
    edits_price = False  # in place: only to a smaller size (:meth:`amend`)
    is_dual = False

    def __init__(self, signed: Signed) -> None:
        self.signed = signed

    async def prepare(self) -> None:
        """Learn how many orders the account may send."""
        rows = await self.signed.query("/api/v3/rateLimit/order", type=list[OrderLimit], weight=40)
        self.signed.set_order_limits(rows)

    async def learn_mode(self) -> None:
        """Do nothing: there are no positions."""

    def unfit(self, order: BrokerdOrder) -> str:
        """Return why the venue can not do an order itself, or nothing."""
        return unfit_for_spot(order)

    def is_algo(self, order: BrokerdOrder) -> bool:
        """Tell whether an order is a conditional one, apart from others: none is."""
        return False

    async def place(
        self, order: BrokerdOrder, symbol: str, client_id: str, size: Decimal, sent: Sent
    ) -> OrderFact:
        """Send a new order."""
        said = spot_order(order, symbol, client_id, size)
        row = await self.signed.ask(
            "POST", "/api/v3/order", said, type=_Row, role="orders", sent=sent, weight=0
        )
        return _fact(row)

    async def cancel(
        self, symbol: str, number: int, client_id: str, *, is_algo: bool, sent: Sent
    ) -> OrderFact | None:
        """Cancel an order by its number, else by its client id."""
        name: dict[str, Param] = {"orderId": number} if number else {"origClientOrderId": client_id}
        row = await self.signed.ask(
            "DELETE", "/api/v3/order", {"symbol": symbol, **name}, type=_Row, role="cancels",
            sent=sent,
        )  # fmt: skip
        return _fact(row)

    async def amend(
        self, order: BrokerdOrder, symbol: str, number: int, client_id: str, sent: Sent
    ) -> None:
        """Make an order smaller where it stands; it keeps its place and its ids."""
        said: dict[str, Param] = {
            "symbol": symbol, "orderId": number, "newClientOrderId": client_id,
            "newQty": order.size,
        }  # fmt: skip
        await self.signed.ask(
            "PUT", "/api/v3/order/amend/keepPriority", said, type=_Amendment, weight=4,
            role="orders", sent=sent,
        )  # fmt: skip

    async def replace(
        self, order: BrokerdOrder, symbol: str, number: int, client_id: str, size: Decimal,
        sent: Sent,
    ) -> tuple[OrderFact, OrderFact]:  # fmt: skip
        """Cancel an order of which nothing was filled, and send another; both or the first fail."""
        said = spot_order(order, symbol, client_id, size) | {
            "cancelReplaceMode": "STOP_ON_FAILURE", "cancelOrderId": number,
            "cancelRestrictions": "ONLY_NEW",
        }  # fmt: skip
        row = await self.signed.ask(
            "POST",
            "/api/v3/order/cancelReplace",
            said,
            type=_Replaced,
            role="orders",
            sent=sent,
            weight=0,
        )
        return _fact(row.cancel_response), _fact(row.new_order_response)

    # -- queries -------------------------------------------------------------------------------
    async def order(
        self, symbol: str, *, number: int = 0, client_id: str = "", is_algo: bool = False
    ) -> OrderFact | None:
        """Return an order by its number or client id; None where the venue says there is none."""
        name: dict[str, Param] = {"orderId": number} if number else {"origClientOrderId": client_id}
        try:
            row = await self.signed.query(
                "/api/v3/order", {"symbol": symbol, **name}, type=_Row, weight=4
            )
        except Rejected as error:
            if error.code == _NO_ORDER:
                return None
            raise
        return _fact(row)

    async def open_orders(self, symbol: str = "") -> list[OrderFact]:
        """Return every open order of the account, or of one market."""
        said: dict[str, Param] = {"symbol": symbol} if symbol else {}
        rows = await self.signed.query(
            "/api/v3/openOrders", said, type=list[_Row], weight=6 if symbol else 80
        )
        return [_fact(row) for row in rows]

    async def trades(self, leg: OrderFact) -> list[FillFact]:
        """Return every fill of an order: asked for from no number on the venue tells the newest."""
        found: list[FillFact] = []
        said: dict[str, Param] = {"orderId": leg.number, "fromId": 0, "limit": MAX_TRADES}
        while True:
            page = await self.trade_page(leg.symbol, said, weight=5)
            found += page
            if len(page) < MAX_TRADES:
                return found
            said["fromId"] = page[-1].trade + 1

    async def trades_since(self, symbol: str, since_ms: int) -> list[FillFact]:
        """Return the fills of a market from a moment on: a question may span a day."""
        ask, until = partial(self.trade_page, symbol), self.signed.clock.now_ms()
        walk = weeks(ask, since_ms, until, page_size=MAX_TRADES, span_ms=DAY_MS)
        async with aclosing(walk) as pages:
            return [fill async for page in pages for fill in page]

    async def trade_page(
        self, symbol: str, said: Mapping[str, Param], *, weight: int = 20
    ) -> list[FillFact]:
        """Return the fills of a market that ``said`` asks for, oldest first."""
        rows = await self.signed.query(
            "/api/v3/myTrades", {"symbol": symbol, **said}, type=list[_Trade], weight=weight
        )
        return [_trade(row) for row in rows]

    async def standing(self) -> list[Fact]:
        """Return all balances."""
        said: dict[str, Param] = {"omitZeroBalances": True}
        account = await self.signed.query("/api/v3/account", said, type=_Account, weight=20)
        return [_balance(row.asset, row.free, row.locked) for row in account.balances]

    def events(self, kind: str, raw: bytes) -> list[Any]:
        """Return what a user event says."""
        return spot_events(kind, raw)


def _trade(row: _Trade) -> FillFact:
    return FillFact(
        venue="spot", symbol=row.symbol, number=row.order_id, trade=row.id,
        size=number_of(row.qty, "size"), price=number_of(row.price, "price"),
        action=Action.BUY if row.is_buyer else Action.SELL,
        fee=number_of(row.commission, "fee", signed=True), fee_asset=row.commission_asset.lower(),
        maker=row.is_maker, time_ms=row.time,
    )  # fmt: skip
