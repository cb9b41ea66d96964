"""``piker orders``: what stands, where, and since when; once, or for as long as somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from decimal import Decimal

import msgspec
import trio
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from piker import clock, service
from piker.clearing.client import OrderClient, open_ems
from piker.clearing.lifecycle import Phase
from piker.cli import orders_journal as kept
from piker.cli.orders import (
    WORDS,
    OrderRow,
    check_account,
    console,
    endings,
    opening,
    price_words,
    rounded,
    row_of,
    show,
    start,
)
from piker.cli.orders_accounts import check_known
from piker.errors import PeerLost
from piker.money import plain
from piker.orders import Status
from piker.ticks import Resync

__all__ = ["ENDED_SHOWN", "run", "table"]

ENDED_SHOWN = 100  # of those that have ended, the newest, where no other number is asked for
WIDE = 150  # characters from which a row has one line
FRAME_S = 0.5  # between two pictures of --watch: ages go on without news
MAX_AGE_PARTS = ((604_800, "w"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_STYLES = {
    Phase.OPEN: "green", Phase.PARTIAL: "green", Phase.FILLED: "cyan", Phase.DARK: "blue",
    Phase.UNKNOWN: "bold red", Phase.DENIED: "red", Phase.REJECTED: "red", Phase.PENDING: "yellow",
}  # fmt: skip


def run(
    *, every: bool, account: str | None, watch: bool, as_json: bool, last: int = ENDED_SHOWN
) -> int:
    """Show the orders, with ``every`` the ``last`` that have ended, too; return the exit code."""
    name = check_account(account) if account else ""
    if watch:
        view = _Watch(name, every=every, as_json=as_json)
        return start(view.work, view.left)
    found: list[OrderRow] = []
    notes: list[str] = []

    async def work() -> int:
        rows, note = await _look(name, last if every else None)
        found.extend(rows)
        notes.append(note)
        return 0

    code = start(work, lambda: "interrupted.")
    if not code:
        _print(found, name, every=every, as_json=as_json)
        if notes[0] and any(not row.is_over for row in found):
            print(f"note: {notes[0]}: this is what the journal has. {WAITS}", file=sys.stderr)
    return code


def _print(rows: Sequence[OrderRow], account: str, *, every: bool, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    elif rows:
        out = console()
        out.print(table(rows, out.width))
    else:
        whose = f" of {account}" if account else ""
        print(f"no {'orders' if every else 'open orders'}{whose}.")


WAITS = (
    "Nothing in it wakes by a price until emsd runs; what stands at a venue may have traded "
    "meanwhile. See: piker services, or start it with: pikerd"
)


async def _look(account: str, last: int | None) -> tuple[list[OrderRow], str]:
    """Return the orders, oldest first, and why they are the journal's word and not emsd's.

    ``last`` is how many of those that have ended are shown, 0 being all, None no one.
    """
    note = "" if service.read_pikerd() is not None else "pikerd does not run"
    statuses: list[Status] = []
    if not note:
        try:
            with opening("Asking emsd ..."):
                async with open_ems(account="", name="cli", start_pikerd=False) as ems:
                    statuses = ems.open_orders(account)
        except PeerLost as err:
            note = err.message.rstrip(".")
    rows = [row_of(status) for status in statuses]
    if (note or last is not None) and kept.has_journal():
        rows += await _of_journal({row.oid for row in rows}, account, running=not note, last=last)
    if account and not rows:
        await check_known(account, ())
    return in_order(rows), note


async def _of_journal(
    told: Collection[str], account: str, *, running: bool, last: int | None
) -> list[OrderRow]:
    """Return the rows of what only the journal knows."""
    async with kept.opened() as journal:
        states = [] if running else list(journal.standing.live.values())
        if last is not None:
            states += await kept.ended(journal, account, last)
    return [
        kept.row_of_state(state) for state in states
        if state.order.oid not in told and account in ("", state.order.account)
    ]  # fmt: skip


def in_order(rows: Sequence[OrderRow]) -> list[OrderRow]:
    """Return rows with the newest last, where the eye is."""
    return sorted(rows, key=lambda row: (row.since_ns or 0, row.oid))


# -- the table ---------------------------------------------------------------------------------
def table(rows: Sequence[OrderRow], width: int) -> RenderableType:
    """Return the table: a line for each where there is room, else two, with nothing left out."""
    now_ns = clock.wall_ns()
    short = endings([row.oid for row in rows])
    wide = width >= WIDE
    names = (
        ("order", "account", "market", "side", "kind", "size", "filled", "price", "state",
         "where", "age")
        if wide else ("order", "account\nmarket", "what\nsize", "price\nwhere", "state\nage")
    )  # fmt: skip
    found = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        found.add_column(name, overflow="fold", no_wrap=wide)
    for row in rows:
        cells = _wide(row, short[row.oid], now_ns) if wide else _narrow(row, short[row.oid], now_ns)
        found.add_row(*cells)
    notes = [
        Text(f"{short[row.oid]}: {row.reason}{f' ({row.code})' if row.code else ''}", "dim")
        for row in rows
        if row.reason and row.state not in (Phase.CANCELED, Phase.EXPIRED)
    ]
    return Group(found, *notes)


def _account(row: OrderRow) -> Text:
    return Text(f"LIVE {row.account}", "bold red") if row.live else Text(row.account)


def _state(row: OrderRow) -> Text:
    phase = Phase(row.state)
    word = WORDS[phase]
    if row.cancel_called and not row.is_over:
        word += ", cancel asked"
    return Text(word, _STYLES.get(phase, ""))


def _filled(row: OrderRow) -> str:
    if not row.filled or row.avg_price is None:
        return plain(row.filled)
    return f"{plain(row.filled)} at {rounded(row.avg_price)}"


def _wide(row: OrderRow, oid: str, now_ns: int) -> tuple[str | Text, ...]:
    size = "" if row.kind == "alert" else plain(row.size)
    filled = "" if row.kind == "alert" else _filled(row)
    return (
        oid, _account(row), row.market, "" if row.kind == "alert" else row.side, row.kind, size,
        filled, price_words(row), _state(row), row.where or "-", age(row.since_ns, now_ns),
    )  # fmt: skip


def _narrow(row: OrderRow, oid: str, now_ns: int) -> tuple[str | Text, ...]:
    what = row.kind if row.kind == "alert" else f"{row.side} {row.kind}"
    size = "" if row.kind == "alert" else f"\n{plain(row.size)}, filled {_filled(row)}"
    market = row.market.rpartition(".")[0]  # its provider is the account's
    state = _state(row).append(f"\n{age(row.since_ns, now_ns)}", "default")
    return (
        oid, _account(row).append(f"\n{market}", "default"), what + size,
        f"{price_words(row)}\n{row.where or '-'}", state,
    )  # fmt: skip


def age(since_ns: int | None, now_ns: int) -> str:
    """Return how long ago something was, in its largest unit: ``5 s``, ``3 h``; ``?`` unknown."""
    if since_ns is None:
        return "?"
    seconds = max(0, now_ns - since_ns) // clock.NS
    for size, word in MAX_AGE_PARTS:
        if seconds >= size:
            return f"{seconds // size} {word}"
    return "0 s"


# -- looking on --------------------------------------------------------------------------------
class _Watch:
    """The orders for as long as somebody looks: a table on a terminal, else a line a change."""

    def __init__(self, account: str, *, every: bool, as_json: bool) -> None:
        self._account = account
        self._every = every
        self._as_json = as_json
        self._seen: dict[str, tuple[str, Decimal, object]] = {}
        self._ems: OrderClient | None = None

    async def work(self) -> int:
        """Show until cancelled."""
        out = console()
        with opening("Asking emsd ...") as opened:
            async with open_ems(account="", name="cli") as self._ems:
                opened()
                if self._as_json or not out.is_terminal:
                    await self._lines(self._ems)
                await self._draw(self._ems)
        return 0

    async def _lines(self, ems: OrderClient) -> None:
        """Print each change of an order, for ever."""
        async for told in ems:
            if isinstance(told, Resync):
                print("note: emsd was started again; this is how things stand.", file=sys.stderr)
            elif isinstance(told, Status) and told.req is not None and told.resp != "error":
                row = row_of(told)
                what = (row.state, row.filled, told.req)
                if self._account in ("", row.account) and self._seen.get(row.oid) != what:
                    self._seen[row.oid] = what
                    show(row, as_json=self._as_json)

    async def _draw(self, ems: OrderClient) -> None:
        """Keep a table up to date, for ever."""
        out = console()
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(self._picture(ems, out.width, out.height), refresh=True)
                with trio.move_on_after(FRAME_S):
                    await ems.changed()
                await trio.sleep(FRAME_S / 10)

    def _picture(self, ems: OrderClient, width: int, height: int) -> RenderableType:
        rows = self._rows(ems)
        lines = 1 if width >= WIDE else 2
        room = max(1, (height - 5) // lines)
        hidden = len(rows) - room
        head = Text(f"{len(rows)} orders; Ctrl-C ends the looking, not the orders", "dim")
        if hidden > 0:
            head.append(f"; the {hidden} oldest are not shown")
        body = table(rows[-room:], width) if rows else Text("no open orders.")
        return Group(head, body)

    def _rows(self, ems: OrderClient) -> list[OrderRow]:
        statuses = [one for one in ems.dialogs.values() if one.req is not None]
        rows = [row_of(one) for one in statuses]
        return in_order([
            row for row in rows
            if self._account in ("", row.account) and (self._every or not row.is_over)
        ])  # fmt: skip

    def left(self) -> str:
        """Return what a person who goes away must know."""
        rows = self._rows(self._ems) if self._ems is not None else []
        alive = sum(not row.is_over for row in rows)
        if not alive:
            return "no orders are open."
        what = "1 order lives" if alive == 1 else f"{alive} orders live"
        return f"{what} on; piker cancel takes back what you name."
