"""``piker buy``, ``sell`` and ``alert``: send an order, or a bracket, and say what became of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import trio

from piker import clock
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.client import OrderClient, open_ems
from piker.clearing.lifecycle import Phase
from piker.clearing.prices import reference
from piker.cli.markets import check_markets
from piker.cli.orders import (
    OrderRow,
    check_account,
    console,
    describe,
    exit_code_of,
    is_live,
    opening,
    row_of,
    show,
    start,
)
from piker.config import nearest
from piker.data.feed import open_feed
from piker.errors import ConfigError, RangeError, Unknown
from piker.market import parse_fqme
from piker.orders import Action, Order, OrderKind, Status, SyncState, TimeInForce

__all__ = ["Ticket", "run"]

SYNC_S = 10.0  # an account that was just opened is compared with its venue: a second, or some
ACK_S = 30.0  # emsd that was lost is back within seconds; who waits longer is told
ANSWER_S = 10.0  # a venue's answer: theirs take 0.05 to 1 s, a time-out 10 s
_SPAN = re.compile(r"(\d{1,6})(s|m|min|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TRIGGERED = {OrderKind.STOP, OrderKind.STOP_LIMIT}
_REFUSED = (Phase.DENIED, Phase.REJECTED)
_PROFIT = {OrderKind.TAKE_PROFIT, OrderKind.TAKE_PROFIT_LIMIT}


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it was typed."""

    action: str
    fqme: str
    size: str
    price: str | None = None
    trigger: str | None = None
    trail: str | None = None
    kind: str | None = None
    tif: str = "gtc"
    until: str | None = None
    post_only: bool = False
    reduce_only: bool = False
    take_profit: str | None = None
    stop_loss: str | None = None
    account: str | None = None

    @property
    def is_bracket(self) -> bool:
        """Tell whether children come with it."""
        return self.take_profit is not None or self.stop_loss is not None


def run(typed: Ticket, *, wait: bool, as_json: bool) -> int:
    """Send what was typed; return the exit code."""
    typed = _checked(typed)
    desk = _Desk(typed, wait=wait, as_json=as_json)
    return start(desk.work, desk.left)


# -- what is wrong with it before anything is started ------------------------------------------
def _checked(typed: Ticket) -> Ticket:
    """Return the ticket with its names whole; raise for what can be seen without anybody."""
    check_markets([typed.fqme])
    address = parse_fqme(typed.fqme)
    if not address.venue:
        raise ConfigError(
            f"{typed.fqme} names no venue.",
            remedy=f"As in {address.pair}.spot.{address.provider}; `piker search` finds it.",
        )
    account = check_account(typed.account or f"{address.provider}.{PAPER}")
    if split_account(account)[0] != address.provider:
        raise ConfigError(
            f"{account} does not trade {address}.",
            remedy=f"Name an account of {address.provider}: {address.provider}.{PAPER}",
        )
    _check_words(typed)
    for name in ("size", "price", "trigger", "trail", "take_profit", "stop_loss"):
        _check_number(name.replace("_", "-"), getattr(typed, name))
    if typed.until is not None:
        _moment_ns(typed.until)
    changed = {"fqme": str(address), "account": account, "tif": _tif(typed)}
    return msgspec.structs.replace(typed, **changed)


def _check_number(name: str, text: str | None) -> None:
    try:
        Decimal(text or 0)
    except InvalidOperation:
        raise RangeError(f"the {name} {text!r} is no number.", remedy="As in 0.01.") from None


def _check_words(typed: Ticket) -> None:
    tifs = [str(one) for one in TimeInForce]
    if typed.tif.lower() not in tifs:
        raise ConfigError(
            f"there is no time in force {typed.tif!r}.", remedy=nearest(typed.tif, tifs)
        )
    kinds = [str(kind) for kind in OrderKind]
    kind = (typed.kind or "").lower().replace("-", "_")
    if kind and kind not in kinds:
        raise ConfigError(f"there is no kind of order {typed.kind!r}.", remedy=nearest(kind, kinds))
    if typed.is_bracket and (typed.trigger or typed.trail):
        raise ConfigError(
            "a bracket's entry is a market or limit order.",
            remedy="Leave out --trigger and --trail, or --take-profit and --stop-loss.",
        )


def _tif(typed: Ticket) -> str:
    tif = typed.tif.lower()
    if typed.until is None:
        if tif == TimeInForce.GTD:
            raise ConfigError("gtd needs an end.", remedy="Say when, as in: --until 2h")
        return tif
    if tif not in (TimeInForce.GTC, TimeInForce.GTD):
        raise ConfigError(f"--until is for gtd, not for {tif}.", remedy="Leave --tif out.")
    return TimeInForce.GTD


