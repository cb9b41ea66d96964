"""Orders that hang on others: brackets and one-cancels-other groups. Pure.

A child waits for its parent's fills and is set free for as much as was filled; when the parent ends
without any, its children end too. Of a group one at most trades: what one of them fills, the others
lose; one that is whole, or triggered, ends the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from piker.clearing.lifecycle import OrderState, Phase
from piker.orders import Order

__all__ = ["Consequence", "Ties", "What", "consequences"]


class What(StrEnum):
    """What is to be done to another order."""

    RELEASE = "release"  # with these terms
    RESIZE = "resize"  # to these terms
    CANCEL = "cancel"


class Consequence(NamedTuple):
    """What follows for another order, and why."""

    oid: str
    what: What
    order: Order | None
    reason: str


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
    return [Consequence(oid, What.RESIZE, terms, f"{by} of its group was filled in part")]
