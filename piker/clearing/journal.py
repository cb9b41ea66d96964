"""The journal: the one truth about orders, fills, positions and risk.

    async with open_journal(config.data_dir() / "journal") as journal:
        answers = await journal.append([Record(entry=Intent(order), oid=order.oid, ...)])

:meth:`Journal.append` returns when its records are on the disk. Whatever waits while one commit
syncs goes into the next one together. Orders are folds over it. :func:`verify` recomputes
everything from the first row. docs/adr/0005-journal.md says what lies where, and why.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

from piker.clearing import journal_seal as seal
from piker.clearing.journal_copy import copy_of
from piker.clearing.journal_file import JournalFile, connect, create, leave
from piker.clearing.lifecycle import OrderState, begin, step
from piker.clearing.records import (
    Duplicate,
    Happened,
    Intent,
    Prepared,
    Record,
    Row,
    chain_of,
    once_key,
    prepare,
    read_row,
)
from piker.errors import JournalDamaged, PikerError, StoreError
from piker.log import get_logger

__all__ = ["Findings", "Journal", "fold_orders", "open_journal", "verify"]

BATCH = 4096  # records of one commit: a sync is a hundredth of writing that many
WAITING = 65_536  # records that wait at most; then append itself waits: 30 MB of them
READ_ROWS = 1000  # rows read at a time, between which commits pass

log = get_logger("journal")
_T = TypeVar("_T")


class _Waiter:
    """One append: its records, and what became of them."""

    __slots__ = ("answers", "done", "failed", "records")

    def __init__(self, records: list[Prepared]) -> None:
        self.records = records
        self.done = trio.Event()
        self.answers: list[int | Duplicate] = []
        self.failed: PikerError | None = None


class Journal:
    """An open journal; :func:`open_journal` makes it. SQLite runs in one thread at a time."""

    def __init__(self, file: JournalFile, *, read_only: bool) -> None:
        self._file = file
        self._read_only = read_only
        self._thread = trio.CapacityLimiter(1)
        self._waiting: deque[_Waiter] = deque()
        self._waiting_records = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._closing = False
        self._failed: PikerError | None = None

    @property
    def seq(self) -> int:
        """Return the number of the last row on the disk; 0 of an empty journal."""
        return self._file.head.seq

    @property
    def chain(self) -> bytes:
        """Return the last row's chain: two journals of one chain have the same rows."""
        return self._file.head.chain

    @property
    def log_bytes(self) -> int:
        """Return the bytes of log that the commits since the last checkpoint have written."""
        return self._file.head.log_bytes

    async def append(self, records: Sequence[Record]) -> list[int | Duplicate]:
        """Return each record's seq once all of them are durable, in one commit and in order.

        A second intent of an oid, or a fill that is there, is answered with a ``Duplicate`` and
        not written. Raises ``RangeError`` with nothing written for what no row can hold, and
        ``StoreError`` when the disk fails: whether they were written is then known after the
        journal was opened again, and every later append fails too.

        Cancelled while it waits for room, nothing is written; cancelled later, all of it is.
        """
        waiter = _Waiter([prepare(record) for record in records])
        while self._waiting_records > WAITING and self._failed is None:
            self._room = trio.Event() if self._room.is_set() else self._room
            await self._room.wait()
        self._refuse_closed()
        if not waiter.records:
            await trio.lowlevel.checkpoint()
            return []
        self._waiting.append(waiter)
        self._waiting_records += len(waiter.records)
        self._wake.set()
        await waiter.done.wait()
        if waiter.failed is not None:
            raise _again(waiter.failed)
        return waiter.answers

    def _refuse_closed(self) -> None:
        if self._failed is not None:
            raise _again(self._failed)
        if self._read_only or self._closing:
            how = "open for reading only" if self._read_only else "closed"
            raise StoreError(f"the journal {self._file.path} is {how}: nothing was written.")

    async def read(self, since: int = 0) -> AsyncIterator[Record]:
        """Yield the records after ``since``, in order, up to the last when this was called."""
        last = self.seq
        while since < last:
            rows = await self._run(self._file.rows, since, min(READ_ROWS, last - since))
            for row in rows:
                yield read_row(row)
                since = row.seq

    async def fold(self) -> dict[str, OrderState]:
        """Return what all orders are, by oid, folded from the first row."""
        orders: dict[str, OrderState] = {}
        async for record in self.read():
            fold_orders(orders, [record])
        return orders

    async def _run(self, do: Callable[..., _T], *args: object) -> _T:
        """Run ``do`` in the journal's thread; what SQLite and the disk raise becomes ours."""
        try:
            return await trio.to_thread.run_sync(do, *args, limiter=self._thread)
        except (sqlite3.Error, OSError) as err:
            raise _meaning(err, self._file.path) from err

    # -- the writer -------------------------------------------------------------------------
    async def _write(self) -> None:
        """Commit what waits, again and again, until the journal is closed."""
        while True:
            if not self._waiting:
                if self._closing or self._failed:
                    return
                await self._wake.wait()
            self._wake = trio.Event()
            batch = self._take()
            if not batch:
                continue
            try:
                await self._commit(batch)
            except PikerError as err:
                self._fail(err, batch)
                return
            except BaseException:  # a bug of ours: nobody is left waiting for an answer
                self._fail(StoreError(f"the journal {self._file.path} is closed."), batch)
                raise

    def _take(self) -> list[_Waiter]:
        batch: list[_Waiter] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0].records) <= BATCH):
            waiter = self._waiting.popleft()
            count += len(waiter.records)
            batch.append(waiter)
        self._waiting_records -= count
        self._room.set()
        return batch

    async def _commit(self, batch: list[_Waiter]) -> None:
        records = [record for waiter in batch for record in waiter.records]
        answers = await self._run(self._file.append, records)
        at = 0
        for waiter in batch:
            waiter.answers = answers[at : at + len(waiter.records)]
            at += len(waiter.records)
            waiter.done.set()
        if self._file.wants_checkpoint:
            await self._run(self._file.checkpoint)
            await self._lay()

    async def _lay(self) -> None:
        try:
            await self._run(self._file.lay)
        except StoreError as err:  # commits are slower then, and tell when there is no room at all
            log.warning("journal.log_not_laid", journal=str(self._file.path), error=err.message)

    def _fail(self, err: PikerError, batch: list[_Waiter]) -> None:
        log.error("journal.failed", journal=str(self._file.path), error=err.message)
        self._failed = err
        for waiter in (*batch, *self._waiting):
            if not waiter.done.is_set():
                waiter.failed = err
                waiter.done.set()
        self._waiting.clear()
        self._room.set()

    async def _close(self) -> None:
        end = self._file.abandon if self._failed or self._read_only else self._file.close
        try:
            await self._run(end)
        finally:
            await self._run(self._file.abandon)


