"""Bars are what an independent aggregation of the same trades says, whatever the batching."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.data.sampling import Bar, BarBuilder
from piker.ohlcv import ClosedBar

T0 = 1_700_000_040  # not on a minute


def fold_one(builder: BarBuilder, time_s: int, price: float, size: float) -> None:
    """Feed one trade."""
    builder.fold(time_s, price, price, price, price, size, price * size, 1)


class Rows(list[Bar]):
    """An array as the owner of a builder would keep it."""

    def apply(self, builder: BarBuilder) -> None:
        """Apply what the builder wants written."""
        write = builder.take()
        if write is None:
            return
        if write.replaces_last:
            self.pop()
        self.extend(write.rows)
        for bar in write.revised:
            position = (bar.time - self[0].time) // builder.period_s
            if 0 <= position < len(self) and self[position].time == bar.time:
                self[position] = bar


def naive(trades: list[tuple[int, float, float]], period: int) -> dict[int, Bar]:
    """Aggregate trades by hand, flat bars in between."""
    groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for time_s, price, size in trades:
        groups[time_s - time_s % period].append((price, size))
    bars: dict[int, Bar] = {}
    close = math.nan
    for start in range(min(groups), max(groups) + 1, period):
        rows = groups.get(start)
        if not rows:
            bars[start] = Bar(start, close, close, close, close, 0.0, 0, 0.0)
            continue
        prices = [price for price, _ in rows]
        volume = math.fsum(size for _, size in rows)
        notional = math.fsum(price * size for price, size in rows)
        close = prices[-1]
        bars[start] = Bar(
            start, prices[0], max(prices), min(prices), close, volume, len(rows), notional / volume
        )
    return bars


def assert_same(ours: Bar, expected: Bar) -> None:
    """Compare two bars, volumes to float accuracy; incompleteness is not compared."""
    trades = ours.trades if ours.complete else -ours.trades - 1
    assert (ours.time, trades) == (expected.time, expected.trades)
    assert ours[1:5] == expected[1:5]
    assert math.isclose(ours.volume, expected.volume, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(ours.bar_wap, expected.bar_wap, rel_tol=1e-9, abs_tol=1e-12)


trade_lists = st.lists(
    st.tuples(
        st.integers(0, 7),  # seconds since the one before
        st.integers(1, 10_000).map(lambda n: n / 100),
        st.integers(1, 1_000).map(lambda n: n / 1000),
        st.booleans(),  # take() after this trade
    ),
    min_size=1,
    max_size=80,
)


@given(trade_lists, st.sampled_from([1, 5, 60]))
def test_bars_equal_a_naive_aggregation_for_any_batching(
    steps: list[tuple[int, float, float, bool]], period: int
) -> None:
    """In-order trades give the naive bars, however often the rows are taken in between."""
    builder, rows, trades, now = BarBuilder(period), Rows(), [], T0
    for step, price, size, take in steps:
        now += step
        trades.append((now, price, size))
        fold_one(builder, now, price, size)
        if take:
            rows.apply(builder)
    rows.apply(builder)
    expected = naive(trades, period)
    assert [bar.time for bar in rows] == list(expected)
    for bar in rows:
        assert_same(bar, expected[bar.time])
    assert all(bar.complete for bar in rows[1:])
    assert not rows[0].complete


def test_quiet_seconds_are_flat_bars_when_the_clock_advances() -> None:
    """Without trades the clock alone closes bars, at the last price, with no volume."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0, 10.0, 1.0)
    builder.advance(T0 + 3.9)
    rows.apply(builder)
    assert [bar.time for bar in rows] == [T0, T0 + 1, T0 + 2, T0 + 3]
    assert rows[2] == Bar(T0 + 2, 10.0, 10.0, 10.0, 10.0, 0.0, 0, 0.0)


def test_first_trade_of_a_bar_sets_its_open_when_the_bar_was_flat() -> None:
    """A bar opened by the clock takes its open from its first trade, not from the last close."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0, 10.0, 1.0)
    builder.advance(T0 + 1)
    rows.apply(builder)
    fold_one(builder, T0 + 1, 12.0, 1.0)
    rows.apply(builder)
    assert rows[-1][:5] == (T0 + 1, 12.0, 12.0, 12.0, 12.0)


def test_late_trade_revises_its_bar_when_the_bar_is_closed() -> None:
    """A trade of an earlier second changes that second's bar and no other."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0, 10.0, 1.0)
    fold_one(builder, T0 + 1, 11.0, 1.0)
    rows.apply(builder)
    fold_one(builder, T0, 15.0, 2.0)
    rows.apply(builder)
    assert (rows[0].high, rows[0].volume, rows[0].trades) == (15.0, 3.0, -3)
    assert rows[1].high == 11.0
    assert builder.late == 1


