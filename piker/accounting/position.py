"""A position: the fold of an account's transactions in one market, at average cost.

What is counted, is counted exactly (:mod:`piker.money`), and this holds always::

    realised == cash + basis - moved

``basis`` is what the open units cost, ``cash`` what all trades brought (negative: took), ``moved``
the cost of units that came less that of units that went by transfer. Fees and funding are kept
beside it, by asset, and are never converted in silence: where their worth in another asset
matters, the caller gives a rate, and what has no rate is named.

Average cost is the method of most venues' position pages: an entry adds what it cost, an exit
takes its share of the cost, and a trade through zero ends one position and begins another at its
own price (the recurrence of "weighted average cost", IAS 2 paragraph 27, applied to either side).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

import msgspec

from piker.accounting.transaction import (
    Contract,
    Key,
    Kind,
    Transaction,
    agree,
    flow_of,
    value_of,
)
from piker.errors import Bug
from piker.money import EXACT, ZERO, exact, plain, ratio, scaled, share

__all__ = [
    "Amounts",
    "BreakEven",
    "Episode",
    "Position",
    "Rate",
    "Valued",
    "apply",
    "break_even",
    "closing_part",
    "describe",
    "fold",
    "in_order",
    "worth",
]

Amounts = Mapping[str, Decimal]
#: The worth of one unit of an asset in the settle asset, or None where it is not known.
Rate = Callable[[str], Decimal | None]


class Episode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came about since the position was last flat."""

    opened_ns: int = 0
    realised: Decimal = ZERO
    fees: dict[str, Decimal] = {}
    funding: dict[str, Decimal] = {}


