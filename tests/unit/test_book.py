"""A book keeps the venue's digits and the right order, and refuses what can not be."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from piker.brokers import book as book_module
from piker.brokers.book import BookSide, OrderBook
from piker.errors import DataQuality

PRICES = st.decimals("0.00000001", "99999999", places=8).map(lambda d: format(d, "f"))
SIZES = st.decimals("0.0001", "10", places=4).map(str) | st.just("0.00000000")


class SideMachine(RuleBasedStateMachine):
    """Compare a side with the plainest thing that could be right."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[Decimal, tuple[str, str]] = {}

    @initialize(bids=st.booleans())
    def begin(self, bids: bool) -> None:
        """Take one of the sides."""
        self.bids, self.side = bids, BookSide(bids=bids)

    @rule(price=PRICES | st.sampled_from(["1.0", "1.00", "2", "3.5"]), size=SIZES)
    def change(self, price: str, size: str) -> None:
        """Set or remove a level."""
        self.side.set(price, size)
        self.model.pop(Decimal(price), None)
        if Decimal(size):
            self.model[Decimal(price)] = (price, size)

    @rule(depth=st.integers(0, 12))
    def truncate(self, depth: int) -> None:
        """Keep the best."""
        self.side.truncate(depth)
        best = sorted(self.model, reverse=self.bids)[:depth]
        self.model = {key: self.model[key] for key in best}

    @rule(levels=st.lists(st.tuples(PRICES, SIZES), max_size=20))
    def load(self, levels: list[tuple[str, str]]) -> None:
        """Take a snapshot."""
        self.side.load(levels)
        self.model = {}
        for price, size in levels:
            self.model.pop(Decimal(price), None)
            if Decimal(size):
                self.model[Decimal(price)] = (price, size)

    @invariant()
    def agrees(self) -> None:
        """Order, digits, best and length are the model's."""
        expected = [self.model[key] for key in sorted(self.model, reverse=self.bids)]
        assert self.side.levels(len(expected) + 3) == expected
        assert self.side.levels(2) == expected[:2]
        assert self.side.best == (expected[0] if expected else None)
        assert len(self.side) == len(expected)


SideMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_side_agrees_with_a_sorted_dict = SideMachine.TestCase


@given(st.lists(st.decimals("0.00000001", "9999999", places=8), unique=True, max_size=50))
def test_prices_of_a_venue_are_never_mixed_up(prices: list[Decimal]) -> None:
    """Fifteen digits are told apart by the float that finds a level."""
    side = BookSide(bids=True)
    for price in prices:
        side.set(format(price, "f"), "1")
    assert [Decimal(p) for p, _ in side.levels(100)] == sorted(prices, reverse=True)


@pytest.mark.parametrize(
    ("price", "size", "kind"),
    [
        ("nan", "1", "bad-price"),
        ("1", "nan", "nan"),
        ("inf", "1", "bad-price"),
        ("1", "inf", "nan"),
        ("1", "-1", "negative-size"),
        ("-1", "1", "bad-price"),
        ("0", "1", "bad-price"),
        ("", "1", "malformed"),
        ("1", None, "malformed"),
    ],
)
def test_impossible_level_is_data_quality_and_changes_nothing(
    price: str, size: str, kind: str
) -> None:
    """NaN, negative and infinite values never get into a book."""
    side = BookSide(bids=True)
    side.set("1", "1")
    with pytest.raises(DataQuality) as caught:
        side.set(price, size)
    assert caught.value.kind == kind
    assert side.levels(9) == [("1", "1")]


def test_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that adds levels for ever does not eat the machine."""
    monkeypatch.setattr(book_module, "MAX_LEVELS", 10)
    side = BookSide(bids=False)
    for number in range(1, 11):
        side.set(str(number), "1")
    with pytest.raises(DataQuality):
        side.set("11", "1")


def test_book_crosses_only_when_a_bid_reaches_an_ask() -> None:
    """Equal prices cross; an empty side never does."""
    book = OrderBook()
    assert not book.crossed()
    book.load([("100.0", "1", "time"), ("99.9", "2")], [("100.1", "1"), ("100.2", "5")])
    assert (book.best_bid, book.best_ask) == (("100.0", "1"), ("100.1", "1"))
    assert not book.crossed()
    assert book.asks.floats(1) == [(100.1, 1.0)]
    book.apply([("100.10", "1")], [])
    assert book.crossed()
    book.apply([], [("100.1", "0.000")])
    assert not book.crossed()
    book.truncate(1)
    assert (len(book.bids), len(book.asks)) == (1, 1)
    book.clear()
    assert book.best_bid is None
