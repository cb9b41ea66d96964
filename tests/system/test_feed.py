"""A feed from a stranger's backend: shared, complete, and alive after the death of anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trio
from daemons import Pikerd

from piker import service
from piker.data import attach
from piker.data.feed import Feed, open_feed
from piker.errors import ProviderError, ShmError
from piker.ticks import Backfill, Outage, Quote, Resync

pytestmark = pytest.mark.slow
FQME = "abc.stranger_backend"


@pytest.fixture
def strangers(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the stranger's module in conf.toml and put it on the path of every process."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.syspath_prepend(here)
    (piker_dirs / "config" / "conf.toml").write_text(
        '[brokers]\nmodules = ["stranger_backend"]\n[feed]\nrelease_after_s = 0.3\n'
    )
    return piker_dirs


@pytest.fixture
def daemon(strangers: Path, pikerd: Pikerd) -> Pikerd:
    """Run a pikerd that finds the stranger's backend."""
    return pikerd


async def quotes_of(feed: Feed, wanted: int) -> list[Quote]:
    """Collect quotes, skipping events."""
    found: list[Quote] = []
    with trio.fail_after(20):
        async for item in feed:
            if isinstance(item, dict):
                found.extend(item.values())
            if len(found) >= wanted:
                return found
    raise AssertionError("the feed ended")


async def test_stranger_module_streams_with_history_and_bars(daemon: Pikerd) -> None:
    """Three endpoints from seed 002 give quotes, ticks, both arrays and 100 bars of history."""
    await daemon.ready()
    async with open_feed([FQME]) as feed:
        flume = feed.flumes[FQME]
        assert flume.first_quote.last is not None
        quotes = await quotes_of(feed, 20)
        assert all(quote.symbol == FQME and quote.ticks for quote in quotes)
        minutes = flume.bars_1m.read()
        assert len(minutes) >= 100
        assert (np.diff(minutes["time"]) == 60).all()
        assert flume.bars_1s.read()["volume"].sum() > 0
        assert flume.state == "live"
        assert (await feed.stats()).data_quality == {}


async def test_clients_share_one_stream_and_it_is_released_after_them(daemon: Pikerd) -> None:
    """Three clients, one market at datad; a while after the last one left its segments are gone."""
    await daemon.ready()
    async with open_feed([FQME]) as one, open_feed([FQME]) as two, open_feed([FQME]) as three:
        for feed in (one, two, three):
            await quotes_of(feed, 3)
        stats = await one.stats()
        assert (stats.markets, stats.clients) == (1, 3)
        path = one.flumes[FQME].ticks.token.path
        assert os.path.exists(path)
    with trio.fail_after(10):
        while os.path.exists(path):
            await trio.sleep(0.02)


async def test_notebook_attaches_in_two_lines_next_to_a_feed(daemon: Pikerd) -> None:
    """The synchronous reader sees the same arrays; without a feed it says how to start one."""
    await daemon.ready()
    with pytest.raises(ShmError, match="piker feed"):
        attach(FQME)
    async with open_feed([FQME]) as feed:
        await quotes_of(feed, 3)
        flume = attach(FQME)
        assert flume.is_live()
        assert len(flume.bars_1m.read()) >= 100
        taken = await trio.to_thread.run_sync(lambda: next(flume.follow(5.0)))
        assert len(taken.rows) > 0


async def test_stalled_client_is_told_what_it_missed_and_delays_nobody(
    daemon: Pikerd, strangers: Path
) -> None:
    """A client that does not read is lapped alone, and learns the exact number."""
    conf = strangers / "config" / "conf.toml"
    conf.write_text(conf.read_text() + "ring_ticks = 64\n")
    await daemon.ready()
    async with open_feed([FQME]) as stalled, open_feed([FQME]) as lively:
        ring = stalled.flumes[FQME].ticks
        start = ring.last_index
        seen = 0
        with trio.fail_after(20):
            while ring.last_index < start + 200:
                seen += len((await quotes_of(lively, 1))[0].ticks)
        assert seen >= 150
        event = await stalled.receive()
        while isinstance(event, Backfill):
            event = await stalled.receive()
        assert isinstance(event, Resync)
        assert (event.reason, event.symbol) == ("lagged", FQME)
        assert event.missed >= 100


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.full)])
async def test_client_is_told_and_live_again_when_datad_is_killed(
    daemon: Pikerd, kills: int
) -> None:
    """SIGKILL of datad: Outage, Resync, quotes again; bars go on in the adopted arrays."""
    await daemon.ready()
    told: Counter[str] = Counter()
    async with open_feed([FQME]) as feed:
        await quotes_of(feed, 5)
        for number in range(kills):
            first = feed.flumes[FQME].bars_1m.first_index
            await kill_and_wait(feed, await pid_of_datad(), told)
            flume = feed.flumes[FQME]
            assert flume.bars_1m.generation == number + 2
            assert flume.bars_1m.first_index == first
            assert (np.diff(flume.bars_1s.read()["time"]) == 1).all()
    assert told["outage"] >= kills
    assert told["resync"] >= kills


async def test_client_is_live_again_when_pikerd_is_killed_and_restarted(daemon: Pikerd) -> None:
    """SIGKILL of pikerd takes datad along; started again, the same feed goes on by itself."""
    await daemon.ready()
    told: Counter[str] = Counter()
    async with open_feed([FQME]) as feed:
        await quotes_of(feed, 5)
        pid = await pid_of_datad()
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        with trio.fail_after(20):
            await service.wait_exit(pid)
            await until_live_again(feed, told)
    assert told["outage"] >= 1
    assert told["resync"] >= 1


async def pid_of_datad() -> int:
    """Return datad's pid."""
    (info,) = await service.list_services()
    return info.pid


async def kill_and_wait(feed: Feed, pid: int, told: Counter[str]) -> None:
    """Kill datad; wait until the client was told and quotes flow again."""
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(20):
        await until_live_again(feed, told)


async def until_live_again(feed: Feed, told: Counter[str]) -> None:
    """Read until an Outage, then a Resync, then quotes have come."""
    stage = 0
    async for item in feed:
        if isinstance(item, Outage):
            told["outage"] += 1
            stage = max(stage, 1)
        elif isinstance(item, Resync):
            told["resync"] += 1
            stage = 2 if stage else 0
        elif stage == 2:
            return


async def test_unknown_provider_is_a_sentence(daemon: Pikerd) -> None:
    """A typing mistake names the nearest provider, and nothing is left running for it."""
    await daemon.ready()
    with pytest.raises(ProviderError, match="'binance'"):
        async with open_feed(["btcusdt.spot.binanse"]):
            pass


def test_command_line_prints_json_quotes(strangers: Path) -> None:
    """`piker feed` starts pikerd by itself, prints lines for programs, and stops in time."""
    command = [sys.executable, "-m", "piker.cli", "feed", FQME, "--seconds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    stop = subprocess.run(
        [sys.executable, "-m", "piker.cli", "services", "--stop"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 5
    assert {line["symbol"] for line in lines} == {FQME}
    assert "ended" in stop.stdout
    assert service.read_pikerd() is None
