"""What stands, kept up as it comes and goes, is what it would come to if it were summed anew."""

from __future__ import annotations

import random
from decimal import Decimal

import msgspec
from test_risk import BTC, code, desk, order

from piker.clearing.denials import DenialCode
from piker.clearing.exposure import SLACK, Exposure, Stand
from piker.orders import Action

D = Decimal


def anew(orders: dict[str, Stand], fqme: str, held: Decimal) -> tuple[Decimal, Decimal]:
    """Return what :meth:`Exposure.worst` is to return, by its definition."""
    grows = [one for one in orders.values() if one.fqme == fqme and not one.reduce_only]
    buys = sum((one.remaining for one in grows if one.side > 0), D(0))
    sells = sum((one.remaining for one in grows if one.side < 0), D(0))
    most = max(abs(held + buys), abs(held - sells), abs(held))
    return most, max((one.price for one in grows), default=D(0))


def test_sums_are_those_of_what_stands_when_orders_come_and_go() -> None:
    """Of two markets and both sides, in any order, with sizes of many digits; it stays small."""
    chance, exposure, orders = random.Random(3), Exposure(), dict[str, Stand]()
    for _ in range(5_000):
        oid = f"o{chance.randrange(40)}"
        if chance.random() < 0.4:
            assert exposure.drop(oid) == orders.pop(oid, None)
        else:
            size = D(chance.randint(1, 10**9)).scaleb(-chance.randint(0, 18))
            orders[oid] = Stand(
                chance.choice(("a", "b")), chance.choice((1, -1)), size,
                D(chance.randint(1, 10_000)), chance.random() < 0.2,
            )  # fmt: skip
            exposure.put(oid, orders[oid])
        held = D(chance.randint(-50, 50))
        assert len(exposure) == len(orders)
        for fqme in ("a", "b"):
            assert exposure.worst(fqme, held) == anew(orders, fqme, held)
            for side in (1, -1):
                same = [
                    one.remaining
                    for one in orders.values()
                    if one.side == side and one.fqme == fqme
                ]
                assert exposure.on_side(fqme, side) == sum(same, D(0))
    for oid in list(orders):
        exposure.drop(oid)
    assert exposure.worst("a", D(0)) == (0, 0)
    assert all(len(one.prices) <= SLACK for one in exposure._markets.values())


def test_edit_under_way_counts_at_its_worse_terms_until_it_is_answered() -> None:
    """The venue may have either: two edits at once do not pass a limit that one of them fills."""
    one = desk(gross_exposure=D(1_300), order_notional=D(10_000))
    small, other = order("a", size=D("0.001")), order("b", size=D("0.001"), price=D(60_001))
    assert code(one.check(small, 1)) is code(one.check(other, 1)) is None
    large = msgspec.structs.replace(small, size=D("0.02"))
    assert code(one.check(large, 2)) is None
    one.standing(small, small.size, large)  # it was asked for, and not answered
    more = msgspec.structs.replace(other, size=D("0.02"))
    assert code(one.check(more, 3)) is DenialCode.GROSS_EXPOSURE
    one.standing(small, small.size)  # it was refused
    assert code(one.check(more, 4)) is None


def test_denied_edit_leaves_the_order_standing_as_it_was_when_it_passes_a_limit() -> None:
    """And a denied order leaves nothing behind."""
    one = desk(gross_exposure=D(1_000), order_notional=D(100_000))
    assert code(one.check(order("a"), 1)) is None
    assert code(one.check(order("a", size=D(1)), 2)) is DenialCode.GROSS_EXPOSURE
    assert code(one.check(order("b", size=D(1)), 2)) is DenialCode.GROSS_EXPOSURE
    assert one._standing.on_side(BTC.fqme, 1) == D("0.01")
    one.ended("a")
    sell = order("c", action=Action.SELL, size=D("0.016"), price=D(61_000))
    assert code(one.check(sell, 3)) is None
    assert len(one._standing) == 1
