"""Hold a load: many markets from a loopback venue into one datad, three clients attached.

Each client is a process of its own that follows every market and counts ticks and misses. Prints
one JSON line: ticks a second, ticks missed, resyncs, CPU of each process (cores), private memory
of datad ten times on the way (MB). ``--seconds 600`` is the promised run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter

import trio

from piker import service
from piker.cli import demo
from piker.data.feed import open_feed
from piker.ticks import Resync

WARM_S = 5.0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return the private resident memory of a process: shared segments are not its own."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1000


async def client(names: list[str], seconds: float, throttle: float) -> None:
    """Follow every market; print what was seen. Runs in a process of its own."""
    ticks = missed = 0
    resyncs: Counter[str] = Counter()
    async with open_feed(names, tick_throttle=throttle, start_pikerd=False) as feed:
        with trio.move_on_after(seconds):
            async for item in feed:
                if isinstance(item, dict):
                    ticks += sum(len(quote.ticks) for quote in item.values())
                elif isinstance(item, Resync):
                    resyncs[item.reason] += 1
                    missed += max(0, item.missed)
    print(json.dumps({"ticks": ticks, "missed": missed, "resyncs": resyncs}))


async def measure(asked: argparse.Namespace) -> dict[str, object]:
    """Run venue, pikerd and clients; return the figures."""
    names = market_names(asked.symbols)
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.keep_venue, asked.symbols, 1, asked.rate)
        await nursery.start(demo.keep_pikerd)
        result = await run_clients(asked, names)
        nursery.cancel_scope.cancel()
    return result


async def run_clients(asked: argparse.Namespace, names: list[str]) -> dict[str, object]:
    """Open every market, let three clients follow it, and watch the processes."""
    async with open_feed(names, tick_throttle=1, start_pikerd=False) as feed:
        (info,) = await service.list_services()
        await trio.sleep(WARM_S)
        before = await feed.stats()
        command = [
            sys.executable, __file__, "--client", "--seconds", str(asked.seconds),
            "--symbols", str(asked.symbols), "--throttle", str(asked.throttle),
        ]  # fmt: skip
        clients = [start(command) for _ in range(3)]
        venue = next(iter(children("piker.cli venue")))
        cpu, began = (cpu_s(info.pid), cpu_s(venue)), time.perf_counter()
        memory = [rss_mb(info.pid)]
        while (left := asked.seconds - 1 - (time.perf_counter() - began)) > 0:
            await trio.sleep(min(left, max(1.0, asked.seconds / 10)))
            memory.append(rss_mb(info.pid))
        span = time.perf_counter() - began
        used = (cpu_s(info.pid) - cpu[0], cpu_s(venue) - cpu[1])
        client_cpu = [round(cpu_s(one.pid) / span, 2) for one in clients]
        after = await feed.stats()
        said = [json.loads(one.communicate()[0]) for one in clients]
    return {
        "benchmark": "load", "symbols": asked.symbols, "seconds": round(span),
        "ticks_per_s": round((after.ticks - before.ticks) / span),
        "missed": sum(one["missed"] for one in said), "resyncs": [one["resyncs"] for one in said],
        "data_quality": after.data_quality, "reconnects": after.reconnects,
        "datad_cpu": round(used[0] / span, 2), "venue_cpu": round(used[1] / span, 2),
        "client_cpu": client_cpu, "datad_private_mb": [round(one, 1) for one in memory],
    }  # fmt: skip


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a client process."""
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def children(mark: str) -> list[int]:
    """Return the pids of our own child processes whose command line holds ``mark``."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    line = file.read().replace(b"\0", b" ").decode()
                with open(f"/proc/{entry}/stat", encoding="ascii") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if mark in line and parent == os.getpid():
                found.append(int(entry))
    return found


def market_names(count: int) -> list[str]:
    """Return the spot addresses of a loopback venue's first markets."""
    known = [*demo.SYMBOLS, *(f"c{number:03d}usdt" for number in range(len(demo.SYMBOLS), count))]
    return [f"{name}.spot.binance" for name in known[:count]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--symbols", type=int, default=200)
    parser.add_argument(
        "--rate", type=float, default=50.0, help="steps of flow a second and market"
    )
    parser.add_argument("--throttle", type=float, default=10.0, help="of each client, Hz")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client:
        trio.run(client, market_names(asked.symbols), asked.seconds, asked.throttle)
        return
    with demo.own_directories():
        print(json.dumps(trio.run(measure, asked)))


if __name__ == "__main__":
    main()
