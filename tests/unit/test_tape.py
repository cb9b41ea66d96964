"""What can not be never reaches a bar or the ring; what is right gets there once."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piker.clock import NS
from piker.data.shm import ShmArray, TickRing
from piker.data.tape import MAX_VALUE, Tape, Tapes
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, TickBatch, TickRow

T0 = 1_700_000_000


class Rig:
    """One market on real segments."""

    def __init__(self, folder: Path, *, inverse: bool = False) -> None:
        ring, _ = TickRing.open_writer("t", "x", rows=4096, path=folder / "r.seg")
        bars = tuple(
            ShmArray.open_writer("t", "x", period_s=p, rows=1024, path=folder / f"{p}.seg")[0]
            for p in (1, 60)
        )
        self.refused: Counter[str] = Counter()
        self.tapes = Tapes(lambda kind, _: self.refused.update([kind]))
        self.tape = Tape("x", ring, bars, inverse=inverse)
        self.tapes.add(self.tape)
        self.ring, self.seconds, self.minutes = ring, *bars

    def apply(self, *rows: TickRow) -> None:
        """Apply rows received a millisecond after the newest."""
        self.tapes.apply(TickBatch(list(rows), max(row[2] for row in rows) + 1_000_000))

    def close(self) -> None:
        """Remove the segments."""
        for segment in (self.ring, self.seconds, self.minutes):
            segment.close(unlink=True)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Return a market on real segments."""
    return Rig(tmp_path)


def trade(second: float, price: float, size: float, symbol: str = "x") -> TickRow:
    """Make a trade row."""
    return (symbol, TRADE, int((T0 + second) * NS), price, size, 0.0, 0.0, 1, 7)


def quote(bid: float, ask: float, bid_size: float = 1.0, ask_size: float = 1.0) -> TickRow:
    """Make a top-of-book row."""
    return ("x", QUOTE, T0 * NS, bid, bid_size, ask, ask_size, 0, 9)


def test_trades_make_bars_and_every_tick_is_in_the_ring(rig: Rig) -> None:
    """Two seconds of trades and a quote: two 1 s bars, one 1 m bar, four ring rows."""
    rig.apply(trade(0.1, 10, 1), trade(0.9, 12, 2), quote(9, 11))
    rig.apply(trade(1.5, 8, 4))
    seconds = rig.seconds.read()
    assert seconds["close"].tolist() == [12, 8]
    assert seconds["volume"].tolist() == [3, 4]
    assert seconds["bar_wap"].tolist() == [pytest.approx(34 / 3), 8]
    assert rig.minutes.read()[["open", "high", "low", "close", "volume"]].tolist() == [
        (10, 12, 8, 8, 7)
    ]
    ring = rig.ring.array
    assert ring["type"].tolist() == [TRADE, TRADE, QUOTE, TRADE]
    assert ring["index"].tolist() == [0, 1, 2, 3]
    assert ring["price2"].tolist() == [0, 0, 11, 0]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (trade(0, math.nan, 1), "nan"),
        (trade(0, 10, math.nan), "nan"),
        (trade(0, math.inf, 1), "huge-value"),
        (trade(0, 1e308, 1), "huge-value"),
        (trade(0, -1, 1), "negative-price"),
        (trade(0, 0, 1), "negative-price"),
        (trade(0, 10, -1), "negative-size"),
        (trade(0, 10, 0), "zero-size"),
        (trade(-2e9, 10, 1), "bad-time"),
        (trade(0, 10, 1, symbol="y"), "wrong-symbol"),
        (quote(11, 9), "crossed-book"),
        (quote(9, math.nan), "nan"),
        (quote(9, 11, bid_size=-1), "negative-size"),
        (quote(-9, 11), "negative-price"),
    ],
)
def test_impossible_tick_is_counted_and_goes_nowhere(rig: Rig, row: TickRow, kind: str) -> None:
    """Each rule has its kind; neither bars nor ring change, and a good tick still passes."""
    rig.apply(row)
    assert rig.refused == {kind: 1}
    assert len(rig.ring) == len(rig.seconds) == len(rig.minutes) == 0
    rig.apply(trade(0, 10, 1))
    assert len(rig.ring) == len(rig.seconds) == 1


