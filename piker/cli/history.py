"""``piker history``: any range of any market's bars, to the screen or a file, with its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pendulum
import trio
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from piker import config, log
from piker.brokers.spec import Backend, load_backend
from piker.cli.markets import check_markets
from piker.clock import NS, wall_ns
from piker.data.history.manager import SOURCES, History, HistoryManager
from piker.data.history.manager import Progress as HowFar
from piker.data.history.quality import Report, iso
from piker.data.learnt import note_series
from piker.data.store.exchange import FORMATS, write_frame
from piker.data.store.series import Series
from piker.errors import ConfigError, HistoryError, RangeError
from piker.market import parse_fqme
from piker.ohlcv import Timeframe

__all__ = ["market_of", "moment", "progress_bar", "run"]

SHOWN = 5  # bars of the beginning and of the end that a person is shown
CHOICES = {"auto": SOURCES, "archive": ("archive",), "rest": ("rest",), "store": ()}


def run(
    fqme: str, *, interval: str, start: str | None, end: str | None, days: float, source: str,
    out: str | None, as_json: bool, recheck: bool, log_level: str | None,
) -> None:  # fmt: skip
    """Fetch, show or write; exit with the error's code when bars could not be had."""
    check_markets([fqme])
    log.configure(log_level, default=config.load_conf().log.level, actor="history")
    if source not in CHOICES:
        raise ConfigError(f"there is no source {source!r}.", remedy=config.nearest(source, CHOICES))
    path = Path(out) if out else None
    if path is not None and path.suffix not in FORMATS:
        raise ConfigError(
            f"{path.name}: the ending says in which format to write.",
            remedy=f"Take one of {', '.join(FORMATS)}.",
        )
    begin, stop = _range(interval, start, end, days)
    backend = load_backend(parse_fqme(fqme.lower()).provider, config.load_conf().brokers.modules)
    problem: HistoryError | None = None
    with progress_bar(shown=not as_json, what=fqme) as progress:
        try:
            history = trio.run(
                _get, backend, market_of(fqme, backend), interval, begin, stop,
                CHOICES[source], recheck, progress,
            )  # fmt: skip
        except HistoryError as err:
            if err.partial is None:
                raise
            problem, history = err, err.partial
    if path is not None:
        write_frame(history.table, path)
    _show(history, path, as_json)
    if problem is not None:
        raise problem


async def _get(
    backend: Backend, market: str, interval: str, begin: int, stop: int,
    sources: tuple[str, ...], recheck: bool, progress: Callable[[HowFar], None],
) -> History:  # fmt: skip
    manager = HistoryManager(backend)
    try:
        return await manager.get(
            market, interval, begin, stop, sources=sources, recheck=recheck,
            use_store=sources in ((), SOURCES), progress=progress,
        )  # fmt: skip
    finally:
        if sources:
            note_series(manager.store, Series(backend.name, market, interval))
        manager.store.close()


def market_of(fqme: str, backend: Backend) -> str:
    """Return the market id of an address; without a venue the backend's first one is meant."""
    market = str(parse_fqme(fqme.lower())).removesuffix(f".{backend.name}")
    venues = backend.capabilities.venues
    return f"{market}.{venues[0]}" if "." not in market and venues else market


def moment(text: str) -> int:
    """Return a time as epoch seconds; one without a zone is UTC. Raises ``RangeError``."""
    try:
        found: Any = pendulum.parse(text, tz="UTC")
        return int(found.timestamp())
    except (ValueError, AttributeError, OverflowError):
        raise RangeError(
            f"{text!r} is not a time.", remedy="Write it as 2024-05-01 or 2024-05-01T12:30Z."
        ) from None


def _range(interval: str, start: str | None, end: str | None, days: float) -> tuple[int, int]:
    try:
        Timeframe(interval)
    except ValueError as err:
        raise RangeError(f"{err}.") from None
    span = int(days * 86_400)
    if start is not None and moment(start) > wall_ns() // NS:
        raise RangeError(f"{iso(moment(start))} is in the future: there are no bars yet.")
    if start is not None and end is None:
        return moment(start), min(moment(start) + span, wall_ns() // NS)
    stop = moment(end) if end is not None else wall_ns() // NS
    begin = moment(start) if start is not None else stop - span
    if begin >= stop:
        raise RangeError(
            f"the range is empty: {iso(begin)} is not before {iso(stop)}.",
            remedy="Give a start and a later end.",
        )
    return begin, stop


# -- what a person sees --------------------------------------------------------------------------
@contextmanager
def progress_bar(*, shown: bool, what: str) -> Iterator[Callable[[HowFar], None]]:
    """Show how far a call is on stderr: bars, and the time that is left by the rate so far."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("bars"),
        TimeRemainingColumn(), console=console, transient=True,
        disable=not (shown and console.is_terminal),
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=None, start=True)

        def update(far: HowFar) -> None:
            bar.update(task, description=f"{what} ({far.source})", total=far.total)
            bar.update(task, completed=far.done)

        yield update


def _show(history: History, path: Path | None, as_json: bool) -> None:
    if as_json:
        found: dict[str, Any] = msgspec.to_builtins(history.report)
        found |= {"complete": history.report.complete, "out": str(path) if path else None}
        print(msgspec.json.encode(found).decode())
        return
    console = Console(file=sys.stdout)
    if path is None:
        console.print(_bars(history))
    else:
        console.print(f"{history.table.num_rows} bars written to {path}")
    console.print(_report(history.report))


def _bars(history: History) -> Table:
    table = Table(title=str(history.series), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("open time (UTC)", "open", "high", "low", "close", "volume", "trades"):
        table.add_column(name, justify="left" if " " in name else "right", no_wrap=True)
    time = "%Y-%m-%d %H:%M" if history.series.timeframe.seconds >= 60 else "%m-%d %H:%M:%S"
    names = ("open", "high", "low", "close", "volume", "count")
    frame = history.polars()
    short = len(frame) <= 2 * SHOWN + 1
    for part in [frame] if short else [frame.head(SHOWN), None, frame.tail(SHOWN)]:
        if part is None:
            table.add_row("...")
            continue
        for row in part.iter_rows(named=True):
            values = [f"{row[name]:.10g}" for name in names]
            table.add_row(row["open_time"].strftime(time), *values)
    return table


def _report(report: Report) -> Table:
    table = Table("what", "how much", show_header=False, title_justify="left")
    table.add_row("bars", f"{report.rows} of {report.expected}, in {report.elapsed_s:.2f} s")
    table.add_row("from the store", str(report.stored))
    for name, source in report.sources.items():
        size = f", {source.bytes / 1e6:.1f} MB" if source.bytes else ""
        failed = f", {source.failures} failed" if source.failures else ""
        table.add_row(
            f"from {name}",
            f"{source.rows} in {source.requests} requests{size}, {source.busy_s:.1f} s{failed}",
        )
    for one in report.missing[:10]:
        detail = f": {one.detail}" if one.detail else ""
        table.add_row("missing", f"{one.bars} from {iso(one.start_s)} ({one.why}{detail})")
    if len(report.missing) > 10:
        table.add_row("missing", f"and {len(report.missing) - 10} more ranges")
    for found in report.defects[:5]:
        defect = found.defect
        table.add_row("left out", f"{defect.count} {defect.kind} in {found.place or found.source}")
    for word, count in (("corrected", report.corrections), ("damaged files", report.damaged)):
        if count:
            table.add_row(word, str(count))
    return table
