"""USD-M's answers and user events about an account, decoded to facts.

Shapes: the venue's own examples, and docs/brokers/binance.md. ``avgPrice`` and ``cumQuote`` are
not used: the venue announced that they go.
"""

from __future__ import annotations

import re

import msgspec

from piker.brokers.binance.broker_facts import (
    AnyOrder,
    AnyTrade,
    BalanceFact,
    Changed,
    Fact,
    FillFact,
    OrderFact,
    OrderStatus,
    PositionFact,
    number_of,
    status_of,
)
from piker.errors import DataQuality
from piker.log import get_logger
from piker.orders import Action, OrderKind, TimeInForce, TriggerBy

__all__ = [
    "AlgoRow",
    "BalanceRow",
    "OrderRow",
    "PositionRow",
    "TradeRow",
    "algo_fact",
    "balance_fact",
    "order_fact",
    "position_fact",
    "trade_fact",
    "usdm_events",
]

log = get_logger("binance.broker")

_KINDS = {
    "LIMIT": OrderKind.LIMIT, "MARKET": OrderKind.MARKET, "STOP": OrderKind.STOP_LIMIT,
    "STOP_MARKET": OrderKind.STOP, "TAKE_PROFIT": OrderKind.TAKE_PROFIT_LIMIT,
    "TAKE_PROFIT_MARKET": OrderKind.TAKE_PROFIT, "TRAILING_STOP_MARKET": OrderKind.TRAILING_STOP,
}  # fmt: skip
_COINM = re.compile(r"USD_(PERP|[0-9]{6})$", re.ASCII)  # BTCUSD_PERP, BTCUSD_240329
_TIFS = {"GTC": "gtc", "IOC": "ioc", "FOK": "fok", "GTD": "gtd", "GTX": "gtc", "GTE_GTC": "gtc"}
#: A conditional order that was triggered is as its own order is: ``open`` until that is known.
_ALGO_STATUSES: dict[str, OrderStatus] = {
    "CANCELED": "canceled", "EXPIRED": "expired", "REJECTED": "rejected",
}  # fmt: skip

#: Why the venue ended an order by itself: ``er`` of ORDER_TRADE_UPDATE, in our words.
_EXPIRED = {
    "1": "it would have traded with the account itself",
    "2": "the rest of an IOC order could not be filled",
    "3": "the rest of an IOC order would have traded with the account itself",
    "4": "another order that reduces came before it, or it would have turned the position",
    "5": "the account was liquidated",
    "6": "the position that it closes was gone",
    "7": "the market is listed no more",
    "8": "an order that it was tied to was triggered",
    "9": "the rest of a market order could not be filled",
    "10": "a FOK order could not be filled",
    "11": "a post-only order would have taken",
}


class OrderRow(AnyOrder, rename="camel"):
    """An order in answers and queries."""

    reduce_only: bool = False
    position_side: str = "BOTH"
    good_till_date: int = 0
    time: int = 0  # when it was made: in answers to queries


class AlgoRow(msgspec.Struct, rename="camel"):
    """A conditional order in answers and queries."""

    algo_id: int
    client_algo_id: str
    order_type: str
    symbol: str
    side: str
    algo_status: str
    quantity: str | None = None  # not there where a whole position is closed
    trigger_price: str | None = None  # not there of one that trails
    price: str | None = None
    time_in_force: str | None = None
    actual_order_id: str | int | None = None
    working_type: str = "CONTRACT_PRICE"
    reduce_only: bool = False
    position_side: str = "BOTH"
    update_time: int = 0


class TradeRow(AnyTrade, rename="camel"):
    """A row of userTrades."""

    side: str
    maker: bool
    realized_pnl: str = "0"


class BalanceRow(msgspec.Struct, rename="camel"):
    """A row of balance."""

    asset: str
    balance: str
    available_balance: str


class PositionRow(msgspec.Struct, rename="camel"):
    """A row of positionRisk."""

    symbol: str
    position_amt: str
    entry_price: str
    position_side: str = "BOTH"
    margin_asset: str = ""


def _action(side: str, number: int) -> Action:
    if number < 1 or side not in ("BUY", "SELL"):
        raise DataQuality(f"binance: an order {number} to {side[:20]!r}")
    return Action.BUY if side == "BUY" else Action.SELL


def _reduces(action: Action, flagged: bool, side: str) -> bool:
    return flagged or (side == "LONG" and action is Action.SELL) or (
        side == "SHORT" and action is Action.BUY
    )  # fmt: skip


