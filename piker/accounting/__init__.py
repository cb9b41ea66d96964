"""Accounting: transactions, positions, lots, the ledger. All of it pure."""

from __future__ import annotations

from piker.accounting.ledger import Added, Ledger
from piker.accounting.lots import ClosedLot, Lot, LotReport, Method, lots_of
from piker.accounting.position import BreakEven, Position, Valued, break_even, fold, worth
from piker.accounting.transaction import Contract, Kind, Transaction, contract_of, of_fill

__all__ = [
    "Added",
    "BreakEven",
    "ClosedLot",
    "Contract",
    "Kind",
    "Ledger",
    "Lot",
    "LotReport",
    "Method",
    "Position",
    "Transaction",
    "Valued",
    "break_even",
    "contract_of",
    "fold",
    "lots_of",
    "of_fill",
    "worth",
]
