"""What goes to the venues: orders, cancels, and edits one at a time. Callers have the turn."""

from __future__ import annotations

from piker.clearing.lifecycle import EventKind, OrderState
from piker.clearing.register import Register
from piker.clearing.requests import cancel_of, request_of
from piker.errors import PikerError, Transient
from piker.orders import BrokerdOrder, BrokerdRequest, Order, TimeInForce

__all__ = ["Outbox"]


class Outbox:
    """The way from orders to their accounts' links. A link that fails leaves an order UNKNOWN."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self._edits: dict[str, Order | None] = {}  # what the venue was sent of those that stand

    async def order(self, state: OrderState) -> None:
        """Send an order that its venue does not have."""
        await self._send(state, self.request(state.order, ""))

    async def cancel(self, state: OrderState) -> None:
        """Send the cancel of an order."""
        await self._send(state, cancel_of(state, self._register.mktid(state.order.symbol)))

    async def edit(self, oid: str) -> None:
        """Send the edit whose turn it is, once the venue has the order: one at a time.

        With two on their way nobody could say which one a refusal is of.
        """
        state = self._register.orders.get(oid)
        if state is None or state.editing is None or not self._register.is_at_venue(state):
            self._edits.pop(oid, None)
        elif (
            state.reqid and not state.cancel_called
            and self._edits.setdefault(oid, None) is not state.editing
        ):  # fmt: skip
            self._edits[oid] = state.editing
            await self._send(state, self.request(state.editing, state.reqid))
        # without the venue's id it would be another order

    def expect(self, oid: str) -> None:
        """Have the edit of an order sent when its venue has answered: see :meth:`has_edit`."""
        self._edits.setdefault(oid, None)

    def has_edit(self, oid: str) -> bool:
        """Tell whether an edit of an order is under way, or is expected."""
        return oid in self._edits

    def forget(self, oid: str) -> None:
        """Forget what was sent of an order's edits."""
        self._edits.pop(oid, None)

    def doubt(self, account: str) -> None:
        """Have the edits that stand sent again when the account is synced: they may be lost."""
        for state in self._register.at_venue(account):
            self._edits.pop(state.order.oid, None)

    def tif(self, order: Order) -> TimeInForce:
        """Return the time in force that its venue is told."""
        account = self._register.accounts.get(order.account)
        return account.native_tif(order) if account is not None else order.tif

    def request(self, order: Order, reqid: str) -> BrokerdOrder:
        """Return an order as its backend gets it."""
        return request_of(order, self._register.mktid(order.symbol), self.tif(order), reqid)

    async def _send(self, state: OrderState, request: BrokerdRequest) -> None:
        account = self._register.accounts.get(state.order.account)
        try:
            if account is None:
                raise Transient(f"{state.order.account} is not open.")
            await account.link.send(request)
        except PikerError as err:  # it may have left, or not: only the venue knows
            self._edits.pop(state.order.oid, None)
            await self._register.happen(state.order.oid, EventKind.LOSE, reason=err.message)
