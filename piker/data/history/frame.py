"""Tables of the store as frames of polars and pandas; both libraries are imported when needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from piker.data.store.segment import SOURCES

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
    if coded in frame.columns:
        frame = frame.with_columns(pl.col(coded).cat.to(pl.Enum(names)))
    return frame


def to_pandas(
    table: pa.Table, *, coded: str = "source", names: Sequence[str] = SOURCES
) -> pd.DataFrame:
    """Return the table as a pandas frame of its own memory, indexed by ``open_time`` (UTC).

    The column ``coded``, where there is one, becomes a category of ``names``. The index is the
    table's memory, where it lies in one piece: an index is never written to.
    """
    import pandas as pd

    times = table.column("open_time")
    rest = table.drop_columns(["open_time"])
    at = rest.schema.get_field_index(coded)
    if at >= 0:
        words = pa.array(names, pa.string())
        codes = rest.column(at).cast(pa.int8())
        pieces = codes.chunks or [pa.array([], pa.int8())]  # none: it would know no words
        coded_words = [pa.DictionaryArray.from_arrays(piece, words) for piece in pieces]
        rest = rest.set_column(at, coded, pa.chunked_array(coded_words))
    frame: pd.DataFrame = rest.to_pandas()  # arrow's pool reuses pages; a new block would fault
    stamps = times.chunk(0) if times.num_chunks == 1 else times
    frame.index = pd.DatetimeIndex(stamps.to_numpy(), name="open_time").tz_localize("UTC")
    return frame
