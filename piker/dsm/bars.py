"""Bars for one call: from the store in the caller's own thread, else from the history manager.

What is wholly stored costs neither a thread nor the network stack; they are loaded when something
is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from piker import log as piker_log
from piker.clock import NS, monotonic_ns
from piker.data.history.quality import Missing, Report
from piker.data.store.segment import NO_BARS
from piker.data.store.series import Series
from piker.dsm.calls import PROVIDER, Ask
from piker.dsm.errors import FetchFailed, NoBars
from piker.dsm.frames import SERVED, UNITS, UNITS_COIN, bars_table, frame_of, served_by
from piker.dsm.logs import DsmLogger
from piker.dsm.reports import report_of
from piker.dsm.settings import DataSourceConfig
from piker.dsm.shelf import store_at
from piker.errors import DataUnavailable, HistoryError

if TYPE_CHECKING:
    from piker.data.history.manager import History, Progress

__all__ = ["Answer", "get_bars"]

RETRIES = 3  # of each request, by the venue toolkit
MAX_ROUNDS = 8  # of one call, whatever retry_count says

OnProgress = Callable[["Progress"], None]


class Answer(msgspec.Struct, frozen=True):
    """A frame and its report."""

    frame: Any
    report: dict[str, Any]


class _Bars(msgspec.Struct, frozen=True):
    """Bars of ``SCHEMA`` and what is known about them."""

    table: pa.Table
    report: Report


def get_bars(
    settings: DataSourceConfig, ask: Ask, log: DsmLogger, on_progress: OnProgress | None
) -> Answer:
    """Return the bars of a call.

    Blocks. Raises ``NoBars`` where there is none, ``FetchFailed`` where some that may exist could
    not be had; both carry a frame of what was obtained.
    """
    begun_ns = monotonic_ns()
    write = partial(log.piker_line, network=not settings.suppress_http_debug)
    problem: HistoryError | DataUnavailable | None = None
    with piker_log.redirected(write):
        found, damaged = _closed_or_stored(settings, ask)
        if found is None:
            found, problem = _fetched(settings, ask, write, on_progress)
            _teach(settings, found.report)
        found.report.damaged += damaged
    codes = served_by(found.table, found.report.fetched)
    answer = _answer(ask, found, codes, (monotonic_ns() - begun_ns) / NS)
    _say(log, found.report, answer.report)
    if not found.table.num_rows:
        raise _no_bars(found.report, answer, problem)
    if problem is not None:
        raise FetchFailed(problem.message, partial=answer.frame, remedy=problem.remedy) from problem
    return answer


def _closed_or_stored(settings: DataSourceConfig, ask: Ask) -> tuple[_Bars | None, int]:
    """Return what needs nobody: a span without a closed bar, or one that the store has whole.

    And how many files were set aside because they were damaged.
    """
    span, report = ask.span, _report_of(ask)
    if span.closed <= span.start:
        return _Bars(NO_BARS, report), 0
    if not ask.use_store:
        return None, 0
    stored = store_at(settings.cache_dir).read(report.series, span.start, span.closed)
    report.rows = stored.table.num_rows
    whole = report.rows == report.series.timeframe.count_between(span.start, span.closed)
    return (_Bars(stored.table, report) if whole else None), stored.damaged


def _report_of(ask: Ask, why: str = "") -> Report:
    """Return a report in which what has not closed is missing, and with ``why`` the rest, too."""
    span, series = ask.span, Series(PROVIDER, ask.name.market, ask.interval.value)
    count = series.timeframe.count_between
    report = Report(series, span.start, span.end, expected=count(span.start, span.end))
    if why:
        bars = count(span.start, span.closed)
        report.missing.append(Missing(span.start, span.closed, bars, why))
    if span.end > span.closed:
        bars = count(span.closed, span.end)
        report.missing.append(Missing(span.closed, span.end, bars, "not-closed"))
    return report


# -- what is missing -------------------------------------------------------------------------------
def _fetched(
    settings: DataSourceConfig, ask: Ask, write: Callable[[str, str, str], None],
    on_progress: OnProgress | None,
) -> tuple[_Bars, HistoryError | DataUnavailable | None]:  # fmt: skip
    """Return what the history manager has, and its error where that is not all."""
    from piker.data.history.manager import HistoryManager
    from piker.dsm import runner

    manager = HistoryManager(_backend(), store_at(settings.cache_dir))
    local = _with_holes(manager, ask)
    if local is not None:
        return _Bars(local.table, local.report), None
    rounds = min(MAX_ROUNDS, settings.retry_count // (RETRIES + 1) + 1)
    call = partial(_ask_manager, manager, ask, write, on_progress)
    for left in range(rounds - 1, -1, -1):
        try:
            history = runner.run(call)
            return _Bars(history.table, history.report), None
        except DataUnavailable as err:  # the venue has nothing so early
            return _Bars(NO_BARS, _report_of(ask, "not-listed")), err
        except HistoryError as err:
            if err.partial is None:
                raise
            partly: History = err.partial
            passing = any(one.why == "failed" for one in partly.report.missing)
            if not left or not passing:
                return _Bars(partly.table, partly.report), err
    raise AssertionError("the last round returns")


@cache  # looking for backends reads what every installed package says of itself: 13 ms
def _backend() -> Any:
    from piker.brokers.spec import load_backend

    return load_backend(PROVIDER)


def _teach(settings: DataSourceConfig, report: Report) -> None:
    """Tell the symbol database, where there is one, what fetching taught of the market."""
    from piker.data.learnt import note_series

    if report.sources:
        note_series(store_at(settings.cache_dir), report.series)


def _with_holes(manager: Any, ask: Ask) -> History | None:
    """Return a stored span of which the bars that are missing are known not to exist."""
    if not ask.use_store:
        return None
    span = ask.span
    found: History | None = manager.stored(
        ask.name.market, ask.interval.value, span.start, span.closed
    )
    if found is None:
        return None
    whole, report = _report_of(ask), found.report
    report.end_s, report.expected = span.end, whole.expected
    report.missing += whole.missing
    return found


async def _ask_manager(
    manager: Any, ask: Ask, write: Callable[[str, str, str], None], on_progress: OnProgress | None
) -> History:
    span = ask.span
    with piker_log.redirected(write):
        found: History = await manager.get(
            ask.name.market, ask.interval.value, span.start, span.end,
            sources=ask.sources, use_store=ask.use_store, progress=on_progress,
        )  # fmt: skip
    return found


# -- the answer ------------------------------------------------------------------------------------
def _answer(ask: Ask, found: _Bars, codes: Any, elapsed_s: float) -> Answer:
    timeframe = found.report.series.timeframe
    gridded = ask.gridded and found.table.num_rows > 0  # an empty answer is an empty frame
    table = bars_table(found.table, codes, timeframe, ask.span, gridded=gridded)
    report = report_of(found.report, codes, elapsed_s=elapsed_s)
    attrs = {"report": report, "units": dict(UNITS_COIN if ask.coin else UNITS)}
    frame = frame_of(table, polars=ask.polars, source=ask.with_source, attrs=attrs)
    return Answer(frame, report)


def _no_bars(
    report: Report, answer: Answer, problem: HistoryError | DataUnavailable | None
) -> FetchFailed:
    whys = {one.why for one in report.missing}
    remedy = {
        "offline": "Leave out the forced source: the cache alone has none of it.",
        "not-listed": "Ask for a later range.",
        "not-closed": "The first bar of the range has not closed yet.",
        "not-offered": "Another source may have it: leave out the forced one.",
    }.get(next(iter(whys)) if len(whys) == 1 else "", "")
    if "not-offered" in whys and any(one.detail for one in report.missing):
        remedy = ""  # it says itself why nobody has it
    if isinstance(problem, DataUnavailable):
        return NoBars(problem.message, partial=answer.frame, remedy=problem.remedy)
    if problem is not None:  # something failed: there may be bars
        return FetchFailed(problem.message, partial=answer.frame, remedy=problem.remedy)
    return NoBars(report.sentence(), partial=answer.frame, remedy=remedy)


def _say(log: DsmLogger, report: Report, told: dict[str, Any]) -> None:
    """Write what was got; lines hold words of the venue, so that none is read as markup."""
    served = ", ".join(f"{name} {told['served'][name]}" for name in SERVED if told["served"][name])
    log.piker_line(
        "INFO", "history", f"{report.series}: {report.rows} of {report.expected} bars "
        f"({served or 'none'}) in {told['elapsed_s']:.3f} s",
    )  # fmt: skip
    if not report.complete:
        log.piker_line("WARNING", "history", report.sentence())
    for found in report.defects[:3]:
        line = f"{found.source}: {found.place}: {found.defect.kind}"
        log.piker_line("WARNING", "history", line)
