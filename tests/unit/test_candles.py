"""Terminal candles and the table below them show what the bars and quotes say."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from piker.cli.candles import DOWN, UP, Candle, draw
from piker.cli.screen import MarketView, render
from piker.ticks import Quote


def test_rising_candle_is_green_and_tall_when_drawn() -> None:
    """A candle over the whole range fills its column; a falling one is red."""
    lines = draw([Candle(1, 10, 1, 10), Candle(10, 10, 1, 1)], 8, 2)
    assert [line[0].style for line in lines] == [UP] * 8
    assert [line[1].style for line in lines] == [DOWN] * 8
    assert sum(line[0].char != " " for line in lines) >= 7


prices = st.floats(1e-6, 1e9)


@given(st.lists(st.tuples(prices, prices, prices, prices), max_size=30), st.integers(0, 30))
def test_drawing_is_total_and_rectangular_when_given_any_bars(
    values: list[tuple[float, float, float, float]], height: int
) -> None:
    """Any prices and any height give that many lines of one column a candle and an axis."""
    candles = [Candle(row[0], max(row), min(row), row[3]) for row in values]
    lines = draw(candles, height, 2)
    assert len(lines) == height
    if candles and height >= 2:
        assert {len(line) for line in lines} == {len(candles) + 1}


@given(st.integers(40, 200))
def test_table_shows_every_digit_when_the_terminal_is_narrow(width: int) -> None:
    """A narrow terminal loses columns, never the end of a market's name or price."""
    quote = Quote("btcusdt.spot.binance", last=56_999.6, bid=56_993.6, ask=56_994.6)
    view = MarketView(quote.symbol, 1, quote, [], "1s", ticks_per_s=1234, lag_ms=63.8)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render([view], width, 20))
    shown = console.export_text().splitlines()[-1]
    assert shown.startswith("btcusdt.spot.binance ")
    assert "56,999.6" in shown
    assert "…" not in shown
    assert ("56,993.6" in shown) == (width >= 74)
