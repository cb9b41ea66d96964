"""Private websocket v2 of the loopback Kraken: orders by message, executions and balances.

Answers are sent as the stream ``answer METHOD``, events as ``executions`` and ``balances``: that is
what the ``match`` of a fault sees besides their text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from piker.clock import wall_ns
from piker.testing import kraken_account_wire as wire
from piker.testing.accounts import Account, AccountSpec
from piker.testing.kraken_account_auth import Keys
from piker.testing.kraken_account_desk import Change, KrakenDesk
from piker.testing.kraken_account_params import (
    Fields,
    Refusal,
    fields_of_params,
    invalid,
    socket_terms,
)
from piker.testing.kraken_account_rest import countdown
from piker.testing.kraken_account_wire import KrakenOrder
from piker.testing.kraken_wire import stamp
from piker.testing.server import Client

__all__ = ["METHODS", "PrivateSocket"]

CHANNELS = ("executions", "balances")
METHODS = ("add_order", "amend_order", "edit_order", "cancel_order", "cancel_all",
           "cancel_all_orders_after", "batch_add")  # fmt: skip
SNAP_TRADES = 50  # of a snapshot
BATCH = (2, 15)  # orders of a batch
_encode = msgspec.json.encode
Told = dict[str, Any]  # JSON


class _Ask(msgspec.Struct):
    method: str = ""
    params: dict[str, msgspec.Raw] = {}
    req_id: int | None = None


class _Subscription:
    """One channel of one connection, with the number of its last message."""

    def __init__(self, client: Client, account: Account, channel: str, token: str) -> None:
        self.client, self.account, self.channel, self.token = client, account, channel, token
        self.sequence = 0

    def hear(self, event: Told) -> None:
        """Send an event of the account, if it is this channel's."""
        if event["channel"] == self.channel:
            self.send("update", event["data"])

    def send(self, kind: str, data: list[Told]) -> None:
        """Send rows under the next number."""
        self.sequence += 1
        body = {"channel": self.channel, "type": kind, "data": data, "sequence": self.sequence}
        self.client.send(_encode(body), self.channel)


