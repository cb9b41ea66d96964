"""Frames of stored bars: who served what, the full grid, months, missing values, small reports."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.data.history.quality import Missing, Report
from piker.data.store.segment import NO_BARS, SOURCES, arrow_of
from piker.data.store.series import Series
from piker.dsm.frames import DTYPES, bars_table, frame_of, served_by
from piker.dsm.funding import _hours
from piker.dsm.funding_store import RATE_DTYPE, FundingStore
from piker.dsm.reports import MAX_TOLD, report_of
from piker.dsm.times import Span
from piker.ohlcv import KLINE_DTYPE, Timeframe

T0 = 1_714_521_600
HOURS = Series("binance", "btcusdt.spot", "1h")
ARCHIVE, REST, LIVE = (SOURCES.index(name) for name in ("archive", "rest", "live"))


def table_of(times: list[int], codes: int | list[int] = ARCHIVE, series: Series = HOURS) -> Any:
    """Return bars that open at these times."""
    rows = np.zeros(len(times), KLINE_DTYPE)
    rows["time"], rows["count"] = times, 3
    for name in ("open", "high", "low", "close", "volume", "turnover"):
        rows[name] = 1.5
    return arrow_of(rows, series, codes if isinstance(codes, int) else np.array(codes, "u1"))


def test_bars_are_cached_ones_unless_this_call_fetched_them_when_served() -> None:
    """What a better source had given before stays CACHE, though the range was asked for."""
    table = table_of(
        [T0 + at * 3600 for at in range(6)], [ARCHIVE, ARCHIVE, REST, REST, LIVE, REST]
    )
    assert served_by(table, []).tolist() == [0] * 6
    whole = (T0, T0 + 6 * 3600)
    assert served_by(table, [(*whole, "archive")]).tolist() == [1, 1, 0, 0, 0, 0]
    assert served_by(table, [(*whole, "rest")]).tolist() == [0, 0, 2, 2, 0, 2]
    both = [(T0, T0 + 7200, "archive"), (T0 + 7200, T0 + 3 * 3600, "rest")]
    assert served_by(table, both).tolist() == [1, 1, 2, 0, 0, 0]
    assert served_by(NO_BARS, both).tolist() == []


@pytest.mark.slow
@pytest.mark.parametrize("polars", [False, True])
@settings(deadline=None)  # the first example loads pandas
@given(present=st.sets(st.integers(0, 40)))
def test_grid_has_every_bar_and_keeps_every_value_when_some_are_absent(
    present: set[int], polars: bool
) -> None:
    """For any set of bars that are there."""
    kept = sorted(present)
    table = table_of([T0 + at * 3600 for at in kept])
    span = Span(T0, T0 + 41 * 3600, T0 + 41 * 3600)
    codes = np.ones(len(kept), "u1")
    full = bars_table(table, codes, HOURS.timeframe, span, gridded=True)
    frame = frame_of(full, polars=polars, source=True, attrs={})
    assert len(frame) == 41
    there = np.isfinite(frame["close"].to_numpy())
    assert np.flatnonzero(there).tolist() == kept
    assert frame["count"].to_numpy().tolist() == [3 if at in present else 0 for at in range(41)]
    named = [one if one == one and one is not None else "" for one in list(frame["_data_source"])]
    assert named == ["VISION" if at in present else "" for at in range(41)]
    if not polars:
        assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
            name: kind for name, kind in DTYPES.items() if name != "open_time"
        }


def test_months_end_where_the_next_begins_when_one_is_absent() -> None:
    """Leap years, too."""
    months = Series("binance", "btcusdt.spot", "1M")
    frame = Timeframe("1M")
    begin, end = 1_704_067_200, 1_735_689_600  # the year 2024
    grid = frame.grid(begin, end).tolist()
    table = table_of(grid[:1] + grid[2:], series=months)
    full = bars_table(table, np.zeros(11, "u1"), frame, Span(begin, end, end), gridded=True)
    found = frame_of(full, polars=False, source=False, attrs={})
    assert len(found) == 12
    assert found["close"].isna().tolist() == [False, True] + [False] * 10
    opens = [*found.index.asi8.tolist(), end * 10**9]
    assert (found["close_time"].astype("i8") + 10**6).tolist() == opens[1:]
    assert "_data_source" not in found.columns


def test_report_stays_small_when_a_great_deal_is_missing() -> None:
    """The largest gaps are told, in order of time; pandas copies it with each operation."""
    report = Report(HOURS, T0, T0 + 10**7, rows=5, expected=1000)
    report.missing = [
        Missing(T0 + at * 7200, T0 + at * 7200 + 3600, 1 + at % 50, "failed", "x" * 500)
        for at in range(1000)
    ]
    told = report_of(report, np.array([0, 1, 2, 2, 2], "u1"), elapsed_s=0.5)
    assert told["served"] == {"CACHE": 1, "VISION": 1, "REST": 3}
    assert len(told["missing"]) == MAX_TOLD
    assert {one["bars"] for one in told["missing"]} == {50}
    assert told["missing"] == sorted(told["missing"], key=lambda one: one["start"])
    assert told["missing_ranges"] == 1000
    assert len(pickle.dumps(told)) < 8192
    assert copy.deepcopy(told) == told


# -- funding -------------------------------------------------------------------------------------
def rates(*times_h: float) -> Any:
    """Return fundings at these hours, to which venues add some milliseconds."""
    rows = np.zeros(len(times_h), RATE_DTYPE)
    rows["time_ms"] = [int(T0 * 1000 + hour * 3_600_000) for hour in times_h]
    rows["rate"] = 0.0001
    return rows


def test_interval_is_the_time_since_the_funding_before_when_nobody_said() -> None:
    """A venue's change from 8 to 4 hours shows; the first one and a pause have none."""
    assert _hours(rates(0, 8, 16.000003, 20, 24, 60)).tolist() == [0, 8, 8, 4, 4, 0]
    said = rates(0, 8)
    said["interval_h"] = [8, 8]
    assert _hours(said).tolist() == [8, 8]
    assert _hours(rates()).tolist() == []


