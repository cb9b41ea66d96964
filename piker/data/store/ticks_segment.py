"""One file of ticks: written once, renamed into place when it is whole, never changed.

Arrow IPC, uncompressed, rows in the order in which their ring held them. Blocks of ``BLOCK_ROWS``
have a checksum and the least and greatest time, in the manifest and beside their record batch: a
reader checks the blocks that it is about to use, and finds a minute without looking at the day.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from piker.clock import NS
from piker.data.store.files import (
    checksum,
    damaged,
    identity,
    mapped,
    open_table,
    sha256_of,
    sync_directory,
    write_durably,
)
from piker.data.store.segment import BLOCK_ROWS, array_of
from piker.data.store.series import Series
from piker.data.store.ticks_schema import WHOLE_DAY, TickFile
from piker.market import parse_fqme
from piker.ticks import TICK_DTYPE

__all__ = [
    "DAY_NS",
    "NO_TICKS",
    "SCHEMA",
    "TickSegment",
    "TickSeries",
    "day_folder",
    "file_of",
    "make_folder",
    "series_of",
    "table_of",
    "tick_rows",
    "write_file",
]

DAY_NS = 86_400 * NS
BATCH_ROWS = 16 * BLOCK_ROWS  # 71 MB: what merging a day of any size takes of memory
FORMAT = b"1"
SCHEMA = pa.schema(
    [
        ("ring", pa.int32()),
        ("index", pa.int64()),
        ("time", pa.timestamp("ns", "UTC")),
        ("price", pa.float64()),
        ("size", pa.float64()),
        ("price2", pa.float64()),
        ("size2", pa.float64()),
        ("venue_id", pa.int64()),
        ("recv_lag_us", pa.int32()),
        ("type", pa.uint8()),
        ("side", pa.int8()),
        ("flags", pa.uint16()),
    ]
)
_CODES = ("i4", "i8", "i8", "f8", "f8", "f8", "f8", "i8", "i4", "u1", "i1", "u2")
_DTYPES = tuple(np.dtype(code) for code in _CODES)
_BLOCK = np.dtype([("sum", "<u8"), ("low", "<i8"), ("high", "<i8")])
_TIME = SCHEMA.get_field_index("time")
#: No ticks.
NO_TICKS = pa.Table.from_arrays([pa.nulls(0, field.type) for field in SCHEMA], schema=SCHEMA)

Rows = np.ndarray[Any, np.dtype[Any]]


class TickSeries(Series, frozen=True):
    """Ticks of one market; they have no length, and the word ``ticks`` in the place of one."""

    interval: str = "ticks"

    def __post_init__(self) -> None:
        """Refuse names that are none, before they become paths."""
        Series(self.provider, self.market, "1d")


def series_of(fqme: str) -> TickSeries:
    """Return the ticks of ``btcusdt.spot.binance``; raise ``ConfigError`` for no address."""
    address = parse_fqme(fqme.lower())
    return TickSeries(address.provider, address.mktid)


def day_folder(folder: Path, day: int) -> Path:
    """Return where a day's files are: ``ticks/2026-11-21``."""
    return folder / str(np.datetime64(day, "D"))


def make_folder(folder: Path, top: Path) -> None:
    """Make a folder below ``top``, and its name and those above it durable."""
    missing = [one for one in (folder, *folder.parents) if one != top and top in one.parents]
    for one in reversed(missing):
        if not one.is_dir():
            one.mkdir(mode=0o700, exist_ok=True)
            sync_directory(one.parent)


