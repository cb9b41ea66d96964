"""The life of an order: one pure, total function from (state, event) to state.

:func:`step` knows nothing of time, files or venues. Whatever happens to an order is one of the
events below, is journaled as such, and is folded by it: live, at a restart, and when the ledger
is verified. Every pair of phase and event has its entry in :data:`TABLE`, which
docs/reference/orders.md is made of; what an event can not mean is told as a :class:`Problem`, never
dropped and never raised.

The venue is right: a fill counts in whatever phase it finds the order, once per trade id, and one
that exceeds the order's size is counted and called an overfill.

Sums are exact (:mod:`piker.money`): no digit of a fill or a fee is ever rounded away.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum

import msgspec

from piker.money import EXACT, ZERO, is_sane, ratio
from piker.orders import Action, Order, OrderKind

__all__ = [
    "TABLE",
    "TERMINAL",
    "Event",
    "EventKind",
    "OrderState",
    "Phase",
    "Problem",
    "Share",
    "Step",
    "begin",
    "step",
]


class Phase(StrEnum):
    """Where an order is. The words are those of ``Status.resp``."""

    HELD = "held"  # a child that waits for its parent's fill
    DARK = "dark_open"  # in emsd, waiting for its trigger
    PENDING = "pending"  # journaled and on its way: the venue has not answered yet
    OPEN = "open"  # the venue has it
    PARTIAL = "partially_filled"
    UNKNOWN = "unknown"  # sent, and the answer never came: it may stand, or not
    DENIED = "denied"  # by us, before anything was sent
    REJECTED = "rejected"  # the venue has proved that it does not stand and never traded
    FILLED = "closed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    TRIGGERED = "triggered"  # of an alert: it has told


TERMINAL = frozenset(
    {Phase.DENIED, Phase.REJECTED, Phase.FILLED, Phase.CANCELED, Phase.EXPIRED, Phase.TRIGGERED}
)
# Bound once: looking a member of an enum up by its name costs half of what a step does.
_HELD, _DARK, _PENDING, _OPEN = Phase.HELD, Phase.DARK, Phase.PENDING, Phase.OPEN
_PARTIAL, _UNKNOWN, _FILLED = Phase.PARTIAL, Phase.UNKNOWN, Phase.FILLED
_ALERT, _replace = Action.ALERT, msgspec.structs.replace
_AT_VENUE = (_PENDING, _OPEN, _PARTIAL, _UNKNOWN)
_WAITING = (_HELD, _DARK)


class EventKind(StrEnum):
    """What can happen to an order."""

    DENY = "deny"  # risk or validation says no
    RELEASE = "release"  # its parent was filled
    FOLLOW = "follow"  # its trigger goes by this price now: a trail's best one, an alert's first
    TRIGGER = "trigger"  # its price was met
    SUBMIT = "submit"  # journaled, and now sent
    ACK = "ack"  # the venue has it under an id of its own
    OPEN = "open"  # it stands in the venue's book
    FILL = "fill"
    CANCEL_ASKED = "cancel_asked"
    CANCEL_REFUSED = "cancel_refused"
    CANCEL = "cancel"  # it is gone: by us or by the venue
    EDIT_ASKED = "edit_asked"
    EDIT_REFUSED = "edit_refused"
    EDIT = "edit"  # the venue has it with the new terms
    REJECT = "reject"
    EXPIRE = "expire"
    CLOSE = "close"  # the venue says that it is wholly filled
    LOSE = "lose"  # no answer came: nothing is known


class Problem(StrEnum):
    """What is wrong with an event. The state that goes with it is still the best there is."""

    DUPLICATE = "duplicate"  # harmless: it was counted before
    LATE = "late"  # harmless: the order had ended; a late fill is counted all the same
    ILLEGAL = "illegal"  # it can not happen in this phase; nothing was changed
    OVERFILL = "overfill"  # counted: more was traded than was ordered
    MISSING_FILLS = "missing_fills"  # the venue says closed, and we have not seen all of it


class Share(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Of what others traded, how much an order's size takes into account.

    ``given`` is its parent's, ``taken`` that of the others of its group: see
    :mod:`piker.clearing.linked`.
    """

    given: Decimal = ZERO
    taken: Decimal = ZERO


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing that happened, as it is journaled. Which fields count depends on ``kind``."""

    kind: EventKind
    time_ns: int
    reqid: str = ""  # ACK, EDIT: the venue's id
    tid: str = ""  # FILL
    size: Decimal = ZERO  # FILL; of CLOSE and CANCEL what the venue says was filled in all
    #: FILL; TRIGGER: the price that met it; FOLLOW, and an alert's EDIT_ASKED: the one it goes by.
    price: Decimal = ZERO
    fee: Decimal = ZERO  # FILL
    fee_asset: str = ""  # FILL
    moved: dict[str, Decimal] = {}  # FILL on paper: what it moved of each asset
    order: Order | None = (
        None  # EDIT_ASKED, EDIT: the new terms; TRIGGER, RELEASE, SUBMIT: with what it goes on
    )
    share: Share | None = None  # RELEASE, EDIT_ASKED, SUBMIT: what the terms take into account
    code: str = ""  # DENY
    reason: str = ""  # DENY, REJECT, CANCEL, EXPIRE, LOSE, ..._REFUSED


_NO_SHARE = Share()


class OrderState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that is known of one order. ``value`` is the sum of size times price of its fills.

    ``asked`` is the size that its client wants; a child of a bracket is smaller while its parent is
    not wholly filled. ``freed`` is an order that emsd itself set on its way: its trigger was met,
    or its parent filled; ``met`` says which price met which trigger, and when. ``seen`` is the
    price that its trigger goes by: of a trailing stop the best one since it was armed, of an alert
    the one from which it was armed. ``taken_ns`` is when emsd took the order. Of its edits one is
    at the venue at a time (``editing``); ``wanted`` is the newest that was asked for meanwhile.
    Each of the three terms has its ``share``. ``told`` is what its venue said was filled in all
    when it ended: a fill may be late, or lost, and has traded all the same.
    """

    order: Order
    phase: Phase
    asked: Decimal = ZERO
    freed: bool = False
    reqid: str = ""
    filled: Decimal = ZERO
    told: Decimal = ZERO
    value: Decimal = ZERO
    fees: dict[str, Decimal] = {}
    tids: frozenset[str] = frozenset()
    cancel_called: bool = False
    editing: Order | None = None  # terms that were sent and not yet confirmed
    wanted: Order | None = None  # terms that wait until the venue has answered for ``editing``
    share: Share = _NO_SHARE
    editing_share: Share = _NO_SHARE
    wanted_share: Share = _NO_SHARE
    code: str = ""
    reason: str = ""
    seen: Decimal | None = None
    met: str = ""
    taken_ns: int = 0

    @property
    def newest(self) -> tuple[Order, Share]:
        """Return the newest terms that anybody asked for, and their share."""
        if self.wanted is not None:
            return self.wanted, self.wanted_share
        if self.editing is not None:
            return self.editing, self.editing_share
        return self.order, self.share

    @property
    def worst(self) -> Order | None:
        """Return what counts while edits are under way: of both the largest size and price."""
        editing, wanted = self.editing, self.wanted
        if editing is None or wanted is None:
            return editing
        prices = [one.price for one in (editing, wanted) if one.price is not None]
        return _replace(
            wanted, size=max(editing.size, wanted.size), price=max(prices, default=None)
        )

    @property
    def remaining(self) -> Decimal:
        """Return what is still to trade; never negative."""
        return max(ZERO, EXACT.subtract(self.order.size, self.filled))

    @property
    def traded(self) -> Decimal:
        """Return what has traded, told fill by fill or not."""
        return max(self.filled, self.told)

    @property
    def avg_price(self) -> Decimal | None:
        """Return the mean price of its fills to 28 digits, or None before the first."""
        return ratio(self.value, self.filled) if self.filled else None

    @property
    def level(self) -> Decimal | None:
        """Return where a trailing stop is met now; None of others, and before its first price."""
        trail, seen = self.order.trail, self.seen
        if trail is None or seen is None or self.phase is not Phase.DARK:
            return None
        return EXACT.subtract(seen, trail) if self.order.side < 0 else EXACT.add(seen, trail)

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self.phase in TERMINAL


