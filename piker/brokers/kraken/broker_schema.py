"""Kraken's private messages, as far as we read them. Unknown fields are ignored.

REST sends decimals as strings, websocket v2 as JSON numbers; both are read with every digit.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from piker.money import is_sane

__all__ = [
    "MOST",
    "Answered",
    "AssetRow",
    "BalanceEx",
    "BalanceRow",
    "ClosedPage",
    "Head",
    "KeyInfo",
    "OpenPage",
    "OrderRow",
    "Report",
    "Subscribed",
    "Token",
    "TradeRow",
    "TradesPage",
    "decode_head",
]

Text = str | None  # absent, or null
MOST = Decimal(10) ** 20  # of any amount or price: beyond it a number was garbled on its way


def _check(*values: Decimal | None) -> None:
    """Refuse what is no amount: not a number, below zero, or absurd.

    Callers take ``copy_abs``: ``abs`` would raise for the largest of all exponents.
    """
    for value in values:
        if value is not None and not (is_sane(value) and 0 <= value < MOST):
            raise ValueError(f"{value} is no amount")


# -- websocket v2 --------------------------------------------------------------------------------
# {"method":"add_order","req_id":7,"result":{"order_id":"O...","cl_ord_id":"..."},"success":true,
#  "time_in":"2023-09-21T14:15:07.197274Z","time_out":"2023-09-21T14:15:07.205301Z"}
# {"channel":"executions","type":"update","data":[...],"sequence":8}
class Head(msgspec.Struct, frozen=True):
    """What every message has: an answer its method, data its channel."""

    method: str = ""
    channel: str = ""
    type: str = ""
    success: bool | None = None
    error: Text = None
    req_id: int | None = None
    time_out: str = ""
    sequence: int = 0
    result: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"[]")


class Answered(msgspec.Struct, frozen=True):
    """What an answer about an order names."""

    order_id: str = ""
    cl_ord_id: str = ""


class Subscribed(msgspec.Struct, frozen=True):
    """The answer to a subscription; the counter's maximum tells the account's tier."""

    channel: str = ""
    maxratecount: int = 0


class Fee(msgspec.Struct, frozen=True):
    """A part of a fill's fee."""

    asset: str
    qty: Decimal

    def __post_init__(self) -> None:
        """Check its number; a rebate is below zero."""
        _check(self.qty.copy_abs())


class Triggers(msgspec.Struct, frozen=True):
    """What a triggered order waits for; ``price`` is a distance unless it is ``static``."""

    price: Decimal | None = None
    price_type: str = "static"


# {"order_id":"OK4GJX-KSTLS-7DZZO5","cl_ord_id":"...","exec_id":"TGBB7L-HT5LX-J3BZ4A",
#  "exec_type":"trade","trade_id":62887576,"symbol":"BTC/USD","side":"sell","last_qty":0.005,
#  "last_price":26599.9,"liquidity_ind":"t","cost":132.9995,"order_type":"limit",
#  "timestamp":"2023-09-22T10:33:05.709993Z","order_status":"partially_filled","cum_qty":0.005,
#  "cum_cost":132.9995,"avg_price":26599.9,"fees":[{"asset":"USD","qty":0.3458}]}
class Report(msgspec.Struct, frozen=True):
    """An execution report: what has changed of an order, or all of it in a snapshot."""

    order_id: str
    exec_type: str = ""
    order_status: str = ""
    cl_ord_id: Text = None
    symbol: Text = None
    side: Text = None
    order_type: Text = None
    order_qty: Decimal | None = None
    limit_price: Decimal | None = None
    time_in_force: Text = None
    expire_time: Text = None
    post_only: bool | None = None
    triggers: Triggers | None = None
    cum_qty: Decimal | None = None
    exec_id: Text = None
    last_qty: Decimal | None = None
    last_price: Decimal | None = None
    liquidity_ind: Text = None
    fees: list[Fee] | None = None
    timestamp: str = ""
    reason: Text = None

    def __post_init__(self) -> None:
        """Check its numbers."""
        _check(self.order_qty, self.limit_price, self.cum_qty, self.last_qty, self.last_price)


class Wallet(msgspec.Struct, frozen=True):
    """What one wallet holds of an asset; ``earn`` ones hold what can not be traded."""

    type: str
    balance: Decimal

    def __post_init__(self) -> None:
        """Check its number."""
        _check(self.balance.copy_abs())


