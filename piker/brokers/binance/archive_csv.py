"""CSV of Binance's archive as rows: klines, aggregate trades, funding rates.

Text comes in pieces that end with a line, each is parsed by polars in some milliseconds; a piece
that polars does not take whole is read line by line, so that one bad line costs only itself.
polars is loaded at the first piece: who asks for no history does not pay for it.

The archive's habits, all of which are read: a header or none; milliseconds (13 digits) or, on spot
from 2025 on, microseconds (16 digits), told apart row by row; ``True`` and ``true``.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
import numpy as np

from piker.brokers.archive import ArchiveFile, Defect
from piker.brokers.binance.archive_files import period_of
from piker.brokers.binance.bars import (
    AGG_TRADE_DTYPE,
    FUNDING_DTYPE,
    Rows,
    Times,
    in_order,
    leave_out,
    repeated,
    set_mean_price,
    sift,
)
from piker.brokers.download import Text
from piker.brokers.quality import MAX_VALUE
from piker.errors import DataQuality
from piker.market import MktPair
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = ["AggTradeReader", "FundingReader", "KlineReader"]

MAX_ROWS = 40_000_000  # of any file: 2 GB of trades (our choice)
SPARE_ROWS = 1000  # a file of bars may have so many rows more than twice its bars
COUNTED = 2**18  # bytes in which commas are counted at once: an eighth of a core's cache
MAX_RATE = 1.0  # a funding of the whole position; the venue's caps are some percent
_NUMBER = {
    "i": re.compile(rb"\d{1,18}", re.ASCII),
    "f": re.compile(rb"\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII),
    "r": re.compile(rb"-?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII),  # a rate: it may be negative
    "b": re.compile(rb"(?i:true|false)", re.ASCII),
}
_MS, _US = (10**12, 10**13), (10**15, 10**16)  # of 13 and of 16 digits


class Layout(msgspec.Struct, frozen=True):
    """The columns of a kind of file.

    ``widths``: how many there are; ``shortest``: bytes of the shortest line that can be well-formed
    and have a time; ``header``: what the words of a header begin with; ``taken``: those that are
    read, as (position, field, kind of number).
    """

    widths: tuple[int, ...]
    shortest: int
    header: tuple[str, ...]
    taken: tuple[tuple[int, str, Literal["i", "f", "r", "b"]], ...]


_KLINES = Layout(
    (12,), 36,
    ("open_time", "open", "high", "low", "close", "volume", "close_time"),
    ((0, "time", "i"), (1, "open", "f"), (2, "high", "f"), (3, "low", "f"), (4, "close", "f"),
     (5, "volume", "f"), (7, "turnover", "f"), (8, "count", "i"), (9, "taker_volume", "f"),
     (10, "taker_turnover", "f")),
)  # fmt: skip
_AGG_TRADES = Layout(
    (7, 8), 24,
    ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time"),
    ((0, "id", "i"), (1, "price", "f"), (2, "size", "f"), (3, "first_id", "i"),
     (4, "last_id", "i"), (5, "time", "i"), (6, "maker", "b")),
)  # fmt: skip
_FUNDINGS = Layout(
    (3,), 16,
    ("calc_time", "funding_interval_hours", "last_funding_rate"),
    ((0, "time", "i"), (1, "interval_h", "i"), (2, "rate", "r")),
)  # fmt: skip
_TYPES = {"i": "i8", "f": "f8", "r": "f8", "b": "?"}
Columns = dict[str, np.ndarray[Any, np.dtype[Any]]]


class _Reader:
    """Reads one file: ``step`` until it says False (in a thread: each blocks for some 30 ms)."""

    def __init__(
        self, text: Text, layout: Layout, dtype: np.dtype[Any], *, max_rows: int = MAX_ROWS
    ) -> None:
        most = min(text.size // layout.shortest + 1, max_rows)
        self._text = text
        self._layout = layout
        self._width = 0  # columns; known with the first line
        # As plain bytes: the system gives them zeroed, and only as they are written to.
        self._rows = np.zeros(most * dtype.itemsize, "u1").view(dtype)
        self._times_us = np.zeros(most, np.int64)
        self._count = 0
        self._malformed = 0
        self._example = ""

    def step(self) -> bool:
        """Read one piece; False when there is none left.

        Raises ``DataQuality``: the zip's faults, ``bad-csv`` for columns of another kind.
        """
        piece = next(self._text.pieces, None)
        if piece is None:
            return False
        if not self._width:
            piece = self._begin(piece)
        if piece:
            columns = _polars(piece, self._layout, self._width)
            self._add(self._by_line(piece) if columns is None else columns)
        return True

    def _begin(self, piece: bytes) -> bytes:
        """Look at the first line: how many columns, and whether they are what they should be."""
        end = piece.find(b"\n") + 1 or len(piece)
        line = piece[:end].rstrip(b"\n")
        words = [word.strip().lower() for word in line.decode("utf-8", "replace").split(",")]
        if len(words) not in self._layout.widths:
            raise DataQuality(f"its first line has {len(words)} columns", kind="bad-csv")
        self._width = len(words)
        if words[0][:1].isdigit():
            return piece
        known = self._layout.header
        if tuple(words[: len(known)]) != known:
            raise DataQuality(f"its columns are others: {line[:100]!r}", kind="bad-csv")
        return piece[end:]

    def _by_line(self, piece: bytes) -> Columns:
        """Read a piece that polars did not take, and count its malformed lines."""
        good = []
        for line in piece.splitlines():
            row = _line(line, self._layout, self._width)
            if row is not None:
                good.append(row)
            else:
                self._count_malformed(1, repr(line[:80]))
        columns: Any = zip(*good, strict=True) if good else [()] * len(self._layout.taken)
        taken = zip(self._layout.taken, columns, strict=True)
        return {name: np.array(column, _TYPES[kind]) for (_, name, kind), column in taken}

    def _add(self, columns: Columns) -> None:
        times_us, known = _to_us(columns.pop("time"))
        if not known.all():
            self._count_malformed(int((~known).sum()), f"a time of {times_us[~known][0]}")
            times_us = times_us[known]
            columns = {name: column[known] for name, column in columns.items()}
        end = self._count + len(times_us)
        if end > len(self._rows):
            raise DataQuality(f"it has more than {len(self._rows)} rows", kind="bad-csv")
        self._times_us[self._count : end] = times_us
        for name, column in columns.items():
            self._put(self._rows[self._count : end], name, column)
        self._count = end

    def _put(self, rows: Rows, name: str, column: np.ndarray[Any, np.dtype[Any]]) -> None:
        rows[name] = column

    def _count_malformed(self, count: int, example: str) -> None:
        self._malformed += count
        self._example = self._example or example

    def _read(self) -> tuple[Rows, Times, list[Defect]]:
        """Return what was read, after the last step; raise ``bad-csv`` where that is nothing."""
        if not self._count:
            raise DataQuality("it has no rows that can be read", kind="bad-csv")
        defects = []
        if self._malformed:
            defects.append(Defect("malformed-row", self._malformed, self._example))
        return self._rows[: self._count], self._times_us[: self._count], defects


class KlineReader(_Reader):
    """Reads a file of klines as ``KLINE_DTYPE``."""

    def __init__(self, text: Text, file: ArchiveFile, market: MktPair) -> None:
        self._timeframe = Timeframe(file.interval)
        self._start_s, self._end_s = period_of(file)
        bars = (self._end_s - self._start_s) // self._timeframe.seconds
        super().__init__(text, _KLINES, KLINE_DTYPE, max_rows=bars * 2 + SPARE_ROWS)
        self._market = market

    def finish(self, *, closed_s: int) -> tuple[Rows, list[Defect]]:
        """Return sound bars that had closed by ``closed_s``, and what was wrong with the others.

        Raises ``DataQuality`` (``bad-csv``) where none is sound.
        """
        rows, times_us, defects = self._read()
        rows["time"] = times_us // 1_000_000
        rows, more = sift(
            rows,
            times_us,
            self._timeframe,
            start_s=self._start_s,
            end_s=self._end_s,
            closed_s=closed_s,
        )
        if not len(rows):
            raise DataQuality(f"none of its rows is sound: {more[0]}", kind="bad-csv")
        set_mean_price(rows, self._market)
        return rows, defects + more


class AggTradeReader(_Reader):
    """Reads a file of aggregate trades as ``AGG_TRADE_DTYPE``."""

    def __init__(self, text: Text, file: ArchiveFile) -> None:
        super().__init__(text, _AGG_TRADES, AGG_TRADE_DTYPE)
        self._file = file

    def _put(self, rows: Rows, name: str, column: np.ndarray[Any, np.dtype[Any]]) -> None:
        if name == "maker":
            rows["side"] = np.where(column, -1, 1)  # the buyer was the maker: the taker sold
        else:
            rows[name] = column

    def finish(self) -> tuple[Rows, list[Defect]]:
        """Return sound trades by ascending id, and what was wrong with the others."""
        rows, times_us, defects = self._read()
        rows["time_ns"] = times_us * 1000
        start_us, end_us = self._file.start_s * 1_000_000, self._file.end_s * 1_000_000
        outside = (times_us < start_us) | (times_us >= end_us)
        rows, _ = leave_out("out-of-range", outside, rows, times_us, defects)
        rows, ids = in_order(rows, rows["id"], defects)
        rows, ids = leave_out("duplicate", repeated(rows, ids), rows, ids, defects)
        good = (rows["price"] > 0) & (rows["price"] < MAX_VALUE)
        good &= (rows["size"] > 0) & (rows["size"] < MAX_VALUE)
        good &= rows["first_id"] <= rows["last_id"]
        rows, _ = leave_out("impossible-trade", ~good, rows, ids, defects)
        return _some(rows, defects)


class FundingReader(_Reader):
    """Reads a file of funding rates as ``FUNDING_DTYPE``."""

    def __init__(self, text: Text, file: ArchiveFile) -> None:
        super().__init__(text, _FUNDINGS, FUNDING_DTYPE)
        self._file = file

    def finish(self) -> tuple[Rows, list[Defect]]:
        """Return sound rates, ascending, and what was wrong with the others."""
        rows, times_us, defects = self._read()
        rows["time_ms"] = times_us // 1000
        rows["mark_price"] = np.nan
        start_us, end_us = self._file.start_s * 1_000_000, self._file.end_s * 1_000_000
        outside = (times_us < start_us) | (times_us >= end_us)
        rows, times_us = leave_out("out-of-range", outside, rows, times_us, defects)
        rows, times_us = in_order(rows, times_us, defects)
        rows, times_us = leave_out("duplicate", repeated(rows, times_us), rows, times_us, defects)
        wild = ~(np.abs(rows["rate"]) < MAX_RATE)
        rows, _ = leave_out("impossible-rate", wild, rows, times_us, defects)
        return _some(rows, defects)


def _some(rows: Rows, defects: list[Defect]) -> tuple[Rows, list[Defect]]:
    if not len(rows):
        raise DataQuality(f"none of its rows is sound: {defects[0]}", kind="bad-csv")
    return rows, defects


# -- lines ---------------------------------------------------------------------------------------
def _polars(piece: bytes, layout: Layout, width: int) -> Columns | None:
    """Return a piece's columns, or None where any line of it is not as it should be."""
    import polars

    types = {"i": polars.Int64, "f": polars.Float64, "r": polars.Float64, "b": polars.String}
    schema: dict[str, Any] = {f"column_{at + 1}": polars.String for at in range(width)}
    schema |= {f"column_{at + 1}": types[kind] for at, _, kind in layout.taken}
    wanted = sorted({at for at, _, _ in layout.taken} | {width - 1})  # the last shows short lines
    try:
        frame = polars.read_csv(
            piece, has_header=False, schema=schema, columns=wanted, quote_char=None
        )
    except polars.exceptions.PolarsError:
        return None
    # polars takes a line that is too long, and says nothing.
    if _commas(piece) != (width - 1) * len(frame) or any(column.null_count() for column in frame):
        return None
    columns: Columns = {}
    for at, name, kind in layout.taken:
        column = frame[f"column_{at + 1}"]
        if kind == "b":
            words = column.str.to_lowercase()
            if not words.is_in(["true", "false"]).all():
                return None
            column = words == "true"
        columns[name] = column.to_numpy()
    return columns


def _commas(piece: bytes) -> int:
    """Count commas, 7 times as fast as bytes do, in parts that stay in the cache."""
    text = np.frombuffer(piece, "u1")
    parts = (text[begin : begin + COUNTED] for begin in range(0, len(text), COUNTED))
    return sum(int(np.count_nonzero(part == ord(","))) for part in parts)


def _line(line: bytes, layout: Layout, width: int) -> list[Any] | None:
    """Return a line's values, None where it is malformed."""
    words = line.strip().split(b",")
    if len(words) != width:
        return None
    row: list[Any] = []
    for at, _, kind in layout.taken:
        word = words[at].strip()
        if not _NUMBER[kind].fullmatch(word):
            return None
        if kind == "b":
            row.append(word.lower() == b"true")
        else:
            row.append(int(word) if kind == "i" else float(word))
    return row


def _to_us(times: Times) -> tuple[Times, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return times in microseconds, and which have a magnitude that is known."""
    in_ms = (times >= _MS[0]) & (times < _MS[1])
    in_us = (times >= _US[0]) & (times < _US[1])
    return np.where(in_ms, times * 1000, times), in_ms | in_us
