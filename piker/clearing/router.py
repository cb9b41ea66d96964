"""One router for all providers: intents in, the truth about them out.

Whatever happens to an order is journaled, folded and told, in that order: a client is told nothing
that a crash could take back, and a venue is sent nothing that the journal does not know. Events of
one order are handled one after the other, those of different orders share a commit.

The router knows no actor, socket or feed. Backends are :class:`Link`, clients are whoever listens
(:meth:`Router.listen`), prices are told to it (:meth:`Router.price`), time is :mod:`piker.clock`'s.
"""

from __future__ import annotations

from base64 import b32encode
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import blake2b
from typing import Protocol

import trio

from piker import clock
from piker.clearing.dark import DarkBook, Met, released
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.journal import Journal
from piker.clearing.lifecycle import Event, EventKind, OrderState, Phase, Problem, begin, step
from piker.clearing.linked import Consequence, What, consequences
from piker.clearing.records import Duplicate, Happened, Intent, Note, Record, RiskChange
from piker.clearing.risk import RiskApproved, RiskDesk, TradingState
from piker.clearing.validate import senseless
from piker.errors import PikerError
from piker.log import get_logger
from piker.market import MktPair
from piker.orders import (
    Action,
    BrokerdBalance,
    BrokerdCancel,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdPosition,
    BrokerdRequest,
    BrokerdStatus,
    BrokerdSync,
    Cancel,
    EmsMessage,
    Order,
    Status,
)
from piker.ticks import TickType

__all__ = ["AT_VENUE", "Link", "Router", "client_id_of"]

log = get_logger("ems")
ZERO = Decimal(0)

AT_VENUE = frozenset({Phase.PENDING, Phase.OPEN, Phase.PARTIAL, Phase.UNKNOWN})
_OfOrder = BrokerdOrderAck | BrokerdStatus | BrokerdFill | BrokerdError
NEWS = 4096  # statuses that wait for a client; one that reads slower is let go and told
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


def client_id_of(oid: str) -> str:
    """Return the id that a venue is given for an order: the same at every retry and restart.

    ``pk`` and 26 letters and digits of the oid's BLAKE2b: it fits the rules of Binance (36 of
    ``[a-zA-Z0-9-_]``) and Kraken (18 free characters or a UUID: its backend maps it).
    """
    return "pk" + b32encode(blake2b(oid.encode(), digest_size=16).digest()).decode()[:26].lower()


def _ties(order: Order) -> list[str]:
    """Return what ties an order to others: its parent's oid, and its group."""
    group = f"{order.account} {order.oco}"  # no oid has a space: it would be no oid of ours
    return [tie for tie in (order.parent, group if order.oco else "") if tie]


class Link(Protocol):
    """The way to one provider's broker, live or paper. ``name`` is the ``src`` of its statuses."""

    name: str

    async def send(self, request: BrokerdRequest) -> None:
        """Hand a request over; what becomes of it comes back as events."""


