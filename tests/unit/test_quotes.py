"""Quotes made from ring rows say what the rows say."""

from __future__ import annotations

import numpy as np

from piker.data.quotes import QuoteMaker
from piker.ticks import TICK_DTYPE, Quote, Side, TickType


def rows_of(*ticks: tuple[int, float, float, float, float]) -> bytes:
    """Make packed ring rows from (type, price, size, price2, size2)."""
    rows = np.zeros(len(ticks), TICK_DTYPE)
    for index, (kind, price, size, price2, size2) in enumerate(ticks):
        rows[index] = (index, 1000 + index, price, size, price2, size2, 7, 0, kind, 1, 0)
    return rows.tobytes()


def test_quote_has_top_of_book_last_and_ticks_when_rows_are_folded() -> None:
    """A trade sets last; a QUOTE row sets both sides and gives a bid and an ask tick."""
    maker = QuoteMaker(Quote("x", last=1.0))
    quote = maker.fold(rows_of((TickType.QUOTE, 9, 1, 11, 2), (TickType.TRADE, 10, 3, 0, 0)))
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (9, 1, 11, 2)
    assert quote.last == 10
    assert [tick.type.label for tick in quote.ticks] == ["bid", "ask", "trade"]
    assert quote.ticks[-1].side is Side.BUY
    assert quote.time_ns == 1001


def test_quote_keeps_its_state_when_the_next_rows_say_nothing_of_it() -> None:
    """State runs on between folds; ticks do not."""
    maker = QuoteMaker(Quote("x", last=1.0))
    maker.fold(rows_of((TickType.QUOTE, 9, 1, 11, 2)))
    quote = maker.fold(rows_of((TickType.MARK, 10, 0, 0, 0), (99, 1, 1, 1, 1)))
    assert (quote.last, quote.bid, quote.ask) == (1.0, 9, 11)
    assert [tick.type for tick in quote.ticks] == [TickType.MARK]


def test_empty_side_gives_no_tick_when_the_book_is_one_sided() -> None:
    """A QUOTE row without bids is an ask alone."""
    quote = QuoteMaker(Quote("x")).fold(rows_of((TickType.QUOTE, 0, 0, 11, 2)))
    assert [tick.type for tick in quote.ticks] == [TickType.ASK]
    assert quote.bid is None


def test_single_sides_and_a_last_price_move_what_they_name() -> None:
    """Venues that send one side at a time; a LAST row sets the last price without a print."""
    maker = QuoteMaker(Quote("x"))
    rows = ((TickType.BID, 9, 1, 0, 0), (TickType.ASK, 11, 2, 0, 0), (TickType.LAST, 10, 0, 0, 0))
    quote = maker.fold(rows_of(*rows, (TickType.DARK_TRADE, 50, 1, 0, 0)))
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (9, 1, 11, 2)
    assert (quote.last, quote.time_ns) == (10, 1003)
    assert [tick.type.label for tick in quote.ticks] == ["bid", "ask", "last", "dark_trade"]
    empty = maker.fold(rows_of(*[(TickType.QUOTE, 0, 0, 0, 0)] * 9))
    assert (empty.ticks, empty.bid, empty.time_ns) == ([], 9, 1003)
