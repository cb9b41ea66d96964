"""Bars: from the venue's rows, and from its trades against the venue's own."""

from __future__ import annotations

from pathlib import Path

import binance_captures as captures
import msgspec
import numpy as np
import pytest

from piker.brokers.binance import schema
from piker.brokers.binance.history import bars_of
from piker.data.sampling import BarBuilder
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
