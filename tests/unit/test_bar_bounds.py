"""No true bar is refused, however cheap its token; what can be none is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.binance.bars import sift
from piker.brokers.kraken import schema
from piker.brokers.kraken.trade_bars import TradeBars, past_trades
from piker.brokers.quality import MAX_VALUE, QualityLog, sound_bars
from piker.data.history.sound import sound
from piker.data.ranges import Range
from piker.errors import DataQuality
from piker.ohlcv import KLINE_DTYPE, Timeframe

SUPPLY = 4.2e17  # the largest of a listed token
DAY = Timeframe("1d")


def bar(price: float, volume: float) -> Any:
    """Return a bar of one price."""
    rows = np.zeros(1, KLINE_DTYPE)
    for name in ("open", "high", "low", "close", "bar_wap"):
        rows[name] = price
    rows["volume"] = rows["taker_volume"] = volume
    rows["turnover"] = rows["taker_turnover"] = volume * price
    rows["time"], rows["count"] = DAY.seconds, 1
    return rows


def judged(rows: Any) -> list[bool]:
    """Return whether each judge keeps this bar: REST of Binance, the data's own, of Kraken."""
    times = rows["time"] * 1_000_000
    sifted, _ = sift(rows, times, DAY, start_s=0, end_s=10**9, closed_s=10**9)
    kept, _ = sound(rows, DAY, Range(0, 10**9))
    return [len(one) == 1 for one in (sifted, kept, sound_bars(rows, QualityLog("x"), "x"))]


@given(
    st.floats(1e-14, SUPPLY), st.floats(0, SUPPLY * 1000)
)  # a month in which all of it changes hands a thousand times
def test_a_bar_is_kept_when_a_market_could_have_had_it(price: float, volume: float) -> None:
    """The price of one token in another is at most the other's supply."""
    volume = min(volume, 1e29 / price)  # nor is more paid than there is, often
    assert judged(bar(price, volume)) == [True] * 3


@pytest.mark.parametrize(
    ("price", "volume"),
    [(1e300, 1), (1, 1e300), (float("inf"), 1), (float("nan"), 1), (1, float("inf")),
     (1, float("nan")), (0, 1), (-1, 1), (1, -1)],
)  # fmt: skip
def test_a_bar_is_refused_when_no_market_could_have_had_it(price: float, volume: float) -> None:
    """By REST's readers; the data's own check lets any finite number pass."""
    with np.errstate(over="ignore", invalid="ignore"):
        sifted, kept, told = judged(bar(price, volume))
    assert not sifted
    assert not told
    assert kept == (np.isfinite([price, volume]).all() and price > 0 and volume >= 0)


def trade(price: str, size: str) -> schema.ExactTrade:
    """Return a trade as Kraken's answer has it."""
    return (Decimal(price), Decimal(size), Decimal(90_000), "b", "l", "", 1)


def test_trades_of_the_cheapest_tokens_make_a_bar_when_they_are_huge() -> None:
    """To the last digit; one that is more than any supply is refused with its page."""
    found = past_trades([trade("0.000000000001", "420000000000000000.5")])
    fold = TradeBars(DAY, DAY.seconds, 2 * DAY.seconds, digits=12)
    fold.add(found)
    (row,) = fold.rows(None)
    assert row["volume"] == 420_000_000_000_000_000.5
    assert row["turnover"] == pytest.approx(420_000.0)
    with pytest.raises(DataQuality):
        past_trades([trade("1", str(int(MAX_VALUE) * 10))])
