"""What the fills of an account in one market come to: at average cost, and since midnight. Pure.

The journal's rows know no contracts: whether a market is inverse, or what one contract stands for,
is not in them. So both reckonings are kept (:class:`Leg`): sizes times prices, which linear markets
settle in, and sizes through prices, which are the coins of inverse ones. Whoever knows the market
takes the one that is its own, times the contract's size. The first is exact; of the second each
fill is rounded to 36 decimals, always alike, so that every fold of the same rows is the same.

The recurrence is that of :mod:`piker.accounting.position` (average cost), which knows more kinds of
transactions and is told the contract; a test holds them against each other.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from piker.money import DIVIDE, EXACT, SHARE_DECIMALS, ZERO, share

__all__ = ["DAY_NS", "Holding", "Leg", "MarketDay", "coins_of", "traded"]

DAY_NS = 86_400 * 10**9  # a day of the limits, midnight to midnight UTC
_COIN = Decimal(1).scaleb(-SHARE_DECIMALS)


class Leg(msgspec.Struct, frozen=True, array_like=True):
    """One reckoning: what the open units cost, what all trades brought, what was made before.

    ``before`` is what had been realised when the position was last entered from flat.
    """

    basis: Decimal = ZERO
    cash: Decimal = ZERO
    before: Decimal = ZERO

    @property
    def realised(self) -> Decimal:
        """Return what was made of closed units, before fees."""
        return EXACT.add(self.cash, self.basis)


class Holding(msgspec.Struct, frozen=True, omit_defaults=True):
    """All fills of an account in a market. ``since`` are the fees since it was last flat."""

    size: Decimal = ZERO  # signed
    linear: Leg = Leg()
    inverse: Leg = Leg()
    fees: dict[str, Decimal] = {}
    since: dict[str, Decimal] = {}


def coins_of(size: Decimal, price: Decimal) -> Decimal:
    """Return a size through a price, negated: whoever buys an inverse contract owes its coins."""
    if not price:
        return ZERO
    return DIVIDE.divide(size, price).quantize(_COIN, context=DIVIDE).copy_negate()


def traded(
    held: Holding, size: Decimal, price: Decimal, fee: Decimal = ZERO, fee_asset: str = ""
) -> Holding:
    """Return a holding after one more fill; ``size`` is signed. Numbers must be sane."""
    closing = _closing(held.size, size)
    fees = _paid(held.fees, fee_asset, fee)
    if closing and closing != size:  # through zero: what opens pays its share
        since = _paid({}, fee_asset, EXACT.subtract(fee, share(fee, closing, size)))
    else:
        since = _paid(held.since if held.size else {}, fee_asset, fee)
    return Holding(
        EXACT.add(held.size, size),
        _move(held.linear, held.size, size, closing, EXACT.multiply(size, price)),
        _move(held.inverse, held.size, size, closing, coins_of(size, price)),
        fees,
        since,
    )


def _closing(held: Decimal, size: Decimal) -> Decimal:
    """Return how much of a trade closes what is held; it has the trade's sign."""
    if not held or (held > 0) == (size > 0):
        return ZERO
    return size if size.copy_abs() <= held.copy_abs() else held.copy_negate()


def _paid(fees: dict[str, Decimal], asset: str, amount: Decimal) -> dict[str, Decimal]:
    if not amount:
        return fees
    return {**fees, asset: EXACT.add(fees.get(asset, ZERO), amount)}


def _move(leg: Leg, held: Decimal, size: Decimal, closing: Decimal, value: Decimal) -> Leg:
    """Trade ``size`` for ``value``: the closing part first, then what opens."""
    if closing:
        closed = share(value, closing, size)
        released = share(leg.basis, closing.copy_negate(), held)
        leg = Leg(EXACT.subtract(leg.basis, released), EXACT.subtract(leg.cash, closed), leg.before)
        if closing == size:
            return leg
        value, held = EXACT.subtract(value, closed), ZERO
    before = leg.before if held else leg.realised
    return Leg(EXACT.add(leg.basis, value), EXACT.subtract(leg.cash, value), before)


class MarketDay(msgspec.Struct, frozen=True, omit_defaults=True):
    """An account's day in one market, from midnight UTC on: what counts for the day's result.

    ``size`` is what was held when the day opened and what was traded since; ``cost`` what all of it
    cost, the former at the price at which the day opened; ``coins`` the same of an inverse market.
    Of linear markets the result at a price is ``size * price - cost``, less the fees.
    """

    day: int  # days since the epoch
    size: Decimal = ZERO
    cost: Decimal = ZERO
    coins: Decimal = ZERO
    fees: dict[str, Decimal] = {}

    def after(
        self, day: int, size: Decimal, price: Decimal, fee: Decimal = ZERO, fee_asset: str = ""
    ) -> MarketDay:
        """Return it with ``size`` more at ``price``, signed: on a later day all else is over."""
        if day < self.day:
            return self
        begun = self if day == self.day else MarketDay(day)
        return MarketDay(
            day,
            EXACT.add(begun.size, size),
            EXACT.add(begun.cost, EXACT.multiply(size, price)),
            EXACT.add(begun.coins, coins_of(size, price)),
            _paid(begun.fees, fee_asset, fee),
        )
