"""Which files of the archive hold a range: names as the archive spells them, none twice."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from archive_zips import ms
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.brokers.archive import ArchiveFile
from piker.brokers.binance.archive_files import (
    DAILY_LATE_S,
    FIRST_DAY,
    MONTHLY_LATE_S,
    MONTHLY_ONLY,
    Shelf,
    period_of,
)
from piker.brokers.binance.bars import INTERVALS
from piker.errors import DataUnavailable
from piker.ohlcv import Timeframe

DAY = 86_400
LATE = 2**31  # a now in 2038
SPOT = Shelf("spot", "BTCUSDT")


def s(text: str) -> int:
    """Return seconds of an ISO time."""
    return ms(text) // 1000


def names(files: list[ArchiveFile]) -> list[str]:
    """Return the paths without what they share."""
    return [file.path.removeprefix("data/").removesuffix(".zip") for file in files]


@pytest.mark.parametrize(
    ("venue", "symbol", "interval", "path"),
    [
        ("spot", "BTCUSDT", "1m", "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05.zip"),
        ("spot", "BTCUSDT", "1s", "data/spot/monthly/klines/BTCUSDT/1s/BTCUSDT-1s-2024-05.zip"),
        ("spot", "BTCUSDT", "1M", "data/spot/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2024-05.zip"),
        ("usdtm", "BTCUSDT_240628", "1h",
         "data/futures/um/monthly/klines/BTCUSDT_240628/1h/BTCUSDT_240628-1h-2024-05.zip"),
        ("coinm", "BTCUSD_PERP", "1d",
         "data/futures/cm/monthly/klines/BTCUSD_PERP/1d/BTCUSD_PERP-1d-2024-05.zip"),
        ("coinm", "BTCUSD_240628", "12h",
         "data/futures/cm/monthly/klines/BTCUSD_240628/12h/BTCUSD_240628-12h-2024-05.zip"),
    ],
)  # fmt: skip
def test_a_month_is_named_as_the_archive_does_when_it_is_whole(
    venue: str, symbol: str, interval: str, path: str
) -> None:
    """Each market's folder; a month is ``1mo``; dated futures keep their date."""
    files = Shelf(venue, symbol).klines(
        Timeframe(interval), s("2024-05-01"), s("2024-06-01"), now_s=LATE
    )
    assert files == [ArchiveFile(path, "klines", interval, s("2024-05-01"), s("2024-06-01"))]


def test_days_are_taken_when_the_range_cuts_months() -> None:
    """The end of one month, a whole one, the beginning of the next."""
    files = SPOT.klines(Timeframe("1m"), s("2024-04-29") + 5, s("2024-06-02") + 1, now_s=LATE)
    assert names(files) == [
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-04-29",
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-04-30",
        "spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05",
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-06-01",
        "spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-06-02",
    ]


def test_a_month_is_taken_from_its_first_monday_on_when_time_goes_by() -> None:
    """May 2024 comes on Monday 3 June; days stand in for it until then."""
    monday = s("2024-06-03") + MONTHLY_LATE_S
    span = s("2024-05-01"), s("2024-06-01")
    assert len(SPOT.klines(Timeframe("1m"), *span, now_s=monday)) == 1
    assert len(SPOT.klines(Timeframe("1m"), *span, now_s=monday - 1)) == 31
    # September 2024 ends on a Monday: October's first is the 7th; December's is the 2nd.
    assert (
        SPOT.klines(Timeframe("1w"), s("2024-09-01"), s("2024-10-01"), now_s=s("2024-10-06")) == []
    )
    assert (
        len(SPOT.klines(Timeframe("1w"), s("2024-11-01"), s("2024-12-01"), now_s=s("2024-12-03")))
        == 1
    )


def test_a_day_is_left_out_when_it_is_too_young() -> None:
    """Two hours after its end it may be there, not before."""
    there = s("2024-05-03") + DAILY_LATE_S
    span = s("2024-05-02"), s("2024-05-04")
    assert len(SPOT.klines(Timeframe("1m"), *span, now_s=there)) == 1
    assert SPOT.klines(Timeframe("1m"), *span, now_s=there - 1) == []


@pytest.mark.parametrize("interval", MONTHLY_ONLY)
def test_every_month_is_taken_when_the_interval_has_no_days(interval: str) -> None:
    """Also those that the range only touches."""
    files = SPOT.klines(Timeframe(interval), s("2024-04-15"), s("2024-06-04"), now_s=LATE)
    assert [file.name[-11:-4] for file in files][-2:] == ["2024-05", "2024-06"]
    assert all(period_of(file)[0] <= file.start_s for file in files)


