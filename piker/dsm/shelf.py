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
from piker.data.store.store import Store

__all__ = ["store_at"]

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
