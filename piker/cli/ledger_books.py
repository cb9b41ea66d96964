"""The books that ``piker ledger`` opens: the journal's orders and fills, and what was imported.

The journal is the truth and is only read, as a checked copy, whether or not emsd runs. What was
imported lies beside it: an account file for each account, in ``<data>/ledger``.
"""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import msgspec

from piker import config
from piker.accounting import (
    Contract,
    Ledger,
    Transaction,
    account_file,
    contract_of,
    of_fill,
    read_account_file,
)
from piker.accounting.history_csv import unmatched
from piker.clearing.fills import executions
from piker.clearing.journal import Journal, open_journal
from piker.clearing.journal_verify import Progress
from piker.clearing.lifecycle import OrderState
from piker.clearing.records import Intent, Record
from piker.clock import NS
from piker.data.symbols import SymbolDb
from piker.errors import ConfigError, PikerError, StoreError
from piker.market import MktPair

__all__ = ["Books", "Markets", "imports_folder", "is_same", "journal_path", "open_books",
           "read_imports", "write_import"]  # fmt: skip

BATCH = 10_000  # records folded at a time
_MARKETS = "SELECT body FROM market WHERE provider = ? ORDER BY retired_s IS NOT NULL DESC"


class Books(msgspec.Struct):
    """All that is known of the accounts. ``given_ns`` is when an order was given, by oid.

    ``live`` are the journal's own fills, in its order; the ``ledger`` has the imported, too.
    ``unknown`` are markets of which nobody told what a unit of them stands for.
    """

    ledger: Ledger
    orders: dict[str, OrderState] = {}
    given_ns: dict[str, int] = {}
    live: list[Transaction] = []
    imported: dict[str, Ledger] = {}
    rows: int = 0
    chain: bytes = b""
    nets: dict[tuple[str, str], Decimal] = {}
    unknown: list[str] = []

    def accounts(self) -> list[str]:
        """Return every account that has an order, a fill or an import."""
        names = {state.order.account for state in self.orders.values()}
        return sorted(names | {tx.account for tx in self.ledger.transactions()})


def journal_path() -> Path:
    """Return where the journal is, or will be."""
    return config.data_dir() / "journal"


def imports_folder() -> Path:
    """Return where imported accounts are, or will be."""
    return config.data_dir() / "ledger"


async def open_books(*, with_imports: bool = True, told: Progress | None = None) -> Books:
    """Read everything: some ten seconds and 900 MB for a journal of a million rows.

    ``told`` is called after every ``BATCH`` rows of the journal. Raises ``JournalDamaged``
    and ``StoreError`` as the journal does, ``ConfigError`` for an imported account that was changed
    so that it no longer adds up.
    """
    books = Books(Ledger())
    if journal_path().is_dir():
        async with open_journal(journal_path(), read_only=True) as journal:
            with _uncollected():
                await _read(journal, books, told)
            books.rows, books.chain = journal.seq, journal.chain
            books.nets = dict(journal.standing.nets)
    books.imported = read_imports() if with_imports else {}
    _define(books, {tx.symbol for tx in books.live})
    for tx in books.live:
        books.ledger.add(tx)
    for name, ledger in books.imported.items():
        for symbol, contract in ledger.contracts.items():
            if symbol not in books.ledger.contracts:
                books.ledger.define(symbol, contract)
        live = {tx.key: tx for tx in books.live if tx.account == name}
        for tx in unmatched(live.values(), ledger.transactions()):
            if not is_same(tx, live.get(tx.key)):
                books.ledger.add(tx)
    return books


def is_same(tx: Transaction, known: Transaction | None) -> bool:
    """Tell whether a telling of a trade adds nothing to a known one.

    Whose order it was is ours to know, and not every channel has a time's last digits.
    """
    return (
        known is not None
        and tx.key == known.key
        and (tx.kind, tx.size, tx.price, tx.leg) == (known.kind, known.size, known.price, known.leg)
        and (tx.cost, tx.cost_asset) == (known.cost, known.cost_asset)
        and tx.value in (None, known.value)
        and abs(tx.time_ns - known.time_ns) < NS
    )


