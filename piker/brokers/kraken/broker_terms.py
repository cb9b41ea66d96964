"""Orders in Kraken's words: what add_order and amend_order are sent, and what an order's row says.

Pure. What Kraken does not do is refused here in words, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from piker.brokers.kraken.api import Listing
from piker.brokers.kraken.broker_ids import cl_ord_id_of, client_id_of
from piker.brokers.kraken.broker_schema import MOST, OrderRow, Report
from piker.brokers.signing import text_of
from piker.clock import NS
from piker.errors import Rejected
from piker.orders import Action, BrokerdOrder, OrderKind, TimeInForce, TriggerBy

__all__ = [
    "FEES",
    "ORDERS",
    "Markets",
    "add_params",
    "amend_params",
    "has_terms",
    "order_of_report",
    "order_of_row",
    "stamp",
]

ZERO = Decimal(0)
DAY_NS = 86_400 * NS
FAR_S = 2**33  # the year 2242: no order stands as long
_KINDS = {
    OrderKind.MARKET: "market",
    OrderKind.LIMIT: "limit",
    OrderKind.STOP: "stop-loss",
    OrderKind.STOP_LIMIT: "stop-loss-limit",
    OrderKind.TAKE_PROFIT: "take-profit",
    OrderKind.TAKE_PROFIT_LIMIT: "take-profit-limit",
    OrderKind.TRAILING_STOP: "trailing-stop",
}
_THEIR_KINDS = {theirs: ours for ours, theirs in _KINDS.items()}
_LIMITED = (OrderKind.LIMIT, OrderKind.STOP_LIMIT, OrderKind.TAKE_PROFIT_LIMIT)
_WAITING = frozenset(_KINDS) - {OrderKind.MARKET, OrderKind.LIMIT}
#: What the venue does itself, of spot. Its reduce_only is for margin, which is not traded here.
ORDERS = (
    *(str(kind) for kind in _KINDS), *(str(tif) for tif in TimeInForce), "post_only", "edit",
    "cancel_after",
)  # fmt: skip
FEES = {"spot": ("0.0025", "0.004")}  # its first tier (AssetPairs, fees_maker and fees)


class Markets:
    """The venue's markets by each of their names."""

    def __init__(self, listings: Iterable[Listing]) -> None:
        self._by_name: dict[str, Listing] = {}
        self.learn(listings)

    def learn(self, listings: Iterable[Listing]) -> None:
        """Take markets in, new ones among them."""
        for one in listings:
            for name in (one.market.mktid, one.wire, one.altname, one.pair_id):
                self._by_name[name] = one

    def find(self, name: str) -> Listing | None:
        """Return a market by any name, or None."""
        return self._by_name.get(name)

    def symbol(self, name: str) -> str:
        """Return the id that emsd knows a market by; of a strange one a likely one."""
        found = self._by_name.get(name)
        return found.market.mktid if found else f"{name.replace('/', '').lower()}.spot"

    def quote_of(self, name: str) -> str:
        """Return the asset that fees of a market are reckoned in."""
        found = self._by_name.get(name)
        return found.market.src.name if found else ""


