"""One router for all providers: intents in, the truth about them out.

Whatever happens to an order is journaled, folded and told, in that order: a client is told nothing
that a crash could take back, and a venue is sent nothing that the journal does not know. Events of
one order are handled one after the other, those of different orders share a commit.

The router knows no actor, socket or feed. Backends are the accounts' links, clients are whoever
listens to its news, prices are told to it (:meth:`Router.price`), time is :mod:`piker.clock`'s.
"""

from __future__ import annotations

from collections import defaultdict, deque
from decimal import Decimal

import msgspec
import trio

from piker import clock
from piker.clearing.accounts import Account, Accounts
from piker.clearing.dark import DarkBook
from piker.clearing.deeds import Deeds
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.duties import Duties
from piker.clearing.journal import Journal
from piker.clearing.keeper import Keeper
from piker.clearing.lifecycle import EventKind, OrderState, Phase, Share
from piker.clearing.linked import What, is_stale
from piker.clearing.news import News
from piker.clearing.register import OfOrder, Register
from piker.clearing.risk import RiskApproved, TradingState
from piker.clearing.turns import Turns
from piker.clearing.validate import TRIGGERED
from piker.log import get_logger
from piker.market import MktPair
from piker.orders import (
    BrokerdBalance,
    BrokerdBelief,
    BrokerdError,
    BrokerdEvent,
    BrokerdFill,
    BrokerdMemory,
    BrokerdPosition,
    BrokerdStatus,
    BrokerdSync,
    Cancel,
    Order,
    Status,
    SyncState,
    TimeInForce,
)
from piker.ticks import TickType

__all__ = ["OF_ACCOUNT", "Router"]

log = get_logger("ems")
ZERO = Decimal(0)
OF_ACCOUNT = (BrokerdPosition, BrokerdBalance, BrokerdSync)  # of none of its orders
UNFILLED = frozenset({Phase.CANCELED, Phase.EXPIRED, Phase.REJECTED})
UNCLAIMED = " "  # and an account: where events wait that name no order at hand; no oid has a space


def _news(heard: deque[OfOrder | trio.Event]) -> list[OfOrder]:
    """Return what can be folded together: up to a mark, or the proof that an order is absent."""
    found: list[OfOrder] = []
    for one in heard:
        if isinstance(one, BrokerdStatus):
            if one.status == "absent":
                break
        elif isinstance(one, trio.Event):
            break
        found.append(one)
    return found


def _is_open(told: OfOrder) -> bool:
    return isinstance(told, BrokerdStatus) and told.status == "open"