async def _read(journal: Journal, books: Books, told: Progress | None) -> None:
    rows = 0
    batch: list[Record] = []

    def fold() -> None:
        for record in batch:
            if isinstance(record.entry, Intent):
                books.given_ns.setdefault(record.oid, record.time_ns)
        books.live.extend(
            of_fill(one.fill, symbol=one.symbol) for one in executions(batch, books.orders)
        )
        batch.clear()

    async for record in journal.read():
        batch.append(record)
        if len(batch) >= BATCH:
            rows += len(batch)
            fold()
            if told is not None:
                told(rows, journal.seq)
    fold()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage where there is none: half of the time of reading a long journal."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _define(books: Books, symbols: set[str]) -> None:
    """Say what the markets of live fills stand for, as far as the symbol database knows."""
    markets = Markets()
    for symbol in sorted(symbols):
        market = markets.of_fqme(symbol)
        told = [one.contracts[symbol] for one in books.imported.values() if symbol in one.contracts]
        if market is not None:
            books.ledger.define(symbol, contract_of(market))
        elif not told:
            books.unknown.append(symbol)


# -- markets -------------------------------------------------------------------------------------
class Markets:
    """The symbol database, asked for markets; it is not made where there is none."""

    def __init__(self) -> None:
        """Nothing is opened before somebody asks."""
        self._by_name: dict[str, dict[str, MktPair]] = {}

    def of_fqme(self, fqme: str) -> MktPair | None:
        """Return a market by its whole address."""
        with _symbols() as db:
            found = db.get(fqme) if db is not None else None
        return found.market if found is not None else None

    def of_provider(self, provider: str) -> Callable[[str], MktPair | None]:
        """Return what finds a provider's spot market by any name that a venue writes for it.

        ``XXBTZEUR``, ``XBT/EUR`` and ``BTC-EUR`` are one; a whole fqme is looked up as it is.
        """

        def of(name: str) -> MktPair | None:
            if "." in name and name == name.lower():
                return self.of_fqme(name)
            if provider not in self._by_name:
                self._by_name[provider] = _named(provider)
            known = self._by_name[provider]
            plain = name.strip().upper().replace("/", "").replace("-", "").replace("_", "")
            if plain not in known and len(plain) == 8 and plain[0] in "XZ" and plain[4] in "XZ":
                plain = plain[1:4] + plain[5:]  # Kraken's own long names
            return known.get(plain)

        return of


@contextmanager
def _symbols() -> Iterator[SymbolDb | None]:
    path = config.data_dir() / "symbols.db"
    if not path.exists():
        yield None
        return
    with SymbolDb.open(path) as db:
        yield db


def _named(provider: str) -> dict[str, MktPair]:
    """Return a provider's spot markets by their names; listed ones before retired ones."""
    with _symbols() as db:
        bodies = db.rows(_MARKETS, (provider,)) if db is not None else []
    found: dict[str, MktPair] = {}
    for (body,) in bodies:
        market = msgspec.json.decode(body, type=MktPair)
        if market.address.venue in ("", "spot") and not market.address.expiry:
            found[f"{market.dst.name}{market.src.name}".upper()] = market
            found[market.bs_mktid.upper().replace("/", "")] = market
    return found


# -- what was imported ---------------------------------------------------------------------------
def read_imports() -> dict[str, Ledger]:
    """Return the ledgers of the imported accounts, by account."""
    found: dict[str, Ledger] = {}
    for path in sorted(imports_folder().glob("*.toml")):
        found[path.stem] = _read_import(path)
    return found


def _read_import(path: Path) -> Ledger:
    try:
        account, ledger = read_account_file(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise StoreError.of(err, path) from err
    except PikerError as err:
        raise ConfigError(
            f"{path}: {err.message}", remedy="Move it away, and import what it was made of anew."
        ) from err
    if account != path.stem:
        raise ConfigError(f"{path} is of the account {account!r}, not of {path.stem!r}.")
    return ledger


def write_import(
    account: str, transactions: list[Transaction], contracts: dict[str, Contract]
) -> Path:
    """Add transactions to what was imported of an account; whole and on the disk, or not at all."""
    folder = imports_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            path = folder / f"{account}.toml"
            ledger = _read_import(path) if path.exists() else Ledger()
            for symbol, contract in contracts.items():
                ledger.define(symbol, contract)
            for tx in transactions:
                ledger.add(tx)
            every = ledger.transactions()
            kept = unmatched(every, every)  # a file's line goes when the venue's own trade comes
            if len(kept) < len(every):
                ledger = Ledger(kept, contracts=ledger.contracts)
            _put(path, account_file(ledger, account))
    except OSError as err:
        raise StoreError.of(err, folder) from err
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        os.fsync(fd)
    finally:
        os.close(fd)


def _put(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.replace(part, path)
