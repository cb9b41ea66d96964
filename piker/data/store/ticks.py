"""Ticks in the store: what a feed's rings held, kept in day files, no tick lost or doubled.

A tick is known by the number of its ring and its row number there. The manifest says how far each
ring is stored, in the commit that names the file which stores it: a recorder that was killed goes
on where its last commit ended, and what two recorders of one market bring is kept once.

Every method blocks: on the disk, and writers on each other. Async code calls them in a thread.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from piker.clock import wall_ns
from piker.data.shm import Cursor, TickRing
from piker.data.store.store import Store
from piker.data.store.ticks_manifest import TickManifest
from piker.data.store.ticks_schema import Gap, Ring, TickFile
from piker.data.store.ticks_segment import (
    DAY_NS,
    NO_TICKS,
    TickSegment,
    TickSeries,
    day_folder,
    make_folder,
    series_of,
    table_of,
    write_file,
)
from piker.errors import Bug, DataQuality, RangeError, StoreError
from piker.log import get_logger
from piker.ticks import TICK_DTYPE

__all__ = ["Batch", "Kept", "Place", "TickStore", "Ticks", "gaps_of", "heard"]

OPEN_FILES = 256  # mapped files kept open by one process: a day of flushes, merged in tiers
_RETRIES = 100  # readings of the manifest while a recorder merges files under us
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
log = get_logger("store")

Rows = np.ndarray[Any, np.dtype[Any]]


class Place(NamedTuple):
    """Where a recorder goes on: the number of the ring, and of the first row not stored."""

    ring: int
    position: int


class Batch(NamedTuple):
    """What is to be kept of one market: ``TICK_DTYPE`` rows as they lay in a ring, and events."""

    series: TickSeries
    ring: int
    rows: Rows
    said: tuple[Gap, ...] = ()


class Kept(NamedTuple):
    """What of a batch is on the disk now: rows [first, stop) of a ring; gaps that were found."""

    series: TickSeries
    ring: int
    rows: int
    first: int
    stop: int
    gaps: int


class Ticks(NamedTuple):
    """Stored ticks of a range: a table over the mapped files, and where some are missing."""

    table: pa.Table
    gaps: tuple[Gap, ...]
    damaged: int  # files that were found damaged and set aside on the way


class _Plan(NamedTuple):
    """A batch after what is stored already was taken out of it."""

    batch: Batch
    number: int
    known: Ring
    rows: Rows
    gaps: list[Gap]
    files: list[TickFile]


class TickStore:
    """The ticks of every market below one store. Safe between threads and processes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._open: OrderedDict[Path, TickSegment] = OrderedDict()
        self._guard = threading.Lock()

    @property
    def manifest(self) -> TickManifest:
        """Return the tick tables of the store's manifest."""
        return TickManifest(self.store.manifest)

    def path(self, series: TickSeries, known: TickFile) -> Path:
        """Return where a file is."""
        return day_folder(self.store.folder(series), known.day) / known.name

    # -- writing -----------------------------------------------------------------------------
    def attach(self, series: TickSeries, ring: TickRing) -> Place:
        """Return where the recording of a ring goes on, or begins: with its oldest row.

        The ring is the one that was recorded last when it still holds the last row that is stored,
        byte for byte. Where that one was overwritten, its file tells.
        """
        manifest, identity = self.manifest, _identity_of(ring)
        with self.store.lock(series), manifest.commit():
            number = manifest.add(series)
            last = next(iter(manifest.rings(number)), None)
            if last is not None and _is_same(last, ring, identity):
                now = msgspec.structs.replace(last, identity=identity, generation=ring.generation)
            else:
                now = Ring(last.ring + 1 if last else 1, identity, ring.generation,
                           ring.first_index, b"")  # fmt: skip
            manifest.put_ring(number, now)
        return Place(now.ring, now.position)

    def append(self, batches: Sequence[Batch]) -> list[Kept]:
        """Keep rows and gaps, durably, all batches with one commit; return what is kept of each.

        Rows that are stored already are left out. Rows that are missing before or between those
        given are a gap. Raises ``StoreError`` (and keeps everything as it was) when the disk is
        full or somebody else writes for too long.
        """
        manifest, named = self.manifest, {batch.series for batch in batches}
        if len(named) < len(batches):
            raise Bug("a market's ticks are to be stored in one batch.")
        with ExitStack() as held:
            for series in sorted(named, key=str):  # in one order: two writers never wait in a ring
                held.enter_context(self.store.lock(series))
            plans = [self._plan(batch) for batch in batches]
            try:
                for plan in plans:
                    self._write(plan)
                with manifest.commit():
                    for plan in plans:
                        self._commit(manifest, plan)
            except BaseException:
                for plan in plans:
                    self.unlink(plan.batch.series, plan.files)
                raise
        return [_kept(plan) for plan in plans]

    def _plan(self, batch: Batch) -> _Plan:
        if batch.rows.dtype != TICK_DTYPE or (np.diff(batch.rows["index"]) <= 0).any():
            raise Bug(f"{batch.series}: rows to store must be TICK_DTYPE and ascend.")
        manifest = self.manifest
        number = manifest.find(batch.series)
        rings = manifest.rings(number) if number is not None else []
        known = next((ring for ring in rings if ring.ring == batch.ring), None)
        if number is None or known is None:
            raise Bug(f"{batch.series}: ring {batch.ring} was not attached.")
        rows = batch.rows[np.searchsorted(batch.rows["index"], known.position) :]
        before = next((ring for ring in rings if ring.last_row and ring.ring <= batch.ring), None)
        before_ns = _time_of(before) if before is not None else None
        gaps = list(gaps_of(rows, known, before_ns)) if len(rows) else []
        return _Plan(batch, number, known, rows, gaps, [])

    def _write(self, plan: _Plan) -> None:
        """Write the rows to files that no manifest names yet, one a day."""
        series, rows = plan.batch.series, plan.rows
        days = rows["time_ns"] // DAY_NS
        for day in np.unique(days).tolist():
            folder = day_folder(self.store.folder(series), day)
            try:
                make_folder(folder, self.store.root)
            except OSError as err:
                raise StoreError.of(err, folder) from err
            table = table_of(rows[days == day], plan.batch.ring)
            plan.files.append(write_file(folder, series, day, table, level=0))

    def _commit(self, manifest: TickManifest, plan: _Plan) -> None:
        manifest.put_gaps(plan.number, [*plan.batch.said, *plan.gaps])
        rows = plan.rows
        if not len(rows):
            return
        manifest.put_files(plan.number, plan.files)
        after = int(rows["index"][-1]) + 1
        ring = msgspec.structs.replace(plan.known, position=after, last_row=rows[-1:].tobytes())
        manifest.put_ring(plan.number, ring)
        received = rows["time_ns"] + rows["recv_lag_us"].astype("i8") * 1000
        for gap, start_ns in manifest.open_outages(plan.number):
            later = np.flatnonzero(received > start_ns)
            if len(later):
                manifest.end_outage(gap, int(received[later[0]]))

    def unlink(self, series: TickSeries, files: Sequence[TickFile]) -> None:
        """Remove files that the manifest does not name any more; mapped ones stay readable."""
        with self._guard:
            for known in files:
                path = self.path(series, known)
                self._open.pop(path, None)
                path.unlink(missing_ok=True)

    # -- reading -----------------------------------------------------------------------------
    def read(self, fqme: str, start_ns: int, end_ns: int) -> Ticks:
        """Return the ticks whose venue time is in [start_ns, end_ns), without copying them.

        Day by day, within a day in the order they came, which the venue's times need not keep. A
        damaged file is set aside; a gap says what was in it. Raises ``RangeError`` for no range.
        """
        if start_ns >= end_ns:
            raise RangeError("the range is empty: its start is not before its end.")
        series = series_of(fqme)
        number, damaged = self.manifest.find(series), 0
        if number is None:
            return Ticks(NO_TICKS, (), 0)
        for _ in range(_RETRIES):
            known: TickFile | None = None
            try:
                pieces: list[pa.Table] = []
                for known in self.manifest.files(number, start_ns, end_ns):
                    pieces += self.open_file(series, known).slices(start_ns, end_ns)
            except DataQuality as err:
                assert known is not None
                damaged += self.set_aside(series, number, known, err.message)
                continue
            gaps = tuple(self.manifest.gaps(number, start_ns, end_ns))
            return Ticks(pa.concat_tables(pieces) if pieces else NO_TICKS, gaps, damaged)
        raise StoreError(f"the files of {series} change faster than they can be read.")

    def open_file(self, series: TickSeries, known: TickFile) -> TickSegment:
        """Return a file, opened now or kept open; ``DataQuality`` when it can not be trusted."""
        path = self.path(series, known)
        with self._guard:
            found = self._open.get(path)
            if found is not None and found.is_as_opened():
                self._open.move_to_end(path)
                return found
        opened = TickSegment(path, series, known)
        with self._guard:
            self._open[path] = opened
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return opened

    def set_aside(self, series: TickSeries, number: int, known: TickFile, why: str) -> int:
        """Move a damaged file to quarantine and keep a gap; 0 when it was only replaced."""
        manifest = self.manifest
        lost = Gap("damaged", known.low_ns, known.high_ns, why, known.rows, known.ring, known.first)
        with manifest.commit():
            if not manifest.drop_files(number, [known]):
                return 0
            manifest.put_gaps(number, [lost])
        aside, path = self.store.root / "quarantine", self.path(series, known)
        aside.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            path.rename(aside / f"{str(series).replace('/', '_')}_{path.parent.name}_{known.name}")
        with self._guard:
            self._open.pop(path, None)
        log.error("store.damaged", series=series, file=known.name, ticks=known.rows, why=why)
        return 1


