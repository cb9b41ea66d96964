"""The manifest: one SQLite database that says what the store holds.

A file counts when a row here names it; what no row names was never acknowledged. Commits are
durable (WAL, full sync). Times are epoch seconds unless a name says otherwise.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from piker.clock import wall_ns
from piker.data.ranges import Range
from piker.data.store import ticks_schema
from piker.data.store.database import meaning_of, open_database
from piker.data.store.files import sync_directory
from piker.data.store.segment import Written
from piker.data.store.series import Series
from piker.errors import StoreError

__all__ = ["Hole", "Manifest", "Origin", "Snapshot"]

VERSION = 2  # 1: bars; 2: ticks, too
_SCHEMA = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY, provider TEXT NOT NULL, market TEXT NOT NULL, interval TEXT NOT NULL,
    listed_s INTEGER,                      -- no bar before: where history begins, once known
    origin_s INTEGER,                      -- the open of one bar, where each market has a grid
    UNIQUE (provider, market, interval));
CREATE TABLE segment (
    series INTEGER NOT NULL REFERENCES series, name TEXT NOT NULL,
    start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, blocks BLOB NOT NULL, written_ns INTEGER NOT NULL,
    PRIMARY KEY (series, start_s), CHECK (start_s < end_s)) WITHOUT ROWID;
CREATE TABLE hole (
    series INTEGER NOT NULL REFERENCES series, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, why TEXT NOT NULL, seen_ns INTEGER NOT NULL,
    PRIMARY KEY (series, start_s), CHECK (start_s < end_s)) WITHOUT ROWID;
CREATE TABLE origin (
    series INTEGER NOT NULL REFERENCES series, path TEXT NOT NULL, source TEXT NOT NULL,
    start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, sha256 TEXT NOT NULL, etag TEXT NOT NULL,
    verified INTEGER NOT NULL, checked_ns INTEGER NOT NULL,
    PRIMARY KEY (series, path)) WITHOUT ROWID;
CREATE TABLE tail (
    series INTEGER NOT NULL REFERENCES series, time_s INTEGER NOT NULL, source INTEGER NOT NULL,
    row BLOB NOT NULL, PRIMARY KEY (series, time_s)) WITHOUT ROWID;
"""

#: What makes each format of the one before it.
_STEPS = (_SCHEMA, ticks_schema.SCHEMA)
assert len(_STEPS) == VERSION


class Hole(msgspec.Struct, frozen=True):
    """Bars that are not there: ``confirmed`` when the venue says that it has none either."""

    start_s: int
    end_s: int
    confirmed: bool
    why: str
    seen_ns: int = 0


class Origin(msgspec.Struct, frozen=True):
    """A file of an archive that bars came from, to notice when the venue replaces it."""

    path: str
    source: str
    start_s: int
    end_s: int
    sha256: str
    etag: str
    verified: bool
    checked_ns: int = 0


class Snapshot(NamedTuple):
    """All that the manifest says of one series, at one moment. Sorted by time."""

    files: list[Written]
    tail: list[tuple[int, int, bytes]]
    holes: list[Hole]
    listed_s: int | None


_ALWAYS = (-(1 << 62), 1 << 62)


