"""What the loopback Kraken says of orders, fills and balances: REST's rows, websocket's reports."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from piker.clock import NS
from piker.testing.account_matching import OwnFill
from piker.testing.accounts import ZERO, Account, VenueOrder
from piker.testing.engine import BUY
from piker.testing.kraken_account_params import KINDS
from piker.testing.kraken_wire import SIZE_DIGITS, Listing, stamp

__all__ = [
    "KrakenOrder",
    "allocation_rows",
    "described",
    "fill_row",
    "ledger_rows",
    "number",
    "number_of",
    "order_row",
    "report",
    "shown_id",
    "txid",
]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DIGITS = 16  # after the first letter: 6-5-6 with it
_BITS = 5 * _DIGITS
_MIX = 0x9E3779B97F4A7C15F39D  # odd: so that multiplying by it can be undone
_UNMIX = pow(_MIX, -1, 1 << _BITS)
_CLOSED = frozenset({"FILLED", "CANCELED", "EXPIRED"})
_REST_STATUS = {"NEW": "open", "PARTIALLY_FILLED": "open", "FILLED": "closed",
                "CANCELED": "canceled", "EXPIRED": "expired"}  # fmt: skip


class KrakenOrder(VenueOrder, kw_only=True, eq=False):
    """An order of the loopback Kraken; ``client_id`` is its cl_ord_id, or its txid without one."""

    txid: str
    cl_ord_id: str = ""
    userref: int = 0
    trail: Decimal = ZERO  # a distance of the price
    trail_pct: bool = False  # or in percent of it
    peak: Decimal = ZERO  # the best price that a trailing stop has seen
    reference: str = "last"
    post_only: bool = False
    expire_ms: int = 0
    reason: str = ""
    fee: Decimal = ZERO
    trades: list[str] = msgspec.field(default_factory=list)
    triggered: bool = False
    amended_ms: int = 0  # when it last was

    @property
    def waits(self) -> bool:
        """Tell whether its trigger is still to be met."""
        return KINDS[self.kind][1] and not self.triggered

    @property
    def is_priced(self) -> bool:
        """Tell whether it has a limit price."""
        return KINDS[self.kind][0]


def txid(letter: str, number_: int) -> str:
    """Return the id of the n-th order (``O``), trade (``T``) or ledger entry (``L``)."""
    mixed = number_ * _MIX % (1 << _BITS)
    text = "".join(_LETTERS[mixed >> 5 * at & 31] for at in range(_DIGITS))
    return f"{letter}{text[:5]}-{text[5:10]}-{text[10:]}"


def number_of(name: str, letter: str) -> int:
    """Return what number an id has, 0 for what is none."""
    text = name[1:].replace("-", "")
    if name[:1] != letter or len(text) != _DIGITS or set(text) - set(_LETTERS):
        return 0
    mixed = sum(_LETTERS.index(char) << 5 * at for at, char in enumerate(text))
    return mixed * _UNMIX % (1 << _BITS)


def shown_id(cl_ord_id: str) -> str:
    """Return a cl_ord_id as it is told; a test may have it told in another of its forms."""
    return cl_ord_id


def number(value: Decimal) -> msgspec.Raw:
    """Return a JSON number with every digit."""
    return msgspec.Raw(f"{value:f}".encode())


def _size(value: Decimal) -> str:
    return f"{value:.{SIZE_DIGITS}f}"


def _money(value: Decimal) -> str:
    return f"{value:.5f}"


def _side(order: KrakenOrder) -> str:
    return "buy" if order.side == BUY else "sell"


# -- REST ----------------------------------------------------------------------------------------
def described(order: KrakenOrder, listing: Listing) -> str:
    """Return an order in the venue's words."""
    prices = ""
    if order.kind == "trailing-stop":
        prices = f" +{order.trail:f}{'%' if order.trail_pct else ''}"
    elif order.waits or order.triggered:
        prices = f" {order.stop:f}" + (f" -> limit {order.price:f}" if order.price else "")
    elif order.price:
        prices = f" {order.price:f}"
    return f"{_side(order)} {_size(order.size)} {listing.altname} @ {order.kind}{prices}"