class Position(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an account holds of one market, and what it made of it.

    Values are in ``contract.settle``. ``realised`` is before fees and funding. ``fees`` are
    positive when paid, ``funding`` positive when received. ``unpriced`` says that units of it
    came by a transfer whose cost is not known: they count as having cost nothing, and what was
    realised since is too much. It goes when a flat position is entered anew.
    """

    account: str
    symbol: str
    contract: Contract = Contract()
    leg: str = ""
    size: Decimal = ZERO
    basis: Decimal = ZERO
    realised: Decimal = ZERO
    cash: Decimal = ZERO
    moved: Decimal = ZERO
    fees: dict[str, Decimal] = {}
    funding: dict[str, Decimal] = {}
    since: Episode = Episode()
    unpriced: bool = False
    last: tuple[int, int, int, str] | None = None  # place of the newest transaction

    @property
    def avg_price(self) -> Decimal | None:
        """Return the mean entry price, 28 digits, or None when flat.

        Linear: ``basis / (size * multiplier)``. Inverse: the harmonic mean ``contracts *
        multiplier / coins`` (Binance, COIN-M futures: average entry price).
        """
        if not self.size:
            return None
        units = EXACT.multiply(self.size, self.contract.multiplier)
        if not self.contract.inverse:
            return ratio(self.basis, units)
        return ratio(-units, self.basis) if self.basis else None

    @property
    def held(self) -> Decimal:
        """Return the units that are there: the size less the fees that were taken in the base."""
        return EXACT.subtract(self.size, self.fees.get(self.contract.base, ZERO))

    @exact
    def unrealised(self, mark: Decimal) -> Decimal:
        """Return what closing at ``mark`` would make, before fees."""
        return value_of(self.size, mark, self.contract) - self.basis if self.size else ZERO


# -- the fold --------------------------------------------------------------------------------
def in_order(transactions: Iterable[Transaction]) -> list[Transaction]:
    """Return each transaction once, in the total order, whatever order they come in."""
    once: dict[Key, Transaction] = {}
    for tx in transactions:
        told = once.get(tx.key)
        once[tx.key] = tx if told is None or told == tx else agree(told, tx)
    return sorted(once.values(), key=lambda tx: tx.order)


def fold(
    transactions: Iterable[Transaction],
    contract: Contract = Contract(),  # noqa: B008 - frozen
    *,
    account: str = "",
    symbol: str = "",
) -> Position:
    """Return the position that transactions of one account, market and leg come to.

    They may come in any order and more than once. ``account`` and ``symbol`` name the position
    where there are none.
    """
    ordered = in_order(transactions)
    if not ordered:
        return Position(account=account, symbol=symbol, contract=contract)
    first = ordered[0]
    position = Position(
        account=first.account, symbol=first.symbol, leg=first.leg, contract=contract
    )
    for tx in ordered:
        position = apply(position, tx)
    return position


@exact
def apply(position: Position, tx: Transaction) -> Position:
    """Return the position after one more transaction, which must be later than all before.

    Raises ``Bug`` for one that is not, or that is another position's: whoever keeps the ledger
    folds anew (:class:`piker.accounting.ledger.Ledger` does).
    """
    mine = (position.account, position.symbol, position.leg)
    if (tx.account, tx.symbol, tx.leg) != mine:
        raise Bug(f"{tx.key} was applied to the position {mine}.")
    if position.last is not None and tx.order <= position.last:
        raise Bug(f"{tx.key} was applied out of order.")
    after = _APPLY[tx.kind](position, tx)
    return msgspec.structs.replace(after, last=tx.order)


def _with(amounts: dict[str, Decimal], asset: str, amount: Decimal) -> dict[str, Decimal]:
    if not amount:
        return amounts
    return {**amounts, asset: amounts.get(asset, ZERO) + amount}


def _pay(position: Position, asset: str, cost: Decimal) -> Position:
    """Count a fee."""
    if not cost:
        return position
    since = position.since
    return msgspec.structs.replace(
        position,
        fees=_with(position.fees, asset, cost),
        since=msgspec.structs.replace(since, fees=_with(since.fees, asset, cost)),
    )


def _charge(position: Position, tx: Transaction) -> Position:
    return _pay(position, tx.cost_asset, tx.cost)


def _fund(position: Position, tx: Transaction) -> Position:
    since = position.since
    return msgspec.structs.replace(
        position,
        funding=_with(position.funding, tx.cost_asset, -tx.cost),
        since=msgspec.structs.replace(since, funding=_with(since.funding, tx.cost_asset, -tx.cost)),
    )


def _fill(position: Position, tx: Transaction) -> Position:
    return _trade(position, tx, tx.size, flow_of(tx, position.contract))


def _expire(position: Position, tx: Transaction) -> Position:
    if tx.size:
        return _fill(position, tx)
    if not position.size:
        return _charge(position, tx)
    assert tx.price is not None
    value = tx.value
    if value is None:
        value = -value_of(position.size, tx.price, position.contract)
    return _trade(position, tx, -position.size, value)


def _trade(position: Position, tx: Transaction, size: Decimal, value: Decimal) -> Position:
    """Trade ``size`` for ``value``: the closing part first, then what opens."""
    closing = closing_part(position.size, size)
    if not closing:
        return _charge(_open(position, tx, size, value), tx)
    closed_value = share(value, closing, size)
    closed_cost = share(tx.cost, closing, size)
    position = _pay(_close(position, closing, closed_value), tx.cost_asset, closed_cost)
    if closing == size:
        return position
    position = _open(position, tx, size - closing, value - closed_value)
    return _pay(position, tx.cost_asset, tx.cost - closed_cost)


def closing_part(held: Decimal, size: Decimal) -> Decimal:
    """Return how much of a trade of ``size`` closes what is held; it has the trade's sign."""
    if not held or (held > 0) == (size > 0):
        return ZERO
    return size if abs(size) <= abs(held) else -held


def _open(position: Position, tx: Transaction, size: Decimal, value: Decimal) -> Position:
    flat = not position.size
    return msgspec.structs.replace(
        position,
        size=position.size + size,
        basis=position.basis + value,
        cash=position.cash - value,
        since=Episode(opened_ns=tx.time_ns) if flat else position.since,
        unpriced=position.unpriced and not flat,
    )


def _close(position: Position, size: Decimal, value: Decimal) -> Position:
    """Take ``-size`` units out for ``-value``."""
    released = share(position.basis, -size, position.size)
    gain = -value - released
    return msgspec.structs.replace(
        position,
        size=position.size + size,
        basis=position.basis - released,
        realised=position.realised + gain,
        cash=position.cash - value,
        since=msgspec.structs.replace(position.since, realised=position.since.realised + gain),
    )


def _transfer(position: Position, tx: Transaction) -> Position:
    """Units that go take their share of the cost along; units that come bring theirs."""
    going = closing_part(position.size, tx.size)
    if going:
        released = share(position.basis, -going, position.size)
        position = msgspec.structs.replace(
            position,
            size=position.size + going,
            basis=position.basis - released,
            moved=position.moved - released,
        )
    coming = tx.size - going
    if not coming:
        return _charge(position, tx)
    value = ZERO if tx.price is None else value_of(coming, tx.price, position.contract)
    after = _open(position, tx, coming, value)
    return _charge(
        msgspec.structs.replace(
            after,
            cash=position.cash,
            moved=position.moved + value,
            unpriced=after.unpriced or tx.price is None,
        ),
        tx,
    )


def _split(position: Position, tx: Transaction) -> Position:
    size = scaled(position.size, tx.new, tx.old)
    if size or not position.size:
        return _charge(msgspec.structs.replace(position, size=size), tx)
    return _charge(_close(position, -position.size, ZERO), tx)  # nothing is left: its cost is lost


_APPLY: dict[Kind, Callable[[Position, Transaction], Position]] = {
    Kind.FILL: _fill,
    Kind.EXPIRY: _expire,
    Kind.TRANSFER: _transfer,
    Kind.FEE: _charge,
    Kind.FUNDING: _fund,
    Kind.SPLIT: _split,
}


# -- what it is worth --------------------------------------------------------------------------
class Valued(NamedTuple):
    """An amount in one asset, and the assets that could not be brought into it."""

    amount: Decimal
    missing: tuple[str, ...] = ()


class BreakEven(NamedTuple):
    """The price at which closing leaves neither gain nor loss; None where no price does.

    ``missing`` names the assets of fees and funding that no rate was known for, left out of it.
    """

    price: Decimal | None
    missing: tuple[str, ...] = ()


@exact
def worth(amounts: Amounts, settle: str, rate: Rate | None = None) -> Valued:
    """Return the sum of amounts of several assets in ``settle``, by the rates that are known."""
    out, missing = ZERO, []
    for asset, amount in sorted(amounts.items()):
        one = Decimal(1) if asset == settle else rate(asset) if rate else None
        if one is None:
            missing.extend([asset] if amount else [])
        else:
            out += amount * one
    return Valued(out, tuple(missing))


@exact
def break_even(
    position: Position, rate: Rate | None = None, *, exit_fee: Decimal = ZERO
) -> BreakEven:
    """Return the price at which closing all would make good what it cost since it was last flat.

    Counted are the open units' cost, what was realised, fees and funding since then, and a fee of
    ``exit_fee`` times the value of the exit. With K what was made and paid so far, A the size, m
    the multiplier and f the exit fee, it solves ``A*m*P - basis + K - f*|A|*m*P = 0``, or for
    an inverse contract ``-A*m/P - basis + K - f*|A|*m/P = 0``.
    """
    if not position.size:
        return BreakEven(None)
    contract, since = position.contract, position.since
    fees = worth(since.fees, contract.settle, rate)
    funding = worth(since.funding, contract.settle, rate)
    missing = tuple(sorted({*fees.missing, *funding.missing}))
    made = since.realised + funding.amount - fees.amount
    exit_cost = exit_fee * abs(position.size)
    if contract.inverse:
        above = (position.size + exit_cost) * contract.multiplier
        below = made - position.basis
    else:
        above = position.basis - made
        below = (position.size - exit_cost) * contract.multiplier
    if not below or ratio(above, below) <= 0:
        return BreakEven(None, missing)
    return BreakEven(ratio(above, below), missing)


def describe(position: Position) -> str:
    """Return a position in one line, for people."""
    price = position.avg_price
    at = f" at {plain(price)}" if price is not None else ""
    made = f"{plain(position.realised)} {position.contract.settle}".strip()
    return f"{position.symbol} {plain(position.size)}{at}, realised {made}"
