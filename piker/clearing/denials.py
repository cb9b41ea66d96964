"""Why an order is denied: a code, which programs read, and what it means, which people read.

The table in docs/reference/orders.md is made of :data:`MEANINGS`. A denial happens before anything
is sent; what a venue refuses is a rejection, and has the venue's own words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["MEANINGS", "Denial", "DenialCode"]


class DenialCode(StrEnum):
    """The codes of denials. Never rename one: strategies look for them."""

    BAD_SIZE = "bad-size"
    BAD_PRICE = "bad-price"
    OFF_TICK = "off-tick"
    OFF_LOT = "off-lot"
    TOO_SMALL = "too-small"
    MISSING_FIELD = "missing-field"
    SENSELESS = "senseless"
    WRONG_SYMBOL = "wrong-symbol"
    MARKET_CLOSED = "market-closed"
    UNKNOWN_ACCOUNT = "unknown-account"
    NOT_ARMED = "not-armed"
    NOT_SYNCED = "not-synced"
    DUPLICATE_ID = "duplicate-id"
    UNKNOWN_ORDER = "unknown-order"
    ORDER_OVER = "order-over"
    NOT_OFFERED = "not-offered"
    NO_REFERENCE = "no-reference"
    NO_RATE = "no-rate"
    HALTED = "halted"
    REDUCING = "reducing"
    ORDER_SIZE = "order-size"
    ORDER_NOTIONAL = "order-notional"
    PRICE_COLLAR = "price-collar"
    MESSAGE_RATE = "message-rate"
    OPEN_ORDERS = "open-orders"
    GROSS_EXPOSURE = "gross-exposure"
    DAILY_LOSS = "daily-loss"
    DUPLICATE_ORDER = "duplicate-order"
    SUPERSEDED = "superseded"
    FAILED = "failed"


MEANINGS: dict[DenialCode, str] = {
    DenialCode.BAD_SIZE: "the size is zero, negative, or no number",
    DenialCode.BAD_PRICE: "a price, trigger or trail is zero, negative, or no number",
    DenialCode.OFF_TICK: "a price is no multiple of the market's tick",
    DenialCode.OFF_LOT: "the size is no multiple of the market's lot",
    DenialCode.TOO_SMALL: "the size or its value is below the market's minimum",
    DenialCode.MISSING_FIELD: "this kind of order needs a field that is not given",
    DenialCode.SENSELESS: "two fields contradict each other",
    DenialCode.WRONG_SYMBOL: "the account's backend has no such market",
    DenialCode.MARKET_CLOSED: "the market does not trade now",
    DenialCode.UNKNOWN_ACCOUNT: "there is no such account",
    DenialCode.NOT_ARMED: "the account trades real money and is not armed",
    DenialCode.NOT_SYNCED: "the venue is not heard, or what it has is being compared with ours",
    DenialCode.DUPLICATE_ID: "the oid has been used for another order",
    DenialCode.UNKNOWN_ORDER: "there is no order of that oid",
    DenialCode.ORDER_OVER: "the order has ended: there is nothing to change or cancel",
    DenialCode.NOT_OFFERED: "neither the venue nor piker can do this kind of order in this market",
    DenialCode.NO_REFERENCE: "no price younger than the limit is known to judge the order by",
    DenialCode.NO_RATE: "the market is in a currency without a rate to that of the limits",
    DenialCode.HALTED: "trading is halted: nothing but cancels passes",
    DenialCode.REDUCING: "only orders that make a position smaller pass",
    DenialCode.ORDER_SIZE: "the order is larger than one order may be",
    DenialCode.ORDER_NOTIONAL: "the order is worth more than one order may be",
    DenialCode.PRICE_COLLAR: "the price is too far from the market, on the side that hurts",
    DenialCode.MESSAGE_RATE: "too many orders and edits in too short a time",
    DenialCode.OPEN_ORDERS: "too many orders stand already",
    DenialCode.GROSS_EXPOSURE: "positions and orders together would be worth more than they may be",
    DenialCode.DAILY_LOSS: "the day's loss has reached its limit",
    DenialCode.DUPLICATE_ORDER: "the same order was sent a moment ago",
    DenialCode.SUPERSEDED: "a later edit of the order was asked for before this one was sent",
    DenialCode.FAILED: "emsd itself failed at the request, which is a bug: its log has more",
}


class Denial(NamedTuple):
    """An order's denial. ``reason`` is a sentence with the numbers that decided."""

    code: DenialCode
    reason: str
