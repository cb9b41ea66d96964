"""No reader ever sees a torn row, and a writer that is killed in the middle of one is survived."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from piker.data._segment import Word
from piker.data.shm import ShmArray, TickRing, Token, attach_token
from piker.errors import PeerLost

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import shm_torn  # noqa: E402 - the workload and its checks are the benchmark's

WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import shm_torn
from piker.data import shm
path = Path(sys.argv[2])
ring, _ = shm.TickRing.open_writer("lab", "x", rows=shm_torn.TICK_ROWS, path=path / "t.seg")
bars, _ = shm.ShmArray.open_writer(
    "lab", "x", period_s=1, rows=shm_torn.BAR_ROWS, path=path / "b.seg"
)
DIE
print("ready", flush=True)
shm_torn.write(bars, ring, time.monotonic() + 60)
"""
DIE_IN_THE_ROW = """
import os, signal
real, left = shm._pack_bar, [int(sys.argv[3])]
def pack(raw, offset, *values):
    left[0] -= sys._getframe(1).f_code.co_name == sys.argv[4]
    if left[0] <= 0:
        real(raw, offset, *values[:1], values[1], *(9.0,) * 5, 9, 9.0)  # half of another bar
        os.kill(os.getpid(), signal.SIGKILL)
    real(raw, offset, *values)
shm._pack_bar = pack
"""


def counted(*options: str) -> tuple[int, dict[str, int]]:
    """Run the benchmark; return its exit code and counts."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "shm_torn.py", *options], capture_output=True, text=True
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.full)])
def test_no_row_is_torn_when_eight_readers_race_a_writer(seconds: int) -> None:
    """Millions of rows in arrays that wrap under the readers: not one torn, not one unaccounted."""
    code, counts = counted("--seconds", str(seconds), "--readers", "8")
    assert (code, counts["torn"]) == (0, 0)
    assert counts["rows"] > 1_000_000 * seconds / 4
    assert counts["ticks_written"] > 2 * shm_torn.TICK_ROWS


def test_torn_rows_are_found_when_readers_do_not_keep_the_rules() -> None:
    """The control: the check above would see a torn row."""
    code, counts = counted("--seconds", "3", "--readers", "4", "--careless")
    assert code == 1
    assert counts["torn"] > 0


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Collect processes that are killed when the test ends."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


Children = list[subprocess.Popen[bytes]]


def start(
    children: Children, folder: Path, *, die_after: int = 0, inside: str = "_write_some"
) -> subprocess.Popen[bytes]:
    """Start a writer that adopts what is there; with ``die_after`` it dies inside that bar."""
    code = WRITER.replace("DIE", DIE_IN_THE_ROW if die_after else "")
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(BENCHMARKS), str(folder), str(die_after), inside],
        stdout=subprocess.PIPE,
    )
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def look(bars: ShmArray, ring: TickRing) -> int:
    """Read everything; return how many rows were wrong."""
    rows = bars.read()
    seen = ring.cursor(newest=False).take(ring._capacity).rows
    return shm_torn.torn_bars(rows) + shm_torn.torn_ticks(seen)


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.full)])
def test_arrays_go_on_when_their_writer_is_killed_again_and_again(
    tmp_path: Path, children: Children, kills: int
) -> None:
    """At any moment: readers see whole rows or PeerLost; the next writer adopts and goes on."""
    chance = random.Random(3)
    child = start(children, tmp_path)
    bars = attach_token(token(tmp_path / "b.seg", 1))
    ring = attach_token(token(tmp_path / "t.seg", 2))
    assert isinstance(bars, ShmArray)
    assert isinstance(ring, TickRing)
    for number in range(1, kills + 1):
        until = time.monotonic() + chance.uniform(0.005, 0.1)
        while time.monotonic() < until:
            assert look(bars, ring) == 0
        before = ring.last_index
        child.send_signal(signal.SIGKILL)
        child.wait()
        with suppress(PeerLost):  # it died inside a bar: said so
            assert look(bars, ring) == 0
        assert ring.last_index >= before
        assert not bars._segment.writer_alive()
        child = start(children, tmp_path)
        assert bars.generation == ring.generation == number + 1
        assert look(bars, ring) == 0


@pytest.mark.parametrize("inside", ["_write_some", "revise_bar"])
@pytest.mark.parametrize("bar", [1, 2, 50])
def test_half_a_bar_is_made_good_when_its_writer_died_in_it(
    tmp_path: Path, children: Children, bar: int, inside: str
) -> None:
    """Killed between the two steps of the lock: never read, said so, and repaired."""
    first = start(children, tmp_path)
    time.sleep(0.05)
    first.kill()
    first.wait()
    dying = start(children, tmp_path, die_after=bar, inside=inside)
    assert dying.wait(timeout=30) == -signal.SIGKILL
    bars = attach_token(token(tmp_path / "b.seg", 1))
    assert isinstance(bars, ShmArray)
    assert bars._words[Word.SEQ] & 1
    with pytest.raises(PeerLost, match="died or froze in mid-row"):
        bars.read()
    start(children, tmp_path)
    assert len(bars) > 10
    for _ in range(100):  # while the new writer takes up the row that was given up
        assert shm_torn.torn_bars(bars.read()) == 0


@pytest.mark.parametrize("inside", ["_write_some", "revise_bar"])
def test_rows_stay_whole_when_one_writer_after_another_dies_in_its_first_bar(
    tmp_path: Path, children: Children, inside: str
) -> None:
    """A row given up by one death and half rewritten at the next is given up again."""
    assert start(children, tmp_path, die_after=50).wait(timeout=30) == -signal.SIGKILL
    for _ in range(3):
        dying = start(children, tmp_path, die_after=1, inside=inside)
        assert dying.wait(timeout=30) == -signal.SIGKILL
        rows = attach_token(token(tmp_path / "b.seg", 1))
        assert isinstance(rows, ShmArray)
        assert rows._words[Word.SEQ] & 1
    bars, adopted = ShmArray.open_writer(
        "lab", "x", period_s=1, rows=shm_torn.BAR_ROWS, path=tmp_path / "b.seg"
    )
    assert adopted
    assert len(bars) > 3
    assert shm_torn.torn_bars(bars.read()) == 0  # before a new writer could mend it by its first


def token(path: Path, kind: int) -> Token:
    """Return a token of a file whose writer is another process."""
    return Token(str(path), kind, 1)


def test_no_reader_holds_a_writer_up(tmp_path: Path, children: Children) -> None:
    """A reader that is stopped in the middle of a copy costs the writer nothing."""
    start(children, tmp_path)
    code = (
        "import sys; from pathlib import Path; from piker.data.shm import *\n"
        f"r = attach_token(Token({str(tmp_path / 'b.seg')!r}, 1, 1))\n"
        "print('ready', flush=True)\nwhile True: r.read()"
    )
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    children.append(reader)
    assert reader.stdout is not None
    reader.stdout.readline()
    os.kill(reader.pid, signal.SIGSTOP)
    ring = attach_token(token(tmp_path / "t.seg", 2))
    assert isinstance(ring, TickRing)
    before = ring.last_index
    deadline = time.monotonic() + 20
    while ring.last_index < before + 2 * shm_torn.TICK_ROWS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
