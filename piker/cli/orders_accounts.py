"""``piker accounts``, ``halt`` and ``arm``: what accounts may do, and who lets them."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import trio
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from piker import clock, service
from piker.accounting.money import plain
from piker.brokers.keystores import open_stores
from piker.clearing import client
from piker.clearing.accounts import PAPER, UNARMED, split_account
from piker.clearing.client import OrderClient, list_accounts, open_ems
from piker.clearing.risk import TradingState
from piker.cli import orders_journal as kept
from piker.cli.orders import check_account, console, is_live, opening, start
from piker.errors import ConfigError, PeerLost, PikerError, StoreError, Transient
from piker.orders import AccountStatus, SyncState

__all__ = ["AccountRow", "arm", "halt", "show", "show_synced"]

REACH_S = 10.0  # a kill switch is pulled: emsd answers in milliseconds, or is started in seconds
GONE_S = 10.0  # a venue answers a cancel in 0.05 to 1 s
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


class Halted(msgspec.Struct, frozen=True, kw_only=True):
    """What ``piker halt`` has done. ``by`` is emsd, or the file that was written instead."""

    halted: str  # the account, "" for all of them
    by: str
    reason: str
    why: str = ""  # emsd was not reached
    standing: list[str] = []  # orders that are not known to be gone


# -- accounts ----------------------------------------------------------------------------------
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
            async with open_ems(name, name="cli", start_pikerd=bool(name)) as ems:
                await show_synced(ems, name)
                told = await list_accounts(start_pikerd=False)
                rows = {one.account: _row(one, ems) for one in told if one.account}
        top = top or next((one.reason for one in told if not one.account), "")
    if name:
        return [rows[name]], top
    for row in await _closed(set(rows), halted=bool(top)):
        rows[row.account] = row
    return [rows[one] for one in sorted(rows, key=lambda one: (not rows[one].live, one))], top


async def show_synced(ems: OrderClient, account: str) -> None:
    """Wait while an account that was just opened is compared with its venue, but not for ever."""
    with trio.move_on_after(SYNC_S):
        while account and (
            account not in ems.accounts or ems.accounts[account].sync is not SyncState.SYNCED
        ):
            await ems.changed()


def _row(status: AccountStatus, ems: OrderClient) -> AccountRow:
    held = [one for (account, _), one in ems.balances.items() if account == status.account]
    held = [one for one in held if one.total]
    return AccountRow(
        account=status.account, live=is_live(status.account), state=status.state,
        armed=status.state in (TradingState.ACTIVE, TradingState.REDUCING), sync=status.sync,
        where=status.src, reason=status.reason,
        balances={one.asset: one.total for one in held},
        available={one.asset: one.available for one in held if one.available is not None},
    )  # fmt: skip


async def _closed(opened: set[str], *, halted: bool) -> list[AccountRow]:
    """Return the accounts that are not open: those with keys, and those of the journal."""
    names = await trio.to_thread.run_sync(_with_keys)
    states: dict[str, str] = {}
    if kept.has_journal():
        async with kept.opened() as journal:
            standing = journal.standing
            top = standing.risk.get("")
            halted = halted or (top is not None and top.state == TradingState.HALTED)
            states = {name: change.state for name, change in standing.risk.items() if name}
            names |= set(states) | {name for name, _ in standing.nets}
            names |= {state.order.account for state in standing.live.values()}
    closed = sorted(names - opened)
    if halted:
        states = dict.fromkeys(closed, TradingState.HALTED)
    return [_closed_row(name, states.get(name, "")) for name in closed]


def _closed_row(name: str, state: str) -> AccountRow:
    state = state or (UNARMED if is_live(name) else TradingState.ACTIVE)
    armed = state in (TradingState.ACTIVE, TradingState.REDUCING)
    return AccountRow(account=name, live=is_live(name), state=state, armed=armed, sync=NOT_OPEN)


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


# -- halt --------------------------------------------------------------------------------------
def halt(account: str, *, reason: str, as_json: bool) -> int:
    """Halt an account, or all (""), by emsd, or by the file when emsd can not be reached."""
    account = check_account(account) if account else ""
    done: list[Halted] = []

    async def work() -> int:
        done.append(await _halt(account, reason))
        return 0

    code = start(work, lambda: "interrupted: whether it is halted is not known: piker accounts")
    if not done:
        return code
    if as_json:
        print(msgspec.json.encode(done[0]).decode())
    else:
        _say_halted(done[0])
    return code


async def _halt(account: str, reason: str) -> Halted:
    why = await _unreachable()
    if not why:
        try:
            with trio.fail_after(REACH_S):
                await client.halt(account, reason, name="cli")
        except (PeerLost, Transient) as err:
            why = err.message
        except trio.TooSlowError:
            why = f"emsd did not answer within {REACH_S:.0f} s."
    if why:
        return Halted(halted="", by=str(_write_file(reason)), reason=reason, why=why)
    return Halted(halted=account, by="emsd", reason=reason, standing=await _still(account))


async def _unreachable() -> str:
    """Return why emsd can not be reached, or nothing; it is started if need be."""
    try:
        with opening("Reaching emsd ..."), trio.fail_after(REACH_S):
            await list_accounts()
    except PikerError as err:
        return err.message
    except trio.TooSlowError:
        return f"emsd did not answer within {REACH_S:.0f} s."
    return ""


def _write_file(reason: str) -> object:
    path = kept.halt_file()
    now = datetime.fromtimestamp(clock.wall_s(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    try:
        path.write_text(f"halted {now} by piker halt (uid {os.getuid()}): {reason}\n")
    except OSError as err:
        raise StoreError.of(err, path) from err
    return path


async def _still(account: str) -> list[str]:
    """Return the orders that are not known to be gone after a while."""
    try:
        async with open_ems("", name="cli", start_pikerd=False) as ems:
            with trio.move_on_after(GONE_S):
                while ems.open_orders(account):
                    await ems.changed()
            return [status.oid for status in ems.open_orders(account)]
    except PikerError as err:
        return [f"not known: {err.message}"]


def _say_halted(done: Halted) -> None:
    out = console()
    whose = done.halted or "all accounts"
    if done.why:
        out.print(f"HALTED by the file {done.by}: all accounts.", style="bold red", soft_wrap=True,
                  markup=False, highlight=False)  # fmt: skip
        end = "" if done.why.endswith((".", "!")) else "."
        print(
            f"emsd was not reached: {done.why}{end} It cancels every order, and lets none pass, as"
        )
        print(
            "soon as it runs and sees the file. Orders at a venue may stand until then: look there."
        )
        print(f"To trade again: rm {done.by}, then: piker arm")
        return
    out.print(f"HALTED: {whose}. Nothing new passes.", style="bold red", highlight=False)
    if done.standing:
        print(f"not gone yet: {', '.join(done.standing)}. Look again: piker orders")
    else:
        print("no order is open any more.")
    print(f"To trade again: piker arm {done.halted}".rstrip())


# -- arm ---------------------------------------------------------------------------------------
def arm(account: str, *, reason: str, yes: bool, as_json: bool) -> int:
    """Arm an account, or lift the halt of all (""); ask first where real money is at stake."""
    account = check_account(account) if account else ""
    if not yes:
        _make_sure(account)
    states: list[AccountStatus] = []

    async def work() -> int:
        with opening("Reaching emsd ..."):
            await client.arm(account, reason, name="cli")
            states.extend(await list_accounts())
        return 0

    code = start(work, lambda: "interrupted: whether it is armed is not known: piker accounts")
    if not code:
        _say_armed(account, states, as_json=as_json)
    return code


def _make_sure(account: str) -> None:
    """Have it typed where real money is at stake; raise where it is not, or was not meant."""
    if account:
        if is_live(account):
            _ask(account, f"{account} trades REAL MONEY.")
        return
    found: list[str] = []

    async def look() -> int:
        with opening("Reaching emsd ..."):
            found.extend(one.account for one in await list_accounts() if one.account)
        return 0

    if start(look, lambda: "interrupted: nothing was changed."):
        raise KeyboardInterrupt
    live = ", ".join(name for name in found if is_live(name))
    if live:
        _ask("all", f"{live}: REAL MONEY; each is then as it was before the halt.")


def _ask(word: str, about: str) -> None:
    """Have a word typed; raise ``ConfigError`` for another one, or where nobody can type."""
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{about} Nobody is there to type {word!r}; nothing was changed.",
            remedy="In a script, say --yes.",
        )
    print(f"{about} Type {word} to arm it:", end=" ", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip()
    if typed != word:
        raise ConfigError(f"{typed!r} is not {word!r}; nothing was changed.")


def _say_armed(account: str, states: list[AccountStatus], *, as_json: bool) -> None:
    shown = [one for one in states if account in ("", one.account)]
    if as_json:
        for one in shown:
            print(msgspec.json.encode(one).decode())
        return
    if not account:
        print("the halt of all accounts is lifted.")
    for one in shown:
        live = is_live(one.account) and one.state in ("active", "reducing")
        mark = "ARMED: it trades real money. Stop it with: piker halt " if live else one.state
        text = f"{one.account} is {mark}{one.account if live else ''}"
        console().print(text, style="bold red" if live else None, highlight=False, soft_wrap=True)
        if one.reason and one.state != "active":
            print(f"  why: {one.reason}")
    if account and any(not one.account for one in states):
        print("but all accounts are halted; to lift that: piker arm")
