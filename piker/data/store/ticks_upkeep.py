"""Keeping stored ticks in order: a day's flushes become one file, damage is found, the rest mended.

A recorder merges as it goes: whenever ``TIER`` files of one size lie side by side they become one
of the next, so that today is read from dozens of files, not from thousands, and each tick is
written about three times before its day is one file.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from piker.clock import NS, wall_ns
from piker.data.store.manifest import Manifest
from piker.data.store.ticks import TickStore
from piker.data.store.ticks_finding import Finding
from piker.data.store.ticks_manifest import TickManifest
from piker.data.store.ticks_schema import WHOLE_DAY, Ring, TickFile
from piker.data.store.ticks_segment import (
    DAY_NS,
    TickSeries,
    day_folder,
    file_of,
    write_file,
)
from piker.errors import DataQuality, PikerError, StoreError
from piker.log import get_logger

__all__ = ["compact", "file_count", "rebuild", "repair", "sweep", "tidy", "verify"]

TIER = 32  # files of a level that become one: 17,280 flushes of a day are three levels
GRACE_NS = 120 * NS  # a day is over this long after midnight: what was on its way is there
log = get_logger("store")


# -- compaction ----------------------------------------------------------------------------------
def tidy(store: TickStore, series: TickSeries) -> int:
    """Merge what a recorder has left since the last time; return how many files went.

    Days that are over become one file. Does nothing while another process merges the market.
    """
    return _merge_days(store, series, always=False, wait=False)


def compact(store: TickStore, series: TickSeries) -> int:
    """Make one file of every day, today's too; return how many files went.

    Killed at any moment it leaves what was there, or what is to be. Recording goes on meanwhile.
    """
    return _merge_days(store, series, always=True, wait=True)


def _merge_days(store: TickStore, series: TickSeries, *, always: bool, wait: bool) -> int:
    number = store.manifest.find(series)
    if number is None:
        return 0
    gone = 0
    with _merging(store, series, wait=wait) as ours:
        if not ours:
            return 0
        sweep(store, series)
        today = (wall_ns() - GRACE_NS) // DAY_NS
        for day, count in store.manifest.days(number):
            if count == 1:
                continue
            files = store.manifest.day_files(number, day)
            if always or (day < today and _is_due(files)):
                gone += _merge(store, series, number, files, WHOLE_DAY)
            else:
                gone += _merge_tiers(store, series, number, day)
    return gone


def _is_due(files: list[TickFile]) -> bool:
    """Tell whether a day that is over is to be merged: a few late ticks do not rewrite it."""
    late = sum(known.level < WHOLE_DAY for known in files)
    return late == len(files) or late >= TIER


def _merge_tiers(store: TickStore, series: TickSeries, number: int, day: int) -> int:
    gone, again = 0, True
    while again:
        again = False
        files = store.manifest.day_files(number, day)
        for level, run in itertools.groupby(files, key=lambda known: known.level):
            group = list(run)[:TIER]
            if len(group) == TIER and (less := _merge(store, series, number, group, level + 1)):
                gone, again = gone + less, True
                break
    return gone


def _merge(
    store: TickStore, series: TickSeries, number: int, files: list[TickFile], level: int
) -> int:  # fmt: skip
    """Put one file in the place of neighbours; 0 when one of them is damaged or went meanwhile."""
    tables = []
    for known in files:
        try:
            tables.append(store.open_file(series, known).whole())
        except DataQuality as err:
            store.set_aside(series, number, known, err.message)
            return 0  # what is left of it is merged the next time
    folder = day_folder(store.store.folder(series), files[0].day)
    new = write_file(folder, series, files[0].day, pa.concat_tables(tables), level=level)
    try:
        with store.manifest.commit():
            if not store.manifest.drop_files(number, files):
                raise _GoneError
            store.manifest.put_files(number, [new])
    except _GoneError:
        store.unlink(series, [new])
        return 0
    except BaseException:
        store.unlink(series, [new])
        raise
    store.unlink(series, files)
    return len(files) - 1


class _GoneError(Exception):
    """A file that was to be merged was set aside by another process meanwhile."""


@contextmanager
def _merging(store: TickStore, series: TickSeries, *, wait: bool) -> Iterator[bool]:
    """Be the only one that merges a market's files; appending goes on. Tell whether we are."""
    folder = store.store.folder(series)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / ".merge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise StoreError.of(err, folder) from err
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except BlockingIOError:
            ours = False
        yield ours
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
        os.close(fd)


