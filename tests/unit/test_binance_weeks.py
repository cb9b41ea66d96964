"""An account's trades by time: each once, whichever of them a page holds that is cut."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers.binance.broker_facts import FillFact
from piker.brokers.binance.broker_weeks import check, following, weeks
from piker.errors import DataQuality
from piker.orders import Action

PAGE, SPAN, FROM = 4, 16, 1_000


def trade(number: int, at_ms: int, order: int = 1) -> FillFact:
    """Return a trade of an order."""
    return FillFact(
        venue="usdm", symbol="BTCUSDT", number=order, trade=number, size=Decimal(1),
        price=Decimal(1), action=Action.BUY, time_ms=at_ms,
    )  # fmt: skip


class Venue:
    """Tells trades by time, a page the oldest or the newest of them, and by number."""

    def __init__(self, trades: list[FillFact], *, newest: bool) -> None:
        self.trades, self.newest = trades, newest
        self.asked = 0

    async def ask(self, said: Mapping[str, object]) -> list[FillFact]:
        """Return a page."""
        await trio.lowlevel.checkpoint()
        self.asked += 1
        assert self.asked < 1000, "it goes on for ever"
        limit, first = said["limit"], said.get("fromId")
        assert isinstance(limit, int)
        if isinstance(first, int):
            return [one for one in self.trades if one.trade >= first][:limit]
        start, end = said["startTime"], said["endTime"]
        assert isinstance(start, int)
        assert isinstance(end, int)
        assert end - start < SPAN
        found = [one for one in self.trades if start <= one.time_ms <= end]
        return found[-limit:] if self.newest else found[:limit]


def told(venue: Venue) -> list[tuple[int, int]]:
    """Return what is told of a range, page after page."""
    found: list[tuple[int, int]] = []

    async def run() -> None:
        pages = weeks(venue.ask, FROM, FROM + 60, page_size=PAGE, span_ms=SPAN)
        async for page in pages:
            assert len(page) <= PAGE
            found.extend((one.trade, one.number) for one in page)

    trio.run(run)
    return found


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=40), st.booleans())
def test_every_trade_is_told_once_when_pages_are_cut(
    drawn: list[tuple[int, bool]], newest: bool
) -> None:
    """The oldest or the newest; more than a page in a moment; two orders with one number."""
    trades = []
    for number, (at, is_own) in enumerate(sorted(drawn)):
        trades.append(trade(100 + number, FROM + at))
        if is_own:  # the account traded with itself
            trades.append(trade(100 + number, FROM + at, order=2))
    venue = Venue(trades, newest=newest)
    assert told(venue) == [(one.trade, one.number) for one in trades]


def test_a_page_overlaps_by_a_number_but_where_it_holds_no_other() -> None:
    """Both orders of a self-trade have one: the second may be on the next page."""
    assert following([trade(5, 1), trade(6, 1)], 5) == 6
    assert following([trade(5, 1), trade(5, 1, order=2)], 5) == 6


def test_a_page_is_refused_when_it_begins_too_early() -> None:
    """It would be asked for for ever."""
    with pytest.raises(DataQuality):
        check([trade(4, 1)], 5)
