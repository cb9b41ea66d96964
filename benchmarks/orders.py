"""What an order costs from a client to the paper venue and back, beside what it is made of.

A pikerd, emsd, paperboi and datad of their own, a synthetic venue, no latency of paper. In turns:
``ack_us``, from a client's send until it is told that the paper venue has the order (four hops
between processes, and a commit of the journal before the order leaves); ``journaled_us``, until it
is told that the order is in the journal; ``sync_us``, a bare append of as many bytes to a file of
the journal's disk and its fdatasync; ``ipc_us``, a bare request and answer of tractor's between the
same two processes. ``of_parts`` is ack over sync + ipc, asked is 2 at most. Prints one JSON line.

    python benchmarks/orders.py [--orders 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import trio

from piker import config, service
from piker.clearing.client import OrderClient, open_ems
from piker.cli import demo
from piker.data.feed import open_feed
from piker.orders import SyncState
from piker.service.endpoints import ping
from piker.testing.loopback import open_loopback, point_backend_at

FQME = "btcusdt.spot.binance"
PAPER = "binance.paper"
TURN = 20  # orders of a turn, then as many of each part: the machine's other work hits all alike
ROW_BYTES = 700  # an intent and its submit, as the journal's log has them
CONF = """
[paper]
latency_ms = 0
[risk]
messages = 1000000
open_orders = 1000000
gross_exposure = 1e12
duplicate_s = 0
[history]
backfill_1s_days = 0
backfill_1m_days = 0
"""


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the middle and the 99th of a hundred, in microseconds."""
    return {
        "p50": round(statistics.median(seconds) * 1e6),
        "p99": round(statistics.quantiles(seconds, n=100)[98] * 1e6),
    }


class Bench:
    """One run's samples."""

    def __init__(self) -> None:
        self.ack: list[float] = []
        self.journaled: list[float] = []
        self.sync: list[float] = []
        self.ipc: list[float] = []

    async def orders(self, ems: OrderClient, price: Decimal) -> None:
        """Place some orders one after the other, far from the market; then take them back."""
        oids = []
        for number in range(TURN):
            order = ems.order(FQME, "buy", "0.001", price=price - number)
            begun = time.perf_counter()
            await ems.send(order)
            journaled = time.perf_counter()
            status = await ems.until(order.oid, ("open", "denied", "rejected"))
            self.ack.append(time.perf_counter() - begun)
            self.journaled.append(journaled - begun)
            assert status.resp == "open", status
            oids.append(order.oid)
        for oid in oids:
            await ems.cancel(oid)
            await ems.ended(oid)

    async def bare_ipc(self) -> None:
        """Ask emsd for nothing."""
        async with service.open_service("emsd") as emsd:
            for _ in range(TURN):
                begun = time.perf_counter()
                await emsd.run(ping)
                self.ipc.append(time.perf_counter() - begun)

    def bare_sync(self, fd: int) -> None:
        """Append and sync what a commit does."""
        for _ in range(TURN):
            begun = time.perf_counter()
            os.write(fd, bytes(ROW_BYTES))
            os.fdatasync(fd)
            self.sync.append(time.perf_counter() - begun)


async def measure(orders: int, folder: Path) -> dict[str, object]:
    """Run it against a venue of its own."""
    for variable, name in config.DIRECTORY_VARS.items():
        (folder / name).mkdir(mode=0o700)
        os.environ[variable] = str(folder / name)
    (folder / "config" / "conf.toml").write_text(CONF)
    bench = Bench()
    async with open_loopback("binance", symbols=1, rate=1, limits=False) as (_, port):
        point_backend_at("binance", port)
        async with trio.open_nursery() as nursery:
            await nursery.start(demo.keep_pikerd)
            async with open_ems(FQME, mode="paper", name="bench") as ems:
                while ems.accounts[PAPER].sync is not SyncState.SYNCED:
                    await ems.changed()
                async with open_feed([FQME]) as feed:
                    bid = feed.flumes[FQME].first_quote.bid
                assert bid is not None
                price = Decimal(int(bid * 0.99))
                await bench.orders(ems, price)  # whatever is done once is done
                bench.ack.clear()
                bench.journaled.clear()
                fd = os.open(folder / "data" / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                while len(bench.ack) < orders:
                    await bench.orders(ems, price)
                    await bench.bare_ipc()
                    bench.bare_sync(fd)
                os.close(fd)
            nursery.cancel_scope.cancel()
    parts = statistics.median(bench.sync) + statistics.median(bench.ipc)
    return {
        "benchmark": "orders", "orders": len(bench.ack), "ack_us": spread(bench.ack),
        "journaled_us": spread(bench.journaled), "sync_us": spread(bench.sync),
        "ipc_us": spread(bench.ipc), "of_parts": round(statistics.median(bench.ack) / parts, 2),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--orders", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(trio.run(measure, given.orders, Path(folder))))


if __name__ == "__main__":
    main()
