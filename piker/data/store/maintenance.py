"""Keeping a store in order: few files instead of many, damage found, what is left of it mended."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from piker.data.ranges import intersect, union
from piker.data.store import merge
from piker.data.store.files import sync_directory
from piker.data.store.manifest import Manifest
from piker.data.store.segment import Written, write_segment, written_of
from piker.data.store.series import Series
from piker.data.store.store import Store, tail_rows
from piker.data.store.ticks_finding import Finding
from piker.errors import DataQuality, PikerError
from piker.log import get_logger

__all__ = ["Finding", "compact", "rebuild_manifest", "repair", "verify"]

log = get_logger("store")

TAIL_ROWS = 2000  # bars kept in the manifest before they become a file: 5 ms to read
SMALL_FILES = 8  # files in one bucket before they become one
_ALWAYS = (-(1 << 62), 1 << 62)
_OF_A_DATABASE = ("-wal", "-shm", "")  # its files, the one that makes it one last


# -- compaction ----------------------------------------------------------------------------------
def compact(store: Store, series: Series, *, always: bool = False) -> int:
    """Make few files of many; return how many went. ``always``: also where it hardly pays.

    Killed at any moment it leaves what was there, or what is to be.
    """
    manifest = store.manifest
    number = manifest.find(series)
    if number is None:
        return 0
    gone = 0
    with store.lock(series):
        store.sweep(series)
        if manifest.tail_size(number) >= (1 if always else TAIL_ROWS):
            _flush_tail(store, series, number)
        files = manifest.segments(number, *_ALWAYS)
        for run in merge.runs(series.timeframe, files, 2 if always else SMALL_FILES):
            tables = [store.whole(series, number, known) for known in run]
            if any(table is None for table in tables):
                continue  # what is left of it is compacted the next time
            new = write_segment(
                store.folder(series),
                series,
                pa.concat_tables(tables),
                run[0].start_s,
                run[-1].end_s,
            )
            try:
                with manifest.commit():
                    manifest.replace_segments(number, run, [new])
            except BaseException:
                store.unlink(series, [new])
                raise
            store.unlink(series, run)
            gone += len(run) - 1
    return gone


def _flush_tail(store: Store, series: Series, number: int) -> None:
    """Move the bars of the manifest into files, one for each unbroken run of them.

    Where one of them is appended anew meanwhile nothing is done: it is moved the next time.
    """
    tail = store.manifest.tail(number, *_ALWAYS)
    rows, codes = tail_rows(tail)
    timeframe = series.timeframe
    new: list[Written] = []
    for span in union((int(time), timeframe.next(int(time))) for time in rows["time"]):
        low, high = np.searchsorted(rows["time"], span)
        new += store.write_files(series, rows[low:high], codes[low:high], span)
    with store.manifest.commit():
        if set(tail) <= set(store.manifest.tail(number, *_ALWAYS)):
            store.manifest.replace_segments(number, [], new)
            store.manifest.drop_tail(number, tail)
            return
    store.unlink(series, new)


# -- damage --------------------------------------------------------------------------------------
def verify(store: Store) -> Iterator[Finding]:
    """Read every byte of the store and compare with what was written; one finding a file.

    Changes nothing. Files that others replace meanwhile are not held against them.
    """
    said = store.manifest.integrity()
    if said != "ok":
        yield Finding("", "manifest.db", 0, said)
    for number, series in store.manifest.all_series():
        files = store.manifest.segments(number, *_ALWAYS)
        for known in files:
            problem = _problem(store, series, known)
            if problem and known not in store.manifest.segments(number, known.start_s, known.end_s):
                problem = ""
            yield Finding(str(series), known.name, known.rows, problem)
        for before, after in itertools.pairwise(files):
            if after.start_s < before.end_s:
                yield Finding(str(series), after.name, 0, f"overlaps {before.name}")
        now = store.manifest.snapshot(number)
        spans = [(one.start_s, one.end_s) for one in now.files]
        doubled = intersect(spans, [(time, time + 1) for time, _, _ in now.tail])
        twice = sum(span.end - span.start for span in doubled)
        if twice:
            yield Finding(str(series), "manifest.db", twice, "bars are here and in files, too")


def _problem(store: Store, series: Series, known: Written) -> str:
    try:
        segment = store.open_segment(series, known)
        segment.verify()
        times = segment.times_ns // 1_000_000_000
        inside = not known.rows or (times[0] >= known.start_s and times[-1] < known.end_s)
        if not inside or (np.diff(times) <= 0).any() or not series.timeframe.on_grid(times).all():
            return "its bars are not in order, on the grid and within its range"
    except DataQuality as err:
        return err.message
    return ""


def repair(store: Store) -> Iterator[Finding]:
    """Set damaged files aside and remove left-overs; one finding for each of them.

    What they held is missing from the coverage afterwards, and is fetched again when asked for.
    """
    for number, series in store.manifest.all_series():
        for known in store.manifest.segments(number, *_ALWAYS):
            problem = _problem(store, series, known)
            if problem and store.set_aside(series, number, known, problem):
                yield Finding(str(series), known.name, known.rows, problem)
        gone = store.sweep(series) if store.folder(series).is_dir() else 0
        if gone:
            yield Finding(str(series), "", 0, f"{gone} files of killed writers removed")


def rebuild_manifest(root: Path) -> int:
    """Make a manifest anew from the files of a store; return how many files it names.

    For a manifest that is lost: it is set aside as ``manifest.db.bad``. Of files that overlap
    the newest counts. What only the manifest knew (holes, bars that were in no file) is lost.
    Killed at any moment it can be done again.
    """
    from piker.data.store import ticks_upkeep  # here: daemons of bars alone need no ring

    path, draft = root / "manifest.db", root / ".manifest.db.tmp"
    for suffix in _OF_A_DATABASE:
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    manifest = Manifest(draft)
    kept = 0
    for folder in sorted({path.parent for path in root.glob("*/*/*/*.arrow")}):
        provider, market, interval = folder.relative_to(root).parts
        try:
            series = Series(provider, market, interval.replace("mo", "M"))
        except PikerError:
            continue
        found: list[Written] = []
        for file in sorted(folder.glob("*.arrow"), key=lambda one: -one.stat().st_mtime_ns):
            try:
                known = written_of(file, series)
            except DataQuality as err:
                log.error("store.damaged", series=series, file=file.name, why=err.message)
                continue
            if all(known.end_s <= one.start_s or one.end_s <= known.start_s for one in found):
                found.append(known)
        with manifest.commit():
            manifest.replace_segments(manifest.add(series), [], found)
        kept += len(found)
    kept += ticks_upkeep.rebuild(manifest, root)
    manifest.close()
    for suffix in _OF_A_DATABASE:
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(path.with_name(f"manifest.db.bad{suffix}"))
    draft.rename(path)
    sync_directory(root)
    return kept
