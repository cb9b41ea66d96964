"""The allocator: how much to trade next, when a position is built and left in slots.

A limit, in units or in money, is divided into slots. An entry takes one slot, or what room there
is under the limit; an exit gives back one slot of the larger of what was held at the start and what
is held now, or all of it where less than a slot would be left hanging. Pure, and without state.
"""

from __future__ import annotations

import decimal
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from enum import StrEnum

import msgspec

from piker.accounting.position import Position
from piker.accounting.transaction import Contract, contract_of
from piker.errors import RangeError
from piker.market import AssetType, MktPair, round_to
from piker.money import DIVIDE, EXACT, ZERO, exact, ratio

__all__ = ["Allocation", "Allocator", "SizeUnit", "allocator_for", "next_order"]

DEFAULT_CURRENCY = Decimal(6000)  # what the predecessor's users are used to: 1000 a slot
DEFAULT_SLOTS = 6  # likewise
MAX_SLOTS = 1000  # one order each: more is a stream, not an allocation
LAST_SLOTS = Decimal("1.5")  # what is held up to here leaves in one piece
_FLOOR = decimal.Context(prec=100, rounding=ROUND_FLOOR)  # room is never rounded up
_CENT = Decimal("0.01")
_DERIVATIVES = (AssetType.FUTURE, AssetType.PERPETUAL, AssetType.OPTION)


class SizeUnit(StrEnum):
    """What the limit is counted in."""

    CURRENCY = "currency"  # the quote asset
    UNITS = "units"  # the market's own: base units, or contracts


class Allocator(msgspec.Struct, frozen=True, kw_only=True):
    """A limit for one market of one account, and the steps to it. ``RangeError`` if impossible."""

    account: str
    unit: SizeUnit
    limit: Decimal
    slots: int = DEFAULT_SLOTS

    def __post_init__(self) -> None:
        """Refuse a limit or a number of slots that no order could follow from."""
        if not self.limit.is_finite() or self.limit <= 0:
            raise RangeError(f"an allocator's limit is a positive number, not {self.limit}.")
        if not 1 <= self.slots <= MAX_SLOTS:
            raise RangeError(f"an allocator has 1 to {MAX_SLOTS} slots, not {self.slots}.")


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """What to trade next. A ``size`` of 0 says that there is no room, or too little for a lot."""

    account: str
    size: Decimal  # signed
    currency: Decimal  # its worth in the quote asset, two decimals
    slots: Decimal  # of the limit, 28 digits


def allocator_for(
    market: MktPair, account: str, *, position: Position | None = None, slots: int = DEFAULT_SLOTS
) -> Allocator:
    """Return the allocator that a market begins with.

    Derivatives are counted in contracts, one to a slot, all else in currency. A position that is
    beyond the limit already raises it to what is held.
    """
    held, entry = (position.size, position.avg_price) if position else (ZERO, None)
    contract = contract_of(market)
    if market.atype in _DERIVATIVES:
        unit, limit, have = SizeUnit.UNITS, Decimal(slots), abs(held)
    else:
        unit, limit = SizeUnit.CURRENCY, DEFAULT_CURRENCY
        have = EXACT.multiply(held.copy_abs(), _worth_of_one(entry or ZERO, contract))
    return Allocator(account=account, unit=unit, limit=max(limit, have), slots=slots)


def next_order(
    allocator: Allocator,
    market: MktPair,
    *,
    side: int,
    price: Decimal,
    position: Position | None = None,
    startup: Decimal = ZERO,
) -> Allocation:
    """Return the next step in a direction: 1 to buy, -1 to sell.

    ``startup`` is the size that was held when the allocator was set up, which is left in equal
    steps.
    The size is a multiple of the market's size tick, rounded towards zero, or all that is held. An
    entry never goes beyond the limit and an exit never through zero. Raises ``RangeError`` for
    a price that is not positive.
    """
    if not price.is_finite() or price <= 0:
        raise RangeError(f"there is no slot at a price of {price}.")
    if side not in (1, -1):
        raise RangeError(f"a side is 1 or -1, not {side}.")
    contract = contract_of(market)
    held = position.size if position else ZERO
    entry = (position.avg_price if position else None) or price
    if held * side >= 0:
        size = _entry(allocator, market, held=held, price=price, entry=entry)
    else:
        size = _exit(allocator, market, held=held, entry=entry, startup=startup)
    return Allocation(
        account=allocator.account,
        size=EXACT.multiply(size, Decimal(side)),
        currency=_currency(size, price, contract),
        slots=ratio(size, _slot(allocator, price, contract)),
    )


def _worth_of_one(price: Decimal, contract: Contract) -> Decimal:
    """Return a unit's worth in the quote asset: an inverse contract's is its face."""
    if contract.inverse:
        return contract.multiplier
    return EXACT.multiply(price, contract.multiplier)


def _slot(allocator: Allocator, price: Decimal, contract: Contract) -> Decimal:
    """Return the units in a slot at a price."""
    slot = ratio(allocator.limit, Decimal(allocator.slots))
    if allocator.unit is SizeUnit.UNITS:
        return slot
    return ratio(slot, _worth_of_one(price, contract))


@exact
def _entry(
    allocator: Allocator, market: MktPair, *, held: Decimal, price: Decimal, entry: Decimal
) -> Decimal:
    contract = contract_of(market)
    if allocator.unit is SizeUnit.UNITS:
        room = allocator.limit - abs(held)
    else:
        have = abs(held) * _worth_of_one(entry, contract)
        room = _FLOOR.divide(allocator.limit - have, _worth_of_one(price, contract))
    return _tick(max(ZERO, min(_slot(allocator, price, contract), room)), market)


@exact
def _exit(
    allocator: Allocator, market: MktPair, *, held: Decimal, entry: Decimal, startup: Decimal
) -> Decimal:
    live = abs(held)
    most = max(abs(startup), live)
    slot = _slot(allocator, entry, contract_of(market))
    last_unit = live <= 1 and market.size_tick == 1
    if live < slot or slot <= most <= slot * LAST_SLOTS or last_unit:
        return live
    size = _tick(min(live, max(ratio(most, Decimal(allocator.slots)), slot)), market)
    return size or live


def _tick(size: Decimal, market: MktPair) -> Decimal:
    """Round towards zero to the market's lot."""
    with decimal.localcontext(DIVIDE):
        return round_to(size, market.size_tick, "down")


def _currency(size: Decimal, price: Decimal, contract: Contract) -> Decimal:
    worth = EXACT.multiply(size, _worth_of_one(price, contract))
    return worth.quantize(_CENT, rounding=ROUND_HALF_EVEN, context=DIVIDE)
