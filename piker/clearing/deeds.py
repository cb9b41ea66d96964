"""What is done to orders: judged, sent, changed, canceled, set free. Callers have the turn."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from piker import clock
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.lifecycle import EventKind, OrderState, Phase, Share
from piker.clearing.outbox import Outbox
from piker.clearing.register import Register
from piker.clearing.risk import RiskApproved, TradingState
from piker.clearing.validate import senseless
from piker.orders import Action, Cancel, Order, Status

__all__ = ["Deeds"]

ZERO = Decimal(0)


class Deeds:
    """What emsd can do to an order, whoever wants it: it is journaled first, then sent."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.outbox = Outbox(register)
        self.orders = register.orders
        self.accounts = register.accounts
        self.dark = register.dark
        self.news = register.news

    def is_halted(self, name: str) -> bool:
        """Tell whether an account is halted; one that is not open is not."""
        account = self.accounts.get(name)
        return account is not None and account.desk.state is TradingState.HALTED

    def judge(
        self, order: Order, *, by_client: bool = True, unopened: str = ""
    ) -> RiskApproved | Denial | None:
        """Return what limits and sense say; None for an alert, which trades nothing.

        What emsd sets free is sent even while the venue is not heard: it goes when it is back.
        Nor is its market closed, whatever that was when it was opened: it has just traded there.
        """
        account = self.accounts.get(order.account)
        if account is None:
            what = unopened or f"there is no account {order.account!r}."
            return Denial(DenialCode.UNKNOWN_ACCOUNT, what)
        mkt = self.register.markets.get(order.symbol)
        if mkt is None:
            return Denial(DenialCode.WRONG_SYMBOL, unopened or f"{order.symbol} is not open here.")
        if mkt.provider != account.provider:
            what = f"{account.name} trades at {account.provider}; {mkt.fqme} is not there."
            return Denial(DenialCode.WRONG_SYMBOL, what)
        now = clock.wall_ns()
        denial = senseless(order, mkt, now)
        if denial is not None and (by_client or denial.code is not DenialCode.MARKET_CLOSED):
            return denial
        if order.action is Action.ALERT:
            return None
        denial = account.refuses(order, mkt) if by_client else None
        return denial or account.desk.check(order, now, by_client=by_client)

    async def change(
        self, state: OrderState, order: Order, actor: str, share: Share | None
    ) -> None:
        """Have the newest terms of an order, which were judged, take the place of all others."""
        if state.wanted is not None and actor == "emsd":  # all of it holds but for the size
            self.tell_edit(state.wanted)
        elif state.wanted is not None:
            self._supersede(state.wanted)
        at = (state.phase is Phase.DARK and self.dark.start_of(order)) or ZERO
        await self.register.happen(
            order.oid, EventKind.EDIT_ASKED, actor=actor, order=order, price=at, share=share
        )
        if self.register.is_at_venue(state):
            self.outbox.expect(order.oid)
            await self.outbox.edit(order.oid)

    async def cancel(self, state: OrderState, actor: str, reason: str = "by its client") -> None:
        """End an order: at once, or by its venue."""
        order = state.order
        if not self.register.is_at_venue(state):
            await self.register.happen(order.oid, EventKind.CANCEL, actor=actor, reason=reason)
            return
        if state.cancel_called:  # nothing happens by it: whoever asks is told so at once
            self.news.tell(self.register.status(state))
        await self.register.happen(order.oid, EventKind.CANCEL_ASKED, actor=actor, reason=reason)
        await self.outbox.cancel(state)

    async def free(
        self, state: OrderState, kind: EventKind, order: Order, how: str, price: Decimal = ZERO,
        share: Share | None = None,
    ) -> None:  # fmt: skip
        """Let an order go that waited: to the dark book, to those to be sent, or no further."""
        judged = self.judge(order, by_client=False)
        if (
            isinstance(judged, Denial) and judged.code is DenialCode.TOO_SMALL
            and state.phase is Phase.HELD and self.may_grow(state)
        ):  # fmt: skip
            return  # the next fill of its parent sets it free
        if isinstance(judged, Denial):
            await self.register.happen(
                order.oid, EventKind.DENY, code=judged.code, reason=f"{how}; {judged.reason}"
            )
            return
        await self.register.happen(
            order.oid, kind, order=order, reason=how, price=price, share=share
        )
        if self.orders[order.oid].phase is Phase.PENDING:
            self.register.unsent[order.oid] = None

    async def send(self, state: OrderState, order: Order, share: Share) -> None:
        """Send an order that was set free, with these terms: its venue does not have it."""
        oid, asked = order.oid, state.newest[0]
        self.outbox.forget(oid)
        edit, later = state.editing, state.wanted
        if edit is not None and later is not None:
            resized = msgspec.structs.replace(edit, size=later.size) == later
            if resized and state.wanted_share != state.editing_share:  # as in :meth:`change`
                self.tell_edit(edit)
            else:
                self._supersede(edit)
        if order == state.order == asked:
            await self.register.happen(oid, EventKind.SUBMIT)
        else:
            await self.register.happen(oid, EventKind.SUBMIT, order=order, share=share)
        if asked not in (order, state.order):
            self.tell_edit(asked)
        del self.register.unsent[oid]  # not before it is journaled: no venue is asked for it
        await self.outbox.order(self.orders[oid])

    def may_grow(self, child: OrderState) -> bool:
        """Tell whether an order's parent may still be filled."""
        parent = self.orders.get(child.order.parent)
        return parent is not None and not parent.is_over

    def tell_edit(self, asked: Order) -> None:
        """Tell that an edit was taken, with a size of emsd's: a client knows it by its terms."""
        told = self.register.status(self.orders[asked.oid])
        self.news.tell(msgspec.structs.replace(told, edit=asked))

    def _supersede(self, edit: Order) -> None:
        what = "a later edit took its place before it was sent."
        self.refuse(edit, Denial(DenialCode.SUPERSEDED, what))

    def refuse(self, request: Order | Cancel, denial: Denial) -> None:
        """Tell a denial that changes no order: of an edit, or of an oid that was used."""
        self.news.tell(
            Status(
                oid=request.oid, resp="error", time_ns=clock.wall_ns(), code=denial.code,
                reason=denial.reason, req=request if isinstance(request, Order) else None,
            )
        )  # fmt: skip
