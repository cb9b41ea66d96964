"""``piker ledger export`` and ``import``: accounts as files, and files as transactions."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from piker.accounting import Added, Method, Statement, Transaction, account_file, read_flex, tax_csv
from piker.accounting.export import iso_of
from piker.accounting.history_csv import form_of, read_csv, unmatched
from piker.clearing.accounts import split_account
from piker.cli.ledger import known_account, wait_for
from piker.cli.ledger_books import Books, Markets, open_books, write_import
from piker.errors import ConfigError, DataQuality, StoreError

__all__ = ["Taken", "export", "sentence", "take"]

MAX_BYTES = 256 * 1024 * 1024  # of a file to be read: what a person downloads has a hundredth
MAX_SHOWN = 20  # lines left out that are named
IB = "ib"  # the provider whose Flex statements are read
_ACCOUNT = re.compile(r"[a-z0-9_]+\.[a-z0-9_-]+")


# -- export --------------------------------------------------------------------------------------
def export(
    accounts: Sequence[str], *, to: Path | None, csv: bool, method: str, year: int | None,
    force: bool,
) -> int:  # fmt: skip
    """Print an account, or write files of several; return the exit code."""
    first = _method(method)
    with wait_for("Reading the journal ...") as told:
        books = trio.run(partial(open_books, told=told))
    names = [known_account(books, name) for name in accounts] or books.accounts()
    if not names:
        raise ConfigError("the books are empty: nothing was ordered or imported yet.")
    if to is None and len(names) > 1:
        raise ConfigError(
            f"there are {len(names)} accounts: {', '.join(names)}.",
            remedy="Name one of them, or a folder for all: --to FOLDER",
        )
    _warn(books, names)
    if to is None:
        text = _csv(books, names[0], first, year) if csv else account_file(books.ledger, names[0])
        sys.stdout.write(text)
        return 0
    files = {to / f"{name}.toml": account_file(books.ledger, name) for name in names}
    files |= {to / f"{name}.csv": _csv(books, name, first, year) for name in names}
    _write(to, files, force=force)
    return 0


def _method(text: str) -> Method:
    try:
        return Method(text.lower())
    except ValueError:
        known = [str(one) for one in Method]
        raise ConfigError(
            f"there is no method {text[:20]!r}.", remedy=f"Take one of {', '.join(known)}."
        ) from None


def _csv(books: Books, name: str, method: Method, year: int | None) -> str:
    reports = [
        books.ledger.lots(name, one.symbol, one.leg, method=method)
        for one in books.ledger.positions(name)
    ]
    if year is not None:
        reports = [
            msgspec.structs.replace(
                report,
                closed=tuple(
                    lot for lot in report.closed if iso_of(lot.closed_ns).startswith(f"{year}-")
                ),
            )
            for report in reports
        ]
    return tax_csv(reports)


def _warn(books: Books, names: Sequence[str]) -> None:
    """Say of which markets nobody knows what a unit of them is."""
    touched = {tx.symbol for name in names for tx in books.ledger.transactions(name)}
    unknown = [symbol for symbol in books.unknown if symbol in touched]
    if unknown:
        providers = " ".join(sorted({symbol.rpartition(".")[2] for symbol in unknown}))
        print(
            f"note: the symbol database does not know {', '.join(unknown)}: a unit counts as one, "
            f"and the currency has no name. Run: piker symbols populate {providers}",
            file=sys.stderr,
        )


def _write(folder: Path, files: dict[Path, str], *, force: bool) -> None:
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise ConfigError(f"{there[0]} is there already.", remedy="--force replaces what is there.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in files.items():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
            print(path)
    except OSError as err:
        raise StoreError.of(err, folder) from err


# -- import --------------------------------------------------------------------------------------
class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What an import came to, of one account."""

    account: str
    read: int
    new: int
    known: int
    corrected: int
    conflicting: int
    file: str = ""  # where it is kept; empty of a dry run


