"""The register: every order as the journal has it, and what follows when something happens to one.

Whatever happens is journaled, folded and told, in that order; but that a venue has an order, which
it would say again to whoever asks, is told before it is (docs/adr/0009): on paper that is what
stands again. Limits and triggers are told how an order stands now; what that means for others is
handed to ``follow``. Callers have the order's turn.

It is bounded by what is open: of the orders that have ended it holds the newest, as the journal's
standing does, and the others are found in the journal when something is heard of them after all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from piker import clock
from piker.clearing.accounts import Accounts
from piker.clearing.dark import DarkBook
from piker.clearing.denials import Denial
from piker.clearing.journal import Journal
from piker.clearing.lifecycle import (
    Event,
    EventKind,
    OrderState,
    Phase,
    Problem,
    Share,
    Step,
    begin,
    step,
)
from piker.clearing.linked import Due, Tied, Ties, due, share_of
from piker.clearing.news import News
from piker.clearing.paper import stands_again
from piker.clearing.records import Duplicate, Happened, Intent, Note, Record
from piker.clearing.requests import Box, client_id_of, status_of
from piker.clearing.standing import ENDED_KEPT
from piker.log import get_logger
from piker.market import MktPair
from piker.orders import (
    BrokerdError,
    BrokerdFill,
    BrokerdOrderAck,
    BrokerdStatus,
    Order,
    Status,
)

__all__ = ["AT_VENUE", "OfOrder", "Register", "event_of"]

log = get_logger("ems")
ZERO = Decimal(0)
SLACK = 256  # times of orders that have ended, kept beyond as many as there are live ones
FOREIGN_KEPT = 10_000  # ids that are not ours: of whoever else trades on an account, a day's
TOGETHER_NS = 10 * clock.NS  # orders of one group come within so long
TERMS = ("size", "price", "trigger", "trail")  # what an edit may change
AT_VENUE = frozenset({Phase.PENDING, Phase.OPEN, Phase.PARTIAL, Phase.UNKNOWN})
SAID_AGAIN = frozenset({EventKind.ACK, EventKind.OPEN})  # after a crash: the venue is asked anyway
# Bound once, as in lifecycle.py.
_DARK, _PENDING = Phase.DARK, Phase.PENDING
_DENY, _SUBMIT, _FILL = EventKind.DENY, EventKind.SUBMIT, EventKind.FILL
_ACK, _EDIT = EventKind.ACK, EventKind.EDIT
_NOTHING = (Problem.DUPLICATE, Problem.ILLEGAL)
OfOrder = BrokerdOrderAck | BrokerdStatus | BrokerdFill | BrokerdError


_STATUS_EVENTS = {
    "open": EventKind.OPEN,
    "closed": EventKind.CLOSE,
    "canceled": EventKind.CANCEL,
    "expired": EventKind.EXPIRE,
    "rejected": EventKind.REJECT,
    "unknown": EventKind.LOSE,
}
_REFUSALS = {
    "order": EventKind.REJECT,
    "edit": EventKind.EDIT_REFUSED,
    "cancel": EventKind.CANCEL_REFUSED,
}


def event_of(told: OfOrder, now: int) -> Event | None:
    """Return the event of an order that a backend tells, or None for a word that is none."""
    match told:
        case BrokerdOrderAck():
            kind = _EDIT if told.request == "edit" else _ACK
            return Event(kind=kind, time_ns=now, reqid=told.reqid)
        case BrokerdFill():
            return Event(
                kind=_FILL, time_ns=told.broker_time_ns or told.time_ns, tid=told.tid,
                size=told.size, price=told.price, fee=told.fee, fee_asset=told.fee_asset,
                reqid=told.reqid, moved=told.moved,
            )  # fmt: skip
        case BrokerdStatus():
            known = _STATUS_EVENTS.get(told.status)
            if known is None:
                log.warning("ems.status", oid=told.oid, status=told.status)
                return None
            return Event(
                kind=known, time_ns=now, reqid=told.reqid, size=told.filled, reason=told.reason
            )
        case BrokerdError():
            refusal = _REFUSALS.get(told.request, EventKind.REJECT)
            return Event(kind=refusal, time_ns=now, reason=told.reason)


def _stands(told: OfOrder) -> bool:
    """Tell whether a word of an order's proves that its venue has it."""
    if isinstance(told, BrokerdStatus):
        return told.status == "open"
    return isinstance(told, BrokerdOrderAck | BrokerdFill)