class Step(msgspec.Struct, frozen=True, gc=False):
    """What an event did: the state after it, the transition's name, and what was wrong with it."""

    state: OrderState
    transition: str
    problem: Problem | None = None


Handler = Callable[[OrderState, Event], Step]


def begin(order: Order, taken_ns: int = 0) -> OrderState:
    """Return the state of an intent that was just accepted from a client."""
    phase = _HELD if order.parent else _freed(order)
    return OrderState(order=order, phase=phase, asked=order.size, taken_ns=taken_ns)


def _freed(order: Order) -> Phase:
    """Return where an order waits that no parent holds back."""
    is_dark = order.exec_mode == "dark" or order.action is _ALERT
    return _DARK if is_dark else _PENDING


def step(state: OrderState, event: Event) -> Step:
    """Fold one event into an order. Total: never raises, whatever comes."""
    return TABLE[state.phase, event.kind](state, event)


# -- handlers --------------------------------------------------------------------------------
def _to(state: OrderState, name: str, **changes: object) -> Step:
    return Step(_replace(state, **changes), name)


def _illegal(state: OrderState, event: Event) -> Step:
    return Step(state, f"{event.kind} refused", Problem.ILLEGAL)


def _late(state: OrderState, event: Event) -> Step:
    return Step(state, f"late {event.kind}", Problem.LATE)