def _again(err: PikerError) -> StoreError:
    """Return a copy of an error that several are told: each raises its own."""
    return StoreError(err.message, remedy=err.remedy)


def _meaning(err: Exception, path: Path) -> StoreError | JournalDamaged:
    """Return what an error of SQLite or of the disk means to a person."""
    if isinstance(err, sqlite3.DatabaseError) and not isinstance(err, sqlite3.OperationalError):
        return seal.damaged(path, f"SQLite says {err}")
    if "is full" in str(err):
        return StoreError(
            f"the disk is full: the journal {path} takes no more.",
            remedy="Free some space and start again; what was acknowledged is whole.",
        )
    return StoreError.of(err, path)


@asynccontextmanager
async def open_journal(path: Path, *, read_only: bool = False) -> AsyncIterator[Journal]:
    """Open the journal at ``path``, a folder; it is made where there is none.

    Checks all that its seals vouch for, and raises ``JournalDamaged``, with nothing changed, when
    something differs; ``StoreError`` when another process writes it, or a later piker did. With
    ``read_only`` a checked copy of it is read, as it was at this moment, in use or not. Leaving
    the block commits what waits, whether or not the block was cancelled.
    """
    if read_only:
        copied = copy_of(path)
        copy = await _in_thread(path, copied.__enter__)
        try:
            async with _opened(copy, read_only=True) as journal:
                yield journal
        finally:
            with trio.CancelScope(shield=True):
                await _in_thread(path, lambda: copied.__exit__(None, None, None))
        return
    await _in_thread(path, lambda: create(path))
    async with _opened(path, read_only=False) as journal:
        yield journal