# -- rows and tables -----------------------------------------------------------------------------
def table_of(rows: Rows, ring: int) -> pa.Table:
    """Return ``TICK_DTYPE`` rows of a ring as a table of ``SCHEMA``; copies."""
    own = {"ring": np.full(len(rows), ring, "i4"), "time": rows["time_ns"]}
    arrays = [
        array_of(own[field.name] if field.name in own else rows[field.name], field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def tick_rows(table: pa.Table) -> tuple[Rows, Rows]:
    """Return (``TICK_DTYPE`` rows, the number of each one's ring) of a table; copies."""
    rows = np.zeros(table.num_rows, TICK_DTYPE)
    rings = np.zeros(table.num_rows, "i4")
    at = 0
    for batch in table.to_batches():
        columns = _views(batch)
        part = rows[at : at + batch.num_rows]
        for name, column in zip(SCHEMA.names, columns, strict=True):
            if name == "ring":
                rings[at : at + batch.num_rows] = column
            else:
                part["time_ns" if name == "time" else name] = column
        at += batch.num_rows
    return rows, rings


def _views(batch: pa.RecordBatch) -> list[Rows]:
    """Return a batch's columns as arrays over its memory."""
    count = batch.num_rows
    if not count:
        return [np.zeros(0, dtype) for dtype in _DTYPES]
    return [
        np.frombuffer(column.buffers()[1], dtype, count, column.offset * dtype.itemsize)
        for column, dtype in zip(batch.columns, _DTYPES, strict=True)
    ]


# -- writing -------------------------------------------------------------------------------------
def write_file(
    folder: Path, series: TickSeries, day: int, table: pa.Table, *, level: int
) -> TickFile:
    """Write a day's ticks to a file of the day's folder, durably; return what to remember of it.

    The file counts only once the manifest names it. Raises ``StoreError`` when the disk is full,
    and then leaves nothing.
    """
    (ring, first), (last_ring, last) = (_key(table, at) for at in (0, table.num_rows - 1))
    name = f"{ring}-{first}-{last_ring}-{last}-{secrets.token_hex(4)}.arrow"
    draft = folder / f".{name}.tmp"
    blocks: list[Rows] = []
    schema = SCHEMA.with_metadata({
        "piker.format": FORMAT, "piker.series": str(series), "piker.day": str(day),
        "piker.level": str(level),
    })  # fmt: skip

    def fill(writer: pa.ipc.RecordBatchFileWriter) -> None:
        for begin in range(0, table.num_rows, BATCH_ROWS):
            (batch,) = table.slice(begin, BATCH_ROWS).combine_chunks().to_batches()
            blocks.append(_blocks(_views(batch)))
            told = {"piker.blocks": blocks[-1].tobytes().hex()}
            writer.write_batch(batch, custom_metadata=told)

    size, digest = write_durably(draft, name, schema, fill)
    found = np.concatenate(blocks)
    return TickFile(
        day, name, ring, first, last_ring, last, table.num_rows, size, int(found["low"].min()),
        int(found["high"].max()), level, digest, found.tobytes(),
    )  # fmt: skip


def _key(table: pa.Table, at: int) -> tuple[int, int]:
    return int(table.column("ring")[at].as_py()), int(table.column("index")[at].as_py())


def _blocks(columns: list[Rows]) -> Rows:
    """Return the checksum, least and greatest time of each block of a batch."""
    count = len(columns[_TIME])
    found = np.zeros(-(-count // BLOCK_ROWS), _BLOCK)
    for number in range(len(found)):
        part = slice(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
        times = columns[_TIME][part]
        total = checksum(columns, part.start, part.stop)
        found[number] = (total, times.min(), times.max())
    return found


def file_of(path: Path, series: TickSeries) -> tuple[TickFile, bytes]:
    """Return what a sound file says of itself, and its last row, for a manifest that was lost.

    Raises ``DataQuality`` for one that is damaged.
    """
    try:
        reader = pa.ipc.open_file(mapped(path))
        said = reader.schema.metadata or {}
        parts = [
            reader.get_batch_with_custom_metadata(at) for at in range(reader.num_record_batches)
        ]
        raw = b"".join(bytes.fromhex(part[1][b"piker.blocks"].decode()) for part in parts)
        blocks = np.frombuffer(raw, _BLOCK)
        day, level = int(said[b"piker.day"]), int(said[b"piker.level"])
        table = reader.read_all()
        (ring, first), (last_ring, last) = (_key(table, at) for at in (0, table.num_rows - 1))
        last_row, _ = tick_rows(table.slice(table.num_rows - 1))
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as err:
        raise damaged(path, str(err)) from err
    known = TickFile(
        day, path.name, ring, first, last_ring, last, table.num_rows, path.stat().st_size,
        int(blocks["low"].min()), int(blocks["high"].max()), min(level, WHOLE_DAY), sha256_of(path),
        raw,
    )  # fmt: skip
    TickSegment(path, series, known).verify()
    return known, last_row.tobytes()


# -- reading -------------------------------------------------------------------------------------
class TickSegment:
    """An open file. Raises ``DataQuality`` (kind ``damaged``) for one that is not as written."""

    def __init__(self, path: Path, series: TickSeries, known: TickFile) -> None:
        self.path = path
        self.known = known
        words = {b"piker.series": str(series), b"piker.day": str(known.day)}
        table = open_table(path, words, SCHEMA.names, known.rows)
        self.table = table.replace_schema_metadata(None)
        self._parts = [_views(batch) for batch in table.to_batches()]
        self._blocks = np.frombuffer(known.blocks, _BLOCK)
        if len(self._blocks) != -(-known.rows // BLOCK_ROWS):
            raise damaged(path, f"its {len(self._blocks)} checksums are not for its rows")
        self._sound: set[int] = set()
        self._stat = identity(str(path))

    def is_as_opened(self) -> bool:
        """Tell whether the file has not been touched since it was opened and checked."""
        return identity(str(self.path)) == self._stat

    def slices(self, start_ns: int, end_ns: int) -> Iterator[pa.Table]:
        """Give the ticks whose time is in [start_ns, end_ns): views, in the order they came.

        Times need not ascend (several streams of a venue make one ring), so there may be more
        than one piece.
        """
        for low, high in _joined(self._runs(start_ns, end_ns)):
            yield self.table.slice(low, high - low)

    def whole(self) -> pa.Table:
        """Return everything, checked."""
        for block in range(len(self._blocks)):
            self._check(block)
        return self.table

    def verify(self) -> None:
        """Read every byte; raise ``DataQuality`` when it is not what was written, or no order."""
        try:
            found = sha256_of(self.path)
        except OSError as err:
            raise damaged(self.path, str(err)) from err
        if found != self.known.sha256:
            raise damaged(self.path, "its sha256 is not what was written")
        self.whole()
        key, start = (-1, -1), self.known.day * DAY_NS
        for columns in self._parts:
            rings, index, times = columns[0].astype("i8"), columns[1], columns[_TIME]
            steps, jumps = np.diff(rings), np.diff(index)
            ascends = ((steps > 0) | ((steps == 0) & (jumps > 0))).all()
            if not ascends or (int(rings[0]), int(index[0])) <= key:
                raise damaged(self.path, "its rows are not in order")
            if times.min() < start or times.max() >= start + DAY_NS:
                raise damaged(self.path, "it has ticks of another day")
            key = (int(rings[-1]), int(index[-1]))

    def _runs(self, start_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
        inside = (self._blocks["low"] < end_ns) & (self._blocks["high"] >= start_ns)
        for block in np.flatnonzero(inside).tolist():
            self._check(block)
            begin = block * BLOCK_ROWS
            times = self._columns(block)[0][_TIME][self._columns(block)[1]]
            wanted = (times >= start_ns) & (times < end_ns)
            edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False]))))
            for low, high in edges.reshape(-1, 2).tolist():
                yield begin + low, begin + high

    def _columns(self, block: int) -> tuple[list[Rows], slice]:
        part, at = divmod(block * BLOCK_ROWS, BATCH_ROWS)
        return self._parts[part], slice(at, at + BLOCK_ROWS)

    def _check(self, block: int) -> None:
        if block in self._sound:
            return
        columns, part = self._columns(block)
        if checksum(columns, part.start, part.stop) != int(self._blocks["sum"][block]):
            raise damaged(self.path, f"the checksum of block {block} does not hold")
        self._sound.add(block)


def _joined(runs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Make one of runs that touch."""
    now: tuple[int, int] | None = None
    for low, high in runs:
        if now is not None and now[1] == low:
            now = (now[0], high)
            continue
        if now is not None:
            yield now
        now = (low, high)
    if now is not None:
        yield now
