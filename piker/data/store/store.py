"""The store: what was fetched once is there for good, or is found to be damaged.

Files never change: a write makes new ones and a commit of the manifest puts them in the place of
the old, so that a process killed at any moment leaves the store as it was before the write or
after it. Writers of one series take turns (a lock file in its folder); readers take no lock.

Every method blocks: on the disk, and writers on each other. Async code calls them in a thread.
"""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from piker import config
from piker.clock import NS, wall_ns
from piker.data.ranges import Range, intersect
from piker.data.store import merge
from piker.data.store.database import DamagedManifest
from piker.data.store.manifest import Hole, Manifest, Origin, Snapshot
from piker.data.store.segment import (
    NO_BARS,
    SOURCES,
    Segment,
    Written,
    arrow_of,
    numpy_of,
    rows_of,
    write_segment,
)
from piker.data.store.series import Series, folder_of
from piker.data.store.turns import LOCK_S, may_be_cut, turn
from piker.errors import Bug, DataQuality, StoreError
from piker.log import get_logger
from piker.ohlcv import KLINE_DTYPE

__all__ = ["Coverage", "Store", "Stored"]

log = get_logger("store")

OPEN_FILES = 1024  # mapped files kept open by one process
_RETRIES = 20  # readings and writings while others replace files, or append bars, under us
_ALWAYS = (-(1 << 62), 1 << 62)

Rows = np.ndarray[Any, np.dtype[Any]]


class Coverage(NamedTuple):
    """What is known of a range: where it was asked for, and what was not there."""

    covered: tuple[Range, ...]
    holes: tuple[Hole, ...]
    listed_s: int | None  # no bar before, once known


class Stored(NamedTuple):
    """Bars of a range as they are stored: a table of ``SCHEMA``, mapped where it can be."""

    table: pa.Table
    coverage: Coverage
    damaged: int  # files that were found damaged and set aside on the way


