"""``piker demo``: a loopback venue, the real ``binance`` backend, and the monitor. Leaves nothing.

Three processes of its own beside this one: the venue, pikerd, and datad under it. Any of them may
be killed: pikerd brings datad back, and this command brings back the venue and pikerd.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.console import Console

from piker import config, service
from piker.cli.app import EXIT_INTERRUPTED
from piker.cli.monitor import Tally, follow
from piker.data.feed import Feed, open_feed
from piker.data.messages import FeedStats
from piker.errors import PeerLost, Transient
from piker.testing.loopback import point_backend_at

__all__ = ["SYMBOLS", "DemoReport", "keep_pikerd", "keep_venue", "own_directories", "run"]

SYMBOLS = ("btcusdt", "ethusdt", "solusdt", "bnbusdt", "xrpusdt", "adausdt", "dogeusdt")
RATE = 30.0  # steps of order flow a second and market: a lively, readable picture
BOOT_S = 30.0  # the venue imports numpy and seeds its books
STOP_S = 10.0  # every process gets its grace at the same time
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # each ends it, and leaves nothing
RESTART_S = 0.2  # a killed helper process is started again after this


class DemoReport(msgspec.Struct, frozen=True):
    """The one line of ``--headless --json``."""

    seconds: float
    symbols: list[str]
    quotes: dict[str, int]
    ticks: dict[str, int]
    bars_1s: dict[str, int]  # made while it ran
    bars_1s_filled: dict[str, int]  # of the history before
    bars_incomplete: dict[str, int]
    reconnects: int
    resyncs: int
    data_quality: dict[str, int]
    corrections: int


def run(*, headless: bool, seconds: float | None, as_json: bool, symbols: int, seed: int) -> None:
    """Run the demo; headless needs no terminal and ends with a report."""
    names = [f"{symbol}.spot.binance" for symbol in SYMBOLS[:symbols]]
    for number in SIGNALS:  # _demo hears them; none may end us before our files are gone
        signal.signal(number, signal.SIG_IGN)
    with own_directories():
        try:
            report = trio.run(_demo, names, headless, seconds, seed)
        except BaseException:
            sys.stderr.write((config.data_dir() / "demo.log").read_text(errors="replace")[-4000:])
            raise
    if report is None:
        sys.exit(EXIT_INTERRUPTED)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _print(report)


@contextmanager
def own_directories() -> Iterator[Path]:
    """Use directories of our own for the block: it meets no pikerd, file or setting of yours."""
    folder = Path(tempfile.mkdtemp(prefix="piker-demo-", dir=_roomy()))
    before = {name: os.environ.get(name) for name in (*config.DIRECTORY_VARS, "PIKER_REGISTRY")}
    try:
        for variable, name in config.DIRECTORY_VARS.items():
            (folder / name).mkdir(mode=0o700)
            os.environ[variable] = str(folder / name)
        os.environ["PIKER_REGISTRY"] = "127.0.0.1:0"
        yield folder
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def _roomy() -> str | None:
    """Return a memory file system where there is one: segments are mapped files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


async def _demo(
    names: list[str], headless: bool, seconds: float | None, seed: int
) -> DemoReport | None:
    """Return what was seen until the time was up or a signal came; None when it came too soon."""
    console = Console()
    report, tally = None, Tally()
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            scopes = [nursery.cancel_scope]
            nursery.start_soon(_end_on, signals, scopes)
            try:
                if not headless:
                    console.print("Starting a loopback venue and pikerd ...")
                await nursery.start(keep_venue, len(names), seed)
                await nursery.start(keep_pikerd)
                async with open_feed(names, tick_throttle=10, start_pikerd=False) as feed:
                    began = trio.current_time()
                    opened = {fqme: one.bars_1s.last_index for fqme, one in feed.flumes.items()}
                    with trio.CancelScope() as watching:
                        scopes.append(watching)
                        await _watch(feed, tally, seconds, None if headless else console)
                    report = await _report(feed, opened, tally, trio.current_time() - began)
            finally:
                nursery.cancel_scope.cancel()
    return report


