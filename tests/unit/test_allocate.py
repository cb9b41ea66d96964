"""The allocator: slots in, slots out, never beyond the limit and never through zero."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import D, tx

from piker.accounting.allocate import Allocator, SizeUnit, allocator_for, next_order
from piker.accounting.position import Position, fold
from piker.accounting.transaction import contract_of
from piker.errors import RangeError
from piker.market import Asset, AssetType, MktPair
from piker.money import EXACT, ZERO, exact

SPOT = MktPair(
    fqme="btcusdt.spot.binance", bs_mktid="BTCUSDT", dst=Asset("btc"), src=Asset("usdt"),
    price_tick=D("0.01"), size_tick=D("0.001"),
)  # fmt: skip
FUTURE = msgspec.structs.replace(
    SPOT, fqme="btcusd.coinm.perp.binance", atype=AssetType.PERPETUAL, size_tick=D(1),
    contract_size=D(100), inverse=True, src=Asset("usd"),
)  # fmt: skip
MONEY = Allocator(account="main", unit=SizeUnit.CURRENCY, limit=D(6000), slots=6)
UNITS = Allocator(account="main", unit=SizeUnit.UNITS, limit=D(12), slots=4)


def held(size: str, price: int = 100) -> Position:
    """Return a position."""
    return fold([tx("1", size, price)], contract_of(SPOT))


def test_a_slot_is_bought_when_flat() -> None:
    """A sixth of 6000 at a price of 300, in whole thousandths."""
    step = next_order(MONEY, SPOT, side=1, price=D(300))
    assert (step.size, step.currency) == (D("3.333"), D("999.90"))
    assert step.slots < 1
    assert next_order(MONEY, SPOT, side=-1, price=D(100)).size == -10


def test_only_the_room_is_bought_when_less_than_a_slot_is_left() -> None:
    """Of money by what the units had cost; of units by their number; nothing beyond."""
    assert next_order(MONEY, SPOT, side=1, price=D(50), position=held("55")).size == 10
    assert next_order(MONEY, SPOT, side=1, price=D(50), position=held("60")).size == 0
    assert next_order(UNITS, SPOT, side=-1, price=D(50), position=held("-10.5")).size == D("-1.5")
    assert next_order(UNITS, SPOT, side=1, price=D(50), position=held("13")).size == 0


@pytest.mark.parametrize(
    ("size", "startup", "sold"),
    [
        ("12", "12", "3"),  # a fourth of what it began with
        ("9", "12", "3"),
        ("20", "20", "5"),  # beyond the limit: a fourth of what there is
        ("6", "20", "5"),
        ("2", "12", "2"),  # less than a slot: all
        ("4", "4", "4"),  # between one and one and a half: all, not 3 and a rest of 1
        ("4", "12", "3"),
        ("5", "5", "3"),
    ],
)
def test_a_slot_is_given_back_when_leaving(size: str, startup: str, sold: str) -> None:
    """In steps that are equal to what was held at the start."""
    step = next_order(UNITS, SPOT, side=-1, price=D(77), position=held(size), startup=D(startup))
    assert step.size == -D(sold)


def test_last_contract_leaves_whole_when_sizes_are_integers() -> None:
    """A fourth of one contract can not be sold."""
    wide = Allocator(account="main", unit=SizeUnit.UNITS, limit=D(3), slots=4)
    step = next_order(wide, FUTURE, side=1, price=D(9000), position=held("-1"), startup=D(4))
    assert step.size == 1
    assert step.currency == 100  # an inverse contract's face, whatever the price


def test_defaults_are_contracts_when_the_market_is_a_derivative() -> None:
    """One to a slot; money elsewhere; a larger position raises the limit."""
    one = allocator_for(FUTURE, "main")
    assert (one.unit, one.limit, one.slots) == (SizeUnit.UNITS, D(6), 6)
    two = allocator_for(SPOT, "main", position=held("100"))
    assert (two.unit, two.limit) == (SizeUnit.CURRENCY, D(10000))
    assert allocator_for(SPOT, "main").limit == 6000
    assert next_order(one, FUTURE, side=1, price=D(9000)).size == 1


@pytest.mark.parametrize(
    ("limit", "slots"), [("0", 4), ("-1", 4), ("NaN", 4), ("Infinity", 4), ("1", 0), ("1", 1001)]
)
def test_allocator_is_refused_when_no_order_could_follow(limit: str, slots: int) -> None:
    """At its making."""
    with pytest.raises(RangeError):
        Allocator(account="main", unit=SizeUnit.UNITS, limit=D(limit), slots=slots)


@pytest.mark.parametrize(("price", "side"), [("0", 1), ("-5", 1), ("NaN", 1), ("5", 0), ("5", 2)])
def test_step_is_refused_when_price_or_side_is_none(price: str, side: int) -> None:
    """Nothing is guessed."""
    with pytest.raises(RangeError):
        next_order(MONEY, SPOT, side=side, price=D(price))


@exact
def worth(position: Position) -> Decimal:
    """Return what a linear position cost."""
    return abs(position.basis)


@given(
    st.sampled_from([SizeUnit.UNITS, SizeUnit.CURRENCY]), st.integers(1, 10**6),
    st.integers(1, 12), st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    st.sampled_from([1, -1]),
)  # fmt: skip
def test_limit_holds_and_the_way_out_ends_when_walked(
    unit: SizeUnit, limit: int, slots: int, prices: list[int], side: int
) -> None:
    """In at any prices: never beyond the limit. Out: never through zero, flat after some steps."""
    allocator = Allocator(account="main", unit=unit, limit=D(limit), slots=slots)
    position = Position(account="main", symbol=SPOT.fqme, contract=contract_of(SPOT))
    trades = []
    for number, price in enumerate(prices, 1):
        at = D(price).scaleb(-2)
        step = next_order(allocator, SPOT, side=side, price=at, position=position)
        assert step.size * side >= 0
        assert step.size % SPOT.size_tick == 0
        if step.size:
            trades.append(tx(str(number), str(step.size), str(at)))
            position = fold(trades, contract_of(SPOT))
        used = abs(position.size) if unit is SizeUnit.UNITS else worth(position)
        assert used <= limit * (1 + D("1e-25"))  # the average price is shown to 28 digits
    startup, steps = position.size, 0
    while position.size:
        step = next_order(
            allocator, SPOT, side=-side, price=D(50), position=position, startup=startup
        )
        left = EXACT.add(position.size, step.size)
        assert step.size * -side > 0
        assert left * side >= 0
        steps += 1
        trades.append(tx(str(1000 + steps), str(step.size), 50))
        position = fold(trades, contract_of(SPOT))
        assert steps <= 2 * slots + 2
    assert position.basis == ZERO
