"""History joins the live arrays without a seam, and garbage never gets in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.data.backfill import join, regularise
from piker.errors import DataQuality
from piker.ohlcv import OHLC_DTYPE

T0 = 1_700_000_040 - 1_700_000_040 % 60


def frame_of(minutes: list[int]) -> np.ndarray:
    """Make one bar a minute, its close the minute's number plus one."""
    rows = np.zeros(len(minutes), OHLC_DTYPE)
    rows["time"] = [T0 + 60 * minute for minute in minutes]
    for name in ("open", "high", "low", "close"):
        rows[name] = [minute + 1 for minute in minutes]
    rows["volume"], rows["count"] = 1.0, 1
    return rows


@given(st.lists(st.integers(0, 200), min_size=1, max_size=60))
def test_frame_is_equidistant_and_says_its_holes_when_made_regular(minutes: list[int]) -> None:
    """Any set of minutes, in any order, gives every minute between; filled ones are marked."""
    rows = regularise(frame_of(minutes), 60, now_s=T0 + 60 * 300)
    have = set(minutes)
    times = (rows["time"] - T0) // 60
    assert times.tolist() == list(range(min(have), max(have) + 1))
    for minute, row in zip(times.tolist(), rows, strict=True):
        assert row["count"] == (1 if minute in have else -1)
        assert row["close"] == max(known for known in have if known <= minute) + 1


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("close", np.nan, "nan"),
        ("low", -1.0, "nan"),
        ("high", 0.5, "impossible-bar"),
        ("volume", -1.0, "negative-size"),
        ("time", T0 + 7, "off-grid"),
        ("time", T0 + 86_400 * 900, "future-time"),
    ],
)
def test_frame_is_refused_with_its_kind_when_a_bar_is_impossible(
    field: str, value: float, kind: str
) -> None:
    """Each planted fault is a DataQuality of its own kind."""
    frame = frame_of([0, 1, 2])
    frame[field][1] = value
    with pytest.raises(DataQuality) as caught:
        regularise(frame, 60, now_s=T0 + 600)
    assert caught.value.kind == kind


def test_frame_appends_and_overwrites_when_it_overlaps_the_array() -> None:
    """Rows up to the array's newest are overwritten, newer ones appended."""
    plan = join(T0 + 120, frame_of([1, 2, 3, 4]), 60)
    assert not plan.reset
    assert plan.overwrite["time"].tolist() == [T0 + 60, T0 + 120]
    assert plan.append["time"].tolist() == [T0 + 180, T0 + 240]


def test_frame_replaces_the_array_when_there_is_a_hole_between() -> None:
    """An array is never left with a jump in its times."""
    assert join(T0, frame_of([5, 6]), 60).reset
    assert not join(T0, frame_of([1, 2]), 60).reset
    assert join(None, frame_of([1, 2]), 60).append["time"].tolist() == [T0 + 60, T0 + 120]
