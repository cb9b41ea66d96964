"""``piker record``: a live feed's wire, written to a file that ``piker venue --replay`` plays."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from piker import config, log
from piker.brokers.spec import load_backend
from piker.errors import ConfigError, PikerError
from piker.market import parse_fqme
from piker.testing.recorder import Tally, record

__all__ = ["Summary", "run"]

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
