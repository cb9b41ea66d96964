"""Orders that wait in emsd, unseen by any venue, until a price wakes them. Pure.

Rules. A trigger is met by the price that ``trigger_by`` names: trades, the side of the book that
the order would trade with (the ask of a buy, the bid of a sell), or the mark. A stop is met when
that price has gone against the order (a buy: at or above the trigger); a take-profit, or a limit
order that is only kept dark, when it has gone in its favour. A trailing stop follows the best price
since it was armed at its distance, never backwards. An alert has no side: it is met when the price
comes to its trigger from where the price was when the alert was armed: the last trade before it.
Those two go by a price that was *seen*; it is journaled (:meth:`DarkBook.follow`), so that neither
begins anew when emsd does.

Nothing is met by a price from before the order was armed. Prices that were missed are said
(:meth:`Trigger.rearm`): a trigger that the next price meets was met across a gap: nobody saw when.
"""

from __future__ import annotations

from collections.abc import Set
from decimal import Decimal
from math import inf
from typing import NamedTuple

import msgspec

from piker.orders import Action, ExecMode, Order, OrderKind, TriggerBy
from piker.ticks import Side, TickType

__all__ = ["ALWAYS", "Bounds", "DarkBook", "Met", "Trigger", "released", "watched"]

_STOPS = frozenset({OrderKind.STOP, OrderKind.STOP_LIMIT, OrderKind.TRAILING_STOP})


class Met(NamedTuple):
    """What a price did: the trigger that was met, the price that met it, across a gap or not."""

    trigger: Decimal
    price: Decimal
    across_gap: bool


class Bounds(NamedTuple):
    """Prices strictly between them mean nothing to what waits; all others are to be looked at."""

    low: float
    high: float


NEVER = Bounds(inf, -inf)  # every price is to be looked at
ALWAYS = Bounds(-inf, inf)  # none is


def watched(order: Order) -> tuple[TickType, int]:
    """Return what the order's trigger looks at: the type of tick, and of a quote its side."""
    if order.trigger_by is TriggerBy.MARK:
        return TickType.MARK, Side.NONE
    if order.trigger_by is TriggerBy.SIDE and order.side:
        return TickType.QUOTE, Side.SELL if order.side > 0 else Side.BUY  # the ask, the bid
    return TickType.TRADE, Side.NONE


class Trigger:
    """One waiting order's trigger. ``level`` is where it is met; None until a trail is armed.

    ``seen`` is the price that it goes by: of a trailing stop the best one since it was armed, of an
    alert the one from which it was armed; None of others, and until there is one.
    """

    __slots__ = ("_gap", "_rising", "level", "order", "seen")

    def __init__(self, order: Order, *, seen: Decimal | None = None) -> None:
        self.order = order
        self.level = order.trigger
        self.seen: Decimal | None = None
        self._gap = False
        self._rising: bool | None = None  # met from below; None until the first price
        if order.action is not Action.ALERT:
            against = order.kind in _STOPS
            self._rising = (order.side > 0) == against
        if seen is not None:
            self._begin(seen)

    def _begin(self, seen: Decimal) -> None:
        """Go on from a price that was seen before."""
        order = self.order
        if order.kind is OrderKind.TRAILING_STOP and order.trail is not None:
            self._follow(seen, order.trail)
        elif order.action is Action.ALERT and self.level is not None and seen != self.level:
            self.seen, self._rising = seen, seen < self.level

    def rearm(self) -> None:
        """Say that prices were missed: what the next one meets was perhaps met before."""
        self._gap = True

    def bounds(self) -> Bounds:
        """Return between which prices nothing happens to it: neither met, nor moved, nor begun."""
        level, trail = self.level, self.order.trail
        if self._gap or level is None or self._rising is None:
            return NEVER
        follows = self.order.kind is OrderKind.TRAILING_STOP and trail is not None
        if self._rising:
            return Bounds(float(level - trail) if follows and trail else -inf, float(level))
        return Bounds(float(level), float(level + trail) if follows and trail else inf)

    def see(self, price: Decimal) -> Met | None:
        """Take a price of the watched kind; return what it met, once, or None."""
        order = self.order
        across, self._gap = self._gap, False
        if order.kind is OrderKind.TRAILING_STOP and order.trail is not None:
            self._follow(price, order.trail)
        level = self.level
        if level is None:
            return None
        if self._rising is None:  # an alert's first price says from where it comes
            self.seen, self._rising = price, price < level
            return Met(level, price, across) if price == level else None
        if price >= level if self._rising else price <= level:
            return Met(level, price, across)
        return None

    def _follow(self, price: Decimal, trail: Decimal) -> None:
        """Move a trailing level after the price, in the order's favour only."""
        at = price + trail if self.order.side > 0 else price - trail
        level = self.level
        if level is None or (at < level if self.order.side > 0 else at > level):
            self.level, self.seen = at, price


