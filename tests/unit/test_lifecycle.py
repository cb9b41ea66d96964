"""The life of an order: total, legal, and right about fills in whatever order they come."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.clearing.lifecycle import (
    TABLE,
    TERMINAL,
    Event,
    EventKind,
    OrderState,
    Phase,
    Problem,
    begin,
    step,
)
from piker.orders import Action, ExecMode, Order

D = Decimal
K = EventKind


def order(**changes: object) -> Order:
    """Return a limit order to buy ten."""
    one = Order(
        oid="o1", symbol="btcusdt.spot.binance", account="main", action=Action.BUY,
        size=D(10), price=D(100),
    )  # fmt: skip
    return msgspec.structs.replace(one, **changes)


def event(kind: EventKind, **fields: object) -> Event:
    """Return an event of no particular time."""
    return Event(kind=kind, time_ns=1, **fields)  # type: ignore[arg-type]


def fill(tid: str, size: int | str, price: int | str = 100, fee: str = "0") -> Event:
    """Return a fill."""
    return event(K.FILL, tid=tid, size=D(size), price=D(price), fee=D(fee), fee_asset="usdt")


def run(state: OrderState, *events: Event) -> tuple[OrderState, list[Problem | None]]:
    """Fold events; return the state and the problems."""
    problems = []
    for one in events:
        done = step(state, one)
        state, problem = done.state, done.problem
        problems.append(problem)
    return state, problems


def test_every_pair_of_phase_and_event_has_an_answer_when_asked() -> None:
    """No event raises in any phase, even one without any of its fields."""
    assert set(TABLE) == set(product(Phase, EventKind))
    for phase, kind in TABLE:
        state = OrderState(order=order(), phase=phase)
        after = step(state, event(kind))
        assert after.transition
        assert after.state.phase in Phase


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({}, Phase.PENDING),
        ({"exec_mode": ExecMode.PAPER}, Phase.PENDING),
        ({"exec_mode": ExecMode.DARK}, Phase.DARK),
        ({"action": Action.ALERT}, Phase.DARK),
        ({"parent": "o0"}, Phase.HELD),
        ({"parent": "o0", "exec_mode": ExecMode.DARK}, Phase.HELD),
    ],
)
def test_intent_begins_where_it_waits_when_accepted(
    changes: dict[str, object], phase: Phase
) -> None:
    """At the venue, in the dark book, or behind its parent."""
    assert begin(order(**changes)).phase is phase


def test_order_is_filled_in_parts_when_all_goes_well() -> None:
    """Sent, acknowledged, open, two fills with fees."""
    state, problems = run(
        begin(order()), event(K.SUBMIT), event(K.ACK, reqid="7"), event(K.OPEN),
        fill("a", 4, 99, "0.1"), fill("b", 6, 100, "0.2"),
    )  # fmt: skip
    assert problems == [None] * 5
    assert state.phase is Phase.FILLED
    assert (state.reqid, state.filled, state.avg_price) == ("7", D(10), D("99.6"))
    assert state.fees == {"usdt": D("0.3")}
    assert state.remaining == 0


def test_fill_counts_once_when_it_comes_again() -> None:
    """Over two channels, before the ack, after the end."""
    state, problems = run(
        begin(order()), fill("a", 10), event(K.ACK, reqid="7"), event(K.OPEN), fill("a", 10)
    )
    assert state.filled == 10
    assert state.phase is Phase.FILLED
    assert state.reqid == "7"
    assert problems == [None, Problem.LATE, Problem.LATE, Problem.DUPLICATE]


def test_fill_counts_when_the_order_was_canceled_before_it() -> None:
    """The venue traded before it canceled, and says so later."""
    state, problems = run(
        begin(order()), event(K.OPEN), event(K.CANCEL), fill("a", 3), fill("b", 7)
    )
    assert problems == [None, None, Problem.LATE, None]
    assert state.filled == 10
    assert state.phase is Phase.FILLED


def test_overfill_is_said_when_more_is_traded_than_ordered() -> None:
    """Counted, because the position has it, and never silent."""
    state, problems = run(begin(order()), fill("a", 6), fill("b", 6))
    assert problems == [None, Problem.OVERFILL]
    assert state.filled == 12
    assert state.remaining == 0


def test_unknown_is_not_rejected_until_the_venue_has_proved_it() -> None:
    """A lost answer: then the venue turns out to have it, or not."""
    lost, _ = run(begin(order()), event(K.SUBMIT), event(K.LOSE, reason="timed out"))
    assert lost.phase is Phase.UNKNOWN
    assert lost.phase not in TERMINAL
    for found, phase in (
        (event(K.OPEN, reqid="7"), Phase.OPEN),
        (fill("a", 10), Phase.FILLED),
        (event(K.CLOSE), Phase.FILLED),
        (event(K.ACK, reqid="7"), Phase.PENDING),
    ):
        state, _ = run(lost, found)
        assert (state.phase, state.reason) == (phase, "")  # it is known again
    assert run(lost, event(K.REJECT, reason="no such order"))[0].phase is Phase.REJECTED


def test_rejection_is_doubted_when_the_order_trades_all_the_same() -> None:
    """It is to be asked for, with what it traded counted."""
    state, problems = run(begin(order()), event(K.REJECT), fill("a", 4))
    assert state.phase is Phase.UNKNOWN
    assert state.filled == 4
    assert problems[-1] is Problem.LATE


def test_rest_is_canceled_when_a_partly_filled_order_is_rejected() -> None:
    """An immediate-or-cancel order, refused after it traded, was not rejected."""
    assert run(begin(order()), fill("a", 4), event(K.REJECT))[0].phase is Phase.CANCELED


def test_closed_order_misses_fills_when_we_have_not_seen_them() -> None:
    """Whoever reconciles asks the venue for them."""
    state, problems = run(begin(order()), fill("a", 4), event(K.CLOSE))
    assert state.phase is Phase.FILLED
    assert problems[-1] is Problem.MISSING_FILLS
    assert run(state, fill("b", 6))[0].filled == 10


def test_edit_changes_terms_when_the_venue_has_it() -> None:
    """Until then the old terms hold; a fill of the larger size in between is no overfill."""
    larger = order(size=D(20), price=D(101))
    asked, _ = run(begin(order()), event(K.OPEN, reqid="7"), event(K.EDIT_ASKED, order=larger))
    assert asked.order.size == 10
    state, problems = run(asked, fill("a", 15), event(K.EDIT, reqid="8"))
    assert problems == [None, None]
    assert (state.order.size, state.order.price, state.reqid) == (20, 101, "8")
    assert state.phase is Phase.PARTIAL
    refused, _ = run(asked, event(K.EDIT_REFUSED, reason="too late"))
    assert refused.editing is None
    assert refused.order.size == 10


def test_the_largest_of_several_edits_counts_until_the_venue_has_answered() -> None:
    """One is at the venue at a time; what is refused is that one, and the next is still wanted."""
    larger, smaller = order(size=D(20), price=D(101)), order(size=D(12), price=D(102))
    asked, _ = run(
        begin(order()), event(K.OPEN, reqid="7"),
        event(K.EDIT_ASKED, order=larger), event(K.EDIT_ASKED, order=smaller),
    )  # fmt: skip
    assert (asked.editing, asked.wanted) == (larger, smaller)
    assert asked.worst == order(size=D(20), price=D(102))
    refused, _ = run(asked, event(K.EDIT_REFUSED, reason="no"))
    assert (refused.order, refused.editing, refused.wanted) == (order(), smaller, None)
    newest, _ = run(asked, event(K.EDIT_ASKED, order=order(size=D(11))))
    assert (newest.editing, newest.wanted) == (larger, order(size=D(11)))
    both = run(asked, event(K.EDIT, order=smaller))[0]  # of a journal when two were sent at once
    assert (both.order, both.editing, both.wanted) == (smaller, None, None)
    filled, problems = run(asked, fill("a", 15), fill("b", 5))
    assert problems == [None, None]
    assert filled.phase is Phase.PARTIAL
    edited, problems = run(filled, event(K.EDIT, reqid="8", order=larger))
    assert problems == [None]
    assert (edited.order, edited.editing, edited.phase) == (larger, smaller, Phase.PARTIAL)
    assert edited.wanted is None
    ended, problems = run(edited, event(K.EDIT_REFUSED, reason="it has ended"))
    assert (ended.phase, ended.worst, problems) == (Phase.FILLED, None, [None])
    assert run(filled, fill("c", 1))[1] == [Problem.OVERFILL]
    for end in (event(K.CLOSE), event(K.CANCEL)):
        assert run(filled, end)[0].worst is None


def test_edit_refused_leaves_a_filled_order_filled_when_it_was_filled_meanwhile() -> None:
    """All that stood was traded while the larger size was asked for."""
    state, _ = run(
        begin(order()), event(K.OPEN), event(K.EDIT_ASKED, order=order(size=D(20))),
        fill("a", 10), event(K.EDIT_REFUSED),
    )  # fmt: skip
    assert state.phase is Phase.FILLED


def test_dark_order_keeps_its_new_trigger_when_it_is_edited() -> None:
    """Nothing is at a venue yet, so nothing has to be confirmed."""
    dark = order(exec_mode=ExecMode.DARK, trigger=D(90))
    state, _ = run(
        begin(dark), event(K.EDIT_ASKED, order=msgspec.structs.replace(dark, trigger=D(80)))
    )
    assert state.phase is Phase.DARK
    assert state.order.trigger == 80
    assert run(state, event(K.TRIGGER, price=D(79)))[0].phase is Phase.PENDING
    alert = begin(order(action=Action.ALERT, size=D(0)))
    assert run(alert, event(K.TRIGGER))[0].phase is Phase.TRIGGERED


EVENTS = st.builds(
    Event,
    kind=st.sampled_from(EventKind),
    time_ns=st.integers(0, 9),
    reqid=st.sampled_from(["", "r1", "r2"]),
    tid=st.sampled_from(["", "a", "b", "c", "d", "e", "f"]),
    size=st.integers(-2, 7).map(D),
    price=st.integers(1, 200).map(D),
    fee=st.integers(-1, 3).map(D),
    fee_asset=st.sampled_from(["usdt", "bnb"]),
    order=st.none() | st.integers(1, 20).map(lambda size: order(size=D(size))),
)


@settings(max_examples=400)
@given(
    first=st.sampled_from(
        [{}, {"exec_mode": ExecMode.DARK}, {"parent": "o0"}, {"action": Action.ALERT}]
    ),
    events=st.lists(EVENTS, max_size=25),
)
def test_fills_are_the_sum_of_distinct_trades_when_anything_happens_in_any_order(
    first: dict[str, object], events: list[Event]
) -> None:
    """Against a naive count, whatever else goes on; an end is left by nothing but a fill."""
    state = begin(order(**first))
    seen: dict[str, Event] = {}
    for one in events:
        before = state
        done = step(state, one)
        state, problem = done.state, done.problem
        if one.kind is K.FILL and one.tid and one.size > 0:
            seen.setdefault(one.tid, one)
        assert state.filled == sum((each.size for each in seen.values()), D(0))
        assert state.value == sum((each.size * each.price for each in seen.values()), D(0))
        assert sum(state.fees.values(), D(0)) == sum((each.fee for each in seen.values()), D(0))
        if before.phase in TERMINAL and one.kind is not K.FILL:
            assert state.phase is before.phase
            assert problem is not None
        if problem is Problem.ILLEGAL:
            assert state == before
        under_way = state.worst
        over = state.filled > max(
            state.order.size, under_way.size if under_way is not None else D(0)
        )
        if over and state.filled > before.filled:
            assert problem is Problem.OVERFILL
        assert step(state, one).state.filled == state.filled  # the same again counts nothing


# -- sums --------------------------------------------------------------------------------------
def amounts() -> st.SearchStrategy[Decimal]:
    """Return a strategy of amounts that no usual context holds the sum of."""
    fine = st.integers(1, 10**36).map(lambda units: D(units).scaleb(-18))
    return fine | st.integers(1, 10**18).map(D)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(amounts(), amounts(), amounts(), st.booleans()), min_size=1, max_size=12))
def test_sums_of_fills_are_exact_when_numbers_are_long(
    fills: list[tuple[Decimal, Decimal, Decimal, bool]],
) -> None:
    """Size, value and fees are those of fractions, to the last of any number of digits."""
    state = begin(order(size=D(10) ** 23))
    size = value = fees = Fraction(0)
    for number, (amount, price, fee, rebate) in enumerate(fills):
        fee = fee.copy_negate() if rebate else fee
        told = Event(
            kind=K.FILL, time_ns=1, tid=str(number), size=amount, price=price, fee=fee,
            fee_asset="usdt",
        )  # fmt: skip
        done = step(state, told)
        state, problem = done.state, done.problem
        assert problem is None
        size += Fraction(amount)
        value += Fraction(amount) * Fraction(price)
        fees += Fraction(fee)
    assert (Fraction(state.filled), Fraction(state.value)) == (size, value)
    assert Fraction(state.fees["usdt"]) == fees
    assert Fraction(state.remaining) == 10**23 - size


@given(
    st.sampled_from([K.FILL, K.CANCEL, K.CLOSE, K.EXPIRE]),
    st.lists(st.decimals() | st.sampled_from([D("1E+999999"), D("1E-999999")]), min_size=3),
)
def test_nothing_is_counted_and_nothing_raised_when_a_number_is_none(
    kind: EventKind, numbers: list[Decimal]
) -> None:
    """NaN, infinities and numbers of more digits than any venue's change no sum."""
    size, price, fee = numbers[:3]
    told = event(kind, tid="t", size=size, price=price, fee=fee, fee_asset="usdt")
    first, _ = run(begin(order()), event(K.OPEN), fill("1", 1))
    done = step(first, told)
    after, problem = done.state, done.problem
    if kind is K.FILL and problem is not Problem.ILLEGAL:
        assert all(number.is_finite() for number in numbers[:3])
    else:
        assert (after.filled, after.value, after.fees) == (first.filled, first.value, first.fees)
    assert step(after, fill("2", 1)).state.filled == after.filled + 1
