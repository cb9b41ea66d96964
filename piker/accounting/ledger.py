"""The ledger: all transactions of any number of accounts, and the positions they come to.

Transactions may come in any order, any number of times; whatever the order, the positions are
the same. One that comes in its turn costs one step; one that comes late has its position folded
anew when next asked for. The journal is the truth: a ledger lives in memory and is filled from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from piker.accounting.lots import LotReport, Method, lots_of
from piker.accounting.position import Position, apply, fold
from piker.accounting.transaction import Contract, Key, Transaction, agree

__all__ = ["Added", "Held", "Ledger"]


class Held(NamedTuple):
    """What a position is known by."""

    account: str
    symbol: str
    leg: str = ""


class Added(StrEnum):
    """What came of telling the ledger of a transaction."""

    NEW = "new"
    DUPLICATE = "duplicate"  # told before, word for word
    CORRECTED = "corrected"  # told before in other words, and these count from now on
    CONFLICT = "conflict"  # told before in other words, which go on counting


class Ledger:
    """Transactions by identity, positions by account, market and leg.

    ``contracts`` says what a unit of a market stands for; a market that it lacks is linear with a
    multiplier of one and a settle asset without a name.
    """

    def __init__(
        self,
        transactions: Iterable[Transaction] = (),
        *,
        contracts: Mapping[str, Contract] | None = None,
    ) -> None:
        self.contracts: dict[str, Contract] = dict(contracts or {})
        self._told: dict[Key, Transaction] = {}
        self._by: dict[Held, dict[Key, Transaction]] = {}
        self._positions: dict[Held, Position] = {}
        for tx in transactions:
            self.add(tx)

    def __len__(self) -> int:
        """Return how many transactions there are."""
        return len(self._told)

    def add(self, tx: Transaction) -> Added:
        """Take a transaction; harmless however often and in whatever order it is told."""
        told = self._told.get(tx.key)
        if told == tx:
            return Added.DUPLICATE
        if told is not None and agree(told, tx) is told:
            return Added.CONFLICT
        held = Held(tx.account, tx.symbol, tx.leg)
        if told is not None:
            old = Held(told.account, told.symbol, told.leg)
            del self._by[old][told.key]
            self._positions.pop(old, None)
            if not self._by[old]:
                del self._by[old]
        fresh = held not in self._by
        self._told[tx.key] = tx
        self._by.setdefault(held, {})[tx.key] = tx
        self._go_on(held, tx, fresh=fresh)
        return Added.NEW if told is None else Added.CORRECTED

    def _go_on(self, held: Held, tx: Transaction, *, fresh: bool) -> None:
        """Step a position that is up to date; drop it where the transaction came late."""
        position = self._positions.pop(held, None)
        if fresh:
            position = Position(
                account=held.account, symbol=held.symbol, leg=held.leg,
                contract=self.contract(held.symbol),
            )  # fmt: skip
        if position is not None and (position.last is None or tx.order > position.last):
            self._positions[held] = apply(position, tx)

    def contract(self, symbol: str) -> Contract:
        """Return what is known of a market."""
        return self.contracts.get(symbol, Contract())

    def define(self, symbol: str, contract: Contract) -> None:
        """Say what a market's units stand for; its positions are folded anew."""
        if self.contracts.get(symbol) == contract:
            return
        self.contracts[symbol] = contract
        for held in [held for held in self._positions if held.symbol == symbol]:
            del self._positions[held]

    def position(self, account: str, symbol: str, leg: str = "") -> Position:
        """Return a position; a flat one where nothing ever happened."""
        held = Held(account, symbol, leg)
        if held not in self._positions:
            folded = fold(
                self._by.get(held, {}).values(), self.contract(symbol),
                account=account, symbol=symbol,
            )  # fmt: skip
            if held not in self._by:
                return folded
            self._positions[held] = folded
        return self._positions[held]

    def positions(self, account: str | None = None) -> list[Position]:
        """Return every position that there ever was, flat ones included, in order of name."""
        wanted = (held for held in self._by if account is None or held.account == account)
        return [self.position(*held) for held in sorted(wanted)]

    def transactions(self, account: str | None = None) -> list[Transaction]:
        """Return the transactions in the total order."""
        wanted = (tx for tx in self._told.values() if account is None or tx.account == account)
        return sorted(wanted, key=lambda tx: (tx.order, tx.key))

    def lots(
        self, account: str, symbol: str, leg: str = "", *, method: Method = Method.FIFO
    ) -> LotReport:
        """Return the open and closed lots of a position."""
        held = Held(account, symbol, leg)
        report = lots_of(self._by.get(held, {}).values(), self.contract(symbol), method)
        if held in self._by:
            return report
        return LotReport(
            account=account, symbol=symbol, leg=leg, method=method, contract=report.contract
        )