class Router:
    """The orders of one emsd: clients on one side, accounts and prices on the other."""

    def __init__(self, journal: Journal, nursery: trio.Nursery, turns: Turns | None = None) -> None:
        """Take the journal, and where events are worked off."""
        self.register = Register(journal, self._look_at)
        #: The orders by oid: all that have not ended, and the newest that have.
        self.orders: dict[str, OrderState] = self.register.orders
        self.accounts: Accounts = self.register.accounts  # that are open
        self.dark: DarkBook = self.register.dark  # what waits for a price
        self.news: News = self.register.news  # what clients listen to
        self.keeper = Keeper(journal, self.accounts, self.news)
        self._nursery = nursery
        #: What was heard, of each order that anything waits of.
        self._heard: defaultdict[str, deque[OfOrder | trio.Event]] = defaultdict(deque)
        self._turns = turns if turns is not None else Turns()
        self.deeds = Deeds(self.register)
        self.duties = Duties(self.deeds, self._turns)

    def _look_at(self, oid: str) -> None:
        self._nursery.start_soon(self.duties.follow, oid)

    # -- starting ------------------------------------------------------------------------------
    def know(self, mkt: MktPair) -> None:
        """Take a market in; orders in others are denied."""
        self.register.markets[mkt.fqme] = mkt
        for account in self.accounts.values():
            account.desk.know(mkt)
        self._look_at_market(mkt.fqme)

    def _look_at_market(self, fqme: str) -> None:
        """Look at what hangs on others in a market that can be judged now."""
        for state in self.register.live(symbol=fqme):
            if state.order.parent or state.order.oco:
                self._look_at(state.order.oid)

    def add(self, account: Account) -> None:
        """Take an account in, as the journal has it."""
        for mkt in self.register.markets.values():
            account.desk.know(mkt)
        self.accounts.add(account)
        for state in self.register.at_venue(account.name):
            account.stands(state, at_venue=True)

    async def recover(self) -> list[OrderState]:
        """Take up what the journal comes to; return the orders that have not ended.

        Nothing is sent. What was on its way to a venue when the last emsd ended is UNKNOWN until
        its backend has said otherwise.
        """
        self.register.take_up()
        for state in self.register.live():
            if state.phase is Phase.PENDING:
                why = "emsd was started again"
                await self.register.happen(state.order.oid, EventKind.LOSE, reason=why)
        return self.register.live()

    async def find(self, oid: str) -> Status | None:
        """Return any order that there ever was, or None."""
        state = await self.register.recall(oid)
        return self.register.status(state) if state is not None else None

    def dialogs(self) -> list[Status]:
        """Return the status of every order that has not ended: what a late client needs."""
        return [self.register.status(state) for state in self.register.live()]

    def beliefs(self, name: str) -> list[BrokerdBelief]:
        """Return the orders of an account that its venue has, or may have."""
        found = self.register.at_venue(name)
        self.accounts[name].asked = frozenset(state.order.oid for state in found)
        ask, halted = self.deeds.outbox.request, self.deeds.is_halted(name)
        return [
            BrokerdBelief(
                order=ask(state.order, state.reqid), filled=state.filled, tids=state.tids,
                ends=state.cancel_called or halted,
            )
            for state in found
        ]  # fmt: skip

    def memory(self, name: str) -> list[BrokerdMemory]:
        """Return what a paper account's fills come to: its venue remembers nothing."""
        if self.accounts[name].is_live:
            return []
        standing = self.register.journal.standing
        held = {
            self.register.mktid(fqme): (one.size, one.linear.basis, one.inverse.basis)
            for (account, fqme), one in standing.holdings.items()
            if account == name and one.size
        }
        moved = {
            asset: sum_ for (account, asset), sum_ in standing.moved.items() if account == name
        }
        return [BrokerdMemory(account=name, moved=moved, held=held)]

    def price(self, fqme: str, price: Decimal, time_ns: int) -> None:
        """Take a market's price, for the limits."""
        for account in self.accounts.values():
            is_first = account.desk.last(fqme) is None
            account.desk.price(fqme, price, time_ns)
            if is_first:
                self._look_at_market(fqme)

    def see(self, fqme: str, kind: TickType, side: int, price: Decimal) -> None:
        """Take a price that may meet what waits in the dark, as :meth:`DarkBook.see` does."""
        for oid, met in self.dark.see(fqme, kind, side, price):
            self._nursery.start_soon(self.duties.met, oid, met)

    async def follow(self) -> None:
        """Journal the prices that trails and alerts go by, where they have changed."""
        for oid, price in self.dark.follow():
            with await self._turns.of(oid):
                state = self.orders.get(oid)
                if state is not None and state.phase is Phase.DARK:
                    await self.register.happen(oid, EventKind.FOLLOW, price=price)

    async def expire(self, now_ns: int) -> None:
        """End the orders whose time is over and whose venue does not do so itself."""
        for oid in self.register.expired(now_ns):
            with await self._turns.of(oid):
                state = self.orders.get(oid)
                if state is None or state.is_over or (state.order.expire_ns or now_ns + 1) > now_ns:
                    continue
                if not self.register.is_at_venue(state):
                    await self.register.happen(oid, EventKind.EXPIRE, reason="its time is over")
                elif self.deeds.outbox.tif(state.order) is TimeInForce.GTC:
                    await self.deeds.cancel(state, "emsd", "its time is over")
        await self.duties.again(now_ns)

    # -- clients -------------------------------------------------------------------------------
    async def order(self, order: Order, actor: str = "", unopened: str = "") -> None:
        """Take an intent, or an edit of one: journal it, then send it. Its statuses are told.

        ``unopened`` says why its account or market could not be opened, where they could not.

        Returns when it is on its way, or denied. A link that is gone leaves it UNKNOWN: whether
        the venue has it is asked when the link is back.
        """
        mkt = self.register.markets.get(order.symbol)
        account = self.accounts.get(order.account)
        if mkt is not None and account is not None:
            order = account.emulated(order, mkt, clock.wall_ns())
        with await self._turns.of(order.oid):
            state = self.orders.get(order.oid)
            if state is None:  # the journal knows whether it ended long ago
                await self._begin(self.register.in_group(order), actor, unopened)
            elif state.is_over:
                what = f"order {order.oid} has ended: {state.phase}."
                self.deeds.refuse(order, Denial(DenialCode.DUPLICATE_ID, what))
            else:
                await self._edit(state, order, actor)

    async def cancel(self, cancel: Cancel, actor: str = "") -> None:
        """Take an order back; never denied but for one that is not there or has ended."""
        with await self._turns.of(cancel.oid):
            state = self.orders.get(cancel.oid)
            if state is None or state.is_over:
                code = DenialCode.UNKNOWN_ORDER if state is None else DenialCode.ORDER_OVER
                what = "there is no such order" if state is None else f"it has ended: {state.phase}"
                self.deeds.refuse(cancel, Denial(code, f"{what}."))
                return
            await self.deeds.cancel(state, actor)

    async def cancel_all(self, account: str = "", actor: str = "", symbol: str = "") -> list[str]:
        """Take back every order, of an account and in a market where named; return their oids."""
        oids = [state.order.oid for state in self.register.live(account, symbol)]
        async with trio.open_nursery() as nursery:
            for oid in oids:
                order = self.orders[oid].order
                nursery.start_soon(self.cancel, Cancel(oid=oid, symbol=order.symbol), actor)
        return oids

    async def set_state(
        self, account: str, state: TradingState, reason: str, actor: str = ""
    ) -> None:
        """Set what an account, or all (""), may do. With HALTED every order of it is canceled."""
        await self.keeper.set_state(account, state, reason, actor or "emsd")
        if state is TradingState.HALTED:
            await self.cancel_all(account, actor)

    # -- backends ------------------------------------------------------------------------------
    def hear(self, account: str, event: BrokerdEvent) -> None:
        """Take what an account's backend says, in its order: journal it, fold it, tell it.

        Never blocks; events of one order wait for each other, not for those of others.
        """
        if isinstance(event, OF_ACCOUNT):
            self.keeper.hear(account, event)
            if isinstance(event, BrokerdSync) and event.state is SyncState.SYNCED:
                self._nursery.start_soon(self._synced, account)
            elif isinstance(event, BrokerdSync):
                self.deeds.outbox.doubt(account)
            return
        oid = self.register.oid_of(account, event) or UNCLAIMED + account
        heard = self._heard[oid]
        heard.append(event)
        if len(heard) == 1:
            self._nursery.start_soon(self._work, oid, heard)

    async def _work(self, oid: str, heard: deque[OfOrder | trio.Event]) -> None:
        """Handle an order's events until there are no more: those that wait, together."""
        while heard:
            first, told = heard[0], _news(heard)
            if told:
                await self._hear(oid, told)
            elif isinstance(first, trio.Event):
                first.set()
            else:
                with await self._turns.of(oid):
                    state = await self.register.recall(oid)
                    if state is not None:
                        await self._absent(state)
            for _ in told or (first,):
                heard.popleft()
        self._heard.pop(oid, None)

    async def _hear(self, oid: str, told: list[OfOrder]) -> None:
        """Let what was told of an order happen to it; ask the journal who it is of, if nobody."""
        if oid.startswith(UNCLAIMED):
            await self._claim(oid.removeprefix(UNCLAIMED), told)
            return
        with await self._turns.of(oid):
            if oid not in self.orders and await self.register.recall(oid) is None:
                await self.register.strangers(told)
                return
            before = self.orders[oid].phase
            was_lost = before is Phase.UNKNOWN
            await self.register.hear(oid, told)
            state = self.orders.get(oid)
            if state is not None and before in UNFILLED and any(map(_is_open, told)):
                await self._end_again(state)
                return
            if was_lost and state is not None and self._is_found(state):
                await self._again(state)
                return
            for one in told:
                if isinstance(one, BrokerdError) and one.request != "order":
                    self.duties.refused(oid, one.request)
            if self.deeds.outbox.has_edit(oid):
                await self.deeds.outbox.edit(oid)
            if state is not None and self.deeds.is_halted(state.order.account):
                await self._end_if_halted(state, told)

    async def _end_again(self, state: OrderState) -> None:
        """Cancel what stands at its venue though it was told to have ended, as it was not found."""
        await self.register.note(state.order, "stands", f"it had ended: {state.phase}")
        await self.deeds.outbox.cancel(state)

    async def _claim(self, account: str, told: list[OfOrder]) -> None:
        """Find whose fills they are that come without an oid, long after their orders ended."""
        fills = [one for one in told if isinstance(one, BrokerdFill)]
        whose = await self.register.whose(account, fills)
        strangers = [*told]
        for fill in fills:
            oid = whose.get(fill.reqid) or whose.get(fill.client_id)
            if oid is not None:
                strangers.remove(fill)
                await self._hear(oid, [fill])
        if strangers:
            await self.register.strangers(strangers)

    async def _end_if_halted(self, state: OrderState, told: list[OfOrder]) -> None:
        """Cancel what turns out to stand though all was to end: its cancel came before it."""
        if state.cancel_called or state.phase not in (Phase.OPEN, Phase.PARTIAL):
            return
        if any(map(_is_open, told)):
            await self.deeds.cancel(state, "emsd", "all was to end")

    async def _synced(self, name: str) -> None:
        """Do again what a venue that was away has not heard, and compare positions with it."""
        await self._worked_off()
        account = self.accounts[name]
        halted = self.deeds.is_halted(name)  # then what waits is to go, too
        for state in self.register.live(name) if halted else self.register.at_venue(name):
            oid = state.order.oid
            if state.phase is Phase.UNKNOWN and not (
                oid in account.asked or oid in self.register.unsent
            ):
                account.link.ask_again()  # it was lost sight of after the others had been asked for
                return
            with await self._turns.of(oid):
                now = self.orders.get(oid)
                if now is not None and not now.is_over and now.phase is not Phase.UNKNOWN:
                    await self._again(now)
        for state in self.register.live(name):  # a kill may have come between two of a group
            if state.order.parent:
                await self.register.recall(state.order.parent)
            if state.order.parent or state.order.oco:
                await self.duties.follow(state.order.oid)
        await self.keeper.compare(name)

    async def _worked_off(self) -> None:
        """Wait until all that was heard by now has been handled."""
        marks = []
        for heard in self._heard.values():  # all at once: a lane that is done is there no more
            marks.append(trio.Event())
            heard.append(marks[-1])
        for done in marks:
            await done.wait()

    def _is_found(self, state: OrderState) -> bool:
        """Tell whether an order stands whose account was synced without it."""
        account, found = self.accounts.get(state.order.account), (Phase.OPEN, Phase.PARTIAL)
        return state.phase in found and account is not None and account.sync is SyncState.SYNCED

    async def _again(self, state: OrderState) -> None:
        """Do again what the venue of an order may not have heard."""
        if state.cancel_called:
            self.deeds.outbox.expect(state.order.oid)  # it is sent if the cancel is refused
            await self.deeds.outbox.cancel(state)
        elif (
            self.deeds.is_halted(state.order.account) and state.order.side
        ):  # an alert trades nothing
            await self.deeds.cancel(state, "emsd", "all was to end")
        else:
            await self.deeds.outbox.edit(state.order.oid)

    async def lost(self, account: str, why: str) -> None:
        """Say that an account's link is gone: what was on its way is UNKNOWN.

        Returns when what it told is handled, so that the next dialog is asked nothing that this one
        has proved: an order that is absent would be sent again by the proof of each.
        """
        self.keeper.lost(account, why)
        self.deeds.outbox.doubt(account)
        await self._worked_off()
        for state in self.register.at_venue(account):
            oid = state.order.oid
            if state.phase is Phase.PENDING:
                with await self._turns.of(oid):
                    await self.register.happen(oid, EventKind.LOSE, reason=why)

    # -- orders --------------------------------------------------------------------------------
    async def _begin(self, order: Order, actor: str, unopened: str) -> None:
        judged = self.deeds.judge(order, unopened=unopened)
        denial = judged if isinstance(judged, Denial) else None
        state = await self.register.begin(order, denial, actor)
        if state is None:
            if isinstance(judged, RiskApproved):  # it ended long ago: nothing of it stands
                self.accounts[order.account].desk.ended(order.oid)
            what = f"the oid {order.oid} was used before."
            self.deeds.refuse(order, Denial(DenialCode.DUPLICATE_ID, what))
        elif isinstance(judged, RiskApproved) and self.deeds.is_halted(order.account):  # since then
            await self.register.happen(order.oid, EventKind.CANCEL, reason="all was to end")
        elif state.phase is Phase.PENDING and order.oco and self.register.due(state) is not None:
            self.register.unsent[order.oid] = None  # its group has traded before it came
            await self.duties.send(order.oid)
        elif state.phase is Phase.PENDING:
            await self.deeds.outbox.order(state)
        elif state.phase is Phase.HELD:
            await self.register.recall(state.order.parent)  # its fills may have come before it
            self._look_at(state.order.oid)

    async def _edit(self, state: OrderState, order: Order, actor: str) -> None:
        was, asked = state.order, order
        exits = order.reduce_only or bool(was.parent and was.reduce_only)  # see Register.as_exit
        order = msgspec.structs.replace(order, reduce_only=exits, parent=was.parent, oco=was.oco)
        if (order.account, order.symbol, order.side) != (was.account, was.symbol, was.side):
            what = "an edit changes no account, market or side."
            self.deeds.refuse(order, Denial(DenialCode.SENSELESS, what))
            return
        if state.met and order.kind in TRIGGERED:
            what = f"its trigger was met: {state.met}."
            self.deeds.refuse(order, Denial(DenialCode.SENSELESS, what))
            return
        if order == (state.wanted or state.editing or state.order):  # it was cut off, asks again
            self.news.tell(self.register.status(state))
            return
        for terms, share in self._sized(state, order):
            judged = self.deeds.judge(terms)
            if not isinstance(judged, Denial):
                await self.deeds.change(state, terms, actor, share)
                if terms.size != asked.size:
                    self.deeds.tell_edit(asked)
                return
        assert isinstance(judged, Denial)
        self.deeds.refuse(asked, judged)

    def _sized(self, state: OrderState, edit: Order) -> list[tuple[Order, Share | None]]:
        """Return the terms that an edit may come to, and their shares: the first that pass.

        One that asks for no new size has the one that is due; else it has the newest terms' own,
        and their share, so that what others have traded since still counts.
        """
        share = self.register.share(state)
        if share is None or state.phase is Phase.HELD:
            return [(edit, share)]
        found, (newest, known) = self.register.due(state), state.newest
        if not is_stale(state, edit.size, share):  # nor has one that waits any of what came in
            waits = found is not None and found.what is What.WAIT
            return [(edit, known if waits else share)]
        sizes = [(newest.size, known)]
        if found is not None and found.order is not None and found.share is not None:
            sizes.insert(0, (found.order.size, found.share))
        return [(msgspec.structs.replace(edit, size=size), of) for size, of in sizes]

    async def _absent(self, state: OrderState) -> None:
        """Act on the proof that the venue never had an order.

        One that emsd itself set free, a stop above all, is sent again: nobody else would. One of a
        client's is rejected: the market has moved, and the client is there to decide.
        """
        oid = state.order.oid
        self.deeds.outbox.forget(oid)
        if not self.register.is_at_venue(state):
            return  # it has ended meanwhile
        if state.filled:
            await self.register.note(state.order, "absent", f"{state.filled} were filled")
        elif state.cancel_called or self.deeds.is_halted(state.order.account):
            await self.register.happen(oid, EventKind.CANCEL, reason="it never reached the venue")
        elif not state.freed:
            await self.register.happen(oid, EventKind.REJECT, reason="it never reached the venue")
        else:
            self.register.unsent[oid] = None
            await self.duties.send(oid)

    # -- inside --------------------------------------------------------------------------------
