"""The journal: the one truth about orders, fills, positions and risk.

    async with open_journal(config.data_dir() / "journal") as journal:
        answers = await journal.append([Record(entry=Intent(order), oid=order.oid, ...)])

:meth:`Journal.append` returns when its records are on the disk. Whatever waits while one commit
syncs goes into the next one together. :attr:`Journal.standing` is what all of it comes to: the
orders, positions and risk states. :func:`verify` recomputes everything from the first row.
docs/internals/journal.md says what lies where, docs/adr/0005-journal.md why.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from piker.clearing import journal_seal as seal
from piker.clearing.journal_copy import copy_of
from piker.clearing.journal_file import JournalFile, create
from piker.clearing.journal_find import found_in
from piker.clearing.journal_snapshot import TakenUp, keep, recall, take_up
from piker.clearing.journal_thread import CommitThread
from piker.clearing.journal_verify import Findings, verify
from piker.clearing.lifecycle import OrderState
from piker.clearing.records import Duplicate, Prepared, Record, prepare, read_row
from piker.clearing.standing import Snapshot, Standing, fold_orders
from piker.errors import JournalDamaged, PikerError, StoreError
from piker.log import get_logger

__all__ = ["Findings", "Journal", "open_journal", "verify"]

BATCH = 4096  # records of one commit: a sync is a hundredth of writing that many
WAITING = 65_536  # records that wait at most; then append itself waits: 30 MB of them
SNAPSHOT_ROWS = 50_000  # since the last snapshot: a start folds so many in a third of a second
CLOSE_ROWS = 1_000  # since the last snapshot from which closing takes one: 50 ms of the next start
SEARCH_ROWS = 1_000_000  # in which a late fill's order is looked for: 150,000 orders
FIND_ROWS = 2000  # looked through at a time, in 5 ms
LINGER_S = 0.002  # what was posted waits so long for a commit that takes it along
READ_ROWS = 1000  # rows read at a time, between which commits pass

log = get_logger("journal")
_T = TypeVar("_T")


class _Waiter:
    """One append: its records, and what became of them."""

    __slots__ = ("answers", "failed", "posted", "ready", "records", "task", "told")

    def __init__(
        self, records: list[Record], ready: list[Prepared], *, posted: bool = False
    ) -> None:
        self.records = records
        self.ready = ready
        self.answers: list[int | Duplicate] = []
        self.failed: PikerError | None = None
        self.posted = posted  # nobody waits for it
        self.told = False
        self.task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait until it is told; cancelled, it goes, and its records are written all the same."""
        self.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._go)

    def _go(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def tell(self, failed: PikerError | None = None) -> None:
        """Let whoever waits go on; the first telling counts. A third of what an event costs."""
        if self.told:
            return
        self.told, self.failed = True, failed
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None


class Journal:
    """An open journal; :func:`open_journal` makes it. SQLite runs in one thread at a time."""

    def __init__(self, file: JournalFile, taken: TakenUp, *, read_only: bool) -> None:
        self._file = file
        self._standing = taken.standing
        self._since_snapshot = SNAPSHOT_ROWS if taken.unused else taken.folded  # it is replaced
        self._read_only = read_only
        self._thread = trio.CapacityLimiter(1)  # whoever uses the file, in whichever thread
        self._committer = CommitThread(file.append)
        self._waiting: deque[_Waiter] = deque()
        self._waiting_records = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._committing = False
        self._lingering = False
        self._together = 0  # how many waited for the last commit
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
    def standing(self) -> Standing:
        """Return what the rows on the disk come to; it changes with each commit.

        An append that has returned is in it. Look, and change nothing.
        """
        return self._standing

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
        waiter = _Waiter(list(records), [prepare(record) for record in records])
        while self._waiting_records > WAITING and self._failed is None:
            self._room = trio.Event() if self._room.is_set() else self._room
            await self._room.wait()
        self._refuse_closed()
        if not waiter.records:
            await trio.lowlevel.checkpoint()
            return []
        self._waiting.append(waiter)
        self._waiting_records += len(waiter.records)
        if not self._committing:  # to go through the writer would be half of what it costs
            await self._commit_now()
        if not waiter.told:
            await waiter.wait()
        if waiter.failed is not None:
            raise _again(waiter.failed)
        return waiter.answers

    def post(self, records: Sequence[Record]) -> None:
        """Have records written with the next commit, two milliseconds later at most.

        For what nobody is told to rely on: a crash may take it back. Records keep the order in
        which they were posted and appended. Raises what :meth:`append` does.
        """
        waiter = _Waiter(list(records), [prepare(record) for record in records], posted=True)
        self._refuse_closed()
        if waiter.records:
            self._waiting.append(waiter)
            self._waiting_records += len(waiter.records)
            if not self._lingering:
                self._wake.set()

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

    async def order(self, oid: str) -> OrderState | None:
        """Return any order that there ever was, from the disk where ``standing`` has none.

        Reads the rows since its intent: up to some tenths of a second for a million.
        """
        known = self._standing.get(oid)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return known
        return await self._run(recall, self._file.db, oid, self.seq + 1)

    async def find(self, account: str, names: Set[str]) -> dict[str, str]:
        """Return whose ids they are: oids of an account's orders by venue's id or client id.

        For what is heard of an order so late that nothing at hand knows it. The newest
        :data:`SEARCH_ROWS` rows are looked through, a thousandth of them between two commits: up to
        some seconds for ids that are nobody's.
        """
        found: dict[str, str] = {}
        before, end = self.seq + 1, max(1, self.seq + 1 - SEARCH_ROWS)
        while before > end and len(found) < len(names):
            since = max(end, before - FIND_ROWS)
            rows = await self._run(self._file.rows, since - 1, before - since)
            found = found_in(rows, account, names) | found
            before = since
        return found

    async def fold(self) -> dict[str, OrderState]:
        """Return what all orders are, by oid, folded from the first row: for a whole account.

        Five seconds and 300 MB for a million rows. ``standing`` has what trading needs.
        """
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
    async def _write(self, nursery: trio.Nursery) -> None:
        """Commit what waits, again and again, until the journal is closed."""
        if not self._read_only:
            await self._lay()
        while True:
            await self._keep_up(nursery)
            if self._committing or not (self._waiting or self._closing or self._failed):
                self._wake = trio.Event()
                await self._wake.wait()
            elif self._waiting:
                if not self._closing and all(waiter.posted for waiter in self._waiting):
                    await self._linger()
                if self._waiting and not self._committing:
                    await self._commit(self._take())
            else:
                return

    async def _linger(self) -> None:
        """Wait a little for somebody who commits anyway, and takes along what was posted."""
        self._wake, self._lingering = trio.Event(), True
        with trio.move_on_after(LINGER_S):
            await self._wake.wait()
        self._lingering = False

    async def _keep_up(self, nursery: trio.Nursery) -> None:
        """Do what is due by the length of the log and the number of rows."""
        if self._read_only or self._failed:
            return
        if self._since_snapshot >= SNAPSHOT_ROWS:
            self._since_snapshot = 0
            nursery.start_soon(self._keep, self._standing.snapshot())
        if self._file.wants_checkpoint:
            try:
                await self._run(self._file.checkpoint)
            except BaseException as err:
                self._fail(err, [])
                if not isinstance(err, PikerError):
                    raise
                return
            await self._lay()

    async def _commit_now(self) -> None:
        """Commit what waits, for the one who came last; then the writer sees to the rest.

        Where the last commit was for several, they have their turn before, and what they append
        goes along: two passes of the event loop, as it begins the first with us in any order.
        """
        self._committing = True
        try:
            with trio.CancelScope(shield=True):
                for _ in range(2 if self._together > 1 else 0):
                    await trio.lowlevel.checkpoint()
                if self._failed is None:
                    await self._commit(self._take())
        finally:
            self._committing = False
        if self._waiting or self._closing or self._failed or self._is_behind:
            self._wake.set()
        await trio.lowlevel.checkpoint_if_cancelled()

    @property
    def _is_behind(self) -> bool:
        return self._since_snapshot >= SNAPSHOT_ROWS or self._file.wants_checkpoint

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
        """Commit some appends together; when that fails, all that wait are told and it is over."""
        self._committing = True
        try:
            await self._commit_all(batch)
        except BaseException as err:
            self._fail(err, batch)
            if not isinstance(err, PikerError):
                raise
        finally:
            self._committing = False

    async def _commit_all(self, batch: list[_Waiter]) -> None:
        ready = [prepared for waiter in batch for prepared in waiter.ready]
        answers = await self._append(ready)
        standing, at = self._standing, 0
        for waiter in batch:
            waiter.answers = answers[at : at + len(waiter.records)]
            at += len(waiter.records)
            for record, answer in zip(waiter.records, waiter.answers, strict=True):
                if isinstance(answer, Duplicate):
                    continue
                if standing.lacks(record.oid, record.entry):
                    await self._recall(record.oid, answer)
                standing.apply(answer, record.account, record.oid, record.entry, record.time_ns)
        standing.chain = self._file.head.chain
        self._since_snapshot += len(ready)
        self._together = 0
        for waiter in batch:
            self._together += not waiter.posted
            waiter.tell()

    async def _append(self, ready: list[Prepared]) -> list[int | Duplicate]:
        """Commit in the thread that is there for it; errors become ours."""
        try:
            self._thread.acquire_nowait()
        except trio.WouldBlock:
            await self._thread.acquire()
        try:
            return await self._committer.run(ready)
        except (sqlite3.Error, OSError) as err:
            raise _meaning(err, self._file.path) from err
        finally:
            self._thread.release()

    async def _recall(self, oid: str, before: int) -> None:
        state = await self._run(recall, self._file.db, oid, before)
        if state is not None:
            self._standing.recall(state)

    async def _keep(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, beside the commits. One that fails costs the next start some seconds."""
        try:
            await _in_thread(self._file.path, lambda: keep(self._file.path, snapshot))
        except PikerError as err:
            log.warning("journal.no_snapshot", journal=str(self._file.path), error=err.message)

    async def _lay(self) -> None:
        try:
            await self._run(self._file.lay)
        except StoreError as err:  # commits are slower then, and tell when there is no room at all
            log.warning("journal.log_not_laid", journal=str(self._file.path), error=err.message)

    def _fail(self, err: BaseException, batch: list[_Waiter]) -> None:
        """Say what failed to all that wait; a bug of ours leaves nobody waiting, too."""
        if not isinstance(err, PikerError):
            err = StoreError(f"the journal {self._file.path} is closed.")
        log.error("journal.failed", journal=str(self._file.path), error=err.message)
        self._failed = err
        for waiter in (*batch, *self._waiting):
            waiter.tell(err)
        self._waiting.clear()
        self._room.set()

    async def _close(self) -> None:
        whole = not self._failed and not self._read_only and self._standing.seq
        if whole and self._since_snapshot >= CLOSE_ROWS:
            await self._keep(self._standing.snapshot())
        end = self._file.abandon if self._failed or self._read_only else self._file.close
        try:
            await self._run(end)
        finally:
            self._committer.end()
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
    try:
        taken = await _in_thread(path, lambda: take_up(file))
    except BaseException:
        file.abandon()
        raise
    if taken.unused:
        log.warning("journal.snapshot_unused", journal=str(path), why=taken.unused)
    journal = Journal(file, taken, read_only=read_only)
    try:
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
        async with trio.open_nursery() as nursery:
            await journal._write(nursery)
