"""Why bars are not there: what the store knows, and what the sources said. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from piker import clock
from piker.data.history.quality import Missing
from piker.data.ranges import Range, intersect, subtract
from piker.data.store import merge
from piker.data.store.segment import numpy_of
from piker.data.store.series import Series
from piker.data.store.store import Rows, Stored

__all__ = ["explain"]


def explain(
    series: Series, whole: Range, closed: Range, stored: Stored,
    excuses: Sequence[tuple[Range, str, str]], *, offline: bool,
) -> list[Missing]:  # fmt: skip
    """Say of every bar that is not there why."""
    timeframe = series.timeframe
    found: list[Missing] = []

    def say(part: Range, why: str, detail: str = "") -> None:
        bars = timeframe.count_between(*part)
        if bars:
            found.append(Missing(part.start, part.end, bars, why, detail))

    if whole.end > closed.end:
        say(Range(max(whole.start, closed.end), whole.end), "not-closed")
    if closed.start >= closed.end:
        return found
    times = _times_of(stored.table)
    runs = merge.missing_runs(timeframe, times, closed)
    listed = stored.coverage.listed_s
    for run in runs:
        left: tuple[Range, ...] = (run,)
        if listed is not None:
            for part in intersect(left, [(run.start, listed)]):
                say(part, "not-listed")
            left = subtract(left, [(run.start, listed)])
        for hole in stored.coverage.holes:
            if hole.confirmed:
                span = [(hole.start_s, hole.end_s)]
                for part in intersect(left, span):
                    say(part, "confirmed", hole.why)
                left = subtract(left, span)
        for excuse, why, detail in reversed(excuses):
            for part in intersect(left, [excuse]):
                say(part, why, detail)
            left = subtract(left, [excuse])
        for part in left:
            say(part, "offline" if offline else "not-offered", _hole_word(stored, part))
    return sorted(found, key=lambda one: one.start_s)


def _times_of(table: pa.Table) -> Rows:
    """Return the open times of a table in seconds."""
    times: Rows = numpy_of(table, "open_time").view("i8") // clock.NS
    return times


def _hole_word(stored: Stored, part: Range) -> str:
    return next(
        (h.why for h in stored.coverage.holes if part.overlaps(Range(h.start_s, h.end_s))), ""
    )
