"""Bars that are given: a folder of recorded bars, kept to the last digit of their text.

``FOLDER/{spot|um|cm}/SYMBOL-INTERVAL*.csv``, in the archive's own columns with or without a header,
times in milliseconds or microseconds: a file of the archive can be put there as it is. Several
files of one market and interval are one table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from piker.errors import ConfigError
from piker.ohlcv import Timeframe

__all__ = ["FOLDERS", "KLINE_COLUMNS", "BarTable", "GivenBars", "digits_of", "load_bars",
           "rows_of"]  # fmt: skip

#: The archive's columns, as its futures files name them.
KLINE_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
FOLDERS = {"spot": "spot", "um": "usdm", "cm": "coinm"}  # folder -> kind of market
MAX_FILE = 1 << 29  # bytes of a file: about a month of seconds
_LAST_S = 10**12  # beyond any time that is asked for
_US = 10**14  # times from here on are microseconds
_NAME = re.compile(r"([A-Z0-9_.]{1,30})-(\d{1,2}(?:[smhdwM]|mo))(?:-[^/]*)?\.csv", re.ASCII)
_NUMBER = r"\d{1,20}(?:\.\d{1,20})?"
_ROW = re.compile(
    rf"(\d{{13}}|\d{{16}}),({','.join([_NUMBER] * 5)}),(\d{{13}}|\d{{16}}),"
    rf"({_NUMBER},\d{{1,15}},{_NUMBER},{_NUMBER})(?:,([^,]{{0,40}}))?",
    re.ASCII,
)

Key = tuple[str, str]  # (kind, symbol)


class BarTable:
    """Recorded bars of one market and interval, ascending."""

    def __init__(self, timeframe: Timeframe, rows: Iterable[tuple[int, str]]) -> None:
        """Keep ``rows``: (open in ms, the line of CSV with its times in ms), sorted and unique."""
        found = list(rows)
        self.timeframe = timeframe
        self._opens = np.array([open_ms for open_ms, _ in found], np.int64)
        ends = np.cumsum([len(line) + 1 for _, line in found], dtype=np.int64)
        self._at = np.concatenate([np.zeros(1, np.int64), ends])
        self._text = "".join(f"{line}\n" for _, line in found)

    def __len__(self) -> int:
        """Return how many bars there are."""
        return len(self._opens)

    @property
    def first_s(self) -> int:
        """Return when the first bar opens."""
        return int(self._opens[0]) // 1000

    def lines(self, start_s: int, stop_s: int) -> list[str]:
        """Return the lines of bars that open in [start_s, stop_s)."""
        first, last = self._range(start_s, stop_s)
        return self._lines(first, last)

    def newest(self, limit: int, start_s: int, stop_s: int) -> list[str]:
        """Return the last ``limit`` of them."""
        first, last = self._range(start_s, stop_s)
        return self._lines(max(first, last - limit), last)

    def oldest(self, limit: int, start_s: int, stop_s: int) -> list[str]:
        """Return the first ``limit`` of them."""
        first, last = self._range(start_s, stop_s)
        return self._lines(first, min(last, first + limit))

    def _range(self, start_s: int, stop_s: int) -> tuple[int, int]:
        begin, end = (min(max(0, time_s), _LAST_S) * 1000 for time_s in (start_s, stop_s))
        first, last = np.searchsorted(self._opens, [begin, max(begin, end)])
        return int(first), int(last)

    def _lines(self, first: int, last: int) -> list[str]:
        return self._text[int(self._at[first]) : int(self._at[last])].splitlines()

    def numbers(self) -> Iterator[tuple[list[str], str]]:
        """Yield each bar's four prices and its volume, as text."""
        for line in self._text.splitlines():
            row = line.split(",")
            yield row[1:5], row[5]


#: Per market its tables by interval (``"1m"``, ``"1M"``).
GivenBars = Mapping[Key, Mapping[str, BarTable]]


def load_bars(folder: Path) -> GivenBars:
    """Read a folder; raise ``ConfigError`` with file and line for what is no bar."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder.", remedy="Name one with spot/, um/ or cm/.")
    found: dict[Key, dict[str, dict[int, str]]] = {}
    for name, kind in FOLDERS.items():
        for file in sorted((folder / name).glob("*.csv")):
            match = _NAME.fullmatch(file.name)
            if match is None:
                raise ConfigError(f"{file}: no SYMBOL-INTERVAL*.csv.", remedy="Rename it.")
            timeframe = Timeframe(match[2].replace("mo", "M"))
            tables = found.setdefault((kind, match[1]), {})
            _read(file, tables.setdefault(str(timeframe), {}))
    if not found:
        raise ConfigError(
            f"{folder} holds no bars.", remedy="Put them at spot/SYMBOL-INTERVAL.csv, um/, cm/."
        )
    return {
        key: {name: BarTable(Timeframe(name), sorted(rows.items())) for name, rows in of.items()}
        for key, of in found.items()
    }


def _read(file: Path, rows: dict[int, str]) -> None:
    """Add a file's rows by their open time in ms; times are rewritten to ms, no other text is."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise ConfigError(f"{file}: more than {MAX_FILE} bytes.", remedy="Cut it in parts.")
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can not read {file}: {error}.") from None
    for number, line in enumerate(lines, start=1):
        if number == 1 and line.startswith("open_time"):
            continue
        match = _ROW.fullmatch(line)
        if match is None:
            raise ConfigError(f"{file}:{number}: no bar of 11 or 12 columns: {line[:60]!r}.")
        opened, closed = _ms(match[1]), _ms(match[3])
        if opened in rows:
            raise ConfigError(f"{file}:{number}: a second bar at {opened}.", remedy="Drop one.")
        rows[opened] = f"{opened},{match[2]},{closed},{match[4]},{match[5] or '0'}"
    if not rows:
        raise ConfigError(f"{file} holds no bars.")


def _ms(text: str) -> int:
    time = int(text)
    return time // 1000 if time >= _US else time


def digits_of(texts: Iterable[str]) -> int:
    """Return how many decimals numbers have, zeros at the end left out."""
    return max((len(text.partition(".")[2].rstrip("0")) for text in texts), default=0)


def rows_of(lines: Iterable[str]) -> list[list[Any]]:
    """Return lines as rows of an answer over REST: times and counts are whole numbers there."""
    rows = []
    for line in lines:
        row: list[Any] = line.split(",")
        row[0], row[6], row[8] = int(row[0]), int(row[6]), int(row[8])
        rows.append(row)
    return rows
