"""A venue that goes away, again and again, for long, or talks nonsense: the same feed goes on.

The whole way: a loopback venue, a pikerd with its datad, a client of the feed. What an hour of
virtual time and a thousand losses do to a connection alone is tests/unit/test_ws_outages.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import trio
from daemons import Pikerd

from piker import service
from piker.data.feed import Feed, open_feed
from piker.testing.faults import Fault
from piker.testing.loopback import Venue, open_loopback, point_backend_at
from piker.ticks import Backfill, Outage, Resync

pytestmark = pytest.mark.slow
FQMES = ["btcusdt.spot.binance", "ethusdt.usdtm.perp.binance"]
SOON_S = 30
# History that is filled backwards meanwhile would cost memory and requests of its own.
CONF = "[network]\nreconnect_cap_s = 1.0\n[history]\nbackfill_1s_days = 0\nbackfill_1m_days = 0\n"


class Watch:
    """Follows a feed and what it costs the processes under it."""

    def __init__(self, feed: Feed, venue: Venue, fqmes: list[str]) -> None:
        self.feed = feed
        self.venue = venue
        self.fqmes = fqmes
        self.told: Counter[str] = Counter()

    async def live_again(self, within_s: float = SOON_S) -> None:
        """Read until every market had an Outage, then a Resync, then a quote."""
        stage = dict.fromkeys(self.fqmes, 0)
        with trio.fail_after(within_s):
            while set(stage.values()) != {3}:
                item = await self.feed.receive()
                if isinstance(item, dict):
                    for fqme in item:
                        stage[fqme] = 3 if stage[fqme] >= 2 else stage[fqme]
                    continue
                if isinstance(item, Backfill):
                    continue
                if isinstance(item, Resync) and item.reason == "sequence-gap":
                    continue  # trades of the outage, which are fetched now
                for fqme in [item.symbol] if item.symbol else self.fqmes:
                    self.told[f"{type(item).__name__} {fqme}"] += 1
                    if isinstance(item, Outage):
                        stage[fqme] = max(stage[fqme], 1)
                    elif stage[fqme] >= 1:
                        stage[fqme] = max(stage[fqme], 2)

    async def flows(self, quotes: int = 3) -> None:
        """Read until every market has had so many quotes."""
        seen: Counter[str] = Counter()
        with trio.fail_after(SOON_S):
            while min(seen[fqme] for fqme in self.fqmes) < quotes:
                item = await self.feed.receive()
                if isinstance(item, dict):
                    seen.update(item.keys())


async def datad_pid() -> int:
    """Return datad's pid, once it has loaded all that it will ever load."""
    (info,) = await service.list_services()
    with trio.fail_after(SOON_S):
        while "libarrow" not in Path(f"/proc/{info.pid}/maps").read_text():
            await trio.sleep(0.05)
    return info.pid


async def store_opened(pid: int) -> None:
    """Wait until datad has the store open: it fills what an outage left out."""
    with trio.fail_after(SOON_S):
        while not any(one.name == "manifest.db" for one in open_files(pid)):
            await trio.sleep(0.05)


