"""Whole fills over HTTP into one store, each killed at some moment; counts what was lost. A script.

    python fill_kills.py --kills 200 --seed 1 [--folder EMPTY]

A loopback Binance (archive and REST, a process of its own) serves children that call
``DataSourceManager.get_data`` on one store: overlapping ranges of the same markets, some with the
archive and some without, some up to now, while another child compacts. The parent kills one after
the other, at a random moment or just after it has begun to write a file, renamed it, begun a
transaction, committed, or begun to remove what was replaced. What a child said after ``get_data``
had returned must be in the store; every bar must equal what the venue's REST interface says; the
store must verify; one last fill must end complete, and leave nothing lying about.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fill_judge import (
    MARKETS,
    PIKER,
    SPOT,
    USDM,
    VALUES,
    Truth,
    checksum,
    judge,
    left_over,
    verified,
)

from piker.brokers.spec import load_backend
from piker.clock import wall_s
from piker.config import DIRECTORY_VARS
from piker.data.history import manager as _manager  # noqa: F401  loaded once, before children are
from piker.data.ranges import Range
from piker.data.store import maintenance
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.dsm import DataProvider, DataSourceManager
from piker.testing.loopback import point_backend_at

BEGIN, DAY = 1_640_995_200, 86_400  # 2022, before which nothing is asked for
WINDOW_DAYS = 16  # what children ask for at one time
DAYS_PER_S = 8  # how fast that moves on: about what two cores fetch and serve
YOUNG_S = 30 * 3600  # of the newest bars, which no archive has yet
FILLERS = 4
MARK_S = 1.0  # how long something that is to be begun is waited for
END_S = 120.0  # the venue takes no longer to end unless it is broken
WORDS = 1 << 20  # bytes of acknowledgements that a child may say before it is killed
#: What a child was last seen to begin, by the letter that it sends.
MOMENTS = {
    "": "starting", "a": "asking", "w": "writing a file", "r": "renaming", "b": "in a transaction",
    "c": "committing", "u": "removing the old", "g": "between calls",
}  # fmt: skip
Mark = Callable[[bytes], None]


# -- children --------------------------------------------------------------------------------------
class Child(NamedTuple):
    """A process, what it says in lines, and what it begins in letters."""

    pid: int
    words: int
    marks: int
    compacts: bool


def begin(work: Callable[[int, Mark], None], *, compacts: bool) -> Child:
    """Fork a child that does ``work(where its words go, how it marks)`` until it is killed."""
    words, said = os.pipe()
    fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, WORDS)
    marks, marked = os.pipe2(os.O_NONBLOCK)
    pid = os.fork()
    if not pid:
        try:
            os.close(words)
            os.close(marks)
            work(said, tell_moments(marked))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    os.close(said)
    os.close(marked)
    return Child(pid, words, marks, compacts)


def tell_moments(out: int) -> Mark:
    """Write a letter for each thing that this process does to a store, for ever; return how."""

    def mark(letter: bytes) -> None:
        with suppress(BlockingIOError):  # the pipe is full; without a parent the child ends
            os.write(out, letter)

    class Told(sqlite3.Connection):
        """A database that tells when it begins to write, and to commit."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.writes = False
            self.set_trace_callback(self.hear)

        def hear(self, statement: str) -> None:
            """Hear a statement before it is done."""
            if statement.startswith("BEGIN"):
                self.writes = statement == "BEGIN IMMEDIATE"
                if self.writes:
                    mark(b"b")
            elif statement == "COMMIT" and self.writes:
                mark(b"c")

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).endswith(".arrow.tmp") and args[1] == "w":
            mark(b"w")
        elif event == "os.rename":
            mark(b"r")
        elif event == "os.remove":
            mark(b"u")

    sys.addaudithook(hear)
    sqlite3.connect = partial(sqlite3.connect, factory=Told)
    return mark


def fill(seed: int, begun_s: float, out: int, mark: Mark) -> None:
    """Ask for one range after the other; say what came when it is there."""
    chance = random.Random(seed)
    managers = {
        (kind, archive): DataSourceManager.create(
            DataProvider.BINANCE, kind, vision_enabled=archive, quiet_mode=True
        )
        for kind in (SPOT, USDM) for archive in (True, False)
    }  # fmt: skip
    while True:
        at = chance.randrange(len(MARKETS))
        span = span_of(chance, window_of(begun_s), MARKETS[at][2])
        mark(b"a")
        answer = ask(managers[MARKETS[at][0], chance.random() < 0.7], at, span)
        os.write(out, f"{at} {span.start} {span.end} {answer}\n".encode())
        mark(b"g")


def window_of(begun_s: float) -> Range:
    """Return what is asked for now."""
    start = BEGIN + int((time.monotonic() - begun_s) * DAYS_PER_S) * DAY
    return Range(start, start + WINDOW_DAYS * DAY)


