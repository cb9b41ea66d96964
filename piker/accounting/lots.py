"""Lots: which purchase each sale undid, first in first out, last in first out, or at average.

The open lots are what the position consists of, each with what is left of its cost and of its
opening fees; a closed lot links the two trades, with cost, proceeds, gain and days held. Nothing
is lost on the way: the sizes of the open lots add up to the position, and for every method
``sum of gains == cash + cost of the open lots - cost moved by transfers`` to the last digit.

Under ``AVERAGE`` all open units are one lot, known by the trade that began it, and its gains are
those of :class:`piker.accounting.position.Position`. A split changes the units of each lot and not
their cost or age; a transfer out takes lots at their cost, without gain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum

import msgspec

from piker.accounting.position import closing_part, in_order
from piker.accounting.transaction import Contract, Kind, Transaction, flow_of, value_of
from piker.money import ZERO, exact, scaled, share

__all__ = ["ClosedLot", "Lot", "LotReport", "Method", "lots_of"]

DAY_NS = 86_400 * 10**9


class Method(StrEnum):
    """Which lot an exit takes."""

    FIFO = "fifo"
    LIFO = "lifo"
    AVERAGE = "average"


class Lot(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one entry that are still held. ``basis`` is signed as a position's is."""

    tid: str
    time_ns: int
    size: Decimal  # signed
    basis: Decimal
    fees: Mapping[str, Decimal] = {}
    unpriced: bool = False  # its cost is not known and counts as nothing


