"""Grids that begin where a market says: three-day bars of Binance, and whatever is alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.ohlcv import Timeframe

DAY = 86_400
#: The first three-day bars of markets on Binance spot: the day each was listed.
FIRST = {"BTCUSDT": 1_502_928_000, "SOLUSDT": 1_597_104_000}  # 2017-08-17, 2020-08-11


@pytest.mark.parametrize("symbol", FIRST)
def test_three_day_bars_open_every_three_days_from_the_first_when_it_is_given(symbol: str) -> None:
    """Two markets, two phases, neither the epoch's."""
    first = FIRST[symbol]
    frame = Timeframe("3d", origin_s=first)
    assert Timeframe("3d").floor(first) != first
    assert frame.floor(first) == frame.floor(first + 3 * DAY - 1) == first
    assert frame.next(first) == first + 3 * DAY
    assert frame.grid(first - 1, first + 6 * DAY).tolist() == [first, first + 3 * DAY]
    assert frame.count_between(first, first + 6 * DAY) == 2
    assert frame.on_grid(frame.grid(0, first)).all()
    assert not Timeframe("3d").on_grid(frame.grid(0, first)).any()


def test_timeframes_are_equal_when_their_grids_are() -> None:
    """Origins a whole length apart are one; the default is the epoch, of weeks a Monday."""
    assert Timeframe("3d", origin_s=9 * DAY) == Timeframe("3d")
    assert Timeframe("3d", origin_s=DAY) != Timeframe("3d")
    assert Timeframe("3d", origin_s=DAY) == Timeframe("3d", origin_s=4 * DAY)
    assert hash(Timeframe("3d", origin_s=DAY)) == hash(Timeframe("3d", origin_s=4 * DAY))
    assert Timeframe("1w", origin_s=4 * DAY) == Timeframe("1w")
    assert str(Timeframe("3d", origin_s=DAY)) == "3d"
    for frame in (Timeframe("1M"), Timeframe("1w"), Timeframe("3d", origin_s=DAY)):
        assert eval(repr(frame)) == frame


def test_an_origin_is_refused_when_bars_are_months() -> None:
    """They begin on firsts."""
    with pytest.raises(ValueError, match="month"):
        Timeframe("1M", origin_s=DAY)


@given(st.integers(0, 2**33), st.integers(0, 2**33), st.sampled_from(["3d", "7d", "1w", "90m"]))
def test_a_time_lies_in_one_bar_when_the_origin_is_any(origin: int, at: int, text: str) -> None:
    """From its open on, before the next one's."""
    frame = Timeframe(text, origin_s=origin)
    assert frame.floor(at) <= at < frame.next(at)
    assert frame.floor(frame.next(at)) == frame.next(at)
    assert (frame.floor(at) - origin) % frame.seconds == 0