def _again(state: OrderState, event: Event) -> Step:
    return Step(state, f"{event.kind} again", Problem.DUPLICATE)


def _deny(state: OrderState, event: Event) -> Step:
    return _to(state, "denied", phase=Phase.DENIED, code=event.code, reason=event.reason)


def _release(state: OrderState, event: Event) -> Step:
    order = event.order or state.order
    share = _share_of(state, event, order)
    return _to(state, "released", phase=_freed(order), order=order, freed=True, share=share)


def _share_of(state: OrderState, event: Event, order: Order) -> Share:
    """Return the share of new terms; rows of an earlier piker have it in the size alone."""
    if event.share is not None or not (order.parent or order.oco):
        return event.share or _NO_SHARE
    if order.parent:
        return Share(given=order.size)
    return Share(taken=max(ZERO, EXACT.subtract(state.asked, order.size)))


def _follow(state: OrderState, event: Event) -> Step:
    if not is_sane(event.price) or event.price <= 0:
        return _illegal(state, event)
    return _to(state, "followed the price", seen=event.price)


def _trigger(state: OrderState, event: Event) -> Step:
    if state.order.action is _ALERT:
        return _to(state, "alerted", phase=Phase.TRIGGERED, met=event.reason)
    order, met = event.order or state.order, event.reason
    return _to(state, "triggered", phase=_PENDING, order=order, freed=True, met=met)


def _submit(state: OrderState, event: Event) -> Step:
    order, phase, reason = event.order, state.phase, state.reason
    if phase is _UNKNOWN:
        phase, reason = _PENDING, ""
    if order is None:
        return Step(_replace(state, phase=phase, reason=reason), "submitted")
    share = _share_of(state, event, order)  # no venue has it: these are its terms, and no edit
    return _to(
        state, "submitted", order=order, share=share, editing=None, wanted=None, phase=phase,
        reason=reason,
    )  # fmt: skip


def _ack(state: OrderState, event: Event) -> Step:
    if state.reqid == event.reqid and state.phase is not _UNKNOWN:
        return _again(state, event)
    phase, reason = state.phase, state.reason
    if phase is _UNKNOWN:
        phase, reason = _PARTIAL if state.filled else _PENDING, ""
    reqid = event.reqid or state.reqid
    return Step(_replace(state, reqid=reqid, phase=phase, reason=reason), "acknowledged")


def _late_ack(state: OrderState, event: Event) -> Step:
    """Keep the venue's id though the order has ended: a late fill is found by it."""
    kept = _replace(state, reqid=state.reqid or event.reqid)
    return Step(kept, "late ack", Problem.LATE)


def _open(state: OrderState, event: Event) -> Step:
    phase = _PARTIAL if state.filled else _OPEN
    if phase is state.phase:
        return _again(state, event)
    reqid = event.reqid or state.reqid
    return Step(_replace(state, phase=phase, reqid=reqid, reason=""), "opened")


