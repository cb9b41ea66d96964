"""``piker record``: a live feed, kept: its wire in a file for replays, its ticks in the store."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from piker import config, log
from piker.brokers.spec import load_backend
from piker.cli.markets import check_markets
from piker.errors import ConfigError, PikerError
from piker.market import parse_fqme
from piker.testing.recorder import Tally, record

if TYPE_CHECKING:
    from piker.data.store.ticks import Kept, TickStore
    from piker.data.store.ticks_recorder import TickRecorder

__all__ = ["Summary", "TickSummary", "run", "run_store"]

REDRAW_S = 0.25  # of the live line


class Summary(msgspec.Struct, frozen=True):
    """The one line at the end."""

    out: str
    provider: str
    symbols: list[str]
    seconds: float
    frames: int
    rows: int
    answers: int
    bytes: int
    quotes: int
    redacted: int
    file_bytes: int


def run(
    fqmes: Sequence[str],
    *,
    out: Path,
    seconds: float | None,
    as_json: bool,
    force: bool,
    book: bool,
    log_level: str | None,
) -> None:
    """Record until the time is up, Ctrl-C or SIGTERM; print one line."""
    conf = config.load_conf()
    log.configure(log_level, default=conf.log.level, actor="record")
    provider, symbols = _of_one_provider(fqmes)
    if out.exists() and not force:
        raise ConfigError(f"{out} exists.", remedy="Choose another file, or replace it: --force.")
    backend = load_backend(provider, conf.brokers.modules)
    recording = Recording()
    try:
        trio.run(recording.run, backend, symbols, out, force, book, seconds, as_json)
    except BaseExceptionGroup as group:
        raise _leaf(group) from group
    _print(recording.summary(provider, symbols, out), as_json)


def _of_one_provider(fqmes: Sequence[str]) -> tuple[str, list[str]]:
    parsed = [parse_fqme(fqme) for fqme in fqmes]
    providers = {fqme.provider for fqme in parsed}
    if len(providers) > 1:
        raise ConfigError(
            f"a capture holds one provider's wire; these are {', '.join(sorted(providers))}.",
            remedy="Record each into a file of its own.",
        )
    return parsed[0].provider, [fqme.mktid for fqme in parsed]


class Recording:
    """One run of the recorder, with its live line."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.began = 0.0
        self.seconds = 0.0

    async def run(
        self,
        backend: Any,
        symbols: list[str],
        out: Path,
        force: bool,
        book: bool,
        seconds: float | None,
        as_json: bool,
    ) -> None:
        """Record until a signal or the end of the time."""
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with trio.open_signal_receiver(*ends) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on, signals, nursery.cancel_scope)

                def started(tally: Tally) -> None:
                    self.tally, self.began = tally, trio.current_time()
                    if seconds is not None:
                        nursery.cancel_scope.deadline = self.began + seconds
                    if sys.stderr.isatty() and not as_json:
                        nursery.start_soon(self._show)

                try:
                    await record(backend, symbols, out, force=force, book=book, on_start=started)
                finally:
                    if self.began:
                        self.seconds = trio.current_time() - self.began

    async def _show(self) -> None:
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._line(), refresh=True)
                await trio.sleep(REDRAW_S)

    def _line(self) -> Text:
        tally, seconds = self.tally, trio.current_time() - self.began
        return Text(
            f"recording  {tally.frames:,} frames  {tally.rows:,} rows  "
            f"{tally.bytes / 1e6:,.2f} MB  {seconds:,.0f} s   (Ctrl-C ends)"
        )

    def summary(self, provider: str, symbols: list[str], out: Path) -> Summary:
        """Return what was recorded."""
        tally = self.tally
        size = out.stat().st_size if self.began else 0
        return Summary(
            str(out), provider, symbols, round(self.seconds, 1), tally.frames, tally.rows,
            tally.answers, tally.bytes, tally.quotes, tally.redacted, size,
        )  # fmt: skip


