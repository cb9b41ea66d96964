"""``piker ledger verify``: everything recomputed, and the first row named that disagrees."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import msgspec
import trio

from piker.clearing.journal import Findings
from piker.clearing.journal import verify as verify_journal
from piker.clearing.journal_verify import Progress
from piker.cli.ledger import wait_for
from piker.cli.ledger_books import Books, journal_path, open_books, read_imports
from piker.errors import PikerError
from piker.money import ZERO, plain

__all__ = ["verify"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was recomputed. ``first_bad`` is the first row of the journal that disagrees."""

    sound: bool
    rows: int = 0
    orders: int = 0
    fills: int = 0
    positions: int = 0
    chain: str = ""
    first_bad: int | None = None
    problems: list[str] = []
    imports: dict[str, int] = {}


def verify(*, as_json: bool) -> int:
    """Recompute everything; return 0, or 1 where anything disagrees."""
    with wait_for("Recomputing the books ...") as told:
        verdict = _verdict(told)
    if as_json:
        print(msgspec.json.encode(verdict).decode())
        return 0 if verdict.sound else 1
    for problem in verdict.problems:
        print(f"error: {problem}", file=sys.stderr)
    if not journal_path().is_dir():
        print("journal    there is none yet: nothing was ordered here.")
    elif verdict.chain:
        print(
            f"journal    sound: {verdict.rows:,} rows, {verdict.orders:,} orders, "
            f"{verdict.fills:,} fills; chain {verdict.chain}"
        )
        print(f"positions  {verdict.positions:,}, recounted from the fills")
    for name, count in verdict.imports.items():
        print(f"imported   {name}: {count:,} transactions that add up")
    return 0 if verdict.sound else 1


def _verdict(told: Progress) -> Verdict:
    problems: list[str] = []
    imports = _imports(problems)
    if not journal_path().is_dir():
        return Verdict(sound=not problems, problems=problems, imports=imports)
    found = verify_journal(journal_path(), told)
    if not found.sound:
        return Verdict(
            sound=False, rows=found.rows, first_bad=found.first_bad, imports=imports,
            problems=[_told(found), *problems],
        )  # fmt: skip
    books = trio.run(partial(open_books, with_imports=False, told=told))
    problems += _differences(books)
    return Verdict(
        sound=not problems, rows=books.rows, orders=len(books.orders), fills=len(books.live),
        positions=len({(tx.account, tx.symbol) for tx in books.live}),
        chain=books.chain.hex(), problems=problems, imports=imports,
    )  # fmt: skip


def _told(found: Findings) -> str:
    where, remedy = f"the journal {journal_path()}", "Copy the folder away before anything else."
    if found.first_bad is None:
        return f"{where} is damaged: {found.files}. All {found.rows:,} rows hold. {remedy}"
    what = found.problem
    if not what.startswith("row"):
        what = f"row {found.first_bad:,}: {what}"
    held = f"rows 1 to {found.rows:,} hold" if found.rows else "no row holds"
    files = f"; {found.files}" if found.files else ""
    return f"{where} is damaged: {what}; {held}{files}. {remedy}"


def _imports(problems: list[str]) -> dict[str, int]:
    try:
        return {name: len(ledger) for name, ledger in read_imports().items()}
    except PikerError as err:
        problems.append(f"an import does not add up: {err}")
        return {}


def _differences(books: Books) -> Iterator[str]:
    """Yield where the fills, counted one by one, are not what the journal's fold comes to."""
    sizes = {(one.account, one.symbol): one.size for one in books.ledger.positions()}
    for account, symbol in sorted({*sizes, *books.nets}):
        counted = sizes.get((account, symbol), ZERO)
        told = books.nets.get((account, symbol), ZERO)
        if counted != told:
            yield (
                f"the position of {account} in {symbol} is {plain(told)} by the journal's fold, "
                f"{plain(counted)} by its fills."
            )