def order_row(order: KrakenOrder, listing: Listing, *, trades: bool) -> dict[str, Any]:
    """Return an order as OpenOrders, ClosedOrders and QueryOrders show it."""
    waits = KINDS[order.kind][1]
    # Of one whose trigger was met, and that has a limit, this stands where the trigger stood.
    second = waits and not (order.triggered and order.is_priced)
    first = order.stop if second else order.price
    row: dict[str, Any] = {
        "refid": None, "userref": order.userref or None,
        "status": _REST_STATUS[order.status], "opentm": order.made_ms / 1000, "starttm": 0,
        "expiretm": order.expire_ms / 1000 if order.expire_ms else 0,
        "descr": {
            "pair": listing.altname, "type": _side(order), "ordertype": order.kind,
            "price": f"+{order.trail:f}" if order.trail else f"{first:f}",
            "price2": f"{order.price:f}" if second else "0", "leverage": "none",
            "order": described(order, listing), "close": "",
        },
        "vol": _size(order.size), "vol_exec": _size(order.filled), "cost": _money(order.worth),
        "fee": _money(order.fee),
        "price": f"{order.worth / order.filled if order.filled else ZERO:.{listing.digits}f}",
        "stopprice": f"{order.stop:f}" if waits else "0.00000", "limitprice": "0.00000",
        "misc": "amended" if order.amended_ms else "",
        "oflags": "post,fciq" if order.post_only else "fciq",
        "timeinforce": order.tif,
    }  # fmt: skip
    if order.cl_ord_id:
        row["cl_ord_id"] = shown_id(order.cl_ord_id)
    if waits:
        row["trigger"] = order.reference
    if order.status in _CLOSED:
        row |= {"closetm": order.changed_ms / 1000, "reason": order.reason or None}
    if trades and order.trades:
        row["trades"] = list(order.trades)
    return row


