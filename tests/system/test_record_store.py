"""``piker record --store``: what the ring held is in the store, row by row, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from daemons import Pikerd

from piker import service
from piker.data.feed import Feed, open_feed
from piker.data.shm import Cursor
from piker.data.store.store import Store
from piker.data.store.ticks import Ticks, TickStore
from piker.data.store.ticks_schema import Gap
from piker.data.store.ticks_segment import tick_rows
from piker.testing.loopback import open_loopback, point_backend_at

pytestmark = pytest.mark.slow

FQME = "btcusdt.spot.binance"
EVER = (0, 1 << 62)
CONF = "[network]\nreconnect_cap_s = 1.0\n[history]\nbackfill_1s_days = 0\nbackfill_1m_days = 0\n"


def piker(*arguments: str) -> list[str]:
    """Return a command line of piker."""
    return [sys.executable, "-m", "piker.cli", *arguments]


def later(found: Ticks) -> list[Gap]:
    """Return the gaps but those that a row of the ring says by itself: a feed that goes live."""
    rows, _ = tick_rows(found.table)
    flagged = set(rows["index"][rows["flags"] & 1 > 0].tolist())
    return [gap for gap in found.gaps if gap.kind != "break" or gap.row not in flagged]


def ticks_of(fqme: str = FQME) -> Ticks:
    """Read all stored ticks of a market."""
    store = Store()
    try:
        return TickStore(store).read(fqme, *EVER)
    finally:
        store.close()


@asynccontextmanager
async def loopback(pikerd: Pikerd, dirs: Path, *, rate: float = 200) -> AsyncIterator[Any]:
    """Run a loopback venue that the pikerd's binance is pointed at."""
    (dirs / "config" / "conf.toml").write_text(CONF)
    async with open_loopback("binance", symbols=2, rate=rate, limits=False) as (venue, port):
        point_backend_at("binance", port)
        await pikerd.ready()
        yield venue


class Witness:
    """Follows a feed's rings beside the recorder, and keeps every row."""

    def __init__(self, feed: Feed, fqme: str = FQME) -> None:
        self._feed, self._fqme = feed, fqme
        self.rings: list[list[np.ndarray[Any, Any]]] = []
        self._flume: object = None
        self._path = self._inode = None
        self.cursor: Cursor | None = None

    def take(self) -> None:
        """Take what is new; of a feed's new ring from its first row on."""
        flume = self._feed.flumes[self._fqme]
        if self.cursor is not None:
            self._keep(self.cursor)
        if flume is not self._flume:
            self._flume = flume
            inode = os.stat(flume.ticks.token.path).st_ino
            if inode != self._inode:
                self._inode = inode
                self.rings.append([])
                self.cursor = flume.ticks.cursor(newest=False)
            else:
                assert self.cursor is not None
                self.cursor = Cursor(flume.ticks, self.cursor.position)
            self._keep(self.cursor)

    def _keep(self, cursor: Cursor) -> None:
        taken = cursor.take()
        assert taken.missed == 0
        self.rings[-1].append(taken.rows)

    async def run(self) -> None:
        """Take for ever."""
        while True:
            self.take()
            await trio.sleep(0.02)

    async def heard(self, rows: int) -> None:
        """Wait until so many more rows have come."""
        assert self.cursor is not None
        target = self.cursor.position + rows
        with trio.fail_after(60):
            while self.cursor.position < target:
                await trio.sleep(0.02)

    def rows(self) -> np.ndarray[Any, Any]:
        """Return all rows of all rings."""
        return np.concatenate([rows for ring in self.rings for rows in ring])


async def heard_of(process: trio.Process, word: bytes, out: bytes = b"") -> bytes:
    """Read what a process says until a word is in it; return all of it, after ``out``."""
    assert process.stdout is not None
    with trio.fail_after(60):
        while word not in out:
            more = await process.stdout.receive_some()
            assert more, out
            out += more
    return out


