"""Times as people give them: zones, strings, floors, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.clock import NS, VirtualClock, use_clock
from piker.dsm import DataSourceManager, Interval
from piker.dsm.times import instant, span_of
from piker.errors import RangeError

MAY = datetime(2024, 5, 1, tzinfo=UTC)
TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    "given_as",
    [
        MAY, "2024-05-01", "2024-05-01T00:00:00", "2024-05-01T00:00:00Z", "2024-05-01 00:00:00",
        "2024-05-01T09:00:00+09:00", datetime(2024, 5, 1, 9, tzinfo=TOKYO),
        pendulum.datetime(2024, 5, 1, tz="UTC"), pendulum.datetime(2024, 5, 1, 9, tz="Asia/Tokyo"),
        pd.Timestamp("2024-05-01", tz="UTC"), str(pd.Timestamp("2024-05-01 00:00:00.000000001")),
    ],
    ids=str,
)  # fmt: skip
def test_instant_is_the_same_when_it_is_given_in_any_form(given_as: Any) -> None:
    """Datetimes of three libraries, any zone, text; a text without a zone is UTC."""
    found = instant(given_as, "start_time")
    assert found == MAY
    assert type(found) is datetime


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (datetime(2024, 5, 1), "no time zone"),  # noqa: DTZ001 - that is the point
        (pd.Timestamp("2024-05-01"), "no time zone"),
        (pd.NaT, "must be a datetime"),
        ("yesterday", "is not a time"),
        ("", "is not a time"),
        (1_714_521_600, "must be a datetime"),
        (None, "must be a datetime"),
        (datetime(1969, 12, 31, tzinfo=UTC), "1970"),
        (datetime.max.replace(tzinfo=UTC), "1970"),
        (datetime.min.replace(tzinfo=TOKYO), "1970"),
    ],
)
def test_instant_is_refused_when_it_is_none(wrong: Any, says: str) -> None:
    """With the parameter's name; a missing zone is never guessed."""
    with pytest.raises(RangeError, match=says) as caught:
        instant(wrong, "end_time")
    assert "end_time" in str(caught.value)


@pytest.mark.parametrize("interval", list(Interval))
@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2020, 1, 1)),  # noqa: DTZ001
    st.timedeltas(timedelta(microseconds=1), timedelta(days=400)),
)
def test_span_holds_the_bars_of_the_range_when_floored_and_when_exact(
    interval: Interval, start: datetime, length: timedelta
) -> None:
    """Floored: both bounds down, one bar at least. Exact: bars that open in [start, end)."""
    first = start.replace(tzinfo=UTC)
    last = first + length
    frame = interval.timeframe
    floored = span_of(frame, first, last, floored=True)
    assert floored.start == frame.floor(int(first.timestamp()))
    assert floored.end > floored.start
    assert floored.end in (
        frame.floor(int(last.timestamp())), frame.next(floored.start),
    )  # fmt: skip
    exact = span_of(frame, first, last, floored=False)
    for edge, moment in ((exact.start, first), (exact.end, last)):
        assert frame.floor(edge) == edge
        assert datetime.fromtimestamp(edge, UTC) >= moment
        assert datetime.fromtimestamp(frame.floor(edge - 1), UTC) < moment


def test_span_says_what_is_closed_when_it_ends_in_the_future() -> None:
    """The bar in the making is not."""
    noon = MAY + timedelta(hours=12, minutes=30)
    with use_clock(VirtualClock(int(noon.timestamp()) * NS)):
        frame = Interval.HOUR_1.timeframe
        span = span_of(frame, MAY, MAY + timedelta(days=1), floored=True)
        assert (span.closed - span.start) // 3600 == 12
        young = span_of(frame, noon - timedelta(minutes=10), noon, floored=True)
        assert young.closed == young.start
        with pytest.raises(RangeError, match="not begun"):
            span_of(frame, noon + timedelta(seconds=1), MAY + timedelta(days=1), floored=True)


@pytest.mark.parametrize("length", [timedelta(0), timedelta(seconds=-1)])
def test_range_is_refused_when_it_is_empty_or_backwards(length: timedelta) -> None:
    """Whether it would be floored or not."""
    for floored in (False, True):
        with pytest.raises(RangeError, match="must be before"):
            span_of(Interval.MINUTE_1.timeframe, MAY, MAY + length, floored=floored)


def test_time_range_is_completed_when_parts_are_left_out() -> None:
    """Days before the end, after the start, before now; floored to the interval."""
    calculate = DataSourceManager.calculate_time_range
    late = MAY + timedelta(hours=5, minutes=7, seconds=9)
    day = timedelta(days=1)
    assert calculate(MAY, late, interval=Interval.HOUR_1) == (MAY, MAY + timedelta(hours=5))
    assert calculate(end_time=MAY + day, days=1) == (MAY, MAY + day)
    assert calculate(start_time="2024-05-01", days=2) == (MAY, MAY + 2 * day)
    with use_clock(VirtualClock(int(late.timestamp()) * NS)):
        assert calculate(interval="1d") == (MAY - 3 * day, MAY)
    for days in (0, -1):
        with pytest.raises(RangeError, match="above zero"):
            calculate(days=days)
    with pytest.raises(RangeError, match="calendar"):
        calculate(days=1e9)