#: What an order becomes once it is met: stops and take-profits trade at the market or their limit.
_RELEASED = {
    OrderKind.STOP: OrderKind.MARKET,
    OrderKind.TAKE_PROFIT: OrderKind.MARKET,
    OrderKind.TRAILING_STOP: OrderKind.MARKET,
    OrderKind.STOP_LIMIT: OrderKind.LIMIT,
    OrderKind.TAKE_PROFIT_LIMIT: OrderKind.LIMIT,
}


def released(order: Order) -> Order:
    """Return the order that is sent when a dark one is met: live, without a trigger."""
    return msgspec.structs.replace(
        order,
        kind=_RELEASED.get(order.kind, order.kind),
        exec_mode=ExecMode.LIVE,
        trigger=None,
        trail=None,
    )


class DarkBook:
    """The triggers of all waiting orders, by market."""

    def __init__(self) -> None:
        self._by_market: dict[str, dict[str, Trigger]] = {}  # those in which anything waits
        self.markets: Set[str] = self._by_market.keys()  # the same: asked for every quote
        self._bounds: dict[str, dict[tuple[TickType, int], Bounds]] = {}  # until something changes
        self._last: dict[str, float] = {}  # trades, by market
        self._seen: dict[str, Decimal] = {}  # by oid: what is to be journaled

    def show(self, fqme: str, last: float) -> None:
        """Take a market's last trade: an alert that is armed now begins there."""
        self._last[fqme] = last

    def arm(self, order: Order, *, seen: Decimal | None = None) -> None:
        """Take an order in, or its new terms; ``seen`` is what the journal has of it."""
        waiting = self._by_market.setdefault(order.symbol, {})
        known = waiting.get(order.oid)
        if known is not None and order.kind is OrderKind.TRAILING_STOP:
            seen = known.seen
        begins = seen is None and order.action is Action.ALERT
        seen = seen if seen is not None else self.start_of(order)
        trigger = waiting[order.oid] = Trigger(order, seen=seen)
        if begins and trigger.seen is not None:
            self._seen[order.oid] = trigger.seen
        self._bounds.pop(order.symbol, None)

    def start_of(self, order: Order) -> Decimal | None:
        """Return the price from which an alert's is reached if it is armed now, where one is known.

        Whoever journals it with the alert has it survive whatever comes: see :meth:`follow`.
        """
        last = self._last.get(order.symbol)
        if last is None or order.action is not Action.ALERT or order.trigger_by is TriggerBy.MARK:
            return None
        return Decimal(repr(last))

    def disarm(self, order: Order) -> None:
        """Let go of an order, if it is here."""
        waiting = self._by_market.get(order.symbol)
        if waiting is not None and waiting.pop(order.oid, None) is not None:
            self._seen.pop(order.oid, None)
            self._changed(order.symbol, waiting)

    def _changed(self, fqme: str, waiting: dict[str, Trigger]) -> None:
        self._bounds.pop(fqme, None)
        if not waiting:
            del self._by_market[fqme]

    def follow(self) -> list[tuple[str, Decimal]]:
        """Return the price that each goes by now, of those whose price changed since last asked."""
        changed, self._seen = self._seen, {}
        return list(changed.items())

    def missed(self, fqme: str = "") -> None:
        """Say that prices of a market (or of all) were missed."""
        for market, waiting in self._by_market.items():
            if not fqme or market == fqme:
                self._bounds.pop(market, None)
                for trigger in waiting.values():
                    trigger.rearm()

    def waits(self, fqme: str) -> bool:
        """Tell whether anything waits in a market."""
        return fqme in self._by_market

    def bounds(self, fqme: str) -> dict[tuple[TickType, int], Bounds]:
        """Return, for each kind and side that something in a market looks at, what it passes over.

        What is not in it nobody looks at. Asked for every tick: kept until something changes.
        """
        kept = self._bounds.get(fqme)
        if kept is None:
            kept = self._bounds[fqme] = {}
            for trigger in self._by_market.get(fqme, {}).values():
                at = watched(trigger.order)
                low, high = trigger.bounds()
                before = kept.get(at, ALWAYS)
                kept[at] = Bounds(max(low, before.low), min(high, before.high))
        return kept

    def see(self, fqme: str, kind: TickType, side: int, price: Decimal) -> list[tuple[str, Met]]:
        """Take a price; return the oids that it meets, in the order they were armed. They are out.

        ``side`` is that of a quote: ``Side.BUY`` for the bid, ``Side.SELL`` for the ask.
        """
        waiting = self._by_market.get(fqme)
        if not waiting:
            return []
        found = []
        for oid, trigger in waiting.items():
            at_kind, at_side = watched(trigger.order)
            if at_kind is not kind or (kind is TickType.QUOTE and at_side != side):
                continue
            before = trigger.seen
            met = trigger.see(price)
            if met is not None:
                found.append((oid, met))
            elif trigger.seen is not before and trigger.seen is not None:
                self._seen[oid] = trigger.seen
        for oid, _ in found:
            del waiting[oid]
            self._seen.pop(oid, None)
        self._changed(fqme, waiting)
        return found

    def __len__(self) -> int:
        """Return how many orders wait."""
        return sum(len(waiting) for waiting in self._by_market.values())