def test_tick_from_the_future_is_refused(rig: Rig) -> None:
    """A time stamp far ahead of its receipt would make bars for hours that have not been."""
    row = trade(86_400, 10, 1)
    rig.tapes.apply(TickBatch([row], T0 * NS))
    assert rig.refused == {"future-time": 1}
    assert len(rig.seconds) == 0


@pytest.mark.parametrize(
    "bar",
    [
        ClosedBar("x", 1, T0, 10, 9, 8, 10, 1, 1),
        ClosedBar("x", 1, T0, 10, 12, 8, math.nan, 1, 1),
        ClosedBar("x", 1, T0, 10, 12, 8, 10, -1, 1),
        ClosedBar("x", 1, T0, 10, 12, 8, 10, 1, -3),
        ClosedBar("x", 1, T0, 10, MAX_VALUE * 2, 8, 10, 1, 1),
    ],
)
def test_impossible_closed_bar_is_refused(rig: Rig, bar: ClosedBar) -> None:
    """A venue's bar is checked before it corrects ours."""
    rig.apply(trade(0, 10, 1))
    rig.tapes.correct(bar)
    assert rig.refused == {"impossible-bar": 1}
    assert rig.seconds.read()["high"].tolist() == [10]


def test_clock_closes_quiet_seconds_on_the_venues_time(rig: Rig) -> None:
    """Bars follow the venue's clock: ours may be an hour ahead of it."""
    ahead = 3600 * NS
    rig.tapes.apply(TickBatch([trade(0.5, 10, 1)], (T0 * NS) + ahead))
    rig.tapes.advance(T0 * NS + ahead + 5 * NS, 250_000_000)
    times = rig.seconds.read()["time"].tolist()
    assert times == list(range(T0, T0 + 6))


def counts(array: ShmArray) -> list[int]:
    """Return the trades of each bar; of one not known to be complete -(n + 1)."""
    found: list[int] = array.read()["count"].tolist()
    return found


def at(second: float) -> int:
    """Return a moment in ns."""
    return int((T0 + second) * NS)


def test_bars_are_incomplete_when_trades_of_them_came_late_after_an_outage(rig: Rig) -> None:
    """Cut off across the turn of a second: the trade that is fetched later was the first of it.

    The sums are right then, the open is not, and no such bar may be called complete.
    """
    rig.apply(trade(7.2, 10, 1))
    rig.apply(trade(8.2, 10, 1), trade(9.6, 11, 1))
    rig.tapes.interrupt(["x"])  # at 9.9
    rig.tapes.restore(["x"], now_ns=at(10.2))
    rig.apply(trade(10.5, 15, 1))  # its id tells of two that were missed
    rig.tapes.restore(["x"], now_ns=at(10.6), since_ns=at(9.6))
    rig.apply(trade(9.95, 13, 1), trade(10.1, 14, 1))
    rig.apply(trade(11.1, 16, 1))
    rig.apply(trade(12.1, 17, 1))
    assert counts(rig.seconds) == [-2, 1, -3, -3, 1, 1]
    bars = rig.seconds.read()
    assert (bars["open"][3], bars["volume"][3]) == (15, 2)
    assert counts(rig.minutes) == [-9]


