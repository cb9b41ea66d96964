"""IB Flex statements into transactions: trades, transfers, dividends, interest, fees, splits.

All of a file is imported or nothing: ``DataQuality`` names every line that can not be, and why.
Rows that say again what others say (orders, lots, summaries) and sections that change no position
are counted and named in :attr:`Statement.skipped`.

A market's address is made of the symbol, the listing exchange (the currency where the query leaves
that out) and, of derivatives, expiry, strike and right. Times are those of New York, as IB writes
them unless the account is set to another zone; trades are taken as executed, a canceled trade as
its reverse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from piker.accounting.flex_rows import NEW_YORK, Reader, Skip
from piker.accounting.flex_xml import read_rows
from piker.accounting.transaction import Contract, Transaction
from piker.errors import DataQuality

__all__ = ["NEW_YORK", "Problem", "Statement", "read_flex"]

MAX_SHOWN = 10  # problems in a message; Statement.problems has all

#: Names a row's market: None for the address made of its attributes.
SymbolOf = Callable[[dict[str, str]], str | None]


class Problem(NamedTuple):
    """A row that can not be imported."""

    line: int
    element: str
    why: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds. ``skipped`` counts rows left out on purpose, by what they are."""

    transactions: tuple[Transaction, ...] = ()
    contracts: dict[str, Contract] = {}
    problems: tuple[Problem, ...] = ()
    skipped: dict[str, int] = {}


def read_flex(
    data: bytes, *, zone: str = NEW_YORK, symbol_of: SymbolOf | None = None, strict: bool = True
) -> Statement:
    """Return the transactions of a Flex statement's bytes.

    ``zone`` is the zone of its times where they do not say. ``symbol_of`` may name the markets
    instead. Raises ``DataQuality`` where the file is no statement or, unless ``strict`` is False,
    where a row can not be imported; otherwise such rows are in ``problems``.
    """
    reader = Reader(zone, symbol_of)
    transactions: dict[tuple[str, str, str], Transaction] = {}
    problems: list[Problem] = []
    skipped: Counter[str] = Counter()
    for row in read_rows(data):
        try:
            tx = reader.read(row)
            told = transactions.setdefault(tx.key[:3], tx)
            if told != tx:
                raise DataQuality(f"the id {tx.tid} was used before, for something else")
            if told is not tx:
                raise Skip(f"{row.element} told twice")
        except Skip as skip:
            skipped[skip.what] += 1
        except DataQuality as err:
            problems.append(Problem(row.line, row.element, err.message.rstrip(".")))
    if problems and strict:
        raise _refused(problems)
    ordered = sorted(transactions.values(), key=lambda tx: (tx.order, tx.key))
    return Statement(
        transactions=tuple(ordered),
        contracts=dict(reader.contracts),
        problems=tuple(problems),
        skipped=dict(skipped),
    )


def _refused(problems: list[Problem]) -> DataQuality:
    shown = [f"line {p.line} ({p.element}): {p.why}" for p in problems[:MAX_SHOWN]]
    more = len(problems) - len(shown)
    if more:
        shown.append(f"and {more} more")
    return DataQuality(
        "the Flex statement can not be imported: " + "; ".join(shown) + ".",
        kind="flex",
        remedy="Nothing was imported.",
    )
