"""One way, from a tick written by one process to a trio task awake in another: ours and bare.

Ours: TickRing, WakeSender and WakeReceiver as datad and a client use them. Bare: a ring of the same
rows in an anonymous shared map and an eventfd, with nothing that a daemon needs besides. Spinning:
the same two without any wake-up, and one shared word, which is what the cores themselves take.
tractor: numbers sent through a stream of tractor's own, as a stack without shared memory would.
They take turns, round by round, so that a change of the machine's load meets all of them. Prints
one JSON line: microseconds at p50 and p99 (medians of the rounds), and the ratios.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import trio

from piker.data.shm import TickRing, attach_token
from piker.data.wake import WakeReceiver, WakeSender
from piker.ticks import TICK_FORMAT

GAP_S = 0.002  # between writes: the reader is asleep by then
ROWS = 4096  # of either ring
ROUNDS = 5


def fork_writer(write: Callable[[int], None], count: int) -> int:
    """Write ``count`` stamps in a process of its own; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    for number in range(count):
        time.sleep(GAP_S)
        write(number)
    os._exit(0)


def quantiles(delays_ns: list[int]) -> dict[str, float]:
    """Return p50 and p99 in microseconds, the first tenth left out as warm-up."""
    kept = sorted(delays_ns[len(delays_ns) // 10 :])
    return {
        "p50_us": kept[len(kept) // 2] / 1000,
        "p99_us": kept[len(kept) * 99 // 100] / 1000,
    }


def ours(folder: Path, count: int, *, spin: bool) -> dict[str, float]:
    """Measure the ring and the fifo."""
    ring, _ = TickRing.open_writer("bench", "x", rows=ROWS, path=folder / "ring.seg")
    reader = attach_token(ring.token)
    assert isinstance(reader, TickRing)
    receiver, sender = WakeReceiver(folder), WakeSender(folder)
    row = struct.Struct(TICK_FORMAT)
    pack, unpack = row.pack, row.iter_unpack

    def write(number: int) -> None:
        stamp = time.monotonic_ns()
        ring.extend_packed(pack(number, stamp, 1.0, 1.0, 0.0, 0.0, 0, 0, 1, 0, 0))
        if not spin:
            sender.notify()

    cursor, delays = reader.cursor(), []

    def take() -> None:
        packed, _ = cursor.take_packed()
        now = time.monotonic_ns()
        delays.extend(now - row[1] for row in unpack(packed))

    async def follow() -> None:
        while len(delays) < count:
            await receiver.wait()
            take()

    pid = fork_writer(write, count)
    if spin:
        pending = cursor.pending
        while len(delays) < count:
            if pending():
                take()
    else:
        trio.run(follow)
    os.waitpid(pid, 0)
    receiver.close()
    sender.close()
    ring.close(unlink=True)
    return quantiles(delays)


def bare(count: int, *, spin: bool) -> dict[str, float]:
    """Measure a bare ring of the same rows and an eventfd: no lock, no header, one reader."""
    shared = memoryview(mmap.mmap(-1, 4096 + ROWS * 64))
    words, rows = shared[:4096].cast("Q"), shared[4096:]
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    delays: list[int] = []
    row = struct.Struct(TICK_FORMAT)
    pack_into, unpack_from = row.pack_into, row.unpack_from

    def write(number: int) -> None:
        stamp = time.monotonic_ns()
        pack_into(rows, number % ROWS * 64, number, stamp, 1.0, 1.0, 0.0, 0.0, 0, 0, 1, 0, 0)
        words[0] = number + 1
        if not spin:
            os.eventfd_write(fd, 1)

    def take(seen: int) -> int:
        number = words[0]
        now = time.monotonic_ns()
        for index in range(seen, number):
            delays.append(now - unpack_from(rows, index % ROWS * 64)[1])
        return number

    async def follow() -> None:
        seen = 0
        while seen < count:
            await trio.lowlevel.wait_readable(fd)
            os.eventfd_read(fd)
            seen = take(seen)

    pid = fork_writer(write, count)
    if spin:
        seen = 0
        while seen < count:
            if words[0] != seen:
                seen = take(seen)
    else:
        trio.run(follow)
    os.waitpid(pid, 0)
    os.close(fd)
    return quantiles(delays)


def bare_word(count: int) -> dict[str, float]:
    """Measure one shared word, spun upon: what the cores themselves take."""
    words = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    delays: list[int] = []

    def write(number: int) -> None:
        words[0] = time.monotonic_ns()
        words[1] = number + 1

    pid = fork_writer(write, count)
    seen = 0
    while seen < count:
        number = words[1]
        if number != seen:
            delays.append(time.monotonic_ns() - words[0])
            seen = number
    os.waitpid(pid, 0)
    return quantiles(delays)


def by_tractor(count: int) -> dict[str, float]:
    """Measure tractor's own stream, in processes that know nothing of piker."""
    script = Path(__file__).with_name("tractor_stream.py")
    command = [sys.executable, str(script), str(count), str(GAP_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if not done.stdout:
        sys.exit(done.stderr)
    return quantiles(json.loads(done.stdout.splitlines()[0]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="writes a round")
    asked = parser.parse_args()
    taken: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder, count = Path(name), asked.count
        for _ in range(ROUNDS):
            for kind, work in (
                ("bare", lambda: bare(count, spin=False)),
                ("piker", lambda: ours(folder, count, spin=False)),
                ("spinning_bare", lambda: bare(count, spin=True)),
                ("spinning_word", lambda: bare_word(count)),
                ("spinning_piker", lambda: ours(folder, count, spin=True)),
            ):
                taken.setdefault(kind, []).append(work())
    taken["tractor"] = [by_tractor(asked.count * 2)]
    found = {
        kind: {at: round(median(one[at] for one in rounds), 1) for at in ("p50_us", "p99_us")}
        for kind, rounds in taken.items()
    }

    def ratio(a: str, b: str) -> dict[str, float]:
        return {at: round(found[a][at] / found[b][at], 2) for at in found[a]}

    print(json.dumps({
        "benchmark": "shm_wake", "writes": asked.count * ROUNDS, **found,
        "piker_to_bare": ratio("piker", "bare"),
        "spinning_piker_to_bare": ratio("spinning_piker", "spinning_bare"),
        "spinning_piker_to_word": ratio("spinning_piker", "spinning_word"),
        "tractor_to_piker": ratio("tractor", "piker"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
