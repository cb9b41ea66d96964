"""Orders that hang on others: brackets and one-cancels-other groups. Pure.

A child waits for its parent's fills and is set free for as much as was filled; when the parent ends
without any, its children end too. Of a group one at most trades: what one of them fills, the others
lose; one that is whole, or triggered, ends the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec

from piker.clearing.lifecycle import OrderState, Phase
from piker.money import EXACT, ZERO
from piker.orders import Order

__all__ = ["Consequence", "Ties", "What", "consequences", "due"]


class What(StrEnum):
    """What is to be done to another order."""

    RELEASE = "release"  # with these terms
    RESIZE = "resize"  # to these terms
    CANCEL = "cancel"


class Consequence(NamedTuple):
    """What follows for another order, and why; ``less`` is what one of its group took from it.

    ``order`` has the terms that it comes to if nothing else happens first: :func:`due` has those
    that it comes to when it is done.
    """

    oid: str
    what: What
    order: Order | None
    reason: str
    less: Decimal = ZERO


class Ties:
    """Which orders hang on which: by their parent's oid, and by their group."""

    def __init__(self) -> None:
        self._tied: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, order: Order) -> None:
        """Take an order in."""
        if order.oco or order.parent:
            for tie in _ties(order):
                self._tied[tie].add(order.oid)

    def drop(self, order: Order) -> None:
        """Forget an order."""
        for tie in _ties(order):
            others = self._tied.get(tie)
            if others is not None:
                others.discard(order.oid)
                if not others:
                    del self._tied[tie]

    def of(self, order: Order) -> list[str]:
        """Return the oids of those that a change of the order may mean something for, in order."""
        tied = self._tied
        if not (order.oco or order.parent or order.oid in tied):
            return []
        ties = (order.oid, *_ties(order))
        return sorted(set().union(*(tied.get(tie, ()) for tie in ties)))

    def __len__(self) -> int:
        """Return how many ties there are."""
        return len(self._tied)


def _ties(order: Order) -> list[str]:
    group = f"{order.account} {order.oco}"  # no oid has a space: it would be no oid of ours
    return [tie for tie in (order.parent, group if order.oco else "") if tie]


def consequences(
    before: OrderState, after: OrderState, others: Iterable[OrderState]
) -> list[Consequence]:
    """Return what a change of one order means for others, in the order they are given."""
    found: list[Consequence] = []
    order = after.order
    for other in others:
        if other.is_over or other.order.oid == order.oid:
            continue
        if other.order.parent == order.oid:
            found += _of_a_child(before, after, other)
        elif order.oco and (other.order.oco, other.order.account) == (order.oco, order.account):
            found += _of_a_sibling(before, after, other)
    return found


def _of_a_child(before: OrderState, after: OrderState, child: OrderState) -> list[Consequence]:
    """Set a child free by its parent's first fill, let it grow with the next, or end it."""
    oid, held = child.order.oid, child.phase is Phase.HELD
    if held and after.is_over and not after.filled:
        return [Consequence(oid, What.CANCEL, None, f"its parent is {after.phase}")]
    size = min(child.asked, after.filled)
    waits = held and after.is_over and not before.is_over  # for more than has come, or will
    if waits and after.filled == before.filled:
        terms = msgspec.structs.replace(child.order, size=size)
        return [Consequence(oid, What.RELEASE, terms, f"its parent is {after.phase}")]
    if after.filled == before.filled or (not held and size <= child.order.size):
        return []
    terms = msgspec.structs.replace(child.order, size=size)
    return [Consequence(oid, What.RELEASE if held else What.RESIZE, terms, "its parent was filled")]


def _of_a_sibling(before: OrderState, after: OrderState, other: OrderState) -> list[Consequence]:
    """End the others of a group when one is whole or under way; take from them what it traded."""
    oid, by = other.order.oid, after.order.oid
    triggered = before.phase is Phase.DARK and after.phase in (Phase.PENDING, Phase.TRIGGERED)
    if after.phase is Phase.FILLED or triggered:
        return [Consequence(oid, What.CANCEL, None, f"{by} of its group was {after.phase}")]
    grown = after.filled - before.filled
    if not grown:
        return []
    left = other.order.size - grown
    if left <= other.filled:
        return [Consequence(oid, What.CANCEL, None, f"{by} of its group was filled")]
    terms = msgspec.structs.replace(other.order, size=left)
    return [Consequence(oid, What.RESIZE, terms, f"{by} of its group was filled in part", grown)]


def due(one: Consequence, state: OrderState, group: Iterable[OrderState]) -> Order | None:
    """Return the terms that an order is to have by a consequence of now; None of those it has.

    Fills that are heard together have one each, which are done in any order, and an edit may be
    under way: what a group took is taken from the newest terms, and a child has what its parent
    has traded by now, without what the others of its group have. ``group`` has them all.
    """
    newest, held = state.wanted or state.editing or state.order, state.phase is Phase.HELD
    if one.less:  # what is held loses it when it is set free
        size = EXACT.subtract(newest.size, one.less)
        return None if held else msgspec.structs.replace(newest, size=size)
    size = ZERO
    for other in group:
        if other.order.oid == newest.parent:
            size = EXACT.add(size, min(state.asked, other.filled))
        elif newest.oco and other.order.oco == newest.oco and other.order.oid != newest.oid:
            size = EXACT.subtract(size, other.filled)
    grows = size > (ZERO if held else newest.size)
    return msgspec.structs.replace(newest, size=size) if grows else None
