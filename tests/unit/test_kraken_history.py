"""Kraken's trades become bars exactly as the venue makes them."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.kraken import schema
from piker.brokers.kraken.history import TIMEFRAMES, _timeframe, bars_of, select
from piker.brokers.kraken.trade_bars import PastTrade, TradeBars, past_trades
from piker.clock import NS
from piker.errors import DataQuality, DataUnavailable, NoData
from piker.ohlcv import KLINE_DTYPE, Timeframe
from piker.testing.kraken_past import KrakenMarket, Tape
from piker.testing.synthetic import MarketSpec

START = 1_763_000_040  # a minute's beginning
MINUTES = 12

prices = st.decimals("0.1", "99999.9", places=1)
sizes = st.decimals("0.00000001", "50", places=8)
trade_lists = st.lists(
    st.tuples(st.integers(0, MINUTES * 60 * NS - 1), prices, sizes, st.booleans()), max_size=60
)


def numbered(rows: list[tuple[int, Decimal, Decimal, bool]]) -> list[PastTrade]:
    """Return trades in the order of time."""
    ordered = sorted(rows, key=lambda row: row[0])
    return [PastTrade(n, START * NS + row[0], *row[1:]) for n, row in enumerate(ordered, 1)]


@given(trade_lists, st.integers(0, 60))
def test_bars_are_the_sums_of_their_trades_when_pages_end_anywhere(
    rows: list[tuple[int, Decimal, Decimal, bool]], cut: int
) -> None:
    """Every value of every bar, against fractions; a page's end in the middle changes nothing."""
    trades = numbered(rows)
    fold = TradeBars(Timeframe("1m"), START, START + MINUTES * 60, digits=1)
    fold.add(trades[:cut])
    fold.add(trades[cut:])
    bars = fold.rows(Decimal("7.5"))
    assert bars["time"].tolist() == [START + 60 * n for n in range(MINUTES)]
    close = Decimal("7.5")
    for bar in bars:
        part = [t for t in trades if t.time_ns // NS // 60 * 60 == bar["time"]]
        if not part:
            assert [bar[n] for n in ("open", "high", "low", "close")] == [float(close)] * 4
            assert [bar[n] for n in ("volume", "count", "bar_wap", "turnover")] == [0] * 4
            continue
        close = part[-1].price
        found = [t.price for t in part]
        assert (bar["open"], bar["close"]) == (float(found[0]), float(close))
        assert (bar["high"], bar["low"]) == (float(max(found)), float(min(found)))
        assert bar["count"] == len(part)
        worth = sum(Fraction(t.price) * Fraction(t.size) for t in part)
        volume = sum(Fraction(t.size) for t in part)
        assert bar["volume"] == float(volume)
        assert bar["turnover"] == float(worth)
        assert bar["bar_wap"] == math.floor(worth / volume * 10) / 10
        bought = [t for t in part if t.buyer]
        assert bar["taker_volume"] == float(sum(Fraction(t.size) for t in bought))


def test_average_is_not_a_tick_short_when_all_trades_have_one_price() -> None:
    """A quotient of floats would be: 0.3 * 3 / 3 is not 0.3, and it is cut, not rounded."""
    trades = numbered([(n, Decimal("0.3"), Decimal("0.1"), True) for n in range(3)])
    fold = TradeBars(Timeframe("1m"), START, START + 60, digits=1)
    fold.add(trades)
    assert fold.rows(None)["bar_wap"][0] == 0.3
    assert not fold.lacks_first


def test_leading_bars_are_left_out_when_no_price_is_known_before_them() -> None:
    """Before the first trade there is nothing to repeat; after it, quiet bars repeat the close."""
    fold = TradeBars(Timeframe("1m"), START, START + 300, digits=1)
    fold.add(numbered([(130 * NS, Decimal(5), Decimal(1), False)]))
    assert fold.lacks_first
    bars = fold.rows(None)
    assert bars["time"].tolist() == [START + 120, START + 180, START + 240]
    assert bars["close"].tolist() == [5, 5, 5]
    assert len(fold.rows(Decimal(4))) == 5


@pytest.mark.parametrize(
    "row",
    [
        '["0","1",1.5,"b","m","",1]',
        '["-1","1",1.5,"b","m","",1]',
        '["1","-1",1.5,"b","m","",1]',
        '["NaN","1",1.5,"b","m","",1]',
        '["Infinity","1",1.5,"b","m","",1]',
        '["1e999999999","1",1.5,"b","m","",1]',
        '["1e-999999","1",1.5,"b","m","",1]',
        '["1","1",1e300,"b","m","",1]',
        '["1","1",-1,"b","m","",1]',
        '["1","1",1.5,"x","m","",1]',
    ],
)
def test_trades_are_refused_when_they_can_not_be(row: str) -> None:
    """No bar is made of them, and nothing takes long."""
    rows = msgspec.json.decode(f"[{row}]", type=list[schema.ExactTrade], strict=False)
    with pytest.raises(DataQuality):
        past_trades(rows)


def test_recorded_trades_of_2013_are_refused_for_want_of_ids(shared: Path) -> None:
    """The recorded answer has rows of six: without ids nothing proves that none is missing."""
    folder = shared / "venues/kraken/xchange/xchange-kraken/kraken/dto/marketdata"
    body = (folder / "example-trades-data.json").read_bytes()
    rows = msgspec.json.decode(body, type=schema.Reply[dict[str, msgspec.Raw]]).result
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(rows["XXBTZUSD"], type=list[schema.ExactTrade], strict=False)


def test_recorded_trades_are_read_with_every_digit(shared: Path) -> None:
    """Prices, sizes and times of the documents' example, to the last digit."""
    path = shared / "venues/kraken/kraken.net/Endpoints/Spot/ExchangeData/GetTradeHistory.txt"
    body = path.read_text().partition("false\n")[2]
    parts = msgspec.json.decode(body, type=schema.Reply[dict[str, msgspec.Raw]]).result
    rows = msgspec.json.decode(parts["XXBTZUSD"], type=list[schema.ExactTrade], strict=False)
    assert past_trades(rows)[0] == PastTrade(
        61_044_952, 1_688_669_597_827_736_900, Decimal("30243.40000"), Decimal("0.34507674"), True
    )
    assert [trade.buyer for trade in past_trades(rows)] == [True, False, False]


def test_recorded_bars_keep_their_values_and_say_what_they_lack(shared: Path) -> None:
    """720 recorded bars of 2017: the venue's numbers; turnover and takers' part are not known."""
    folder = shared / "venues/kraken/xchange/xchange-kraken/kraken/dto/marketdata"
    body = (folder / "example-ohlc-data.json").read_bytes()
    parts = msgspec.json.decode(body, type=schema.Reply[dict[str, msgspec.Raw]]).result
    found = msgspec.json.decode(parts["XXBTZUSD"], type=list[schema.OhlcRow], strict=False)
    rows = bars_of(found)
    assert rows.dtype == KLINE_DTYPE
    assert len(rows) == 720
    assert [tuple(row)[1:6] for row in rows] == [row[:5] for row in found]
    assert np.isnan(rows["turnover"]).all()
    quiet = rows[rows["count"] == 0]
    assert len(quiet) > 3
    assert (quiet["open"] == quiet["close"]).all()
    part = select(rows, int(rows["time"][-2]), int(rows["time"][5]), int(rows["time"][-1]) + 60)
    assert (part["time"][0], part["time"][-1]) == (rows["time"][5], rows["time"][-2])
    with pytest.raises(NoData):
        select(rows, int(rows["time"][-1]), int(rows["time"][-1]) + 60, None)


@pytest.mark.parametrize("asked", [60, 60.0, "1m", Timeframe("1m")])
def test_lengths_are_understood_when_given_in_any_form(asked: Any) -> None:
    """Seconds or names; thirty days are a calendar month."""
    assert _timeframe(asked) == Timeframe("1m")
    assert _timeframe(2_592_000) == Timeframe("1M")
    for name in TIMEFRAMES:
        assert str(_timeframe(name)) == name


@pytest.mark.parametrize("asked", [0, -60, 7, 0.5, 100_000, 2**60, "x", "2M", "5d", math.inf])
def test_lengths_are_refused_when_days_do_not_hold_them(asked: Any) -> None:
    """A sentence, and the kind of error that says: stop asking."""
    with pytest.raises(DataUnavailable):
        _timeframe(asked)


def test_past_is_the_same_whatever_was_asked_before() -> None:
    """The loopback's trades are a function of seed and time: pages, hours and minutes agree."""
    spec = MarketSpec("BTCUSD", "XBT", "USD", 60_000.0, 0.1, 0.0001)
    start_s = 1_763_000_123
    one, two = (Tape(KrakenMarket(spec, 1, start_s), 1) for _ in range(2))
    since = (start_s - 5 * 3600) * NS
    page = one.after(since, 1000)
    assert page == two.after(since, 300) + two.after(since, 1000)[300:]
    assert [fill.number for fill in page] == list(range(page[0].number, page[0].number + 1000))
    assert all(a.ns <= b.ns for a, b in pairwise(page))
    assert one.newest(1)[0].ns < start_s * NS
    bars = two.bars(60, start_s - 3 * 86_400, start_s)
    hour = bars[-3]
    fills = [
        x for x in one.after(int(hour["time"]) * NS - 1, 1000) if x.ns // NS < hour["time"] + 3600
    ]
    worth = sum(x.price * x.size for x in fills)
    lots = sum(x.size for x in fills)
    assert hour["count"] == len(fills)
    assert Decimal(str(round(hour["bar_wap"], 1))) == (Decimal(worth // lots) / 10).quantize(
        Decimal("0.1"), rounding=ROUND_FLOOR
    )
    assert hour["high"] == pytest.approx(max(x.price for x in fills) * 0.1)
