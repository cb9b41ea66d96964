"""Bars: from the venue's rows, and from its trades against the venue's own."""

from __future__ import annotations

from pathlib import Path

import binance_captures as captures
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.brokers.binance import schema
from piker.brokers.binance.api import KINDS
from piker.brokers.binance.bars import INTERVALS
from piker.brokers.binance.history import (
    COINM_WINDOW_MS,
    Request,
    bars_of,
    plan_request,
    venue_now_ms,
)
from piker.brokers.rest import Response
from piker.clock import VirtualClock, use_clock
from piker.data.sampling import BarBuilder
from piker.ohlcv import Timeframe
from piker.ticks import TRADE, TickRow

ROW = [1_499_040_000_000, "10", "14", "8", "12", "4", 1_499_040_059_999, "44", 3, "1", "2", "0"]
BAR = (0, 1_499_040_000, 10.0, 14.0, 8.0, 12.0, 4.0, 3, 11.0, 44.0, 1.0, 2.0)


def rows(*changes: dict[int, object]) -> list[schema.KlineRow]:
    """Return kline rows as they are decoded, each changed by position."""
    body = [[change.get(at, value) for at, value in enumerate(ROW)] for change in changes]
    return msgspec.json.decode(msgspec.json.encode(body), type=list[schema.KlineRow], strict=False)


def test_a_row_is_a_bar_when_it_is_spot(shared: Path) -> None:
    """Seconds, floats, the mean price from the turnover, turnover and the takers' part."""
    (bar,) = bars_of(rows({}), captures.markets(shared, "spot")["NKNUSDT"])
    assert bar.tolist() == BAR


def test_the_mean_is_in_dollars_when_volume_is_contracts(shared: Path) -> None:
    """COIN-M: 4 contracts of 100 dollars for 40 coins are 10 dollars each."""
    market = captures.markets(shared, "coinm")["BTCUSD_PERP"]
    (bar,) = bars_of(rows({7: "40"}), market)
    assert (bar["volume"], bar["bar_wap"]) == (4.0, 10.0)


def test_the_mean_is_zero_when_nothing_traded(shared: Path) -> None:
    """Flat bars, and turnovers that the venue rounded away."""
    market = captures.markets(shared, "spot")["NKNUSDT"]
    flat, rounded, off = bars_of(rows({5: "0", 7: "0"}, {7: "0.00000000"}, {7: "4000"}), market)
    assert flat["bar_wap"] == 0.0
    assert rounded["bar_wap"] == 0.0
    assert off["bar_wap"] == off["high"]


def test_the_takers_part_is_kept_when_rows_come(shared: Path) -> None:
    """COIN-M: their volume in contracts, their turnover in coins."""
    market = captures.markets(shared, "coinm")["BTCUSD_PERP"]
    (bar,) = bars_of(rows({7: "40", 9: "3", 10: "30"}), market)
    assert (bar["turnover"], bar["taker_volume"], bar["taker_turnover"]) == (40.0, 3.0, 30.0)


# -- what is asked for ---------------------------------------------------------------------------
MAY_S = 1_714_521_600  # 2024-05-01
NOW_MS = (MAY_S + 400 * 86_400) * 1000


def plan(venue: str, interval: str, start_s: float | None, end_s: float | None) -> Request | None:
    """Return the request for a range."""
    at = [None if s is None else round(s * 1_000_000) for s in (start_s, end_s)]
    return plan_request(KINDS[venue], Timeframe(interval), *at, now_ms=NOW_MS)


def test_the_smallest_limit_is_asked_for_when_it_holds_the_range() -> None:
    """Futures pay by the limit: below 100, below 500, up to 1000, more."""
    for bars, weight in ((1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10)):
        ask = plan("usdtm", "1m", MAY_S, MAY_S + bars * 60)
        assert ask == Request(bars, weight, MAY_S * 1000, (MAY_S + bars * 60) * 1000 - 1)
    assert plan("spot", "1m", MAY_S, MAY_S + 60) == Request(
        1, 2, MAY_S * 1000, MAY_S * 1000 + 59_999
    )


