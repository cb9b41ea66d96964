"""An order as it was typed: what is wrong with it, and the messages that it comes to. Pure.

The market's price is an argument; nothing is asked of anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from piker import clock
from piker.clearing.accounts import PAPER, split_account
from piker.clearing.client import OrderClient
from piker.cli.markets import check_markets
from piker.cli.orders import check_account
from piker.config import nearest
from piker.errors import ConfigError, PikerError, RangeError
from piker.market import parse_fqme
from piker.orders import Action, Order, OrderKind, TimeInForce, TriggerBy

__all__ = ["Ticket", "build", "check_trigger", "checked"]

_SPAN = re.compile(r"(\d{1,6})(s|m|min|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LAST_NS = 2**63 - 1  # in April 2262: nanoseconds in 64 bits end there
_TRIGGERED = {OrderKind.STOP, OrderKind.STOP_LIMIT}
_PROFIT = {OrderKind.TAKE_PROFIT, OrderKind.TAKE_PROFIT_LIMIT}


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it was typed."""

    action: str
    fqme: str
    size: str
    price: str | None = None
    trigger: str | None = None
    trail: str | None = None
    by: str = "last"
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


# -- what is wrong with it before anything is started ------------------------------------------
def checked(typed: Ticket) -> Ticket:
    """Return the ticket with its names whole; raise for what can be seen without anybody."""
    _check_places(typed)
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


def _check_places(typed: Ticket) -> None:
    """Refuse a number where the market is to be, and a market in the number's place."""
    second = typed.trigger if typed.action == Action.ALERT else typed.size
    try:
        Decimal(typed.fqme)
        parse_fqme((second or "").lower())
    except (InvalidOperation, PikerError):
        return
    raise ConfigError(
        f"{typed.fqme!r} is no market, and {second!r} no number: each is in the other's place.",
        remedy=f"The market comes first: piker {typed.action} {second} {typed.fqme}",
    )


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
    rules = [str(one) for one in TriggerBy]
    if typed.by.lower() not in rules:
        raise ConfigError(f"no trigger goes by {typed.by!r}.", remedy=nearest(typed.by, rules))
    if typed.by.lower() != TriggerBy.LAST and not (typed.trigger or typed.trail):
        raise ConfigError("--by is for what waits for a price.", remedy="Leave it out.")
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
        return _near_ns(text, now_ns + int(span[1]) * _SECONDS[span[2]] * clock.NS)
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
    return _near_ns(text, time_ns)


def _near_ns(text: str, time_ns: int) -> int:
    """Return a time that messages can carry; raise for one that is further off."""
    if time_ns > _LAST_NS:
        raise RangeError(f"{text!r} is after the year 2261.", remedy="Give an earlier time.")
    return time_ns


# -- the order, and its children ---------------------------------------------------------------
def build(ems: OrderClient, typed: Ticket, market: Decimal | None) -> list[Order]:
    """Return what is to be sent, in its order: children first, so that no fill is missed."""
    kind = (typed.kind or "").lower().replace("-", "_")
    more: dict[str, Any] = {"tif": typed.tif, "account": typed.account}
    if typed.until is not None:
        more["expire_ns"] = _moment_ns(typed.until)
    parent = ems.order(
        typed.fqme, typed.action, typed.size, price=typed.price, trigger=typed.trigger,
        trail=typed.trail, trigger_by=typed.by.lower(), kind=kind, post_only=typed.post_only,
        reduce_only=typed.reduce_only, **more,
    )  # fmt: skip
    check_trigger(parent, market)
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


def check_trigger(order: Order, market: Decimal | None, *, edited: bool = False) -> None:
    """Refuse what would be met at once: whoever types it means something else.

    An order that is ``edited`` stays of its kind, and does not trade at once by having none.
    """
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
    remedy = f"To {order.action} {wanted}: {other}. To trade now: leave --trigger out."
    if edited:
        remedy = f"It stands as it was. To trade now: cancel it, and {order.action} at the market."
    raise RangeError(
        f"a {order.action} {order.kind} with its trigger at {trigger:f} would be met at once: the "
        f"market is at {market:f}.",
        remedy=remedy,
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