def test_bars_are_incomplete_from_the_last_tick_on_when_its_silence_was_an_outage(rig: Rig) -> None:
    """A connection is known to be gone long after its last word: flat bars of then say nothing."""
    rig.apply(trade(0.5, 10, 1))
    rig.apply(trade(1.5, 10, 1), trade(2.5, 10, 1))
    rig.tapes.advance(at(9.0), 0)
    assert counts(rig.seconds) == [-2, 1, 1, 0, 0, 0, 0, 0, 0]
    rig.tapes.interrupt()
    assert counts(rig.seconds) == [-2, 1, -2, -1, -1, -1, -1, -1, -1]
    rig.tapes.restore(now_ns=at(10.0))
    rig.tapes.advance(at(13.0), 0)
    assert counts(rig.seconds)[9:] == [-1, -1, 0, 0]


def test_rows_that_no_builder_keeps_are_doubted_when_a_quiet_market_skipped_a_trade(
    rig: Rig,
) -> None:
    """Ten minutes between two trades, and one between them is missing: it may be in any bar."""
    rig.apply(trade(0.5, 10, 1), trade(1.5, 10, 1))
    rig.tapes.advance(at(600.0), 0)
    rig.apply(trade(600.5, 12, 1))
    assert counts(rig.seconds)[1:-1] == [1, *[0] * 598]
    rig.tapes.restore(["x"], now_ns=at(600.6), since_ns=at(100))
    assert counts(rig.seconds)[1:-1] == [1, *[0] * 98, *[-1] * 500]


def test_bars_of_a_venue_whose_clock_is_off_are_complete_when_its_time_is_known(rig: Rig) -> None:
    """Live before the first trade: what the venue's clock says is known with that."""
    ahead = 3600 * NS
    rig.tapes.restore(now_ns=at(0.2) + ahead)
    for second in range(4):
        rig.tapes.apply(TickBatch([trade(second + 0.5, 10, 1)], at(second + 0.501) + ahead))
    assert counts(rig.seconds) == [-2, 1, 1, 1]


numbers = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 1e308, -1e308, math.nan, math.inf, 1e-300])
)
wild_rows = st.lists(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.integers(0, 12),
        st.integers(-(10**19), 10**19),
        numbers, numbers, numbers, numbers,
        st.integers(-1, 1),
        st.integers(-1, 10**12),
    ),
    max_size=40,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wild_rows)
def test_no_wild_value_ever_reaches_a_bar(
    tmp_path_factory: pytest.TempPathFactory, rows: list[TickRow]
) -> None:
    """Whatever a backend sends, bars hold finite positive prices inside their high and low."""
    rig = Rig(tmp_path_factory.mktemp("wild"))
    rig.tapes.apply(TickBatch(rows, T0 * NS))
    for array in (rig.seconds, rig.minutes):
        for bar in array.read():
            prices = [float(bar[name]) for name in ("open", "high", "low", "close")]
            assert all(0 < price < MAX_VALUE for price in prices)
            assert bar["low"] == min(prices)
            assert bar["high"] == max(prices)
            assert 0 <= bar["volume"] < MAX_VALUE * len(rows)
    ring = rig.ring.array
    assert (ring["price"] == ring["price"]).all()
    assert (abs(ring["price"]) < MAX_VALUE).all()
    rig.close()


def test_bars_of_an_inverse_market_are_weighted_by_coins_when_sizes_are_contracts(
    tmp_path: Path,
) -> None:
    """Ten contracts at 100 are 0.1 coin, ten at 200 half as much: the mean is 133.33, not 150."""
    rig = Rig(tmp_path, inverse=True)
    try:
        rig.apply(trade(0.1, 100.0, 10.0), trade(1.2, 200.0, 10.0))
        assert rig.minutes.read()["bar_wap"][-1] == pytest.approx(400 / 3)
        assert rig.seconds.read()["bar_wap"].tolist() == pytest.approx([100.0, 200.0])
        rig.apply(trade(0.5, 200.0, 10.0))  # late: its second is closed
        assert rig.seconds.read()["bar_wap"].tolist() == pytest.approx([400 / 3, 200.0])
        assert rig.minutes.read()["bar_wap"][-1] == pytest.approx(30 / (10 / 100 + 20 / 200))
    finally:
        rig.close()