def _moment_ns(text: str) -> int:
    """Return when an order ends: after a span from now, or at a time, UTC where it has no zone."""
    now_ns = clock.wall_ns()
    span = _SPAN.fullmatch(text.strip().lower())
    if span is not None:
        return now_ns + int(span[1]) * _SECONDS[span[2]] * clock.NS
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RangeError(
            f"{text!r} is not a time.", remedy="Write it as 2h, 30m, 1d, or 2026-05-01T12:30Z."
        ) from None
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    time_ns = int(found.timestamp()) * clock.NS
    if time_ns <= now_ns:
        raise RangeError(f"{text!r} is over: it is UTC.", remedy="Give a time to come.")
    return time_ns


# -- the order, and its children ---------------------------------------------------------------
def _orders(ems: OrderClient, typed: Ticket, market: Decimal | None) -> list[Order]:
    """Return what is to be sent, in its order: children first, so that no fill is missed."""
    kind = (typed.kind or "").lower().replace("-", "_")
    more: dict[str, Any] = {"tif": typed.tif, "account": typed.account}
    if typed.until is not None:
        more["expire_ns"] = _moment_ns(typed.until)
    parent = ems.order(
        typed.fqme, typed.action, typed.size, price=typed.price, trigger=typed.trigger,
        trail=typed.trail, kind=kind, post_only=typed.post_only, reduce_only=typed.reduce_only,
        **more,
    )  # fmt: skip
    _check_trigger(parent, market)
    if not typed.is_bracket:
        return [parent]
    children = _children(ems, typed, parent)
    _check_bracket(parent, children, parent.price or market)
    return [*children, parent]


def _children(ems: OrderClient, typed: Ticket, parent: Order) -> list[Order]:
    """Return a bracket's exits; where there are both, one at most trades."""
    both = typed.take_profit is not None and typed.stop_loss is not None
    way = Action.SELL if parent.action is Action.BUY else Action.BUY
    more = {"parent": parent.oid, "oco": f"oco-{parent.oid}" if both else ""}
    found = []
    for price, trigger in ((typed.take_profit, None), (None, typed.stop_loss)):
        if price is not None or trigger is not None:
            child = ems.order(
                typed.fqme, way, parent.size, price=price, trigger=trigger,
                account=typed.account, **more,
            )  # fmt: skip
            found.append(child)
    return found


def _finite(value: Decimal | None) -> Decimal | None:
    """Return a number that can be compared; what can not is emsd's to deny."""
    return value if value is not None and value.is_finite() else None


def _check_trigger(order: Order, market: Decimal | None) -> None:
    """Refuse what would be met at once: whoever types it means something else."""
    trigger = _finite(order.trigger)
    if order.action is Action.ALERT or trigger is None or market is None:
        return
    rises = (order.side > 0) == (order.kind in _TRIGGERED)  # met from below
    if order.kind not in _TRIGGERED | _PROFIT or (market < trigger if rises else market > trigger):
        return
    other = "--kind take_profit" if order.kind in _TRIGGERED else "leave --kind out"
    if order.price is not None and order.kind in _TRIGGERED:
        other += "_limit"
    wanted = "when the price " + ("falls" if rises else "rises") + f" to {trigger:f}"
    raise RangeError(
        f"a {order.action} {order.kind} with its trigger at {trigger:f} would be met at once: the "
        f"market is at {market:f}.",
        remedy=f"To {order.action} {wanted}: {other}. To trade now: leave --trigger out.",
    )


def _check_bracket(parent: Order, children: Sequence[Order], entry: Decimal | None) -> None:
    """Refuse exits on the wrong side of the entry."""
    for child in children:
        price = _finite(child.price or child.trigger)
        if price is None or entry is None or not entry.is_finite():
            continue
        name = "take-profit" if child.price is not None else "stop-loss"
        above = (parent.side > 0) == (child.price is not None)
        if (price > entry) != above or price == entry:
            side = "above" if above else "below"
            raise RangeError(
                f"the {name} of a {parent.action} must be {side} its entry: {price:f} is not "
                f"{side} {entry:f}.",
                remedy="Nothing was sent.",
            )


