"""Triggers: met by the right price, from the right side, once, and never backwards."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piker.clearing.dark import ALWAYS, DarkBook, Trigger, released, watched
from piker.orders import Action, ExecMode, Order, OrderKind, TriggerBy
from piker.ticks import Side, TickType

D = Decimal


def order(action: Action = Action.BUY, kind: OrderKind = OrderKind.STOP, **fields: Any) -> Order:
    """Return a dark order with its trigger at a hundred."""
    fields.setdefault("trigger", D(100))
    return Order(
        oid="o", symbol="btcusdt.spot.binance", account="main", action=action, kind=kind,
        size=D(1), exec_mode=ExecMode.DARK, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("action", "kind", "prices", "met"),
    [
        (Action.BUY, OrderKind.STOP, [99, 100], 100),
        (Action.BUY, OrderKind.STOP, [101], 101),
        (Action.BUY, OrderKind.STOP, [99, 98], None),
        (Action.SELL, OrderKind.STOP, [101, 99], 99),
        (Action.SELL, OrderKind.STOP_LIMIT, [101, 102], None),
        (Action.BUY, OrderKind.TAKE_PROFIT, [101, 100], 100),
        (Action.SELL, OrderKind.TAKE_PROFIT, [99, 105], 105),
        (Action.BUY, OrderKind.LIMIT, [101, 99], 99),
        (Action.ALERT, OrderKind.LIMIT, [99, 98, 101], 101),
        (Action.ALERT, OrderKind.LIMIT, [101, 102, 100], 100),
        (Action.ALERT, OrderKind.LIMIT, [100], 100),
    ],
)
def test_trigger_is_met_from_its_side_when_prices_come(
    action: Action, kind: OrderKind, prices: list[int], met: int | None
) -> None:
    """A stop against the order, a take-profit in its favour, an alert from where it began."""
    trigger = Trigger(order(action, kind))
    found = next((one for price in prices if (one := trigger.see(D(price)))), None)
    assert (found.price if found else None) == met
    if found is not None:
        assert found.trigger == 100
        assert not found.across_gap


def test_trigger_says_so_when_it_is_met_across_a_gap() -> None:
    """Nobody saw when the price passed it."""
    trigger = Trigger(order())
    assert trigger.see(D(99)) is None
    trigger.rearm()
    met = trigger.see(D(101))
    assert met is not None
    assert met.across_gap
    trigger.rearm()
    assert trigger.see(D(99)) is None
    met = trigger.see(D(101))
    assert met is not None
    assert not met.across_gap


def test_trigger_looks_at_the_price_it_names_when_asked() -> None:
    """Trades, the side that it would trade with, or the mark."""
    assert watched(order()) == (TickType.TRADE, Side.NONE)
    assert watched(order(trigger_by=TriggerBy.SIDE)) == (TickType.QUOTE, Side.SELL)
    assert watched(order(Action.SELL, trigger_by=TriggerBy.SIDE)) == (TickType.QUOTE, Side.BUY)
    assert watched(order(trigger_by=TriggerBy.MARK)) == (TickType.MARK, Side.NONE)


@given(
    action=st.sampled_from([Action.BUY, Action.SELL]),
    prices=st.lists(st.integers(50, 150), min_size=1, max_size=40),
    trail=st.integers(1, 20),
)
def test_trailing_stop_never_goes_back_when_prices_come(
    action: Action, prices: list[int], trail: int
) -> None:
    """Its level is the best price so far at its distance; it is met when that is gone through."""
    trigger = Trigger(order(action, OrderKind.TRAILING_STOP, trail=D(trail), trigger=None))
    best = None
    for price in prices:
        met = trigger.see(D(price))
        if action is Action.BUY:
            best = price if best is None else min(best, price)
            assert trigger.level == best + trail
            assert (met is not None) == (price >= best + trail)
        else:
            best = price if best is None else max(best, price)
            assert trigger.level == best - trail
            assert (met is not None) == (price <= best - trail)
        if met is not None:
            return


@given(
    action=st.sampled_from([Action.BUY, Action.SELL]),
    prices=st.lists(st.integers(50, 150), min_size=1, max_size=40),
    at=st.integers(0, 40), trail=st.integers(1, 20),
)  # fmt: skip
def test_trailing_stop_goes_on_where_it_was_when_it_is_armed_again(
    action: Action, prices: list[int], at: int, trail: int
) -> None:
    """One that begins with the price that another has seen meets what that one would have met."""
    whole = Trigger(order(action, OrderKind.TRAILING_STOP, trail=D(trail), trigger=None))
    again = None
    for number, price in enumerate(prices):
        if number == at:
            again = Trigger(whole.order, seen=whole.seen)
            assert again.level == whole.level
        met = whole.see(D(price))
        assert again is None or again.see(D(price)) == met
        if met is not None:
            return


@pytest.mark.parametrize(
    ("seen", "price", "met"),
    [(99, 101, True), (99, 98, False), (101, 99, True), (101, 102, False), (100, 101, False)],
)
def test_alert_comes_from_where_it_was_armed_when_the_first_trade_is_beyond_it(
    seen: int, price: int, met: bool
) -> None:
    """In a quiet market, and across a restart: what was seen before counts, and is journaled."""
    alert = order(Action.ALERT, OrderKind.LIMIT)
    for known in (None, D(seen)):
        book = DarkBook()
        if known is None:
            book.show(alert.symbol, float(seen))
        book.arm(alert, seen=known)
        assert book.follow() == ([("o", D(seen))] if known is None and seen != 100 else [])
        assert bool(book.see(alert.symbol, TickType.TRADE, 0, D(price))) is met
        assert book.follow() == ([("o", D(price))] if seen == 100 else [])


def test_book_tells_what_trails_follow_once_and_nothing_of_what_is_gone() -> None:
    """The best price since it was asked last; a new trail keeps it, an order that is out not."""
    book = DarkBook()
    trail = order(Action.SELL, OrderKind.TRAILING_STOP, trail=D(10), trigger=None)
    book.arm(trail)
    for price in (100, 104, 102):
        assert book.see(trail.symbol, TickType.TRADE, 0, D(price)) == []
    assert book.follow() == [("o", D(104))]
    assert book.see(trail.symbol, TickType.TRADE, 0, D(103)) == []
    assert book.follow() == []
    book.arm(msgspec.structs.replace(trail, trail=D(5)))
    assert book.see(trail.symbol, TickType.TRADE, 0, D(105)) == []
    ((_, met),) = book.see(trail.symbol, TickType.TRADE, 0, D(100))
    assert met.trigger == 100
    assert book.follow() == []


def test_book_gives_out_each_order_once_when_its_price_comes() -> None:
    """By market, by kind of price, in the order they were armed; let go of, it is not met."""
    book = DarkBook()
    first, second = order(), order(Action.SELL, OrderKind.TAKE_PROFIT)
    other = msgspec.structs.replace(order(trigger_by=TriggerBy.SIDE), oid="p")
    gone = msgspec.structs.replace(order(), oid="q")
    for number, one in enumerate((first, second, other, gone)):
        book.arm(msgspec.structs.replace(one, oid=f"{number}"))
    book.disarm(msgspec.structs.replace(gone, oid="3"))
    fqme = first.symbol
    assert book.see(fqme, TickType.TRADE, 0, D(99)) == []
    assert book.see("ethusdt.spot.binance", TickType.TRADE, 0, D(200)) == []
    assert [oid for oid, _ in book.see(fqme, TickType.TRADE, 0, D(100))] == ["0", "1"]
    assert book.see(fqme, TickType.TRADE, 0, D(100)) == []
    assert book.see(fqme, TickType.QUOTE, Side.BUY, D(100)) == []
    book.missed(fqme)
    ((oid, met),) = book.see(fqme, TickType.QUOTE, Side.SELL, D(100))
    assert (oid, met.across_gap) == ("2", True)
    assert len(book) == 0


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (OrderKind.STOP, OrderKind.MARKET),
        (OrderKind.TRAILING_STOP, OrderKind.MARKET),
        (OrderKind.TAKE_PROFIT, OrderKind.MARKET),
        (OrderKind.STOP_LIMIT, OrderKind.LIMIT),
        (OrderKind.TAKE_PROFIT_LIMIT, OrderKind.LIMIT),
        (OrderKind.LIMIT, OrderKind.LIMIT),
    ],
)
def test_met_order_is_sent_as_what_it_becomes_when_released(
    kind: OrderKind, sent: OrderKind
) -> None:
    """Live, without a trigger."""
    live = released(order(kind=kind))
    assert (live.kind, live.trigger, live.exec_mode) == (sent, None, ExecMode.LIVE)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                (OrderKind.STOP, OrderKind.TAKE_PROFIT, OrderKind.TRAILING_STOP, OrderKind.LIMIT)
            ),
            st.sampled_from((Action.BUY, Action.SELL, Action.ALERT)),
            st.sampled_from((TriggerBy.LAST, TriggerBy.SIDE)),
            st.integers(90, 110), st.integers(1, 9),
        ),
        max_size=6,
    ),
    st.lists(
        st.tuples(
            st.sampled_from(
                ((TickType.TRADE, 0), (TickType.QUOTE, Side.BUY), (TickType.QUOTE, Side.SELL))
            ),
            st.integers(880, 1120), st.booleans(),
        ),
        max_size=60,
    ),
)  # fmt: skip
def test_nothing_is_passed_over_when_prices_within_the_bounds_are_left_out(
    waiting: list[Any], ticks: list[Any]
) -> None:
    """A book that is shown only what its bounds ask for meets the same as one that sees all."""
    whole, spared = DarkBook(), DarkBook()
    for number, (kind, action, by, level, trail) in enumerate(waiting):
        trails = kind is OrderKind.TRAILING_STOP and action is not Action.ALERT
        one = order(
            action, OrderKind.LIMIT if action is Action.ALERT else kind, trigger_by=by,
            trigger=None if trails else D(level), trail=D(trail) if trails else None,
        )  # fmt: skip
        one = msgspec.structs.replace(one, oid=str(number))
        whole.arm(one)
        spared.arm(one)
    symbol = order().symbol
    for (kind, side), tenths, gap in ticks:
        if gap:
            whole.missed(symbol)
            spared.missed(symbol)
        price = D(tenths) / 10
        low, high = spared.bounds(symbol).get((kind, side), ALWAYS)
        met = [] if low < float(price) < high else spared.see(symbol, kind, side, price)
        assert met == whole.see(symbol, kind, side, price)
