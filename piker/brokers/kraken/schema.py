"""Kraken's wire messages, as far as we read them. Unknown fields are ignored.

The raw payload stands above each struct. Websocket v2 sends numbers as JSON numbers, REST as
strings (decoded in msgspec's lax mode). What can not be (a price of 0, a negative size, an id
beyond 64 bits) is refused while decoding. Sources: the venue's documents and the recorded answers
that the tests replay.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

__all__ = [
    "BookFrame",
    "BookPart",
    "ErrorBody",
    "ExactTrade",
    "Frame",
    "Heartbeat",
    "Instruments",
    "Ohlc",
    "OhlcFrame",
    "OhlcRow",
    "Pair",
    "Reply",
    "RestTicker",
    "RestTrade",
    "ServerTime",
    "Status",
    "Ticker",
    "TickerFrame",
    "Trade",
    "TradeFrame",
]

T = TypeVar("T")
Price = Annotated[float, msgspec.Meta(gt=0)]
Size = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Kind = Literal["snapshot", "update"]


# -- REST ----------------------------------------------------------------------------------------
# {"error":["EQuery:Unknown asset pair"]}
class ErrorBody(msgspec.Struct, frozen=True):
    """Any answer: what begins with E is an error, with W a warning. The status is 200 for both."""

    error: list[str] = []


class Reply(msgspec.Struct, Generic[T], frozen=True):
    """An answer that holds a result."""

    result: T


# {"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD","aclass_base":"currency","base":"XXBT",
#  "quote":"ZUSD","pair_decimals":1,"lot_decimals":8,"ordermin":"0.00005","costmin":"0.5",
#  "tick_size":"0.1","status":"online","execution_venue":"international",...}}
class Pair(msgspec.Struct, frozen=True):
    """One market of AssetPairs. Rows of 2021 have no tick_size, costmin and status."""

    altname: str
    base: str
    quote: str
    pair_decimals: Annotated[int, msgspec.Meta(ge=0, le=20)]
    lot_decimals: Annotated[int, msgspec.Meta(ge=0, le=20)]
    wsname: str = ""  # absent in dark-pool rows (XBTUSD.d)
    aclass_base: str = "currency"
    tick_size: str = ""
    ordermin: str = "0"
    costmin: str = "0"
    status: str = "online"


# {"unixtime":1762820224,"rfc1123":"Tue, 11 Nov 25 00:17:04 +0000"}
class ServerTime(msgspec.Struct, frozen=True):
    """Body of Time; whole seconds."""

    unixtime: int


# {"a":["105944.30000","1","1.000"],"b":["105944.20000","1","1.000"],"c":["105899.4","0.00009443"]}
class RestTicker(msgspec.Struct, frozen=True):
    """Ask and bid as (price, whole lots, lots), last trade as (price, lots)."""

    a: tuple[float, float, float]
    b: tuple[float, float, float]
    c: tuple[float, float]


#: [time s, open, high, low, close, vwap, volume, count]; an empty minute has a vwap of "0.0"
OhlcRow = tuple[int, float, float, float, float, float, float, int]
#: [price, volume, time s, "b"|"s", "l"|"m", misc, trade_id]
RestTrade = tuple[Price, Size, float, str, str, str, Count]
#: the same with every digit; "b" and "s" are the taker's side, as in the websocket's rows
ExactTrade = tuple[Decimal, Decimal, Decimal, str, str, str, Count]


# -- websocket v2 --------------------------------------------------------------------------------
# {"symbol":"BTC/USD","bid":105944.20,"bid_qty":2.5,"ask":105944.30,"ask_qty":3.2,"last":105899.40,
#  "volume":163.28908096,"vwap":105904.39279,"low":104711.00,"high":106613.10,"change":250.00,
#  "change_pct":0.24,"timestamp":"2022-12-25T09:30:59.123456Z"}
class Ticker(msgspec.Struct, frozen=True, gc=False):
    """Best bid and ask; the timestamp came late to this channel and may be absent."""

    symbol: str
    bid: Price
    bid_qty: Size
    ask: Price
    ask_qty: Size
    timestamp: str = ""


# {"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,"ord_type":"limit",
#  "trade_id":10218208,"timestamp":"2023-10-06T17:35:55.440295Z"}
class Trade(msgspec.Struct, frozen=True, gc=False):
    """A trade; ``side`` is the taker's. Ids are consecutive within a market."""

    symbol: str
    side: Literal["buy", "sell"]
    price: Price
    qty: Size
    trade_id: Count
    timestamp: str