async def _in_thread(path: Path, do: Callable[[], _T]) -> _T:
    try:
        return await trio.to_thread.run_sync(do)
    except (sqlite3.Error, OSError) as err:
        raise _meaning(err, path) from err


@asynccontextmanager
async def _opened(path: Path, *, read_only: bool) -> AsyncIterator[Journal]:
    file = await _in_thread(path, lambda: JournalFile(path))
    journal = Journal(file, read_only=read_only)
    try:
        if not read_only:
            await journal._lay()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_shielded, journal)
            try:
                yield journal
            finally:
                journal._closing = True
                journal._wake.set()
    finally:
        with trio.CancelScope(shield=True):
            await journal._close()


async def _shielded(journal: Journal) -> None:
    with trio.CancelScope(shield=True):  # bounded: it ends with what waits when the block is left
        await journal._write()


# -- folds and verification --------------------------------------------------------------------
def fold_orders(orders: dict[str, OrderState], records: Iterable[Record]) -> None:
    """Fold records into ``orders``, in place. Events of an oid without an intent change nothing."""
    for record in records:
        entry = record.entry
        if isinstance(entry, Intent):
            orders.setdefault(entry.order.oid, begin(entry.order))
        elif isinstance(entry, Happened) and record.oid in orders:
            orders[record.oid] = step(orders[record.oid], entry.event).state


class Findings(NamedTuple):
    """What :func:`verify` found: ``rows`` that hold from the first on, and what does not."""

    rows: int
    chain: bytes
    first_bad: int | None = None  # seq of the first row that does not hold
    problem: str = ""  # of that row
    files: str = ""  # what is wrong with the files, where something is

    @property
    def sound(self) -> bool:
        """Tell whether everything holds."""
        return self.first_bad is None and not self.files


def verify(path: Path) -> Findings:
    """Recompute a journal, in use or not, from its first row; blocks. Changes nothing.

    A damaged journal is read as far as it goes: the first row that does not hold is told, and
    everything before it is what was written.
    """
    with copy_of(path, check=False) as copy:
        files, due = "", 0
        try:
            due = seal.check_files(copy)[0].seq
        except JournalDamaged as err:
            files = err.what
            try:
                due = seal.read_head(copy).seq
            except JournalDamaged:
                due = 0  # nothing says how many there were
        found = _walk(copy)
    if found.first_bad is None and found.rows < due:
        problem = f"rows {found.rows + 1} to {due} are missing"
        found = found._replace(first_bad=found.rows + 1, problem=problem)
    return found._replace(files=files)


def _walk(folder: Path) -> Findings:
    """Follow the chain from the first row to the last, or to the first that does not hold."""
    seq, chain = 0, b""
    try:
        db = connect(folder)
        try:
            (genesis,) = db.execute("SELECT value FROM meta WHERE name = 'genesis'").fetchone()
            chain = bytes(genesis)
            rows = db.execute(
                "SELECT seq, time_ns, kind, account, oid, payload, actor, chain FROM rows"
                " ORDER BY seq"
            )
            for columns in rows:
                row = Row._make(columns)
                problem = _wrong(db, row, seq + 1, chain)
                if problem:
                    return Findings(seq, chain, seq + 1, problem)
                seq, chain = row.seq, row.chain
        finally:
            leave(db)
    except (sqlite3.Error, StoreError, TypeError, OverflowError) as err:
        return Findings(seq, chain, seq + 1, str(err))
    return Findings(seq, chain)


def _wrong(db: sqlite3.Connection, row: Row, due: int, before: bytes) -> str:
    """Return what is wrong with a row, or nothing."""
    if row.seq != due:
        return f"row {due} is missing, row {row.seq} comes instead"
    if row.chain != chain_of(row, before):
        return f"row {due} is not the one that was written there"
    key = once_key(read_row(row))
    if key is not None:
        there = db.execute("SELECT seq FROM once WHERE key = ?", (key,)).fetchone()
        if there is None or there[0] != due:
            return f"row {due} is not the one that is listed for its order or trade"
    return ""
