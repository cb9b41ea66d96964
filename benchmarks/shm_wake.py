"""One way, from a tick written by one process to a trio task awake in another: ours and bare.

Ours: TickRing, WakeSender and WakeReceiver as datad and a client use them. Bare: eight bytes in an
anonymous shared map and an eventfd. Spinning: the same two without any wake-up. Prints one JSON
line: microseconds at p50 and p99, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from piker.data.shm import TickRing, attach_token
from piker.data.wake import WakeReceiver, WakeSender
from piker.ticks import TICK_FORMAT

GAP_S = 0.002  # between writes: the reader is asleep by then


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
        "p50_us": round(kept[len(kept) // 2] / 1000, 1),
        "p99_us": round(kept[len(kept) * 99 // 100] / 1000, 1),
    }


def ours(folder: Path, count: int, *, spin: bool) -> dict[str, float]:
    """Measure the ring and the fifo."""
    ring, _ = TickRing.open_writer("bench", "x", rows=4096, path=folder / f"{spin}.seg")
    reader = attach_token(ring.token)
    assert isinstance(reader, TickRing)
    receiver, sender = WakeReceiver(folder), WakeSender(folder)
    pack = struct.Struct(TICK_FORMAT).pack

    def write(number: int) -> None:
        stamp = time.monotonic_ns()
        ring.extend_packed(pack(number, stamp, 1.0, 1.0, 0.0, 0.0, 0, 0, 1, 0, 0))
        if not spin:
            sender.notify()

    cursor, delays = reader.cursor(), []

    def take() -> None:
        now = time.monotonic_ns()
        delays.extend(now - stamp for stamp in cursor.take().rows["time_ns"].tolist())

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
    return quantiles(delays)


def bare(count: int, *, spin: bool) -> dict[str, float]:
    """Measure eight shared bytes and an eventfd."""
    words = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    delays: list[int] = []

    def write(number: int) -> None:
        words[0] = time.monotonic_ns()
        words[1] = number + 1
        if not spin:
            os.eventfd_write(fd, 1)

    async def follow() -> None:
        while words[1] < count:
            await trio.lowlevel.wait_readable(fd)
            os.eventfd_read(fd)
            delays.append(time.monotonic_ns() - words[0])

    pid = fork_writer(write, count)
    if spin:
        seen = 0
        while seen < count:
            number = words[1]
            if number != seen:
                delays.append(time.monotonic_ns() - words[0])
                seen = number
    else:
        trio.run(follow)
    os.waitpid(pid, 0)
    os.close(fd)
    return quantiles(delays)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        result: dict[str, object] = {"benchmark": "shm_wake", "writes": asked.count}
        for kind, spin in (("waiting", False), ("spinning", True)):
            least, mine = bare(asked.count, spin=spin), ours(folder, asked.count, spin=spin)
            ratio = {at: round(mine[at] / least[at], 2) for at in mine}
            result[kind] = {"bare": least, "piker": mine, "ratio": ratio}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
