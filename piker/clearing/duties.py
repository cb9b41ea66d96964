"""What emsd does of itself: triggers, brackets and groups, and again what a venue refused.

What is due is looked for anew each time (:meth:`Register.due`), under the order's turn.
"""

from __future__ import annotations

from decimal import Decimal

from piker import clock
from piker.clearing.dark import Met, released
from piker.clearing.deeds import Deeds
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.lifecycle import EventKind, OrderState, Phase
from piker.clearing.linked import Due, What
from piker.clearing.turns import Turns
from piker.money import EXACT, plain
from piker.orders import Action, Order, SyncState, TimeInForce

__all__ = ["Duties"]

ROOM_NS = 3 * clock.NS  # an order that was met waits so long for its group to make room
AGAIN_NS = clock.NS  # after so long what a venue refused is tried again


class Duties:
    """Triggers that were met, orders that hang on others, refusals that are not to be the end."""

    def __init__(self, deeds: Deeds, turns: Turns) -> None:
        self._deeds = deeds
        self._register = deeds.register
        self._turns = turns
        self._refused: dict[str, tuple[int, str]] = {}  # oid -> when to look again, what it was

    def refused(self, oid: str, request: str) -> None:
        """Look at an order again in a while, of which a venue refused a cancel or an edit."""
        self._refused[oid] = (clock.wall_ns() + AGAIN_NS, request)

    async def again(self, now_ns: int) -> None:
        """Do again what was refused, where it is still to be done; send what has waited."""
        for oid in list(self._register.unsent):
            with await self._turns.of(oid):
                await self.send(oid, now_ns)
        for oid in [oid for oid, (at_ns, _) in self._refused.items() if at_ns <= now_ns]:
            _, what = self._refused.pop(oid)
            with await self._turns.of(oid):
                await self._try_again(oid, what, now_ns)

    async def _try_again(self, oid: str, what: str, now_ns: int) -> None:
        """Do again what emsd itself wants of an order whose venue refused it."""
        state = self._register.orders.get(oid)
        if state is None or not self._register.is_at_venue(state) or state.cancel_called:
            return
        order, found = state.order, self._register.due(state)
        if self._deeds.is_halted(order.account):
            await self._deeds.cancel(state, "emsd", "all was to end")
        elif (order.expire_ns or now_ns + 1) <= now_ns and (
            self._deeds.outbox.tif(order) is TimeInForce.GTC
        ):
            await self._deeds.cancel(state, "emsd", "its time is over")
        elif found is not None and found.order is not None and what == "edit":
            if found.order.size < state.newest[0].size:
                why = f"{found.reason}; its venue makes it no smaller"
                await self._deeds.cancel(state, "emsd", why)
        elif found is not None:
            await self._do(state, found)

    async def met(self, oid: str, met: Met) -> None:
        """Set an order free whose trigger was met, if it still waits and limits let it through."""
        with await self._turns.of(oid):
            state = await self._as_due(oid, met)
            if state is None:
                return
            how = f"{plain(met.price)} met {plain(met.trigger)} at {clock.utc(clock.wall_ns())}"
            how += ", across a gap" if met.across_gap else ""
            if state.order.action is Action.ALERT:
                await self._register.happen(oid, EventKind.TRIGGER, reason=how, price=met.price)
                return
            freed, mkt = released(state.order), self._register.markets[state.order.symbol]
            account = self._register.accounts.get(freed.account)
            if account is not None:
                freed = account.protected(freed, met.price, mkt)
            await self._deeds.free(state, EventKind.TRIGGER, freed, how, met.price)
            await self.send(oid)

    async def _as_due(self, oid: str, met: Met) -> OrderState | None:
        """Return an order whose trigger was met as it is to trade now; None if it is not."""
        state = self._register.orders.get(oid)
        if state is None or state.phase is not Phase.DARK:
            return None
        order, found = state.order, self._register.due(state)
        if order.trail is None and order.trigger != met.trigger:
            return None  # an edit was taken meanwhile, and it was armed anew
        is_judged = order.action is Action.ALERT or self._is_priced(order)
        if not is_judged or (found is not None and found.what is What.WAIT):
            seen, trail = state.seen, order.trail
            if trail is not None:  # it goes on from the best price, journaled yet or not
                seen = EXACT.subtract(met.trigger, EXACT.multiply(Decimal(order.side), trail))
            self._register.dark.arm(order, seen=seen)
            return None
        if found is not None:
            await self._do(state, found)
            state = self._register.orders.get(oid)
        return state if state is not None and state.phase is Phase.DARK else None

    async def send(self, oid: str, now_ns: int = 0) -> None:
        """Send an order that was set free, as it is due now, once nothing is in its way.

        That an order was met is what has its group canceled (:func:`~piker.clearing.linked.due`);
        it is looked at again when one of that has ended, and with every beat.
        """
        state = self._register.orders.get(oid)
        if state is None or oid not in self._register.unsent or not self._is_open(state.order):
            return
        if self._deeds.is_halted(state.order.account):
            await self._deeds.cancel(state, "emsd", "all was to end")
            return
        if state.order.expire_ns is not None and state.order.expire_ns <= clock.wall_ns():
            await self._register.happen(oid, EventKind.EXPIRE, reason="its time is over")
            return
        (order, share), found = state.newest, self._register.due(state)
        if found is not None and found.what is What.CANCEL:
            await self._deeds.cancel(state, "emsd", found.reason)
            return
        if (found is not None and found.what is What.WAIT) or self._waits(state, now_ns):
            return
        if found is not None and found.order is not None and found.share is not None:
            judged = self._deeds.judge(found.order, by_client=False)
            if not isinstance(judged, Denial):
                order, share = found.order, found.share
            elif found.order.size > order.size:
                self._deeds.refuse(found.order, judged)  # it goes as it was
            elif judged.code is not DenialCode.TOO_SMALL:
                order, share = found.order, found.share  # to be smaller needs no limit's leave
            elif self._deeds.may_grow(state):
                return
            else:
                await self._deeds.cancel(state, "emsd", found.reason)
                return
        await self._deeds.send(state, order, share)
        self._register.follow_others(order)  # who was met with it ends, now that it was sent

    def _waits(self, state: OrderState, now_ns: int) -> bool:
        """Tell whether an order that was met waits for its group; no time counts while all do."""
        if not state.met or not self._register.in_the_way(state.order):
            return False
        oid, account = state.order.oid, self._register.accounts[state.order.account]
        if account.sync is not SyncState.SYNCED:
            self._register.unsent[oid] = None
            return True
        now_ns, until_ns = now_ns or clock.wall_ns(), self._register.unsent[oid]
        if until_ns is None:
            until_ns = self._register.unsent[oid] = now_ns + ROOM_NS
        return now_ns < until_ns

    async def follow(self, oid: str) -> None:
        """Do to an order what follows from how those that it hangs on stand."""
        with await self._turns.of(oid):
            state = self._register.orders.get(oid)
            if state is None or not self._is_open(state.order):
                return  # it is looked at again when that is open
            if oid in self._register.unsent:
                await self.send(oid)
            elif (found := self._register.due(state)) is not None:
                await self._do(state, found)

    def _is_open(self, order: Order) -> bool:
        """Tell whether an order's account and market are open: after a start they are not yet."""
        register = self._register
        return order.account in register.accounts and order.symbol in register.markets

    def _is_priced(self, order: Order) -> bool:
        """Tell whether an order can be judged: its market is open, and has a price."""
        if not self._is_open(order):
            return False
        return self._register.accounts[order.account].desk.last(order.symbol) is not None

    async def _do(self, state: OrderState, found: Due) -> None:
        order = found.order
        if found.what is What.CANCEL:
            await self._deeds.cancel(state, "emsd", found.reason)
        elif order is None or found.what is What.WAIT:
            return
        elif found.what is What.RELEASE and order.side and not self._is_priced(order):
            return  # it is looked at again when that has one
        elif found.what is What.RELEASE:
            freed = self._register.as_exit(order)
            await self._deeds.free(state, EventKind.RELEASE, freed, found.reason, share=found.share)
            await self.send(order.oid)
        else:
            await self._resize(state, order, found)

    async def _resize(self, state: OrderState, order: Order, found: Due) -> None:
        """Give an order the size that others leave it; to be smaller needs no limit's leave."""
        judged = self._deeds.judge(order, by_client=False)
        smaller = order.size < state.newest[0].size
        if not isinstance(judged, Denial):
            await self._deeds.change(state, order, "emsd", found.share)
        elif not smaller:
            self._deeds.refuse(order, judged)
        elif judged.code is not DenialCode.TOO_SMALL:
            await self._deeds.change(state, order, "emsd", found.share)
        elif not self._deeds.may_grow(state):
            await self._deeds.cancel(state, "emsd", found.reason)
