"""No tick that was acknowledged is lost, none is stored twice, whenever the recorder is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from piker import service
from piker.data.feed import open_feed
from piker.data.shm import Cursor
from piker.data.store import ticks_upkeep
from piker.data.store.store import Store
from piker.data.store.ticks import TickStore
from piker.data.store.ticks_segment import tick_rows
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow

FQMES = ("btcusdt.spot.binance", "ethusdt.spot.binance")
CONF = "[history]\nbackfill_1s_days = 0\nbackfill_1m_days = 0\n"
PIKER = [sys.executable, "-m", "piker.cli"]


@contextmanager
def pikerd() -> Iterator[subprocess.Popen[bytes]]:
    """Run a pikerd of the test's own."""
    process = subprocess.Popen([*PIKER, "pikerd", "--registry", "127.0.0.1:0"])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


async def ready(process: subprocess.Popen[bytes]) -> None:
    """Wait until a pikerd serves."""
    with trio.fail_after(20):
        while (info := service.read_pikerd()) is None or info.pid != process.pid:
            assert process.poll() is None
            await trio.sleep(0.02)


async def witness(cursors: dict[str, Cursor], kept: dict[str, list[Any]]) -> None:
    """Take every row of every ring, for ever."""
    while True:
        for fqme, cursor in cursors.items():
            taken = cursor.take()
            assert taken.missed == 0
            kept[fqme].append(taken.rows)
        await trio.sleep(0.02)


async def acknowledged_until_killed(wait_s: float, *, first: bool) -> list[dict[str, Any]]:
    """Run a recorder, kill it some time after its start or its first word; return its words."""
    command = [*PIKER, "record", *FQMES, "--store", "--flush", "0.05", "--json"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    out = b""
    if first:
        with trio.fail_after(60):
            out = await process.stdout.receive_some()
    await trio.sleep(wait_s)
    assert process.returncode is None
    os.kill(process.pid, signal.SIGKILL)
    with trio.fail_after(20):
        async for part in process.stdout:
            out += part
        await process.wait()
    return [json.loads(line) for line in out.splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.full)])
async def test_no_acknowledged_tick_is_lost_or_doubled_when_the_recorder_is_killed(
    piker_dirs: Path, kills: int
) -> None:
    """Each ring is stored row by row from its first to the last acknowledged, without a gap."""
    (piker_dirs / "config" / "conf.toml").write_text(CONF)
    chance = random.Random(kills)
    said: list[dict[str, Any]] = []
    kept: dict[str, list[Any]] = {fqme: [] for fqme in FQMES}
    async with open_loopback("binance", symbols=2, rate=400, limits=False) as (_, port):
        point_backend_at("binance", port)
        with pikerd() as daemon:
            await ready(daemon)
            async with open_feed(FQMES) as feed, trio.open_nursery() as nursery:
                cursors = {
                    fqme: flume.ticks.cursor(newest=False) for fqme, flume in feed.flumes.items()
                }
                nursery.start_soon(witness, cursors, kept)
                for number in range(kills):
                    # One in four dies while it starts, attaches or makes its first file.
                    early = number % 4 == 3
                    wait_s = chance.uniform(0.3, 2.0) if early else chance.uniform(0.0, 0.6)
                    said += await acknowledged_until_killed(wait_s, first=not early)
                nursery.cancel_scope.cancel()
    judge(said, kept, kills)


def judge(said: list[dict[str, Any]], kept: dict[str, list[Any]], kills: int) -> None:
    """Compare what is stored with what was acknowledged, and with the rings."""
    store = TickStore(Store())
    kept_count = sum(line["stop"] - line["first"] for line in said)
    print(json.dumps({"kills": kills, "commits": len(said), "acknowledged": kept_count}))
    try:
        assert [one for one in ticks_upkeep.verify(store) if one.problem] == []
        for fqme in FQMES:
            truth = np.concatenate(kept[fqme])
            found = store.read(fqme, 0, 1 << 62)
            rows, rings = tick_rows(found.table)
            assert set(rings.tolist()) == {1}
            assert rows.tobytes() == truth[: len(rows)].tobytes()
            acknowledged = [line for line in said if line["fqme"] == fqme]
            assert max(line["stop"] for line in acknowledged) <= len(rows)
            spans = sorted((line["first"], line["stop"]) for line in acknowledged)
            ends = [0, *(stop for _, stop in spans)]
            assert all(start >= end for (start, _), end in zip(spans, ends, strict=False))
            flagged = rows["index"][(rows["flags"] & 1 > 0) & (rows["index"] > 0)]
            assert [(gap.kind, gap.row) for gap in found.gaps] == [
                ("break", row) for row in flagged.tolist()
            ]  # the feed's own beginning, and nothing that the kills did
            assert len(acknowledged) >= kills
    finally:
        store.store.close()