def _fill(state: OrderState, event: Event) -> Step:
    numbers = (event.size, event.price, event.fee)
    if not event.tid or not all(map(is_sane, numbers)) or event.size <= 0:
        return _illegal(state, event)
    if event.tid in state.tids:
        return _again(state, event)
    counted = _counted(state, event)
    filled, size = counted.filled, _most(state)
    if filled > size:
        over = _replace(counted, phase=_FILLED)
        return Step(over, "overfilled", Problem.OVERFILL)
    if filled == size and state.editing is None:
        return Step(_replace(counted, phase=_FILLED), "filled")
    if state.phase in (Phase.DENIED, Phase.REJECTED):  # it does stand: what is true is to be asked
        doubtful = _replace(counted, phase=_UNKNOWN)
        return Step(doubtful, "filled though refused", Problem.LATE)
    if state.phase in TERMINAL:
        return Step(counted, "late fill", Problem.LATE)
    return Step(_replace(counted, phase=_PARTIAL), "partially filled")


def _counted(state: OrderState, event: Event) -> OrderState:
    """Return the state with a fill added up."""
    fees = dict(state.fees)
    if event.fee:
        fees[event.fee_asset] = EXACT.add(fees.get(event.fee_asset, ZERO), event.fee)
    return _replace(
        state,
        filled=EXACT.add(state.filled, event.size),
        value=EXACT.add(state.value, EXACT.multiply(event.size, event.price)),
        fees=fees,
        tids=state.tids | {event.tid},
        reqid=state.reqid or event.reqid,
        reason="" if state.phase is _UNKNOWN else state.reason,
    )


def _most(state: OrderState) -> Decimal:
    """Return the most that may be traded: while edits are under way, the largest of all sizes."""
    worst = state.worst
    return max(state.order.size, worst.size) if worst is not None else state.order.size


def _cancel_asked(state: OrderState, event: Event) -> Step:
    if state.cancel_called:
        return _again(state, event)
    return Step(_replace(state, cancel_called=True), "cancel asked")


def _cancel_refused(state: OrderState, event: Event) -> Step:
    return _to(state, "cancel refused", cancel_called=False, reason=event.reason)


def _edit_asked(state: OrderState, event: Event) -> Step:
    if event.order is None:
        return _illegal(state, event)
    if state.phase in _WAITING:
        follows = event.order.kind is OrderKind.TRAILING_STOP
        seen = state.seen if follows else event.price or None  # an alert begins anew
        asked = event.order.size if state.phase is _HELD else state.asked
        share = _NO_SHARE if state.phase is _HELD else _share_of(state, event, event.order)
        return _to(state, "replaced", order=event.order, seen=seen, asked=asked, share=share)
    share = _share_of(state, event, event.order)
    if state.editing is not None:
        return _to(state, "edit asked", wanted=event.order, wanted_share=share)
    return _to(state, "edit asked", editing=event.order, editing_share=share)


def _edit(state: OrderState, event: Event) -> Step:
    order = event.order or state.editing or state.order
    reqid = event.reqid or state.reqid
    if state.editing is None and (order, reqid) == (state.order, state.reqid):
        return _again(state, event)
    later, wanted = state.editing, state.wanted  # as they are, where it was an older one
    share, later_share = state.share, state.editing_share
    if order == wanted:
        later = wanted = None
        share = state.wanted_share
    elif order == later:
        later, wanted = wanted, None
        share, later_share = later_share, state.wanted_share
    edited = _replace(
        state, order=order, editing=later, wanted=wanted, reqid=reqid, reason="", share=share,
        editing_share=later_share,
    )  # fmt: skip
    if edited.filled > _most(edited):
        over = _replace(edited, phase=_FILLED)
        return Step(over, "overfilled", Problem.OVERFILL)
    if edited.filled == order.size and later is None:
        return Step(_replace(edited, phase=_FILLED), "edited")
    return Step(_replace(edited, phase=_PARTIAL if edited.filled else _OPEN), "edited")


def _edit_refused(state: OrderState, event: Event) -> Step:
    if state.editing is None:
        return _again(state, event)
    phase = state.phase
    if state.filled >= state.order.size and state.wanted is None:
        phase = _FILLED  # it was filled while the edit was under way
    return _to(
        state, "edit refused", editing=state.wanted, wanted=None, reason=event.reason, phase=phase,
        editing_share=state.wanted_share,
    )  # fmt: skip


