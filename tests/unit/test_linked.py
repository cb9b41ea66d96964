"""Brackets and groups: what is due to an order follows from how the others stand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from piker.clearing.lifecycle import Event, EventKind, OrderState, Phase, Share, begin, step
from piker.clearing.linked import Due, Tied, Ties, What, due, is_stale, share_of
from piker.orders import Action, ExecMode, Order, OrderKind

D = Decimal
NOBODY = Tied(None, (), ())


def order(oid: str, **fields: Any) -> Order:
    """Return an order of ten."""
    base = Order(
        oid=oid, symbol="btcusdt.spot.binance", account="main", action=Action.BUY, size=D(10),
        price=D(100),
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


def bracket() -> tuple[OrderState, OrderState, OrderState]:
    """Return an entry with a take-profit and a stop of one group."""
    out = {"action": Action.SELL, "parent": "in", "oco": "g"}
    stop = {"kind": OrderKind.STOP, "trigger": D(90), "exec_mode": ExecMode.DARK, "price": None}
    return begin(order("in")), begin(order("tp", **out)), begin(order("sl", **out, **stop))


def pair() -> tuple[OrderState, OrderState]:
    """Return a limit and a stop of one group."""
    stop = {"kind": OrderKind.STOP, "trigger": D(90), "exec_mode": ExecMode.DARK, "price": None}
    out = {"action": Action.SELL, "oco": "g"}
    return begin(order("tp", **out)), begin(order("sl", **out, **stop))


def after(state: OrderState, kind: EventKind, **fields: Any) -> OrderState:
    """Return the state after an event."""
    return step(state, Event(kind=kind, time_ns=0, **fields)).state


def fill(state: OrderState, tid: str, size: int) -> OrderState:
    """Return the state after a fill."""
    return after(state, EventKind.FILL, tid=tid, size=D(size), price=D(100))


def done(state: OrderState, found: Due | None) -> OrderState:
    """Return the state after what was due has been done."""
    assert found is not None
    if found.what is What.CANCEL:
        return after(state, EventKind.CANCEL)
    kind = EventKind.RELEASE if found.what is What.RELEASE else EventKind.EDIT_ASKED
    return after(state, kind, order=found.order, share=found.share)


def is_due(state: OrderState, *group: OrderState, parent: OrderState | None = None) -> Due | None:
    """Return what is due to an order beside these."""
    return due(state, Tied(parent, group, ()))


def terms(found: Due | None) -> tuple[What, int] | None:
    """Return what is due, and at which size."""
    return found and (found.what, int(found.order.size) if found.order is not None else 0)


def test_children_are_released_for_what_was_filled_and_grow_with_it() -> None:
    """Four of ten, then the rest; looked at twice nothing is due."""
    entry, profit, stop = bracket()
    assert is_due(profit, stop, parent=entry) is None
    part = fill(entry, "a", 4)
    found = is_due(profit, stop, parent=part), is_due(stop, profit, parent=part)
    assert [terms(one) for one in found] == [(What.RELEASE, 4)] * 2
    profit, stop = done(profit, found[0]), done(stop, found[1])
    assert (profit.phase, stop.phase) == (Phase.PENDING, Phase.DARK)
    assert is_due(profit, stop, parent=part) is is_due(stop, profit, parent=part) is None
    whole = fill(part, "b", 6)
    assert terms(is_due(stop, profit, parent=whole)) == (What.RESIZE, 10)
    assert is_due(done(stop, is_due(stop, profit, parent=whole)), profit, parent=whole) is None


def test_children_end_when_their_parent_ends_unfilled() -> None:
    """Canceled in part it leaves them what it traded."""
    entry, profit, stop = bracket()
    gone = after(entry, EventKind.CANCEL)
    assert terms(is_due(profit, stop, parent=gone)) == (What.CANCEL, 0)
    ended = after(fill(entry, "a", 4), EventKind.CANCEL)
    assert terms(is_due(stop, profit, parent=ended)) == (What.RELEASE, 4)


def test_exits_have_what_came_in_less_what_went_out() -> None:
    """A take-profit that is whole ends the stop only once nothing more can come in."""
    entry, profit, stop = bracket()
    part = fill(entry, "a", 4)
    profit = done(profit, is_due(profit, stop, parent=part))
    stop = done(stop, is_due(stop, profit, parent=part))
    some = fill(profit, "b", 1)
    assert terms(is_due(stop, some, parent=part)) == (What.RESIZE, 3)
    whole = fill(some, "c", 3)
    assert whole.phase is Phase.FILLED
    assert terms(is_due(stop, whole, parent=part)) == (What.WAIT, 0)
    more = fill(part, "d", 5)
    assert terms(is_due(stop, whole, parent=more)) == (What.RESIZE, 5)
    rest = done(stop, is_due(stop, whole, parent=more))
    ended = after(more, EventKind.CANCEL)
    assert is_due(rest, whole, parent=ended) is None  # five in, and nobody else takes them out
    assert terms(is_due(stop, whole, parent=after(part, EventKind.CANCEL))) == (What.CANCEL, 0)


def test_entry_goes_when_it_has_no_exit_left() -> None:
    """What would still come in would stand alone."""
    entry, profit, stop = bracket()
    part = fill(entry, "a", 4)
    profit = done(profit, is_due(profit, stop, parent=part))
    stop = done(stop, is_due(stop, profit, parent=part))
    out = fill(after(stop, EventKind.TRIGGER, reason="met"), "b", 4)
    assert due(part, Tied(None, (), (profit, out))) is None
    gone = after(profit, EventKind.CANCEL)
    found = due(part, Tied(None, (), (gone, out)))
    assert terms(found) == (What.CANCEL, 0)
    by_hand = after(stop, EventKind.CANCEL)
    assert due(part, Tied(None, (), (gone, by_hand))) is None  # as its client wanted it


def test_siblings_lose_what_one_trades_and_end_with_it() -> None:
    """Three of ten, all of it, or a trigger that was met; one that ended otherwise ends nobody."""
    profit, stop = pair()
    part = fill(profit, "a", 3)
    assert terms(is_due(stop, part)) == (What.RESIZE, 7)
    less = done(stop, is_due(stop, part))
    assert is_due(less, part) is None
    assert terms(is_due(less, fill(part, "b", 2))) == (What.RESIZE, 5)
    assert terms(is_due(stop, fill(part, "b", 7))) == (What.CANCEL, 0)
    met = after(stop, EventKind.TRIGGER, reason="95 met 95")
    assert terms(is_due(profit, met)) == (What.CANCEL, 0)
    assert is_due(profit, after(met, EventKind.REJECT)) is None
    assert is_due(profit, after(stop, EventKind.CANCEL)) is None


def test_resize_counts_once_with_the_terms_that_it_is_of() -> None:
    """Refused by the venue it is due again; a newer edit of a client has it."""
    profit, stop = pair()
    open_ = after(stop, EventKind.TRIGGER, reason="")
    open_ = msgspec.structs.replace(after(open_, EventKind.OPEN, reqid="1"), met="")
    part = fill(profit, "a", 3)
    asked = done(open_, is_due(open_, part))
    assert asked.newest == (asked.editing, Share(taken=D(3)))
    assert is_due(asked, part) is None
    assert terms(is_due(after(asked, EventKind.EDIT_REFUSED), part)) == (What.RESIZE, 7)
    client = msgspec.structs.replace(asked.editing, price=D(101))
    later = after(
        asked, EventKind.EDIT_ASKED, order=client, share=share_of(asked, Tied(None, (part,), ()))
    )
    assert is_due(later, part) is None
    first = after(later, EventKind.EDIT, order=asked.editing)
    assert (first.share, first.newest) == (Share(taken=D(3)), (client, Share(taken=D(3))))
    second = after(first, EventKind.EDIT, order=client)
    assert (second.share, second.order) == (Share(taken=D(3)), client)
    assert terms(is_due(second, fill(part, "b", 4))) == (What.RESIZE, 3)


def test_size_of_before_is_no_new_size() -> None:
    """What a client drags has the size that it was drawn of."""
    profit, stop = pair()
    assert not is_stale(stop, D(10), Share())
    now = share_of(stop, Tied(None, (fill(profit, "a", 3),), ()))
    assert is_stale(stop, D(10), now)
    assert not is_stale(stop, D(6), now)
    entry, profit, stop = bracket()
    part = fill(entry, "b", 4)
    stop = done(stop, is_due(stop, profit, parent=part))
    assert is_stale(stop, D(10), share_of(stop, Tied(part, (profit,), ())))
    assert not is_stale(stop, D(3), share_of(stop, Tied(part, (profit,), ())))


def test_rows_of_an_earlier_piker_have_their_share_in_the_size() -> None:
    """Nothing is taken twice by the first look after an update."""
    entry, profit, stop = bracket()
    part = fill(entry, "a", 4)
    old = after(stop, EventKind.RELEASE, order=msgspec.structs.replace(stop.order, size=D(4)))
    assert is_due(old, profit, parent=part) is None
    profit, stop = pair()
    less = msgspec.structs.replace(stop.order, size=D(7))
    old = after(stop, EventKind.EDIT_ASKED, order=less)
    assert is_due(old, fill(profit, "b", 3)) is None


def test_what_is_no_longer_at_hand_has_traded_what_was_counted() -> None:
    """A parent and a sibling of long ago."""
    entry, profit, stop = bracket()
    whole = fill(entry, "a", 10)
    stop = done(stop, is_due(stop, profit, parent=whole))
    sold = after(fill(done(profit, is_due(profit, stop, parent=whole)), "b", 4), EventKind.CANCEL)
    stop = done(stop, is_due(stop, sold, parent=whole))
    assert stop.order.size == 6
    assert due(stop, NOBODY) is None


def test_ties_find_all_whom_a_change_may_concern() -> None:
    """Children, the others of a group, and the parent; a stranger is none."""
    ties = Ties()
    for one in bracket():
        ties.add(one.order)
    ties.add(order("x", oco="h"))
    assert ties.of(order("in")) == ["sl", "tp"]
    entry, profit, _ = bracket()
    assert ties.of(profit.order) == ["in", "sl", "tp"]
    assert ties.of(order("y")) == []
    for one in bracket():
        ties.drop(one.order)
    assert ties.of(entry.order) == []
    assert len(ties) == 1


def test_brackets_whose_exits_have_one_name_do_not_concern_each_other() -> None:
    """A strategy names them all alike: none is looked at for a change of another."""
    ties = Ties()
    ties.add(order("alone", oco="exits"))
    for number in range(100):
        for name in ("sl", "tp"):
            ties.add(order(f"{name}{number}", parent=f"in{number}", oco="exits"))
    assert ties.of(order("sl7", parent="in7", oco="exits")) == ["in7", "sl7", "tp7"]
    assert ties.of(order("in7")) == ["sl7", "tp7"]
    assert ties.of(order("alone", oco="exits")) == ["alone"]
