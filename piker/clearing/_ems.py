"""emsd: the one process through which orders go. pikerd starts it as ``emsd``.

It holds the journal, the router, the limits and the waiting orders; brokers and feeds are other
processes. Start-up is recovery: the journal is checked and folded, every account with orders at its
venue is asked after, and every market with waiting orders is opened, before any client comes.
"""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio_typing import TaskStatus

from piker import clock, config, service
from piker.brokers.spec import load_backend
from piker.clearing.accounts import PAPER, Account, split_account
from piker.clearing.denials import Denial, DenialCode
from piker.clearing.journal import Journal, open_journal
from piker.clearing.lanes import Lanes
from piker.clearing.links import BrokerLink
from piker.clearing.paper import OFFERED
from piker.clearing.prices import Prices
from piker.clearing.risk import Limits, RiskDesk, TradingState
from piker.clearing.router import Router
from piker.clearing.turns import Turns
from piker.errors import Bug, ConfigError, PikerError, Refused
from piker.log import get_logger
from piker.market import parse_fqme
from piker.orders import AccountStatus, Cancel, ClientMessage, Order, decode, encode

__all__ = [
    "Ems",
    "cancel_orders",
    "get_accounts",
    "get_order",
    "halt_file",
    "halt_is_there",
    "journal_path",
    "limits_of",
    "main",
    "open_order_dialog",
    "set_account_state",
]

FOLLOW_NS = 1 * clock.NS  # how often trails are journaled: what a kill may cost them
BEAT_S = 0.25  # how often time is looked at: expiries, the halt file, the turn of the day
START_S = 20.0  # how long a client waits for a broker's process: 1 s, on a busy machine several
HELD_CAP_S = 300.0  # between attempts at a market that is only held in: it may be listed no more
OPEN_S = 5.0  # and then for a venue's first word of its account
log = get_logger("ems")


def journal_path() -> Path:
    """Return where the journal is: a folder of the data directory."""
    return config.data_dir() / "journal"


def halt_file() -> Path:
    """Return the file that halts everything while it is there, whatever is in it."""
    return config.config_dir() / "HALT"


def halt_is_there() -> bool:
    """Tell whether the halt file is there; ``ConfigError`` where it can not be looked for."""
    try:
        return halt_file().exists()
    except OSError as err:
        raise ConfigError(
            f"{halt_file()} can not be looked for: {err.strerror}.",
            remedy="Mend its directory; till then halt by: piker halt",
        ) from err


def limits_of(conf: config.Conf, account: str) -> Limits:
    """Return an account's limits: ``[risk]``, with what its own table replaces."""
    provider, own = split_account(account)
    table = conf.accounts.get(provider, {}).get(own, config.AccountConf())
    try:
        return msgspec.convert({**msgspec.structs.asdict(conf.risk), **table.risk}, Limits)
    except msgspec.ValidationError as err:
        raise ConfigError(
            f"accounts.{account}.risk in conf.toml makes no sense: {err}.",
            remedy="Mend it: its keys are those of [risk].",
        ) from err