# -- sending it --------------------------------------------------------------------------------
class _Desk:
    """One command's orders: what was sent, and what has become of each."""

    def __init__(self, typed: Ticket, *, wait: bool, as_json: bool) -> None:
        self._typed = typed
        self._wait = wait
        self._as_json = as_json
        self._account = typed.account or ""
        self._orders: list[Order] = []
        self._sent: list[str] = []
        self._rows: dict[str, OrderRow] = {}
        self._shown: dict[str, OrderRow] = {}

    async def work(self) -> int:
        """Send the orders and tell what becomes of them; return the exit code."""
        typed = self._typed
        with opening(f"Opening {self._account} and {typed.fqme} ...") as opened:
            async with open_ems(self._account, [typed.fqme], name="cli") as ems:
                await _synced(ems, self._account)
                self._orders = _orders(ems, typed, await self._market())
                opened()
                self._announce()
                await self._send(ems)
        return exit_code_of(self._rows.values())

    async def _market(self) -> Decimal | None:
        """Return the market's price, where something is to be compared with it."""
        typed = self._typed
        if typed.action == Action.ALERT or not (typed.trigger or typed.is_bracket):
            return None
        async with open_feed([typed.fqme], start_pikerd=False) as feed:
            flume = feed.flumes[typed.fqme]
            quote = flume.first_quote
            if typed.trigger and quote.last:
                return flume.mkt.round_price(repr(quote.last))
            return reference(quote, flume.mkt)

    def _announce(self) -> None:
        if is_live(self._account):
            text = f"LIVE: this is real money, on {self._account}."
            console(stderr=True).print(text, style="bold red", highlight=False)

    async def _send(self, ems: OrderClient) -> None:
        """Send one after the other; of a bracket nothing more once a part of it is denied."""
        for order in self._orders:
            self._sent.append(order.oid)
            status = None
            with trio.move_on_after(ACK_S):
                status = await ems.submit(order)
            if status is None:
                raise Unknown(
                    f"emsd has not acknowledged {order.oid} within {ACK_S:.0f} s: whether it has "
                    "the order is not known.",
                    remedy="Look, before you send it again: piker orders",
                )
            self._take(status)
            if status.resp == Phase.DENIED:
                await self._withdraw(ems)
                break
        await self._follow(ems)

    async def _withdraw(self, ems: OrderClient) -> None:
        """Take back the children of a bracket that is not to be."""
        for oid in self._sent[:-1]:
            with trio.move_on_after(ACK_S):
                await ems.cancel(oid)

    def _take(self, status: Status) -> None:
        """Keep how an order stands; with --wait, say so whenever it has changed."""
        if status.req is None or status.resp == "error":
            return
        before = self._rows.get(status.oid)
        if before is not None and before.is_over and status.resp == "fill":
            return
        since_ns = before.since_ns if before is not None else clock.wall_ns()
        self._rows[status.oid] = row_of(status, since_ns)
        if self._wait:
            self._show(status.oid)

    def _show(self, oid: str) -> None:
        row = self._rows[oid]
        seen = self._shown.get(oid)
        if seen is None or (seen.state, seen.filled, seen.price, seen.size) != (
            row.state, row.filled, row.price, row.size,
        ):  # fmt: skip
            self._shown[oid] = row
            show(row, as_json=self._as_json)

    async def _follow(self, ems: OrderClient) -> None:
        """Hear what becomes of the orders: until they have ended, or until each is answered."""
        limit_s = float("inf") if self._wait else ANSWER_S
        with trio.move_on_after(limit_s):
            while not self._done():
                told = await ems.__anext__()
                if isinstance(told, Status) and told.oid in self._rows:
                    self._take(told)
        for oid in self._rows:
            self._show(oid)
        self._warn()
        if not self._done() and not self._as_json:
            text = f"no answer within {ANSWER_S:.0f} s; it lives on: piker orders --watch"
            print(text, file=sys.stderr)

    def _warn(self) -> None:
        """Say which exit of a bracket does not stand though its entry has traded."""
        for row in self._rows.values():
            parent = self._rows.get(row.parent)
            if parent is None or not parent.filled or row.state not in _REFUSED:
                continue
            what = "take-profit" if row.price is not None else "stop-loss"
            price = (
                f"--price {row.price:f}" if row.price is not None else f"--trigger {row.trigger:f}"
            )
            print(
                f"WARNING: {parent.filled:f} {row.market} has no {what}. To send one: piker "
                f"{row.side} {row.market} {parent.filled:f} {price} --account {row.account}",
                file=sys.stderr,
            )

    def _done(self) -> bool:
        rows = list(self._rows.values())
        if self._wait:
            return all(row.is_over for row in rows)
        return all(self._answered(row) for row in rows)

    def _answered(self, row: OrderRow) -> bool:
        """Tell whether there is something to say of an order that only time will change."""
        at_once = row.kind == OrderKind.MARKET or row.tif in (TimeInForce.IOC, TimeInForce.FOK)
        parent = self._rows.get(row.parent)
        if row.state == Phase.HELD:
            return parent is not None and not parent.is_over
        if parent is not None and row.size < parent.filled and not row.is_over:
            return False  # it is still growing with its parent's fills
        if row.state in (Phase.OPEN, Phase.PARTIAL):
            return not at_once
        return row.state != Phase.PENDING

    def left(self) -> str:
        """Return what a person who goes away must know."""
        if not self._sent:
            return "interrupted: nothing was sent."
        alive = [oid for oid in self._sent if not (oid in self._rows and self._rows[oid].is_over)]
        if not alive:
            return "interrupted."
        names = " ".join(alive)
        known = [self._rows[oid] for oid in alive if oid in self._rows]
        what = "; ".join(describe(row) for row in known) or "it may not have been acknowledged"
        lives = "the order lives on" if len(alive) == 1 else "the orders live on"
        return f"interrupted: {lives} ({what}). To take it back: piker cancel {names}"


async def _synced(ems: OrderClient, account: str) -> None:
    """Wait while an account that was just opened is compared with its venue, but not for ever."""
    with trio.move_on_after(SYNC_S):
        while account not in ems.accounts or ems.accounts[account].sync is not SyncState.SYNCED:
            if account in ems.accounts and ems.accounts[account].state == "unarmed":
                return
            await ems.changed()
