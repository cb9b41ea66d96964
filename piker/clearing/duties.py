"""What emsd does of itself: triggers, brackets and groups, and again what a venue refused.

What is due is looked for anew each time (:meth:`Register.due`), under the order's turn.
"""

from __future__ import annotations

import trio

from piker import clock
from piker.clearing.dark import Met, released
from piker.clearing.deeds import Deeds
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.lifecycle import EventKind, OrderState, Phase
from piker.clearing.linked import Due, What
from piker.clearing.register import AT_VENUE
from piker.clearing.turns import Turns
from piker.money import plain
from piker.orders import Action, Order, TimeInForce

__all__ = ["Duties"]

ROOM_S = 3.0  # an order that was met waits so long for its group to make room
AGAIN_NS = clock.NS  # after so long what a venue refused is tried again


class Duties:
    """Triggers that were met, orders that hang on others, refusals that are not to be the end."""

    def __init__(self, deeds: Deeds, turns: Turns, nursery: trio.Nursery) -> None:
        self._deeds = deeds
        self._register = deeds.register
        self._turns = turns
        self._nursery = nursery
        self._room: dict[str, trio.Event] = {}  # of orders that were met: nothing is in their way
        self._refused: dict[str, tuple[int, str]] = {}  # oid -> when to look again, what it was

    def refused(self, oid: str, request: str) -> None:
        """Look at an order again in a while, of which a venue refused a cancel or an edit."""
        self._refused[oid] = (clock.wall_ns() + AGAIN_NS, request)

    async def again(self, now_ns: int) -> None:
        """Do again what was refused, where it is still to be done."""
        for oid in [oid for oid, (at_ns, _) in self._refused.items() if at_ns <= now_ns]:
            _, what = self._refused.pop(oid)
            with await self._turns.of(oid):
                await self._try_again(oid, what, now_ns)

    async def _try_again(self, oid: str, what: str, now_ns: int) -> None:
        """Do again what emsd itself wants of an order whose venue refused it."""
        state = self._register.orders.get(oid)
        if state is None or state.phase not in AT_VENUE or state.cancel_called:
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
        """Send an order whose trigger was met, if it still waits and limits let it through."""
        with await self._turns.of(oid):
            if oid not in self._room:
                await self._go(oid, met, has_room=False)

    async def _go(self, oid: str, met: Met, *, has_room: bool) -> None:
        state = await self._as_due(oid, met, has_room=has_room)
        if state is None:
            return
        how = f"{plain(met.price)} met {plain(met.trigger)} at {clock.utc(clock.wall_ns())}"
        how += ", across a gap" if met.across_gap else ""
        if state.order.action is Action.ALERT:
            await self._register.happen(oid, EventKind.TRIGGER, reason=how, price=met.price)
        else:
            freed, mkt = released(state.order), self._register.markets[state.order.symbol]
            account = self._register.accounts.get(freed.account)
            if account is not None:
                freed = account.protected(freed, met.price, mkt)
            await self._deeds.free(state, EventKind.TRIGGER, freed, how, met.price)

    async def _as_due(self, oid: str, met: Met, *, has_room: bool) -> OrderState | None:
        """Return an order whose trigger was met as it is to be sent now; None if it is not.

        What of its group stands in its way is canceled first, and waited for.
        """
        state = self._register.orders.get(oid)
        if state is None or state.phase is not Phase.DARK:
            return None
        found = self._register.due(state)
        if found is not None and found.what is What.WAIT:
            self._register.dark.arm(state.order, seen=state.seen)
            return None
        if found is not None:
            await self._do(state, found)
            state = self._register.orders.get(oid)
        if state is None or state.phase is not Phase.DARK:
            return None
        if not has_room and self._register.in_the_way(state.order):
            self._room[oid] = trio.Event()
            self._nursery.start_soon(self.make_room, oid, met)
            return None
        return state

    async def make_room(self, oid: str, met: Met) -> None:
        """Cancel what stands in the way of an order that was met, then let it go."""
        room = self._room[oid]
        try:
            for other in self._register.in_the_way(self._register.orders[oid].order):
                with await self._turns.of(other):
                    state = self._register.orders.get(other)
                    if state is not None and not state.is_over and not state.cancel_called:
                        await self._deeds.cancel(state, "emsd", f"{oid} of its group was met")
            with trio.move_on_after(ROOM_S):  # then it goes all the same
                await room.wait()
            with await self._turns.of(oid):
                await self._go(oid, met, has_room=True)
        finally:
            del self._room[oid]

    async def follow(self, oid: str) -> None:
        """Do to an order what follows from how those that it hangs on stand."""
        with await self._turns.of(oid):
            state = self._register.orders.get(oid)
            if state is not None and not self._is_open(state.order):
                return  # it is looked at again when that is open
            found = self._register.due(state) if state is not None else None
            if state is not None and found is not None:
                await self._do(state, found)
        if oid in self._room and (state is None or not self._register.in_the_way(state.order)):
            self._room[oid].set()

    def _is_open(self, order: Order) -> bool:
        """Tell whether an order's account and market are open: after a start they are not yet."""
        register = self._register
        return order.account in register.accounts and order.symbol in register.markets

    async def _do(self, state: OrderState, found: Due) -> None:
        order = found.order
        if found.what is What.CANCEL:
            await self._deeds.cancel(state, "emsd", found.reason)
        elif order is None or found.what is What.WAIT:
            return
        elif found.what is What.RELEASE:
            freed = self._register.as_exit(order)
            await self._deeds.free(state, EventKind.RELEASE, freed, found.reason, share=found.share)
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
