"""Private REST of the loopback Kraken: what each call does. Bodies are JSON; errors are 200s."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from piker.testing import kraken_account_wire as wire
from piker.testing.accounts import Account
from piker.testing.kraken_account_auth import RIGHTS, TOKEN_S, Keys
from piker.testing.kraken_account_desk import Change, KrakenDesk
from piker.testing.kraken_account_params import Fields, Refusal, rest_terms
from piker.testing.kraken_account_wire import KrakenOrder

__all__ = ["CALLS", "Ask", "Call", "asset_ids", "countdown"]

PAGE = 50  # rows of an answer
_OLD_NAMES = {"BTC": "XBT", "DOGE": "XDG"}
MAX_IDS = {"QueryOrders": 50, "QueryTrades": 20}


class Ask(NamedTuple):
    """One call: who asks for what. ``timers`` are the cancel-afters, by account: (end ms)."""

    desk: KrakenDesk
    keys: Keys
    account: Account
    fields: Fields
    now_ms: int
    timers: dict[str, int]

    def named(self) -> str:
        """Return which order is meant, by txid or cl_ord_id."""
        return self.fields.word("txid") or self.fields.needed("cl_ord_id")


class Call(NamedTuple):
    """A call, and the permission that it takes."""

    run: Callable[[Ask], Any]  # Any: a JSON body
    right: str = "read"


def asset_ids(desk: KrakenDesk) -> dict[str, str]:
    """Return REST's ids of assets by the names of websocket v2."""
    found = {"USD": "ZUSD"}
    for listing in desk.listings():
        found[listing.wire.partition("/")[0]] = listing.base
    return found


def countdown(timers: dict[str, int], name: str, timeout_s: int, now_ms: int) -> dict[str, str]:
    """Start or stop an account's dead man's switch; return the answer."""
    if not 0 <= timeout_s <= 86_400:
        raise Refusal("EGeneral:Invalid arguments:timeout")
    timers.pop(name, None)
    if timeout_s:
        timers[name] = now_ms + 1000 * timeout_s
    end_ms = timers.get(name)
    return {
        "currentTime": _seconds(now_ms),
        "triggerTime": "0" if end_ms is None else _seconds(end_ms),
    }