async def _end_on(signals: AsyncIterator[int], scopes: list[trio.CancelScope]) -> None:
    """End the innermost with each signal: first the watch, so that there is a report."""
    async for _ in signals:
        if scopes:
            scopes.pop().cancel()


async def _watch(feed: Feed, tally: Tally, seconds: float | None, console: Console | None) -> None:
    if console is not None:
        await follow(feed, tally, seconds, console)
        return
    with trio.move_on_after(seconds or float("inf")):
        async for item in feed:
            tally.take(item)


async def _report(feed: Feed, opened: dict[str, int], tally: Tally, seconds: float) -> DemoReport:
    try:
        stats = await feed.stats()
    except (PeerLost, Transient):
        stats = FeedStats()
    rows = {fqme: flume.bars_1s.read() for fqme, flume in feed.flumes.items()}
    return DemoReport(
        seconds=round(seconds, 1),
        symbols=list(feed.flumes),
        quotes=dict(tally.quotes),
        ticks=dict(tally.ticks),
        bars_1s={fqme: int((rows[fqme]["index"] >= at).sum()) for fqme, at in opened.items()},
        bars_1s_filled={fqme: int((rows[fqme]["index"] < at).sum()) for fqme, at in opened.items()},
        bars_incomplete={fqme: int((bars["count"] < 0).sum()) for fqme, bars in rows.items()},
        reconnects=stats.reconnects,
        resyncs=tally.resyncs,
        data_quality=stats.data_quality,
        corrections=stats.corrections,
    )


def _print(report: DemoReport) -> None:
    print(f"{report.seconds:g} s of live data:")
    for fqme in report.symbols:
        print(
            f"  {fqme}: {report.quotes.get(fqme, 0):,} quotes, "
            f"{report.ticks.get(fqme, 0):,} ticks, {report.bars_1s[fqme]:,} 1 s bars "
            f"after {report.bars_1s_filled[fqme]:,} of history"
        )
    print(
        f"  {report.reconnects} reconnects, {sum(report.data_quality.values())} pieces of bad "
        f"data, {report.corrections} bars corrected by the venue's own"
    )


# -- the processes -----------------------------------------------------------------------------
async def keep_venue(
    symbols: int, seed: int, rate: float = RATE, *, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the venue, and again on the same port when somebody kills it."""
    port = 0
    started = False
    while True:
        process = _spawn(
            ["venue", "binance", "--synthetic", "--seed", str(seed), "--symbols", str(symbols),
             "--port", str(port), "--rate", str(rate)]
        )  # fmt: skip
        try:
            urls = await _first_line(process)
            port = int(urls["port"])
            point_backend_at("binance", port)
            if not started:
                started = True
                task_status.started()
            await service.wait_exit(process.pid)
        finally:
            await _end(process)
        await trio.sleep(RESTART_S)


async def keep_pikerd(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Run pikerd, and again when somebody kills it, as its systemd unit would."""
    started = False
    while True:
        process = _spawn(["pikerd"])
        try:
            with trio.move_on_after(BOOT_S) as patience:
                while service.read_pikerd() is None:
                    if process.poll() is not None:
                        break
                    await trio.sleep(0.02)
            if patience.cancelled_caught:
                raise Transient("pikerd did not start.")
            if not started and process.poll() is None:
                started = True
                task_status.started()
            await service.wait_exit(process.pid)
        finally:
            await _end(process)
        await trio.sleep(RESTART_S)


def _spawn(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start one of our own commands; it ends with us, however we end.

    Its log goes to a file of the demo: the screen is the monitor's.
    """
    with (config.data_dir() / "demo.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "piker.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PIKER_DIE_WITH": str(os.getpid())},
        )


async def _first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    with trio.move_on_after(BOOT_S):
        line = b""
        async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as stream:
            while not line.endswith(b"\n") and (part := await stream.receive_some(4096)):
                line += part
        if line:
            return dict(json.loads(line))
    raise Transient("the loopback venue did not start.", remedy="Run: piker venue binance")


async def _end(process: subprocess.Popen[bytes]) -> None:
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(STOP_S):
                while process.poll() is None:
                    await trio.sleep(0.02)
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