def test_bounds_are_bars_opens_when_bars_do_not_begin_with_the_month() -> None:
    """Weeks: from the first Monday in the month to the first in the next."""
    (file,) = SPOT.klines(Timeframe("1w"), s("2024-05-06"), s("2024-06-03"), now_s=LATE)
    assert (file.start_s, file.end_s) == (s("2024-05-06"), s("2024-06-03"))
    assert period_of(file) == (s("2024-05-01"), s("2024-06-01"))
    frame = Timeframe("3d", origin_s=s("2017-08-17"))
    files = SPOT.klines(frame, s("2024-05-01"), s("2024-06-01"), now_s=LATE)
    assert [(one.start_s, one.end_s) for one in files] == [(s("2024-05-03"), s("2024-06-02"))]
    usual = SPOT.klines(Timeframe("3d"), s("2024-05-01"), s("2024-06-01"), now_s=LATE)
    assert [(one.start_s, one.end_s) for one in usual] == [(s("2024-05-02"), s("2024-06-01"))]


def test_nothing_is_there_when_the_archive_has_no_such_bars() -> None:
    """Seconds on spot only, intervals of nobody, empty ranges, ages before the venue."""
    span = s("2024-05-01"), s("2024-06-01")
    assert Shelf("usdtm", "BTCUSDT").klines(Timeframe("1s"), *span, now_s=LATE) == []
    assert Shelf("coinm", "BTCUSD_PERP").klines(Timeframe("1s"), *span, now_s=LATE) == []
    assert SPOT.klines(Timeframe("7m"), *span, now_s=LATE) == []
    assert SPOT.klines(Timeframe("1m"), span[1], span[0], now_s=LATE) == []
    assert SPOT.klines(Timeframe("1m"), span[0], span[0], now_s=LATE) == []
    assert SPOT.klines(Timeframe("1d"), 0, s("2017-07-01"), now_s=LATE) == []
    assert SPOT.klines(Timeframe("1d"), 0, 2**60, now_s=s("2017-07-16") + DAILY_LATE_S) != []


@pytest.mark.parametrize("symbol", ["../x", "", "btcusdt", "BTC/USDT", "A" + "_B" * 2, "BTC USDT"])
def test_a_market_is_refused_when_its_name_is_no_files(symbol: str) -> None:
    """No path is made of it."""
    with pytest.raises(DataUnavailable):
        Shelf("spot", symbol)


def test_trades_are_days_and_fundings_months_when_they_are_asked_for() -> None:
    """Months of trades are too big; fundings exist as months, and for futures only."""
    span = s("2024-05-01"), s("2024-06-01")
    assert len(SPOT.trades(*span, now_s=LATE)) == 31
    assert names(SPOT.trades(*span, now_s=LATE))[0] == (
        "spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-05-01"
    )
    assert names(Shelf("usdtm", "BTCUSDT").fundings(*span, now_s=LATE)) == [
        "futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05"
    ]
    assert SPOT.fundings(*span, now_s=LATE) == []


def test_days_stand_in_for_a_month_when_it_is_missing() -> None:
    """Those that can be there; nothing where there are no daily files."""
    (month,) = SPOT.klines(Timeframe("1m"), s("2024-05-01"), s("2024-06-01"), now_s=LATE)
    days = SPOT.days_of(month, now_s=s("2024-05-11") + DAILY_LATE_S)
    assert [file.name[-6:-4] for file in days] == [f"{day:02}" for day in range(1, 11)]
    assert SPOT.days_of(days[0], now_s=LATE) == []
    (month,) = SPOT.klines(Timeframe("1w"), s("2024-05-01"), s("2024-06-01"), now_s=LATE)
    assert SPOT.days_of(month, now_s=LATE) == []


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(list(FIRST_DAY)),
    st.sampled_from(INTERVALS),
    st.integers(s("2017-01-01"), s("2027-01-01")),
    st.integers(0, 200 * DAY),
    st.integers(s("2017-01-01"), s("2028-01-01")),
)
def test_files_hold_the_range_and_nothing_twice_when_any_is_asked_for(
    venue: str, interval: str, start_s: int, length: int, now_s: int
) -> None:
    """Ascending, apart, each of use; every instant that is old enough lies in one."""
    end_s = start_s + length
    files = Shelf(venue, "BTCUSDT").klines(Timeframe(interval), start_s, end_s, now_s=now_s)
    for file in files:
        assert file.start_s < end_s
        assert file.end_s > start_s
        assert period_of(file)[1] + DAILY_LATE_S <= now_s
    assert all(one.end_s <= other.start_s for one, other in pairwise(files))
    assert len({file.path for file in files}) == len(files)
    if interval == "1s" and venue != "spot":
        assert files == []
        return
    if interval in MONTHLY_ONLY:
        for at in Timeframe(interval).grid(start_s, min(end_s, now_s - 39 * DAY)):
            launched = datetime.combine(FIRST_DAY[venue], datetime.min.time(), UTC).timestamp()
            assert at < launched or any(file.start_s <= at < file.end_s for file in files)
        return
    first = int(datetime.combine(FIRST_DAY[venue], datetime.min.time(), UTC).timestamp())
    for at in range(max(start_s, first), min(end_s, now_s - DAY - DAILY_LATE_S), DAY):
        assert any(file.start_s <= at < file.end_s for file in files)
    months = [file for file in files if "/monthly/" in file.path]
    assert all(file.start_s >= start_s and file.end_s <= end_s for file in months)