def _end(phase: Phase, name: str) -> Handler:
    def end(state: OrderState, event: Event) -> Step:
        ended = _replace(
            state, phase=phase, reason=event.reason, editing=None, wanted=None,
            reqid=state.reqid or event.reqid, told=_told(event),
        )  # fmt: skip
        missing = ended.told > state.filled
        return Step(ended, name, Problem.MISSING_FILLS if missing else None)

    return end


def _reject(state: OrderState, event: Event) -> Step:
    if state.filled:  # what has traded was not rejected: what is left of it is gone
        return _to(
            state,
            "rest rejected",
            phase=Phase.CANCELED,
            reason=event.reason,
            editing=None,
            wanted=None,
        )
    return _to(
        state, "rejected", phase=Phase.REJECTED, reason=event.reason, editing=None, wanted=None
    )


def _close(state: OrderState, event: Event) -> Step:
    """The venue says that it is filled. Fills that we have not seen are to be asked for."""
    said = _told(event)
    most = max(said, _most(state))  # its own word, else what was ordered
    closed = _replace(
        state, phase=_FILLED, editing=None, wanted=None, told=said or state.order.size,
        reason="" if state.phase is _UNKNOWN else state.reason,
    )  # fmt: skip
    return Step(closed, "closed", Problem.MISSING_FILLS if most > state.filled else None)


def _told(event: Event) -> Decimal:
    """Return what the venue says was filled in all; zero where it does not."""
    return event.size if is_sane(event.size) and event.size > 0 else ZERO


def _lose(state: OrderState, event: Event) -> Step:
    return _to(state, "lost sight of", phase=_UNKNOWN, reason=event.reason)


# -- the table -------------------------------------------------------------------------------
def _table() -> dict[tuple[Phase, EventKind], Handler]:
    rows: dict[tuple[Phase, EventKind], Handler] = {}
    for kind in EventKind:
        for phase in Phase:
            rows[phase, kind] = _late if phase in TERMINAL else _illegal
    ends = {
        EventKind.CANCEL: _end(Phase.CANCELED, "canceled"),
        EventKind.EXPIRE: _end(Phase.EXPIRED, "expired"),
    }
    for phase in _WAITING:
        for kind, handler in {
            EventKind.DENY: _deny, EventKind.CANCEL_ASKED: _cancel_asked,
            EventKind.EDIT_ASKED: _edit_asked, **ends,
        }.items():  # fmt: skip
            rows[phase, kind] = handler
    rows[Phase.HELD, EventKind.RELEASE] = _release
    rows[Phase.DARK, EventKind.FOLLOW] = _follow
    rows[Phase.DARK, EventKind.TRIGGER] = _trigger
    rows[Phase.PENDING, EventKind.DENY] = _deny
    rows[Phase.PENDING, EventKind.SUBMIT] = _submit
    rows[Phase.UNKNOWN, EventKind.SUBMIT] = _submit  # a retry with the same id
    for phase in _AT_VENUE:
        for kind, handler in {
            EventKind.ACK: _ack, EventKind.OPEN: _open, EventKind.CANCEL_ASKED: _cancel_asked,
            EventKind.CANCEL_REFUSED: _cancel_refused, EventKind.EDIT_ASKED: _edit_asked,
            EventKind.EDIT: _edit, EventKind.EDIT_REFUSED: _edit_refused,
            EventKind.REJECT: _reject, EventKind.CLOSE: _close, EventKind.LOSE: _lose, **ends,
        }.items():  # fmt: skip
            rows[phase, kind] = handler
    rows[Phase.UNKNOWN, EventKind.LOSE] = _again
    for phase in Phase:
        rows[phase, EventKind.FILL] = _fill  # the venue is right, in whatever phase
    for phase in TERMINAL - {Phase.DENIED}:
        rows[phase, EventKind.ACK] = _late_ack
    return rows


#: (phase, kind of event) -> what it does. Total: every pair has its entry.
TABLE: dict[tuple[Phase, EventKind], Handler] = _table()