def _seconds(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


# -- who and what --------------------------------------------------------------------------------
def _token(ask: Ask) -> Any:
    return {"token": ask.keys.make_token(ask.account.spec), "expires": round(TOKEN_S)}


def _key_info(ask: Ask) -> Any:
    rights = [word for right in RIGHTS for word in RIGHTS[right] if _may(ask, right)]
    return {
        "api_key_name": ask.account.spec.name, "api_key": ask.account.spec.key,
        "nonce": ask.fields.word("nonce"), "nonce_window": "0", "permissions": rights, "iban": "",
        "valid_until": "0", "query_from": "0", "query_to": "0", "created_time": "1698645219",
        "modified_time": "1698645219", "ip_allowlist": [], "last_used": str(ask.now_ms // 1000),
    }  # fmt: skip


def _may(ask: Ask, right: str) -> bool:
    return right in ask.account.spec.permissions


def _balance(ask: Ask) -> Any:
    ids = asset_ids(ask.desk)
    found = {
        ids.get(name, name): f"{holding.free + holding.locked:.10f}"
        for name, holding in ask.account.purse.assets.items()
    }
    return found | {name: f"{amount:.10f}" for name, amount in _earning(ask)}


def _earning(ask: Ask) -> list[tuple[str, Decimal]]:
    """Return what is in Earn, by the names that REST has for it."""
    mine = [(name, amount) for (whose, name), amount in ask.desk.earn.items()
            if whose == ask.account.spec.name]  # fmt: skip
    return [(f"{_OLD_NAMES.get(name, name)}.F", amount) for name, amount in mine]


def _balance_ex(ask: Ask) -> Any:
    ids = asset_ids(ask.desk)
    found = {
        ids.get(name, name): {
            "balance": f"{holding.free + holding.locked:.10f}",
            "hold_trade": f"{holding.locked:.10f}",
        }
        for name, holding in ask.account.purse.assets.items()
    }
    none = f"{0:.10f}"
    return found | {
        name: {"balance": f"{amount:.10f}", "hold_trade": none} for name, amount in _earning(ask)
    }


# -- orders and trades ---------------------------------------------------------------------------
def _orders(ask: Ask) -> list[KrakenOrder]:
    """Return the account's orders that the filters let through, newest first."""
    userref, own = ask.fields.whole("userref"), ask.fields.word("cl_ord_id")
    return [
        order for order in reversed(ask.account.orders.values())
        if isinstance(order, KrakenOrder) and userref in (0, order.userref)
        and own in ("", order.cl_ord_id)
    ]  # fmt: skip


def _rows(ask: Ask, orders: list[KrakenOrder]) -> dict[str, Any]:
    trades = ask.fields.flag("trades")
    heads = _heads(ask) if trades else {}
    rows = {}
    for order in orders:
        row = wire.order_row(order, ask.desk.listing_of(order.market), trades=trades)
        if "trades" in row:
            row["trades"] = list(dict.fromkeys(heads.get(name, name) for name in row["trades"]))
        rows[order.txid] = row
    return rows


def _heads(ask: Ask) -> dict[str, str]:
    """Return of each fill the id under which it is shown: of a taker's at one moment the first's.

    Each has its own where the call says so, as all but OpenOrders can.
    """
    said = ask.fields.choice("consolidate_taker", ("true", "false", "True", "False"), "true")
    is_each = said.lower() == "false"
    first: dict[tuple[str, float], str] = {}
    heads = {}
    for row in ask.account.fills:
        name, key = row["id"], (row["ordertxid"], row["time"])
        heads[name] = name if is_each or row["maker"] else first.setdefault(key, name)
    return heads


def _open(ask: Ask) -> Any:
    return {"open": _rows(ask, [order for order in _orders(ask) if order.is_open])}


def _closed(ask: Ask) -> Any:
    first_ms, last_ms = _span(ask)
    found = [
        order for order in _orders(ask)
        if not order.is_open and first_ms < order.changed_ms <= last_ms
    ]  # fmt: skip
    at = ask.fields.whole("ofs")
    return {"closed": _rows(ask, found[at : at + PAGE]), "count": len(found)}


def _span(ask: Ask) -> tuple[Decimal, Decimal]:
    start, end = ask.fields.decimal("start"), ask.fields.decimal("end")
    return start * 1000, end * 1000 or Decimal(10**15)


def _ids(ask: Ask, call: str) -> list[str]:
    names = ask.fields.names("txid")
    if not names or len(names) > MAX_IDS[call]:
        raise Refusal("EGeneral:Invalid arguments:txid")
    return names


def _query_orders(ask: Ask) -> Any:
    found = []
    for name in _ids(ask, "QueryOrders"):
        if not (number := wire.number_of(name, "O")):
            raise Refusal("EOrder:Invalid order")
        order = ask.account.orders.get(number)
        if isinstance(order, KrakenOrder):
            found.append(order)
    return _rows(ask, found)


def _fills(ask: Ask) -> dict[str, dict[str, Any]]:
    return {row["id"]: {k: v for k, v in row.items() if k != "id"} for row in ask.account.fills}


def _shown(ask: Ask) -> dict[str, dict[str, Any]]:
    """Return the fills as TradesHistory shows them: what is consolidated is one."""
    found: dict[str, dict[str, Any]] = {}
    heads = _heads(ask)
    for name, row in _fills(ask).items():
        head = heads[name]
        known = found.get(head)
        found[head] = row if known is None else wire.consolidated(known, row)
    return found


def _trades(ask: Ask) -> Any:
    first_ms, last_ms = _span(ask)
    found = [
        (name, row) for name, row in reversed(_shown(ask).items())
        if first_ms < Decimal(str(row["time"])) * 1000 <= last_ms
    ]  # fmt: skip
    at = ask.fields.whole("ofs")
    return {"trades": dict(found[at : at + PAGE]), "count": len(found)}


def _query_trades(ask: Ask) -> Any:
    fills = _fills(ask)
    return {name: fills[name] for name in _ids(ask, "QueryTrades") if name in fills}


# -- trading -------------------------------------------------------------------------------------
def _add(ask: Ask) -> Any:
    order = ask.desk.place(ask.account, rest_terms(ask.fields, ask.now_ms), ask.now_ms)
    said: dict[str, Any] = {
        "descr": {"order": wire.described(order, ask.desk.listing_of(order.market))}
    }
    return said if ask.fields.flag("validate") else said | {"txid": [order.txid]}


def _change(ask: Ask, size: str, price: str, trigger: str) -> Change:
    fields = ask.fields
    return Change(
        size=fields.decimal(size), price=fields.decimal(price), trigger=fields.decimal(trigger),
        post_only=fields.flag("post_only") or "post" in fields.names("oflags"),
        deadline_ms=fields.moment_ms("deadline"),
    )  # fmt: skip


def _amend(ask: Ask) -> Any:
    change = _change(ask, "order_qty", "limit_price", "trigger_price")
    order = ask.desk.amend(ask.account, ask.named(), change, ask.now_ms)
    return {"amend_id": wire.txid("A", order.number)}


def _edit(ask: Ask) -> Any:
    old = ask.desk.found(ask.account, ask.named())
    waits = old.waits
    change = _change(ask, "volume", "price2" if waits else "price", "price" if waits else "")
    order = ask.desk.edit(ask.account, old.txid, change, ask.now_ms)
    listing = ask.desk.listing_of(order.market)
    return {
        "status": "ok", "txid": order.txid, "originaltxid": old.txid, "orders_cancelled": 1,
        "volume": f"{order.size:f}", "price": f"{order.price:f}", "price2": "",
        "descr": {"order": wire.described(order, listing)},
    }  # fmt: skip


def _cancel(ask: Ask) -> Any:
    name = ask.named()
    if name.lstrip("-").isdecimal() and len(name) < 11:  # a userref: all orders that have it
        orders = [o for o in ask.desk.open_orders(ask.account) if o.userref == int(name)]
        for order in orders:
            ask.desk.cancel(ask.account, order.txid, ask.now_ms)
        if not orders:
            raise Refusal("EOrder:Unknown order")
        return {"count": len(orders)}
    ask.desk.cancel(ask.account, name, ask.now_ms)
    return {"count": 1}


def _cancel_all(ask: Ask) -> Any:
    return {"count": ask.desk.cancel_all(ask.account, ask.now_ms)}


def _cancel_after(ask: Ask) -> Any:
    timeout_s = int(ask.fields.decimal("timeout", text=ask.fields.needed("timeout")))
    return countdown(ask.timers, ask.account.spec.name, timeout_s, ask.now_ms)


#: By the name below /0/private/.
CALLS = {
    "GetWebSocketsToken": Call(_token),
    "GetApiKeyInfo": Call(_key_info),
    "Balance": Call(_balance),
    "BalanceEx": Call(_balance_ex),
    "OpenOrders": Call(_open),
    "ClosedOrders": Call(_closed),
    "QueryOrders": Call(_query_orders),
    "TradesHistory": Call(_trades),
    "QueryTrades": Call(_query_trades),
    "AddOrder": Call(_add, "spot"),
    "AmendOrder": Call(_amend, "spot"),
    "EditOrder": Call(_edit, "spot"),
    "CancelOrder": Call(_cancel, "spot"),
    "CancelAll": Call(_cancel_all, "spot"),
    "CancelAllOrdersAfter": Call(_cancel_after, "spot"),
}