def test_venue_bar_corrects_ours_and_is_final_when_it_differs() -> None:
    """The venue's closed bar replaces ours, is counted, and later trades of it change nothing."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0 - 1, 9.0, 1.0)
    fold_one(builder, T0, 10.0, 1.0)
    builder.advance(T0 + 2)
    rows.apply(builder)
    theirs = ClosedBar("x", 1, T0, 10.0, 14.0, 10.0, 13.0, 5.0, 3, 12.0)
    assert builder.correct(theirs)
    fold_one(builder, T0, 99.0, 9.0)
    rows.apply(builder)
    assert rows[1] == Bar(T0, 10.0, 14.0, 10.0, 13.0, 5.0, 3, 12.0)
    assert rows[2] == Bar(T0 + 1, 13.0, 13.0, 13.0, 13.0, 0.0, 0, 0.0)
    assert builder.corrections == 1


def test_venue_bar_closes_the_open_bar_when_it_comes_before_our_clock() -> None:
    """A venue that closes a bar first is believed, and it is no correction."""
    builder, rows = BarBuilder(60), Rows()
    fold_one(builder, T0, 10.0, 1.0)
    start = T0 - T0 % 60
    assert not builder.correct(ClosedBar("x", 60, start, 9.0, 11.0, 8.0, 10.5, 7.0, 4, 9.9))
    rows.apply(builder)
    assert rows[0] == Bar(start, 9.0, 11.0, 8.0, 10.5, 7.0, 4, 9.9)
    assert rows[1][:5] == (start + 60, 10.5, 10.5, 10.5, 10.5)


@pytest.mark.parametrize("traded", [True, False])
def test_bars_are_incomplete_when_the_feed_was_down_during_them(traded: bool) -> None:
    """From the outage to the first whole bar after it, counts are negative."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0, 10.0, 1.0)
    fold_one(builder, T0 + 1, 10.0, 1.0)
    builder.interrupt()
    builder.advance(T0 + 4)
    builder.restore(T0 + 4.2)
    if traded:
        fold_one(builder, T0 + 4, 10.0, 1.0)
    builder.advance(T0 + 6)
    rows.apply(builder)
    assert [bar.complete for bar in rows] == [False, False, False, False, False, True, True]
    assert rows[1].trades == -2
    assert rows[4].trades == (-2 if traded else -1)


@pytest.mark.parametrize("back_s", [1.0, 1.4, 2.0])
def test_bar_is_incomplete_when_it_began_before_the_feed_was_back(back_s: float) -> None:
    """The clock may not have closed the bar of the outage yet: the next one missed trades, too."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0 - 1, 10.0, 1.0)
    fold_one(builder, T0, 10.0, 1.0)
    builder.interrupt()
    builder.restore(T0 + back_s)
    for second in range(1, 4):
        fold_one(builder, T0 + second, 10.0, 1.0)
    rows.apply(builder)
    whole = [T0 + second >= T0 + back_s for second in range(1, 4)]
    assert [bar.complete for bar in rows] == [False, False, *whole]


def test_bars_are_incomplete_from_a_moment_on_when_they_are_doubted() -> None:
    """Those kept from the moment's own on, and the current one; those before it stay whole."""
    builder, rows = BarBuilder(1), Rows()
    for second in range(6):
        fold_one(builder, T0 + second, 10.0 + second, 1.0)
    rows.apply(builder)
    builder.doubt(T0 + 3.5)
    rows.apply(builder)
    assert [bar.trades for bar in rows] == [-2, 1, 1, -2, -2, -2]
    builder.doubt(math.inf)
    fold_one(builder, T0 + 6, 20.0, 1.0)
    fold_one(builder, T0 + 5, 19.0, 1.0)  # late
    rows.apply(builder)
    assert [bar.trades for bar in rows] == [-2, 1, 1, -2, -2, -3, 1]
    assert [bar.close for bar in rows] == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 20.0]


def test_builder_continues_the_open_row_when_it_resumes() -> None:
    """After a restart the open bar keeps its values and its row; it is marked incomplete."""
    first, rows = BarBuilder(60), Rows()
    for second in range(130):
        fold_one(first, T0 + second, 10.0 + second, 1.0)
    rows.apply(first)
    second_life = BarBuilder(60)
    second_life.resume(list(rows))
    second_life.restore(T0 + 130)
    fold_one(second_life, rows[-1].time + 59, 500.0, 2.0)
    count, volume, opened = rows[-1].trades, rows[-1].volume, rows[-1].open
    rows.apply(second_life)
    assert rows[-1].open == opened
    assert rows[-1].high == 500.0
    assert rows[-1].volume == volume + 2.0
    assert rows[-1].trades == -(count + 2)


def test_thirty_days_of_seconds_have_no_drift_when_only_the_clock_moves() -> None:
    """Bars stay on whole seconds for 30 days: as many rows as seconds, none doubled or missing."""
    builder = BarBuilder(1)
    builder.seed(1.0, T0)
    days = 30 * 86_400
    last, count = T0 - 1, 0
    for now in range(T0, T0 + days + 1, 3600):
        builder.advance(now + 0.4)
        write = builder.take()
        assert write is not None
        for bar in write.rows[1:] if write.replaces_last else write.rows:
            assert bar.time == last + 1
            last, count = bar.time, count + 1
    assert count == days + 1


def test_snapshot_fills_the_gap_when_it_is_newer_than_the_open_bar() -> None:
    """After a restart the venue's bars run on from the old open bar to the one in progress."""
    builder, rows = BarBuilder(1), Rows()
    fold_one(builder, T0, 10.0, 1.0)
    rows.apply(builder)
    life = BarBuilder(1)
    life.resume(list(rows))
    for second in range(5):
        price = 20.0 + second
        bar = Bar(T0 + second, price, price, price, price, 2.0, 3, price)
        life.absorb(bar, closed=second < 4)
    life.restore(T0 + 4.1)
    life.advance(T0 + 6)
    rows.apply(life)
    assert [bar.time for bar in rows] == list(range(T0, T0 + 7))
    assert [bar.complete for bar in rows] == [True, True, True, True, False, True, True]
    assert rows[3].close == 23.0