def stamp(ns: int) -> str:
    """Return RFC 3339 with milliseconds."""
    moment = datetime.fromtimestamp(ns // NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % NS // 1_000_000:03d}Z"


def _number(value: Decimal) -> msgspec.Raw:
    return msgspec.Raw(text_of(value).encode())


def _refused(what: str) -> Rejected:
    return Rejected(f"kraken: {what}; nothing was sent.")


# -- what is sent --------------------------------------------------------------------------------
def add_params(order: BrokerdOrder, listing: Listing, now_ns: int) -> dict[str, Any]:
    """Return the ``params`` of add_order, without token and deadline; raise ``Rejected``."""
    _check(order)
    params: dict[str, Any] = {
        "order_type": _KINDS[order.kind],
        "side": str(order.action),
        "symbol": listing.wire,
        "order_qty": _number(order.size),
        "cl_ord_id": cl_ord_id_of(order.client_id),
        "fee_preference": "quote",  # or a sale's would be taken in what is sold
    }
    if order.kind in _LIMITED and order.price is not None:
        params["limit_price"] = _number(order.price)
    if order.kind in _WAITING:
        params["triggers"] = _triggers(order)
    if order.post_only:
        params["post_only"] = True
    expires = _expiry_ns(order, now_ns)
    if expires:
        params |= {"time_in_force": "gtd", "expire_time": stamp(expires)}
    elif order.kind is not OrderKind.MARKET or order.tif is not TimeInForce.GTC:
        params["time_in_force"] = str(order.tif)
    return params


def _check(order: BrokerdOrder) -> None:
    if order.action is Action.ALERT:
        raise _refused("an alert is no order")
    if order.reduce_only:
        raise _refused("reduce-only is for margin positions, which are not traded here")
    if order.kind in _LIMITED and order.price is None:
        raise _refused(f"a {order.kind} order needs a price")
    if order.kind in _WAITING:
        distance = order.trail if order.kind is OrderKind.TRAILING_STOP else order.trigger
        if distance is None:
            raise _refused(f"a {order.kind} order needs what it waits for")
        if order.trigger_by is not TriggerBy.LAST:
            raise _refused("orders wait for the last price (or an index), not for another")
        if order.tif in (TimeInForce.IOC, TimeInForce.FOK):
            raise _refused(f"a {order.kind} order can not be {order.tif}")
    if order.post_only and order.kind is not OrderKind.LIMIT:
        raise _refused("only limit orders are post-only")


def _triggers(order: BrokerdOrder) -> dict[str, Any]:
    if order.kind is OrderKind.TRAILING_STOP:
        assert order.trail is not None
        return {"reference": "last", "price": _number(order.trail), "price_type": "quote"}
    assert order.trigger is not None
    return {"reference": "last", "price": _number(order.trigger), "price_type": "static"}


def _expiry_ns(order: BrokerdOrder, now_ns: int) -> int:
    """Return when an order ends; a day's at midnight UTC, 0 where it stands until canceled."""
    if order.tif is TimeInForce.DAY:
        return (now_ns // DAY_NS + 1) * DAY_NS
    if order.tif is TimeInForce.GTD:
        if order.expire_ns is None:
            raise _refused("a good-till-date order needs its date")
        return order.expire_ns
    return 0


def amend_params(edit: BrokerdOrder, before: BrokerdOrder | None, txid: str) -> dict[str, Any]:
    """Return the ``params`` of amend_order; raise ``Rejected`` for what can not be amended."""
    _check(edit)
    if before is not None:
        for name in ("action", "kind", "tif", "expire_ns", "post_only", "symbol"):
            if getattr(edit, name) != getattr(before, name):
                raise _refused(f"an order's {name} can not be amended")
    named = {"order_id": txid} if txid else {"cl_ord_id": cl_ord_id_of(edit.client_id)}
    params: dict[str, Any] = {**named, "order_qty": _number(edit.size)}
    if edit.kind in _LIMITED and edit.price is not None:
        params["limit_price"] = _number(edit.price)
        if edit.post_only:
            params["post_only"] = True  # holds for one amendment; unsent, this one may take
    if edit.kind in _WAITING and (before is None or _waits_for(before) != _waits_for(edit)):
        rules = _triggers(edit)
        params |= {"trigger_price": rules["price"], "trigger_price_type": rules["price_type"]}
    return params


def _waits_for(order: BrokerdOrder) -> Decimal | None:
    return order.trail if order.kind is OrderKind.TRAILING_STOP else order.trigger


def has_terms(venue: BrokerdOrder, wanted: BrokerdOrder) -> bool:
    """Tell whether the venue has an order as an edit wanted it."""
    if venue.size != wanted.size:
        return False
    if wanted.kind in _LIMITED and venue.price != wanted.price:
        return False
    return wanted.kind not in _WAITING or _waits_for(venue) == _waits_for(wanted)


# -- what the venue says -------------------------------------------------------------------------
def _decimal(text: str) -> Decimal | None:
    """Return a price of a row, None where there is none: a text may have a sign before it."""
    try:
        value = Decimal(text.lstrip("+-").rstrip("%"))
    except ArithmeticError:
        return None
    return value if value.is_finite() and 0 < value < MOST else None


def order_of_row(txid: str, row: OrderRow, account: str, markets: Markets) -> BrokerdOrder | None:
    """Return an order as REST tells it; None of a kind that we have no word for.

    Of one whose trigger was met, and that has a limit, no trigger is told any more.
    """
    kind = _THEIR_KINDS.get(row.descr.ordertype)
    if kind is None or row.descr.type not in ("buy", "sell"):
        return None
    first, second = _decimal(row.descr.price), _decimal(row.descr.price2)
    waits, trails = kind in _WAITING, kind is OrderKind.TRAILING_STOP
    if waits and kind in _LIMITED and second is None:  # once its trigger is met, its limit is first
        first, second = None, first
    expires = _decimal(str(row.expiretm))
    if expires is not None and expires > FAR_S:
        expires = None
    return BrokerdOrder(
        oid="", client_id=client_id_of(row.cl_ord_id or ""), account=account, time_ns=0,
        symbol=markets.symbol(row.descr.pair), action=Action(row.descr.type), size=row.vol,
        kind=kind, price=(second if waits else first) if kind in _LIMITED else None,
        trigger=first if waits and not trails else None, trail=first if trails else None,
        tif=_tif_of(row.timeinforce, expires is not None),
        expire_ns=int(expires * NS) if expires else None,
        post_only="post" in (row.oflags or "").split(","), reqid=txid,
    )  # fmt: skip


def order_of_report(
    report: Report, account: str, markets: Markets, expire_ns: int | None
) -> BrokerdOrder | None:
    """Return an order as a whole report tells it; None of a part of one, or of a strange kind."""
    kind = _THEIR_KINDS.get(report.order_type or "")
    if kind is None or report.side not in ("buy", "sell") or not report.symbol:
        return None
    if report.order_qty is None:
        return None
    at = report.triggers.price if report.triggers is not None else None
    trails = kind is OrderKind.TRAILING_STOP
    return BrokerdOrder(
        oid="", client_id=client_id_of(report.cl_ord_id or ""), account=account, time_ns=0,
        symbol=markets.symbol(report.symbol), action=Action(report.side), size=report.order_qty,
        kind=kind, price=report.limit_price if kind in _LIMITED else None,
        trigger=at if kind in _WAITING and not trails else None, trail=at if trails else None,
        tif=_tif_of(report.time_in_force, expire_ns is not None), expire_ns=expire_ns,
        post_only=bool(report.post_only), reqid=report.order_id,
    )  # fmt: skip


def _tif_of(text: str | None, expires: bool) -> TimeInForce:
    try:
        return TimeInForce((text or ("gtd" if expires else "gtc")).lower())
    except ValueError:
        return TimeInForce.GTC
