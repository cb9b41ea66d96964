"""What happened to an account, one frozen record each: fills, transfers, fees, funding, splits.

A ledger is a set of them. Their order is total, by time and then by the venue's trade id, whatever
order they arrive in; the same (account, symbol, tid) is the same thing however often it is told. Of
fills the side counts, too: an account that trades with itself has one trade twice.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec

from piker.errors import DataQuality
from piker.market import MktPair
from piker.money import EXACT, ZERO, is_sane, plain, share
from piker.orders import Action, BrokerdFill

__all__ = [
    "Contract",
    "Key",
    "Kind",
    "Transaction",
    "agree",
    "contract_of",
    "describe",
    "flow_of",
    "of_fill",
    "order_key",
    "value_of",
]

MAX_TEXT = 200  # characters of an id or a name; the longest known, an IB execution id, has 40
MAX_RATIO = 1_000_000  # units of either side of a split; the largest known was 1 for 30,000
MAX_TIME_NS = 2**63 - 1  # the year 2262, where a signed 64-bit count of nanoseconds ends
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Kind(StrEnum):
    """What a transaction is."""

    FILL = "fill"  # a trade: ``size`` at ``price``
    TRANSFER = "transfer"  # units that came or went without a trade, ``price`` their cost
    FEE = "fee"  # money alone: a charge, a tax
    FUNDING = "funding"  # what holding paid or cost: funding rates, dividends, interest
    SPLIT = "split"  # ``new`` units for every ``old``; the cost stays
    EXPIRY = "expiry"  # settled at ``price`` and gone; a ``size`` of 0 is all that is held


class Contract(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one unit of a market stands for, and what it is paid in.

    ``multiplier`` is base units per contract, or quote units where ``inverse`` (a contract of 100
    USD, margined and settled in the coin). ``settle`` is the asset of values and profits: the
    quote, or the base where inverse. Empty names are not known.
    """

    multiplier: Decimal = Decimal(1)
    inverse: bool = False
    base: str = ""
    settle: str = ""

    def __post_init__(self) -> None:
        """Refuse what no contract stands for."""
        if not is_sane(self.multiplier) or self.multiplier <= 0:
            raise DataQuality(f"a contract's multiplier is not {self.multiplier}.", kind="ledger")


class Key(NamedTuple):
    """What makes a transaction itself."""

    account: str
    symbol: str
    tid: str
    sold: bool = False  # of a fill


class Transaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of an account. Raises ``DataQuality`` when made of what can not be.

    ``size`` is signed: positive adds. ``cost`` is positive when paid and negative when received, in
    ``cost_asset``. ``value`` is the signed worth of a fill or expiry in the contract's settle
    asset (positive for a buy of a linear market) where the venue books another than size times
    price times multiplier. ``leg`` is ``long`` or ``short`` in an account that holds both at once.
    ``symbol`` is empty for what concerns the whole account.
    """

    account: str
    symbol: str
    tid: str
    time_ns: int  # UTC
    kind: Kind = Kind.FILL
    size: Decimal = ZERO
    price: Decimal | None = None
    cost: Decimal = ZERO
    cost_asset: str = ""
    value: Decimal | None = None
    new: int = 1  # SPLIT
    old: int = 1  # SPLIT
    leg: str = ""
    oid: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what no venue can mean."""
        why = _what_is_wrong(self)
        if why:
            raise DataQuality(f"transaction {self.tid!r} of {self.symbol!r}: {why}.", kind="ledger")

    @property
    def key(self) -> Key:
        """Return its identity."""
        return Key(self.account, self.symbol, self.tid, self._sold)

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Return its place in the total order; of a trade with oneself the buy is first."""
        return order_key(self.time_ns, self.tid, sold=self._sold)

    @property
    def _sold(self) -> bool:
        return self.kind is Kind.FILL and self.size < 0


def _what_is_wrong(tx: Transaction) -> str:
    numbers = (tx.size, tx.cost, tx.price, tx.value)
    if not all(number is None or number is ZERO or is_sane(number) for number in numbers):
        return "a number is not finite, or has over 24 digits before or behind the point"
    if not 0 <= tx.time_ns <= MAX_TIME_NS:
        return f"{tx.time_ns} is no time"
    texts = (tx.account, tx.symbol, tx.tid, tx.cost_asset, tx.leg, tx.oid, tx.note)
    joined = "".join(texts)
    if len(joined) > MAX_TEXT and any(len(text) > MAX_TEXT for text in texts):
        return "a text is too long"
    if not joined.isprintable() and _CONTROL.search(joined):
        return "a text has control characters"
    if not tx.tid:
        return "it has no trade id"
    if tx.leg not in ("", "long", "short"):
        return f"{tx.leg!r} is neither long nor short"
    if tx.cost and not tx.cost_asset:
        return "it has a cost in an asset without a name"
    return _WRONG[tx.kind](tx)


def _wrong_fill(tx: Transaction) -> str:
    if not tx.size:
        return "a fill of nothing"
    return _wrong_expiry(tx)


def _wrong_expiry(tx: Transaction) -> str:
    if tx.price is None:  # negative prices are real: oil in April 2020, spreads, power
        return "it has no price"
    return "" if tx.symbol else "it has no market"


def _wrong_transfer(tx: Transaction) -> str:
    if not tx.size:
        return "a transfer of nothing"
    return "" if tx.symbol else "it has no market"


def _wrong_money(tx: Transaction) -> str:
    return "it moves units, and may move money only" if tx.size else ""


def _wrong_split(tx: Transaction) -> str:
    if not (1 <= tx.new <= MAX_RATIO and 1 <= tx.old <= MAX_RATIO):
        return f"a split of {tx.new} for {tx.old} is not possible"
    return "its size is given by what is held" if tx.size else ""


_WRONG = {
    Kind.FILL: _wrong_fill,
    Kind.EXPIRY: _wrong_expiry,
    Kind.TRANSFER: _wrong_transfer,
    Kind.FEE: _wrong_money,
    Kind.FUNDING: _wrong_money,
    Kind.SPLIT: _wrong_split,
}


def order_key(time_ns: int, tid: str, *, sold: bool = False) -> tuple[int, int, int, str]:
    """Return the key of the total order: by time, then by id, numbers before and as numbers.

    ``t`` before a number is no text: Binance's trades are told so.
    """
    number = tid[1:] if tid[:1] == "t" else tid
    last = f"{tid}-" if sold else tid
    if number.isascii() and number.isdigit():
        return time_ns, 0, int(number), last
    return time_ns, 1, 0, last


def agree(one: Transaction, other: Transaction) -> Transaction:
    """Return which of two tellings of one transaction counts; the same in either order.

    The one that names a fee, as a venue's first word of a fill often lacks it; then the one that
    has the value as booked; then the one told to be earlier; then the one whose text is less.
    """
    return min(
        one, other, key=lambda tx: (not tx.cost_asset, tx.value is None, tx.time_ns, repr(tx))
    )


def contract_of(market: MktPair) -> Contract:
    """Return what accounting needs to know of a market."""
    settle = market.dst if market.inverse else market.src
    return Contract(market.contract_size, market.inverse, market.dst.name, settle.name)


def value_of(size: Decimal, price: Decimal, contract: Contract) -> Decimal:
    """Return the signed value of a position, such that profit is value at exit less at entry.

    Linear: ``size * price * multiplier``, exact. Inverse: ``-size * multiplier / price`` in the
    base coin, rounded once to 36 decimals (profit of a contract is ``multiplier * (1/entry -
    1/exit)``: Binance, COIN-M futures, "How to calculate PnL"). An inverse contract at a price
    of zero has no value that could be told; ``DataQuality`` is raised.
    """
    if not contract.inverse:
        return EXACT.multiply(EXACT.multiply(size, price), contract.multiplier)
    if price <= 0:
        raise DataQuality(f"an inverse contract has no value at a price of {price}.", kind="ledger")
    return share(EXACT.multiply(size.copy_negate(), contract.multiplier), Decimal(1), price)


def flow_of(tx: Transaction, contract: Contract) -> Decimal:
    """Return the value of a fill: what was paid for it, negative where it was received."""
    if tx.value is not None:
        return tx.value
    return value_of(tx.size, tx.price or ZERO, contract)


def of_fill(fill: BrokerdFill, *, symbol: str, account: str = "") -> Transaction:
    """Return the transaction of an execution that a backend told.

    ``symbol`` is the whole fqme; ``account`` stands in where the fill names none. The venue's time
    counts where it gave one, so that live fills and its history agree.
    """
    return Transaction(
        account=fill.account or account,
        symbol=symbol,
        tid=fill.tid,
        time_ns=fill.broker_time_ns or fill.time_ns,
        size=fill.size.copy_negate() if fill.action is Action.SELL else fill.size,
        price=fill.price,
        cost=fill.fee,
        cost_asset=fill.fee_asset,
        oid=fill.oid,
    )


def describe(tx: Transaction) -> str:
    """Return a transaction in one line, for messages."""
    price = f" at {plain(tx.price)}" if tx.price is not None else ""
    return f"{tx.kind} {tx.tid} of {plain(tx.size)} {tx.symbol}{price}"