# {"symbol":"BTC/USD","interval":1,"interval_begin":"2023-10-04T16:25:00.000000000Z",
#  "open":106038.2,"high":106044.3,"low":106038.1,"close":106040.1,"volume":30927.68066226,
#  "vwap":106039.6,"trades":12,"timestamp":"2023-10-04T16:30:00.000000Z"}
class Ohlc(msgspec.Struct, frozen=True, gc=False):
    """A bar as it stands; final when one with a later ``interval_begin`` arrives."""

    symbol: str
    interval: int
    interval_begin: str
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Size
    vwap: Size
    trades: Count


class BookLevel(msgspec.Struct, frozen=True):
    """A level; the numbers stay text, because the checksum is made of their digits."""

    price: msgspec.Raw
    qty: msgspec.Raw


# {"symbol":"BTC/USD","bids":[{"price":105944.20,"qty":0.250}],"asks":[],"checksum":2114181697,
#  "timestamp":"2023-10-06T17:35:55.440295Z"}
class BookPart(msgspec.Struct, frozen=True):
    """A book, or what has changed in it (qty 0 removes)."""

    symbol: str
    checksum: Count
    bids: list[BookLevel] = []
    asks: list[BookLevel] = []
    timestamp: str = ""


# {"symbol":"BTC/USD","price_precision":1,"qty_precision":8,"price_increment":0.1,"status":"online"}
class Instrument(msgspec.Struct, frozen=True):
    """What the instrument channel says of a market, as far as it is of use here."""

    symbol: str
    status: str = ""
    price_precision: int = -1
    qty_precision: int = -1


class InstrumentData(msgspec.Struct, frozen=True):
    """Assets and markets; the assets are not read."""

    pairs: list[Instrument] = []


# {"channel":"trade","type":"update","data":[...]}
class TickerFrame(msgspec.Struct, frozen=True, tag_field="channel", tag="ticker"):
    """Envelope."""

    data: list[Ticker]


class TradeFrame(msgspec.Struct, frozen=True, tag_field="channel", tag="trade"):
    """Envelope; a snapshot holds the last 50 trades, oldest first."""

    data: list[Trade]
    type: Kind = "update"


class OhlcFrame(msgspec.Struct, frozen=True, tag_field="channel", tag="ohlc"):
    """Envelope; a snapshot holds past bars, oldest first."""

    data: list[Ohlc]
    type: Kind = "update"


class BookFrame(msgspec.Struct, frozen=True, tag_field="channel", tag="book"):
    """Envelope."""

    type: Kind
    data: list[BookPart]


class Instruments(msgspec.Struct, frozen=True, tag_field="channel", tag="instrument"):
    """Envelope."""

    data: InstrumentData


# {"channel":"heartbeat"}
class Heartbeat(msgspec.Struct, frozen=True, tag_field="channel", tag="heartbeat"):
    """Said about once a second while something is subscribed and nothing happens."""


class SystemState(msgspec.Struct, frozen=True):
    """State of the venue: online, maintenance, cancel_only, post_only."""

    system: str = ""


# {"channel":"status","type":"update","data":[{"api_version":"v2","system":"online",
#  "connection_id":12345,"version":"2.0.0"}]}
class Status(msgspec.Struct, frozen=True, tag_field="channel", tag="status"):
    """Said at every connect and when the state changes."""

    data: list[SystemState] = []


Frame = TickerFrame | TradeFrame | OhlcFrame | BookFrame | Instruments | Heartbeat | Status
