"""Binance's wire messages, as far as we read them. Unknown fields are ignored.

The raw payload stands above each struct. Stream payloads are decoded in msgspec's lax mode:
Binance sends numbers as strings. Sources: SPOTDOC web-socket-streams.md and rest-api.md; the
recorded sessions that the tests replay.
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import msgspec

__all__ = [
    "AggTrade",
    "AggTradeRow",
    "BookTicker",
    "Depth",
    "ErrorBody",
    "ExchangeInfo",
    "Frame",
    "FundingRow",
    "Kline",
    "KlineRow",
    "MarkPrice",
    "RateLimit",
    "ServerTime",
    "Snapshot",
    "Symbol",
    "TickerBook",
    "TickerPrice",
]

#: An id: it must fit the tick ring's signed 64 bits.
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
#: Milliseconds UTC; a time beyond the year 2286 would not fit as nanoseconds.
Ms = Annotated[int, msgspec.Meta(ge=0, le=9_223_372_036_853)]
Event = TypeVar("Event")


class Frame(msgspec.Struct, Generic[Event], frozen=True):
    """The envelope of the combined streams, as in ``Frame[Kline]``."""

    data: Event


# {"code":-1121,"msg":"Invalid symbol."}
class ErrorBody(msgspec.Struct, frozen=True):
    """Body of a refused request."""

    code: int = 0
    msg: str = ""


# {"filterType":"PRICE_FILTER","minPrice":"0.01","maxPrice":"1000000.00","tickSize":"0.01"}
class Filter(msgspec.Struct, frozen=True, rename="camel"):
    """One trading rule; only the fields of its own type are sent."""

    filter_type: str
    tick_size: str = "0"
    step_size: str = "0"
    min_qty: str = "0"
    min_notional: str = "0"
    notional: str = "0"


# {"symbol":"BTCUSD_PERP","pair":"BTCUSD","contractType":"PERPETUAL","deliveryDate":4133404800000,
#  "contractStatus":"TRADING","contractSize":100,"marginAsset":"BTC","baseAsset":"BTC",...}
class Symbol(msgspec.Struct, frozen=True, rename="camel"):
    """One market of exchangeInfo, of any of the three kinds."""

    symbol: str
    base_asset: str
    quote_asset: str
    status: str = ""
    contract_status: str = ""
    contract_type: str = ""
    delivery_date: int = 0
    contract_size: float = 1
    underlying_type: str = ""
    pair: str = ""
    filters: list[Filter] = []


# {"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":6000}
class RateLimit(msgspec.Struct, frozen=True, rename="camel"):
    """One of the venue's own limits."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


class ExchangeInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Body of exchangeInfo. Listings are decoded one by one: a bad one costs only itself."""

    symbols: list[msgspec.Raw]
    rate_limits: list[RateLimit] = []


# {"serverTime":1499827319559}
class ServerTime(msgspec.Struct, frozen=True, rename="camel"):
    """Body of time."""

    server_time: int


# {"symbol":"LTCBTC","price":"4.00000200"}
class TickerPrice(msgspec.Struct, frozen=True):
    """A last price."""

    symbol: str
    price: float


# {"symbol":"LTCBTC","bidPrice":"4.0","bidQty":"431.0","askPrice":"4.1","askQty":"9.0"}
class TickerBook(msgspec.Struct, frozen=True, rename="camel"):
    """A top of book."""

    symbol: str
    bid_price: float
    bid_qty: float
    ask_price: float
    ask_qty: float


# {"lastUpdateId":1027024,"bids":[["4.00000000","431.00000000"]],"asks":[["4.00000200","12.0"]]}
class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """Body of depth."""

    last_update_id: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


# [1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",
#  1499644799999,"2434.19055334",308,"1756.87402397","28.46694368","17928899.62484339"]
class KlineRow(msgspec.Struct, frozen=True, array_like=True):
    """One row of klines; what stands after the takers' part is not read.

    COIN-M: ``volume`` and ``taker_volume`` are contracts, both turnovers coins.
    """

    open_ms: Ms
    open: float
    high: float
    low: float
    close: float
    volume: float
    close_ms: Ms
    turnover: float
    trades: Id
    taker_volume: float
    taker_turnover: float


# {"symbol":"BTCUSDT","fundingRate":"-0.03750000","fundingTime":1570608000000,
#  "markPrice":"34287.54619963"}
class FundingRow(msgspec.Struct, frozen=True):
    """One funding; the mark price is empty for old ones, and not there on COIN-M."""

    time_ms: Ms = msgspec.field(name="fundingTime")
    rate: float = msgspec.field(name="fundingRate")
    mark_price: str = msgspec.field(name="markPrice", default="")


# {"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001","q":"100","f":100,"l":105,
#  "T":1672515782136,"m":true,"M":true}
class AggTrade(msgspec.Struct, frozen=True):
    """Trades of one taker order at one price; ``m``: the buyer was the maker."""

    s: str
    a: Id
    p: float
    q: float
    T: Ms
    m: bool


# [{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,"T":1498793709153,"m":true}]
class AggTradeRow(msgspec.Struct, frozen=True):
    """One item of aggTrades."""

    a: Id
    p: float
    q: float
    T: Ms
    m: bool


# {"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21","a":"25.36520000","A":"40.66"}
class BookTicker(msgspec.Struct, frozen=True):
    """Best bid and ask; ``T`` and ``E`` on futures only."""

    s: str
    u: Id
    b: float
    B: float
    a: float
    A: float
    T: Ms = 0


# {"e":"kline","E":1672515782136,"s":"BNBBTC","k":{"t":1672515780000,"T":1672515839999,"s":"BNBBTC",
#  "i":"1m","f":100,"L":200,"o":"0.0010","c":"0.0020","h":"0.0025","l":"0.0015","v":"1000","n":100,
#  "x":false,"q":"1.0000","V":"500","Q":"0.500","B":"123456"}}
class KlineBar(msgspec.Struct, frozen=True):
    """A bar in progress; ``x`` once, when it has closed."""

    t: Ms
    i: str
    o: float
    c: float
    h: float
    l: float  # noqa: E741 - the venue's key
    v: float
    n: Id
    x: bool
    q: float = 0.0


class Kline(msgspec.Struct, frozen=True):
    """A kline event."""

    s: str
    k: KlineBar


# {"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15","i":"11784.62",
#  "P":"11784.25","r":"0.00038167","T":1562306400000}
class MarkPrice(msgspec.Struct, frozen=True):
    """Mark and index price and the funding rate, which is empty for dated futures."""

    E: Ms
    s: str
    p: float
    i: float = 0.0
    r: str = ""
    T: Ms = 0


# {"e":"depthUpdate","E":123456789,"s":"BNBBTC","U":157,"u":160,"pu":149,
#  "b":[["0.0024","10"]],"a":[["0.0026","100"]]}
class Depth(msgspec.Struct, frozen=True):
    """Changes of the book; ``pu`` on futures only."""

    s: str
    U: int
    u: int
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]
    pu: int = -1
