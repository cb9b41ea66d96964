"""Keeps the accounts: halts and arms them, hears how they stand with their venues, compares.

Whenever an account is synced, each position that its venue tells is held against the last one with
our own fills since. Where they differ, the account may only reduce until the two agree
again, or a person has looked and armed it, which takes the venue's word for the truth.
"""

from __future__ import annotations

import trio

from piker import clock
from piker.clearing.accounts import Account, Accounts
from piker.clearing.journal import Journal
from piker.clearing.news import News
from piker.clearing.records import Entry, Note, Record, RiskChange
from piker.clearing.risk import TradingState
from piker.log import get_logger
from piker.orders import BrokerdBalance, BrokerdPosition, BrokerdSync, SyncState

__all__ = ["Keeper"]

DIFFER = "positions differ: "  # how the reason of such a state begins
SETTLE_S = 3.0  # a fill and the position that it made are told by two streams
LOOKS = 12  # meanwhile: where much is filled, they agree for moments only
log = get_logger("ems")


class Keeper:
    """What happens to accounts as a whole."""

    def __init__(self, journal: Journal, accounts: Accounts, news: News) -> None:
        self._journal = journal
        self._accounts = accounts
        self._news = news

    async def set_state(
        self, name: str, state: TradingState, reason: str, actor: str = "emsd"
    ) -> None:
        """Set what an account, or all ("") may do: at once; returns when it is journaled, and told.

        Arming an account takes the positions that its venue tells for the truth.
        """
        change = RiskChange(state, reason)
        self._accounts.apply(name, change)
        log.warning("ems.state", account=name or "all", state=state, reason=reason, by=actor)
        records = [_record(name, change, actor)]
        known = [self._accounts[name]] if name in self._accounts else []
        if known and state is TradingState.ACTIVE:
            records += self._rebase(self._accounts[name])
        await self._journal.append(records)
        for account in known if name else self._accounts.values():
            self._news.tell(account.status())

    def hear(self, name: str, event: BrokerdPosition | BrokerdBalance | BrokerdSync) -> None:
        """Take what an account's backend says of the account."""
        account = self._accounts[name]
        match event:
            case BrokerdPosition():
                symbol = account.fqme(event.symbol)
                account.heard.add(symbol)
                if not account.reads(symbol, event):
                    log.error("ems.unreadable", account=name, position=str(event)[:200])
                    return
                account.positions[symbol] = event
                account.desk.apart(symbol, event.long, event.short)
                self._news.tell(event)
            case BrokerdBalance():
                account.balances[event.asset] = event
                self._news.tell(event)
            case BrokerdSync():
                if event.state is SyncState.SYNCED:
                    account.desk.hedges = frozenset(event.hedges)
                    account.whole = frozenset(event.whole)
                    for flat in account.untold(self._journal.standing, event.whole):
                        self.hear(name, flat)
                self._sync(account, event.state, event.reason)

    def lost(self, name: str, why: str) -> None:
        """Say that there is no word from an account's backend."""
        account = self._accounts[name]
        account.heard.clear()
        account.unreadable.clear()
        self._sync(account, SyncState.LOST, why)

    def _sync(self, account: Account, state: SyncState, why: str) -> None:
        if account.sync is not state:
            log.info("ems.sync", account=account.name, state=state, why=why)
        account.sync, account.sync_why = state, why
        self._news.tell(account.status())

    async def compare(self, name: str) -> None:
        """Hold the positions of a synced account against ours, journal them, and act on it."""
        account = self._accounts[name]
        looks = 0
        while (found := account.mismatches(self._journal.standing)) and looks < LOOKS:
            looks += 1
            await trio.sleep(SETTLE_S / LOOKS)
        if found:
            what = "; ".join(str(one) for one in found)
            log.error("ems.positions", account=name, differ=what)
            note = Note("positions", what)
            await self._journal.append([_record(name, note, "emsd")])
            # Also below a halt of all, which is lifted without a look at positions. One that was
            # never armed can trade nothing: any state but a halt would arm it.
            if account.armed and self._accounts.own_state(name) is TradingState.ACTIVE:
                await self.set_state(name, TradingState.REDUCING, DIFFER + what)
        elif _differs(account):
            await self.set_state(name, TradingState.ACTIVE, "positions agree again")
        else:
            await self._journal.append(self._rebase(account))

    async def agree_again(self) -> None:
        """Let accounts go on whose positions agree by now: a fill may come long after them.

        Asked again and again; does nothing for the others.
        """
        for account in filter(_differs, list(self._accounts.values())):
            synced = account.sync is SyncState.SYNCED
            if synced and not account.mismatches(self._journal.standing):
                await self.compare(account.name)

    async def open_days(self, now_ns: int) -> None:
        """Journal what enters the day's result: positions at midnight, or that were never counted.

        Asked again and again: what has no price yet enters when it has one.
        """
        records = [
            Record(entry=entry, time_ns=now_ns, account=account.name)
            for account in self._accounts.values()
            for entry in account.desk.open_day(now_ns)
        ]
        if records:
            await self._journal.append(records)

    def _rebase(self, account: Account) -> list[Record]:
        for symbol, told in account.positions.items():
            account.desk.position(symbol, told.size)
            account.desk.apart(symbol, told.long, told.short, agreed=True)
        entries = account.rebased(self._journal.standing)
        return [_record(account.name, entry, "emsd") for entry in entries]


def _differs(account: Account) -> bool:
    """Tell whether an account only reduces because its positions differ."""
    return account.desk.state is TradingState.REDUCING and account.why.startswith(DIFFER)


def _record(name: str, entry: Entry, actor: str) -> Record:
    return Record(entry=entry, time_ns=clock.wall_ns(), account=name, actor=actor)
