"""Times as people give them, as ranges of bars. Pure, but for what is now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from piker.clock import NS, wall_ns
from piker.errors import RangeError
from piker.ohlcv import Timeframe

__all__ = ["Moment", "Span", "instant", "span_of", "time_range"]

#: What a time may be given as; pendulum's and pandas' are kinds of datetime.
Moment = datetime | str
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)  # nanoseconds since the epoch still fit 64 bits
_LONG_FRACTION = re.compile(r"(\.\d{6})\d+")  # pandas writes nanoseconds


class Span(NamedTuple):
    """Bars that open in [start, end), epoch seconds; ``closed`` is the end of those that are over.

    ``closed`` is not before ``start``.
    """

    start: int
    end: int
    closed: int


def instant(given: Moment, name: str) -> datetime:
    """Return a time in UTC. A string without a zone is UTC; a datetime must have a zone.

    Raises ``RangeError``, which names the parameter.
    """
    if isinstance(given, str):
        given = _parsed(given, name)
    if not isinstance(given, datetime) or given != given:  # NaT is a datetime, too
        raise RangeError(
            f"{name} must be a datetime or an ISO string, not {type(given).__name__}.",
            remedy="Example: datetime(2024, 5, 1, tzinfo=timezone.utc).",
        )
    if given.utcoffset() is None:
        raise RangeError(
            f"{name} has no time zone: {given.isoformat()}.",
            remedy="Give it one, as in datetime(2024, 5, 1, tzinfo=timezone.utc).",
        )
    # Of the plain kind from here on: pendulum's does its arithmetic in a way of its own.
    plain = datetime(
        given.year, given.month, given.day, given.hour, given.minute, given.second,
        given.microsecond, tzinfo=given.tzinfo, fold=given.fold,
    )  # fmt: skip
    if not _EPOCH <= plain < _LATEST:
        raise RangeError(f"{name} is not between 1970 and 2200: {plain.isoformat()}.")
    return plain.astimezone(UTC)


def _parsed(text: str, name: str) -> datetime:
    try:
        found = datetime.fromisoformat(_LONG_FRACTION.sub(r"\1", text.strip()))
    except ValueError:
        raise RangeError(
            f"{name} is not a time: {text[:40]!r}.",
            remedy="Write it as 2024-05-01 or 2024-05-01T12:30:00Z.",
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def span_of(timeframe: Timeframe, start: datetime, end: datetime, *, floored: bool) -> Span:
    """Return the bars of a request, ``floored``: both bounds down to the interval's, else exact.

    Floored, there is one bar at least. Raises ``RangeError`` for a range that is empty or has not
    begun yet.
    """
    if start >= end:
        raise RangeError(
            f"start_time must be before end_time: {start.isoformat()} is not before "
            f"{end.isoformat()}.",
            remedy="The end itself is not part of the range.",
        )
    first_us, last_us = (start - _EPOCH) // _US, (end - _EPOCH) // _US
    now_s = wall_ns() // NS
    if floored:
        low, high = timeframe.floor(first_us // 10**6), timeframe.floor(last_us // 10**6)
        high = high if high > low else timeframe.next(low)
    else:
        low, high = (_ceiled(timeframe, -(-us // 10**6)) for us in (first_us, last_us))
    if first_us // 10**6 >= now_s:
        raise RangeError(
            f"the range has not begun yet: start_time is {start.isoformat()}.",
            remedy=f"It is {datetime.fromtimestamp(now_s, UTC).isoformat()} now.",
        )
    return Span(low, high, max(low, min(high, timeframe.floor(now_s))))


def _ceiled(timeframe: Timeframe, time_s: int) -> int:
    floor = timeframe.floor(time_s)
    return floor if floor == time_s else timeframe.next(time_s)


def time_range(
    timeframe: Timeframe, start: Moment | None, end: Moment | None, days: float
) -> tuple[datetime, datetime]:
    """Return (start, end): as given, or ``days`` before the end, after the start, or before now.

    Both are floored to the interval.
    """
    if days <= 0 and (start is None or end is None):
        raise RangeError(f"days must be above zero, not {days}.")
    first = instant(start, "start_time") if start is not None else None
    last = instant(end, "end_time") if end is not None else None
    try:
        if first is None:
            last = last or datetime.fromtimestamp(wall_ns() // NS, UTC)
            first = last - timedelta(days=days)
        last = last or first + timedelta(days=days)
        floors = [timeframe.floor((one - _EPOCH) // timedelta(seconds=1)) for one in (first, last)]
        low, high = (datetime.fromtimestamp(floor, UTC) for floor in floors)
    except (OverflowError, ValueError) as err:
        raise RangeError(f"{days} days lead out of the calendar.") from err
    return low, high
