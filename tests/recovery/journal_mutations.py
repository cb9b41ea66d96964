"""Damage done to a journal at random, and whether it is seen. A script.

    python journal_mutations.py FOLDER MUTATIONS SEED

Journals are taken as they lie on the disk in each state that a writer or a crash leaves them in;
one bit, one length or one row of one is changed; then it is opened as emsd would. What opens
without a word counts as missed, unless its rows are the same and the change lies in bytes that
no commit ever vouched for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from piker.clearing import journal_file, journal_log
from piker.clearing import journal_seal as seal
from piker.clearing.journal import verify
from piker.clearing.journal_file import JournalFile, create
from piker.clearing.journal_snapshot import keep, take_up
from piker.clearing.lifecycle import Event, EventKind
from piker.clearing.records import Happened, Intent, Prepared, Record, prepare
from piker.clearing.standing import Standing
from piker.errors import JournalDamaged
from piker.orders import Action, Order

ORDERS = 150
VERIFIED = 20  # every so many mutations, verify is asked too: it reads every row
STATES = ("closed", "log", "laid", "announced", "copied", "cut", "sealed", "snapshot kept")


def pair(number: int) -> list[Prepared]:
    """Return an intent and its fill, each different from every other."""
    oid = f"order-{number}"
    order = Order(
        oid=oid, symbol="btcusdt.spot.binance", account="paper", action=Action.BUY,
        size=Decimal(1 + number % 7), price=Decimal(64_000 + number),
    )  # fmt: skip
    event = Event(
        kind=EventKind.FILL, time_ns=number, tid=str(number), size=Decimal(1), price=order.price
    )
    return [
        prepare(Record(entry=Intent(order), time_ns=number, account="paper", oid=oid)),
        prepare(Record(entry=Happened(event, order.symbol), time_ns=number, oid=oid)),
    ]


def make(path: Path, state: str) -> None:
    """Write a journal and leave it in ``state``, by a kill where it needs one."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert (os.WTERMSIG(status) == signal.SIGKILL) == (state != "closed"), "died otherwise"
        return
    try:
        create(path)
        file = JournalFile(path)
        for number in range(ORDERS):
            file.append(pair(number))
            if number == ORDERS // 2:
                file.checkpoint()
        seal.reached = lambda name: os.kill(os.getpid(), 9) if name == state else None
        if state == "snapshot kept":
            keep(path, take_up(file).standing.snapshot())
        if state == "laid":
            journal_file.CHECKPOINT_BYTES, journal_log.LAID_BEYOND = file.head.log_bytes, 65_536
            file.lay()
        if state in ("log", "laid"):
            os.kill(os.getpid(), signal.SIGKILL)
        file.close()
        os._exit(0)
    finally:
        os._exit(1)


def unwritten(path: Path, file: Path, at: int) -> str:
    """Return "unwritten " for a place in the log to which no commit has come yet."""
    return "unwritten " if file.name == seal.WAL and at >= seal.read_head(path).log_bytes else ""


def flip(path: Path, chance: random.Random) -> str:
    """Turn one bit of one file: each file as likely as the others, else one would have all."""
    file = chance.choice([f for f in sorted(path.iterdir()) if f.stat().st_size])
    data = bytearray(file.read_bytes())
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)
    beyond = unwritten(path, file, at)
    file.write_bytes(data)
    return f"flip {beyond}{file.name}"


def cut(path: Path, chance: random.Random) -> str:
    """Shorten one file."""
    file = chance.choice([f for f in sorted(path.iterdir()) if f.stat().st_size])
    size = chance.randrange(file.stat().st_size)
    beyond = unwritten(path, file, size)
    os.truncate(file, size)
    return f"cut {beyond}{file.name}"


def row(path: Path, chance: random.Random) -> str:
    """Remove, double or swap rows with SQLite itself, which makes sound pages of it."""
    how = chance.choice(("remove", "double", "swap"))
    db = sqlite3.connect(path / seal.DATABASE)
    (last,) = db.execute("SELECT max(seq) FROM rows").fetchone()
    one = chance.randrange(1, last)
    if how == "remove":
        db.execute("DELETE FROM rows WHERE seq = ?", (chance.choice((one, last)),))
    elif how == "double":
        db.execute(
            "INSERT INTO rows SELECT ?, time_ns, kind, account, oid, payload, actor, chain"
            " FROM rows WHERE seq = ?",
            (last + 1, one),
        )
    else:
        for was, now in ((one, -1), (one + 1, one), (-1, one + 1)):
            db.execute("UPDATE rows SET seq = ? WHERE seq = ?", (now, was))
    db.commit()
    db.close()
    return f"{how} row"


def seen(path: Path, due: Standing) -> bool:
    """Tell whether a start refuses the journal, which it then has not changed, or its snapshot."""
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    try:
        file = JournalFile(path)
    except JournalDamaged:
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before, "changed"
        return True
    try:
        taken = take_up(file)
    except JournalDamaged:
        return True
    finally:
        file.abandon()
    return bool(taken.unused) and vars(taken.standing) == vars(due)


def main() -> None:
    """Mutate, and count."""
    folder, mutations, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    ways: tuple[Callable[[Path, random.Random], str], ...] = (flip, flip, flip, cut, row)
    ends = {}
    for state in STATES:
        make(folder / state, state)
        shutil.copytree(folder / state, folder / "whole")
        file = JournalFile(folder / "whole")
        ends[state] = take_up(file).standing
        file.close()
        shutil.rmtree(folder / "whole")
    done, healed, missed, unverified = Counter[str](), Counter[str](), list[str](), list[str]()
    for number in range(mutations):
        state, place = STATES[number % len(STATES)], folder / "mutated"
        shutil.copytree(folder / state, place)
        what = f"{chance.choice(ways)(place, chance)}, {state}"
        done[what] += 1
        asked = number % VERIFIED == 0 and verify(place)
        if not seen(place, ends[state]):
            found = verify(place)
            same = found.sound and (found.rows, found.chain) == (ends[state].seq, ends[state].chain)
            (healed.update([what]) if same else missed.append(what))
        elif asked and asked.sound:
            unverified.append(what)
        shutil.rmtree(place)
    print(json.dumps({
        "mutations": mutations, "seen": mutations - healed.total() - len(missed),
        "healed": dict(healed), "missed": missed, "unverified": unverified, "kinds": len(done),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
