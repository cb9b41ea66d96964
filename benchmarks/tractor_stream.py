"""Numbers through a stream of plain tractor, one way: the peer of benchmarks/shm_wake.py.

Run by it, in a process of its own: piker's corrections of tractor must not be in it. Prints a JSON
list of delays in nanoseconds.
"""

from __future__ import annotations

import json
import socket
import sys
import time
import warnings
from collections.abc import AsyncIterator

import trio

warnings.simplefilter("ignore")
import tractor  # noqa: E402 - its imports warn


async def stamps(count: int, gap_s: float) -> AsyncIterator[int]:
    """Yield the time, again and again."""
    for _ in range(count):
        await trio.sleep(gap_s)
        yield time.monotonic_ns()


async def main(count: int, gap_s: float) -> None:
    """Start the other actor and take its numbers."""
    delays: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        registry = free.getsockname()  # not the default: somebody's pikerd may be there
    async with tractor.open_nursery(arbiter_addr=registry) as actors:
        portal = await actors.start_actor("stamps", enable_modules=[__name__])
        async with portal.open_stream_from(stamps, count=count, gap_s=gap_s) as stream:
            async for stamp in stream:
                delays.append(time.monotonic_ns() - stamp)
        print(json.dumps(delays), flush=True)
        await portal.cancel_actor()  # raises now and then: the other end may be gone first


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), float(sys.argv[2]))
