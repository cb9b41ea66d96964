"""``piker accounts``: what each may do, how it stands with its venue, what it holds."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

import msgspec
import trio
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from piker import clock, service
from piker.brokers.keystores import open_stores
from piker.clearing.accounts import PAPER, UNARMED, split_account
from piker.clearing.client import OrderClient, list_accounts, open_ems
from piker.clearing.paper_money import PaperMoney
from piker.clearing.risk import TradingState
from piker.cli import orders_journal as kept
from piker.cli.orders import check_account, console, is_live, opening, opening_account, start
from piker.config import load_conf, nearest
from piker.errors import ConfigError, PikerError
from piker.money import plain
from piker.orders import AccountStatus, BrokerdBalance, BrokerdMemory, SyncState

__all__ = ["AccountRow", "check_known", "row_of_account", "show"]

SYNC_S = 10.0  # an account that was just opened is compared with its venue: a second, or some
NOT_OPEN = "not open"
_STYLES = {"active": "green", "reducing": "yellow", "halted": "bold red", "unarmed": "yellow"}


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """An account. ``state`` is active, reducing, halted or unarmed; ``sync`` is also "not open".

    ``armed`` says whether orders in it may trade; of a paper account as well.
    """

    account: str
    live: bool
    state: str
    armed: bool
    sync: str
    where: str = ""
    reason: str = ""
    balances: dict[str, Decimal] = {}
    available: dict[str, Decimal] = {}
    hedges: tuple[str, ...] = ()  # venues where both sides of a market are held apart


def show(name: str | None, *, as_json: bool) -> int:
    """Show the accounts, or open one and show it; return the exit code."""
    name = check_account(name) if name else ""
    rows: list[AccountRow] = []
    tops: list[str] = []

    async def work() -> int:
        found, top = await _look(name)
        rows.extend(found)
        tops.append(top)
        return 0

    code = start(work, lambda: "interrupted.")
    if code:
        return code
    if as_json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    else:
        _print(rows)
    if tops[0]:
        print(f"ALL ACCOUNTS ARE HALTED: {tops[0]}. Lift it with: piker arm", file=sys.stderr)
    return 0


async def _look(name: str) -> tuple[list[AccountRow], str]:
    """Return the accounts, and why all of them are halted, where they are."""
    rows: dict[str, AccountRow] = {}
    top = f"{kept.halt_file()} is there" if kept.halt_file().exists() else ""
    if name or service.read_pikerd() is not None:
        with opening("Asking emsd ..."):
            dialog = (
                opening_account(name)
                if name
                else open_ems(account="", name="cli", start_pikerd=False)
            )
            async with dialog as ems:
                await _synced(ems, name)
                told = await list_accounts(start_pikerd=False)
                rows = {
                    one.account: row_of_account(one, ems.balances.values())
                    for one in told
                    if one.account
                }
        top = top or next((one.reason for one in told if not one.account), "")
    if name:
        return [rows[name]], top
    if service.read_pikerd() is None and kept.has_journal():
        print(kept.NOT_RUNNING, file=sys.stderr)
    for row in await _closed(set(rows), halted=bool(top)):
        rows[row.account] = row
    return [rows[one] for one in sorted(rows, key=lambda one: (not rows[one].live, one))], top


async def _synced(ems: OrderClient, account: str) -> None:
    """Wait while an account that was just opened is compared with its venue, but not for ever."""
    with trio.move_on_after(SYNC_S):
        while account and (
            account not in ems.accounts or ems.accounts[account].sync is not SyncState.SYNCED
        ):
            await ems.changed()


def row_of_account(status: AccountStatus, told: Iterable[BrokerdBalance] = ()) -> AccountRow:
    """Return what is shown of an account, with what it holds, of what was told of balances."""
    held = [one for one in told if one.account == status.account and one.total]
    return AccountRow(
        account=status.account, live=is_live(status.account), state=status.state,
        armed=status.state in (TradingState.ACTIVE, TradingState.REDUCING), sync=status.sync,
        where=status.src, reason=status.reason,
        balances={one.asset: one.total for one in held},
        available={one.asset: one.available for one in held if one.available is not None},
        hedges=status.hedges,
    )  # fmt: skip


async def _closed(opened: set[str], *, halted: bool) -> list[AccountRow]:
    """Return the accounts that are not open: those with keys, and those of the journal."""
    names = await trio.to_thread.run_sync(_with_keys)
    states: dict[str, str] = {}
    held: dict[str, dict[str, Decimal]] = {}
    if kept.has_journal():
        async with kept.opened() as journal:
            standing = journal.standing
            top = standing.risk.get("")
            halted = halted or (top is not None and top.state == TradingState.HALTED)
            states = {name: change.state for name, change in standing.risk.items() if name}
            names |= set(states) | {name for name, _ in standing.nets}
            names |= {state.order.account for state in standing.live.values()}
            held = {name: _on_paper(name, standing.moved) for name in names if not is_live(name)}
    closed = sorted(names - opened)
    if halted:
        states = dict.fromkeys(closed, TradingState.HALTED)
    return [_closed_row(name, states.get(name, ""), held.get(name, {})) for name in closed]


def _on_paper(name: str, moved: Mapping[tuple[str, str], Decimal]) -> dict[str, Decimal]:
    """Return what a paper account holds by the journal: what it began with, and its fills."""
    memory = BrokerdMemory(
        account=name, moved={asset: sum_ for (whose, asset), sum_ in moved.items() if whose == name}
    )
    money = PaperMoney(name, load_conf().paper.balances, memory)
    return {one.asset: one.total for one in money.balances(clock.wall_ns()) if one.total}


def _closed_row(name: str, state: str, held: dict[str, Decimal]) -> AccountRow:
    state = state or (UNARMED if is_live(name) else TradingState.ACTIVE)
    armed = state in (TradingState.ACTIVE, TradingState.REDUCING)
    return AccountRow(
        account=name, live=is_live(name), state=state, armed=armed, sync=NOT_OPEN, balances=held
    )


async def check_known(name: str, opened: Collection[str]) -> None:
    """Raise ``ConfigError`` for a live account that nobody knows: it is one that was misspelt.

    ``opened`` are those that emsd has. What can not be looked up may well be there.
    """
    if not is_live(name) or name in opened:
        return
    try:
        known = {row.account for row in await _closed(set(opened), halted=False)} | set(opened)
    except PikerError:
        return
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(
            f"there is no account {name!r}: it is not open, has no key, and never traded.",
            remedy=f"{near} See: piker accounts".strip(),
        )


def _with_keys() -> set[str]:
    found: set[str] = set()
    for store in open_stores(ask=None):
        try:
            found |= {f"{venue}.{account}" for venue, account in store.names()}
        except PikerError as err:
            print(f"warning: {err}", file=sys.stderr)
    return {name for name in found if split_account(name)[1] != PAPER}


def _print(rows: list[AccountRow]) -> None:
    if not rows:
        print(
            "no account is open. Paper needs none: piker accounts binance.paper; keys: piker keys"
        )
        return
    found = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("account", "money", "may trade", "venue", "at", "holds"):
        found.add_column(name, overflow="fold")
    for row in rows:
        found.add_row(*_cells(row))
    console().print(found)
    for row in rows:
        if row.reason:
            print(f"{row.account}: {row.reason}")
        if row.hedges:
            print(
                f"{row.account}: hedge mode at {', '.join(row.hedges)}: a buy opens long and a "
                "sell opens short; what is reduce-only closes."
            )


def _cells(row: AccountRow) -> tuple[str | Text, ...]:
    money = Text("LIVE", "bold red") if row.live else Text("paper")
    holds = ", ".join(f"{plain(total)} {asset}" for asset, total in sorted(row.balances.items()))
    state = Text(_state_words(row), _STYLES.get(row.state, ""))
    return Text(row.account, "bold" if row.live else ""), money, state, row.sync, row.where, holds


def _state_words(row: AccountRow) -> str:
    if row.state == UNARMED:
        return "no: NOT ARMED"
    if row.state == TradingState.HALTED:
        return "no: HALTED"
    word = "yes: ARMED" if row.live else "yes"
    return f"{word}, only reducing" if row.state == TradingState.REDUCING else word