def order_fact(row: OrderRow) -> OrderFact:
    """Return what a row says of an order."""
    action = _action(row.side, row.order_id)
    size, executed = number_of(row.orig_qty, "size"), number_of(row.executed_qty, "filled size")
    expires = row.good_till_date if row.time_in_force == "GTD" else 0
    return OrderFact(
        venue="usdm", symbol=row.symbol, number=row.order_id, client_id=row.client_order_id,
        status=status_of(row.status, size, executed), action=action, size=size, executed=executed,
        kind=_KINDS.get(row.type, OrderKind.LIMIT), price=number_of(row.price, "price") or None,
        tif=TimeInForce(_TIFS.get(row.time_in_force, "gtc")), post_only=row.time_in_force == "GTX",
        expire_ns=expires * 1_000_000 or None,
        reduce_only=_reduces(action, row.reduce_only, row.position_side), made_ms=row.time,
        time_ms=row.update_time,
    )  # fmt: skip


def _sent(row: AlgoRow) -> int:
    """Return the number of the order that a conditional one became, 0 where it became none."""
    text = str(row.actual_order_id or "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _algo_status(row: AlgoRow) -> OrderStatus:
    if row.algo_status == "FINISHED" and not _sent(row):
        return "expired"  # it was triggered, and nothing came of it
    return _ALGO_STATUSES.get(row.algo_status, "open")


def algo_fact(row: AlgoRow) -> OrderFact:
    """Return what a row says of a conditional order."""
    action = _action(row.side, row.algo_id)
    tif = row.time_in_force or "GTC"
    return OrderFact(
        venue="usdm", symbol=row.symbol, number=row.algo_id, client_id=row.client_algo_id,
        status=_algo_status(row), action=action,
        size=number_of(row.quantity or "0", "size"),
        kind=_KINDS.get(row.order_type, OrderKind.STOP),
        price=number_of(row.price or "0", "price") or None,
        trigger=number_of(row.trigger_price or "0", "trigger") or None,
        trigger_by=TriggerBy.MARK if row.working_type == "MARK_PRICE" else TriggerBy.LAST,
        tif=TimeInForce(_TIFS.get(tif, "gtc")), post_only=tif == "GTX", is_algo=True,
        reduce_only=_reduces(action, row.reduce_only, row.position_side),
        sent=_sent(row), time_ms=row.update_time,
    )  # fmt: skip


def trade_fact(row: TradeRow) -> FillFact:
    """Return what a row says of a fill."""
    return FillFact(
        venue="usdm", symbol=row.symbol, number=row.order_id, trade=row.id,
        size=number_of(row.qty, "size"), price=number_of(row.price, "price"),
        action=_action(row.side, row.order_id), fee=number_of(row.commission, "fee", signed=True),
        fee_asset=row.commission_asset.lower(), maker=row.maker, time_ms=row.time,
        realised=number_of(row.realized_pnl, "realised gain", signed=True),
    )  # fmt: skip


def balance_fact(row: BalanceRow) -> BalanceFact:
    """Return what a row says of a balance, which may be below zero there."""
    return BalanceFact(
        venue="usdm", asset=row.asset.lower(), total=number_of(row.balance, "balance", signed=True),
        available=number_of(row.available_balance, "balance", signed=True),
    )  # fmt: skip


def position_fact(row: PositionRow) -> PositionFact:
    """Return what a row says of a position."""
    return PositionFact(
        symbol=row.symbol, side=row.position_side,
        size=number_of(row.position_amt, "position", signed=True),
        entry=number_of(row.entry_price, "entry price"), currency=row.margin_asset.lower(),
    )  # fmt: skip


# -- user events -------------------------------------------------------------------------------
class _Update(msgspec.Struct):
    """``o`` of ORDER_TRADE_UPDATE."""

    s: str
    c: str
    S: str
    o: str
    f: str
    q: str
    p: str
    x: str
    X: str
    i: int
    l: str  # noqa: E741  # the venue's own name
    z: str
    L: str
    T: int
    t: int
    m: bool
    R: bool = False
    ps: str = "BOTH"
    rp: str = "0"
    n: str | None = "0"  # none of a liquidation
    N: str | None = None
    gtd: int = 0
    er: str | int = "0"


class _OrderEvent(msgspec.Struct):
    o: _Update


class _Algo(msgspec.Struct):
    """``o`` of ALGO_UPDATE."""

    caid: str
    aid: int
    o: str
    s: str
    S: str
    X: str
    q: str | None = None
    tp: str | None = None
    p: str | None = None
    f: str | None = None
    ai: str | int | None = None
    wt: str = "CONTRACT_PRICE"
    R: bool = False
    ps: str = "BOTH"
    rm: str = ""


class _AlgoEvent(msgspec.Struct):
    o: _Algo
    T: int = 0


class _Wallet(msgspec.Struct):
    a: str
    wb: str


class _Held(msgspec.Struct):
    s: str
    pa: str
    ep: str
    ps: str = "BOTH"


class _Changes(msgspec.Struct):
    B: list[_Wallet] = []
    P: list[_Held] = []


class _AccountEvent(msgspec.Struct):
    a: _Changes


def usdm_events(kind: str, raw: bytes) -> list[Fact]:
    """Return what a user event says; raise ``DataQuality`` for one that can not be read.

    TRADE_LITE is left to the whole update that follows it: it has no fee. COIN-M's events, which
    may come the same way, say nothing here.
    """
    try:
        if kind == "ORDER_TRADE_UPDATE":
            update = msgspec.json.decode(raw, type=_OrderEvent).o
            return [] if _is_coinm(update.s) else _update(update)
        if kind == "ALGO_UPDATE":
            event = msgspec.json.decode(raw, type=_AlgoEvent)
            return [] if _is_coinm(event.o.s) else [_algo(event.o, event.T)]
        if kind == "MARGIN_CALL":
            log.warning("binance.margin_call", positions=_called(raw))
        elif kind == "ACCOUNT_UPDATE":
            return _changes(msgspec.json.decode(raw, type=_AccountEvent).a)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataQuality(f"binance: a user event {kind}: {error}") from error
    return []


class _Called(msgspec.Struct):
    s: str
    ps: str
    pa: str


class _MarginCall(msgspec.Struct):
    p: list[_Called] = []


def _called(raw: bytes) -> str:
    """Return which positions the venue calls for margin of."""
    rows = msgspec.json.decode(raw, type=_MarginCall).p
    return ", ".join(f"{row.s} {row.ps} {row.pa}" for row in rows)


def _update(said: _Update) -> list[Fact]:
    fills: tuple[FillFact, ...] = ()
    if said.x == "TRADE" or (said.x == "CALCULATED" and said.t > 0):  # that is a liquidation
        if said.t < 1:
            raise DataQuality(f"binance: a trade {said.t} of order {said.i}")
        row = TradeRow(
            symbol=said.s, id=said.t, order_id=said.i, side=said.S, price=said.L, qty=said.l,
            commission=said.n or "0", commission_asset=said.N or "", time=said.T, maker=said.m,
            realized_pnl=said.rp,
        )  # fmt: skip
        fills = (trade_fact(row),)
    order = OrderRow(
        symbol=said.s, order_id=said.i, client_order_id=said.c, side=said.S, type=said.o,
        status=said.X, orig_qty=said.q, executed_qty=said.z, price=said.p, time_in_force=said.f,
        reduce_only=said.R, position_side=said.ps, good_till_date=said.gtd, update_time=said.T,
    )  # fmt: skip
    reason = _EXPIRED.get(str(said.er), "") if said.x == "EXPIRED" else ""
    return [msgspec.structs.replace(order_fact(order), fills=fills, reason=reason)]


def _algo(said: _Algo, time_ms: int) -> OrderFact:
    row = AlgoRow(
        said.aid, said.caid, said.o, said.s, said.S, said.X, said.q, said.tp, said.p, said.f,
        said.ai, said.wt, said.R, said.ps, time_ms,
    )  # fmt: skip
    return msgspec.structs.replace(algo_fact(row), reason=said.rm)


def _is_coinm(symbol: str) -> bool:
    """Tell a market of COIN-M by its name: all of them are paid in dollars by theirs."""
    return _COINM.search(symbol) is not None


def _changes(said: _Changes) -> list[Fact]:
    """Return what a change of the account says.

    An asset's name does not say whose wallet it is in: balances are USD-M's where positions that
    come with them are, else they are to be asked for.
    """
    own = [row for row in said.P if not _is_coinm(row.s)]
    is_ours = bool(own) and len(own) == len(said.P)
    balances: list[Fact] = [] if is_ours or not said.B else [Changed()]
    balances += [
        BalanceFact(
            venue="usdm", asset=row.a.lower(), total=number_of(row.wb, "balance", signed=True)
        )
        for row in said.B if is_ours
    ]  # fmt: skip
    positions = [
        PositionFact(
            symbol=row.s, side=row.ps, size=number_of(row.pa, "position", signed=True),
            entry=number_of(row.ep, "entry price"),
        )
        for row in own
    ]  # fmt: skip
    return [*balances, *positions]
