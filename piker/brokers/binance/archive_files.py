"""Names of the files of Binance's archive, and which of them hold a range. Pure.

``data/{spot|futures/um|futures/cm}/{daily|monthly}/{kind}/{symbol}[/{interval}]/{name}.zip``
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import msgspec

from piker.brokers.archive import ArchiveFile
from piker.brokers.binance.bars import INTERVALS
from piker.errors import Bug, DataUnavailable
from piker.ohlcv import Timeframe

__all__ = ["DAILY_LATE_S", "FIRST_DAY", "MONTHLY_LATE_S", "MONTHLY_ONLY", "Shelf", "period_of"]

Kind = Literal["klines", "aggTrades", "fundingRate"]

#: A day's file is not there before so much after the day's end (our choice: the venue says "the
#: next day").
DAILY_LATE_S = 2 * 3600
#: A month's file is not there before so much into the first Monday of the next month (the venue's
#: public-data notes). 3d, 1w and 1M were seen months late; a file that is not there is ``NoData``.
MONTHLY_LATE_S = 2 * 3600
MONTHLY_ONLY = ("3d", "1w", "1M")  # of these there are no daily files
#: Nothing is older: the first month of any market in a list of the archive's files (spot
#: from 2017-07-14, USD-M from 2019-12-31, COIN-M from 2020-08-11).
FIRST_DAY = {"spot": date(2017, 7, 1), "usdtm": date(2019, 12, 1), "coinm": date(2020, 8, 1)}
_ROOTS = {"spot": "spot", "usdtm": "futures/um", "coinm": "futures/cm"}
_SYMBOL = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)?", re.ASCII)
_STAMP = re.compile(r"-(\d{4})-(\d{2})(?:-(\d{2}))?\.zip$", re.ASCII)
_DAY_S = 86_400


class Shelf:
    """The files of one market. ``venue`` is the fqme's, ``symbol`` the venue's own."""

    def __init__(self, venue: str, symbol: str) -> None:
        if not _SYMBOL.fullmatch(symbol):
            raise DataUnavailable(f"the archive has no files of {symbol!r}.")
        self.venue = venue
        self.symbol = symbol

    def klines(
        self, frame: Timeframe, start_s: int, end_s: int, *, now_s: int
    ) -> list[ArchiveFile]:
        """Return the files with bars that open in [start_s, end_s), ascending.

        A whole month where the range holds it and its file can be there, days otherwise; of
        intervals that exist monthly only every month that the range touches. Those files are
        about the bars that open in their month: their bounds are bars' opens, on the grid of
        ``frame`` (of three-day bars the market's own, if it is known).
        """
        interval = str(frame)
        if interval not in INTERVALS or (interval == "1s" and self.venue != "spot"):
            return []
        if interval in MONTHLY_ONLY:
            months = self._months("klines", interval, start_s, end_s, now_s)
            files = [_on_grid(month, frame) for month in months]
            return [file for file in files if file.start_s < min(file.end_s, end_s)]
        return self._mixed("klines", interval, start_s, end_s, now_s)

    def trades(self, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files with aggregate trades of [start_s, end_s): days, months are too big."""
        found = []
        for day in _days(*self._within(start_s, end_s, now_s)):
            if _start_of(day) + _DAY_S + DAILY_LATE_S <= now_s:
                found.append(self._day("aggTrades", "", day))
        return found

    def fundings(self, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files with funding rates of [start_s, end_s): months; none for spot."""
        if self.venue == "spot":
            return []
        return self._months("fundingRate", "", start_s, end_s, now_s)

    def days_of(self, file: ArchiveFile, *, now_s: int) -> list[ArchiveFile]:
        """Return the daily files that hold what a monthly one should; none where there are none.

        For a month whose file is missing, late or broken.
        """
        if "/monthly/" not in file.path or file.interval in MONTHLY_ONLY:
            return []
        if file.kind == "fundingRate":
            return []
        return [
            self._day(file.kind, file.interval, day)
            for day in _days(*period_of(file))
            if _start_of(day) + _DAY_S + DAILY_LATE_S <= now_s
        ]

    def _within(self, start_s: int, end_s: int, now_s: int) -> tuple[int, int]:
        return max(start_s, _start_of(FIRST_DAY[self.venue])), min(end_s, now_s)

    def _mixed(
        self, kind: Kind, interval: str, start_s: int, end_s: int, now_s: int
    ) -> list[ArchiveFile]:
        start_s, end_s = self._within(start_s, end_s, now_s)
        found: list[ArchiveFile] = []
        for day in _days(start_s, end_s):
            if found and _start_of(day) < found[-1].end_s:
                continue  # its month has been taken
            month = _next_month(day.replace(day=1))
            whole = day.day == 1 and start_s <= _start_of(day) and _start_of(month) <= end_s
            if whole and _month_is_there(day, now_s):
                found.append(self._month(kind, interval, day))
            elif _start_of(day) + _DAY_S + DAILY_LATE_S <= now_s:
                found.append(self._day(kind, interval, day))
        return found

    def _months(
        self, kind: Kind, interval: str, start_s: int, end_s: int, now_s: int
    ) -> list[ArchiveFile]:
        start_s, end_s = self._within(start_s, end_s, now_s)
        if start_s >= end_s:
            return []
        found = []
        month = _date_of(start_s).replace(day=1)
        while _start_of(month) < end_s and _month_is_there(month, now_s):
            found.append(self._month(kind, interval, month))
            month = _next_month(month)
        return found

    def _month(self, kind: Kind, interval: str, month: date) -> ArchiveFile:
        end = _start_of(_next_month(month))
        return self._file("monthly", kind, interval, f"{month:%Y-%m}", _start_of(month), end)

    def _day(self, kind: Kind, interval: str, day: date) -> ArchiveFile:
        start = _start_of(day)
        return self._file("daily", kind, interval, f"{day:%Y-%m-%d}", start, start + _DAY_S)

    def _file(
        self, period: str, kind: Kind, interval: str, stamp: str, start_s: int, end_s: int
    ) -> ArchiveFile:
        word = "1mo" if interval == "1M" else interval or kind  # the archive's own word for months
        folder = f"data/{_ROOTS[self.venue]}/{period}/{kind}/{self.symbol}"
        if interval:
            folder += f"/{word}"
        return ArchiveFile(
            f"{folder}/{self.symbol}-{word}-{stamp}.zip", kind, interval, start_s, end_s
        )


def period_of(file: ArchiveFile) -> tuple[int, int]:
    """Return the day or month that a file is of by its name, as seconds [start, end)."""
    stamp = _STAMP.search(file.path)
    if stamp is None:
        raise Bug(f"{file.path} is no file of the archive")
    year, month, day = (int(part) if part else 0 for part in stamp.groups())
    first = date(year, month, day or 1)
    after = first + timedelta(days=1) if day else _next_month(first)
    return _start_of(first), _start_of(after)


def _on_grid(file: ArchiveFile, grid: Timeframe) -> ArchiveFile:
    start_s, end_s = (grid.next(bound - 1) for bound in (file.start_s, file.end_s))
    return msgspec.structs.replace(file, start_s=start_s, end_s=end_s)


def _date_of(time_s: int) -> date:
    return datetime.fromtimestamp(time_s, UTC).date()


def _start_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _days(start_s: int, end_s: int) -> list[date]:
    """Return the days that [start_s, end_s) touches."""
    if start_s >= end_s:
        return []
    first, last = _date_of(start_s), _date_of(end_s - 1)
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _next_month(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _month_is_there(month: date, now_s: int) -> bool:
    """Tell whether a month's file can be there: from the first Monday after it on."""
    after = _next_month(month)
    monday = after + timedelta(days=-after.weekday() % 7)
    return _start_of(monday) + MONTHLY_LATE_S <= now_s
