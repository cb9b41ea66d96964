"""Every example of the guides runs as it is printed, against a real pikerd and a loopback venue."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from daemons import Pikerd

from piker.testing.loopback import Venue, open_loopback, point_backend_at

pytestmark = pytest.mark.slow
GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
_EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```(?:python|toml)\n(.*?)^```", re.M | re.S)
FEEDS = dict(_EXAMPLE.findall((GUIDES / "feeds.md").read_text(encoding="utf-8")))
ORDERS = dict(_EXAMPLE.findall((GUIDES / "orders.md").read_text(encoding="utf-8")))
PROVIDER = dict(_EXAMPLE.findall((GUIDES / "provider.md").read_text(encoding="utf-8")))


class Script:
    """A running example: its lines as they come."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._rest = ""

    async def until(self, pattern: str) -> str:
        """Read on until a line matches; return it."""
        while True:
            for number, line in enumerate(self.lines):
                if re.match(pattern, line):
                    del self.lines[: number + 1]
                    return line
            assert self.process.stdout is not None
            part = await self.process.stdout.receive_some()
            assert part, f"the example ended before {pattern!r}"
            *lines, self._rest = (self._rest + part.decode()).split("\n")
            self.lines += lines


@asynccontextmanager
async def running(tmp_path: Path, text: str, *, ends: bool = False) -> AsyncIterator[Script]:
    """Run an example; one that never ``ends`` by itself gets Ctrl-C, and nothing else is wrong."""
    file, errors = tmp_path / "example.py", tmp_path / "errors.txt"
    file.write_text(text)
    with trio.fail_after(60), errors.open("w") as stderr:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", str(file)], stdout=subprocess.PIPE, stderr=stderr
        )
        try:
            yield Script(process)
            if not ends and process.poll() is None:
                process.send_signal(signal.SIGINT)
            await process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()
    said = errors.read_text().strip()
    # Ctrl-C can hit between the making of a coroutine and its start: Python itself says so then.
    said = re.sub(r"\nsys:1: RuntimeWarning: coroutine '\S+' was never awaited$", "", said)
    assert not said or said.endswith("KeyboardInterrupt"), said


@asynccontextmanager
async def venue_of(piker_dirs: Path, *, rate: float = 50.0, conf: str = "") -> AsyncIterator[Venue]:
    """Serve a loopback Binance and point the backend of every later datad at it."""
    (piker_dirs / "config" / "conf.toml").write_text(conf)
    async with open_loopback("binance", rate=rate) as (venue, port):
        point_backend_at("binance", port)
        yield venue


async def test_quotes_example_prints_both_markets_when_run(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """Quotes of two markets, each with a price."""
    await pikerd.ready()
    async with venue_of(piker_dirs), running(tmp_path, FEEDS["quotes"]) as script:
        for pair in ("btcusdt", "ethusdt"):
            line = await script.until(rf"{pair}\.spot\.binance ")
            assert float(line.split()[1]) > 0


async def test_flume_example_prints_bars_and_ticks_when_run(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """It ends by itself, after one look at each handle."""
    await pikerd.ready()
    async with venue_of(piker_dirs), running(tmp_path, FEEDS["flume"], ends=True) as script:
        await script.until(r"market 0\.\d+ 0\.\d+ \d")
        assert int((await script.until("bars ")).split()[1]) > 100
        await script.until(r"ticks \d+ state (live|reconnecting)$")


async def test_events_example_tells_outage_and_resync_when_the_venue_hangs_up(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """Live quotes, an outage, a resync, and live quotes again."""
    await pikerd.ready()
    async with venue_of(piker_dirs) as venue, running(tmp_path, FEEDS["events"]) as script:
        await script.until("quote btcusdt.spot.binance ")
        venue.cut(refuse_s=0.5)
        await script.until("outage ")
        await script.until("resync .* reconnect")
        await script.until("quote btcusdt.spot.binance ")


async def test_throttle_example_loses_no_tick_when_run(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """Few quotes, each with the trades of its while."""
    await pikerd.ready()
    async with venue_of(piker_dirs, rate=200), running(tmp_path, FEEDS["throttle"]) as script:
        await script.until(r"quote [\d.]+ \d{2,} trades")


async def test_slow_example_is_told_what_it_missed_when_lapped(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """With a small ring a second of work is too much, and the number of ticks is said."""
    await pikerd.ready()
    conf = "[feed]\nring_ticks = 64\n"
    async with (
        venue_of(piker_dirs, rate=400, conf=conf),
        running(tmp_path, FEEDS["slow"]) as script,
    ):
        line = await script.until(r"missed \d+ ticks of btcusdt\.spot\.binance")
        assert int(line.split()[1]) > 10


async def test_notebook_example_attaches_in_two_lines_when_a_feed_runs(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """Next to `piker feed` the two lines map its arrays; the rest reads bars and ticks."""
    assert len(FEEDS["attach"].strip().splitlines()) == 2
    await pikerd.ready()
    feed = FEEDS["quotes"]
    (tmp_path / "feed").mkdir()
    async with venue_of(piker_dirs), running(tmp_path / "feed", feed) as beside:
        await beside.until("btcusdt")
        async with running(tmp_path, FEEDS["attach"] + FEEDS["attached"]) as script:
            assert (await script.until("bars ")).endswith("live")
            await script.until("ticks ")


async def test_program_of_the_orders_guide_sends_edits_and_cancels_when_run(
    pikerd: Pikerd, piker_dirs: Path, tmp_path: Path
) -> None:
    """On paper, from the first word to the last."""
    await pikerd.ready()
    async with venue_of(piker_dirs), running(tmp_path, ORDERS["program"], ends=True) as script:
        await script.until("sent pending")
        await script.until(r"stands 0\.02 \d")
        await script.until("ended canceled 0$")


def test_every_example_is_run_when_a_guide_has_one() -> None:
    """No Python block of a guide stands outside the tests, and none is named twice."""
    own = Path(__file__).read_text(encoding="utf-8")
    for guide, examples in (("feeds", FEEDS), ("orders", ORDERS), ("provider", PROVIDER)):
        text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
        assert text.count("```python") == sum(
            f"<!-- example: {name} -->\n```python" in text for name in examples
        )
        assert all(f'["{name}"]' in own for name in examples), guide


# -- the provider guide --------------------------------------------------------------------------
@pytest.fixture
def my_backend(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the guide's module where the guide puts it, and its lines into conf.toml."""
    package = piker_dirs / "my_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_backend.py").write_text(PROVIDER["module"])
    (piker_dirs / "config" / "conf.toml").write_text(PROVIDER["conf"])
    monkeypatch.setenv("PYTHONPATH", str(piker_dirs))
    return piker_dirs


def piker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a piker command to its end."""
    command = [sys.executable, "-m", "piker.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_module_of_the_guide_streams_when_named_in_conf(my_backend: Path) -> None:
    """`piker feed` prints its quotes, of any market it is asked for."""
    done = piker("feed", "anything.my_backend", "--seconds", "1", "--json")
    piker("services", "--stop")
    assert done.returncode == 0, done.stderr
    quotes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(quotes) >= 3
    assert {quote["last"] for quote in quotes} == {100.0}


def test_module_of_the_guide_keeps_the_contract_when_checked(my_backend: Path) -> None:
    """No rule of the conformance kit is broken by what the guide tells people to write."""
    done = piker("check-provider", "my_pkg.my_backend", "--symbol", "anything", "--json")
    results = {one["rule"]: one for one in json.loads(done.stdout)}
    assert [one for one in results.values() if one["status"] == "fail"] == []
    assert results["history"]["status"] == "pass"
    assert done.returncode == 0