class Store:
    """All series under one directory. Safe between threads and processes."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or config.data_dir() / "store"
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise StoreError.of(err, self.root) from err
        self._local = threading.local()
        self._manifest: Manifest | None = None
        self._pid = os.getpid()
        self._open: OrderedDict[tuple[Series, str], Segment] = OrderedDict()
        self._guard = threading.Lock()

    def close(self) -> None:
        """Close the database; tables that were read stay valid."""
        with self._guard:
            self._open.clear()
            if self._manifest is not None:
                self._manifest.close()
                self._manifest = None

    @property
    def manifest(self) -> Manifest:
        """Return the manifest, opened when it is first needed, and anew in a forked process."""
        found = self._manifest
        if found is None or self._pid != os.getpid():
            with self._guard:
                found = self._manifest
                fresh = found is None or self._pid != os.getpid()
                if found is None or fresh:
                    found, self._pid = self._open_manifest(), os.getpid()
                    self._manifest = found
            if fresh:
                self._tidy(found)
        return found

    def _open_manifest(self) -> Manifest:
        path = self.root / "manifest.db"
        if not path.exists() and any(self.root.glob("*/*/*/**/*.arrow")) and not path.exists():
            raise DamagedManifest(  # a new one would make left-overs of all of them
                f"{self.root} holds bars or ticks, and no manifest that names their files.",
                remedy="Run: piker store repair, which makes it anew from the files.",
            )
        return Manifest(path)

    def _tidy(self, manifest: Manifest) -> None:
        """Remove what killed writers have left, where nobody is writing now.

        It costs whoever opens the store a millisecond for 500 series.
        """
        root = str(self.root)
        for names in manifest.ask("SELECT provider, market, interval FROM series"):
            if may_be_cut(f"{root}/{folder_of(*names)}"):
                with suppress(StoreError, OSError), self.lock(Series(*names), wait_s=0):
                    pass  # taking the turn of one who was cut sweeps

    def folder(self, series: Series) -> Path:
        """Return where a series' files are."""
        return self.root / series.folder

    # -- reading -----------------------------------------------------------------------------
    def coverage(self, series: Series, start_s: int, end_s: int) -> Coverage:
        """Return what is known of [start_s, end_s), without opening a file."""
        number = self.manifest.find(series)
        if number is None:
            return Coverage((), (), None)
        return _coverage(self.manifest.snapshot(number), series, Range(start_s, end_s))

    def read(self, series: Series, start_s: int, end_s: int) -> Stored:
        """Return the bars that open in [start_s, end_s), ascending, as far as they are stored.

        A damaged file is set aside and its bars are missing from the coverage: fetch them again.
        """
        number = self.manifest.find(series)
        damaged = 0
        if number is None:
            return Stored(NO_BARS, Coverage((), (), None), 0)
        for _ in range(_RETRIES):
            known = self.manifest.snapshot(number)
            low, high = _overlapping(known.files, start_s, end_s)
            files = known.files[low:high]
            try:
                pieces = self._slices(series, files, start_s, end_s)
            except _Damaged as bad:
                damaged += self.set_aside(series, number, bad.known, bad.why)
                continue
            if known.tail:
                within = [row for row in known.tail if start_s <= row[0] < end_s]
                pieces += _tail_pieces(within, series, files)
                pieces.sort(key=lambda piece: piece[0])
            found = [piece for _, piece in pieces if piece.num_rows]
            table = pa.concat_tables(found) if len(found) > 1 else found[0] if found else NO_BARS
            return Stored(table, _coverage(known, series, Range(start_s, end_s)), damaged)
        raise StoreError(f"the files of {series} change faster than they can be read.")

    def _slices(
        self, series: Series, files: list[Written], start_s: int, end_s: int
    ) -> list[tuple[int, pa.Table]]:
        pieces = []
        for known in files:
            try:
                piece = self.open_segment(series, known).slice(start_s, end_s)
            except DataQuality as err:
                raise _Damaged(known, err.message) from err
            pieces.append((known.start_s, piece))
        return pieces

    def column(self, series: Series, name: str, start_s: int, end_s: int) -> Rows:
        """Return one column of a range: for scans of many series. A view where one file has it."""
        number = self.manifest.find(series)
        if number is not None:
            known = self.manifest.snapshot(number)
            low, high = _overlapping(known.files, start_s, end_s)
            if high - low == 1 and not known.tail:
                try:
                    return self.open_segment(series, known.files[low]).column(name, start_s, end_s)
                except DataQuality:
                    pass  # read() sets it aside
        return numpy_of(self.read(series, start_s, end_s).table, name)

    def rows(self, series: Series, start_s: int, end_s: int) -> tuple[Rows, Rows]:
        """Return (``KLINE_DTYPE`` rows, source codes) of a range, as copies."""
        return rows_of(self.read(series, start_s, end_s).table)

    def open_segment(self, series: Series, known: Written) -> Segment:
        """Return a file, opened now or kept open; ``DataQuality`` when it can not be trusted."""
        key = (series, known.name)
        found = self._open.get(key)
        if found is not None and found.is_as_opened():
            return found
        opened = Segment(self.folder(series) / known.name, series, known)
        with self._guard:
            self._open[key] = opened
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return opened

    def set_aside(self, series: Series, number: int, known: Written, why: str) -> int:
        """Move a damaged file to quarantine; return 0 when it was only replaced meanwhile."""
        with self.lock(series):
            now = self.manifest.segments(number, known.start_s, known.end_s)
            if known not in now:
                return 0
            path = self.folder(series) / known.name
            with self.manifest.commit():
                self.manifest.replace_segments(number, [known], [])
            aside = self.root / "quarantine"
            aside.mkdir(mode=0o700, exist_ok=True)
            if path.exists():
                path.rename(aside / f"{str(series).replace('/', '_')}_{known.name}")
        with self._guard:
            self._open.pop((series, known.name), None)
        log.error("store.damaged", series=series, file=known.name, why=why)
        return 1

    # -- writing -----------------------------------------------------------------------------
    def write(
        self, series: Series, rows: Rows, start_s: int, end_s: int, *,
        source: str | Rows, confirmed: bool = False, why: str = "", origin: Origin | None = None,
    ) -> int:  # fmt: skip
        """Keep what was found in [start_s, end_s), durably; return how many stored bars changed.

        ``rows`` are closed bars of ``KLINE_DTYPE``, ascending, unique, on the grid. Bars of the
        range that are not among them are holes, ``confirmed`` if the venue says that it has none.
        What is stored already and of a better source stays. Raises ``StoreError`` (and keeps
        everything as it was) when the disk is full.
        """
        self._check(series, rows, start_s, end_s)
        codes = _codes(source, len(rows))
        asked = Hole(start_s, end_s, confirmed, why)
        with self.lock(series):
            with self.manifest.commit():
                number = self.manifest.add(series)
            for _ in range(_RETRIES):
                try:
                    return self._merge_in(series, number, (rows, codes), asked, origin)
                except _AppendedError:
                    continue
        raise StoreError(f"bars of {series} are appended faster than they can be put into files.")

    def _merge_in(
        self, series: Series, number: int, rows: merge.Part, asked: Hole, origin: Origin | None
    ) -> int:
        """Put rows among those that are stored; raise ``_AppendedError`` if that must be redone."""
        manifest = self.manifest
        old = manifest.segments(number, asked.start_s, asked.end_s)
        tail = manifest.tail(number, asked.start_s, asked.end_s)
        kept = [self.whole(series, number, known) for known in old]
        old = [known for known, table in zip(old, kept, strict=True) if table is not None]
        parts = [rows_of(table) for table in kept if table is not None]
        if tail:
            parts.append(tail_rows(tail))
        merged, codes, changed = merge.merge(parts, rows)
        span = Range(
            min([asked.start_s, *(known.start_s for known in old)]),
            max([asked.end_s, *(known.end_s for known in old)]),
        )
        holes = merge.holes_after(
            merge.missing_runs(series.timeframe, merged["time"], span),
            manifest.holes(number, *span),
            asked,
        )
        new = self.write_files(series, merged, codes, span)
        try:
            with manifest.commit():
                if manifest.tail(number, asked.start_s, asked.end_s) != tail:
                    raise _AppendedError
                manifest.replace_segments(number, old, new)
                manifest.drop_tail(number, tail)
                manifest.replace_holes(number, span, holes)
                if origin is not None:
                    manifest.put_origin(number, origin)
        except BaseException:
            self.unlink(series, new)
            raise
        self.unlink(series, old)
        return changed

    def append(self, series: Series, row: Rows, *, source: str = "live") -> bool:
        """Keep one closed bar, durably, with one sync of the disk; False if it is stored already.

        ``row`` is one element of ``KLINE_DTYPE``.
        """
        time_s = int(row["time"])
        after = series.timeframe.next(time_s)
        self._check(series, np.asarray(row).reshape(1), time_s, after)
        manifest = self.manifest
        number = manifest.find(series)
        if number is not None and manifest.segments(number, time_s, after):
            return False
        with manifest.commit():
            number = manifest.add(series)
            if manifest.segments(number, time_s, after):
                return False  # a writer's file came in between
            manifest.put_tail(number, time_s, SOURCES.index(source), row.tobytes())
        return True

    def _check(self, series: Series, rows: Rows, start_s: int, end_s: int) -> None:
        times, timeframe = rows["time"], series.timeframe
        now_s = wall_ns() // NS
        if (
            start_s >= end_s
            or timeframe.floor(start_s) != start_s
            or timeframe.floor(end_s) != end_s
        ):
            raise Bug(f"{series}: [{start_s}, {end_s}) is no range of bars.")
        if end_s > timeframe.floor(now_s):
            raise Bug(f"{series}: the bar before {end_s} is not closed: it is not stored.")
        if rows.dtype != KLINE_DTYPE:
            raise Bug(f"{series}: rows to store must be KLINE_DTYPE.")
        if len(rows) and not (
            times[0] >= start_s
            and times[-1] < end_s
            and (np.diff(times) > 0).all()
            and timeframe.on_grid(times).all()
        ):
            raise Bug(f"{series}: rows to store must ascend on the grid within their range.")

    def write_files(self, series: Series, rows: Rows, codes: Rows, span: Range) -> list[Written]:
        """Write files that no manifest names yet, one a bucket; leave nothing when one fails."""
        folder = self.folder(series)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new: list[Written] = []
        try:
            for part in merge.buckets(series.timeframe, span):
                low, high = np.searchsorted(rows["time"], part)
                table = arrow_of(rows[low:high], series, codes[low:high])
                new.append(write_segment(folder, series, table, *part))
        except BaseException:
            self.unlink(series, new)
            raise
        return new

    def whole(self, series: Series, number: int, known: Written) -> pa.Table | None:
        """Return all of a file, checked; None when it was damaged and is set aside."""
        try:
            return self.open_segment(series, known).slice(known.start_s, known.end_s)
        except DataQuality as err:
            self.set_aside(series, number, known, err.message)
            return None

    def unlink(self, series: Series, files: list[Written]) -> None:
        """Remove files that the manifest does not name any more; mapped ones stay readable."""
        with self._guard:
            for known in files:
                self._open.pop((series, known.name), None)
                (self.folder(series) / known.name).unlink(missing_ok=True)

    # -- the lock ----------------------------------------------------------------------------
    @contextmanager
    def lock(self, series: Series, *, wait_s: float = LOCK_S) -> Iterator[None]:
        """Be the only writer of a series, among all threads and processes. Re-entrant.

        What one who was killed has left is removed first.
        """
        held: dict[Series, int] = self._local.__dict__.setdefault("held", {})
        if held.get(series):
            held[series] += 1
            try:
                yield
            finally:
                held[series] -= 1
            return
        with turn(self.folder(series), series, wait_s=wait_s) as was_cut:
            held[series] = 1
            try:
                if was_cut and type(series) is Series:  # ticks, a kind of it, have their own way
                    self.sweep(series)
                yield
            finally:
                held.pop(series, None)

    def sweep(self, series: Series) -> int:
        """Remove files that no manifest names, of writers that were killed; return how many."""
        folder, gone = self.folder(series), 0
        with self.lock(series):
            number = self.manifest.find(series)
            files = self.manifest.segments(number, *_ALWAYS) if number is not None else []
            known = {one.name for one in files}
            for path in folder.iterdir():
                if path.name != ".lock" and path.name not in known:
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone


