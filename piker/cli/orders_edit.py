"""``piker edit``: give an open order other terms, and say whether they hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

import msgspec
import trio

from piker import service
from piker.clearing.client import OrderClient, open_ems
from piker.clearing.denials import DenialCode
from piker.clearing.lifecycle import Phase
from piker.cli import orders_journal as kept
from piker.cli.orders import (
    describe,
    named,
    opening,
    outcome,
    row_of,
    show,
    show_refused,
    start,
)
from piker.cli.orders_price import price_of
from piker.cli.orders_ticket import check_trigger
from piker.errors import ConfigError, RangeError, Unknown
from piker.orders import Status

__all__ = ["run"]

ANSWER_S = 10.0  # a venue answers an edit in 0.05 to 1 s, or its time-out comes


def run(text: str, changes: Mapping[str, str | None], *, as_json: bool) -> int:
    """Change what is named of one order; return the exit code."""
    exact = {name: _number(name, value) for name, value in changes.items() if value is not None}
    if not exact:
        raise ConfigError(
            "what is to change is not said.", remedy="Say --size, --price, --trigger or --trail."
        )
    work = _Work(text, exact, as_json=as_json)
    return start(work.do, work.left)


def _number(name: str, text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise RangeError(f"the {name} {text!r} is no number.", remedy="As in 0.01.") from None


class _Work:
    """One command: the order, and the terms that it is to have."""

    def __init__(self, text: str, changes: Mapping[str, Decimal], *, as_json: bool) -> None:
        self._text = text
        self._changes = changes
        self._as_json = as_json
        self._sent = False

    async def do(self) -> int:
        """Send the edit, and wait until it holds or is refused; return the exit code."""
        if service.read_pikerd() is None and not kept.has_journal():
            return self._refuse(DenialCode.UNKNOWN_ORDER, f"{self._text!r}: nothing was ordered.")
        with opening("Asking emsd ...") as opened:
            async with open_ems(account="", name="cli") as ems:
                oid = named(ems, self._text)
                if oid not in {status.oid for status in ems.open_orders()}:
                    opened()
                    return self._refuse(*await kept.why_not_open(oid))
                await self._check_trigger(ems.dialogs[oid])
                opened()
                return await self._edit(ems, oid)

    async def _check_trigger(self, status: Status) -> None:
        """Raise for a trigger that is met already: it would trade at once, as a new one would."""
        order = status.req
        if order is None or "trigger" not in self._changes or status.resp == Phase.HELD:
            return
        order = msgspec.structs.replace(order, trigger=self._changes["trigger"])
        check_trigger(order, await price_of(order.symbol, last=True), edited=True)

    async def _edit(self, ems: OrderClient, oid: str) -> int:
        status: Status | None = None
        self._sent = True
        with trio.move_on_after(ANSWER_S):
            status = await ems.update(oid, **self._changes)
        if status is None:
            raise Unknown(
                f"the new terms of {oid} were not confirmed within {ANSWER_S:.0f} s: it has its "
                "old terms or these.",
                remedy="Look which: piker orders",
            )
        if status.resp == "error":
            return self._refuse(DenialCode(status.code), status.reason, oid)
        row = row_of(status)
        if all(getattr(row, name) == value for name, value in self._changes.items()):
            show(row, as_json=self._as_json)
            return 0
        why = f": {status.reason}" if status.reason else ""
        if row.is_over:
            print(f"not edited, it has ended: {outcome(row)}", file=sys.stderr)
        else:
            print(f"not edited{why}. It stands as it was: {describe(row)}.", file=sys.stderr)
        return 1

    def _refuse(self, code: DenialCode, said: str, oid: str = "") -> int:
        show_refused(oid or self._text, code, said, as_json=self._as_json)
        return 1

    def left(self) -> str:
        """Return what a person who goes away must know."""
        if not self._sent:
            return "interrupted: nothing was changed."
        return "interrupted: the edit is on its way. Look what became of it: piker orders"
