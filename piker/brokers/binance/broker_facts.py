"""What Binance says of orders, fills, balances and positions, whatever the market and the channel.

Answers, queries and user events are decoded to these; nothing here knows of sockets or of emsd.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from piker.errors import DataQuality
from piker.money import is_sane
from piker.orders import Action, OrderKind, TimeInForce, TriggerBy

__all__ = [
    "ENDED",
    "STATUSES",
    "AnyOrder",
    "AnyTrade",
    "BalanceFact",
    "Changed",
    "Fact",
    "FillFact",
    "OrderFact",
    "OrderStatus",
    "PositionFact",
    "VenueName",
    "derived_id",
    "leg_of",
    "number_of",
    "reqid_of",
    "status_of",
]

ZERO = Decimal(0)
MAX_VALUE = Decimal("1e18")  # as history's and emsd's: what is above is no size or price
MAX_DERIVED = 9999  # edits of one order that give it a new id; the venue allows 10,000 of futures

VenueName = Literal["spot", "usdm"]
OrderStatus = Literal["open", "closed", "canceled", "expired", "rejected"]
ENDED = frozenset({"closed", "canceled", "expired", "rejected"})

#: The venue's words for how an order stands; one that is not here is taken as open.
STATUSES: dict[str, OrderStatus] = {
    "NEW": "open", "PENDING_NEW": "open", "PARTIALLY_FILLED": "open", "PENDING_CANCEL": "open",
    "FILLED": "closed", "CANCELED": "canceled", "REJECTED": "rejected", "EXPIRED": "expired",
    "EXPIRED_IN_MATCH": "expired",
}  # fmt: skip


#: Words for an order of the venue's own, of a liquidation: ended once all of it is filled.
_VENUES_OWN = ("NEW_ADL", "NEW_INSURANCE")


def status_of(word: str, size: Decimal, executed: Decimal) -> OrderStatus:
    """Return how an order stands by the venue's word for it."""
    if word in _VENUES_OWN and executed >= size > 0:
        return "closed"
    return STATUSES.get(word, "open")


class AnyOrder(msgspec.Struct, rename="camel", kw_only=True):
    """What an order's row has in both markets, in answers and queries."""

    symbol: str
    order_id: int
    client_order_id: str
    side: str
    type: str
    status: str
    orig_qty: str
    executed_qty: str
    price: str = "0"
    time_in_force: str = "GTC"
    update_time: int = 0


class AnyTrade(msgspec.Struct, rename="camel", kw_only=True):
    """What the row of a trade of ours has in both markets."""

    symbol: str
    id: int
    order_id: int
    price: str
    qty: str
    commission: str
    commission_asset: str
    time: int


class OrderFact(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the venue had it at ``time_ms``. ``executed`` only ever rises.

    ``sent`` is the number of the order that a triggered conditional order (``is_algo``) became;
    ``fills`` what an answer lists of its trades. An end that ``is_inferred`` the venue never told:
    we concluded it from its silence.
    """

    venue: VenueName
    symbol: str  # the venue's
    number: int
    client_id: str
    status: OrderStatus
    action: Action
    size: Decimal
    executed: Decimal = ZERO
    kind: OrderKind = OrderKind.LIMIT
    price: Decimal | None = None
    trigger: Decimal | None = None
    trigger_by: TriggerBy = TriggerBy.LAST
    tif: TimeInForce = TimeInForce.GTC
    expire_ns: int | None = None
    post_only: bool = False
    reduce_only: bool = False
    is_algo: bool = False
    sent: int = 0
    is_inferred: bool = False
    made_ms: int = 0  # 0 where that was not told
    time_ms: int = 0
    reason: str = ""
    fills: tuple[FillFact, ...] = ()

    @property
    def reqid(self) -> str:
        """Return the id that emsd knows it by."""
        return reqid_of(self.venue, self.symbol, self.number, is_algo=self.is_algo)


class FillFact(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of the order ``number``; ``fee`` is positive when it was paid."""

    venue: VenueName
    symbol: str
    number: int
    trade: int
    size: Decimal
    price: Decimal
    action: Action
    fee: Decimal = ZERO
    fee_asset: str = ""
    maker: bool = False
    time_ms: int = 0
    realised: Decimal | None = None


class BalanceFact(msgspec.Struct, frozen=True, kw_only=True):
    """What is held of an asset; ``available`` is None where that is not told."""

    venue: VenueName
    asset: str
    total: Decimal
    available: Decimal | None = None


class PositionFact(msgspec.Struct, frozen=True, kw_only=True):
    """A position of one side (``BOTH`` of a one-way account, ``LONG`` or ``SHORT``)."""

    symbol: str
    side: str
    size: Decimal
    entry: Decimal
    currency: str = ""


class Changed(msgspec.Struct, frozen=True):
    """Balances changed; whose the event does not prove, so they are to be asked for."""


Fact = OrderFact | FillFact | BalanceFact | PositionFact | Changed


def number_of(text: str, what: str, *, signed: bool = False) -> Decimal:
    """Return a number of the venue's; raise ``DataQuality`` for one that can not be."""
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("NaN")
    # copy_abs rounds nothing: abs would raise for the largest of all exponents.
    if not is_sane(value) or value.copy_abs() > MAX_VALUE or (value < 0 and not signed):
        raise DataQuality(f"binance: {what} of {text[:40]!r}")
    return value


# -- names -------------------------------------------------------------------------------------
def reqid_of(venue: str, symbol: str, number: int, *, is_algo: bool = False) -> str:
    """Return ``spot-BTCUSDT-123``, or ``usdm-BTCUSDT-a123`` of a conditional order.

    The venue's numbers are unique within a market only.
    """
    return f"{venue}-{symbol}-{'a' * is_algo}{number}"


def leg_of(reqid: str) -> tuple[str, str, int, bool] | None:
    """Return (venue, symbol, number, is conditional) of such an id, or None where it is none."""
    parts = reqid.split("-")
    if len(parts) != 3 or parts[0] not in ("spot", "usdm"):
        return None
    digits = parts[2].removeprefix("a")
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return parts[0], parts[1], int(digits), parts[2].startswith("a")


def derived_id(base: str, index: int) -> str:
    """Return the client id of an order's ``index``-th successor; the order itself has index 0."""
    return f"{base}-{index}" if index else base


def split_id(client_id: str) -> tuple[str, int]:
    """Return (base, index) as if it was derived; whether that base exists is another matter."""
    base, _, tail = client_id.rpartition("-")
    if base and tail.isascii() and tail.isdecimal() and len(tail) <= len(str(MAX_DERIVED)):
        return base, int(tail)
    return client_id, 0