async def finished(process: trio.Process, out: bytes = b"") -> tuple[int, list[dict[str, Any]]]:
    """Read a process's lines of JSON to its end, after what was read of them already."""
    assert process.stdout is not None
    with trio.fail_after(60):
        async for part in process.stdout:
            out += part
        code = await process.wait()
    whole = out[: out.rfind(b"\n") + 1]  # the last line of one that was killed may be half
    return code, [json.loads(line) for line in whole.splitlines()]


async def start(*arguments: str) -> trio.Process:
    """Start ``piker record --store`` with its output to be read."""
    command = piker("record", *arguments, "--store", "--json")
    return await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)


async def test_ticks_of_the_store_are_those_of_the_ring_when_a_feed_was_recorded(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Every row of the ring from the first to the last, byte for byte, and the counts agree."""
    async with (
        loopback(pikerd, piker_dirs), open_feed([FQME]) as feed, trio.open_nursery() as nursery
    ):  # fmt: skip
        witness = Witness(feed)
        witness.take()
        nursery.start_soon(witness.run)
        process = await start(FQME, "--seconds", "3", "--flush", "0.2")
        code, lines = await finished(process)
        assert code == 0
        nursery.cancel_scope.cancel()
    witness_rows = witness.rows()
    found = ticks_of()
    rows, rings = tick_rows(found.table)
    assert set(rings.tolist()) == {1}
    assert rows.tobytes() == witness_rows[: len(rows)].tobytes()
    assert len(rows) > 200
    assert (later(found), found.damaged) == ([], 0)
    summary = lines[-1]
    assert (summary["event"], summary["stored"]) == ("summary", {FQME: len(rows)})
    assert sum(line["rows"] for line in lines[:-1]) == len(rows)


async def test_a_recording_goes_on_where_it_was_when_it_is_started_again(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Stopped by SIGTERM, killed, and two at once: each row is there once, and no gap."""
    async with (
        loopback(pikerd, piker_dirs), open_feed([FQME]) as feed, trio.open_nursery() as nursery
    ):  # fmt: skip
        witness = Witness(feed)
        witness.take()
        nursery.start_soon(witness.run)
        for number in (signal.SIGTERM, signal.SIGKILL):
            process = await start(FQME, "--flush", "0.1")
            out = await heard_of(process, b"stored")
            await witness.heard(50)
            process.send_signal(number)
            code, _ = await finished(process, out)
            assert code == (0 if number == signal.SIGTERM else -number)
            await witness.heard(50)
        both = [await start(FQME, "--seconds", "2", "--flush", "0.1") for _ in range(2)]
        ends = [await finished(process) for process in both]
        assert [code for code, _ in ends] == [0, 0]
        nursery.cancel_scope.cancel()
    found = ticks_of()
    rows, _ = tick_rows(found.table)
    assert rows.tobytes() == witness.rows()[: len(rows)].tobytes()
    assert later(found) == []


async def test_gaps_are_kept_when_the_venue_or_datad_is_lost(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """A cut and a killed datad: what was said is there with its times, the ticks are whole."""
    async with (
        loopback(pikerd, piker_dirs) as venue, open_feed([FQME]) as feed,
        trio.open_nursery() as nursery,
    ):  # fmt: skip
        witness = Witness(feed)
        witness.take()
        nursery.start_soon(witness.run)
        process = await start(FQME, "--flush", "0.2")
        out = await heard_of(process, b"stored")
        venue.cut(refuse_s=1.0)
        await witness.heard(100)
        for info in await service.list_services():
            os.kill(info.pid, signal.SIGKILL)
            with trio.fail_after(20):
                await service.wait_exit(info.pid)
        flume = feed.flumes[FQME]
        with trio.fail_after(30):
            while feed.flumes[FQME] is flume:
                await trio.sleep(0.05)
        await trio.sleep(0.1)
        await witness.heard(200)
        process.send_signal(signal.SIGINT)
        code, lines = await finished(process, out)
        assert code == 0
        nursery.cancel_scope.cancel()
    found = ticks_of()
    rows, rings = tick_rows(found.table)
    assert rows.tobytes() == witness.rows()[: len(rows)].tobytes()
    assert len(witness.rings) == len(set(rings.tolist()))
    kinds = [gap.kind for gap in found.gaps]
    assert kinds.count("break") >= 2
    assert kinds.count("outage") >= 2
    assert kinds.count("resync") >= 2
    assert all(gap.end_ns is not None for gap in found.gaps)
    outage = next(gap for gap in found.gaps if gap.kind == "outage")
    assert outage.end_ns > outage.start_ns
    assert lines[-1]["gaps"] == len(found.gaps)


async def test_several_markets_are_recorded_when_named_and_the_store_commands_know_them(
    pikerd: Pikerd, piker_dirs: Path
) -> None:
    """Two markets in one recorder; ls, verify, compact and export cover their days."""
    names = [FQME, "ethusdt.spot.binance"]
    async with loopback(pikerd, piker_dirs):
        code, lines = await finished(await start(*names, "--seconds", "2", "--flush", "0.2"))
        assert code == 0
    total = dict(lines[-1]["stored"])
    assert set(total) == set(names)
    assert all(count > 50 for count in total.values())

    def told(*arguments: str) -> Any:
        done = subprocess.run(piker("store", *arguments, "--json"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def look() -> list[dict[str, Any]]:
        return [one for one in told("ls") if one["series"].endswith("/ticks")]

    before = await trio.to_thread.run_sync(look)
    assert {one["series"]: one["rows"] for one in before} == {
        f"{name}/ticks": count for name, count in total.items()
    }
    assert sum(one["files"] for one in before) > 4
    gone = (await trio.to_thread.run_sync(told, "compact"))["files_gone"]
    after = await trio.to_thread.run_sync(look)
    assert sum(one["files"] for one in after) == sum(one["files"] for one in before) - gone
    assert all(one["files"] == one["ranges"] for one in after)
    assert await trio.to_thread.run_sync(told, "verify") == []
    gaps = await trio.to_thread.run_sync(told, "gaps", FQME)
    assert {(one["series"], one["why"].partition(":")[0]) for one in gaps} <= {
        (f"{FQME}/ticks", "break")
    }
    for ending in ("csv", "parquet", "arrow"):
        out = piker_dirs / f"ticks.{ending}"
        written = await trio.to_thread.run_sync(told, "export", FQME, str(out), "--ticks")
        assert written["rows"] == total[FQME]
        assert out.stat().st_size > 0


@pytest.fixture
def small_disk(piker_dirs: Path) -> Iterator[Path]:
    """Put the data directory on a disk of 8 MB."""
    place = piker_dirs / "data"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place]).returncode:
        pytest.skip("tmpfs can not be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


async def test_recording_waits_and_goes_on_when_the_disk_is_full(
    small_disk: Path, pikerd: Pikerd, piker_dirs: Path
) -> None:
    """A sentence, once; rows wait in memory, and all are stored when there is room again."""
    async with (
        loopback(pikerd, piker_dirs), open_feed([FQME]) as feed, trio.open_nursery() as nursery
    ):  # fmt: skip
        witness = Witness(feed)
        witness.take()
        nursery.start_soon(witness.run)
        process = await start(FQME, "--flush", "0.2")
        out = await heard_of(process, b"stored")
        fill(small_disk / "ballast")
        out = await heard_of(process, b"trouble", out)
        await witness.heard(200)
        (small_disk / "ballast").unlink()
        out = await heard_of(process, b'"error":""', out)
        process.send_signal(signal.SIGTERM)
        code, lines = await finished(process, out)
        assert code == 0
        nursery.cancel_scope.cancel()
    troubles = [line["error"] for line in lines if line["event"] == "trouble"]
    assert len(troubles) == 2
    assert "the disk is full" in troubles[0]
    found = ticks_of()
    rows, _ = tick_rows(found.table)
    assert rows.tobytes() == witness.rows()[: len(rows)].tobytes()
    assert later(found) == []


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


def test_a_sentence_is_said_when_it_is_not_clear_where_to(piker_dirs: Path) -> None:
    """Neither --out nor --store, or both: nothing is started."""
    for options in ((), ("--store", "--out", "x.gz")):
        done = subprocess.run(piker("record", FQME, *options), capture_output=True, text=True)
        assert done.returncode == 2
        assert "--out" in done.stderr
        assert "--store" in done.stderr
