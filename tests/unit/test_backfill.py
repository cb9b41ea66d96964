"""History joins the live arrays without a seam, and garbage never gets in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.data.backfill import fill, regularise
from piker.data.sampling import BarBuilder
from piker.data.shm import ShmArray
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


@pytest.fixture
def array(tmp_path: Path) -> ShmArray:
    """Return an empty array of minutes."""
    return ShmArray.open_writer("t", "x", period_s=60, rows=1024, path=tmp_path / "m.seg")[0]


def write(array: ShmArray, builder: BarBuilder) -> None:
    """Write what the builder changed."""
    change = builder.take()
    assert change is not None
    array.write_bars(change.rows, replaces_last=change.replaces_last)
    for bar in change.revised:
        array.revise_bar(bar)


def test_builder_continues_the_frame_when_the_array_was_empty(array: ShmArray) -> None:
    """The frame's last row is the open bar; a live trade goes into it, not after it."""
    builder = BarBuilder(60)
    fill(array, builder, frame_of([1, 2, 3]))
    builder.fold(T0 + 190, 9.0, 9.0, 9.0, 9.0, 1.0, 9.0, 1)
    write(array, builder)
    rows = array.read()
    assert rows["time"].tolist() == [T0 + 60, T0 + 120, T0 + 180]
    assert rows["high"].tolist() == [2, 3, 9]


def test_frame_goes_below_live_rows_when_it_comes_late(array: ShmArray) -> None:
    """History that arrives after the first trades is put under them, and completes the open bar."""
    builder = BarBuilder(60)
    builder.fold(T0 + 185, 9.0, 9.0, 9.0, 9.0, 1.0, 9.0, 1)
    write(array, builder)
    fill(array, builder, frame_of([1, 2, 3]))
    write(array, builder)
    rows = array.read()
    assert rows["time"].tolist() == [T0 + 60, T0 + 120, T0 + 180]
    assert rows[-1][["open", "high", "low", "close", "volume"]].item() == (4, 9, 4, 9, 1)


def test_incomplete_rows_take_the_venues_values_and_complete_ones_stay(array: ShmArray) -> None:
    """After an outage the frame fills what was missed, and nothing that was made trade by trade."""
    builder = BarBuilder(60)
    for minute in (1, 2):
        price = 50.0 + minute
        builder.fold(T0 + minute * 60, price, price, price, price, 1.0, price, 1)
    builder.advance(T0 + 180)
    builder.interrupt()
    builder.advance(T0 + 300)
    builder.restore(T0 + 300)
    write(array, builder)
    fill(array, builder, frame_of([1, 2, 3, 4, 5]))
    write(array, builder)
    rows = array.read()
    assert rows["close"].tolist() == [2, 52, 4, 5, 6]
    assert (rows["count"][:4] >= 0).all()
