"""The order protocol: what clients, emsd and backends say to each other about orders.

Prices, sizes and fees are ``Decimal``: money is never rounded on its way. A size is positive, in
the market's units (base units, or contracts); ``action`` gives its side. Messages travel as one
version byte and msgpack; whoever reads them tolerates fields it does not know.
:mod:`piker.clearing._messages` is the name that seed 002 gives this module.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from piker.errors import Refused

__all__ = [
    "PROTOCOL",
    "AccountStatus",
    "Action",
    "BrokerdBalance",
    "BrokerdBeginning",
    "BrokerdBelief",
    "BrokerdCancel",
    "BrokerdError",
    "BrokerdEvent",
    "BrokerdFill",
    "BrokerdMemory",
    "BrokerdOrder",
    "BrokerdOrderAck",
    "BrokerdPosition",
    "BrokerdRequest",
    "BrokerdStatus",
    "BrokerdSync",
    "Cancel",
    "ClientMessage",
    "EmsMessage",
    "ExecMode",
    "Order",
    "OrderKind",
    "PositionLeg",
    "Status",
    "SyncState",
    "TimeInForce",
    "TriggerBy",
    "decode",
    "encode",
]

PROTOCOL = 1  # raised when a field changes its meaning; a new field changes nothing
ZERO = Decimal(0)


class Action(StrEnum):
    """What an order is to do."""

    BUY = "buy"
    SELL = "sell"
    ALERT = "alert"  # tell, and trade nothing


class OrderKind(StrEnum):
    """How an order trades. Backends say which they do natively; emsd does the rest."""

    MARKET = "market"  # at whatever price there is
    LIMIT = "limit"  # at ``price`` or better
    STOP = "stop"  # a market order once the price has gone against ``trigger``
    STOP_LIMIT = "stop_limit"  # a limit order once the price has gone against ``trigger``
    TRAILING_STOP = "trailing_stop"  # a stop that follows the price at the distance ``trail``
    TAKE_PROFIT = "take_profit"  # a market order once the price has gone in favour of ``trigger``
    TAKE_PROFIT_LIMIT = "take_profit_limit"  # a limit order, likewise


class TimeInForce(StrEnum):
    """How long an order stands."""

    GTC = "gtc"  # until canceled
    IOC = "ioc"  # what trades at once; the rest is canceled
    FOK = "fok"  # whole at once, or not at all
    GTD = "gtd"  # until ``expire_ns``
    DAY = "day"  # until the market's day ends: midnight UTC where it trades round the clock


class TriggerBy(StrEnum):
    """Which price wakes an order that waits in emsd."""

    LAST = "last"  # trades
    SIDE = "side"  # the side of the book that it would trade with: the ask of a buy
    MARK = "mark"  # a derivative's mark price


class ExecMode(StrEnum):
    """Where an order waits until it trades."""

    LIVE = "live"  # at the venue
    DARK = "dark"  # in emsd, unseen, until ``trigger`` is met
    PAPER = "paper"  # in the paper engine


class SyncState(StrEnum):
    """How far what we know of an account is what its venue knows."""

    LOST = "lost"  # there is no word from the venue
    SYNCING = "syncing"  # connected; orders, fills and positions are being compared
    SYNCED = "synced"  # all that the venue has told us of is with emsd


_SIDES = {Action.BUY: 1, Action.SELL: -1, Action.ALERT: 0}


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="name", omit_defaults=True, gc=False
):
    """What all of them have: a name on the wire, and defaults that are not sent.

    None of them can be part of a cycle: the garbage collector has nothing to look for in them.
    """


# -- client -> emsd ---------------------------------------------------------------------------
class Order(_Message, frozen=True, tag="order"):
    """One intent. The same ``oid`` again, with other numbers, is an edit of it.

    ``oco`` names a group of which one at most trades: when one is filled or triggered the others
    are canceled. ``parent`` is the oid of an order whose first fill sets this one free, for as much
    as was filled: a bracket is a parent and two children of one ``oco`` group.
    """

    oid: str
    symbol: str  # whole fqme
    account: str
    action: Action
    size: Decimal = ZERO  # 0 only of an alert
    kind: OrderKind = OrderKind.LIMIT
    price: Decimal | None = None  # the limit; None of kinds without one
    trigger: Decimal | None = None
    trail: Decimal | None = None  # distance, in the price's unit
    trigger_by: TriggerBy = TriggerBy.LAST
    tif: TimeInForce = TimeInForce.GTC
    expire_ns: int | None = None  # of GTD: UTC
    post_only: bool = False
    reduce_only: bool = False
    exec_mode: ExecMode = ExecMode.LIVE
    oco: str = ""
    parent: str = ""
    tag: str = ""  # the client's own words: a strategy's name, a reason

    @property
    def side(self) -> int:
        """Return 1 for a buy, -1 for a sell, 0 for an alert."""
        return _SIDES[self.action]


class Cancel(_Message, frozen=True, tag="cancel"):
    """Take an order back. Known to have worked only when a Status says so."""

    oid: str
    symbol: str
    account: str = ""


# -- emsd -> client ---------------------------------------------------------------------------
class Status(_Message, frozen=True, tag="status"):
    """What became of an order, told to every client of its market.

    ``resp`` is the order's phase (:class:`piker.clearing.lifecycle.Phase`), or ``fill`` or
    ``error`` where something happened that leaves it as it was. ``filled`` and ``fees`` are totals.
    ``taken_ns`` is when emsd took the order; ``reason`` of one that waited says what met it;
    ``level`` is where a trailing stop that waits in emsd would be met now. ``edit`` has the terms
    that its backend has just refused.
    """

    oid: str
    resp: str
    time_ns: int
    seq: int = 0  # number of the journal's event; 0 of what is told while it is being journaled
    reqid: str = ""
    req: Order | None = None
    src: str = ""  # "dark", the provider, or the paper model's name
    cancel_called: bool = False
    filled: Decimal = ZERO
    avg_price: Decimal | None = None
    fees: dict[str, Decimal] = {}
    code: str = ""  # of a denial
    reason: str = ""
    brokerd_msg: BrokerdFill | BrokerdStatus | BrokerdError | None = None
    taken_ns: int = 0
    level: Decimal | None = None
    edit: Order | None = None


class AccountStatus(_Message, frozen=True, tag="account"):
    """What an account may do (``state``), and whether its venue is heard.

    ``sync`` is a :class:`SyncState`; ``src`` where its orders trade: the provider, or the paper
    model's name. ``reason`` says why the state is what it is. ``hedges`` are the venues where the
    account holds both sides of a market apart.
    """

    account: str
    state: str  # active, reducing, halted, or unarmed: trades real money and was never armed
    sync: SyncState = SyncState.LOST
    src: str = ""
    reason: str = ""
    time_ns: int = 0
    hedges: tuple[str, ...] = ()


# -- emsd -> backend --------------------------------------------------------------------------
class BrokerdOrder(_Message, frozen=True, tag="order"):
    """An order that risk has let through. With ``reqid`` it is an edit of that order.

    ``symbol`` is the market's id at the backend (the fqme without the provider); ``client_id`` the
    order id that the venue is given, the same at every retry.
    """

    oid: str
    client_id: str
    account: str
    time_ns: int
    symbol: str
    action: Action
    size: Decimal
    kind: OrderKind = OrderKind.LIMIT
    price: Decimal | None = None
    trigger: Decimal | None = None
    trail: Decimal | None = None
    trigger_by: TriggerBy = TriggerBy.LAST
    tif: TimeInForce = TimeInForce.GTC
    expire_ns: int | None = None
    post_only: bool = False
    reduce_only: bool = False
    reqid: str = ""


class BrokerdCancel(_Message, frozen=True, tag="cancel"):
    """Cancel an order, by the venue's id or, while that is not known, by the client's."""

    oid: str
    client_id: str
    account: str
    symbol: str
    time_ns: int
    reqid: str = ""


class BrokerdBelief(_Message, frozen=True, tag="belief"):
    """An order that emsd thinks the venue has, or may have: told when a dialog begins.

    ``order`` has its last confirmed terms, and the venue's id if one is known; ``filled`` is what
    the journal has of it, in the fills that ``tids`` names. The backend answers for every one of
    them before it is synced. ``ends`` says that its cancel was asked for, or will be: a venue that
    remembers nothing does not let it stand again.
    """

    order: BrokerdOrder
    filled: Decimal = ZERO
    tids: frozenset[str] = frozenset()
    ends: bool = False


class BrokerdMemory(_Message, frozen=True, tag="memory"):
    """What an account's fills come to, for a venue that remembers nothing: the paper engine.

    ``moved`` is what they moved of each asset; ``held``, by market id, the size of a position, what
    it cost (sizes times prices), and what it cost in coins (sizes through prices, negated).
    """

    account: str
    moved: dict[str, Decimal] = {}
    held: dict[str, tuple[Decimal, Decimal, Decimal]] = {}


# -- backend -> emsd --------------------------------------------------------------------------
class BrokerdOrderAck(_Message, frozen=True, tag="ack"):
    """The venue has the order, or its edit, under ``reqid``: an edit may give it a new one.

    ``terms`` are those that an edit gave it: two may be on their way, or one from before a loss.
    """

    oid: str
    reqid: str
    account: str
    client_id: str = ""
    request: str = "order"  # or edit
    time_ns: int = 0
    terms: BrokerdOrder | None = None  # of an edit; None: those that were asked for last


class BrokerdStatus(_Message, frozen=True, tag="status"):
    """What the venue says of an order: ``filled`` is its own running total.

    ``unknown`` is a request whose answer never came: it is neither rejected nor open until the
    venue has proved which. ``absent`` is that proof: the venue was asked and never had the order.
    """

    reqid: str
    time_ns: int
    status: str  # open, closed, canceled, expired, rejected, unknown, absent
    account: str = ""
    oid: str = ""
    client_id: str = ""
    symbol: str = ""
    filled: Decimal = ZERO
    remaining: Decimal | None = None
    reason: str = ""
    order: BrokerdOrder | None = None  # as the venue has it: of a snapshot


class BrokerdFill(_Message, frozen=True, tag="fill"):
    """One execution. ``tid`` is the venue's trade id, unique in its market and account.

    ``fee`` is positive when paid, negative when received; ``fee_asset`` what it is paid in.
    """

    reqid: str
    tid: str
    time_ns: int  # ours
    size: Decimal
    price: Decimal
    action: Action
    account: str = ""
    oid: str = ""
    client_id: str = ""
    symbol: str = ""
    broker_time_ns: int = 0
    fee: Decimal = ZERO
    fee_asset: str = ""
    maker: bool | None = None
    realised: Decimal | None = None  # as the venue reckons it, where it does
    moved: dict[str, Decimal] = {}  # on paper: what it moved of each asset, the fee included


class BrokerdError(_Message, frozen=True, tag="error"):
    """A request that the venue refused and, by that, proved not to have carried out."""

    reason: str
    oid: str = ""
    reqid: str = ""
    client_id: str = ""
    symbol: str = ""
    account: str = ""
    request: str = "order"  # order, edit or cancel: which of them it was
    time_ns: int = 0


class PositionLeg(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One side of a market that an account holds apart from the other; ``size`` is signed."""

    size: Decimal
    avg_price: Decimal | None = None


