"""What the journal costs: beside SQLite alone, beside a bare disk, and at a start.

``per_s`` are the records a second of eight clients, each waiting for its own before the next.
Beside it, in turns, SQLite alone with the same rows, keys and syncs: ``of_sqlite`` where the same
eight clients wait for the same group commit in a thread that is handed it in the same way;
``of_loop`` where a plain loop of one thread commits eight at a time, rows made ready before, and
nobody waits; ``commit_of_loop`` is the journal's own commit in such a loop. ``p50_us`` and
``p99_us`` are one append of one record with nobody else about, ``bare_*`` a write and fdatasync of
as many bytes to a file's end, in turns.

``ready_s`` is a start in a fresh process, after a kill, until orders, positions and risk are
known: a million rows, four of each order, the last snapshot as old as it ever gets;
``unaided_s`` is without it, ``fold_s`` every order there ever was. ``verify_per_s`` are rows.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import trio

from piker.clearing.journal import SNAPSHOT_ROWS, Journal, open_journal, verify
from piker.clearing.journal_file import CHECKPOINT_BYTES, MIGRATIONS, JournalFile, create
from piker.clearing.journal_seal import DATABASE, PAGE, STANDING
from piker.clearing.journal_snapshot import keep, take_up
from piker.clearing.journal_thread import CommitThread
from piker.clearing.lifecycle import Event, EventKind
from piker.clearing.records import Happened, Intent, Prepared, Record, prepare
from piker.orders import Action, Order

FQME = "btcusdt.spot.binance"
CLIENTS = 8
TURNS = 16  # of us and of SQLite in turns: what else the machine does then hits both


def intent(oid: str) -> Record:
    """Return an order as clients send them."""
    order = Order(
        oid=oid, symbol=FQME, account="binance.spot", action=Action.BUY,
        size=Decimal("0.015"), price=Decimal("64000.10"),
    )  # fmt: skip
    return Record(entry=Intent(order), time_ns=1, account=order.account, oid=oid, actor="anna:1000")


def life(number: int, *, ends: bool) -> list[Prepared]:
    """Return four rows: an intent, what the venue says of it, and its fill."""
    oid = f"01936d9c-7c1b-7000-8000-{number:012x}"
    events = [
        Event(kind=EventKind.SUBMIT, time_ns=number),
        Event(kind=EventKind.OPEN, time_ns=number, reqid=str(number)),
        Event(
            kind=EventKind.FILL, time_ns=number, tid=str(number), price=Decimal("64000.10"),
            size=Decimal("0.015" if ends else "0.005"), fee=Decimal("0.96"), fee_asset="usdt",
        ),
    ]  # fmt: skip
    rows = [intent(oid)]
    rows += [
        Record(entry=Happened(event, FQME), time_ns=number, account="binance.spot", oid=oid)
        for event in events
    ]
    return [prepare(row) for row in rows]


# -- appends ------------------------------------------------------------------------------------
async def clients(journal: Journal | Shared, name: str, commits: int) -> float:
    """Return the records a second that eight clients journal, each so many."""

    async def client(mine: int) -> None:
        for number in range(commits):
            await journal.append([intent(f"{name}-{mine}-{number}")])

    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for mine in range(CLIENTS):
            nursery.start_soon(client, mine)
    return commits * CLIENTS / (time.perf_counter() - begun)


class Alone:
    """SQLite with the journal's tables, and nothing of the journal."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for setting in (
            "locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL",
            f"wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE}",
        ):  # fmt: skip
            self.db.execute(f"PRAGMA {setting}")
        for migration in MIGRATIONS:
            migration(self.db)
        self.seq = 0

    def commit(self, batch: list[Prepared]) -> int:
        """Commit rows as they are, in one transaction."""
        self.db.execute("BEGIN IMMEDIATE")
        keys = [(row.key, self.seq + at) for at, row in enumerate(batch, 1)]
        self.db.executemany("INSERT INTO once VALUES (?, ?)", keys)
        rows = [(self.seq + at, *row.columns, bytes(16)) for at, row in enumerate(batch, 1)]
        self.db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.db.execute("COMMIT")
        self.seq += len(batch)
        return self.seq


class Shared:
    """SQLite alone behind the plainest group commit, handed over to a thread as ours is."""

    def __init__(self, alone: Alone) -> None:
        self.alone = alone
        self.waiting: list[tuple[Prepared, trio.Event]] = []
        self.wake = trio.Event()
        self.thread = CommitThread(alone.commit)

    async def append(self, records: Sequence[Record]) -> None:
        """Wait until the record is committed."""
        done = trio.Event()
        self.waiting.append((prepare(records[0]), done))
        self.wake.set()
        await done.wait()

    async def run(self) -> None:
        """Commit what waits, for ever."""
        while True:
            await self.wake.wait()
            self.wake, batch, self.waiting = trio.Event(), self.waiting, []
            rows = [row for row, _ in batch]
            await self.thread.run(rows)
            for _, done in batch:
                done.set()


