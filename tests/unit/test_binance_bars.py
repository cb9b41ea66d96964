"""Bars: from the venue's rows, and from its trades against the venue's own."""

from __future__ import annotations

from pathlib import Path

import binance_captures as captures
import msgspec
import numpy as np
import pytest

from piker.brokers.binance import schema
from piker.brokers.binance.feed import bars_of
from piker.ticks import TRADE

ROW = [1_499_040_000_000, "10", "14", "8", "12", "4", 1_499_040_059_999, "44", 3, "1", "2", "0"]


def rows(*changes: dict[int, object]) -> list[schema.KlineRow]:
    """Return kline rows as they are decoded, each changed by position."""
    body = [[change.get(at, value) for at, value in enumerate(ROW)] for change in changes]
    return msgspec.json.decode(msgspec.json.encode(body), type=list[schema.KlineRow], strict=False)


def test_a_row_is_a_bar_when_it_is_spot(shared: Path) -> None:
    """Seconds, floats, and the mean price from the turnover."""
    (bar,) = bars_of(rows({}), captures.markets(shared, "spot")["NKNUSDT"])
    assert bar.tolist() == (0, 1_499_040_000, 10.0, 14.0, 8.0, 12.0, 4.0, 3, 11.0)


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


@pytest.mark.parametrize("period_s", [1, 60])
def test_bars_of_the_trades_are_in_the_venues_when_a_session_is_replayed(
    shared: Path, period_s: int
) -> None:
    """Seconds and minutes of the recorded aggTrades, by numpy, against our rows by hand.

    The recording covers no whole minute, so a kline's volume can only be more than ours.
    """
    decoder = captures.decoder(shared, "coinm")
    frames = captures.market_frames(shared, "coinm")
    trades = [row for row in decoder.decode(frames, 1) if row[1] == TRADE]
    table = np.array([(row[2] // 10**9 // period_s, row[3], row[4]) for row in trades])
    names = np.array([row[0] for row in trades])
    klines = [captures.data_of(frame) for frame in frames if b"@kline" in frame[:60]]
    for name in set(names):
        mine = table[names == name]
        opens, first = np.unique(mine[:, 0], return_index=True)
        volumes = np.add.reduceat(mine[:, 2], first)
        for at, number in enumerate(opens):
            inside = [row for row in trades if row[0] == name]
            inside = [row for row in inside if row[2] // 10**9 // period_s == number]
            assert volumes[at] == sum(row[4] for row in inside)
            assert mine[first[at]][1] == inside[0][3]
            bars = [k["k"] for k in klines if decoder.markets[k["s"]] == name]
            bars = [bar for bar in bars if bar["t"] // 1000 // 60 == number and period_s == 60]
            if bars:
                low, high = float(bars[-1]["l"]), float(bars[-1]["h"])
                assert all(low <= row[3] <= high for row in inside)
                assert float(bars[-1]["v"]) >= volumes[at]
    assert len(trades) > 50
