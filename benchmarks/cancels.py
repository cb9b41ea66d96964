"""How soon a thousand cancels at once go out while a market floods emsd, beside when it is quiet.

A pikerd, emsd, paperboi and datad of their own on the backend ``flood_backend``, which sends as
many ticks as it is told, as fast as datad takes them. One order waits in emsd for a price that
never comes, so that every tick is looked at. ``idle_us`` and ``flood_us``: from a client's send of
a cancel until it is told that the order is gone, of ``--cancels`` sent at once; ``of_idle`` are
their 99ths of a hundred, asked is under 3. ``ticks_seen`` is how many ticks came by while the
cancels were under way. Prints one JSON line.

    python benchmarks/cancels.py [--cancels 1000] [--ticks 200000]
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
from orders import CONF

from piker import config
from piker.clearing.client import OrderClient, open_ems
from piker.cli import demo
from piker.data import attach
from piker.orders import SyncState

FQME = "abc.flood_backend"
PAPER = "flood_backend.paper"
MORE = """
[brokers]
modules = ["flood_backend"]
"""


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the middle and the 99th of a hundred, in microseconds."""
    return {
        "p50": round(statistics.median(seconds) * 1e6),
        "p99": round(statistics.quantiles(seconds, n=100)[98] * 1e6),
    }


async def place(ems: OrderClient, count: int) -> list[str]:
    """Have so many orders stand."""
    oids: list[str] = []

    async def one(number: int) -> None:
        price = Decimal(50) + Decimal(number) / 100
        status = await ems.send(ems.order(FQME, "buy", 1, price=price))
        status = await ems.until(status.oid, ("open", "denied", "rejected"))
        assert status.resp == "open", status
        oids.append(status.oid)

    for first in range(0, count, 50):
        async with trio.open_nursery() as nursery:
            for number in range(first, min(count, first + 50)):
                nursery.start_soon(one, number)
    return oids


async def cancel(ems: OrderClient, oids: list[str]) -> list[float]:
    """Cancel all of them at once; return how long each took."""
    took: list[float] = []

    async def one(oid: str) -> None:
        begun = time.perf_counter()
        await ems.cancel(oid)
        await ems.ended(oid)
        took.append(time.perf_counter() - begun)

    async with trio.open_nursery() as nursery:
        for oid in oids:
            nursery.start_soon(one, oid)
    return took


async def measure(cancels: int, ticks: int, folder: Path) -> dict[str, object]:
    """Run both."""
    for variable, name in config.DIRECTORY_VARS.items():
        (folder / name).mkdir(mode=0o700)
        os.environ[variable] = str(folder / name)
    os.environ["PIKER_FLOOD"] = str(folder / "flood")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    conf = CONF.replace("[risk]", '[risk]\nprice_collar = 0.9\nrates = { "" = 1 }')
    (folder / "config" / "conf.toml").write_text(conf + MORE)
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.keep_pikerd)
        async with open_ems(FQME, mode="paper", name="bench") as ems:
            while ems.accounts[PAPER].sync is not SyncState.SYNCED:
                await ems.changed()
            never = await ems.send(ems.order(FQME, "sell", 1, trigger=1))
            assert never.resp == "dark_open", never
            await cancel(ems, await place(ems, 50))  # whatever is done once is done
            idle = await cancel(ems, await place(ems, cancels))
            oids = await place(ems, cancels)
            ring = attach(FQME).ticks
            before = ring.cursor().position
            draft = folder / "draft"
            draft.write_text(str(ticks))
            draft.rename(folder / "flood")
            while ring.cursor().position - before < 1000:
                await trio.sleep(0.001)
            flood = await cancel(ems, oids)
            seen = ring.cursor().position - before
        nursery.cancel_scope.cancel()
    told, under = spread(idle), spread(flood)
    return {
        "benchmark": "cancels", "cancels": cancels, "ticks": ticks, "ticks_seen": seen,
        "idle_us": told, "flood_us": under, "of_idle": round(under["p99"] / told["p99"], 2),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--cancels", type=int, default=1000)
    parser.add_argument("--ticks", type=int, default=200_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(trio.run(measure, given.cancels, given.ticks, Path(folder))))


if __name__ == "__main__":
    main()
