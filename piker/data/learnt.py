"""What fetching history taught of markets, told to the symbol database: when their bars begin.

Called by the faces that fetch (``piker history``, piker.dsm), and by ``piker symbols populate``,
which takes over what daemons have learnt meanwhile. History itself knows of no symbol database.
"""

from __future__ import annotations

import threading
from pathlib import Path

from piker.config import data_dir
from piker.data.store.series import Series
from piker.data.store.store import Store
from piker.data.symbols import SymbolDb
from piker.errors import StoreError
from piker.log import get_logger

__all__ = ["note_series", "note_store"]

MAX_TOLD = 10_000  # series that are remembered as told: those of a scan over all markets

_told: set[tuple[Path, Series]] = set()
_guard = threading.Lock()
log = get_logger("symbols")


def note_series(store: Store, series: Series) -> None:
    """Tell the symbol database, where there is one, when a series begins; once for each.

    Blocks for the disk. Never raises: what could not be told is told by the next fetch.
    """
    path = data_dir() / "symbols.db"
    key = (path, series)
    with _guard:
        if key in _told or not path.exists():
            return
    try:
        number = store.manifest.find(series)
        listed_s = None if number is None else store.manifest.listing(number)[0]
        if listed_s is None:
            return
        with SymbolDb.open(path) as db:
            db.note_earliest(series.fqme, series.interval, listed_s)
    except StoreError as err:
        log.info("symbols.earliest", series=series, why=err.message)
        return
    with _guard:
        if len(_told) >= MAX_TOLD:
            _told.clear()
        _told.add(key)


def note_store(db: SymbolDb) -> int:
    """Tell all that the user's store knows; return of how many series.

    A store that is not there is not made. Blocks. Raises ``StoreError`` for one that can not be
    read.
    """
    root = data_dir() / "store"
    if not (root / "manifest.db").exists():
        return 0
    store = Store(root)
    try:
        found = [
            (series.fqme, series.interval, listed_s)
            for number, series in store.manifest.all_series()
            if (listed_s := store.manifest.listing(number)[0]) is not None
        ]
    finally:
        store.close()
    db.note_all_earliest(found)
    return len(found)
