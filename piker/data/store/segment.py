"""One file of bars: written once, renamed into place when it is whole, never changed.

Arrow IPC, one record batch, uncompressed, so that any reader of Arrow maps it into memory as it
is. Each block of ``BLOCK_ROWS`` rows has a checksum, which the manifest keeps: a reader checks the
blocks that it is about to use, once in the life of its process.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from piker.data.store.files import (
    checksum,
    damaged,
    identity,
    mapped,
    open_table,
    sha256_of,
    write_durably,
)
from piker.data.store.series import Series
from piker.ohlcv import KLINE_DTYPE

__all__ = [
    "BLOCK_ROWS",
    "NO_BARS",
    "SCHEMA",
    "SOURCES",
    "Segment",
    "Written",
    "array_of",
    "arrow_of",
    "numpy_of",
    "rows_of",
    "write_segment",
    "written_of",
]

BLOCK_ROWS = 65_536  # 6 MB: what one day in the middle of years costs to check, under a millisecond
FORMAT = b"1"
NS = 1_000_000_000
_TIME = pa.timestamp("ns", "UTC")
#: Where a bar came from; the store keeps the position in this list. Append only.
SOURCES = ("unknown", "rest", "archive", "trades", "live", "import")
SCHEMA = pa.schema(
    [
        ("open_time", _TIME),
        ("open", pa.float64()),
        ("high", pa.float64()),
        ("low", pa.float64()),
        ("close", pa.float64()),
        ("volume", pa.float64()),
        ("close_time", _TIME),
        ("turnover", pa.float64()),
        ("count", pa.int64()),
        ("taker_volume", pa.float64()),
        ("taker_turnover", pa.float64()),
        ("source", pa.uint8()),
    ]
)
_DTYPES: dict[Any, np.dtype[Any]] = {
    _TIME: np.dtype("M8[ns]"), pa.float64(): np.dtype("f8"), pa.int64(): np.dtype("i8"),
    pa.uint8(): np.dtype("u1"),
}  # fmt: skip
#: No bars.
NO_BARS = pa.Table.from_arrays([pa.nulls(0, field.type) for field in SCHEMA], schema=SCHEMA)
_AT = {name: at for at, name in enumerate(SCHEMA.names)}
CLOSE_LAG_NS = 1_000_000  # a bar's close_time is a millisecond before the next one opens

Rows = np.ndarray[Any, np.dtype[Any]]


class Written(msgspec.Struct, frozen=True):
    """What the manifest has to know of a file."""

    name: str
    start_s: int
    end_s: int
    rows: int
    size: int
    sha256: str
    blocks: bytes  # a 64-bit checksum for each block, little-endian


# -- rows and tables -----------------------------------------------------------------------------
def arrow_of(rows: Rows, series: Series, source: int | Rows) -> pa.Table:
    """Return ``KLINE_DTYPE`` rows as a table; ``source`` is one code or one for each row."""
    times = np.ascontiguousarray(rows["time"])
    nexts = np.append(times[1:], series.timeframe.next(int(times[-1]))) if len(times) else times
    regular = series.timeframe.unit != "M"
    closes = times + series.timeframe.seconds if regular else _next_opens(times, nexts, series)
    codes = np.full(len(rows), source, "u1") if isinstance(source, int) else source.astype("u1")
    columns = {
        "open_time": (times * NS).view("M8[ns]"),
        "close_time": (closes * NS - CLOSE_LAG_NS).view("M8[ns]"),
        "source": codes,
    }
    arrays = [
        array_of(columns[field.name] if field.name in columns else rows[field.name], field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def array_of(values: Rows, kind: pa.DataType, *, absent: Rows | None = None) -> pa.Array:
    """Return numbers or times as an array of arrow's memory; null where ``absent`` says so.

    Like ``numpy_of`` it goes by the buffers: arrow's own ways from and to numpy import pandas, a
    second of a program's start and 60 MB of every daemon. Why it copies: see ``files.mapped``.
    """
    valid = None if absent is None else _owned(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, _owned(values)])


def _owned(values: Rows) -> pa.Buffer:
    buffer = pa.allocate_buffer(values.nbytes)
    np.frombuffer(buffer, values.dtype, len(values))[:] = values
    return buffer


def _next_opens(times: Rows, nexts: Rows, series: Series) -> Rows:
    return np.array([series.timeframe.next(int(time)) for time in times], np.int64)


def rows_of(table: pa.Table) -> tuple[Rows, Rows]:
    """Return (``KLINE_DTYPE`` rows, source codes) of a table; copies."""
    rows = np.zeros(table.num_rows, KLINE_DTYPE)
    rows["time"] = numpy_of(table, "open_time").view("i8") // NS
    for name in ("open", "high", "low", "close", "volume", "count", "turnover", "taker_volume",
                 "taker_turnover"):  # fmt: skip
        rows[name] = numpy_of(table, name)
    return rows, numpy_of(table, "source").copy()


def numpy_of(table: pa.Table, name: str) -> Rows:
    """Return a column without nulls as an array; a view where it lies in one piece."""
    column = table.column(name)
    dtype = _DTYPES[column.type]
    views = [_view(chunk, dtype) for chunk in column.chunks]
    if len(views) == 1:
        return views[0]
    return np.concatenate(views) if views else np.zeros(0, dtype)


def _view(chunk: pa.Array, dtype: np.dtype[Any]) -> Rows:
    buffer = chunk.buffers()[1]
    if not len(chunk):
        return np.zeros(0, dtype)
    return np.frombuffer(buffer, dtype, len(chunk), chunk.offset * dtype.itemsize)


# -- writing -------------------------------------------------------------------------------------
def write_segment(
    folder: Path, series: Series, table: pa.Table, start_s: int, end_s: int
) -> Written:
    """Write a file that covers [start_s, end_s), durably; return what the manifest must know.

    The file has its name, and is on the disk with its directory entry, when this returns; it
    counts only once the manifest names it. Raises ``StoreError`` when the disk is full, and then
    leaves nothing.
    """
    table = table.combine_chunks()
    blocks = b"".join(_checksums(table))
    name = f"{start_s}-{end_s}-{secrets.token_hex(4)}.arrow"
    draft = folder / f".{name}.tmp"
    schema = SCHEMA.with_metadata({
        "piker.format": FORMAT, "piker.series": str(series),
        "piker.range": f"{start_s} {end_s}", "piker.blocks": blocks.hex(),
    })  # fmt: skip

    def fill(writer: pa.ipc.RecordBatchFileWriter) -> None:
        for batch in table.to_batches():
            writer.write_batch(batch)

    size, digest = write_durably(draft, name, schema, fill)
    return Written(name, start_s, end_s, table.num_rows, size, digest, blocks)


def _checksums(table: pa.Table) -> Iterator[bytes]:
    """Give a checksum for each block of rows."""
    columns = [numpy_of(table, name) for name in SCHEMA.names] if table.num_rows else []
    for begin in range(0, table.num_rows, BLOCK_ROWS):
        yield _checksum(columns, begin)


def _checksum(columns: list[Rows], begin: int) -> bytes:
    return checksum(columns, begin, begin + BLOCK_ROWS).to_bytes(8, "little")


def written_of(path: Path, series: Series) -> Written:
    """Return what a sound file says of itself, for a manifest that was lost.

    Raises ``DataQuality`` for one that is damaged.
    """
    try:
        reader = pa.ipc.open_file(mapped(path))
        schema, rows = reader.schema, reader.read_all().num_rows
        said = schema.metadata or {}
        start_s, end_s = (int(part) for part in said[b"piker.range"].split())
        blocks = bytes.fromhex(said[b"piker.blocks"].decode())
    except (OSError, pa.ArrowException, KeyError, ValueError) as err:
        raise damaged(path, str(err)) from err
    known = Written(path.name, start_s, end_s, rows, path.stat().st_size, sha256_of(path), blocks)
    Segment(path, series, known).verify()
    return known


# -- reading -------------------------------------------------------------------------------------
class Segment:
    """An open file. Raises ``DataQuality`` (kind ``damaged``) for one that is not as written."""

    def __init__(self, path: Path, series: Series, known: Written) -> None:
        self.path = path
        self.known = known
        words = {b"piker.series": str(series)}
        table = open_table(path, words, SCHEMA.names, known.rows)
        self.table = table.replace_schema_metadata(None)
        self._columns = [numpy_of(table, name) for name in SCHEMA.names] if known.rows else []
        self._sound: set[int] = set()
        self._place = str(path)
        self._stat = identity(self._place)
        self._step = series.timeframe.seconds if series.timeframe.unit != "M" else 0

    def is_as_opened(self) -> bool:
        """Tell whether the file has not been touched since it was opened and checked."""
        return identity(self._place) == self._stat

    @property
    def times_ns(self) -> Rows:
        """Return the open times in nanoseconds."""
        return self._columns[0].view("i8") if self._columns else np.zeros(0, "i8")

    def slice(self, start_s: int, end_s: int) -> pa.Table:
        """Return the bars that open in [start_s, end_s): a view, its blocks checked."""
        low, high = self._position(start_s), self._position(end_s)
        self._check(low, high)
        return self.table.slice(low, high - low)

    def column(self, name: str, start_s: int, end_s: int) -> Rows:
        """Return one column of the bars in [start_s, end_s): a view, its blocks checked."""
        low, high = self._position(start_s), self._position(end_s)
        self._check(low, high)
        return self._columns[_AT[name]][low:high] if self._columns else np.zeros(0)

    def _position(self, time_s: int) -> int:
        """Return the first row at or after a time. Without holes that is arithmetic."""
        known, times = self.known, self.times_ns
        if not known.rows:
            return 0
        if self._step:
            first = int(times[0]) // NS
            at = min(max(0, -(-(time_s - first) // self._step)), known.rows)
            before = at == 0 or int(times[at - 1]) < time_s * NS
            after = at == known.rows or int(times[at]) >= time_s * NS
            if before and after:
                return at
        return int(np.searchsorted(times, time_s * NS))

    def _check(self, low: int, high: int) -> None:
        for block in range(low // BLOCK_ROWS, -(-high // BLOCK_ROWS) if high > low else 0):
            if block in self._sound:
                continue
            if _checksum(self._columns, block * BLOCK_ROWS) != self.known.blocks[block * 8 :][:8]:
                raise damaged(self.path, f"the checksum of block {block} does not hold")
            self._sound.add(block)

    def verify(self) -> None:
        """Read every byte; raise ``DataQuality`` when it is not what was written."""
        try:
            found = sha256_of(self.path)
        except OSError as err:
            raise damaged(self.path, str(err)) from err
        if found != self.known.sha256:
            raise damaged(self.path, "its sha256 is not what was written")
        self._check(0, self.known.rows)
