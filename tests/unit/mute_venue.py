"""A venue that says what a test has it say, and orders that hang on each other at it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import trio.testing
from paper_routing import BTC, PAPER, PaperLink, order

from piker.clearing.lifecycle import OrderState
from piker.clearing.router import Router
from piker.clock import wall_ns
from piker.orders import (
    Action,
    BrokerdCancel,
    BrokerdFill,
    BrokerdOrder,
    BrokerdOrderAck,
    BrokerdRequest,
    BrokerdStatus,
    BrokerdSync,
    Order,
    OrderKind,
    SyncState,
)

__all__ = ["GROUP", "SELL", "STOP", "Mute", "bracket", "newest", "pair", "rest", "sold_out"]

D = Decimal
SELL: dict[str, Any] = {"action": Action.SELL, "size": D(10)}
STOP: dict[str, Any] = {**SELL, "kind": OrderKind.STOP, "trigger": D(95), "price": None}
GROUP: dict[str, Any] = {"parent": "in", "oco": "g"}


class Mute(PaperLink):
    """A venue that says what the test has it say, and nothing else."""

    async def send(self, request: BrokerdRequest) -> None:
        """Take it."""
        self.sent.append(request)

    def opens(self, *oids: str) -> None:
        """Say that it has orders."""
        for oid in oids:
            self.tell([BrokerdOrderAck(oid=oid, reqid="r" + oid, account=PAPER)])
            self.says(oid, "open", reqid="r" + oid)

    def says(self, oid: str, status: str, reqid: str = "", filled: int = 0) -> None:
        """Say how an order stands, and how much of it has traded in all."""
        self.tell([
            BrokerdStatus(
                oid=oid, reqid=reqid, time_ns=1, status=status, account=PAPER, filled=D(filled)
            )
        ])  # fmt: skip

    def fills(self, oid: str, sizes: Sequence[int | str], action: Action = Action.BUY) -> None:
        """Say that an order has traded, all of it at once."""
        self.tell([
            BrokerdFill(
                reqid="r" + oid, tid=f"{oid} {len(self.told) + number}", time_ns=1, size=D(size),
                price=D(99), action=action, account=PAPER, oid=oid, symbol=BTC.mktid,
            )
            for number, size in enumerate(sizes)
        ])  # fmt: skip

    def syncs(self, state: SyncState = SyncState.SYNCED) -> None:
        """Say how the account stands."""
        self.tell([BrokerdSync(account=PAPER, state=state, time_ns=wall_ns())])

    @property
    def orders(self) -> list[BrokerdOrder]:
        """Return the orders and edits that it was sent."""
        return [one for one in self.sent if isinstance(one, BrokerdOrder)]

    def cancels(self, oid: str) -> int:
        """Return how often it was asked to cancel an order."""
        return sum(isinstance(one, BrokerdCancel) and one.oid == oid for one in self.sent)


async def rest() -> None:
    """Wait until nothing happens any more; the journal has a thread."""
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked(0.1)


def newest(state: OrderState) -> Order:
    """Return the newest terms of an order."""
    return state.newest[0]


async def bracket(router: Router, link: Mute) -> None:
    """Have ten bought of which nothing is filled, with both exits."""
    await router.order(order("in", size=D(10)))
    await router.order(order("tp", price=D(103), **SELL, **GROUP))
    await router.order(order("sl", **STOP, **GROUP))
    link.opens("in")
    await rest()


async def sold_out(router: Router, link: Mute) -> None:
    """Have four of ten bought, and sold by the take-profit: the stop has nothing to sell."""
    await bracket(router, link)
    link.fills("in", (4,))
    await rest()
    link.opens("tp")
    link.fills("tp", (4,), Action.SELL)
    await rest()


async def pair(router: Router, link: Mute) -> None:
    """Have two orders of one group at the venue."""
    for oid, price in (("x", 103), ("y", 104)):
        await router.order(order(oid, price=D(price), oco="g", **SELL))
    link.opens("x", "y")
    await rest()
