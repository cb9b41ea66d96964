"""Tables of the store as frames of polars and pandas; both libraries are imported when needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from piker.data.store.segment import SOURCES, numpy_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["to_pandas", "to_polars"]


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
    """
    import pandas as pd

    at = table.schema.get_field_index(coded)
    plain = table.drop_columns(["open_time", coded] if at >= 0 else ["open_time"])
    frame: pd.DataFrame = plain.to_pandas()  # arrow's pool reuses pages; a new block would fault
    if at >= 0:
        words = pd.Categorical.from_codes(_codes(table, coded), categories=list(names))
        frame.insert(at - 1, coded, words)
    times = numpy_of(table, "open_time").view("i8")  # as times they would be localised: 1.7 ms
    frame.index = pd.DatetimeIndex(times, dtype="datetime64[ns, UTC]", name="open_time", copy=False)
    return frame


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
