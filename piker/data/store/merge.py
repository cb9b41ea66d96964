"""Rows of several sources as one, and how a series is cut into files. All of it is pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from piker.data.ranges import Range
from piker.data.store.manifest import Hole
from piker.data.store.segment import SOURCES, Written
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = ["RANK", "buckets", "holes_after", "merge", "missing_runs", "runs"]

#: Whose word counts where two differ, by source code: an archive is the venue's last word, what we
#: saw live the first.
_ORDER = ("unknown", "live", "import", "trades", "rest", "archive")
RANK = np.array([_ORDER.index(name) for name in SOURCES], "u1")

Rows = np.ndarray[Any, np.dtype[Any]]
Part = tuple[Rows, Rows]  # rows, and a source code for each


def merge(old: Sequence[Part], new: Part) -> tuple[Rows, Rows, int]:
    """Return (rows, source codes, how many old rows changed), ascending and unique.

    Of two rows of one time the better source's stays, of equal sources the new one. Old parts do
    not share times.
    """
    if not old:
        return new[0], new[1], 0
    rows = np.concatenate([part[0] for part in old] + [new[0]])
    codes = np.concatenate([part[1] for part in old] + [new[1]])
    count = len(rows) - len(new[0])
    age = np.zeros(len(rows), "u1")
    age[count:] = 1
    order = np.lexsort((age, RANK[codes], rows["time"]))
    rows, codes, age = rows[order], codes[order], age[order]
    last = np.ones(len(rows), bool)
    last[:-1] = rows["time"][1:] != rows["time"][:-1]
    beaten = np.flatnonzero(~last & (np.append(age[1:], 0) > 0))  # old rows that new ones replace
    return rows[last], codes[last], int(differ(rows[beaten], rows[beaten + 1]).sum())


def differ(ours: Rows, theirs: Rows) -> Any:
    """Tell for each pair of rows whether they contradict each other; NaN contradicts nothing."""
    found = np.zeros(len(ours), bool)
    for name in KLINE_DTYPE.names or ():
        if name not in ("index", "bar_wap"):
            a, b = ours[name], theirs[name]
            found |= (a == a) & (b == b) & (a != b)
    return found


def missing_runs(timeframe: Timeframe, times: Rows, span: Range) -> list[Range]:
    """Return the ranges of ``span`` in which no bar opens though one should."""
    if len(times) == timeframe.count_between(*span):
        return []
    grid = timeframe.grid(*span)
    absent = grid[~np.isin(grid, times, assume_unique=True)]
    if not len(absent):
        return []
    position = np.searchsorted(grid, absent)
    cuts = np.flatnonzero(np.diff(position) > 1) + 1
    return [Range(int(run[0]), timeframe.next(int(run[-1]))) for run in np.split(absent, cuts)]


def holes_after(missing: Sequence[Range], before: Sequence[Hole], asked: Hole) -> list[Hole]:
    """Return the holes that ``missing`` bars are, after a range was asked for.

    ``asked`` is that range and what an absent bar of it means. What was confirmed stays so.
    """
    edges = {asked.start_s, asked.end_s}
    edges.update(edge for hole in before for edge in (hole.start_s, hole.end_s))
    holes: list[Hole] = []
    for run in missing:
        cuts = sorted({*run, *(edge for edge in edges if run.start < edge < run.end)})
        for start, end in itertools.pairwise(cuts):
            known = [hole for hole in before if hole.start_s <= start < hole.end_s]
            if asked.start_s <= start < asked.end_s:
                known.append(asked)
            sure = [hole for hole in known if hole.confirmed] or known
            last = holes[-1] if holes else None
            now = Hole(start, end, bool(sure) and sure[-1].confirmed, sure[-1].why if sure else "")
            if (
                last
                and last.end_s == start
                and (last.confirmed, last.why) == (now.confirmed, now.why)
            ):
                holes[-1] = Hole(last.start_s, end, now.confirmed, now.why)
            else:
                holes.append(now)
    return holes


# -- files ---------------------------------------------------------------------------------------
def buckets(timeframe: Timeframe, span: Range) -> Iterator[Range]:
    """Cut a range where files must end, so that none grows beyond about 60 MB.

    Bars under a minute: at Mondays. Under an hour: at years. Longer ones: nowhere.
    """
    at = span.start
    while at < span.end:
        end = min(span.end, _bucket_end(timeframe, at))
        yield Range(at, end)
        at = end


def _bucket_end(timeframe: Timeframe, time_s: int) -> int:
    if timeframe.seconds < 60:
        return Timeframe("1w").next(time_s)
    if timeframe.seconds < 3600:
        year = datetime.fromtimestamp(time_s, UTC).year
        return int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    return 1 << 62


def runs(timeframe: Timeframe, files: Sequence[Written], least: int) -> list[list[Written]]:
    """Return the groups of files that are to become one: unbroken, in one bucket."""
    groups: list[list[Written]] = []
    for known in files:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and last.end_s == known.start_s
            and known.start_s < _bucket_end(timeframe, groups[-1][0].start_s)
        ):
            groups[-1].append(known)
        else:
            groups.append([known])
    return [group for group in groups if len(group) >= least]
