"""History and live bars are one: filled backwards, and right again after every outage."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from conftest import Pikerd

from piker.brokers.spec import load_backend
from piker.clock import wall_ns
from piker.data.feed import Feed, Flume, open_feed
from piker.data.history.manager import HistoryManager
from piker.data.shm import ShmArray
from piker.testing.loopback import open_loopback, point_backend_at
from piker.ticks import Backfill

pytestmark = pytest.mark.slow

FQME = "btcusdt.spot.binance"
CONF = (
    "[network]\nreconnect_cap_s = 1.0\n[history]\nbackfill_1s_days = 0.05\nbackfill_1m_days = 5\n"
)
FIELDS = ("open", "high", "low", "close", "volume", "count")


async def filled(flume: Flume, seconds: int, minutes: int) -> None:
    """Wait until both arrays reach back so far."""
    with trio.fail_after(60):
        while len(flume.bars_1s) < seconds or len(flume.bars_1m) < minutes:
            await trio.sleep(0.2)


def differences(array: ShmArray, expected: Any) -> list[str]:
    """Compare the closed rows of an array with the venue's bars; return what differs."""
    rows = array.read()
    rows = rows[(rows["time"] >= expected["time"][0]) & (rows["time"] <= expected["time"][-1])]
    found = []
    if rows["time"].tolist() != expected["time"].tolist():
        found.append(f"{len(rows)} rows, not {len(expected)}")
        return found
    for name in FIELDS:
        wrong = ~np.isclose(rows[name], expected[name], rtol=1e-9, atol=1e-9)
        found += [
            f"{name} of {int(rows['time'][at])}: {rows[name][at]} not {expected[name][at]}"
            for at in np.flatnonzero(wrong)[:3]
        ]
    return found


async def read_on(feed: Feed, events: list[object]) -> None:
    """Read a feed, and keep what it says of the past."""
    async for item in feed:
        if isinstance(item, Backfill):
            events.append(item)


async def test_arrays_reach_back_as_far_as_asked_when_a_market_is_opened(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """No gap and no row twice from five days ago up to now; readers are told what came."""
    (piker_dirs / "config" / "conf.toml").write_text(CONF)
    async with open_loopback("binance", symbols=2, rate=50, limits=False) as (_, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        async with open_feed([FQME], backfills=True) as feed, trio.open_nursery() as nursery:
            events: list[Backfill] = []
            nursery.start_soon(read_on, feed, events)
            flume = feed.flumes[FQME]
            await filled(flume, 4320, 7200)
            for array in (flume.bars_1s, flume.bars_1m):
                assert (np.diff(array.read()["time"]) == array.period_s).all()
            manager = HistoryManager(load_backend("binance"))
            for interval, array in (("1s", flume.bars_1s), ("1m", flume.bars_1m)):
                start, stop = int(array.read()["time"][0]), wall_ns() // 10**9 - 120
                history = await manager.get("btcusdt.spot", interval, start, stop)
                assert history.report.complete
                assert differences(array, history.rows()) == []
            with trio.fail_after(10):
                while sum(one.rows for one in events if one.period_s == 60) < 5000:
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
            manager.store.close()


@pytest.mark.parametrize("cuts", [12, pytest.param(1000, marks=pytest.mark.full)])
async def test_arrays_and_store_equal_the_venue_when_it_cut_us_again_and_again(
    pikerd: Pikerd, piker_dirs: Path, cuts: int
) -> None:
    """Cut at random moments for up to three seconds: every bar is the venue's own in the end."""
    (piker_dirs / "config" / "conf.toml").write_text(CONF)
    chance = random.Random(7)
    async with open_loopback("binance", symbols=2, rate=200, limits=False) as (venue, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        async with open_feed([FQME]) as feed, trio.open_nursery() as nursery:
            nursery.start_soon(read_on, feed, [])
            flume = feed.flumes[FQME]
            begun = wall_ns() // 10**9
            for _ in range(cuts):
                await trio.sleep(chance.uniform(0, 1.5))
                venue.cut(refuse_s=chance.choice((0.0, 0.0, 0.2, 1.0, 3.0)))
            await trio.sleep(3)
            until = wall_ns() // 10**9
            manager = HistoryManager(load_backend("binance"))
            left: list[str] = ["not looked at"]
            with trio.move_on_after(150):  # bars are settled a minute after their end
                while left:
                    await trio.sleep(3)
                    left = []
                    for interval, array in (("1s", flume.bars_1s), ("1m", flume.bars_1m)):
                        start, stop = begun - begun % 60, until - until % array.period_s
                        if stop <= start:
                            continue
                        history = await manager.get(
                            "btcusdt.spot", interval, start, stop, sources=("rest",),
                            use_store=False,
                        )  # fmt: skip
                        left += differences(array, history.rows())
            assert left == []
            stored = await manager.get("btcusdt.spot", "1s", begun, until)
            truth = await manager.get(
                "btcusdt.spot", "1s", begun, until, sources=("rest",), use_store=False
            )
            assert stored.rows().tobytes() == truth.rows().tobytes()
            nursery.cancel_scope.cancel()
            manager.store.close()