def loop(commit: Callable[[list[Prepared]], object], name: str, commits: int) -> float:
    """Return the records a second of commits of eight, which are made ready before."""
    batches = [
        [prepare(intent(f"{name}-{mine}-{number}")) for mine in range(CLIENTS)]
        for number in range(commits)
    ]
    begun = time.perf_counter()
    for batch in batches:
        commit(batch)
    return commits * CLIENTS / (time.perf_counter() - begun)


async def beside_sqlite(folder: Path, commits: int) -> dict[str, float]:
    """Take turns with SQLite alone."""
    alone, behind = Alone(folder / "alone.db"), Alone(folder / "behind.db")
    shared = Shared(behind)
    create(folder / "plain")
    plain = JournalFile(folder / "plain")
    plain.lay()

    def commit(batch: list[Prepared]) -> None:
        plain.append(batch)
        if plain.wants_checkpoint:
            plain.checkpoint()
            plain.lay()

    ours, same, bare, file = list[float](), list[float](), list[float](), list[float]()
    async with open_journal(folder / "journal") as journal, trio.open_nursery() as nursery:
        nursery.start_soon(shared.run)
        for turn in range(TURNS):
            ours.append(await clients(journal, str(turn), commits))
            same.append(await clients(shared, str(turn), commits))
            bare.append(loop(alone.commit, str(turn), commits))
            file.append(loop(commit, str(turn), commits))
        nursery.cancel_scope.cancel()
    shared.thread.end()
    plain.close()
    ratio = float.__truediv__
    return {
        "per_s": round(statistics.median(ours)),
        "of_sqlite": round(statistics.median(map(ratio, ours, same)), 2),
        "of_loop": round(statistics.median(map(ratio, ours, bare)), 2),
        "commit_of_loop": round(statistics.median(map(ratio, file, bare)), 2),
    }


async def one_by_one(folder: Path, appends: int) -> dict[str, float]:
    """Append one record at a time, each followed by a bare write of as many bytes."""
    ours, bare = list[float](), list[float]()
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT)
    async with open_journal(folder / "single") as journal:
        for number in range(appends):
            before = journal.log_bytes
            begun = time.perf_counter()
            await journal.append([intent(f"single-{number}")])
            ours.append(time.perf_counter() - begun)
            block = os.urandom(max(journal.log_bytes - before, 4120))
            begun = time.perf_counter()
            os.write(fd, block)
            os.fdatasync(fd)
            bare.append(time.perf_counter() - begun)
    os.close(fd)
    figures = {"": statistics.quantiles(ours, n=100), "bare_": statistics.quantiles(bare, n=100)}
    return {
        f"{who}{name}_us": round(cuts[at] * 1e6)
        for who, cuts in figures.items() for name, at in (("p50", 49), ("p99", 98))
    }  # fmt: skip


# -- starts -------------------------------------------------------------------------------------
def fill(path: Path, rows: int) -> None:
    """Make a journal of many rows: four of each order, of which one in two hundred stands."""
    create(path)
    file = JournalFile(path)
    for first in range(0, rows // 4, 500):
        numbers = range(first, min(first + 500, rows // 4))
        file.append([row for number in numbers for row in life(number, ends=number % 200 != 0)])
        if file.wants_checkpoint:
            file.checkpoint()
        if 0 <= rows - SNAPSHOT_ROWS - file.head.seq < 4 * 500:
            keep(path, take_up(file).standing.snapshot())
    file.abandon()  # as a kill would leave it, log and all


async def start(path: Path, whole: bool) -> None:
    """Open a journal and tell how long it took until its orders are known."""
    begun = time.perf_counter()
    async with open_journal(path) as journal:
        standing = journal.standing
        ready = time.perf_counter() - begun
        if whole:
            begun = time.perf_counter()
            await journal.fold()
            whole_s = time.perf_counter() - begun
    print(json.dumps([ready, whole_s if whole else len(standing.live)]))


def starts(path: Path, rows: int) -> dict[str, float]:
    """Start in fresh processes; then verify."""
    fill(path, rows)
    ready, live = started(path)
    begun = time.perf_counter()
    found = verify(path)
    verified = time.perf_counter() - begun
    assert (found.sound, found.rows) == (True, rows)
    (path / STANDING).unlink(missing_ok=True)  # of few rows there is none
    unaided, fold = started(path, "whole")
    return {
        "rows": rows, "bytes_a_row": round((path / DATABASE).stat().st_size / rows),
        "open_orders": live, "ready_s": round(ready, 2), "unaided_s": round(unaided, 2),
        "fold_s": round(fold, 2), "verify_per_s": round(rows / verified),
    }  # fmt: skip


def started(path: Path, whole: str = "") -> list[float]:
    """Start in a fresh process."""
    command = [sys.executable, __file__, "--start", str(path), whole]
    told: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return told


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--commits", type=int, default=300, help="of a turn")
    parser.add_argument("--appends", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.start:
        trio.run(start, Path(asked.start[0]), bool(asked.start[1]))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        figures = trio.run(beside_sqlite, folder, asked.commits)
        figures |= trio.run(one_by_one, folder, asked.appends)
        figures |= starts(folder / "long", asked.rows)
    print(json.dumps({"benchmark": "journal", **figures}))


if __name__ == "__main__":
    main()