def take(
    path: Path, *, account: str | None, zone: str, lenient: bool, dry_run: bool, as_json: bool
) -> int:
    """Read a file and keep what is new in it; return the exit code: 1 where lines were left out."""
    data = _read(path)
    if _is_xml(data):
        statement = _of_ib(read_flex(data, zone=zone, strict=not lenient), account)
    else:
        statement = _of_csv(data, path, account, lenient=lenient)
    with wait_for("Reading the journal ...") as told:
        books = trio.run(partial(open_books, told=told))
    taken = []
    for name in sorted({tx.account for tx in statement.transactions}):
        mine = [tx for tx in statement.transactions if tx.account == name]
        one = _compare(books, name, mine)
        if not dry_run:
            contracts = {
                symbol: contract for symbol, contract in statement.contracts.items()
                if any(tx.symbol == symbol for tx in mine)
            }  # fmt: skip
            file = write_import(name, mine, contracts)
            one = msgspec.structs.replace(one, file=str(file))
        taken.append(one)
    _say(taken, statement, as_json=as_json, dry_run=dry_run)
    return 1 if statement.problems else 0


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataQuality(f"{path} has over {MAX_BYTES // 2**20} MiB.", kind="ledger")
        return path.read_bytes()
    except OSError as err:
        raise ConfigError(f"{path} can not be read: {err.strerror}.") from err


def _is_xml(data: bytes) -> bool:
    return data[:200].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def _of_ib(statement: Statement, account: str | None) -> Statement:
    """Name IB's accounts as ours are named: ``ib.u1234567``."""
    own = sorted({tx.account for tx in statement.transactions})
    if account is not None and len(own) > 1:
        raise ConfigError(
            f"the statement has several accounts: {', '.join(own)}.",
            remedy="Leave --account out; they are named after their numbers.",
        )
    names = {one: f"{IB}.{re.sub('[^a-z0-9_-]', '-', one.lower())}" for one in own}
    if account is not None and own:
        names = {own[0]: _checked(account)}
    renamed = [
        msgspec.structs.replace(tx, account=names[tx.account]) for tx in statement.transactions
    ]
    return msgspec.structs.replace(statement, transactions=tuple(renamed))


def _of_csv(data: bytes, path: Path, account: str | None, *, lenient: bool) -> Statement:
    form = form_of(data)
    venue = form.partition(",")[0]
    if account is None:
        example = f"{venue}.main" if venue != "plain" else "kraken.main"
        raise ConfigError(
            f"{path.name} does not say whose trades they are.",
            remedy=f"Name the account: --account {example}",
        )
    name = _checked(account)
    provider, _ = split_account(name)
    if venue not in ("plain", provider):
        raise ConfigError(
            f"{path.name} is a trade history of {venue}, and {name} is an account of {provider}.",
            remedy=f"Name an account of {venue}, as {venue}.main.",
        )
    return read_csv(
        data, account=name, market_of=Markets().of_provider(provider), strict=not lenient
    )


def _checked(account: str) -> str:
    name = account.lower()
    if not _ACCOUNT.fullmatch(name):
        raise ConfigError(f"{account[:60]!r} is no account.", remedy="As in binance.main.")
    return name


def _compare(books: Books, name: str, mine: list[Transaction]) -> Taken:
    """Tell what an import would change in the books; they are told of it."""
    before = books.ledger.transactions(name)
    fresh = unmatched(before, mine)
    told = Counter(books.ledger.add(tx) for tx in fresh)
    return Taken(
        account=name, read=len(mine), new=told[Added.NEW],
        known=told[Added.DUPLICATE] + len(mine) - len(fresh), corrected=told[Added.CORRECTED],
        conflicting=told[Added.CONFLICT],
    )  # fmt: skip


def _say(taken: Sequence[Taken], statement: Statement, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        for one in taken:
            print(msgspec.json.encode(one).decode())
    else:
        for one in taken:
            print(sentence(one, dry_run=dry_run))
        if not taken:
            print("there is no trade in it.")
    for what, count in statement.skipped.items():
        print(f"note: left out: {count:,} of {what}", file=sys.stderr)
    for problem in statement.problems[:MAX_SHOWN]:
        print(f"warning: line {problem.line}: {problem.why}", file=sys.stderr)
    if len(statement.problems) > MAX_SHOWN:
        print(f"warning: and {len(statement.problems) - MAX_SHOWN:,} more lines", file=sys.stderr)


def sentence(one: Taken, *, dry_run: bool) -> str:
    """Say what came of an account's transactions."""
    parts = [f"{one.new:,} new", f"{one.known:,} known before"]
    parts += [f"{one.corrected:,} told better than before"] if one.corrected else []
    parts += [f"{one.conflicting:,} told otherwise before, which stays"] if one.conflicting else []
    where = "nothing was kept: a dry run" if dry_run else f"kept in {one.file}"
    what = "1 transaction" if one.read == 1 else f"{one.read:,} transactions"
    return f"{one.account}: {what}: {', '.join(parts)}; {where}"
