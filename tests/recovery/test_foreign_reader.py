"""A reader in C, written from docs/internals/shm.md, sees what ours sees and is woken like ours."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from piker.data._segment import State
from piker.data.sampling import Bar
from piker.data.shm import ShmArray, TickRing
from piker.data.wake import WakeSender
from piker.ticks import TICK_FORMAT

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).with_name("reader.c")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the reader."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine (Debian: apt-get install gcc)")
    out = tmp_path_factory.mktemp("c") / "reader"
    subprocess.run(
        [compiler, "-std=gnu11", "-O2", "-Wall", "-Werror", str(SOURCE), "-o", str(out)], check=True
    )
    return out


def tick(index: int) -> bytes:
    """Pack a tick told by its number."""
    return struct.pack(
        TICK_FORMAT, index, index * 7, index + 0.125, 2.5, 0.0, 0.0, index * 3, 0, 1, -1, 0
    )


def lines(reader: Path, path: Path) -> Iterator[list[str]]:
    """Run the reader on a segment; yield the words of its lines."""
    done = subprocess.run([reader, path], capture_output=True, text=True, check=True, timeout=30)
    return (line.split() for line in done.stdout.splitlines())


def test_bars_are_the_same_when_read_from_c(reader: Path, tmp_path: Path) -> None:
    """Header, bounds and every value, in an array that has wrapped."""
    path = tmp_path / "b.seg"
    array, _ = ShmArray.open_writer("lab", "xy.spot", period_s=60, rows=512, path=path)
    for n in range(1500):
        bar = Bar(n * 60, n + 0.1, n + 0.3, n - 0.7, n + 0.2, n / 3, -n - 1, n + 1 / 7)
        array.write_bars([bar], replaces_last=False)
    found = lines(reader, path)
    assert next(found) == ["xy.spot", "lab", "1", str(array.first_index), str(len(array))]
    kinds = array.array.dtype
    theirs = [
        tuple(kinds[i].type(word) for i, word in enumerate(map(float, words))) for words in found
    ]
    assert theirs == [tuple(row) for row in array.read()]


def test_ticks_are_the_same_when_read_from_c(reader: Path, tmp_path: Path) -> None:
    """The same for the ring."""
    path = tmp_path / "t.seg"
    ring, _ = TickRing.open_writer("lab", "xy.spot", rows=256, path=path)
    for n in range(1000):
        ring.extend_packed(tick(n))
    found = lines(reader, path)
    assert next(found) == ["xy.spot", "lab", "2", str(ring.first_index), str(len(ring))]
    for words, row in zip(found, ring.array, strict=True):
        names = ("index", "time_ns", "price", "size", "venue_id", "type", "side")
        assert [float(word) for word in words] == [float(row[name]) for name in names]


def test_c_reader_is_woken_and_misses_nothing_when_it_follows(reader: Path, tmp_path: Path) -> None:
    """mkfifo is all it takes: each published tick arrives, then the end."""
    ring, _ = TickRing.open_writer("lab", "xy.spot", rows=4096, path=tmp_path / "t.seg")
    sender = WakeSender(tmp_path)
    child = subprocess.Popen([reader, tmp_path / "t.seg", tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    sender.scan()
    for n in range(500):
        ring.extend_packed(tick(n))
        sender.notify()
        if n % 50 == 0:
            time.sleep(0.001)  # let it fall asleep now and then
    ring.set_state(State.CLOSED)
    sender.notify()
    out, _ = child.communicate(timeout=30)
    assert [line.split() for line in out.decode().splitlines()] == [
        [str(n), f"{n + 0.125:.17g}"] for n in range(500)
    ]
    assert not list(tmp_path.glob("*.fifo"))
    sender.close()