async def _end_on(signals: Any, scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


def _leaf(error: BaseException) -> BaseException:
    """Return the error of ours inside a group, or its first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(one) for one in error.exceptions]
    return next((one for one in leaves if isinstance(one, PikerError)), leaves[0])


def _print(summary: Summary, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(summary).decode())
        return
    print(
        f"{summary.out}: {summary.frames:,} frames, {summary.rows:,} rows, "
        f"{summary.answers:,} answers, {summary.bytes:,} bytes in {summary.seconds:g} s"
        + (f", {summary.quotes:,} quotes of a backend with its own wire" if summary.quotes else "")
        + (f", {summary.redacted} secrets masked" if summary.redacted else "")
    )


# -- ticks into the store ------------------------------------------------------------------------
class TickSummary(msgspec.Struct, frozen=True, tag="summary", tag_field="event"):
    """The last line of ``--store``: ticks that are on the disk, by market."""

    seconds: float
    rows: int
    gaps: int
    stored: dict[str, int]


class Stored(msgspec.Struct, frozen=True, tag="stored", tag_field="event"):
    """A line of ``--store --json`` after each commit: rows [first, stop) of a ring are on disk."""

    fqme: str
    ring: int
    first: int
    stop: int
    rows: int
    total: int


class Trouble(msgspec.Struct, frozen=True, tag="trouble", tag_field="event"):
    """A line of ``--store --json`` when nothing can be stored; without an error: it can again."""

    error: str = ""


def run_store(
    fqmes: Sequence[str],
    *,
    seconds: float | None,
    flush_s: float,
    as_json: bool,
    log_level: str | None,
) -> None:
    """Keep a feed's ticks in the store until the time is up, Ctrl-C or SIGTERM."""
    check_markets(fqmes)
    log.configure(log_level, default=config.load_conf().log.level, actor="record")
    keeping = Keeping(as_json, seconds)
    try:
        trio.run(keeping.run, list(fqmes), flush_s)
    except BaseExceptionGroup as group:
        raise _leaf(group) from group
    keeping.sum_up()


class Keeping:
    """One run of ``--store``: a recorder for each provider, and what they say."""

    def __init__(self, as_json: bool, seconds: float | None) -> None:
        self.as_json = as_json
        self.stored: dict[str, int] = {}
        self.gaps = 0
        self.began = self.seconds = 0.0
        self._seconds = float("inf") if seconds is None else seconds
        self._time = trio.CancelScope()  # its deadline is set when the first feed is open
        self._ends = trio.Event()

    async def run(self, fqmes: list[str], flush_s: float) -> None:
        """Record until a signal or the end of the time; what waits is stored before it returns."""
        from piker.data.store.store import Store
        from piker.data.store.ticks import TickStore

        groups: dict[str, list[str]] = {}
        for fqme in dict.fromkeys(fqme.lower() for fqme in fqmes):
            groups.setdefault(parse_fqme(fqme).provider, []).append(fqme)
        store = Store()
        try:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stop_on, signals)
                    async with trio.open_nursery() as recorders:
                        for names in groups.values():
                            recorders.start_soon(self._keep, names, TickStore(store), flush_s)
                    nursery.cancel_scope.cancel()
        finally:
            self.seconds = trio.current_time() - self.began if self.began else 0.0
            store.close()

    async def _keep(self, fqmes: list[str], store: TickStore, flush_s: float) -> None:
        """Record one provider's markets: what is said of a provider is of its feed alone."""
        from piker.data.feed import open_feed
        from piker.data.store.ticks_recorder import EVENT_HZ, TickRecorder

        async with trio.open_nursery() as nursery:
            recorder: TickRecorder | None = None

            async def leave() -> None:
                await self._ends.wait()
                if recorder is None:
                    nursery.cancel_scope.cancel()  # a feed that does not open
                else:
                    recorder.stop()

            nursery.start_soon(leave)
            async with open_feed(fqmes, tick_throttle=EVENT_HZ) as feed:
                recorder = TickRecorder(
                    feed, store, flush_s=flush_s, on_kept=self.kept, on_trouble=self.trouble
                )
                self.stored.update(dict.fromkeys(feed.flumes, 0))
                if self.began == 0.0:
                    self.began = trio.current_time()
                    self._time.deadline = self.began + self._seconds
                await recorder.run()
            nursery.cancel_scope.cancel()

    async def _stop_on(self, signals: Any) -> None:
        with self._time:
            async for _ in signals:
                break
        self._ends.set()

    def kept(self, found: Sequence[Kept]) -> None:
        """Say what is on the disk now."""
        for one in found:
            fqme = one.series.fqme
            self.gaps += one.gaps
            self.stored[fqme] = self.stored.get(fqme, 0) + one.rows
            if self.as_json and one.rows:
                self._say(Stored(
                    fqme, one.ring, one.first, one.stop, one.rows, self.stored[fqme]
                ))  # fmt: skip

    def trouble(self, error: PikerError | None) -> None:
        """Say that nothing can be stored, or that it can again."""
        if self.as_json:
            self._say(Trouble(str(error) if error else ""))
        elif error is not None:
            print(f"error: {error} Recording waits; it goes on by itself.", file=sys.stderr)
        else:
            print("Ticks are stored again.", file=sys.stderr)

    def sum_up(self) -> None:
        """Print the last line."""
        total = sum(self.stored.values())
        if self.as_json:
            self._say(TickSummary(round(self.seconds, 1), total, self.gaps, self.stored))
            return
        each = ", ".join(f"{fqme} {count:,}" for fqme, count in self.stored.items())
        print(f"{total:,} ticks stored in {self.seconds:.0f} s ({each}); {self.gaps} gaps.")

    def _say(self, line: msgspec.Struct) -> None:
        print(msgspec.json.encode(line).decode(), flush=True)
