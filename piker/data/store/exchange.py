"""Bars out of the store and into it, as files of other programs: CSV, Parquet, Arrow.

An import takes a stranger's file: columns by their usual names or as told, times in any unit or as
text. Whatever is no sound bar is rejected and counted by reason; the rest is stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from piker.clock import NS, wall_ns
from piker.data.ranges import union
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store
from piker.errors import ConfigError, DataQuality, StoreError
from piker.ohlcv import KLINE_DTYPE

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

__all__ = ["FORMATS", "Imported", "import_file", "write_frame"]

FORMATS = (".csv", ".parquet", ".arrow", ".feather")
#: Names that strangers use, by ours; compared in lower case, without blanks and underscores.
ALIASES = {
    "open_time": ("opentime", "time", "timestamp", "date", "datetime", "t", "unix", "ts"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c", "last"),
    "volume": ("volume", "v", "vol", "basevolume", "volumebtc"),
    "turnover": ("turnover", "quoteassetvolume", "quotevolume", "q", "amount"),
    "count": ("count", "trades", "numberoftrades", "tradecount", "n"),
    "taker_volume": ("takervolume", "takerbuyvolume", "takerbuybaseassetvolume"),
    "taker_turnover": ("takerturnover", "takerbuyquotevolume", "takerbuyquoteassetvolume"),
}
_NEEDED = ("open_time", "open", "high", "low", "close")
EXAMPLES = 3  # rejected rows of each reason that are shown


class Imported(msgspec.Struct, frozen=True):
    """What became of a file: bars stored, bars that changed, rows rejected by reason."""

    rows: int
    stored: int
    changed: int
    first_s: int
    last_s: int
    columns: dict[str, str]
    rejected: dict[str, int]
    examples: dict[str, list[int]]  # row numbers in the file, from 1, its header not counted


def write_frame(table: pa.Table, path: Path) -> None:
    """Write a table in the format of the file's ending; nothing half is left behind."""
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"{path.name}: the ending says in which format to write.",
            remedy=f"Take one of {', '.join(FORMATS)}.",
        )
    from piker.data.history.frame import to_polars

    frame, draft = to_polars(table), path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".csv":
            frame.write_csv(draft)
        elif path.suffix == ".parquet":
            frame.write_parquet(draft)
        else:
            frame.write_ipc(draft)
        draft.replace(path)
    except OSError as err:
        draft.unlink(missing_ok=True)
        raise StoreError.of(err, path) from err


def import_file(
    store: Store, series: Series, path: Path, *, columns: Mapping[str, str] | None = None
) -> Imported:
    """Store the bars of a CSV, Parquet or Arrow file; return what was taken and what was not.

    ``columns`` maps our names to the file's where they are not the usual ones. Bars that are in
    the store already, of a better source, stay. Raises ``ConfigError`` for a file whose columns
    are not bars, ``DataQuality`` when not one row is.
    """
    frame = _read(path)
    found = _map_columns(frame.columns, columns or {}, path)
    rows, bad = _rows(frame, found)
    rejected: dict[str, int] = {}
    examples: dict[str, list[int]] = {}
    good = np.ones(len(rows), bool)
    for reason, wrong in _checks(rows, bad, series):
        fresh = wrong & good
        if fresh.any():
            rejected[reason] = int(fresh.sum())
            examples[reason] = [int(at) + 1 for at in np.flatnonzero(fresh)[:EXAMPLES]]
        good &= ~wrong
    sound = rows[good]
    if not len(sound):
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
        raise DataQuality(f"{path.name}: not one row is a bar ({reasons or 'it is empty'}).")
    sound = sound[np.argsort(sound["time"], kind="stable")]
    timeframe, changed = series.timeframe, 0
    spans = union((int(time), timeframe.next(int(time))) for time in sound["time"])
    for span in spans:
        low, high = np.searchsorted(sound["time"], span)
        changed += store.write(series, sound[low:high], *span, source="import")
    return Imported(
        len(rows), len(sound), changed, int(sound["time"][0]), int(sound["time"][-1]), found,
        rejected, examples,
    )  # fmt: skip


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix in (".arrow", ".feather"):
            return pl.read_ipc(path)
        return pl.read_csv(path, infer_schema=False, truncate_ragged_lines=True)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}.") from None
    except (OSError, pl.exceptions.PolarsError) as err:
        raise ConfigError(f"{path.name} can not be read: {str(err).splitlines()[0]}.") from err


