"""Brackets and groups: children follow their parent, one at most of a group trades."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from piker.clearing.lifecycle import Event, EventKind, OrderState, Phase, begin, step
from piker.clearing.linked import What, consequences
from piker.orders import Action, ExecMode, Order, OrderKind

D = Decimal


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


def after(state: OrderState, kind: EventKind, **fields: Any) -> OrderState:
    """Return the state after an event."""
    return step(state, Event(kind=kind, time_ns=0, **fields)).state


def fill(state: OrderState, tid: str, size: int) -> OrderState:
    """Return the state after a fill."""
    return after(state, EventKind.FILL, tid=tid, size=D(size), price=D(100))


def test_children_are_released_for_what_was_filled_and_grow_with_it() -> None:
    """Four of ten, then the rest."""
    entry, profit, stop = bracket()
    part = fill(entry, "a", 4)
    found = consequences(entry, part, [part, profit, stop])
    assert [(one.oid, one.what) for one in found] == [("tp", What.RELEASE), ("sl", What.RELEASE)]
    assert [one.order.size for one in found if one.order] == [4, 4]
    profit = after(profit, EventKind.RELEASE, order=found[0].order)
    stop = after(stop, EventKind.RELEASE, order=found[1].order)
    assert (profit.phase, stop.phase) == (Phase.PENDING, Phase.DARK)
    whole = fill(part, "b", 6)
    grown = consequences(part, whole, [profit, stop])
    assert [(one.what, one.order.size) for one in grown if one.order] == [(What.RESIZE, 10)] * 2
    assert consequences(whole, whole, [profit, stop]) == []


def test_children_end_when_their_parent_ends_unfilled() -> None:
    """Canceled in part it leaves them what it traded."""
    entry, profit, stop = bracket()
    gone = after(entry, EventKind.CANCEL)
    assert [one.what for one in consequences(entry, gone, [profit, stop])] == [What.CANCEL] * 2
    part = fill(entry, "a", 4)
    ended = after(part, EventKind.CANCEL)
    found = consequences(part, ended, [profit, stop])  # held: what came was too small for them
    assert [(one.what, one.order and one.order.size) for one in found] == [(What.RELEASE, 4)] * 2
    profit, stop = (after(one, EventKind.RELEASE) for one in (profit, stop))
    assert consequences(part, ended, [profit, stop]) == []


def test_siblings_lose_what_one_trades_and_end_with_it() -> None:
    """Three of ten, all of it, or a trigger that was met."""
    _, profit, stop = bracket()
    profit, stop = (after(one, EventKind.RELEASE) for one in (profit, stop))
    part = fill(profit, "a", 3)
    (one,) = consequences(profit, part, [part, stop])
    assert (one.oid, one.what) == ("sl", What.RESIZE)
    assert one.order is not None
    assert one.order.size == 7
    whole = fill(part, "b", 7)
    assert [one.what for one in consequences(part, whole, [stop])] == [What.CANCEL]
    met = after(stop, EventKind.TRIGGER)
    assert [one.what for one in consequences(stop, met, [profit])] == [What.CANCEL]
    over = after(stop, EventKind.CANCEL)
    assert consequences(profit, whole, [over]) == []
    stranger = begin(order("x", oco="other"))
    assert consequences(part, whole, [stranger]) == []
