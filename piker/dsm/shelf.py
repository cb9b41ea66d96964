"""The stores of this process, one for each directory: kept open, so that maps and checks last.

Reading from here needs neither trio nor a backend: a notebook's first call is as quick as its
imports.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from piker.config import data_dir
from piker.data.ranges import Range
from piker.data.store.series import Series
from piker.data.store.store import Store

__all__ = ["Holding", "forget", "holding_of", "store_at"]

_ALWAYS = (-(1 << 62), 1 << 62)
MAX_STORES = 8  # directories that are kept open; a process uses one, tests a few


class _Open(NamedTuple):
    store: Store
    manifest: tuple[int, int]


_open: OrderedDict[Path, _Open] = OrderedDict()
_guard = threading.Lock()
_inherited: list[Store] = []  # of the parent: closing its databases here would disturb it


def store_at(root: Path | str | None) -> Store:
    """Return the store in a directory (piker's own unless given), opened now or before.

    One whose manifest was deleted or replaced meanwhile is opened anew.
    """
    path = Path(root) if root is not None else data_dir() / "store"
    path = path.expanduser().absolute()
    with _guard:
        known = _open.get(path)
        if known is not None and known.manifest == _identity(path):
            _open.move_to_end(path)
            return known.store
        store = Store(path)
        store.manifest.all_series()  # it is there from now on
        _open[path] = _Open(store, _identity(path))
        while len(_open) > MAX_STORES:
            _open.popitem(last=False)  # not closed: a call may be using it; it goes with its users
        return store


class Holding(NamedTuple):
    """What the store has of one series: times in epoch seconds, both 0 where there is nothing."""

    files: int
    rows: int
    bytes: int
    start_s: int
    end_s: int


def holding_of(store: Store, series: Series) -> Holding:
    """Return what is stored of a series, without opening a file."""
    number = store.manifest.find(series)
    if number is None:
        return Holding(0, 0, 0, 0, 0)
    files = store.manifest.segments(number, *_ALWAYS)
    tail = store.manifest.tail(number, *_ALWAYS)
    starts = [one.start_s for one in files] + [time for time, _, _ in tail]
    ends = [one.end_s for one in files] + [series.timeframe.next(time) for time, _, _ in tail]
    rows = sum(one.rows for one in files) + len(tail)
    size = sum(one.size for one in files) + sum(len(row) for _, _, row in tail)
    return Holding(len(files), rows, size, min(starts, default=0), max(ends, default=0))


def forget(store: Store, series: Series) -> Holding:
    """Remove a series from the store, and what is known of its holes; return what there was."""
    gone = holding_of(store, series)
    number = store.manifest.find(series)
    if number is None:
        return gone
    with store.lock(series):
        files = store.manifest.segments(number, *_ALWAYS)
        tail = store.manifest.tail(number, *_ALWAYS)
        with store.manifest.commit():
            store.manifest.replace_segments(number, files, [])
            store.manifest.drop_tail(number, tail)
            store.manifest.replace_holes(number, Range(*_ALWAYS), [])
        store.unlink(series, files)
    return gone


def _identity(root: Path) -> tuple[int, int]:
    try:
        found = (root / "manifest.db").stat()
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _after_fork() -> None:
    """Open the stores anew: SQLite's connections must not be carried into a child."""
    global _guard
    _guard = threading.Lock()
    _inherited.extend(known.store for known in _open.values())
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)
