"""``piker halt`` and ``arm``: who stops trading, and who lets it go on."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import msgspec
import trio

from piker import clock
from piker.clearing import client
from piker.clearing.client import list_accounts, open_ems
from piker.cli import orders_journal as kept
from piker.cli.orders import check_account, console, is_live, opening, start
from piker.cli.orders_accounts import check_known, row_of_account
from piker.errors import ConfigError, PeerLost, PikerError, StoreError, Transient
from piker.orders import AccountStatus, BrokerdBalance

__all__ = ["Halted", "arm", "halt"]

REACH_S = 10.0  # a kill switch is pulled: emsd answers in milliseconds, or is started in seconds
ALONE_S = 5.0  # one that is not open, of a venue that does not answer, is not waited for longer
GONE_S = 10.0  # a venue answers a cancel in 0.05 to 1 s


class Halted(msgspec.Struct, frozen=True, kw_only=True):
    """What ``piker halt`` has done. ``by`` is emsd, or the file that was written instead."""

    halted: str  # the account, "" for all of them
    by: str
    reason: str
    why: str = ""  # it is not what was asked for: emsd was not reached, or an account not opened
    standing: list[str] = []  # orders that are not known to be gone


def halt(account: str, *, reason: str, as_json: bool) -> int:
    """Halt an account, or all (""), by emsd, or by the file when emsd can not be reached."""
    account = check_account(account, whatever=True) if account else ""
    done: list[Halted] = []

    async def work() -> int:
        done.append(await _halt(account, reason))
        return 0

    code = start(
        work,
        lambda: "interrupted: whether it is halted is not known: piker accounts",
        whatever=True,
    )
    if not done:
        return code
    if as_json:
        print(msgspec.json.encode(done[0]).decode())
    else:
        _say_halted(done[0])
    return code


async def _halt(account: str, reason: str) -> Halted:
    """Halt what is asked for; where that can not be, everything, by whatever means there is."""
    why = await _unreachable()
    if not why:
        await _check_known(account)
        why = await _by_emsd(account, reason)
        done = account
        if why and account:  # its venue is away: it can not be opened, so not be told either
            done, said = "", await _by_emsd("", reason)
            why, instead = said, why
        else:
            instead = ""
        if not why:
            still = await _still(done)
            return Halted(halted=done, by="emsd", reason=reason, why=instead, standing=still)
    return Halted(halted="", by=str(_write_file(reason)), reason=reason, why=why)


async def _check_known(account: str) -> None:
    """Raise for an account that nobody knows: the one that was meant would trade on."""
    if not account:
        return
    try:
        await check_known(account, [one.account for one in await list_accounts()])
    except ConfigError as err:
        err.remedy = f"NOTHING WAS HALTED. {err.remedy}. To stop everything: piker halt"
        raise


async def _by_emsd(account: str, reason: str) -> str:
    """Have emsd halt an account; return why it did not. Raises what is wrong with its name."""
    limit_s = ALONE_S if account else REACH_S
    try:
        with trio.fail_after(limit_s):
            await client.halt(account, reason, name="cli")
    except (PeerLost, Transient) as err:
        return err.message
    except trio.TooSlowError:
        return f"emsd did not do it within {limit_s:.0f} s."
    return ""


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
        async with open_ems(account="", name="cli", start_pikerd=False) as ems:
            with trio.move_on_after(GONE_S):
                while ems.open_orders(account):
                    await ems.changed()
            return [status.oid for status in ems.open_orders(account)]
    except PikerError as err:
        return [f"not known: {err.message}"]


def _say_halted(done: Halted) -> None:
    out = console()
    whose = done.halted or "all accounts"
    if done.by != "emsd":
        out.print(f"HALTED by the file {done.by}: all accounts.", style="bold red", soft_wrap=True,
                  markup=False, highlight=False)  # fmt: skip
        print(f"emsd was not reached: {done.why}")
        print("As soon as it runs it sees the file, cancels every order, and lets none pass.")
        print("Until then orders may stand at their venues: look there.")
        print(f"To trade again: rm {done.by}, then: piker arm")
        return
    if done.why:
        print(f"one account alone could not be halted ({done.why.rstrip('.')}), so all are.")
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
    before: list[AccountStatus] = []
    balances: list[BrokerdBalance] = []

    async def work() -> int:
        with opening("Reaching emsd ..."):
            before.extend(await list_accounts())
            await client.arm(account, reason, name="cli")
            async with open_ems(account="", name="cli", start_pikerd=False) as ems:
                states.extend(await list_accounts())
                balances.extend(ems.balances.values())
        return 0

    code = start(work, lambda: "interrupted: whether it is armed is not known: piker accounts")
    if not code:
        if not account and not as_json:
            was = any(not one.account for one in before)
            print(f"the halt of all accounts {'is lifted' if was else 'was not on'}.")
        _say_armed(account, states, balances, as_json=as_json)
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


def _say_armed(
    account: str, states: list[AccountStatus], balances: list[BrokerdBalance], *, as_json: bool
) -> None:
    shown = [one for one in states if account in ("", one.account)]
    if as_json:
        for one in shown:
            if one.account:
                print(msgspec.json.encode(row_of_account(one, balances)).decode())
        return
    for one in shown:
        live = is_live(one.account) and one.state in ("active", "reducing")
        mark = "ARMED: it trades real money. Stop it with: piker halt " if live else one.state
        text = f"{one.account} is {mark}{one.account if live else ''}"
        console().print(text, style="bold red" if live else None, highlight=False, soft_wrap=True)
        if one.reason and one.state != "active":
            print(f"  why: {one.reason}")
    if account and any(not one.account for one in states):
        print("but all accounts are halted; to lift that: piker arm")
