"""The SQLite file of a manifest, opened; and what its errors mean to a person.

:func:`write_ahead` is for any database that several processes may open first.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from piker.clock import NS, monotonic_ns
from piker.errors import StoreError

__all__ = ["BUSY_S", "DamagedManifest", "meaning_of", "open_database", "write_ahead"]

BUSY_S = 30.0  # how long a commit waits for another process's
PAUSE_S = 0.01  # between two tries at what SQLite does not wait for by itself


class DamagedManifest(StoreError):
    """The manifest is no database, or its pages are broken: it is to be made anew."""


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits are durable, made if there is none.

    Any thread may use it, one at a time. Blocks while others hold it, for ``BUSY_S`` or twice
    that. Raises ``sqlite3.Error``, and leaves nothing open then.
    """
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        write_ahead(db)
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def write_ahead(db: sqlite3.Connection) -> None:
    """Switch a database to write-ahead logging.

    A new database is switched by whoever comes first; to the others, who may be about to write,
    SQLite says at once that it is locked, and does not wait.
    """
    deadline, pause = monotonic_ns() + int(BUSY_S * NS), threading.Event()
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as err:
            if not _is_busy(err) or monotonic_ns() > deadline:
                raise
            pause.wait(PAUSE_S)


def meaning_of(err: sqlite3.Error, path: Path) -> StoreError:
    """Return the error for one of SQLite's."""
    if isinstance(err, sqlite3.DatabaseError) and not isinstance(err, sqlite3.OperationalError):
        return DamagedManifest(
            f"the store's manifest {path} can not be read: {err}.",
            remedy="Run: piker store repair, which makes it anew from the files.",
        )
    if _is_busy(err):
        return StoreError(
            f"other processes have kept the store's manifest {path} busy for {BUSY_S:.0f} s.",
            remedy="Try again; see which with: fuser -v on that file.",
        )
    if "full" in str(err):
        return StoreError(
            "the disk is full: nothing was stored.",
            remedy="Free some space; what was stored before is whole.",
        )
    return StoreError(f"the store's manifest {path} can not be used: {err}.")


def _is_busy(err: sqlite3.Error) -> bool:
    return (getattr(err, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_BUSY