def test_the_beginning_is_cut_when_a_range_is_too_long() -> None:
    """To as many bars as an answer has, and for COIN-M to 200 days."""
    ask = plan("spot", "1m", 0, MAY_S)
    assert ask == Request(1000, 2, (MAY_S - 60_000) * 1000, MAY_S * 1000 - 1)
    ask = plan("coinm", "1d", 0, MAY_S)
    assert ask == Request(200, 2, MAY_S * 1000 - COINM_WINDOW_MS, MAY_S * 1000 - 1)


def test_one_more_is_asked_for_when_the_range_ends_now() -> None:
    """The venue's clock may be ahead: a bar that has just opened must not push out the oldest."""
    now_s = NOW_MS // 1000
    for end in (None, now_s + 10, now_s + 10**9):
        ask = plan("coinm", "1h", now_s - 7200, end)
        assert ask is not None
        assert ask.end_ms is None  # 200 days from its start it could be too far
        assert ask.limit == 4


def test_nothing_is_asked_for_when_no_bar_can_be_there() -> None:
    """The end before the start, the future, ages before the epoch."""
    assert plan("spot", "1m", MAY_S, MAY_S) is None
    assert plan("spot", "1m", MAY_S + 1, MAY_S) is None
    assert plan("spot", "1m", NOW_MS / 1000 + 1, None) is None
    assert plan("spot", "1m", None, -5) is None
    assert plan("spot", "1m", -100, -5) is None


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.sampled_from(INTERVALS),
    st.integers(0, NOW_MS * 1000),
    st.integers(0, 10**15),
    st.sampled_from([1, 2, 3]),
)
def test_a_request_holds_the_newest_part_of_the_range_when_it_is_any(
    venue: str, interval: str, start_us: int, length_us: int, phase: int
) -> None:
    """Never more bars than its limit, whatever the grid; from where it begins it is complete."""
    kind, frame = KINDS[venue], Timeframe(interval)
    end_us = start_us + length_us
    ask = plan_request(kind, frame, start_us, end_us, now_ms=NOW_MS)
    if ask is None:
        assert start_us + 1000 > min(end_us, NOW_MS * 1000)
        return
    assert ask.start_ms is not None
    assert ask.start_ms * 1000 >= start_us
    last_ms = NOW_MS if ask.end_ms is None else ask.end_ms
    assert last_ms * 1000 < max(end_us, 1) or last_ms == NOW_MS
    assert 1 <= ask.limit <= kind.max_klines
    shift = (phase - 1) * 86_400 if interval == "3d" else 0
    grid = frame.grid(ask.start_ms // 1000 - shift, last_ms // 1000 + 1 - shift) + shift
    inside = grid[(grid * 1000 >= ask.start_ms) & (grid * 1000 <= last_ms)]
    assert len(inside) <= ask.limit
    if venue == "coinm":
        assert last_ms - ask.start_ms < COINM_WINDOW_MS
    elif ask.start_ms * 1000 >= start_us + 1000:  # it was cut: only because an answer was full
        assert (last_ms - ask.start_ms) // 1000 > (kind.max_klines - 2) * frame.seconds * 0.9


def test_an_open_bar_is_no_closed_one_when_our_clock_is_ahead() -> None:
    """The venue's Date decides where it is earlier; without one our clock stands."""
    clock = VirtualClock(1_714_521_600 * 10**9)
    with use_clock(clock):
        for date, wanted in (
            ("Tue, 30 Apr 2024 23:59:57 GMT", 1_714_521_597_000),
            ("Wed, 01 May 2024 00:00:09 GMT", 1_714_521_600_000),
            ("yesterday", 1_714_521_600_000),
            ("", 1_714_521_600_000),
        ):
            assert venue_now_ms(Response(200, {"date": date} if date else {}, b"")) == wanted


def test_more_columns_change_nothing_when_the_venue_adds_some() -> None:
    """A longer row is read as before."""
    body = msgspec.json.encode([[*ROW, "new", {"a": 1}]])
    longer = msgspec.json.decode(body, type=list[schema.KlineRow], strict=False)
    assert longer == rows({})


def test_golden_hours_are_read_when_they_come_as_klines(shared: Path) -> None:
    """A week of hours of the venue's archive, through the REST row and back."""
    path = shared / "venues" / "binance" / "golden-klines" / "btcusdt_spot_1h_2024w01.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    table = [line for line in lines if line[0].lstrip("-").isdigit()]
    if not table:
        pytest.skip(f"columns of another kind: {lines[0]}")
    body = msgspec.json.encode([[int(line[0]), *line[1:6], int(line[6]), line[7], int(line[8]),
                                 *line[9:]] for line in table])  # fmt: skip
    found = msgspec.json.decode(body, type=list[schema.KlineRow], strict=False)
    bars = bars_of(found, captures.markets(shared, "spot")["NKNUSDT"])
    assert (np.diff(bars["time"]) == 3600).all()
    assert bars["close"].tolist() == [float(line[4]) for line in table]
    assert ((bars["low"] <= bars["bar_wap"]) & (bars["bar_wap"] <= bars["high"])).all()


def numpy_bars(rows: list[TickRow], period_s: int) -> list[tuple[float, ...]]:
    """Return (time, open, high, low, close, volume, count) of trades in order, by numpy alone."""
    seconds = np.array([row[2] // 10**9 for row in rows])
    prices, sizes = np.array([row[3] for row in rows]), np.array([row[4] for row in rows])
    _, first = np.unique(seconds // period_s, return_index=True)
    counts = np.diff([*first, len(rows)])
    return list(
        zip(
            (seconds[first] // period_s * period_s).tolist(),
            prices[first].tolist(),
            np.maximum.reduceat(prices, first).tolist(),
            np.minimum.reduceat(prices, first).tolist(),
            prices[first + counts - 1].tolist(),
            np.add.reduceat(sizes, first).tolist(),
            counts.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("venue", ["spot", "coinm"])
@pytest.mark.parametrize("period_s", [1, 60])
def test_bars_of_the_trades_are_numpys_when_a_session_is_replayed(
    shared: Path, venue: str, period_s: int
) -> None:
    """Our sampling of the recorded aggTrades against an aggregation of its own by numpy."""
    decoder = captures.decoder(shared, venue)
    trades = [r for r in decoder.decode(captures.market_frames(shared, venue), 1) if r[1] == TRADE]
    compared = 0
    for symbol in {row[0] for row in trades}:
        rows = [row for row in trades if row[0] == symbol]
        builder = BarBuilder(period_s)
        for _, _, time_ns, price, size, *_ in rows:
            builder.fold(time_ns // 10**9, price, price, price, price, size, price * size, 1)
        written = builder.take()
        assert written is not None
        made = [bar for bar in written.rows if bar.volume]
        got = [(b.time, b.open, b.high, b.low, b.close, b.volume) for b in made]
        wanted = numpy_bars(rows, period_s)
        assert got == [bar[:6] for bar in wanted]
        # The first bar was joined in its middle: its count says so by its sign.
        assert [abs(b.trades) for b in made[1:]] == [bar[6] for bar in wanted[1:]]
        compared += len(made)
    assert compared >= (2 if venue == "spot" else 7)


@pytest.mark.parametrize("venue", ["spot", "coinm"])
def test_trades_lie_in_the_venues_minute_when_a_session_is_replayed(
    shared: Path, venue: str
) -> None:
    """A kline's range holds every trade of its minute; it may hold more than was recorded."""
    decoder = captures.decoder(shared, venue)
    frames = captures.market_frames(shared, venue)
    trades = [row for row in decoder.decode(frames, 1) if row[1] == TRADE]
    newest = {}
    for data in (captures.data_of(frame) for frame in frames if b"@kline" in frame[:60]):
        newest[decoder.markets[data["s"]], data["k"]["t"]] = data["k"]
    for (symbol, open_ms), bar in newest.items():
        inside = [
            row for row in trades
            if row[0] == symbol and open_ms <= row[2] // 10**6 <= bar["T"]
        ]  # fmt: skip
        low, high = float(bar["l"]), float(bar["h"])
        assert all(low <= row[3] <= high for row in inside)
    assert newest