class PrivateSocket:
    """The private side of the venue's connections."""

    def __init__(
        self,
        keys: Keys,
        desk: KrakenDesk,
        timers: dict[str, int],
        refused: Callable[[Refusal], str],
    ) -> None:
        self._keys, self._desk, self._timers, self._refused = keys, desk, timers, refused
        self._open: dict[Client, dict[str, _Subscription]] = {}

    def gone(self, client: Client) -> None:
        """Forget a connection."""
        for channel in list(self._open.get(client, ())):
            self._end(client, channel)
        self._open.pop(client, None)

    def _end(self, client: Client, channel: str) -> None:
        one = self._open[client].pop(channel)
        one.account.listeners.remove(one.hear)
        self._keys.let_go(one.token)

    def text(self, client: Client, message: str) -> bool:
        """Do what a request says; return whether it was one for this side."""
        try:
            ask = msgspec.json.decode(message, type=_Ask)
            fields = fields_of_params(ask.params)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        is_channel = fields.word("channel") in CHANNELS
        if ask.method not in METHODS and not is_channel:
            return False
        answer = self._channel if is_channel else self._deed
        try:
            answer(client, ask, fields)
        except Refusal as refusal:
            self._answer(client, ask, {"success": False, "error": self._refused(refusal)})
        return True

    def _answer(self, client: Client, ask: _Ask, said: Told) -> None:
        now = stamp(wall_ns())
        number = {} if ask.req_id is None else {"req_id": ask.req_id}
        body = {"method": ask.method, **said, "time_in": now, "time_out": now, **number}
        client.send(_encode(body), f"answer {ask.method}")

    def _who(self, fields: Fields, right: str) -> AccountSpec:
        if "token" not in fields:
            raise invalid("token")
        spec = self._keys.of_token(fields.word("token"))
        self._keys.permit(spec, right)
        return spec

    # -- channels ------------------------------------------------------------------------------
    def _channel(self, client: Client, ask: _Ask, fields: Fields) -> None:
        channel = fields.word("channel")
        account = self._desk.accounts[self._who(fields, "read").name]
        mine = self._open.setdefault(client, {})
        if ask.method not in ("subscribe", "unsubscribe"):
            raise Refusal("Unsupported method")
        if (channel in mine) == (ask.method == "subscribe"):
            raise Refusal(
                "Already subscribed" if channel in mine else "Subscription Not Found"
            )  # fmt: skip
        if ask.method == "unsubscribe":
            self._end(client, channel)
            self._answer(client, ask, {"success": True, "result": {"channel": channel}})
            return
        one = _Subscription(client, account, channel, fields.word("token"))
        result: Told = {"channel": channel, "snapshot": True}
        if channel == "executions":
            orders = fields.word("snap_orders", "true") == "true"
            trades = fields.flag("snap_trades")
            result = {"channel": channel, "maxratecount": self._desk.tier, "snap_orders": orders,
                      "snap_trades": trades}  # fmt: skip
            rows = self._executions(account, orders=orders, trades=trades)
        else:
            rows = self._balances(account)
        self._answer(client, ask, {"success": True, "result": result})
        if channel == "executions" or fields.word("snapshot", "true") == "true":
            one.send("snapshot", rows)
        mine[channel] = one
        account.listeners.append(one.hear)
        self._keys.hold(one.token)
        client.streams.add(f"{channel}:|")  # who has one hears heartbeats

    def _executions(self, account: Account, *, orders: bool, trades: bool) -> list[Told]:
        rows = []
        if orders:
            for order in self._desk.open_orders(account):
                what = "status" if order.triggered else "new"
                rows.append(wire.report(order, what, whole=True) | self._sums(order))
        if trades:
            for row in account.fills[-SNAP_TRADES:]:
                of = account.orders[wire.number_of(row["ordertxid"], "O")]
                assert isinstance(of, KrakenOrder)
                rows.append(wire.report(of, "trade", fill=row))
        return rows

    @staticmethod
    def _sums(order: KrakenOrder) -> Told:
        return {"cum_qty": wire.number(order.filled), "cum_cost": wire.number(order.worth)}

    def _balances(self, account: Account) -> list[Told]:
        rows = []
        for name, one in sorted(account.purse.assets.items()):
            spot, earn = one.free + one.locked, self._desk.earn.get((account.spec.name, name))
            wallets = [{"type": "spot", "id": "main", "balance": wire.number(spot)}]
            if earn:
                wallets.append({"type": "earn", "id": "flex", "balance": wire.number(earn)})
            total = wire.number(spot + (earn or 0))
            rows.append({
                "asset": name, "asset_class": "currency", "balance": total, "wallets": wallets,
            })  # fmt: skip
        return rows

    # -- deeds ---------------------------------------------------------------------------------
    def _deed(self, client: Client, ask: _Ask, fields: Fields) -> None:
        account = self._desk.accounts[self._who(fields, "spot").name]
        now_ms = wall_ns() // 1_000_000
        if ask.method == "cancel_order":
            self._cancel(client, ask, fields, account, now_ms)
            return
        result: Any
        if ask.method == "add_order":
            result = self._add(account, fields, now_ms)
        elif ask.method == "amend_order":
            result = self._amend(account, fields, now_ms)
        elif ask.method == "edit_order":
            result = self._edit(account, fields, now_ms)
        elif ask.method == "cancel_all":
            result = {"count": self._desk.cancel_all(account, now_ms)}
        elif ask.method == "batch_add":
            result = self._batch(account, ask, fields, now_ms)
        else:
            timeout_s = fields.whole("timeout", -1)
            result = countdown(self._timers, account.spec.name, timeout_s, now_ms)
        self._answer(client, ask, {"success": True, "result": result})

    @staticmethod
    def _names(order: KrakenOrder) -> Told:
        more: Told = {"cl_ord_id": wire.shown_id(order.cl_ord_id)} if order.cl_ord_id else {}
        if order.userref:
            more["order_userref"] = order.userref
        return {"order_id": order.txid, **more}

    def _add(self, account: Account, fields: Fields, now_ms: int) -> Told:
        return self._names(self._desk.place(account, socket_terms(fields, now_ms), now_ms))

    @staticmethod
    def _named(fields: Fields) -> str:
        return fields.word("order_id") or fields.needed("cl_ord_id")

    @staticmethod
    def _change(fields: Fields) -> Change:
        return Change(
            size=fields.decimal("order_qty"), price=fields.decimal("limit_price"),
            trigger=fields.decimal("trigger_price"), post_only=fields.flag("post_only"),
            deadline_ms=fields.moment_ms("deadline"),
        )  # fmt: skip

    def _amend(self, account: Account, fields: Fields, now_ms: int) -> Told:
        order = self._desk.amend(account, self._named(fields), self._change(fields), now_ms)
        return {"amend_id": wire.txid("A", order.number), **self._names(order)}

    def _edit(self, account: Account, fields: Fields, now_ms: int) -> Told:
        old = self._desk.found(account, self._named(fields))
        order = self._desk.edit(account, old.txid, self._change(fields), now_ms)
        return {"order_id": order.txid, "original_order_id": old.txid}

    def _cancel(
        self, client: Client, ask: _Ask, fields: Fields, account: Account, now_ms: int
    ) -> None:
        """Cancel one order or many: an answer each."""
        names = fields.names("order_id") or fields.names("cl_ord_id")
        if "order_userref" in fields:
            refs = msgspec.json.decode(fields.word("order_userref"), type=list[int])
            orders = self._desk.open_orders(account)
            names = [order.txid for order in orders if order.userref in refs]
        if not names:
            raise invalid("order_id")
        for name in names:
            own = {"order_id" if wire.number_of(name, "O") else "cl_ord_id": name}
            try:
                order = self._desk.cancel(account, name, now_ms)
                said = {"success": True, "result": {**own, "order_id": order.txid}}
            except Refusal as refusal:
                said = {"success": False, "error": self._refused(refusal), "result": own}
            self._answer(client, ask, said)

    def _batch(self, account: Account, ask: _Ask, fields: Fields, now_ms: int) -> list[Told]:
        """Place several orders of one market; when one is not sound, none."""
        try:
            parts = msgspec.json.decode(
                ask.params["orders"], type=list[dict[str, msgspec.Raw]]
            )  # fmt: skip
        except (KeyError, msgspec.DecodeError):
            raise invalid("orders") from None
        if not BATCH[0] <= len(parts) <= BATCH[1]:
            raise invalid("orders")
        shared = {name: ask.params[name] for name in ("symbol", "deadline") if name in ask.params}
        every = [socket_terms(fields_of_params(part | shared), now_ms) for part in parts]
        return [self._names(self._desk.place(account, terms, now_ms)) for terms in every]
