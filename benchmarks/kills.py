"""Kill datad and pikerd in turn, a hundred times, while a client reads; count what it saw.

pikerd restarts datad; pikerd itself is started again as its systemd unit would. For every kill: the
seconds until the client was told (an Outage in its stream) and until quotes flowed again (after a
Resync), rows of the bars that were torn or out of step, reads of an array that called itself live
more than a second after its writer had died and before it had another, and processes that outlived
their pikerd. Prints one
JSON line; exits 1 when anything of that is against the promise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from statistics import median

import numpy as np
import trio

from piker import service
from piker.cli import demo
from piker.data.feed import Feed, open_feed
from piker.errors import PeerLost
from piker.ticks import Outage, Resync

FQMES = ["btcusdt.spot.binance", "ethusdt.spot.binance"]
TOLD_S, LIVE_S, FRESH_S = 1.0, 5.0, 1.1  # the promise; how long an array may not know it
LOOK_S = 0.02
PATIENCE_S = 60.0


class Tally:
    """What is counted over all kills."""

    def __init__(self) -> None:
        self.told_s: list[float] = []
        self.live_s: list[float] = []
        self.reads = self.rows = self.torn = self.stale = self.orphans = 0


async def read_on(feed: Feed, tally: Tally, killed: list[float]) -> None:
    """Read the arrays again and again; ``killed`` holds when the writer died, while it is dead."""
    writer: dict[str, int] = {}
    while True:
        await trio.sleep(LOOK_S)
        for flume in feed.flumes.values():
            try:
                rows = flume.bars_1s.read()
            except PeerLost:
                continue  # it died in mid-row, and said so
            tally.reads += 1
            tally.rows += len(rows)
            good = (rows["low"] <= rows["open"]) & (rows["high"] >= rows["close"])
            good &= rows["low"] > 0
            tally.torn += int((~good).sum()) + int((np.diff(rows["time"]) != 1).sum())
            if not killed:
                writer[flume.fqme] = flume.bars_1s.generation
            elif flume.bars_1s.generation == writer[flume.fqme] and flume.state == "live":
                tally.stale += time.monotonic() - killed[0] > FRESH_S


async def one_kill(feed: Feed, pid: int, tally: Tally, killed: list[float]) -> None:
    """Kill a process; wait until every market's quotes flow again."""
    began = time.monotonic()
    killed.append(began)
    os.kill(pid, signal.SIGKILL)
    told = back = 0.0
    seen: set[str] = set()
    with trio.fail_after(PATIENCE_S):
        while len(seen) < len(FQMES):
            item = await feed.receive()
            now = time.monotonic() - began
            if isinstance(item, Outage):
                told = told or now
            elif isinstance(item, Resync):
                back = now
                killed.clear()  # the arrays have a writer again
            elif back:
                seen |= item.keys()
    tally.told_s.append(told or PATIENCE_S)
    tally.live_s.append(time.monotonic() - began)


async def measure(kills: int, pause_s: float) -> Tally:
    """Run everything; return the counts."""
    tally, killed = Tally(), []
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.keep_venue, 2, 1, 50.0)
        await nursery.start(demo.keep_pikerd)
        async with open_feed(FQMES, start_pikerd=False) as feed:
            nursery.start_soon(read_on, feed, tally, killed)
            for number in range(kills):
                await trio.sleep(pause_s)
                (info,) = await service.list_services()
                pikerd = service.read_pikerd()
                assert pikerd is not None
                await one_kill(feed, pikerd.pid if number % 2 else info.pid, tally, killed)
                tally.orphans += service.is_alive(info.pid)
                if sys.stderr.isatty():
                    print(f"\r{number + 1}/{kills}", end="", file=sys.stderr)
            nursery.cancel_scope.cancel()
    return tally


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two kills")
    asked = parser.parse_args()
    with demo.own_directories():
        tally = trio.run(measure, asked.kills, asked.pause)
    late = sum(one > TOLD_S for one in tally.told_s) + sum(one > LIVE_S for one in tally.live_s)
    print(json.dumps({
        "benchmark": "kills", "kills": len(tally.told_s),
        "told_s": {"p50": round(median(tally.told_s), 3), "max": round(max(tally.told_s), 3)},
        "live_s": {"p50": round(median(tally.live_s), 3), "max": round(max(tally.live_s), 3)},
        "late": late, "reads": tally.reads, "rows": tally.rows, "torn": tally.torn,
        "stale": tally.stale, "orphans": tally.orphans,
    }))  # fmt: skip
    sys.exit(bool(late or tally.torn or tally.stale or tally.orphans))


if __name__ == "__main__":
    main()