def consolidated(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two fills of a taker's order as one."""
    sums = {name: Decimal(one[name]) + Decimal(other[name]) for name in ("cost", "fee", "vol")}
    return {
        **one, "cost": _money(sums["cost"]), "fee": _money(sums["fee"]),
        "vol": _size(sums["vol"]), "price": f"{sums['cost'] / sums['vol']:f}",
    }  # fmt: skip


def fill_row(
    order: KrakenOrder, listing: Listing, fill: OwnFill, fee: Decimal, name: str
) -> dict[str, Any]:
    """Return a fill as TradesHistory shows it, with its own id as ``id``."""
    return {
        "id": name, "ordertxid": order.txid, "postxid": txid("T", order.number),
        "pair": listing.pair_id, "time": fill.time_ms / 1000, "type": _side(order),
        "ordertype": order.kind, "price": f"{fill.price:f}",
        "cost": _money(fill.price * fill.size), "fee": _money(fee), "vol": _size(fill.size),
        "margin": "0.00000", "leverage": "0", "misc": "", "trade_id": fill.number,
        "maker": fill.maker,
    }  # fmt: skip


# -- websocket v2 --------------------------------------------------------------------------------
def report(
    order: KrakenOrder, what: str, *, whole: bool = False, fill: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an execution report: of a fill, of all there is to say, or of what has changed."""
    said: dict[str, Any] = {
        "order_id": order.txid, "exec_type": what,
        "order_status": "pending_new" if what == "pending_new" else order.status.lower(),
        "timestamp": stamp(order.changed_ms * NS // 1000),
    }  # fmt: skip
    if order.cl_ord_id:
        said["cl_ord_id"] = shown_id(order.cl_ord_id)
    if order.userref:
        said["order_userref"] = order.userref
    if whole:
        said |= _whole(order)
    if whole or what not in ("pending_new", "new"):
        average = order.worth / order.filled if order.filled else ZERO
        said |= {
            "cum_qty": number(order.filled), "cum_cost": number(order.worth),
            "avg_price": number(round(average, 8)), "fee_usd_equiv": number(order.fee),
        }  # fmt: skip
    if what == "amended":
        said |= {"order_qty": number(order.size), "amended": True}
        if order.price:
            said |= {"limit_price": number(order.price), "limit_price_type": "static"}
    if order.reason and what in ("canceled", "expired", "amended"):
        said |= {"reason": order.reason, "cancel_reason": order.reason}
    if fill is not None:
        said |= _traded(order, fill)
    return said


def _whole(order: KrakenOrder) -> dict[str, Any]:
    said: dict[str, Any] = {
        "symbol": order.market, "side": _side(order), "order_type": order.kind,
        "order_qty": number(order.size), "time_in_force": order.tif, "fee_ccy_pref": "fciq",
        "post_only": order.post_only,
    }  # fmt: skip
    if order.price:
        said |= {"limit_price": number(order.price), "limit_price_type": "static"}
    if order.expire_ms:
        said["expire_time"] = stamp(order.expire_ms * NS // 1000)
    if KINDS[order.kind][1]:
        unit = "pct" if order.trail_pct else "quote" if order.trail else "static"
        said["triggers"] = {
            "reference": order.reference, "price": number(order.trail or order.stop),
            "price_type": unit, "actual_price": number(order.stop),
            "status": "untriggered" if order.waits else "triggered",
        }  # fmt: skip
    return said


def _traded(order: KrakenOrder, fill: dict[str, Any]) -> dict[str, Any]:
    return {
        "exec_id": fill["id"], "trade_id": fill["trade_id"], "symbol": order.market,
        "side": fill["type"], "order_type": order.kind,
        "last_qty": number(Decimal(fill["vol"])), "last_price": number(Decimal(fill["price"])),
        "cost": number(Decimal(fill["cost"])), "liquidity_ind": "m" if fill["maker"] else "t",
        "fees": [{"asset": order.market.partition("/")[2], "qty": number(Decimal(fill["fee"]))}],
    }  # fmt: skip


def ledger_rows(
    account: Account, assets: list[tuple[str, Decimal, Decimal]], first: int, ref: str, at_ms: int
) -> list[dict[str, Any]]:
    """Return the balance updates of a fill: (asset, amount, fee) each."""
    rows, when = [], stamp(at_ms * NS // 1000)
    for at, (asset, amount, fee) in enumerate(assets):
        holding = account.purse.of(asset)
        rows.append({
            "ledger_id": txid("L", first + at), "ref_id": ref, "timestamp": when,
            "type": "trade", "asset": asset, "asset_class": "currency", "category": "trade",
            "wallet_type": "spot", "wallet_id": "main", "amount": number(amount),
            "fee": number(fee), "balance": number(holding.free + holding.locked),
        })  # fmt: skip
    return rows


def allocation_rows(
    account: Account, asset: str, amount: Decimal, earn: Decimal, first: int, at_ms: int
) -> list[dict[str, Any]]:
    """Return the balance updates of money that goes from the spot wallet to Earn's."""
    holding = account.purse.of(asset)
    wallets = [("spot", "main", -amount, holding.free + holding.locked),
               ("earn", "flex", amount, earn)]  # fmt: skip
    ref, when = txid("L", first), stamp(at_ms * NS // 1000)
    return [
        {
            "ledger_id": txid("L", first + at), "ref_id": ref, "timestamp": when, "type": "earn",
            "asset": asset, "asset_class": "currency", "category": "earn-allocation",
            "wallet_type": kind, "wallet_id": name, "amount": number(moved), "fee": number(ZERO),
            "balance": number(balance),
        }
        for at, (kind, name, moved, balance) in enumerate(wallets)
    ]  # fmt: skip
