"""Orders that hang on others: brackets and one-cancels-other groups. Pure.

What is due follows from how the others stand now, not from what happened last: so whatever was
refused, came at once, or was cut off by a kill is made good by looking again (:func:`due`).

A child waits for its parent's fills, is set free for as much as was filled and grows with it; when
the parent ends without any, its children end too. Of a group one at most trades: what one of them
fills, the others lose. One that is whole, or whose trigger was met, ends the others; but a child is
kept while its parent may still trade, and when no exit is left, what is left of the entry goes too.
Each of an order's terms says what it takes into account (:class:`~piker.clearing.lifecycle.Share`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec

from piker.clearing.lifecycle import OrderState, Phase, Share
from piker.money import EXACT, ZERO
from piker.orders import Action, Order

__all__ = ["Due", "Tied", "Ties", "What", "due", "is_stale", "share_of"]


class What(StrEnum):
    """What is to be done to an order."""

    RELEASE = "release"  # with these terms
    RESIZE = "resize"  # to these terms
    CANCEL = "cancel"
    WAIT = "wait"  # nothing of it is to trade for now


class Due(NamedTuple):
    """What is to be done to an order, and why; RELEASE and RESIZE have its terms."""

    what: What
    reason: str
    order: Order | None = None
    share: Share | None = None


class Tied(NamedTuple):
    """Those that an order hangs on, as they stand, and those that hang on it."""

    parent: OrderState | None  # None where it has none, or where it is not at hand
    group: Sequence[OrderState]  # the others
    children: Sequence[OrderState]
    unsent: Container[str] = ()  # oids of those that were set free and wait for room


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
        if not (order.oco or order.parent):
            return
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
        found = set().union(*(tied.get(tie, ()) for tie in ties))
        return sorted(found | {order.parent} if order.parent else found)

    def __len__(self) -> int:
        """Return how many ties there are."""
        return len(self._tied)


def _ties(order: Order) -> list[str]:
    if order.parent:  # a bracket's exits are one group by it, however many brackets name theirs so
        return [order.parent]
    # No oid has a space: it would be no oid of ours.
    return [f"{order.account} {order.oco}"] if order.oco else []


def share_of(state: OrderState, tied: Tied) -> Share:
    """Return what others have traded by now that concerns an order.

    Of those that are no longer at hand what its newest terms say is as much as there was.
    """
    _, known = state.newest
    given, taken = known.given, ZERO
    if tied.parent is not None:
        given = min(state.asked, tied.parent.traded)
    for other in tied.group:
        taken = EXACT.add(taken, other.traded)
    return Share(given, max(taken, known.taken))


def is_stale(state: OrderState, size: Decimal, now: Share) -> bool:
    """Tell whether an edit's size is of terms from before others traded: it asks for no new one.

    A line that is dragged gives the price that it is dragged to, and the size that it was drawn of.
    """
    whole = now.given if state.order.parent else state.asked
    if size == state.asked and (now.taken or whole < state.asked):
        return True
    newest, known = state.newest
    if size == newest.size:
        return known != now
    return size == state.order.size and known != state.share


def due(state: OrderState, tied: Tied) -> Due | None:
    """Return what is to be done to an order as the others stand; None of what is as it is to be."""
    parent = tied.parent
    if state.is_over or state.cancel_called:
        return None
    if _is_without_exits(state, tied.children):
        return Due(What.CANCEL, "all of its exits have ended")
    is_held, has_ended = state.phase is Phase.HELD, parent is None or parent.is_over
    if is_held and parent is not None and has_ended and not parent.traded:
        return Due(What.CANCEL, f"its parent is {parent.phase}")
    for other in tied.group:
        if _ends(other, state, tied.unsent):
            return Due(What.CANCEL, f"{other.order.oid} of its group was {other.phase}")
    now, (newest, known) = share_of(state, tied), state.newest
    is_child = bool(newest.parent)
    left = EXACT.subtract(now.given, now.taken)
    if is_held:
        is_alert = state.order.action is Action.ALERT  # it has no size of its own
        if left > 0 or (is_alert and parent is not None and parent.traded):
            terms = newest if is_alert else msgspec.structs.replace(newest, size=left)
            return Due(What.RELEASE, _because(parent), terms, now)
        return Due(What.CANCEL, _taken(tied)) if now.given and has_ended else None
    grown, lost = EXACT.subtract(now.given, known.given), EXACT.subtract(now.taken, known.taken)
    size = EXACT.subtract(EXACT.add(newest.size, grown), lost)
    if size <= state.filled or (is_child and left <= 0):
        if not lost and not (is_child and now.taken):
            return None  # nobody took it: it is filled, or what its client made of it
        return Due(What.CANCEL if has_ended else What.WAIT, _taken(tied))
    if size == newest.size:
        return None
    reason = "its parent was filled" if size > newest.size else f"{_taken(tied)} in part"
    return Due(What.RESIZE, reason, msgspec.structs.replace(newest, size=size), now)


def _ends(other: OrderState, state: OrderState, unsent: Container[str]) -> bool:
    """Tell whether an order ends another of its group: it is whole, or its trigger was met.

    A child that is whole has taken what it was for: the rest of its group has the rest. Of two
    that were met at once one goes on, which was sent.
    """
    if other.phase is Phase.TRIGGERED:
        return True
    if other.met and state.met:
        if not other.is_over:
            theirs, ours = other.order.oid, state.order.oid
            return (theirs in unsent, theirs) < (ours in unsent, ours)
    elif other.met and (other.traded or not other.is_over):
        return True
    return other.phase is Phase.FILLED and not other.order.parent


def _is_without_exits(state: OrderState, children: Sequence[OrderState]) -> bool:
    """Tell whether an entry that still stands has traded, and so have exits, and none is left."""
    over = all(child.is_over for child in children)
    return bool(state.traded and over and any(child.traded for child in children))


def _because(parent: OrderState | None) -> str:
    if parent is None or not parent.is_over or parent.phase is Phase.FILLED:
        return "its parent was filled"
    return f"its parent is {parent.phase}"


def _taken(tied: Tied) -> str:
    most = max(tied.group, key=lambda other: other.traded, default=None)
    return f"{most.order.oid if most is not None else 'another'} of its group was filled"
