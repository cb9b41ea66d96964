"""``piker buy``, ``sell`` and ``alert``: send an order, or a bracket, and say what became of it."""

from __future__ import annotations

import sys
from decimal import Decimal

import trio

from piker.clearing.client import OrderClient
from piker.clearing.denials import DenialCode
from piker.clearing.lifecycle import Phase
from piker.cli.orders import (
    OrderRow,
    console,
    describe,
    exit_code_of,
    is_live,
    opening,
    opening_account,
    row_of,
    show,
    start,
    told_refusal,
)
from piker.cli.orders_price import price_of
from piker.cli.orders_ticket import Ticket, build, checked
from piker.errors import Unknown
from piker.orders import Action, Order, OrderKind, Status, SyncState, TimeInForce

__all__ = ["Desk", "Ticket", "run"]

SYNC_S = 10.0  # an account that was just opened is compared with its venue: a second, or some
ACK_S = 30.0  # emsd that was lost is back within seconds; who waits longer is told
ANSWER_S = 10.0  # a venue's answer: theirs take 0.05 to 1 s, a time-out 10 s
_REFUSED = (Phase.DENIED, Phase.REJECTED)


def run(typed: Ticket, *, wait: bool, as_json: bool) -> int:
    """Send what was typed; return the exit code."""
    typed = checked(typed)
    desk = Desk(typed, wait=wait, as_json=as_json)
    return start(desk.work, desk.left)


