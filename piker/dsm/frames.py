"""Bars of the store as the frames of seed 001: the same columns and dtypes whatever they come from.

``open_time`` is the index (pandas) or the first column (polars); bars that are not there are NaN
on the full grid, or left out. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from piker.clock import NS
from piker.data.history.frame import to_pandas, to_polars
from piker.data.store.segment import CLOSE_LAG_NS, SCHEMA, array_of, numpy_of
from piker.data.store.segment import SOURCES as STORED
from piker.dsm.times import Span
from piker.ohlcv import Timeframe

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = [
    "DTYPES",
    "FUNDING_DTYPES",
    "SERVED",
    "UNITS",
    "UNITS_COIN",
    "bars_table",
    "frame_of",
    "served_by",
]

Rows = np.ndarray[Any, np.dtype[Any]]

#: Who served a bar to this call. What the store had is CACHE, wherever it came from before.
SERVED = ("CACHE", "VISION", "REST")
_SOURCE = "_data_source"
_NAMES = {
    "turnover": "quote_asset_volume", "taker_volume": "taker_buy_volume",
    "taker_turnover": "taker_buy_quote_volume", "source": _SOURCE,
}  # fmt: skip
#: pandas' dtypes of the columns; ``open_time`` is the index.
DTYPES = {
    "open_time": "datetime64[ns, UTC]", "open": "float64", "high": "float64", "low": "float64",
    "close": "float64", "volume": "float64", "close_time": "datetime64[ns, UTC]",
    "quote_asset_volume": "float64", "count": "int64", "taker_buy_volume": "float64",
    "taker_buy_quote_volume": "float64", _SOURCE: "category",
}  # fmt: skip
#: The same of funding rates, whose index counts rows.
FUNDING_DTYPES = {
    "symbol": "str", "funding_time": "datetime64[ns, UTC]", "funding_rate": "float64",
    "interval": "str",
}  # fmt: skip
#: What the numbers of a column are. COIN-M's interface calls its columns as the others' are called.
UNITS = {
    "open": "quote asset", "high": "quote asset", "low": "quote asset", "close": "quote asset",
    "volume": "base asset", "quote_asset_volume": "quote asset", "count": "trades",
    "taker_buy_volume": "base asset", "taker_buy_quote_volume": "quote asset",
}  # fmt: skip
UNITS_COIN = UNITS | {
    "volume": "contracts", "quote_asset_volume": "base asset", "taker_buy_volume": "contracts",
    "taker_buy_quote_volume": "base asset",
}  # fmt: skip


def served_by(table: pa.Table, fetched: Sequence[tuple[int, int, str]]) -> Rows:
    """Return for each bar its place in ``SERVED``: fetched by this call, or there before.

    A bar counts as fetched when this call asked its source for a range that it lies in: what the
    store had already and kept, being of a better source, is CACHE.
    """
    codes = np.zeros(table.num_rows, "u1")
    if not fetched:
        return codes
    times = numpy_of(table, "open_time").view("i8") // NS
    stored = numpy_of(table, "source")
    for start_s, end_s, source in fetched:
        low, high = np.searchsorted(times, (start_s, end_s))
        part = codes[low:high]  # a view
        part[stored[low:high] == STORED.index(source)] = 1 if source == "archive" else 2
    return codes


def bars_table(
    table: pa.Table, codes: Rows, timeframe: Timeframe, span: Span, *, gridded: bool
) -> pa.Table:
    """Return bars of ``SCHEMA`` with ``codes`` for a source; ``gridded``: each bar of the span.

    A bar that is not there has NaN, no trades and no source.
    """
    at = table.schema.get_field_index("source")
    expected = timeframe.count_between(span.start, span.end) if gridded else table.num_rows
    if table.num_rows != expected:
        return _gridded(table, codes, timeframe, timeframe.grid(span.start, span.end))
    return table.set_column(at, "source", array_of(codes, pa.uint8()))


def _gridded(table: pa.Table, codes: Rows, timeframe: Timeframe, grid: Rows) -> pa.Table:
    times = numpy_of(table, "open_time").view("i8") // NS
    places = np.searchsorted(grid, times)
    absent = np.ones(len(grid), bool)
    absent[places] = False
    nexts = np.append(grid[1:], timeframe.next(int(grid[-1]))) if len(grid) else grid
    arrays = []
    for field in SCHEMA:
        if field.name == "open_time":
            arrays.append(array_of(grid * NS, field.type))
        elif field.name == "close_time":
            arrays.append(array_of(nexts * NS - CLOSE_LAG_NS, field.type))
        elif field.name == "source":
            full = np.zeros(len(grid), "u1")
            full[places] = codes
            arrays.append(array_of(full, field.type, absent=absent))
        else:
            values = numpy_of(table, field.name)
            column = np.full(len(grid), np.nan if values.dtype.kind == "f" else 0, values.dtype)
            column[places] = values
            arrays.append(array_of(column, field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def frame_of(
    table: pa.Table, *, polars: bool, source: bool, attrs: dict[str, Any]
) -> pd.DataFrame | pl.DataFrame:
    """Return the frame of a table of :func:`bars_table`.

    pandas: its own memory, ``attrs`` in ``frame.attrs``. polars: the table's memory, read-only, and
    no attributes, since it has none.
    """
    if not source:
        table = table.drop_columns(["source"])
    table = table.rename_columns([_NAMES.get(name, name) for name in table.schema.names])
    if polars:
        return to_polars(table, coded=_SOURCE, names=SERVED)
    frame = to_pandas(table, coded=_SOURCE, names=SERVED)
    frame.attrs.update(attrs)
    return frame
