"""Long bars of short ones: equal to those made of the same trades, on the calendar's grid."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.kraken.trade_bars import PastTrade, TradeBars
from piker.clock import NS
from piker.data.history.compose import Composer, compose, finer_of
from piker.data.ranges import Range
from piker.ohlcv import KLINE_DTYPE, Timeframe

DAY = 86_400
MONDAY = 1_704_067_200  # 2024-01-01, a Monday and a month's first day
NATIVE = ("1m", "5m", "15m", "30m", "1h", "4h", "1d")


@st.composite
def trades(draw: Any) -> list[PastTrade]:
    """Give up to 60 trades of 40 days, most of which see none."""
    times = sorted(draw(st.lists(st.integers(0, 40 * DAY - 1), min_size=1, max_size=60)))
    price = st.decimals("0.5", "100", places=2)
    return [
        PastTrade(
            number, (MONDAY + time) * NS, draw(price), draw(st.decimals("0.01", "9", places=2)),
            draw(st.booleans()),
        )
        for number, time in enumerate(times)
    ]  # fmt: skip


def bars_of(made: list[PastTrade], frame: Timeframe, days: int) -> Any:
    """Return the bars of trades that open in so many days, none left out in between."""
    fold = TradeBars(frame, MONDAY, MONDAY + days * DAY, digits=2)
    fold.add(made)
    return fold.rows(Decimal(7))


@pytest.mark.parametrize(
    ("name", "days"), [("3d", 39), ("1w", 35), ("1M", 31), ("12h", 40), ("2h", 3)]
)
@given(made=trades())
def test_composed_bars_equal_those_of_the_trades_when_made_of_shorter_ones(
    name: str, days: int, made: list[PastTrade]
) -> None:
    """Quiet short bars at either end, or nothing but these, make no difference."""
    frame = Timeframe(name, origin_s=MONDAY) if name == "3d" else Timeframe(name)
    finer = finer_of(Timeframe(name), NATIVE)
    assert finer is not None
    found = compose(bars_of(made, finer, days), frame)
    wanted = bars_of(made, frame, days)
    for field in ("time", "open", "high", "low", "close", "count"):
        assert (found[field] == wanted[field]).all(), field
    for field in ("volume", "turnover", "taker_volume", "taker_turnover"):
        np.testing.assert_allclose(found[field], wanted[field], rtol=1e-12)
    np.testing.assert_allclose(found["bar_wap"], wanted["bar_wap"], atol=0.011)  # both are cut


@given(made=trades(), seed=st.randoms())
def test_bars_are_given_once_and_only_when_whole_whatever_the_order(
    made: list[PastTrade], seed: Any
) -> None:
    """Each long bar comes with the last of its days, and is what all days at once make."""
    days = bars_of(made, Timeframe("1d"), 35)
    week = Timeframe("1w")
    composer = Composer(week, Timeframe("1d"), Range(MONDAY, MONDAY + 35 * DAY))
    order = list(range(35))
    seed.shuffle(order)
    given_so_far, found = set(), []
    for at in order:
        given_so_far.add(at)
        for bar in composer.add(days[at : at + 1]):
            first = (bar.start_s - MONDAY) // DAY
            assert set(range(first, first + 7)) <= given_so_far
            found.append(bar)
    assert len(found) == 5
    rows = np.concatenate([bar.rows for bar in sorted(found, key=lambda bar: bar.start_s)])
    assert rows.tobytes() == compose(days, week).tobytes()


def test_days_that_do_not_exist_are_left_out_when_a_bar_is_composed() -> None:
    """A week of two days is one if the venue has no others; one without any does not exist."""
    composer = Composer(Timeframe("1w"), Timeframe("1d"), Range(MONDAY, MONDAY + 14 * DAY))
    rows = np.zeros(2, KLINE_DTYPE)
    rows["time"] = MONDAY, MONDAY + 4 * DAY
    rows["open"] = rows["high"] = rows["low"] = rows["close"] = 3, 4
    rows["count"] = -1
    assert composer.add(rows) == []
    holes = [(MONDAY + DAY, MONDAY + 4 * DAY), (MONDAY + 5 * DAY, MONDAY + 14 * DAY)]
    first, second = composer.add(rows[:0], holes)
    assert first.rows["open"].tolist() == [3.0]
    assert first.rows["close"].tolist() == [4.0]
    assert first.rows["count"].tolist() == [-1]  # the venue does not say: neither do we
    assert (second.start_s, len(second.rows)) == (MONDAY + 7 * DAY, 0)


@pytest.mark.parametrize(
    ("name", "finer"),
    [("1M", "1d"), ("3M", "1d"), ("1w", "1d"), ("3d", "1d"), ("12h", "4h"), ("8h", "4h"),
     ("6h", "1h"), ("3m", "1m"), ("10m", "5m"), ("1m", None), ("1s", None), ("7m", "1m")],
)  # fmt: skip
def test_the_longest_bars_that_tile_are_taken(name: str, finer: str | None) -> None:
    """Of what the venue has; none where it has nothing shorter."""
    found = finer_of(Timeframe(name), NATIVE)
    assert (None if found is None else str(found)) == finer


def test_bars_of_another_phase_do_not_tile() -> None:
    """Three-day bars of a market's own grid are no bricks of three-day grids of another phase."""
    assert finer_of(Timeframe("6d", origin_s=DAY), ["3d"]) is None
    assert finer_of(Timeframe("2w"), ["1w"]) is not None
    assert finer_of(Timeframe("1M"), ["1w", "3d"]) is None