# -- what rows say -------------------------------------------------------------------------------
def gaps_of(rows: Rows, known: Ring, before_ns: int | None) -> list[Gap]:
    """Return the gaps before and between rows of a ring. Pure.

    ``known`` is how far the ring was stored before them; ``before_ns`` the time of the last tick
    that was stored of the market, None when these are its first: nothing is missing before them.
    """
    index, times = rows["index"], rows["time_ns"]
    found = []
    if not known.last_row and before_ns is not None:
        found.append(_gap("ring", before_ns, times[0], "the feed began anew", -1, known, index[0]))
    missed = index - np.concatenate(([known.position], index[:-1] + 1))
    broken = (rows["flags"] & 1) > 0
    broken[0] &= bool(known.last_row)  # a new ring begins with a break: it is told already
    for at in np.flatnonzero((missed > 0) | broken).tolist():
        start_ns = before_ns if at == 0 else int(times[at - 1])
        if start_ns is None:
            continue
        kind, why = ("lap", "the recorder was too slow, or not running") if missed[at] > 0 else (
            "break", "the feed had lost the venue, or was only beginning")  # fmt: skip
        count = int(missed[at]) if missed[at] > 0 else -1
        found.append(_gap(kind, start_ns, times[at], why, count, known, index[at]))
    return found


