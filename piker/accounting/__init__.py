"""Accounting: transactions, positions, lots, the allocator, imports and exports. All of it pure."""

from __future__ import annotations

from piker.accounting.allocate import Allocation, Allocator, SizeUnit, allocator_for, next_order
from piker.accounting.export import account_file, read_account_file, tax_csv
from piker.accounting.flex import Statement, read_flex
from piker.accounting.ledger import Added, Ledger
from piker.accounting.lots import ClosedLot, Lot, LotReport, Method, lots_of
from piker.accounting.position import BreakEven, Position, Valued, break_even, fold, worth
from piker.accounting.transaction import Contract, Kind, Transaction, contract_of, of_fill

__all__ = [
    "Added",
    "Allocation",
    "Allocator",
    "BreakEven",
    "ClosedLot",
    "Contract",
    "Kind",
    "Ledger",
    "Lot",
    "LotReport",
    "Method",
    "Position",
    "SizeUnit",
    "Statement",
    "Transaction",
    "Valued",
    "account_file",
    "allocator_for",
    "break_even",
    "contract_of",
    "fold",
    "lots_of",
    "next_order",
    "of_fill",
    "read_account_file",
    "read_flex",
    "tax_csv",
    "worth",
]