class Desk:
    """One command's orders: what was sent, and what has become of each."""

    def __init__(self, typed: Ticket, *, wait: bool, as_json: bool) -> None:
        self._typed = typed
        self._wait = wait
        self._as_json = as_json
        self._account = typed.account or ""
        self.orders: list[Order] = []
        self._sent: list[str] = []
        self._refused: list[str] = []
        self._rows: dict[str, OrderRow] = {}
        self._shown: dict[str, OrderRow] = {}

    @property
    def code(self) -> int:
        """Return the exit code: 1 of what does not stand, 7 of what is not known, else 0."""
        if DenialCode.FAILED in self._refused:
            return Unknown.exit_code
        return 1 if self._refused else exit_code_of(self._rows.values())

    async def work(self) -> int:
        """Send the orders and tell what becomes of them; return the exit code."""
        typed = self._typed
        with opening(f"Opening {self._account} and {typed.fqme} ...") as opened:
            async with opening_account(self._account, [typed.fqme]) as ems:
                await _synced(ems, self._account)
                self.orders = build(ems, typed, await self._market())
                opened()
                self._announce()
                await self.send(ems)
        return self.code

    async def _market(self) -> Decimal | None:
        """Return the market's price, where something is to be compared with it."""
        typed = self._typed
        if typed.action == Action.ALERT or not (typed.trigger or typed.is_bracket):
            return None
        return await price_of(typed.fqme, last=bool(typed.trigger))

    def _announce(self) -> None:
        if is_live(self._account):
            text = f"LIVE: this is real money, on {self._account}."
            console(stderr=True).print(text, style="bold red", highlight=False)

    async def send(self, ems: OrderClient) -> None:
        """Send one after the other; of a bracket nothing more once a part of it is denied."""
        for order in self.orders:
            self._sent.append(order.oid)
            status = None
            with trio.move_on_after(ACK_S):
                status = await ems.send(order)
            if status is None:
                raise Unknown(
                    f"emsd has not acknowledged {order.oid} within {ACK_S:.0f} s: whether it has "
                    "the order is not known.",
                    remedy="Look, before you send it again: piker orders",
                )
            self._take(status)
            if status.resp == "error":
                self._refused.append(status.code)
                said = told_refusal(status.code, status.reason)
                print(f"{said} Order {order.oid}.", file=sys.stderr)
                break  # of a failure of emsd's own it is not known what stands: nothing is undone
            if status.resp == Phase.DENIED:
                await self._withdraw(ems)
                break
        await self._follow(ems)

    async def _withdraw(self, ems: OrderClient) -> None:
        """Take back the children of a bracket that is not to be."""
        for oid in [oid for oid, row in self._rows.items() if not row.is_over]:
            with trio.move_on_after(ACK_S):
                await ems.cancel(oid)

    def _take(self, status: Status) -> None:
        """Keep how an order stands; with --wait, say so whenever it has changed."""
        if status.req is None or status.resp == "error":
            return
        before = self._rows.get(status.oid)
        if before is not None and before.is_over and status.resp == "fill":
            return
        self._rows[status.oid] = row_of(status)
        if self._wait:
            self._show(status.oid)

    def _show(self, oid: str) -> None:
        row = self._rows[oid]
        seen = self._shown.get(oid)
        if seen is None or (seen.state, seen.filled, seen.price, seen.size) != (
            row.state, row.filled, row.price, row.size,
        ):  # fmt: skip
            self._shown[oid] = row
            show(row, as_json=self._as_json)

    async def _follow(self, ems: OrderClient) -> None:
        """Hear what becomes of the orders: until they have ended, or until each is answered."""
        limit_s = float("inf") if self._wait else ANSWER_S
        with trio.move_on_after(limit_s):
            while not self._done():
                told = await ems.__anext__()
                if isinstance(told, Status) and told.oid in self._rows:
                    self._take(told)
        for oid in self._rows:
            self._show(oid)
        self._warn()
        self._say_unanswered()

    def _say_unanswered(self) -> None:
        """Say of which order more is to come than was waited for."""
        for row in self._rows.values():
            if not self._wait and not self._answered(row):
                what = "not filled whole" if row.filled else "no answer"
                text = (
                    f"{what} within {ANSWER_S:.0f} s: {row.oid} lives on. See: piker orders --watch"
                )
                print(text, file=sys.stderr)

    def _warn(self) -> None:
        """Say which exit of a bracket does not stand though its entry has traded."""
        for row in self._rows.values():
            parent = self._rows.get(row.parent)
            if parent is None or not parent.filled or row.state not in _REFUSED:
                continue
            what = "take-profit" if row.price is not None else "stop-loss"
            price = (
                f"--price {row.price:f}" if row.price is not None else f"--trigger {row.trigger:f}"
            )
            print(
                f"WARNING: {parent.filled:f} {row.market} has no {what}. To send one: piker "
                f"{row.side} {row.market} {parent.filled:f} {price} --account {row.account}",
                file=sys.stderr,
            )

    def _done(self) -> bool:
        rows = list(self._rows.values())
        if self._wait:
            return all(row.is_over for row in rows)
        return all(self._answered(row) for row in rows)

    def _answered(self, row: OrderRow) -> bool:
        """Tell whether there is something to say of an order that only time will change."""
        at_once = row.kind == OrderKind.MARKET or row.tif in (TimeInForce.IOC, TimeInForce.FOK)
        parent = self._rows.get(row.parent)
        if row.state == Phase.HELD:
            return parent is not None and not parent.is_over
        if parent is not None and row.size < parent.filled and not row.is_over:
            return False  # it is still growing with its parent's fills
        if row.state in (Phase.OPEN, Phase.PARTIAL):
            return not at_once
        return row.state != Phase.PENDING

    def left(self) -> str:
        """Return what a person who goes away must know."""
        if not self._sent:
            return "interrupted: nothing was sent."
        alive = [oid for oid in self._sent if not (oid in self._rows and self._rows[oid].is_over)]
        if not alive:
            return "interrupted."
        names = " ".join(alive)
        known = [self._rows[oid] for oid in alive if oid in self._rows]
        what = "; ".join(describe(row) for row in known) or "it may not have been acknowledged"
        lives = "the order lives on" if len(alive) == 1 else "the orders live on"
        return f"interrupted: {lives} ({what}). To take it back: piker cancel {names}"


async def _synced(ems: OrderClient, account: str) -> None:
    """Wait while an account that was just opened is compared with its venue, but not for ever."""
    with trio.move_on_after(SYNC_S):
        while account not in ems.accounts or ems.accounts[account].sync is not SyncState.SYNCED:
            if account in ems.accounts and ems.accounts[account].state == "unarmed":
                return
            await ems.changed()