class Router:
    """All orders of one emsd. ``orders`` are the folded states, by oid."""

    def __init__(
        self, journal: Journal, links: Mapping[str, Link], desks: Mapping[str, RiskDesk],
        nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        """Take the journal, links and risk desks by account, and where events are worked off."""
        self.orders: dict[str, OrderState] = {}
        self.positions: dict[tuple[str, str], BrokerdPosition] = {}
        self._journal = journal
        self._links = links
        self._desks = desks
        self._markets: dict[str, MktPair] = {}
        self.dark = DarkBook()
        self._nursery = nursery
        self._heard: defaultdict[str, deque[_OfOrder]] = defaultdict(deque)
        self._lanes: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._tied: defaultdict[str, set[str]] = defaultdict(set)  # parent or group -> oids
        self._by_venue: dict[tuple[str, str], str] = {}  # (account, reqid or client id) -> oid
        self._clients: list[trio.MemorySendChannel[EmsMessage]] = []

    # -- starting ------------------------------------------------------------------------------
    def know(self, mkt: MktPair) -> None:
        """Take a market in; orders in others are denied."""
        self._markets[mkt.fqme] = mkt
        for desk in self._desks.values():
            desk.know(mkt)

    async def recover(self) -> list[OrderState]:
        """Take up what the journal comes to; return the orders whose fate only their venue knows.

        An account is as halted as it was. Nothing is sent. What was on its way to a venue when the
        last emsd ended is UNKNOWN until its backend has said otherwise.
        """
        standing = self._journal.standing
        self.orders = {**standing.ended, **standing.live}
        for account, change in standing.risk.items():
            if account in self._desks:
                self._desks[account].state = TradingState(change.state)
        doubtful = []
        for oid, state in self.orders.items():
            self._remember(oid, state)
            if state.phase in AT_VENUE:
                self._stand(state)
                doubtful.append(oid)
            elif state.phase is Phase.DARK:
                self.dark.arm(state.order)
        self.dark.missed()  # whatever the market did meanwhile, nobody saw when
        for oid in doubtful:
            if self.orders[oid].phase is Phase.PENDING:
                await self._happen(oid, EventKind.LOSE, reason="emsd was started again")
        return [self.orders[oid] for oid in doubtful]

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[trio.MemoryReceiveChannel[EmsMessage]]:
        """Give every status and position from now on; the channel ends for who reads too slowly."""
        send, receive = trio.open_memory_channel[EmsMessage](NEWS)
        self._clients.append(send)
        try:
            with receive:
                yield receive
        finally:
            if send in self._clients:
                self._clients.remove(send)
            send.close()

    def dialogs(self) -> list[Status]:
        """Return the status of every order that has not ended: what a late client needs."""
        return [self._status(state) for state in self.orders.values() if not state.is_over]

    def price(self, fqme: str, price: Decimal, time_ns: int) -> None:
        """Take a market's price, for the limits."""
        for desk in self._desks.values():
            desk.price(fqme, price, time_ns)

    def see(self, fqme: str, kind: TickType, side: int, price: Decimal) -> None:
        """Take a price that may meet what waits in the dark, as :meth:`DarkBook.see` does."""
        for oid, met in self.dark.see(fqme, kind, side, price):
            self._nursery.start_soon(self._met, oid, met)

    # -- clients -------------------------------------------------------------------------------
    async def order(self, order: Order, actor: str = "") -> None:
        """Take an intent, or an edit of one: journal it, then send it. Its statuses are told.

        Returns when it is on its way, or denied. A link that is gone leaves it UNKNOWN: whether
        the venue has it is asked when the link is back.
        """
        async with self._lanes[order.oid]:
            state = self.orders.get(order.oid)
            if state is None:  # the journal knows whether it ended long ago
                await self._begin(order, actor)
            elif state.is_over:
                what = f"order {order.oid} has ended: {state.phase}."
                self._refuse(order, Denial(DenialCode.DUPLICATE_ID, what))
            else:
                await self._edit(state, order, actor)

    async def cancel(self, cancel: Cancel, actor: str = "") -> None:
        """Take an order back; never denied but for one that is not there or has ended."""
        async with self._lanes[cancel.oid]:
            state = self.orders.get(cancel.oid)
            if state is None or state.is_over:
                code = DenialCode.UNKNOWN_ORDER if state is None else DenialCode.ORDER_OVER
                what = "there is no such order" if state is None else f"it has ended: {state.phase}"
                self._tell(
                    Status(oid=cancel.oid, resp="error", time_ns=clock.wall_ns(), code=code,
                           reason=f"{what}.")
                )  # fmt: skip
                return
            await self._cancel(state, actor)

    async def halt(self, account: str, state: TradingState, reason: str, actor: str = "") -> None:
        """Set what an account may do. Halting takes effect at once and is journaled then.

        With HALTED every order of the account is canceled; it stays so until set otherwise.
        """
        self._desks[account].state = state
        await self._journal.append([
            Record(
                entry=RiskChange(state, reason), time_ns=clock.wall_ns(), account=account,
                actor=actor or "emsd",
            )
        ])  # fmt: skip
        if state is TradingState.HALTED:
            for oid, one in list(self.orders.items()):
                if one.order.account == account and not one.is_over:
                    await self.cancel(Cancel(oid=oid, symbol=one.order.symbol), actor)

    # -- backends ------------------------------------------------------------------------------
    def hear(self, account: str, event: BrokerdEvent) -> None:
        """Take what an account's backend says, in its order: journal it, fold it, tell it.

        Never blocks; events of one order wait for each other, not for those of others.
        """
        if isinstance(event, BrokerdPosition):
            self.positions[account, event.symbol] = event
            self._desks[account].position(event.symbol, event.size)
            self._tell(event)
            return
        if isinstance(event, BrokerdBalance | BrokerdSync):
            return
        oid = self._oid_of(account, event)
        heard = self._heard[oid]
        heard.append(event)
        if len(heard) == 1:
            self._nursery.start_soon(self._work, oid, heard)

    async def _work(self, oid: str, heard: deque[_OfOrder]) -> None:
        """Handle an order's events until there are no more."""
        while heard:
            async with self._lanes[oid]:
                if await self._recall(oid):
                    await self._hear(oid, heard[0])
                else:
                    log.warning("ems.stranger", oid=oid, told=str(heard[0]))
            heard.popleft()
        self._heard.pop(oid, None)

    async def lost(self, account: str, why: str) -> None:
        """Say that an account's link is gone: what was on its way is UNKNOWN."""
        for oid, state in list(self.orders.items()):
            if state.order.account == account and state.phase is Phase.PENDING:
                async with self._lanes[oid]:
                    await self._happen(oid, EventKind.LOSE, reason=why)

    # -- orders --------------------------------------------------------------------------------
    async def _begin(self, order: Order, actor: str) -> None:
        judged = self._judge(order)
        now = clock.wall_ns()
        records = [self._record(Intent(order), order, now, actor)]
        if isinstance(judged, Denial):
            event = Event(kind=EventKind.DENY, time_ns=now, code=judged.code, reason=judged.reason)
            records.append(self._record(Happened(event, order.symbol), order, now, "emsd"))
        elif begin(order).phase is Phase.PENDING:
            event = Event(kind=EventKind.SUBMIT, time_ns=now)
            records.append(self._record(Happened(event, order.symbol), order, now, "emsd"))
        answers = await self._journal.append(records)
        if isinstance(answers[0], Duplicate):
            what = f"the oid {order.oid} was used before."
            self._refuse(order, Denial(DenialCode.DUPLICATE_ID, what))
            return
        state = begin(order)
        for record in records[1:]:
            assert isinstance(record.entry, Happened)
            state = step(state, record.entry.event).state
        self.orders[order.oid] = state
        self._remember(order.oid, state)
        self._settle(state, state)
        self._tell(self._status(state))
        if state.phase is Phase.PENDING:
            await self._send(state, self._request(state.order, ""))

    async def _edit(self, state: OrderState, order: Order, actor: str) -> None:
        judged = self._judge(order)
        if isinstance(judged, Denial):
            self._refuse(order, judged)
            return
        await self._happen(order.oid, EventKind.EDIT_ASKED, actor=actor, order=order)
        if state.phase in AT_VENUE:
            await self._send(state, self._request(order, state.reqid))

    async def _cancel(self, state: OrderState, actor: str, reason: str = "by its client") -> None:
        order = state.order
        if state.phase not in AT_VENUE:
            await self._happen(order.oid, EventKind.CANCEL, actor=actor, reason=reason)
            return
        await self._happen(order.oid, EventKind.CANCEL_ASKED, actor=actor, reason=reason)
        request = BrokerdCancel(
            oid=order.oid, client_id=client_id_of(order.oid), account=order.account,
            symbol=self._mktid(order.symbol), time_ns=clock.wall_ns(), reqid=state.reqid,
        )  # fmt: skip
        await self._send(state, request)

    async def _met(self, oid: str, met: Met) -> None:
        """Send an order whose trigger was met, if it still waits and limits let it through."""
        async with self._lanes[oid]:
            state = self.orders[oid]
            if state.phase is not Phase.DARK:
                return
            how = f"{met.price} met {met.trigger}" + (", across a gap" if met.across_gap else "")
            if state.order.action is Action.ALERT:
                await self._happen(oid, EventKind.TRIGGER, reason=how, price=met.price)
            else:
                await self._free(state, EventKind.TRIGGER, released(state.order), how, met.price)

    async def _follow(self, consequence: Consequence) -> None:
        """Do to another order what a change of one means for it."""
        async with self._lanes[consequence.oid]:
            state = self.orders[consequence.oid]
            if state.is_over:
                return
            order = consequence.order
            if consequence.what is What.CANCEL or order is None:
                await self._cancel(state, "emsd", consequence.reason)
            elif consequence.what is What.RESIZE:
                await self._edit(state, order, "emsd")
            elif state.phase is Phase.HELD:
                await self._free(state, EventKind.RELEASE, order, consequence.reason)

    async def _free(
        self, state: OrderState, kind: EventKind, order: Order, how: str, price: Decimal = ZERO
    ) -> None:
        """Let an order go that waited: to the dark book, to its venue, or no further."""
        judged = self._judge(order)
        if isinstance(judged, Denial):
            await self._happen(
                order.oid, EventKind.DENY, code=judged.code, reason=f"{how}; {judged.reason}"
            )
            return
        await self._happen(order.oid, kind, order=order, reason=how, price=price)
        freed = self.orders[order.oid]
        if freed.phase is Phase.PENDING:
            await self._happen(order.oid, EventKind.SUBMIT)
            await self._send(freed, self._request(freed.order, ""))

    async def _recall(self, oid: str) -> bool:
        """Have an order at hand, one that ended long ago too; tell whether there is such a one."""
        if oid not in self.orders:
            state = await self._journal.order(oid)
            if state is not None:
                self.orders[oid] = state
        return oid in self.orders

    async def _hear(self, oid: str, event: _OfOrder) -> None:
        state = self.orders[oid]
        match event:
            case BrokerdOrderAck():
                kind = EventKind.EDIT if event.request == "edit" else EventKind.ACK
                await self._happen(oid, kind, reqid=event.reqid, box=None)
            case BrokerdFill():
                await self._fill(state, event)
            case BrokerdStatus():
                known = _STATUS_EVENTS.get(event.status)
                if known is None:
                    log.warning("ems.status", oid=oid, status=event.status)
                    return
                await self._happen(
                    oid, known, reqid=event.reqid, size=event.filled, reason=event.reason, box=event
                )
            case BrokerdError():
                refusal = _REFUSALS.get(event.request, EventKind.REJECT)
                await self._happen(oid, refusal, reason=event.reason, box=event)

    async def _fill(self, state: OrderState, fill: BrokerdFill) -> None:
        """Journal a fill once, count it, and do what follows from it for others."""
        oid, order = state.order.oid, state.order
        event = Event(
            kind=EventKind.FILL, time_ns=fill.broker_time_ns or fill.time_ns, tid=fill.tid,
            size=fill.size, price=fill.price, fee=fill.fee, fee_asset=fill.fee_asset,
            reqid=fill.reqid,
        )  # fmt: skip
        record = self._record(Happened(event, order.symbol), order, clock.wall_ns(), "broker")
        (answer,) = await self._journal.append([record])
        if isinstance(answer, Duplicate):
            return
        after = step(state, event)
        self.orders[oid] = after.state
        self._desks[order.account].filled(order, fill.size, fill.price)
        self._settle(state, after.state)
        self._tell(self._status(after.state, resp="fill", seq=answer, box=fill))
        if after.problem is Problem.OVERFILL:
            await self._note(order, "overfill", f"{after.state.filled} of {order.size} were filled")
        if after.state.is_over:
            self._tell(self._status(after.state, seq=answer))

    async def _happen(
        self, oid: str, kind: EventKind, *, actor: str = "", reqid: str = "",
        size: Decimal = ZERO, price: Decimal = ZERO, order: Order | None = None, code: str = "",
        reason: str = "",
        box: BrokerdStatus | BrokerdError | None = None,
    ) -> None:  # fmt: skip
        """Journal an event of an order, fold it, and tell it if it changed anything."""
        state = self.orders[oid]
        event = Event(
            kind=kind, time_ns=clock.wall_ns(), reqid=reqid, size=size, price=price, order=order,
            code=code, reason=reason,
        )  # fmt: skip
        after = step(state, event)
        if after.problem in (Problem.DUPLICATE, Problem.ILLEGAL):
            return  # nothing that a restart would need
        if after.state == state and kind is not EventKind.SUBMIT:
            return
        record = self._record(
            Happened(event, state.order.symbol), state.order, event.time_ns, actor or "emsd"
        )
        (answer,) = await self._journal.append([record])
        assert not isinstance(answer, Duplicate)
        self.orders[oid] = after.state
        self._remember(oid, after.state)
        self._settle(state, after.state)
        if after.state != state:
            self._tell(self._status(after.state, seq=answer, box=box))
        if after.problem is Problem.MISSING_FILLS:
            await self._note(state.order, "missing-fills", f"{after.state.filled} were seen")

    # -- inside --------------------------------------------------------------------------------
    def _judge(self, order: Order) -> RiskApproved | Denial | None:
        """Return what limits and sense say; None for an alert, which trades nothing."""
        mkt = self._markets.get(order.symbol)
        if mkt is None:
            return Denial(DenialCode.WRONG_SYMBOL, f"{order.symbol} is not open here.")
        denial = senseless(order, mkt, clock.wall_ns())
        if denial is not None:
            return denial
        desk = self._desks.get(order.account)
        if desk is None or order.account not in self._links:
            return Denial(DenialCode.UNKNOWN_ACCOUNT, f"there is no account {order.account!r}.")
        return None if order.action is Action.ALERT else desk.check(order, clock.wall_ns())

    async def _send(self, state: OrderState, request: BrokerdRequest) -> None:
        try:
            await self._links[state.order.account].send(request)
        except PikerError as err:  # it may have left, or not: only the venue knows
            await self._happen(state.order.oid, EventKind.LOSE, reason=err.message)

    def _request(self, order: Order, reqid: str) -> BrokerdOrder:
        return BrokerdOrder(
            oid=order.oid, client_id=client_id_of(order.oid), account=order.account,
            time_ns=clock.wall_ns(), symbol=self._mktid(order.symbol), action=order.action,
            size=order.size, kind=order.kind, price=order.price, trigger=order.trigger,
            trail=order.trail, trigger_by=order.trigger_by, tif=order.tif,
            expire_ns=order.expire_ns, post_only=order.post_only, reduce_only=order.reduce_only,
            reqid=reqid,
        )  # fmt: skip

    def _mktid(self, fqme: str) -> str:
        mkt = self._markets.get(fqme)
        return mkt.mktid if mkt is not None else fqme.rpartition(".")[0]

    def _oid_of(self, account: str, event: _OfOrder) -> str:
        """Return whose event it is, by any of the ids that it carries; "" of a stranger's."""
        by = self._by_venue
        known = by.get((account, event.reqid)) or by.get((account, event.client_id))
        return event.oid or known or ""

    def _remember(self, oid: str, state: OrderState) -> None:
        account = state.order.account
        self._by_venue[account, client_id_of(oid)] = oid
        for tie in _ties(state.order):
            self._tied[tie].add(oid)
        if state.reqid:
            self._by_venue[account, state.reqid] = oid

    def _settle(self, before: OrderState, after: OrderState) -> None:
        """Tell the limits and the dark book how an order stands, and others what it means."""
        order, desk = after.order, self._desks.get(after.order.account)
        if after.phase in AT_VENUE:
            self._stand(after)
        elif desk is not None:  # it is over, or nothing that the venue could fill yet
            desk.ended(order.oid)
        if after.phase is Phase.DARK:
            if before.phase is not Phase.DARK or before.order != order or before is after:
                self.dark.arm(order)
        else:
            self.dark.disarm(order)
        tied = set().union(*(self._tied.get(tie, ()) for tie in (order.oid, *_ties(order))))
        others = [self.orders[oid] for oid in sorted(tied) if oid in self.orders]
        for one in consequences(before, after, others):
            self._nursery.start_soon(self._follow, one)

    def _stand(self, state: OrderState) -> None:
        desk = self._desks.get(state.order.account)
        if desk is not None:
            desk.standing(state.order, state.remaining)

    def _record(
        self, entry: Intent | Happened | Note, order: Order, now: int, actor: str
    ) -> Record:
        return Record(
            entry=entry, time_ns=now, account=order.account, oid=order.oid, actor=actor or "emsd"
        )

    async def _note(self, order: Order, about: str, text: str) -> None:
        log.error("ems." + about, oid=order.oid, symbol=order.symbol, text=text)
        note = self._record(Note(about, text), order, clock.wall_ns(), "emsd")
        await self._journal.append([note])

    # -- telling -------------------------------------------------------------------------------
    def _status(
        self, state: OrderState, *, resp: str = "", seq: int = 0,
        box: BrokerdFill | BrokerdStatus | BrokerdError | None = None,
    ) -> Status:  # fmt: skip
        link = self._links.get(state.order.account)
        waits = state.phase in (Phase.DARK, Phase.HELD)
        return Status(
            oid=state.order.oid, resp=resp or state.phase, time_ns=clock.wall_ns(), seq=seq,
            reqid=state.reqid, req=state.order, cancel_called=state.cancel_called,
            src="dark" if waits else link.name if link is not None else "",
            filled=state.filled, avg_price=state.avg_price, fees=state.fees, code=state.code,
            reason=state.reason, brokerd_msg=box,
        )  # fmt: skip

    def _refuse(self, order: Order, denial: Denial) -> None:
        """Tell a denial that changes no order: of an edit, or of an oid that was used."""
        self._tell(
            Status(oid=order.oid, resp="error", time_ns=clock.wall_ns(), code=denial.code,
                   reason=denial.reason, req=order)
        )  # fmt: skip

    def _tell(self, message: EmsMessage) -> None:
        for client in list(self._clients):
            try:
                client.send_nowait(message)
            except trio.WouldBlock:  # it hears of its end by the end of its channel
                self._clients.remove(client)
                client.close()
            except trio.BrokenResourceError:
                continue