def sweep(store: TickStore, series: TickSeries) -> int:
    """Remove files that no manifest names, of processes that were killed; return how many.

    The caller is the only one that merges; writers are waited for.
    """
    gone = 0
    with store.store.lock(series):
        number = store.manifest.find(series)
        files = store.manifest.all_files(number) if number is not None else []
        known = {store.path(series, one) for one in files}
        for folder in store.store.folder(series).glob("*-*-*"):
            for path in folder.iterdir():
                if path not in known:
                    path.unlink(missing_ok=True)
                    gone += 1
    return gone


# -- damage --------------------------------------------------------------------------------------
def file_count(store: TickStore) -> int:
    """Return how many files of ticks there are."""
    return sum(
        count for number, _ in store.manifest.all_series()
        for _, count in store.manifest.days(number)
    )  # fmt: skip


def verify(store: TickStore) -> Iterator[Finding]:
    """Read every byte and compare with what was written; one finding a file. Changes nothing."""
    for number, series in store.manifest.all_series():
        files = store.manifest.all_files(number)
        for known in files:
            problem = _problem(store, series, known)
            if problem and known not in store.manifest.day_files(number, known.day):
                problem = ""  # it was merged meanwhile
            yield Finding(str(series), known.name, known.rows, problem)
        for before, after in itertools.pairwise(files):
            if before.day == after.day and (after.ring, after.first) <= (
                before.last_ring, before.last,
            ):  # fmt: skip
                yield Finding(str(series), after.name, 0, f"overlaps {before.name}")


def _problem(store: TickStore, series: TickSeries, known: TickFile) -> str:
    try:
        store.open_file(series, known).verify()
    except DataQuality as err:
        return err.message
    return ""


def repair(store: TickStore) -> Iterator[Finding]:
    """Set damaged files aside and remove left-overs; one finding for each of them.

    Ticks can not be fetched again: a gap says what was lost.
    """
    for number, series in store.manifest.all_series():
        for known in store.manifest.all_files(number):
            problem = _problem(store, series, known)
            if problem and store.set_aside(series, number, known, problem):
                yield Finding(str(series), known.name, known.rows, problem)
        with _merging(store, series, wait=True):
            gone = sweep(store, series)
        if gone:
            yield Finding(str(series), "", 0, f"{gone} files of killed writers removed")


def rebuild(manifest: Manifest, root: Path) -> int:
    """Name the files of ticks in a new manifest; return how many.

    Of files that overlap the newest counts. Gaps that the old manifest knew are lost; row numbers
    still show where rows are missing. Recording goes on where the newest file ends.
    """
    ticks, kept = TickManifest(manifest), 0
    for folder in sorted(root.glob("*/*/ticks")):
        provider, market = folder.relative_to(root).parts[:2]
        try:
            series = TickSeries(provider, market)
        except PikerError:
            continue
        found: list[TickFile] = []
        rings: dict[int, Ring] = {}
        paths = sorted(folder.glob("*/*.arrow"), key=lambda path: -path.stat().st_mtime_ns)
        for path in paths:
            try:
                known, last_row = file_of(path, series)
            except DataQuality as err:
                log.error("store.damaged", series=series, file=path.name, why=err.message)
                continue
            if any(_overlap(known, one) for one in found):
                continue
            found.append(known)
            last = rings.get(known.last_ring)
            if last is None or last.position <= known.last:
                rings[known.last_ring] = Ring(known.last_ring, "", 0, known.last + 1, last_row)
        with manifest.commit():
            number = ticks.add(series)
            ticks.put_files(number, found)
            for ring in rings.values():
                ticks.put_ring(number, ring)
        kept += len(found)
    return kept


def _overlap(ours: TickFile, theirs: TickFile) -> bool:
    return (
        ours.day == theirs.day
        and (ours.ring, ours.first) <= (theirs.last_ring, theirs.last)
        and (theirs.ring, theirs.first) <= (ours.last_ring, ours.last)
    )
