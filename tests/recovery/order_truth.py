"""What a loopback venue has of an account, and where emsd's journal has it otherwise."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from piker.brokers.kraken.broker_ids import client_id_of as client_id_of_kraken
from piker.clearing.lifecycle import OrderState, Phase
from piker.clearing.requests import client_id_of

__all__ = ["CONF", "Truth", "differences", "truth_of"]

ZERO = Decimal(0)
STANDS = frozenset({Phase.OPEN, Phase.PARTIAL})
SHOWN = 10  # of each kind of difference
#: conf.toml of the soaks: no limit is in the way, no history is filled.
CONF = """
[risk]
order_notional = 1e9
price_collar = 0.5
messages = 1000000
messages_s = 1
open_orders = 100000
gross_exposure = 1e12
daily_loss = 1e12
duplicate_s = 0
[history]
backfill_1s_days = 0
backfill_1m_days = 0
"""


class _Leg(msgspec.Struct, frozen=True):
    """An order at the venue. ``name`` is the client id that it was sent with."""

    number: str
    name: str
    is_open: bool
    filled: Decimal

    @property
    def client_id(self) -> str:
        """Return the client id of the intent: an edit's order has a number behind it."""
        return re.sub(r"-[0-9]+$", "", self.name)


class _Fill(msgspec.Struct, frozen=True):
    number: str  # of the order
    tid: str
    size: Decimal
    price: Decimal
    fee: Decimal


class Truth(msgspec.Struct, frozen=True):
    """All orders and fills of an account; ``held`` is each asset's total, by emsd's name of it."""

    legs: list[_Leg]
    fills: list[_Fill]
    held: dict[str, Decimal]
    position: Decimal | None = None  # of the perpetual; None where there are no positions


def truth_of(venue: Any, kind: str, name: str = "alice") -> Truth:
    """Return what a venue has of an account: ``kind`` is spot, usdm or kraken."""
    desk = venue.accounts.desk if kind == "kraken" else venue.accounts.desks[kind]
    account = desk.accounts[name]
    if kind == "kraken":
        legs = [
            _Leg(one.txid, client_id_of_kraken(one.cl_ord_id), one.is_open, one.filled)
            for one in account.orders.values()
        ]
        words = ("ordertxid", "id", "vol", "price", "fee")
    else:
        legs = [
            _Leg(str(one.number), one.client_id, one.is_open, one.filled)
            for one in account.orders.values()
        ]
        words = ("orderId", "id", "qty", "price", "commission")
    fills = [_fill(row, words, "" if kind == "kraken" else "t") for row in account.fills]
    if kind == "usdm":
        margin = desk.margin_of(account)
        held = {"usdt.usdtm": round(margin.wallet, 8)}  # gains have more digits than it tells
        return Truth(legs, fills, held, margin.position("BTCUSDT", "BOTH").amount)
    held = {asset.lower(): one.free + one.locked for asset, one in account.purse.assets.items()}
    return Truth(legs, fills, held)


def _fill(row: Mapping[str, Any], words: tuple[str, ...], sign: str) -> _Fill:
    number, tid, *rest = (str(row[word]) for word in words)
    size, price, fee = map(Decimal, rest)
    return _Fill(number, sign + tid, size, price, fee)


def differences(truth: Truth, states: Iterable[OrderState]) -> dict[str, Any]:
    """Return by name how often, or where, journal and venue differ; all is 0 or [] if nowhere."""
    by_client = {client_id_of(state.order.oid): state for state in states}
    legs: defaultdict[str, list[_Leg]] = defaultdict(list)
    for leg in truth.legs:
        legs[leg.client_id].append(leg)
    names = Counter(leg.name for leg in truth.legs)
    numbers = {leg.number: leg.client_id for leg in truth.legs}
    fills: defaultdict[str, list[_Fill]] = defaultdict(list)
    for fill in truth.fills:
        fills[numbers[fill.number]].append(fill)
    ours = Counter(tid for state in by_client.values() for tid in state.tids)
    theirs = Counter(fill.tid for fill in truth.fills)  # of a trade with ourselves two
    known = [(name, found, by_client[name]) for name, found in legs.items() if name in by_client]
    refused = (Phase.REJECTED, Phase.DENIED)
    return {
        "venue_doubled": [name for name, count in names.items() if count > 1][:SHOWN],
        "venue_strangers": [name for name in legs if name not in by_client][:SHOWN],
        "venue_filled_differs": [
            (name, str(sum(leg.filled for leg in found)), str(state.filled))
            for name, found, state in known
            if sum(leg.filled for leg in found) != state.filled
        ][:SHOWN],
        "venue_open_differs": [
            (name, sum(leg.is_open for leg in found), str(state.phase))
            for name, found, state in known
            if sum(leg.is_open for leg in found) != (state.phase in STANDS)
        ][:SHOWN],
        "venue_sums_differ": [
            (name, str(state.value), str(state.fees)) for name, _, state in known
            if _sums(fills[name]) != (state.value, sum(state.fees.values(), ZERO))
        ][:SHOWN],
        "venue_fills_differ": ((ours - theirs) + (theirs - ours)).total(),
        "venue_overfilled": [
            name for name, found, state in known
            if sum(leg.filled for leg in found) > max(state.order.size, state.asked)
        ][:SHOWN],
        "rejected_though_there": [
            name for name, _, state in known if state.phase in refused
        ][:SHOWN],
        "standing_only_here": [
            state.order.oid for name, state in by_client.items()
            if name not in legs and (state.phase in STANDS or state.filled)
        ][:SHOWN],
        "undecided": [
            state.order.oid for state in by_client.values()
            if state.phase in (Phase.PENDING, Phase.UNKNOWN)
        ][:SHOWN],
    }  # fmt: skip


def _sums(fills: list[_Fill]) -> tuple[Decimal, Decimal]:
    """Return what fills are worth, and their fees."""
    return (
        sum((fill.size * fill.price for fill in fills), ZERO),
        sum((fill.fee for fill in fills), ZERO),
    )