def _map_columns(given: list[str], told: Mapping[str, str], path: Path) -> dict[str, str]:
    plain = {name.lower().replace("_", "").replace(" ", ""): name for name in given}
    found: dict[str, str] = {}
    for ours, names in ALIASES.items():
        if ours in told:
            if told[ours] not in given:
                raise ConfigError(
                    f"{path.name} has no column {told[ours]!r}.",
                    remedy=f"It has: {', '.join(given)}.",
                )
            found[ours] = told[ours]
        else:
            theirs = next((plain[name] for name in names if name in plain), None)
            if theirs is not None:
                found[ours] = theirs
    lacking = [name for name in _NEEDED if name not in found]
    if lacking:
        raise ConfigError(
            f"{path.name}: no column is {', '.join(lacking)}; it has {', '.join(given)}.",
            remedy="Name it, as in: --column open_time=Date.",
        )
    return found


def _rows(frame: pl.DataFrame, columns: Mapping[str, str]) -> tuple[Rows, Any]:
    """Return the rows as numbers, and which of them could not be read."""
    import polars as pl

    rows = np.zeros(len(frame), KLINE_DTYPE)
    bad = np.zeros(len(frame), bool)
    for ours in KLINE_DTYPE.names or ():
        if ours in ("index", "time", "bar_wap"):
            continue
        if ours not in columns:
            rows[ours] = -1 if ours == "count" else np.nan if ours != "volume" else 0.0
            continue
        values = frame[columns[ours]].cast(pl.Float64, strict=False)
        bad |= values.is_null().to_numpy() & (ours in _NEEDED)
        rows[ours] = (
            np.nan_to_num(values.fill_null(float("nan")).to_numpy(), nan=-1)
            if (ours == "count")
            else values.fill_null(float("nan")).to_numpy()
        )
    times, unread = _times(frame[columns["open_time"]])
    rows["time"] = times
    return rows, bad | unread


def _times(column: pl.Series) -> tuple[Any, Any]:
    """Return (epoch seconds, which could not be read): numbers by magnitude, else as text (UTC)."""
    import polars as pl

    if column.dtype.is_temporal():
        values = column.cast(pl.Datetime("ns")).dt.epoch("s")
        return values.fill_null(-1).to_numpy(), values.is_null().to_numpy()
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() < len(column) / 2:
        found = numbers.fill_null(-1.0).to_numpy()
        unit = np.select(
            [found >= 1e17, found >= 1e14, found >= 1e11], [1e9, 1e6, 1e3], default=1.0
        )
        whole = found / unit
        return np.floor(whole).astype("i8"), numbers.is_null().to_numpy() | (whole % 1 > 0)
    texts = column.cast(pl.String)
    read = texts.str.to_datetime(time_zone="UTC", strict=False, time_unit="us")
    if read.null_count() == len(read):
        read = texts.str.to_datetime(strict=False, time_unit="us").dt.replace_time_zone("UTC")
    seconds = read.dt.epoch("s")
    return seconds.fill_null(-1).to_numpy(), seconds.is_null().to_numpy()


def _checks(rows: Rows, bad: Any, series: Series) -> list[tuple[str, Any]]:
    """Return what may be wrong with a row, by reason, worst first."""
    low, high = rows["low"], rows["high"]
    with np.errstate(invalid="ignore"):
        possible = (low > 0) & (high < np.inf) & (low <= high)
        for name in ("open", "close"):
            possible &= (rows[name] >= low) & (rows[name] <= high)
        possible &= (rows["volume"] >= 0) & (rows["volume"] < np.inf)
    _, first = np.unique(rows["time"], return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    closed = series.timeframe.floor(wall_ns() // NS)
    return [
        ("unreadable", bad),
        ("impossible", ~possible),
        ("off-grid", ~series.timeframe.on_grid(rows["time"])),
        ("not-closed", rows["time"] >= closed),
        ("duplicate", again),
    ]