def _gap(
    kind: str, start_ns: int, end_ns: int, why: str, missed: int, ring: Ring, row: int
) -> Gap:  # fmt: skip
    low, high = sorted((int(start_ns), int(end_ns)))
    return Gap(kind, low, high, why, missed, ring.ring, int(row))


def _kept(plan: _Plan) -> Kept:
    rows = plan.rows
    first = int(rows["index"][0]) if len(rows) else plan.known.position
    stop = int(rows["index"][-1]) + 1 if len(rows) else first
    gaps = len(plan.gaps) + len(plan.batch.said)
    return Kept(plan.batch.series, plan.batch.ring, len(rows), first, stop, gaps)


def _time_of(ring: Ring) -> int:
    return int(np.frombuffer(ring.last_row, TICK_DTYPE)["time_ns"][0])


def _is_same(last: Ring, ring: TickRing, identity: str) -> bool:
    if last.position > ring.last_index:
        return False
    if last.last_row and last.position - 1 >= ring.first_index:
        row, missed = Cursor(ring, last.position - 1).take_packed(1)
        if not missed:
            return bytes(row) == last.last_row
    return last.identity == identity and last.generation <= ring.generation


def _identity_of(ring: TickRing) -> str:
    """Return what tells a ring's file from its successors of the same name."""
    try:
        found = os.stat(ring.token.path)
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        return ""
    return f"{boot}:{found.st_dev}:{found.st_ino}"


def heard(kind: str, why: str, missed: int = -1) -> Gap:
    """Return what a feed said just now; an outage lasts until ticks come again."""
    now = wall_ns()
    return Gap(kind, now, None if kind == "outage" else now, why[:500], missed)