def _with_terms(event: Event, told: OfOrder, state: OrderState) -> Event:
    """Return the event of an edit with the terms that the venue has confirmed by it."""
    if not isinstance(told, BrokerdOrderAck) or told.terms is None:
        return event
    terms = {name: getattr(told.terms, name) for name in TERMS}
    for asked in (state.editing, state.wanted, state.order):
        if asked is not None and all(getattr(asked, name) == terms[name] for name in TERMS):
            return msgspec.structs.replace(event, order=asked)
    return msgspec.structs.replace(event, order=msgspec.structs.replace(state.order, **terms))


class Register:
    """The orders of one emsd, by oid, in ``orders``; what waits is in ``dark``."""

    def __init__(self, journal: Journal, follow: Callable[[str], None]) -> None:
        """Take the journal, and who looks again at orders that hang on one that has changed."""
        self.orders: dict[str, OrderState] = {}
        self.markets: dict[str, MktPair] = {}
        self.accounts = Accounts(journal.standing)
        self.dark = DarkBook()
        self.news = News()
        self.journal = journal
        #: Orders that were set free and are not sent yet, as they wait for their group to make
        #: room, or are to be sent again: by when they go all the same, None until that is known.
        self.unsent: dict[str, int | None] = {}
        self._follow = follow
        self._live: dict[str, None] = {}  # oids, first who came first
        self._ended: dict[str, None] = {}  # oids, first who ended first, or was asked for
        self._ties = Ties()
        self._groups: dict[tuple[str, str], int] = {}  # (account, name) -> how often it was used
        self._by_venue: dict[tuple[str, str], str] = {}  # (account, reqid or client id) -> oid
        self._reqids: dict[str, list[str]] = {}  # by oid: earlier ones, which edits have replaced
        self._foreign: dict[tuple[str, str], None] = {}  # (account, id) that the journal has not
        self._expiring: list[tuple[int, str]] = []  # a heap of (time, oid); some have ended

    # -- looking -------------------------------------------------------------------------------
    def take_up(self) -> None:
        """Have the orders that the journal comes to at hand; what waits is armed."""
        standing = self.journal.standing
        for state in (*standing.ended.values(), *standing.live.values()):
            self._put(state)
            self._count_group(state.order)
            if state.phase is Phase.DARK:
                self.dark.arm(state.order, seen=state.seen)
        self.dark.missed()  # whatever the market did meanwhile, nobody saw when

    async def recall(self, oid: str) -> OrderState | None:
        """Return an order, one that ended long ago too; None where there never was one."""
        known = self.orders.get(oid)
        if known is None:
            known = await self.journal.order(oid)
            if known is not None:
                self._put(known)
        return known

    def live(self, account: str = "", symbol: str = "") -> list[OrderState]:
        """Return the orders that have not ended, of an account and in a market where named."""
        states = [self.orders[oid] for oid in self._live]
        return [
            state for state in states
            if account in ("", state.order.account) and symbol in ("", state.order.symbol)
        ]  # fmt: skip

    def at_venue(self, account: str) -> list[OrderState]:
        """Return the orders that an account's venue has, or may have."""
        return [state for state in self.live(account) if self.is_at_venue(state)]

    def is_at_venue(self, state: OrderState) -> bool:
        """Tell whether an order's venue has it, or may have it."""
        return state.phase in AT_VENUE and state.order.oid not in self.unsent

    def oid_of(self, account: str, event: OfOrder) -> str:
        """Return whose event it is, by any of the ids that it carries; "" of a stranger's."""
        if event.oid:
            return event.oid
        by = self._by_venue
        return by.get((account, event.reqid)) or by.get((account, event.client_id)) or ""

    async def whose(self, account: str, fills: Sequence[BrokerdFill]) -> dict[str, str]:
        """Return the oids of fills that no order at hand claims, by the ids that they carry.

        They are looked for in the journal, as :meth:`Journal.find` does; others' only once.
        """
        names = {name for one in fills for name in (one.reqid, one.client_id) if name}
        asked = {name for name in names if (account, name) not in self._foreign}
        found = await self.journal.find(account, asked) if asked else {}
        for name in asked.difference(found):
            self._foreign[account, name] = None
            if len(self._foreign) > FOREIGN_KEPT:
                del self._foreign[next(iter(self._foreign))]
        return found

    def expired(self, now_ns: int) -> list[str]:
        """Return the oids whose time may be over, each once."""
        found = []
        while self._expiring and self._expiring[0][0] <= now_ns:
            found.append(heappop(self._expiring)[1])
        return found

    def in_group(self, order: Order) -> Order:
        """Return a new order with its group's name as it is journaled.

        Of a name that is used again when all of its orders have ended it says which time it is:
        what they traded is of no concern to the next ones. But not within ``TOGETHER_NS`` of them:
        whoever sends two one after the other does not wait for what becomes of the first, and the
        second is not to trade once more what that has traded. A bracket's exits are one by their
        parent.
        """
        if not order.oco or order.parent:
            return order
        key = (order.account, order.oco)
        named = msgspec.structs.replace(order, oco=_nth(order.oco, self._groups.get(key, 1)))
        known = [self.orders[oid] for oid in self._ties.of(named) if oid in self.orders]
        since_ns = clock.wall_ns() - TOGETHER_NS
        if known and all(one.is_over and one.taken_ns < since_ns for one in known):
            named = msgspec.structs.replace(
                order, oco=_nth(order.oco, self._groups.get(key, 1) + 1)
            )
        self._count_group(named)
        return named

    def _count_group(self, order: Order) -> None:
        if order.oco and not order.parent:
            name, _, number = order.oco.rpartition("#")
            if name and number.isdecimal():
                key = (order.account, name)
                self._groups[key] = max(int(number), self._groups.get(key, 1))

    def due(self, state: OrderState) -> Due | None:
        """Return what is to be done to an order as those that it hangs on stand."""
        tied = self._tied(state.order)
        return due(state, tied) if tied is not None else None

    def share(self, state: OrderState) -> Share | None:
        """Return what others have traded that concerns an order; None where it hangs on none."""
        tied = self._tied(state.order)
        return share_of(state, tied) if tied is not None else None

    def in_the_way(self, order: Order) -> list[str]:
        """Return who of an order's group stands at the venue on its side, and holds what it needs.

        A venue gives nothing twice: of a spot market both would sell the same coins.
        """
        tied = self._tied(order)
        return [
            other.order.oid for other in (tied.group if tied is not None else ())
            if other.phase in AT_VENUE
            and (other.order.symbol, other.order.side) == (order.symbol, order.side)
        ]  # fmt: skip

    def _tied(self, order: Order) -> Tied | None:
        oids = self._ties.of(order)
        if not oids:
            return None
        group: list[OrderState] = []
        children: list[OrderState] = []
        for oid in oids:
            other = self.orders.get(oid)
            if other is None or oid == order.oid:
                continue
            if other.order.parent == order.oid:
                children.append(other)
            elif order.oco and _group_of(other.order) == _group_of(order):
                group.append(other)
        return Tied(self.orders.get(order.parent), group, children, self.unsent)

    def as_exit(self, child: Order) -> Order:
        """Return a bracket's exit so that it closes, where both sides of a market are held apart.

        There an opposite order that is not reduce-only would open the other side.
        """
        account, parent = self.accounts.get(child.account), self.orders.get(child.parent)
        if account is None or parent is None or not account.desk.is_hedged(child.symbol):
            return child
        opened = parent.order
        if child.side != -opened.side or opened.reduce_only or opened.symbol != child.symbol:
            return child
        return msgspec.structs.replace(child, reduce_only=True)

    def mktid(self, fqme: str) -> str:
        """Return what a backend calls a market, one that is not open too."""
        mkt = self.markets.get(fqme)
        return mkt.mktid if mkt is not None else fqme.rpartition(".")[0]

    def status(
        self, state: OrderState, *, resp: str = "", seq: int = 0, box: Box = None, time_ns: int = 0
    ) -> Status:
        """Return what clients are told of an order, as :func:`status_of` has it."""
        account = self.accounts.get(state.order.account)
        src = account.link.name if account is not None else ""
        return status_of(state, src, resp=resp, seq=seq, box=box, time_ns=time_ns)

    # -- what happens --------------------------------------------------------------------------
    async def begin(self, order: Order, denial: Denial | None, actor: str) -> OrderState | None:
        """Journal an intent, denied or on its way; return it, None if its oid was used before."""
        now, event = clock.wall_ns(), None
        state = begin(order, now)
        if denial is not None:
            event = Event(kind=_DENY, time_ns=now, code=denial.code, reason=denial.reason)
        elif state.phase is _PENDING:
            event = Event(kind=_SUBMIT, time_ns=now)
        elif state.phase is _DARK and (at := self.dark.start_of(order)) is not None:
            event = Event(kind=EventKind.FOLLOW, time_ns=now, price=at)
        records = [_record(Intent(order), order, now, actor)]
        if event is not None:
            records.append(_record(Happened(event, order.symbol), order, now))
            state = step(state, event).state
        answers = await self.journal.append(records)
        if isinstance(answers[0], Duplicate):
            return None
        self._put(state)
        self._settle(state, state)
        seq = answers[-1]
        self.news.tell(self.status(state, seq=seq if isinstance(seq, int) else 0, time_ns=now))
        return state

    async def happen(
        self, oid: str, kind: EventKind, *, actor: str = "", reason: str = "", **fields: Any
    ) -> None:
        """Let something happen to an order that emsd itself decides; ``fields`` are its event's."""
        now = clock.wall_ns()
        event = Event(kind=kind, time_ns=now, reason=reason, **fields)
        await self._fold(oid, [(event, None)], actor, now)

    async def hear(self, oid: str, told: Sequence[OfOrder]) -> None:
        """Let what a backend tells of an order happen to it: all of it in one commit."""
        now, state = clock.wall_ns(), self.orders[oid]
        if oid in self.unsent and any(map(_stands, told)):
            del self.unsent[oid]  # its venue has it after all
        events: list[tuple[Event, OfOrder | None]] = []
        for one in told:
            event = event_of(one, now)
            if event is not None:
                events.append((_with_terms(event, one, state), one))
        await self._fold(oid, events, "", now)

    async def _fold(
        self, oid: str, events: list[tuple[Event, OfOrder | None]], actor: str, now: int
    ) -> None:
        """Journal events of an order, fold those that were new, and tell what they changed."""
        before = state = self.orders[oid]
        symbol = state.order.symbol
        records: list[Record] = []
        kept: list[tuple[Event, OfOrder | None, OrderState, Step]] = []
        for event, told in events:
            after, kind = step(state, event), event.kind
            if kind is not _FILL:
                if after.problem in _NOTHING:
                    continue  # nothing that a restart would need
                if kind is not _SUBMIT and after.state == state:
                    continue
            by = "broker" if kind is _FILL else actor
            records.append(_record(Happened(event, symbol), state.order, now, by))
            kept.append((event, told, state, after))
            state = after.state
        if self._is_said_again(before.order, [one[0].kind for one in kept]):
            self.journal.post(records)
            for event, told, was, after in kept:
                self._apply(was, after.state, event, told, 0, now)
            return
        answers = await self.journal.append(records)
        for (event, told, was, after), answer in zip(kept, answers, strict=True):
            if isinstance(answer, Duplicate):
                continue
            if was is not before:  # one before it was not new
                after = step(before, event)
            self._apply(before, after.state, event, told, answer, now)
            is_cut = told is not None and _is_cut_short(before, after.state)
            before = after.state
            if after.problem is not None:
                await self._doubt(before, after.problem)
            if is_cut:
                what = f"{before.filled} of {before.order.size} were filled; {before.reason}"
                await self.note(before.order, "cut-short", what)
            if event.kind is _FILL and before.is_over:
                self.news.tell(self.status(before, seq=answer))

    def _is_said_again(self, order: Order, kinds: list[EventKind]) -> bool:
        """Tell whether an order's venue would say all of it again after a crash."""
        if not SAID_AGAIN.issuperset(kinds):
            return False
        account = self.accounts.get(order.account)
        return account is not None and (account.is_live or stands_again(order))

    def _apply(
        self, before: OrderState, state: OrderState, event: Event, told: OfOrder | None, seq: int,
        now: int,
    ) -> None:  # fmt: skip
        """Take what a journaled event came to; do and tell what follows from it."""
        self._put(state, before)
        if isinstance(told, BrokerdFill) and state.filled != before.filled and state.order.side:
            desk, fee, asset = self.accounts[state.order.account].desk, told.fee, told.fee_asset
            desk.filled(state.order, told.size, told.price, fee, fee_asset=asset, time_ns=now)
        self._settle(before, state)
        box = told if not isinstance(told, BrokerdOrderAck) else None
        if event.kind is _FILL:
            self.news.tell(self.status(state, resp="fill", seq=seq, box=box, time_ns=now))
        elif state != before:
            status = self.status(state, seq=seq, box=box, time_ns=now)
            if event.kind is EventKind.EDIT_REFUSED:
                status = msgspec.structs.replace(status, edit=before.editing)
            self.news.tell(status)

    async def _doubt(self, state: OrderState, problem: Problem) -> None:
        """Keep what is wrong with an order."""
        if problem is Problem.OVERFILL:
            await self.note(state.order, "overfill", f"{state.filled} of {state.order.size}")
        elif problem is Problem.MISSING_FILLS:
            await self.note(state.order, "missing-fills", f"{state.filled} were seen")

    async def note(self, order: Order, about: str, text: str) -> None:
        """Keep something about an order that changes nothing of it."""
        log.error("ems." + about, oid=order.oid, symbol=order.symbol, text=text)
        note = _record(Note(about, text), order, clock.wall_ns())
        await self.journal.append([note])

    async def strangers(self, told: Sequence[OfOrder]) -> None:
        """Keep fills of an order that is not ours: somebody else trades on this account."""
        log.warning("ems.stranger", told=str(told[0]))
        for fill in told:
            if isinstance(fill, BrokerdFill):
                text = f"{fill.action} {fill.size} {fill.symbol} at {fill.price}"
                note = Note("stranger", text, {"tid": fill.tid, "reqid": fill.reqid})
                record = Record(
                    entry=note, time_ns=clock.wall_ns(), account=fill.account, actor="broker"
                )
                await self.journal.append([record])

    # -- inside --------------------------------------------------------------------------------
    def _put(self, state: OrderState, before: OrderState | None = None) -> None:
        """Have an order at hand, by all its ids; let go of the one that ended longest ago."""
        order = state.order
        oid = order.oid
        self.orders[oid] = state
        if before is None or before.order is not order:
            self._know(order, before)
        if state.reqid and (before is None or before.reqid != state.reqid):
            self._by_venue[order.account, state.reqid] = oid
            self._foreign.pop((order.account, state.reqid), None)
            if before is not None and before.reqid:
                self._reqids.setdefault(oid, []).append(before.reqid)
        if not state.is_over:
            if oid not in self._live:
                self._ended.pop(oid, None)
                self._live[oid] = None
        elif oid not in self._ended:
            self._live.pop(oid, None)
            self.unsent.pop(oid, None)
            self._ended[oid] = None
            if len(self._ended) > ENDED_KEPT:
                self._forget(next(iter(self._ended)))

    def _know(self, order: Order, before: OrderState | None) -> None:
        """Know an order's client id, what it hangs on, and when its time is over."""
        if before is None:
            self._by_venue[order.account, client_id_of(order.oid)] = order.oid
        else:
            self._ties.drop(before.order)
        self._ties.add(order)
        if order.expire_ns is None or (before is not None and before.is_over):
            return
        heappush(self._expiring, (order.expire_ns, order.oid))
        if len(self._expiring) > 2 * len(self._live) + SLACK:
            self._expiring = [one for one in self._expiring if one[1] in self._live]
            heapify(self._expiring)

    def _forget(self, oid: str) -> None:
        """Let go of an order that has ended, and of all its ids."""
        order, reqid = self.orders[oid].order, self.orders[oid].reqid
        for name in (client_id_of(oid), reqid, *self._reqids.pop(oid, ())):
            self._by_venue.pop((order.account, name), None)
        self._ties.drop(order)
        del self.orders[oid], self._ended[oid]

    def _settle(self, before: OrderState, after: OrderState) -> None:
        """Tell the limits and the dark book how an order stands, and others what it means."""
        order, at_venue = after.order, after.phase in AT_VENUE
        moved = before is after or before.order is not order
        if (
            moved
            or at_venue is not (before.phase in AT_VENUE)
            or before.filled is not after.filled
            or before.editing is not after.editing
            or before.wanted is not after.wanted
        ):
            account = self.accounts.get(order.account)
            if account is not None:
                account.stands(after, at_venue=at_venue)
        if after.phase is _DARK:
            if moved or before.phase is not _DARK:
                self.dark.arm(order, seen=after.seen)
        elif before.phase is _DARK:
            self.dark.disarm(order)
        if before is after or before.phase is not after.phase or before.filled != after.filled:
            self.follow_others(order)

    def follow_others(self, order: Order) -> None:
        """Have whatever hangs on an order, or with it on another, looked at again."""
        for oid in self._ties.of(order):
            self._follow(oid)


def _is_cut_short(before: OrderState, after: OrderState) -> bool:
    """Tell whether a venue ended by itself what emsd had set free: a stop that left a rest."""
    ended = after.is_over and not before.is_over and after.filled < after.order.size
    return ended and after.freed and not after.cancel_called


def _group_of(order: Order) -> tuple[str, str, str]:
    return order.account, order.parent, order.oco


def _nth(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"


def _record(entry: Intent | Happened | Note, order: Order, now: int, actor: str = "") -> Record:
    return Record(
        entry=entry, time_ns=now, account=order.account, oid=order.oid, actor=actor or "emsd"
    )