class Manifest:
    """An open manifest: one connection, which the threads of a process take in turns."""

    def __init__(self, path: Path) -> None:
        self._turn = threading.RLock()
        self._ids: dict[Series, int] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._version = -1
        self._path = path
        try:
            self._db = open_database(path)
        except sqlite3.Error as err:
            raise meaning_of(err, path) from err
        try:
            self._migrate(path)
        except sqlite3.Error as err:
            self._db.close()
            raise meaning_of(err, path) from err
        except BaseException:
            self._db.close()
            raise

    def _migrate(self, path: Path) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            raise StoreError(
                f"{path} was written by a newer piker (format {found}, this one knows {VERSION}).",
                remedy="Upgrade piker, or set PIKER_DATA_DIR to another directory.",
            )
        if found == VERSION:
            return
        with self.commit():
            found = self._db.execute("PRAGMA user_version").fetchone()[0]  # another may have come
            if 0 < found < VERSION:
                _keep_aside(path, found)
            for step in _STEPS[found:]:
                for statement in step.split(";\n"):
                    if statement.strip():
                        self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the database."""
        with self._turn:
            self._db.close()

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Do everything of the block or nothing; durable when it ends. Other threads wait."""
        with self._turn:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as err:
                self._roll_back()
                raise meaning_of(err, self._path) from err
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._snapshots.clear()

    def snapshot(self, number: int) -> Snapshot:
        """Return what is known of a series, from memory while nobody has changed the database."""
        with self._turn:
            # Changes by other connections change this number, ours clear the cache themselves.
            version = self._rows("PRAGMA data_version")[0][0]
            if version != self._version:
                self._snapshots.clear()
                self._version = version
            found = self._snapshots.get(number)
            if found is None:
                self._rows("BEGIN")  # one moment for all four questions
                try:
                    found = Snapshot(
                        self.segments(number, *_ALWAYS), self.tail(number, *_ALWAYS),
                        self.holes(number, *_ALWAYS), self.listing(number)[0],
                    )  # fmt: skip
                finally:
                    self._rows("COMMIT")
                self._snapshots[number] = found
            return found

    def _rows(self, question: str, *values: object) -> list[Any]:
        with self._turn:
            try:
                return self._db.execute(question, values).fetchall()
            except sqlite3.Error as err:
                raise meaning_of(err, self._path) from err

    def ask(self, question: str, *values: object) -> list[Any]:
        """Return the rows that answer a question: for the tables of ticks."""
        return self._rows(question, *values)

    def tell(self, statement: str, rows: Iterable[tuple[object, ...]]) -> int:
        """Do a statement for each of ``rows``; return how many it changed. Inside of ``commit``."""
        return self._db.executemany(statement, rows).rowcount

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    # -- series ------------------------------------------------------------------------------
    def find(self, series: Series) -> int | None:
        """Return a series' number, None when nothing of it was ever stored."""
        if series not in self._ids:
            rows = self._rows(
                "SELECT id FROM series WHERE provider = ? AND market = ? AND interval = ?",
                series.provider, series.market, series.interval,
            )  # fmt: skip
            if not rows:
                return None
            self._ids[series] = rows[0][0]
        return self._ids[series]

    def add(self, series: Series) -> int:
        """Return a series' number, made if it is not there; inside of a ``commit`` block."""
        self._db.execute(
            "INSERT OR IGNORE INTO series (provider, market, interval) VALUES (?, ?, ?)",
            (series.provider, series.market, series.interval),
        )
        found = self.find(series)
        assert found is not None
        return found

    def all_series(self) -> list[tuple[int, Series]]:
        """Return every series with its number, by name."""
        rows = self._rows(
            "SELECT id, provider, market, interval, origin_s FROM series ORDER BY 2, 3, 4"
        )
        return [(number, Series(*names)) for number, *names in rows]

    def listing(self, number: int) -> tuple[int | None, int | None]:
        """Return (the time before which there are no bars, the open of one bar), once known."""
        rows = self._rows("SELECT listed_s, origin_s FROM series WHERE id = ?", number)
        return rows[0] if rows else (None, None)

    def set_listing(self, number: int, listed_s: int, origin_s: int | None) -> None:
        """Keep both; inside of a ``commit`` block."""
        self._db.execute(
            "UPDATE series SET listed_s = ?, origin_s = ? WHERE id = ?",
            (listed_s, origin_s, number),
        )

    # -- segments ----------------------------------------------------------------------------
    def segments(self, number: int, start_s: int, end_s: int) -> list[Written]:
        """Return the files that overlap [start_s, end_s), ascending. They never overlap."""
        rows = self._rows(
            "SELECT name, start_s, end_s, rows, size, sha256, blocks FROM segment"
            " WHERE series = ? AND start_s < ? AND end_s > ? ORDER BY start_s",
            number, end_s, start_s,
        )  # fmt: skip
        return [Written(*row) for row in rows]

    def replace_segments(
        self, number: int, gone: Iterable[Written], come: Iterable[Written]
    ) -> None:
        """Put files in the place of others; inside of a ``commit`` block."""
        self._db.executemany(
            "DELETE FROM segment WHERE series = ? AND name = ?",
            [(number, written.name) for written in gone],
        )
        now = wall_ns()
        self._db.executemany(
            "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (number, one.name, one.start_s, one.end_s, one.rows, one.size, one.sha256,
                 one.blocks, now)
                for one in come
            ],
        )  # fmt: skip

    # -- holes -------------------------------------------------------------------------------
    def holes(self, number: int, start_s: int, end_s: int) -> list[Hole]:
        """Return the holes that overlap [start_s, end_s), ascending."""
        rows = self._rows(
            "SELECT start_s, end_s, confirmed, why, seen_ns FROM hole"
            " WHERE series = ? AND start_s < ? AND end_s > ? ORDER BY start_s",
            number, end_s, start_s,
        )  # fmt: skip
        return [Hole(start, end, bool(sure), why, seen) for start, end, sure, why, seen in rows]

    def replace_holes(self, number: int, within: Range, holes: Iterable[Hole]) -> None:
        """Say anew which holes there are in a range; inside of a ``commit`` block.

        Holes that reach beyond the range keep what is beyond.
        """
        outside = []
        for hole in self.holes(number, *within):
            if hole.start_s < within.start:
                outside.append(msgspec.structs.replace(hole, end_s=within.start))
            if hole.end_s > within.end:
                outside.append(msgspec.structs.replace(hole, start_s=within.end))
        self._db.execute(
            "DELETE FROM hole WHERE series = ? AND start_s < ? AND end_s > ?",
            (number, within.end, within.start),
        )
        now = wall_ns()
        self._db.executemany(
            "INSERT INTO hole VALUES (?, ?, ?, ?, ?, ?)",
            [
                (number, hole.start_s, hole.end_s, hole.confirmed, hole.why, hole.seen_ns or now)
                for hole in (*outside, *holes)
            ],
        )

    # -- origins -----------------------------------------------------------------------------
    def origins(self, number: int, start_s: int, end_s: int) -> list[Origin]:
        """Return the archive files that bars of [start_s, end_s) came from."""
        rows = self._rows(
            "SELECT path, source, start_s, end_s, sha256, etag, verified, checked_ns FROM origin"
            " WHERE series = ? AND start_s < ? AND end_s > ? ORDER BY start_s",
            number, end_s, start_s,
        )  # fmt: skip
        return [
            Origin(path, source, start, end, sha256, etag, bool(sound), checked)
            for path, source, start, end, sha256, etag, sound, checked in rows
        ]

    def put_origin(self, number: int, origin: Origin) -> None:
        """Keep an archive file's words; inside of a ``commit`` block."""
        self._db.execute(
            "INSERT OR REPLACE INTO origin VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, origin.path, origin.source, origin.start_s, origin.end_s, origin.sha256,
             origin.etag, origin.verified, origin.checked_ns or wall_ns()),
        )  # fmt: skip

    # -- bars that are not in files yet --------------------------------------------------------
    def put_tail(self, number: int, time_s: int, source: int, row: bytes) -> None:
        """Keep one bar; inside of a ``commit`` block."""
        self._db.execute(
            "INSERT OR REPLACE INTO tail VALUES (?, ?, ?, ?)", (number, time_s, source, row)
        )

    def tail(self, number: int, start_s: int, end_s: int) -> list[tuple[int, int, bytes]]:
        """Return (time, source, row) of the bars in [start_s, end_s), ascending."""
        return self._rows(
            "SELECT time_s, source, row FROM tail WHERE series = ? AND time_s >= ? AND time_s < ?"
            " ORDER BY time_s",
            number, start_s, end_s,
        )  # fmt: skip

    def drop_tail(self, number: int, kept: Iterable[tuple[int, int, bytes]]) -> None:
        """Forget bars that a file holds now, as ``tail`` gave them; inside of a ``commit`` block.

        One that was written anew meanwhile stays.
        """
        self._db.executemany(
            "DELETE FROM tail WHERE series = ? AND time_s = ? AND source = ? AND row = ?",
            [(number, *row) for row in kept],
        )

    def integrity(self) -> str:
        """Return ``ok``, or what SQLite found wrong with its file."""
        return str(self._rows("PRAGMA quick_check")[0][0])

    def tail_size(self, number: int) -> int:
        """Return how many bars are not in files."""
        return int(self._rows("SELECT count(*) FROM tail WHERE series = ?", number)[0][0])


def _keep_aside(path: Path, version: int) -> None:
    """Copy a manifest of an older format to ``manifest.db.v1`` before it is changed, durably.

    The caller is the only writer meanwhile. One that was kept before is replaced: this is newer.
    """
    kept = path.with_name(f"{path.name}.v{version}")
    draft = kept.with_name(f".{kept.name}.tmp")
    try:
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(draft)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal beside it
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(kept)
        sync_directory(path.parent)
    except (OSError, sqlite3.Error) as err:
        draft.unlink(missing_ok=True)
        raise StoreError.of(err, kept) from err
