"""Tables of the store as frames of polars and pandas; both libraries are imported when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from piker.data.store.segment import SOURCES

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["to_pandas", "to_polars"]


def to_polars(table: pa.Table) -> pl.DataFrame:
    """Return the table as a polars frame, without copying a column; ``source`` as a category.

    ``open_time`` and ``close_time`` are UTC, in nanoseconds.
    """
    import polars as pl

    frame = pl.from_arrow(table, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    if "source" in frame.columns:
        frame = frame.with_columns(pl.col("source").cat.to(pl.Enum(SOURCES)))
    return frame


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return the table as a pandas frame of its own memory, indexed by ``open_time`` (UTC)."""
    import pandas as pd

    names = [name for name in table.schema.names if table.schema.field(name).type == pa.float64()]
    block = np.empty((table.num_rows, len(names)), order="F")
    for at, name in enumerate(names):
        _copy(table.column(name), block[:, at])
    frame = pd.DataFrame(block, columns=names, copy=False)
    for at, field in enumerate(table.schema):
        if field.name not in names and field.name != "open_time":
            frame.insert(min(at - 1, frame.shape[1]), field.name, _column(table, field.name))
    frame.index = pd.DatetimeIndex(_column(table, "open_time"), name="open_time")
    return frame


def _copy(column: pa.ChunkedArray, into: Any) -> None:
    begin = 0
    for chunk in column.chunks:
        into[begin : begin + len(chunk)] = chunk.to_numpy(zero_copy_only=True)
        begin += len(chunk)


def _column(table: pa.Table, name: str) -> Any:
    import pandas as pd

    column = table.column(name)
    if name == "source":
        codes = np.empty(table.num_rows, "i1")
        _copy(column, codes)
        return pd.Categorical.from_codes(codes, categories=list(SOURCES))
    if pa.types.is_timestamp(column.type):
        times = np.empty(table.num_rows, "M8[ns]")
        _copy(column, times)
        return pd.DatetimeIndex(times).tz_localize("UTC")
    values = np.empty(table.num_rows, column.type.to_pandas_dtype())
    _copy(column, values)
    return values
