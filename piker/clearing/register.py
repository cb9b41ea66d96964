"""The register: every order as the journal has it, and what follows when something happens to one.

Whatever happens is journaled, folded and told, in that order; but that a venue has an order, which
it would say again to whoever asks, is told while it is journaled (docs/adr/0009). Limits and
triggers are told how an order stands now; what that means for others is handed to ``follow``.
Callers hold the order's lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from heapq import heappop, heappush
from typing import Any

from piker import clock
from piker.clearing.accounts import Accounts
from piker.clearing.dark import DarkBook
from piker.clearing.denials import Denial
from piker.clearing.journal import Journal
from piker.clearing.lifecycle import Event, EventKind, OrderState, Phase, Problem, begin, step
from piker.clearing.linked import Consequence, Ties, consequences
from piker.clearing.news import News
from piker.clearing.records import Duplicate, Happened, Intent, Note, Record
from piker.clearing.requests import Box, client_id_of, status_of
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
AT_VENUE = frozenset({Phase.PENDING, Phase.OPEN, Phase.PARTIAL, Phase.UNKNOWN})
SAID_AGAIN = frozenset({EventKind.ACK, EventKind.OPEN})  # after a crash: the venue is asked anyway
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


def event_of(told: OfOrder) -> Event | None:
    """Return the event of an order that a backend tells, or None for a word that is none."""
    now = clock.wall_ns()
    match told:
        case BrokerdOrderAck():
            kind = EventKind.EDIT if told.request == "edit" else EventKind.ACK
            return Event(kind=kind, time_ns=now, reqid=told.reqid)
        case BrokerdFill():
            return Event(
                kind=EventKind.FILL, time_ns=told.broker_time_ns or told.time_ns, tid=told.tid,
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


class Register:
    """All orders of one emsd, by oid, in ``orders``; what waits is in ``dark``."""

    def __init__(self, journal: Journal, follow: Callable[[Consequence], None]) -> None:
        """Take the journal, and what is to be done about orders that hang on others."""
        self.orders: dict[str, OrderState] = {}
        self.markets: dict[str, MktPair] = {}
        self.accounts = Accounts(journal.standing)
        self.dark = DarkBook()
        self.news = News()
        self.journal = journal
        self._follow = follow
        self._ties = Ties()
        self._by_venue: dict[tuple[str, str], str] = {}  # (account, reqid or client id) -> oid
        self._expiring: list[tuple[int, str]] = []  # a heap of (time, oid)

    # -- looking -------------------------------------------------------------------------------
    def take_up(self) -> None:
        """Have the orders that the journal comes to at hand; what waits is armed."""
        standing = self.journal.standing
        self.orders = {**standing.ended, **standing.live}
        for state in self.orders.values():
            self._remember(state)
            if state.phase is Phase.DARK:
                self.dark.arm(state.order, seen=state.seen)
        self.dark.missed()  # whatever the market did meanwhile, nobody saw when

    async def recall(self, oid: str) -> OrderState | None:
        """Return an order, one that ended long ago too; None where there never was one."""
        if oid not in self.orders:
            state = await self.journal.order(oid)
            if state is not None:
                self.orders[oid] = state
        return self.orders.get(oid)

    def live(self, account: str = "", symbol: str = "") -> list[OrderState]:
        """Return the orders that have not ended, of an account and in a market where named."""
        return [
            state for state in self.orders.values()
            if not state.is_over and account in ("", state.order.account)
            and symbol in ("", state.order.symbol)
        ]  # fmt: skip

    def at_venue(self, account: str) -> list[OrderState]:
        """Return the orders that an account's venue has, or may have."""
        return [state for state in self.live(account) if state.phase in AT_VENUE]

    def oid_of(self, account: str, event: OfOrder) -> str:
        """Return whose event it is, by any of the ids that it carries; "" of a stranger's."""
        by = self._by_venue
        known = by.get((account, event.reqid)) or by.get((account, event.client_id))
        return event.oid or known or ""

    def expired(self, now_ns: int) -> list[str]:
        """Return the oids whose time may be over, each once."""
        found = []
        while self._expiring and self._expiring[0][0] <= now_ns:
            found.append(heappop(self._expiring)[1])
        return found

    def mktid(self, fqme: str) -> str:
        """Return what a backend calls a market, one that is not open too."""
        mkt = self.markets.get(fqme)
        return mkt.mktid if mkt is not None else fqme.rpartition(".")[0]

    def status(self, state: OrderState, *, resp: str = "", seq: int = 0, box: Box = None) -> Status:
        """Return what clients are told of an order."""
        account = self.accounts.get(state.order.account)
        src = account.link.name if account is not None else ""
        return status_of(state, src, resp=resp, seq=seq, box=box)

    # -- what happens --------------------------------------------------------------------------
    async def begin(self, order: Order, denial: Denial | None, actor: str) -> OrderState | None:
        """Journal an intent, denied or on its way; return it, None if its oid was used before."""
        now = clock.wall_ns()
        records = [_record(Intent(order), order, now, actor)]
        if denial is not None:
            event = Event(kind=EventKind.DENY, time_ns=now, code=denial.code, reason=denial.reason)
            records.append(_record(Happened(event, order.symbol), order, now))
        elif begin(order).phase is Phase.PENDING:
            event = Event(kind=EventKind.SUBMIT, time_ns=now)
            records.append(_record(Happened(event, order.symbol), order, now))
        answers = await self.journal.append(records)
        if isinstance(answers[0], Duplicate):
            return None
        state = begin(order, now)
        for record in records[1:]:
            assert isinstance(record.entry, Happened)
            state = step(state, record.entry.event).state
        self.orders[order.oid] = state
        self._remember(state)
        self._settle(state, state)
        seq = answers[-1]
        self.news.tell(self.status(state, seq=seq if isinstance(seq, int) else 0))
        return state

    async def happen(
        self, oid: str, kind: EventKind, *, actor: str = "", reason: str = "", **fields: Any
    ) -> None:
        """Let something happen to an order that emsd itself decides; ``fields`` are its event's."""
        event = Event(kind=kind, time_ns=clock.wall_ns(), reason=reason, **fields)
        await self._fold(oid, [(event, None)], actor)

    async def hear(self, oid: str, told: Sequence[OfOrder]) -> None:
        """Let what a backend tells of an order happen to it: all of it in one commit."""
        events = [(event_of(one), one) for one in told]
        await self._fold(oid, [(event, one) for event, one in events if event is not None], "")

    async def _fold(self, oid: str, events: list[tuple[Event, OfOrder | None]], actor: str) -> None:
        """Journal events of an order, fold those that were new, and tell what they changed."""
        state = self.orders[oid]
        order, records, kept = state.order, [], []
        for event, told in events:
            after = step(state, event)
            if event.kind is not EventKind.FILL:
                if after.problem in (Problem.DUPLICATE, Problem.ILLEGAL):
                    continue  # nothing that a restart would need
                if after.state == state and event.kind is not EventKind.SUBMIT:
                    continue
            state = after.state
            by = "broker" if event.kind is EventKind.FILL else actor
            records.append(_record(Happened(event, order.symbol), order, clock.wall_ns(), by))
            kept.append((event, told))
        if SAID_AGAIN.issuperset(event.kind for event, _ in kept):
            for (event, told), record in zip(kept, records, strict=True):
                await self._apply(oid, event, told, 0, record.time_ns)
            await self.journal.append(records)
            return
        answers = await self.journal.append(records)
        for (event, told), record, answer in zip(kept, records, answers, strict=True):
            if not isinstance(answer, Duplicate):
                await self._apply(oid, event, told, answer, record.time_ns)

    async def _apply(
        self, oid: str, event: Event, told: OfOrder | None, seq: int, time_ns: int
    ) -> None:
        """Fold a journaled event, and do and tell what follows from it."""
        before = self.orders[oid]
        after = step(before, event)
        state = self.orders[oid] = after.state
        self._remember(state, before)
        if isinstance(told, BrokerdFill) and state.filled != before.filled and state.order.side:
            desk, fee, asset = self.accounts[state.order.account].desk, told.fee, told.fee_asset
            desk.filled(state.order, told.size, told.price, fee, fee_asset=asset, time_ns=time_ns)
        self._settle(before, state)
        box = told if not isinstance(told, BrokerdOrderAck) else None
        if event.kind is EventKind.FILL:
            self.news.tell(self.status(state, resp="fill", seq=seq, box=box))
        elif state != before:
            self.news.tell(self.status(state, seq=seq, box=box))
        if after.problem is Problem.OVERFILL:
            await self.note(state.order, "overfill", f"{state.filled} of {state.order.size}")
        elif after.problem is Problem.MISSING_FILLS:
            await self.note(state.order, "missing-fills", f"{state.filled} were seen")
        if event.kind is EventKind.FILL and state.is_over:
            self.news.tell(self.status(state, seq=seq))

    async def note(self, order: Order, about: str, text: str) -> None:
        """Keep something about an order that changes nothing of it."""
        log.error("ems." + about, oid=order.oid, symbol=order.symbol, text=text)
        note = _record(Note(about, text), order, clock.wall_ns())
        await self.journal.append([note])

    # -- inside --------------------------------------------------------------------------------
    def _remember(self, state: OrderState, before: OrderState | None = None) -> None:
        """Know an order by all its ids, and when its time is over."""
        order = state.order
        if state.reqid:
            self._by_venue[order.account, state.reqid] = order.oid
        if before is not None and before.order == order:
            return
        self._by_venue[order.account, client_id_of(order.oid)] = order.oid
        self._ties.add(order)
        if order.expire_ns is not None and not state.is_over:
            heappush(self._expiring, (order.expire_ns, order.oid))

    def _settle(self, before: OrderState, after: OrderState) -> None:
        """Tell the limits and the dark book how an order stands, and others what it means."""
        order, account = after.order, self.accounts.get(after.order.account)
        if account is not None:
            account.stands(after, at_venue=after.phase in AT_VENUE)
        if after.phase is Phase.DARK:
            if before.phase is not Phase.DARK or before.order != order or before is after:
                self.dark.arm(order, seen=after.seen)
        else:
            self.dark.disarm(order)
        others = [self.orders[oid] for oid in self._ties.of(order) if oid in self.orders]
        for one in consequences(before, after, others):
            self._follow(one)


def _record(entry: Intent | Happened | Note, order: Order, now: int, actor: str = "") -> Record:
    return Record(
        entry=entry, time_ns=now, account=order.account, oid=order.oid, actor=actor or "emsd"
    )