class Ems:
    """The running emsd."""

    def __init__(self, journal: Journal, conf: config.Conf, nursery: trio.Nursery) -> None:
        self.router = Router(journal, nursery)
        self.prices = Prices(self.router, nursery)
        self._conf = conf
        self._nursery = nursery
        self._opening = Turns()
        self._added_ns: dict[str, int] = {}
        self._unseen = ""  # why the halt file could not be looked for

    async def recover(self) -> None:
        """Take up the journal: its orders, the accounts they are at and the markets they are in."""
        standing = await self.router.recover()
        for name in sorted({state.order.account for state in standing}):
            try:
                account, link = self._make(name)
            except PikerError as err:  # its backend is gone: its orders wait for it
                log.error("ems.account", account=name, why=err.message)
                continue
            self._add(account, link)
        for fqme in sorted({state.order.symbol for state in standing}):
            self._nursery.start_soon(self.prices.keep_open, fqme)

    def _add(self, account: Account, link: BrokerLink) -> None:
        """Take an account in, and open the markets that it is in: limits need their prices."""
        self.router.add(account)
        self._added_ns[account.name] = clock.monotonic_ns()
        self._nursery.start_soon(self._keep, account.name, link)
        for fqme in account.desk.followed():
            self._nursery.start_soon(self.prices.keep_open, fqme, HELD_CAP_S)

    async def _keep(self, name: str, link: BrokerLink) -> None:
        """Keep an account's link open; one that is refused is no account, however late it is."""
        await link.keep(self.router)
        self.router.accounts.drop(name)

    async def open_account(self, name: str) -> Account:
        """Return an account, opened if need be; raise what keeps it from being opened."""
        with await self._opening.of(name):
            if name not in self.router.accounts:
                account, link = self._make(name)
                self._add(account, link)
                with trio.move_on_after(START_S):
                    await link.reached.wait()
                with trio.move_on_after(OPEN_S):  # a venue that is away is waited for by orders
                    await link.begun.wait()
                if link.refused is not None:
                    raise link.refused
            await self._know_day(name)
            return self.router.accounts[name]

    async def _know_day(self, name: str) -> None:
        """Wait for what the day's result hangs on: just after a start no market is priced yet."""
        left_s = OPEN_S - (clock.monotonic_ns() - self._added_ns[name]) / clock.NS
        if left_s > 0:
            with trio.move_on_after(left_s):
                for fqme in self.router.accounts[name].desk.unpriced():
                    with suppress(PikerError):  # it is tried again; orders are denied meanwhile
                        await self.prices.open(fqme)

    def _make(self, name: str) -> tuple[Account, BrokerLink]:
        provider, own = split_account(name)
        backend = load_backend(provider, self._conf.brokers.modules)
        capabilities = backend.capabilities
        desk, link = RiskDesk(name, limits_of(self._conf, name)), BrokerLink(name)
        table = self._conf.accounts.get(provider, {}).get(own, config.AccountConf())

        def on_paper(_: str, what: str) -> bool:
            return what in OFFERED

        offers = on_paper if own == PAPER else capabilities.offers
        return Account(name, desk, link, offers, protect_ticks=table.protect_ticks), link

    async def beat(self) -> None:
        """Do what the passing of time asks for."""
        followed = 0
        while True:
            now = clock.wall_ns()
            self.prices.refresh()
            await self.router.expire(now)
            if now - followed >= FOLLOW_NS:
                followed = now
                await self.router.follow()
            await self.router.keeper.open_days(now)
            await self.router.keeper.agree_again()
            if self._sees_halt() and self.router.accounts.halted is None:
                await self.router.set_state("", TradingState.HALTED, f"{halt_file()} is there")
            await trio.sleep(BEAT_S)

    def _sees_halt(self) -> bool:
        """Tell whether the halt file is there; that it can not be looked for is said once."""
        found, why = False, ""
        try:
            found = halt_is_there()
        except ConfigError as err:
            why = err.message
        if why and why != self._unseen:
            log.error("ems.halt_file", why=why)
        self._unseen = why
        return found

    async def take(self, message: Order | Cancel, client: str) -> None:
        """Do what a client says; what can not be done is told to it as a status."""
        if isinstance(message, Cancel):
            await self.router.cancel(message, client)
            return
        unopened = ""
        try:
            parse_fqme(message.symbol)
            await self.open_account(message.account)
            await self.prices.open(message.symbol)
        except PikerError as err:
            unopened = str(err)
        await self.router.order(message, client, unopened)

    async def take_safely(self, message: Order | Cancel, client: str) -> None:
        """Do what a client says; a fault of ours costs that one request, and is said."""
        try:
            await self.take(message, client)
        except Exception as err:
            frame = traceback.extract_tb(err.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            log.error("ems.bug", oid=message.oid, error=repr(err), where=where)
            what = f"emsd failed at it ({type(err).__name__}); its log has more."
            self.router.deeds.refuse(message, Denial(DenialCode.FAILED, what))

    def picture(self) -> list[bytes]:
        """Return all that a client which comes now has missed."""
        router, found = self.router, []
        for account in router.accounts.values():
            found += [account.status(), *account.positions.values(), *account.balances.values()]
        return [encode(one) for one in (*found, *router.dialogs())]


_ems: Ems | None = None


async def main(name: str, task_status: TaskStatus[None]) -> None:
    """Route orders until cancelled; raise ``JournalDamaged`` rather than trade on a damaged one."""
    global _ems
    conf = config.load_conf()
    async with open_journal(journal_path()) as journal, trio.open_nursery() as nursery:
        _ems = Ems(journal, conf, nursery)
        try:
            await _ems.recover()
            nursery.start_soon(_ems.beat)
            task_status.started()
            await trio.sleep_forever()
        finally:
            _ems = None
            nursery.cancel_scope.cancel()


def _the_ems() -> Ems:
    if _ems is None:
        raise Bug("emsd was called before it was ready.")
    return _ems


# -- what clients call -------------------------------------------------------------------------
@service.dialog
async def open_order_dialog(
    talk: service.ServerDialog, client: str, account: str, symbols: list[str]
) -> None:
    """Open an account's orders for a client.

    The first value is the picture, encoded ``EmsMessage``; then the caller sends ``ClientMessage``
    and is sent ``EmsMessage``, of all accounts. Whatever the client leaves behind lives on.
    """
    ems = _the_ems()
    if account:
        await ems.open_account(account)
    for fqme in symbols:
        await ems.prices.open(fqme)
    actor = f"{client} (uid {os.getuid()})"
    async with ems.router.news.listen() as news:
        async with talk.start(ems.picture()) as stream, trio.open_nursery() as nursery:

            async def take(message: Any) -> None:  # Any: ClientMessage is a union
                await ems.take_safely(message, actor)

            async def relay() -> None:
                await stream.relay(news, encode)
                nursery.cancel_scope.cancel()  # it read too slowly: it opens anew and sees all

            nursery.start_soon(relay)
            lanes: Lanes[Order | Cancel] = Lanes(take, nursery)
            async for data in stream:
                lanes.put(decode(data, ClientMessage))
            nursery.cancel_scope.cancel()


@service.request
async def get_accounts() -> list[AccountStatus]:
    """Return the accounts that are open, and a line for all ("") while everything is halted."""
    accounts = _the_ems().router.accounts
    found = [account.status() for account in accounts.values()]
    if accounts.halted is not None:
        top = AccountStatus(account="", state=TradingState.HALTED, reason=accounts.halted)
        found.insert(0, top)
    return found


@service.request
async def set_account_state(account: str, state: str, reason: str, client: str) -> bool:
    """Halt or arm an account, or all (""). Returns when it is journaled and, halted, canceled."""
    ems, wanted = _the_ems(), TradingState(state)
    if wanted is TradingState.ACTIVE and halt_is_there():
        raise Refused(
            f"trading is halted by {halt_file()}.", remedy=f"Remove it first: rm {halt_file()}"
        )
    if account:
        split_account(account)
    if account and wanted is TradingState.ACTIVE:  # a halt waits for no venue
        await ems.open_account(account)
    await ems.router.set_state(account, wanted, reason, f"{client} (uid {os.getuid()})")
    return True


@service.request
async def cancel_orders(account: str, symbol: str, client: str) -> list[str]:
    """Cancel every order, of an account and market where named; return their oids."""
    ems = _the_ems()
    return await ems.router.cancel_all(account, f"{client} (uid {os.getuid()})", symbol)


@service.request
async def get_order(oid: str) -> bytes | None:
    """Return the encoded ``Status`` of any order that there ever was, or None."""
    status = await _the_ems().router.find(oid)
    return encode(status) if status is not None else None