@pytest.mark.slow
@settings(deadline=None)  # the disk is everybody's
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12))
def test_fundings_that_were_asked_for_are_there_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, int]]
) -> None:
    """Ranges that overlap, touch or leave holes, of two markets that share nothing."""
    store = FundingStore(tmp_path_factory.mktemp("funding"))
    there: set[int] = set()
    base = T0 * 1000
    for start, length in asked:
        begin, end = base + start * 3_600_000, base + (start + length) * 3_600_000
        store.write("one", rates(*range(start, start + length)), begin, end)
        there |= set(range(start, start + length))
    whole = (base, base + 60 * 3_600_000)
    found = (store.read("one", *whole)["time_ms"] - base) // 3_600_000
    assert found.tolist() == sorted(there)
    missing = {
        hour
        for span in store.missing("one", *whole)
        for hour in range((span.start - base) // 3_600_000, (span.end - base) // 3_600_000)
    }
    assert missing == set(range(60)) - there
    assert store.missing("other", *whole) == (whole,)
    assert store.forget("one") == len(there)
    assert store.missing("one", *whole) == (whole,)


def test_fundings_of_other_markets_stay_when_one_is_written(tmp_path: Path) -> None:
    """By the whole id, however alike two are."""
    store = FundingStore(tmp_path)
    store.write("btcusd.coinm.perp", rates(0, 8), T0 * 1000, T0 * 1000 + 10**8)
    store.write("btcusdt.usdtm.perp", rates(0), T0 * 1000, T0 * 1000 + 10**8)
    assert len(store.read("btcusd.coinm.perp", 0, 2**53)) == 2
    assert len(FundingStore(tmp_path).read("btcusdt.usdtm.perp", 0, 2**53)) == 1