class _AppendedError(Exception):
    """A bar came in by ``append`` while those of its range were put into a file."""


class _Damaged(Exception):
    """A file can not be used; it is set aside, and the reading begins anew."""

    def __init__(self, known: Written, why: str) -> None:
        self.known = known
        self.why = why


def _overlapping(files: list[Written], start_s: int, end_s: int) -> tuple[int, int]:
    """Return which of the files, which are sorted and apart, overlap a range."""
    low = bisect.bisect_right(files, start_s, key=lambda one: one.end_s)
    return low, bisect.bisect_left(files, end_s, lo=low, key=lambda one: one.start_s)


def _coverage(known: Snapshot, series: Series, asked: Range) -> Coverage:
    low, high = _overlapping(known.files, *asked)
    spans = [(one.start_s, one.end_s) for one in known.files[low:high]]
    if known.tail:
        after = series.timeframe.next
        spans += [(time, after(time)) for time, _, _ in known.tail if asked[0] <= time < asked[1]]
    holes = [one for one in known.holes if one.start_s < asked.end and one.end_s > asked.start]
    whole = len(spans) == 1 and spans[0][0] <= asked.start and spans[0][1] >= asked.end
    covered = (asked,) if whole else intersect(spans, [asked])
    return Coverage(covered, tuple(holes), known.listed_s)


def _codes(source: str | Rows, count: int) -> Rows:
    if isinstance(source, str):
        return np.full(count, SOURCES.index(source), "u1")
    return source


def tail_rows(tail: list[tuple[int, int, bytes]]) -> tuple[Rows, Rows]:
    """Return bars of the manifest as (rows, source codes)."""
    rows = np.frombuffer(b"".join(row for _, _, row in tail), KLINE_DTYPE)
    return rows, np.array([source for _, source, _ in tail], "u1")


def _tail_pieces(
    tail: list[tuple[int, int, bytes]], series: Series, files: list[Written]
) -> list[tuple[int, pa.Table]]:
    """Return the bars that are not in files as tables, one for each gap between files."""
    if not tail:
        return []
    rows, codes = tail_rows(tail)
    edges = np.searchsorted(rows["time"], [known.start_s for known in files])
    cuts = sorted({0, len(rows), *edges.tolist()})
    return [
        (int(rows["time"][low]), arrow_of(rows[low:high], series, codes[low:high]))
        for low, high in itertools.pairwise(cuts)
    ]