def span_of(chance: random.Random, window: Range, series: Series) -> Range:
    """Choose a range: of the window mostly, else of the newest bars."""
    if chance.random() < 0.2:
        end = series.timeframe.floor(int(wall_s()))
        return Range(series.timeframe.floor(end - chance.randrange(3600, YOUNG_S)), end)
    hours = chance.randrange(6, 10 * 24)
    start = window.start + chance.randrange((window.end - window.start) // 3600 - hours) * 3600
    return Range(start, start + hours * 3600)


def ask(manager: DataSourceManager, at: int, span: Range) -> str:
    """Get a range as a user's program does; return rows, checksum, damaged files, requests."""
    _, symbol, series, _ = MARKETS[at]
    start, end = (datetime.fromtimestamp(time_s, UTC) for time_s in span)
    frame = manager.get_data(symbol, start, end, series.interval, return_polars=True)
    report = manager.last_report
    assert report is not None
    assert report["complete"], report
    columns = [frame[name].to_numpy() for name in VALUES]
    return f"{len(frame)} {checksum(columns)} {report['damaged']} {report['requests']}"


def compact(seed: int, out: int, mark: Mark) -> None:
    """Make few files of many, again and again."""
    chance, store = random.Random(seed), Store()
    while True:
        for _, series in store.manifest.all_series():
            mark(b"a")
            maintenance.compact(store, series, always=chance.random() < 0.7)
            mark(b"g")
            time.sleep(0.02)


# -- killing ---------------------------------------------------------------------------------------
class Tally:
    """What was seen of the children."""

    def __init__(self) -> None:
        self.said: list[str] = []  # what fillers acknowledged
        self.count: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()


def kill(child: Child, chance: random.Random, tally: Tally) -> None:
    """Let a child work a while, kill it, and take down what it said."""
    seen = ""
    if chance.random() < 0.4:
        time.sleep(chance.uniform(0.0, 0.5))
    else:
        seen = wait_for(child, chance.choice("wrbcu"), chance.randrange(1, 6))
        time.sleep(chance.uniform(0.0, 0.001))
    os.kill(child.pid, signal.SIGKILL)
    _, status = os.waitpid(child.pid, 0)
    seen += read_marks(child)
    os.close(child.marks)
    with os.fdopen(child.words, "rb") as words:
        lines = words.read().decode().splitlines()
    last = seen[-1:]
    tally.count["kills"] += 1
    tally.count["died_by_itself"] += os.WIFEXITED(status)
    tally.moments[MOMENTS[last]] += 1
    if last not in ("", "g"):
        tally.count["compactions_cut" if child.compacts else "fills_cut"] += 1
    tally.count["fills_done"] += len(lines)
    tally.said += lines


def wait_for(child: Child, letter: str, count: int) -> str:
    """Wait until a child begins something for the ``count``-th time; return what it began."""
    seen, deadline = read_marks(child), time.monotonic() + MARK_S
    wanted = seen.count(letter) + count
    while seen.count(letter) < wanted and time.monotonic() < deadline:
        select.select([child.marks], [], [], 0.1)
        seen += read_marks(child)
    return seen


def read_marks(child: Child) -> str:
    """Return the letters that have come since the last time."""
    found = b""
    with suppress(BlockingIOError):
        while part := os.read(child.marks, 65536):
            found += part
    return found.decode()


def kill_all(kills: int, seed: int, begun_s: float) -> Tally:
    """Start children, kill and replace them; all are killed when it returns."""
    chance, tally = random.Random(seed), Tally()

    def start(number: int, *, compacts: bool) -> Child:
        own = seed * 100_000 + number
        work = partial(compact, own) if compacts else partial(fill, own, begun_s)
        return begin(work, compacts=compacts)

    running = [start(at, compacts=not at) for at in range(FILLERS + 1)]
    for number in range(kills):
        at = chance.randrange(len(running))
        kill(running[at], chance, tally)
        running[at] = start(FILLERS + 1 + number, compacts=not at)
    for child in running:
        kill(child, chance, tally)
    return tally


def last_fill(spans: list[Range]) -> None:
    """Ask, as one program that nobody kills, for all that children may have asked for."""
    pid = os.fork()
    if not pid:
        try:
            for at, (kind, *_) in enumerate(MARKETS):
                manager = DataSourceManager.create(DataProvider.BINANCE, kind, quiet_mode=True)
                for span in spans:
                    ask(manager, at, span)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the last fill did not end complete")


# -- the program -----------------------------------------------------------------------------------
@contextmanager
def open_venue(seed: int) -> Iterator[int]:
    """Serve a Binance in a process of its own; give its port."""
    command = [*PIKER, "venue", "binance", "--synthetic", "--no-limits", "--symbols", "2",
               "--rate", "2", "--seed", str(seed)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["port"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)
        process.stdout.close()


def run(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Do it all in a folder; return the counts."""
    for variable, name in DIRECTORY_VARS.items():
        (folder / name).mkdir(mode=0o700)
        os.environ[variable] = str(folder / name)
    load_backend("binance")
    with open_venue(seed) as port:
        point_backend_at("binance", port)
        begun_s, young = time.monotonic(), int(wall_s()) // 3600 * 3600 - YOUNG_S
        tally = kill_all(kills, seed, begun_s)
        end, truth = window_of(begun_s).end, Truth(port)
        unsound = verified()
        counts = judge(truth, tally.said)
        last_fill([Range(BEGIN, end), Range(young, int(wall_s()) // 3600 * 3600)])
        after = judge(truth, [])
        return {
            **tally.count, "moments": dict(tally.moments), **counts, "unsound": unsound,
            "left_over": left_over(), "bars_at_the_end": after["bars"],
            "wrong_at_the_end": after["wrong"] + after["holes"], "unsound_at_the_end": verified(),
        }  # fmt: skip


def main() -> None:
    """Kill, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty one; a temporary one unless given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fill-kills-") as folder:
        print(json.dumps(run(given.folder or Path(folder), given.kills, given.seed)))


if __name__ == "__main__":
    main()