class ClosedLot(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one entry that one exit undid.

    ``size`` is what was held: negative of a short. ``cost`` and ``proceeds`` are what was paid and
    what was received, in whichever order; ``fees`` are both ends', by asset, positive when paid.
    """

    open_tid: str
    close_tid: str
    opened_ns: int
    closed_ns: int
    size: Decimal
    cost: Decimal
    proceeds: Decimal
    gain: Decimal  # proceeds - cost, before fees
    fees: Mapping[str, Decimal] = {}
    kind: Kind = Kind.FILL  # of the exit; a TRANSFER has no gain
    unpriced: bool = False

    @property
    def days(self) -> int:
        """Return the days held, by the UTC calendar."""
        return self.closed_ns // DAY_NS - self.opened_ns // DAY_NS


class LotReport(msgspec.Struct, frozen=True, kw_only=True):
    """The open and the closed lots of one position, each in the order of time of its making."""

    account: str
    symbol: str
    leg: str
    method: Method
    contract: Contract
    open: tuple[Lot, ...] = ()
    closed: tuple[ClosedLot, ...] = ()
    cash: Decimal = ZERO  # what trades brought: no transfers, fees or funding
    moved: Decimal = ZERO  # cost of units transferred in, less that of units transferred out

    @property
    def size(self) -> Decimal:
        """Return the position."""
        return _sum(lot.size for lot in self.open)

    @property
    def basis(self) -> Decimal:
        """Return what the open lots cost."""
        return _sum(lot.basis for lot in self.open)

    @property
    def realised(self) -> Decimal:
        """Return the sum of the gains, before fees."""
        return _sum(lot.gain for lot in self.closed)


@exact
def _sum(values: Iterable[Decimal]) -> Decimal:
    return sum(values, ZERO)


@exact
def lots_of(
    transactions: Iterable[Transaction],
    contract: Contract = Contract(),  # noqa: B008 - frozen
    method: Method = Method.FIFO,
) -> LotReport:
    """Return the lots of one account, market and leg; transactions may come in any order.

    Fees and funding that no trade carried are not a lot's: they are in the position.
    """
    ordered = in_order(transactions)
    book = _Book(contract, method)
    for tx in ordered:
        book.take(tx)
    first = ordered[0] if ordered else None
    return LotReport(
        account=first.account if first else "",
        symbol=first.symbol if first else "",
        leg=first.leg if first else "",
        method=method,
        contract=contract,
        open=tuple(book.lots),
        closed=tuple(book.closed),
        cash=book.cash,
        moved=book.moved,
    )


class _Book:
    """The lots while the ledger is gone through. Runs within the exact context."""

    def __init__(self, contract: Contract, method: Method) -> None:
        self.contract = contract
        self.method = method
        self.lots: deque[Lot] = deque()
        self.closed: list[ClosedLot] = []
        self.size = ZERO
        self.cash = ZERO
        self.moved = ZERO

    def take(self, tx: Transaction) -> None:
        """Go on by one transaction."""
        if tx.kind is Kind.SPLIT:
            self._split(tx)
        elif tx.kind is Kind.TRANSFER:
            self._transfer(tx)
        elif tx.kind is Kind.EXPIRY and not tx.size:
            value = tx.value
            if value is None:
                value = -value_of(self.size, tx.price or ZERO, self.contract) if self.size else ZERO
            self._trade(tx, -self.size, value)
        elif tx.kind in (Kind.FILL, Kind.EXPIRY):
            self._trade(tx, tx.size, flow_of(tx, self.contract))

    def _trade(self, tx: Transaction, size: Decimal, value: Decimal) -> None:
        if not size:
            return
        closing = closing_part(self.size, size)
        closed_value, closed_cost = share(value, closing, size), share(tx.cost, closing, size)
        if closing:
            self._close(tx, closing, closed_value, closed_cost)
        if closing != size:
            self._open(tx, size - closing, value - closed_value, tx.cost - closed_cost)
        self.cash -= value

    def _transfer(self, tx: Transaction) -> None:
        going = closing_part(self.size, tx.size)
        gone_cost = share(tx.cost, going, tx.size)
        if going:
            self.moved -= self._close(tx, going, None, gone_cost)
        coming = tx.size - going
        if coming:
            value = ZERO if tx.price is None else value_of(coming, tx.price, self.contract)
            self._open(tx, coming, value, tx.cost - gone_cost)
            self.moved += value

    def _open(self, tx: Transaction, size: Decimal, value: Decimal, cost: Decimal) -> None:
        unpriced = tx.kind is Kind.TRANSFER and tx.price is None
        lot = Lot(
            tid=tx.tid, time_ns=tx.time_ns, size=size, basis=value,
            fees={tx.cost_asset: cost} if cost else {}, unpriced=unpriced,
        )  # fmt: skip
        self.size += size
        if self.method is Method.AVERAGE and self.lots:
            pool = self.lots.pop()
            lot = msgspec.structs.replace(
                pool,
                size=pool.size + size,
                basis=pool.basis + value,
                fees=_added(pool.fees, lot.fees),
                unpriced=pool.unpriced or unpriced,
            )
        self.lots.append(lot)

    def _close(
        self, tx: Transaction, size: Decimal, value: Decimal | None, cost: Decimal
    ) -> Decimal:
        """Take ``-size`` units out for ``-value``, or at their cost; return what they had cost."""
        last = self.method is Method.LIFO
        left, released = -size, ZERO
        left_value, left_cost = (ZERO if value is None else -value), cost
        while left:
            lot = self.lots.pop() if last else self.lots.popleft()
            part = lot.size if abs(lot.size) <= abs(left) else left
            taken, rest = _divide(lot, part)
            proceeds = taken.basis if value is None else share(left_value, part, left)
            fee = share(left_cost, part, left)
            fees = _added(taken.fees, {tx.cost_asset: fee} if fee else {})
            self.closed.append(self._closed(tx, taken, proceeds, fees))
            if rest is not None:
                (self.lots.append if last else self.lots.appendleft)(rest)
            left -= part
            left_value -= ZERO if value is None else proceeds
            left_cost -= fee
            released += taken.basis
        self.size += size
        return released

    def _closed(
        self, tx: Transaction, lot: Lot, value: Decimal, fees: Mapping[str, Decimal]
    ) -> ClosedLot:
        """Return the link. A short, or an inverse long, receives first and pays later."""
        pays_first = (lot.size > 0) != self.contract.inverse
        cost, proceeds = (lot.basis, value) if pays_first else (-value, -lot.basis)
        return ClosedLot(
            open_tid=lot.tid, close_tid=tx.tid, opened_ns=lot.time_ns, closed_ns=tx.time_ns,
            size=lot.size, cost=cost, proceeds=proceeds, gain=proceeds - cost,
            fees=fees, kind=tx.kind, unpriced=lot.unpriced,
        )  # fmt: skip

    def _split(self, tx: Transaction) -> None:
        """Scale the running sum, so that the lots add up to the scaled position exactly."""
        lots, self.lots = self.lots, deque()
        before = after = ZERO
        for lot in lots:
            upto = scaled(before + lot.size, tx.new, tx.old)
            before, size, after = before + lot.size, upto - after, upto
            if size:
                self.lots.append(msgspec.structs.replace(lot, size=size))
            else:  # nothing is left of it: its cost is lost
                self.closed.append(self._closed(tx, lot, ZERO, lot.fees))
        self.size = after


def _divide(lot: Lot, part: Decimal) -> tuple[Lot, Lot | None]:
    """Return the part of a lot and what is left of it."""
    if part == lot.size:
        return lot, None
    basis = share(lot.basis, part, lot.size)
    fees = {asset: share(fee, part, lot.size) for asset, fee in lot.fees.items()}
    rest = {asset: fee - fees[asset] for asset, fee in lot.fees.items()}
    replace = msgspec.structs.replace
    return (
        replace(lot, size=part, basis=basis, fees=fees),
        replace(lot, size=lot.size - part, basis=lot.basis - basis, fees=rest),
    )


def _added(one: Mapping[str, Decimal], other: Mapping[str, Decimal]) -> dict[str, Decimal]:
    out = dict(one)
    for asset, amount in other.items():
        out[asset] = out.get(asset, ZERO) + amount
    return out