def open_files(pid: int) -> list[Path]:
    """Return what the process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.append(Path(os.readlink(link)))
    return found


def cost_of(pid: int) -> tuple[int, int]:
    """Return (open files, resident kilobytes of its own: segments are everybody's)."""
    files = len(open_files(pid))
    status = Path(f"/proc/{pid}/status").read_text()
    (anonymous,) = (line.split()[1] for line in status.splitlines() if "RssAnon" in line)
    return files, int(anonymous)


@asynccontextmanager
async def watching(pikerd: Pikerd, dirs: Path, fqmes: list[str] = FQMES) -> AsyncIterator[Watch]:
    """Run a venue, and a feed of it."""
    (dirs / "config" / "conf.toml").write_text(CONF)
    async with open_loopback("binance", symbols=2, rate=100, limits=False) as (venue, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        async with open_feed(fqmes) as feed:
            watch = Watch(feed, venue, fqmes)
            await watch.flows()
            yield watch


def refusing(seconds: float, on: tuple[Literal["ws", "http"], ...] = ("ws", "http")) -> list[Fault]:
    """Return the faults of a venue that takes no connection."""
    return [Fault(what="refuse", on=one, for_s=seconds) for one in on]


def wrong_bars(feed: Feed) -> list[str]:
    """Return what is wrong: a period without its bar, or a bar that no market could have had."""
    found = []
    for flume in feed.flumes.values():
        for bars in (flume.bars_1s, flume.bars_1m):
            rows = bars.read()
            name = f"{bars.symbol} {bars.period_s} s"
            steps = np.diff(rows["time"])
            found += [f"{name}: a step of {step} s" for step in steps[steps != bars.period_s]]
            good = (rows["low"] > 0) & (rows["high"] < 1e6)
            for price in ("open", "close"):
                good &= (rows["low"] <= rows[price]) & (rows[price] <= rows["high"])
            found += [f"{name}: {row}" for row in rows[~good]]
    return found


@pytest.mark.parametrize(
    ("count", "fqmes"), [(8, FQMES), pytest.param(1000, FQMES[:1], marks=pytest.mark.full)]
)
async def test_feed_goes_on_when_the_venue_cuts_it_again_and_again(
    pikerd: Pikerd, piker_dirs: Path, count: int, fqmes: list[str]
) -> None:
    """Every time told, every market subscribed again, nothing kept of the lost connections.

    The thousand take their time: Binance allows 300 connections in 5 minutes, and so do we.
    """
    async with watching(pikerd, piker_dirs, fqmes) as watch:
        pid = await datad_pid()
        costs = []
        for _ in range(count):
            watch.venue.cut()
            await watch.live_again(within_s=330)
            costs.append(cost_of(pid))
        assert await datad_pid() == pid
        for fqme in fqmes:
            assert watch.told[f"Outage {fqme}"] == watch.told[f"Resync {fqme}"] == count
        warm = costs[min(5, count - 1) : min(50, count)]
        files, private = costs[-1]
        assert files <= max(cost[0] for cost in warm)
        assert private <= max(cost[1] for cost in warm) * 1.1
        assert wrong_bars(watch.feed) == []
        assert (await watch.feed.stats()).data_quality == {}


@pytest.mark.parametrize("seconds", [6.0, pytest.param(3600.0, marks=pytest.mark.full)])
async def test_feed_is_back_when_the_venue_was_gone_for_long(
    pikerd: Pikerd, piker_dirs: Path, seconds: float
) -> None:
    """No connection, REST or websocket, for the whole time: then the same feed, by itself."""
    async with watching(pikerd, piker_dirs) as watch:
        pid = await datad_pid()
        watch.venue.gate.add_faults(refusing(2.0, on=("ws",)))
        await watch.live_again()
        await store_opened(pid)  # what only an outage opens and loads is there now
        before = cost_of(pid)
        tried = watch.venue.gate.counters.accepted
        watch.venue.gate.add_faults(refusing(seconds))
        await watch.live_again(seconds + SOON_S)
        tried = watch.venue.gate.counters.accepted - tried
        assert await datad_pid() == pid
        # Two connections (spot, USD-M), each waits half a second or more between two attempts.
        assert seconds / 4 < tried <= 2 * (seconds + SOON_S) / 0.5
        await watch.flows(20)
        files, private = cost_of(pid)
        assert files <= before[0] + 2  # one REST connection each may be open just now
        assert private <= before[1] * 1.1 + 4_096
        assert wrong_bars(watch.feed) == []


async def test_no_bar_is_wrong_when_the_venue_talks_nonsense(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Every third frame is broken, in its text, its numbers, its header: counted, never shown."""
    async with watching(pikerd, piker_dirs) as watch:
        pid = await datad_pid()
        watch.venue.gate.add_faults(
            [
                Fault(what="garble", part="json", every=3, for_s=2.0),
                Fault(what="garble", part="number", every=4, for_s=2.0),
                Fault(what="garble", part="header", every=50, for_s=2.0),
            ]
        )
        await watch.live_again()  # a broken header costs the connection
        await trio.sleep(2.0)
        await watch.flows(20)
        assert await datad_pid() == pid
        quality = (await watch.feed.stats()).data_quality
        assert quality["malformed"] > 0
        assert wrong_bars(watch.feed) == []
        for flume in watch.feed.flumes.values():
            ticks = flume.ticks.array
            assert np.isfinite(ticks["price"]).all()
            assert (ticks["size"] >= 0).all()
            top = ticks[ticks["type"] == 3]
            assert (top["price"] < top["price2"]).all()
            known = flume.bars_1s.read()
            assert np.ptp(known["close"]) < 0.2 * known["close"].mean()


async def test_resync_is_told_once_for_each_market_when_one_connection_is_lost(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """The other market's connection is another one: it hears nothing of it."""
    async with watching(pikerd, piker_dirs) as watch:
        clients = [c for c in watch.venue.gate.clients if "/public/" not in c.request.target]
        spot = [c for c in clients if "/market/" not in c.request.target]
        for client in spot:
            watch.venue.gate.drop(client)
        told: list[Outage | Resync] = []
        with trio.fail_after(SOON_S):
            while not any(isinstance(item, Resync) for item in told):
                item = await watch.feed.receive()
                if isinstance(item, Outage | Resync):
                    told.append(item)
        await watch.flows()
        assert {item.symbol for item in told} == {FQMES[0]}
        assert isinstance(told[0], Outage)