# {"asset":"MATIC","asset_class":"currency","balance":500,"wallets":[
#  {"type":"spot","id":"main","balance":300},{"type":"earn","id":"flex","balance":200}]}
# {"ledger_id":"...","ref_id":"...","timestamp":"2023-09-22T10:23:42.925034Z","type":"deposit",
#  "asset":"BTC","asset_class":"currency","category":"deposit","wallet_type":"spot",
#  "wallet_id":"main","amount":0.01,"fee":0.0,"balance":0.02}
class BalanceRow(msgspec.Struct, frozen=True):
    """An asset of the balances channel: of a snapshot with its wallets, of an update with one."""

    asset: str
    balance: Decimal  # of a snapshot, over all wallets
    wallets: list[Wallet] = []
    wallet_type: Text = None

    def __post_init__(self) -> None:
        """Check its number."""
        _check(self.balance.copy_abs())

    @property
    def spot(self) -> Decimal | None:
        """Return what can be traded of it; None where this tells of another wallet."""
        if self.wallets:
            return sum((one.balance for one in self.wallets if one.type == "spot"), Decimal(0))
        return None if self.wallet_type == "earn" else self.balance


_head = msgspec.json.Decoder(Head)


def decode_head(frame: bytes) -> Head:
    """Return a message's envelope; ``msgspec.DecodeError`` for what is none."""
    return _head.decode(frame)


# -- REST ----------------------------------------------------------------------------------------
class Token(msgspec.Struct, frozen=True):
    """Result of GetWebSocketsToken."""

    token: str


class AssetRow(msgspec.Struct, frozen=True):
    """An asset of Assets, which is public."""

    altname: str


class KeyInfo(msgspec.Struct, frozen=True):
    """Result of GetApiKeyInfo."""

    permissions: list[str] = []


class BalanceEx(msgspec.Struct, frozen=True):
    """An asset of BalanceEx; credit of margin accounts is not read."""

    balance: Decimal
    hold_trade: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        """Check its numbers."""
        _check(self.balance.copy_abs(), self.hold_trade)


class Descr(msgspec.Struct, frozen=True):
    """An order's terms; ``price`` is the trigger where there is one, and ``price2`` the limit."""

    pair: str
    type: str
    ordertype: str
    price: str = "0"
    price2: str = "0"


# "OQCLML-BW3P3-BUCMWZ":{"status":"open","opentm":1688666559.8974,"expiretm":0,
#  "descr":{"pair":"XBTUSD","type":"buy","ordertype":"limit","price":"30010.0","price2":"0",...},
#  "vol":"1.25000000","vol_exec":"0.37500000","oflags":"fciq","trades":["TCCCTY-WE2O6-P3NB37"]}
class OrderRow(msgspec.Struct, frozen=True):
    """An order of OpenOrders, ClosedOrders and QueryOrders."""

    status: str  # pending, open, closed, canceled, expired
    descr: Descr
    vol: Decimal
    vol_exec: Decimal
    expiretm: Any = 0  # a number, or one in a text
    cl_ord_id: Text = None
    reason: Text = None
    oflags: Text = None
    timeinforce: Text = None
    trades: list[str] = []

    def __post_init__(self) -> None:
        """Check its numbers."""
        _check(self.vol, self.vol_exec)


class OpenPage(msgspec.Struct, frozen=True):
    """Result of OpenOrders."""

    open: dict[str, OrderRow]


class ClosedPage(msgspec.Struct, frozen=True):
    """Result of ClosedOrders: 50 of ``count``, where it is told, the newest first."""

    closed: dict[str, OrderRow]
    count: int | None = None


# "TCCCTY-WJ6EO-4FP4VZ":{"ordertxid":"O26VBY-ISGAE-JP5TLU","pair":"XBTUSDT","time":1688585840.8921,
#  "type":"buy","price":"29500.50","cost":"14750.25","fee":"23.60","vol":"0.50000000","maker":true}
class TradeRow(msgspec.Struct, frozen=True):
    """A fill of TradesHistory and QueryTrades; its key is the execution's id."""

    ordertxid: str
    pair: str
    time: Decimal
    type: Literal["buy", "sell"]
    price: Decimal
    vol: Decimal
    fee: Decimal = Decimal(0)
    maker: bool | None = None
    margin: Decimal = Decimal(0)  # what was borrowed for it

    def __post_init__(self) -> None:
        """Check its numbers; a rebate is a fee below zero."""
        _check(self.time, self.price, self.vol, self.fee.copy_abs(), self.margin.copy_abs())


class TradesPage(msgspec.Struct, frozen=True):
    """Result of TradesHistory: 50 of ``count``, where it is told, the newest first."""

    trades: dict[str, TradeRow]
    count: int | None = None