class BrokerdPosition(_Message, frozen=True, tag="position"):
    """A position as the venue has it; relayed to clients unchanged.

    ``size`` is the sum of what is held. Where an account holds both sides of a market apart (hedge
    mode) ``legs`` has each that is held, so that a locked pair, whose sum is nothing, is seen.
    """

    broker: str
    account: str
    symbol: str
    size: Decimal  # signed
    avg_price: Decimal | None = None  # None where both sides are held
    currency: str = ""
    time_ns: int = 0
    legs: tuple[PositionLeg, ...] = ()

    @property
    def long(self) -> Decimal:
        """Return how much is held bought."""
        sizes = [leg.size for leg in self.legs] or [self.size]
        return sum((size for size in sizes if size > 0), ZERO)

    @property
    def short(self) -> Decimal:
        """Return how much is held sold, as a positive number."""
        sizes = [leg.size for leg in self.legs] or [self.size]
        return sum((-size for size in sizes if size < 0), ZERO)


class BrokerdBalance(_Message, frozen=True, tag="balance"):
    """What an account holds of an asset, as the venue has it; relayed to clients unchanged."""

    broker: str
    account: str
    asset: str
    total: Decimal
    available: Decimal | None = None  # of it; None where the venue does not tell
    time_ns: int = 0


