"""``piker cancel``: take orders back, and say of each whether it is gone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

import trio

from piker import service
from piker.clearing.client import OrderClient, cancel_all, open_ems
from piker.clearing.denials import DenialCode
from piker.cli import orders_journal as kept
from piker.cli.markets import check_markets
from piker.cli.orders import (
    ENDED,
    OrderRow,
    check_account,
    named,
    opening,
    row_of,
    show,
    show_refused,
    start,
)
from piker.cli.orders_accounts import check_known
from piker.errors import ConfigError, Unknown
from piker.market import parse_fqme
from piker.orders import Status

__all__ = ["run"]

GONE_S = 10.0  # a venue answers a cancel in 0.05 to 1 s, or its time-out comes


def run(
    oids: Sequence[str], *, every: bool, account: str | None, market: str | None, as_json: bool
) -> int:
    """Cancel what is named; return the exit code."""
    if every == bool(oids):
        raise ConfigError(
            "which orders is not clear.", remedy="Name their ids (piker orders), or say --all."
        )
    if not every and (account or market):
        raise ConfigError("--account and --market go with --all.", remedy="Leave them out.")
    name = check_account(account, whatever=True) if account else ""
    if market:
        market = str(parse_fqme(market.lower()))
        with suppress(ConfigError):  # of a conf.toml that can not be read: see :func:`start`
            check_markets([market])
    work = _Work(oids, account=name, market=market or "", as_json=as_json)
    return start(work.do, work.left, whatever=True)


class _Work:
    """One command: what is to go, and what is gone."""

    def __init__(self, oids: Sequence[str], *, account: str, market: str, as_json: bool) -> None:
        self._oids = oids
        self._account = account
        self._market = market
        self._as_json = as_json
        self._asked: list[str] = []
        self._failed = False

    async def do(self) -> int:
        """Ask, and wait until they are gone; return the exit code."""
        if service.read_pikerd() is None and not kept.has_journal():
            if self._oids:
                for oid in self._oids:
                    self._refuse(oid, DenialCode.UNKNOWN_ORDER, f"{oid!r}: nothing was ordered.")
                return 1
            if self._account:
                await check_known(self._account, ())
            if not self._as_json:
                print(self._nothing())
            return 0
        with opening("Asking emsd ...") as opened:
            async with open_ems(account="", name="cli") as ems:
                opened()
                await self._ask(ems)
                return await self._tell(ems)

    def _nothing(self) -> str:
        """Return whose orders there are none of: of a name that was misspelt there never are."""
        whose = f" of {self._account}" if self._account else ""
        return f"no open orders{whose}{f' in {self._market}' if self._market else ''}."

    async def _ask(self, ems: OrderClient) -> None:
        if not self._oids:
            self._asked = await cancel_all(self._account, self._market, name="cli")
            if not self._asked:
                if self._account:
                    await check_known(self._account, ems.accounts)
                if not self._as_json:
                    print(self._nothing())
            return
        found = [oid for oid in (named(ems, one) for one in self._oids) if oid]
        async with trio.open_nursery() as nursery:
            for oid in dict.fromkeys(found):
                nursery.start_soon(self._cancel, ems, oid)

    async def _cancel(self, ems: OrderClient, oid: str) -> None:
        status: Status | None = None
        with trio.move_on_after(GONE_S):
            status = await ems.cancel(oid)
        if status is None:
            raise Unknown(
                f"emsd has not acknowledged the cancel of {oid} within {GONE_S:.0f} s.",
                remedy="Look what became of it: piker orders",
            )
        if status.resp == "error" and oid not in self._open(ems):
            code, said = await kept.why_not_open(oid)
            known = code is DenialCode.ORDER_OVER or not status.code
            self._refuse(oid, code if known else DenialCode(status.code), said)
        else:
            self._asked.append(oid)

    @staticmethod
    def _open(ems: OrderClient) -> set[str]:
        return {status.oid for status in ems.open_orders()}

    def _refuse(self, oid: str, code: DenialCode, said: str) -> None:
        self._failed = True
        show_refused(oid, code, said, as_json=self._as_json)

    async def _tell(self, ems: OrderClient) -> int:
        with trio.move_on_after(GONE_S):
            for oid in self._asked:
                await ems.until(oid, ENDED)
        rows = [row_of(ems.dialogs[oid]) for oid in self._asked if oid in ems.dialogs]
        for row in rows:
            self._say(row)
        left = [row for row in rows if not row.is_over]
        return 1 if self._failed else Unknown.exit_code if left else 0

    def _say(self, row: OrderRow) -> None:
        show(row, as_json=self._as_json)
        if not row.is_over:
            text = f"not gone yet: {row.where} has not confirmed the cancel of {row.oid} within"
            print(f"{text} {GONE_S:.0f} s. Look again: piker orders", file=sys.stderr)

    def left(self) -> str:
        """Return what a person who goes away must know."""
        if not self._asked:
            return "interrupted."
        return "interrupted: the cancels are on their way. Look what became of them: piker orders"
