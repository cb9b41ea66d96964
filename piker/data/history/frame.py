"""Tables of the store as frames of polars and pandas; both libraries are imported when needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from piker.data.history.pages import release
from piker.data.store.segment import SOURCES, numpy_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["to_pandas", "to_polars"]

RELEASED = 2**20  # bytes of a column from which on its pages are given back: below it is no gain
KEPT = ("open", "high", "low", "close", "volume", "count")  # most looked at: they stay mapped


def to_polars(
    table: pa.Table, *, coded: str = "source", names: Sequence[str] = SOURCES
) -> pl.DataFrame:
    """Return the table as a polars frame, without copying a column.

    The column ``coded``, where there is one, holds places in ``names`` and becomes an enumeration.
    ``open_time`` and ``close_time`` are UTC, in nanoseconds.
    """
    import polars as pl

    frame = pl.from_arrow(table, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    if coded not in frame.columns:
        return frame
    only = _only_code(table, coded)
    if only is None:
        return frame.with_columns(pl.col(coded).cat.to(pl.Enum(names)))
    # Codes are looked at one by one on their way to an enumeration; where all are alike, one is.
    word = pl.Series(coded, [names[only]], dtype=pl.Enum(names))
    at = frame.get_column_index(coded)
    return frame.replace_column(at, word.new_from_index(0, table.num_rows))


def _only_code(table: pa.Table, coded: str) -> int | None:
    column = table.column(coded)
    if column.null_count or not table.num_rows:
        return None
    codes = numpy_of(table, coded)
    return int(codes[0]) if (codes == codes[0]).all() else None


def to_pandas(
    table: pa.Table, *, coded: str = "source", names: Sequence[str] = SOURCES
) -> pd.DataFrame:
    """Return the table as a pandas frame of its own memory, indexed by ``open_time`` (UTC).

    The column ``coded``, where there is one, becomes a category of ``names``, missing where it is
    null. The index is the table's memory, where it lies in one piece: nobody writes to an index.
    Columns are copied one by one, and all but ``KEPT`` give back what they had of a mapped file,
    so that the process never holds the frame and the whole of the files at once.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for field in table.schema:
        if field.name == "open_time":
            continue
        if field.name == coded:
            codes = _codes(table, coded)
            columns[coded] = pd.Categorical.from_codes(codes, categories=list(names))
        else:
            own = _own(table.column(field.name), mapped=field.name in KEPT)
            columns[field.name] = _dated(own)
    times = table.column("open_time")
    whole = times.num_chunks == 1
    index = _dated(numpy_of(table, "open_time") if whole else _own(times, mapped=True))
    return pd.DataFrame(columns, index=index.rename("open_time"), copy=False)


def _own(column: pa.ChunkedArray, *, mapped: bool) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a copy of numbers or times without nulls.

    What they lay on of a file is given back, unless it is to stay ``mapped``.

    The memory is arrow's, whose pool keeps pages from one frame to the next: new ones would fault.
    """
    dtype = np.dtype(
        "M8[ns]" if pa.types.is_timestamp(column.type) else column.type.to_pandas_dtype()
    )
    own = np.frombuffer(pa.allocate_buffer(len(column) * dtype.itemsize), dtype, len(column))
    at = 0
    for chunk in column.chunks:
        offset = chunk.offset * dtype.itemsize
        part = (
            np.frombuffer(chunk.buffers()[1], dtype, len(chunk), offset) if len(chunk) else own[:0]
        )
        own[at : at + len(chunk)] = part
        at += len(chunk)
        if not mapped and len(chunk) * dtype.itemsize >= RELEASED:
            release(chunk, dtype.itemsize)
    return own


def _dated(values: np.ndarray[Any, np.dtype[Any]]) -> Any:
    """Return times as pandas' of UTC over the same memory, numbers as they are."""
    import pandas as pd

    if values.dtype.kind != "M":
        return values
    whole = values.view("i8")  # as times they would be localised: 1.7 ms
    return pd.DatetimeIndex(whole, dtype="datetime64[ns, UTC]", copy=False)


def _codes(table: pa.Table, coded: str) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return codes as pandas has them: -1 where there is none."""
    codes = numpy_of(table, coded).astype("i1")
    column = table.column(coded)
    if column.null_count:
        begin = 0
        for chunk in column.chunks:
            there = np.frombuffer(chunk.is_valid().cast(pa.uint8()).buffers()[1], "u1", len(chunk))
            codes[begin : begin + len(chunk)][there == 0] = -1
            begin += len(chunk)
    return codes