class BrokerdSync(_Message, frozen=True, tag="sync"):
    """How an account stands with its venue. After SYNCED no order, fill or position is missing.

    SYNCED is told only when every order that was believed, or sent since, has its status, every
    fill that was missed has been told, and positions and balances were read from the venue. What
    can not be read keeps it SYNCING: unknown is never flat.

    Both of the rest are a SYNCED's, and name venues (``usdtm``). ``whole`` are those whose
    positions were all told since the dialog began: what was not is flat. ``hedges`` are those where
    the account holds both sides of a market apart: there a buy opens the long side and a sell the
    short one, and only what is ``reduce_only`` closes the other's.
    """

    account: str
    state: SyncState
    time_ns: int
    reason: str = ""
    hedges: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


ClientMessage = Order | Cancel
EmsMessage = Status | BrokerdPosition | BrokerdBalance | AccountStatus
BrokerdRequest = BrokerdOrder | BrokerdCancel
BrokerdBeginning = BrokerdBelief | BrokerdMemory
BrokerdEvent = (
    BrokerdOrderAck
    | BrokerdStatus
    | BrokerdFill
    | BrokerdError
    | BrokerdPosition
    | BrokerdBalance
    | BrokerdSync
)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {
    union: msgspec.msgpack.Decoder(union)
    for union in (ClientMessage, EmsMessage, BrokerdRequest, BrokerdEvent, BrokerdBeginning)
}


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as it travels."""
    return bytes((PROTOCOL,)) + _encoder.encode(message)


def decode(data: bytes, union: Any) -> Any:
    """Return the message; raise ``Refused`` for another version, or for what is none of them.

    ``union`` is ``ClientMessage``, ``EmsMessage``, ``BrokerdRequest``, ``BrokerdEvent`` or
    ``BrokerdBeginning``.
    """
    if data[:1] != bytes((PROTOCOL,)):
        theirs = data[0] if data else "none"
        raise Refused(
            f"the peer speaks version {theirs} of the order protocol, we speak {PROTOCOL}.",
            remedy="Restart both with the same piker.",
        )
    try:
        return _decoders[union].decode(memoryview(data)[1:])
    except msgspec.DecodeError as err:
        raise Refused(f"this is no message of the order protocol: {err}") from err
