"""Writers of one journal, killed at random moments and at chosen points; counts what was lost.

    python journal_kills.py FOLDER KILLS SEED

A script. Each child opens the journal, appends from several tasks at once, with a log so short
that checkpoints are many, and says what was acknowledged after it was. The parent kills it, now
by the clock, now at a point in the middle of a commit or checkpoint, and starts the next. In the
end every acknowledged record must be there, once, under the number that was told.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path

import trio

from piker.clearing import journal, journal_file, standing
from piker.clearing import journal_seal as seal
from piker.clearing.journal import Journal, open_journal, verify
from piker.clearing.journal_snapshot import read_snapshot
from piker.clearing.lifecycle import Event, EventKind
from piker.clearing.records import Duplicate, Happened, Intent, Record
from piker.clearing.standing import Snapshot
from piker.orders import Action, Order

TASKS = 8
POINTS = (
    "commit", "committed", "sums written", "announced", "copied", "cut", "sealed",
    "snapshot written", "snapshot kept",
)  # fmt: skip


def records(oid: str) -> list[Record]:
    """Return an intent and its fill."""
    order = Order(
        oid=oid, symbol="btcusdt.spot.binance", account="paper", action=Action.BUY,
        size=Decimal(1), price=Decimal(64_000),
    )  # fmt: skip
    event = Event(kind=EventKind.FILL, time_ns=1, tid=f"t{oid}", size=Decimal(1), price=order.price)
    return [
        Record(entry=Intent(order), time_ns=1, account="paper", oid=oid),
        Record(entry=Happened(event, order.symbol), time_ns=1, account="paper", oid=oid),
    ]


async def client(journal: Journal, name: str, out: int, again: list[str]) -> None:
    """Append for ever; every tenth time what an earlier life may have written, or not."""
    number = 0
    while True:
        number += 1
        oid = again.pop() if again and number % 10 == 0 else f"{name}-{number}"
        seqs = [
            answer.seq if isinstance(answer, Duplicate) else answer
            for answer in await journal.append(records(oid))
        ]
        os.write(out, f"{oid} {seqs[0]} {seqs[1]}\n".encode())


async def work(path: Path, life: int, out: int, again: list[str]) -> None:
    """Be one life of a writer."""
    async with open_journal(path) as journal:
        async with trio.open_nursery() as nursery:
            for task in range(TASKS):
                nursery.start_soon(client, journal, f"{life}.{task}", out, again)


def shorten() -> None:
    """Make checkpoints and snapshots many, and orders be forgotten early."""
    journal_file.CHECKPOINT_BYTES = 100_000
    journal.SNAPSHOT_ROWS = 100
    standing.ENDED_KEPT = 50


def begin(path: Path, life: int, point: str, after: int, again: list[str]) -> tuple[int, int]:
    """Fork a child that dies when it has reached ``point`` for the ``after``-th time, if ever."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    try:
        os.close(ours)
        left = after

        def reached(name: str) -> None:
            nonlocal left
            left -= name == point
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        seal.reached = reached
        shorten()
        trio.run(work, path, life, theirs, again)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def main() -> None:
    """Kill, and count."""
    path, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    told: dict[str, tuple[int, int]] = {}
    changed = died_by_itself = at_points = 0
    again: list[str] = []
    for life in range(kills):
        point = chance.choice(POINTS) if chance.random() < 0.5 else ""
        after = chance.randrange(1, 60 if point.startswith("commit") else 6)
        pid, out = begin(path, life, point, after, list(again))
        lasts_s = 5.0 if point else chance.uniform(0.0, 0.25)
        lines, by_itself = watch(pid, out, lasts_s)
        died_by_itself += by_itself
        at_points += bool(point)
        for line in lines:
            oid, *seqs = line.split()
            now = (int(seqs[0]), int(seqs[1]))
            changed += told.setdefault(oid, now) != now
        again = [f"{life}.{task}-{number}" for task in range(TASKS) for number in range(1, 40)]
    counts = judge(path, told)
    print(json.dumps(counts | {
        "kills": kills, "at_points": at_points, "changed": changed,
        "died_by_itself": died_by_itself, "acknowledged": 2 * len(told), "seed": seed,
    }))  # fmt: skip


def watch(pid: int, out: int, lasts_s: float) -> tuple[list[str], bool]:
    """Read what a child says until it died, or is killed after ``lasts_s``."""
    said, end = bytearray(), time.monotonic() + lasts_s
    os.set_blocking(out, False)
    while True:
        try:
            more = os.read(out, 65_536)
            if not more:
                break
            said += more
        except BlockingIOError:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.001)
    _, status = os.waitpid(pid, 0)
    os.set_blocking(out, True)
    with os.fdopen(out, "rb") as rest:
        said += rest.read()
    return said.decode().splitlines(), os.WIFEXITED(status)


def judge(path: Path, told: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Hold the journal against what was acknowledged."""
    shorten()
    found = verify(path)
    snapshots = isinstance(read_snapshot(path), Snapshot)
    there: dict[tuple[str, str], list[int]] = {}

    async def read() -> int:
        async with open_journal(path, read_only=True) as journal:
            whole = await journal.fold()
            open_ones = {oid: state for oid, state in whole.items() if not state.is_over}
            assert journal.standing.live == open_ones, "the snapshot misled"
            async for record in journal.read():
                there.setdefault((record.oid, record.kind), []).append(record.seq)
            return journal.seq

    rows = trio.run(read)
    lost = doubled = 0
    for oid, seqs in told.items():
        for kind, seq in zip(("intent", "event"), seqs, strict=True):
            lost += seq not in there.get((oid, kind), [])
    doubled = sum(len(seqs) > 1 for seqs in there.values())
    return {
        "rows": rows, "lost": lost, "doubled": doubled, "unsound": int(not found.sound),
        "snapshots": int(snapshots),
        "generations": seal.read_head(path).generation,
    }  # fmt: skip


if __name__ == "__main__":
    main()
