"""Funding rates that were fetched once: a small SQLite file beside the store's manifest.

The key is the market's whole id and the time; which ranges were asked for is kept apart from what
came, so that "no funding" and "not asked" are never confused. Commits are durable and exclude each
other between processes. All of it blocks, for a millisecond.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from piker.data.ranges import Range, intersect, subtract, union
from piker.data.store.database import write_ahead
from piker.errors import StoreError

__all__ = ["RATE_DTYPE", "FundingStore"]

BUSY_S = 30.0  # how long a commit waits for another process's
VERSION = 1
#: A funding: ``interval_h`` are the hours since the one before, 0 where nobody said.
RATE_DTYPE = np.dtype([("time_ms", "<i8"), ("rate", "<f8"), ("interval_h", "<i8")])
_SCHEMA = (
    "CREATE TABLE rate (market TEXT NOT NULL, time_ms INTEGER NOT NULL, rate REAL NOT NULL,"
    " interval_h INTEGER NOT NULL, PRIMARY KEY (market, time_ms)) WITHOUT ROWID",
    "CREATE TABLE asked (market TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,"
    " PRIMARY KEY (market, start_ms)) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)

Rows = np.ndarray[Any, np.dtype[Any]]


class FundingStore:
    """All markets' fundings under one directory. Connections are opened for each call."""

    def __init__(self, root: Path) -> None:
        self.path = root / "funding.db"

    def missing(self, market: str, start_ms: int, end_ms: int) -> tuple[Range, ...]:
        """Return what of [start, end) was never asked for."""
        with self._open() as db:
            return subtract([(start_ms, end_ms)], self._asked(db, market))

    def read(self, market: str, start_ms: int, end_ms: int) -> Rows:
        """Return the fundings in [start, end) that are there, ascending."""
        with self._open() as db:
            found = db.execute(
                "SELECT time_ms, rate, interval_h FROM rate"
                " WHERE market = ? AND time_ms >= ? AND time_ms < ? ORDER BY time_ms",
                (market, start_ms, end_ms),
            ).fetchall()
        return np.array(found, RATE_DTYPE)

    def write(self, market: str, rows: Rows, start_ms: int, end_ms: int) -> None:
        """Keep all that there is in [start, end), durably: what was there before goes."""
        with self._open() as db, _commit(db):
            db.execute(
                "DELETE FROM rate WHERE market = ? AND time_ms >= ? AND time_ms < ?",
                (market, start_ms, end_ms),
            )
            inside = intersect([(start_ms, end_ms)], self._spans(rows))
            assert len(rows) == 0 or inside == self._spans(rows)
            db.executemany(
                "INSERT INTO rate VALUES (?, ?, ?, ?)",
                [(market, int(t), float(rate), int(hours)) for t, rate, hours in rows.tolist()],
            )
            asked = union([*self._asked(db, market), (start_ms, end_ms)])
            db.execute("DELETE FROM asked WHERE market = ?", (market,))
            db.executemany("INSERT INTO asked VALUES (?, ?, ?)", [(market, *one) for one in asked])

    def forget(self, market: str) -> int:
        """Remove a market, and what was asked of it; return how many fundings there were."""
        with self._open() as db, _commit(db):
            gone = db.execute("DELETE FROM rate WHERE market = ?", (market,)).rowcount
            db.execute("DELETE FROM asked WHERE market = ?", (market,))
        return gone

    @staticmethod
    def _spans(rows: Rows) -> tuple[Range, ...]:
        times = rows["time_ms"]
        return (Range(int(times[0]), int(times[-1]) + 1),) if len(rows) else ()

    def _asked(self, db: sqlite3.Connection, market: str) -> list[tuple[int, int]]:
        return db.execute(
            "SELECT start_ms, end_ms FROM asked WHERE market = ?", (market,)
        ).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file; a damaged one is set aside first: all of it can be fetched again."""
        try:
            db = self._connect()
        except sqlite3.OperationalError as err:
            raise StoreError(f"can not open {self.path}: {err}.") from err
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                path = self.path.with_name(self.path.name + suffix)
                if path.exists():
                    path.replace(path.with_name(f"{path.name}.bad"))
            db = self._connect()
        try:
            with closing(db):
                yield db
        except sqlite3.Error as err:
            raise StoreError(f"{self.path} can not be used: {err}.") from err

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            write_ahead(db)
            db.execute("PRAGMA synchronous = FULL")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                with _commit(db):
                    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                        for statement in _SCHEMA:
                            db.execute(statement)
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def _commit(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
