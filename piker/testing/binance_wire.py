"""Binance's bodies: how listings, tickers and bars of a synthetic market look on the wire."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from piker.ohlcv import Timeframe
from piker.testing.binance_market import Listing
from piker.testing.engine import BUY, SELL
from piker.testing.synthetic import Trade

__all__ = [
    "FUNDING_S",
    "agg_trade_event",
    "agg_trade_row",
    "bar_lines",
    "book_ticker",
    "book_ticker_event",
    "day_ticker",
    "day_ticker_event",
    "decimals_of",
    "depth_event",
    "funding_rate",
    "funding_times",
    "kline_event",
    "levels_of",
    "mark_event",
    "mini_ticker_event",
    "premium_index",
    "symbol_of",
    "text_of",
    "trade_event",
    "trade_row",
]

ORDER_TYPES = {  # that accounts may send; COIN-M's account side is not here
    "spot": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT",
             "TAKE_PROFIT_LIMIT"],
    "usdm": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
    "coinm": ["LIMIT", "MARKET"],
}  # fmt: skip
FUNDING_S = 8 * 3600  # of most perpetuals
TAKEN, TAKEN_OF = 11, 20  # of a bar's volume, what takers bought
FOREVER_MS = 4_133_404_800_000  # the delivery date of what is never delivered

_decimals: dict[float, int] = {}


def text_of(value: float, step: float) -> str:
    """Return a number with as many decimals as its step has, two at least; none for whole lots."""
    return f"{value:.{decimals_of(step)}f}"


def decimals_of(step: float) -> int:
    """Return with how many decimals a step's multiples are written."""
    digits = _decimals.get(step)
    if digits is None:
        text = f"{step:.10f}".rstrip("0").partition(".")[2]
        digits = _decimals[step] = max(2, len(text)) if step < 1 else 0
    return digits


# -- listings ----------------------------------------------------------------------------------
def symbol_of(listing: Listing) -> dict[str, Any]:
    """Return a listing as exchangeInfo has it."""
    spec, futures = listing.spec, listing.kind != "spot"
    tick, lot = text_of(spec.tick, 1e-8), text_of(spec.lot, 1e-8)
    rules: list[dict[str, Any]] = [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "90000.00", "stepSize": lot},
        {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": "9000.00", "stepSize": lot},
    ]
    if not futures:
        rules.append({
            "filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
            "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5,
        })  # fmt: skip
        rules.append({"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200})
        rules.append({"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5})
    elif listing.kind == "usdm":
        rules.append({"filterType": "MIN_NOTIONAL", "notional": "5"})
    common: dict[str, Any] = {
        "symbol": listing.wire, "baseAsset": spec.base, "quoteAsset": spec.quote,
        "orderTypes": ORDER_TYPES[listing.kind], "filters": rules,
    }  # fmt: skip
    common["contractStatus" if listing.kind == "coinm" else "status"] = listing.status
    return common | (_future(listing) if futures else _spot())


def _spot() -> dict[str, Any]:
    return {
        "isSpotTradingAllowed": True, "isMarginTradingAllowed": False,
        "baseAssetPrecision": 8, "quotePrecision": 8, "quoteAssetPrecision": 8,
        "permissions": [], "permissionSets": [["SPOT"]], "icebergAllowed": False,
        "ocoAllowed": False, "otoAllowed": False, "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False, "cancelReplaceAllowed": True,
        "amendAllowed": True, "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8, "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_MAKER"],
    }  # fmt: skip


def _future(listing: Listing) -> dict[str, Any]:
    spec, inverse = listing.spec, listing.kind == "coinm"
    body = {
        "pair": listing.pair,
        "contractType": listing.contract, "deliveryDate": listing.delivery_ms or FOREVER_MS,
        "onboardDate": listing.listed_s * 1000, "marginAsset": spec.base if inverse else spec.quote,
        "pricePrecision": _digits(spec.tick), "quantityPrecision": _digits(spec.lot),
        "baseAssetPrecision": 8, "quotePrecision": 8, "underlyingType": "COIN",
        "underlyingSubType": ["PoW"], "triggerProtect": "0.0500", "liquidationFee": "0.012500",
        "marketTakeBound": "0.05", "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }  # fmt: skip
    if inverse:
        body |= {"contractSize": listing.contract_size, "equalQtyPrecision": 4}
    return body


def _digits(step: float) -> int:
    return max(0, round(-math.log10(step)))


# -- tops and depth ----------------------------------------------------------------------------
def _top(listing: Listing) -> tuple[str, str, str, str]:
    spec, top = listing.spec, listing.market.engine.top()
    return (
        text_of(top.bid * spec.tick, spec.tick), text_of(top.bid_size * spec.lot, spec.lot),
        text_of(top.ask * spec.tick, spec.tick), text_of(top.ask_size * spec.lot, spec.lot),
    )  # fmt: skip


def book_ticker(listing: Listing, time_ms: int) -> dict[str, Any]:
    """Return a market's top of book as REST has it."""
    bid, bid_size, ask, ask_size = _top(listing)
    body: dict[str, Any] = {
        "symbol": listing.wire, "bidPrice": bid, "bidQty": bid_size, "askPrice": ask,
        "askQty": ask_size,
    }  # fmt: skip
    if listing.kind != "spot":
        body |= {"time": time_ms, "lastUpdateId": listing.market.update_id}
    return body | ({"pair": listing.pair} if listing.kind == "coinm" else {})


def book_ticker_event(listing: Listing, time_ms: int) -> dict[str, Any]:
    """Return it as the ``bookTicker`` stream has it: spot without a time."""
    bid, bid_size, ask, ask_size = _top(listing)
    body: dict[str, Any] = {"u": listing.market.update_id, "s": listing.wire}
    if listing.kind != "spot":
        body = {"e": "bookTicker", **body, "E": time_ms, "T": time_ms} | _pair_of(listing)
    return body | {"b": bid, "B": bid_size, "a": ask, "A": ask_size}


def _pair_of(listing: Listing) -> dict[str, Any]:
    return {"ps": listing.pair} if listing.kind == "coinm" else {}


def levels_of(listing: Listing, side: int, levels: Iterable[tuple[int, int]]) -> list[list[str]]:
    """Return levels of the engine (price, size) as the venue writes them."""
    tick, lot = listing.spec.tick, listing.spec.lot
    return [[text_of(price * tick, tick), text_of(size * lot, lot)] for price, size in levels]


def depth_event(
    listing: Listing,
    time_ms: int,
    ids: tuple[int, int, int],
    bids: Iterable[tuple[int, int]],
    asks: Iterable[tuple[int, int]],
) -> dict[str, Any]:
    """Return a ``depthUpdate`` with its ids (first, last, last of the one before)."""
    body: dict[str, Any] = {
        "e": "depthUpdate", "E": time_ms, "s": listing.wire, "U": ids[0], "u": ids[1],
        "b": levels_of(listing, BUY, bids), "a": levels_of(listing, SELL, asks),
    }  # fmt: skip
    return (
        body if listing.kind == "spot" else body | {"T": time_ms, "pu": ids[2]} | _pair_of(listing)
    )


# -- trades ------------------------------------------------------------------------------------
def agg_trade_event(listing: Listing, trade: Trade, time_ms: int) -> dict[str, Any]:
    """Return a trade as the ``aggTrade`` stream has it."""
    row = agg_trade_row(listing, trade)
    more = {"M": True} if listing.kind == "spot" else {"nq": row["q"]}
    return {"e": "aggTrade", "E": time_ms, "s": listing.wire, **row, **more}


def agg_trade_row(listing: Listing, trade: Trade) -> dict[str, Any]:
    """Return a trade as a row of aggTrades."""
    spec = listing.spec
    return {
        "a": trade.number, "p": text_of(trade.price, spec.tick),
        "q": text_of(trade.size, spec.lot), "f": trade.number, "l": trade.number,
        "T": trade.time_ms, "m": trade.side == SELL,
    }  # fmt: skip


def trade_event(listing: Listing, trade: Trade, time_ms: int) -> dict[str, Any]:
    """Return a trade as the ``trade`` stream has it."""
    spec = listing.spec
    return {
        "e": "trade", "E": time_ms, "s": listing.wire, "t": trade.number,
        "p": text_of(trade.price, spec.tick), "q": text_of(trade.size, spec.lot),
        "T": trade.time_ms, "m": trade.side == SELL,
        **({"M": True} if listing.kind == "spot" else {"X": "MARKET"}),
    }  # fmt: skip


def trade_row(listing: Listing, trade: Trade) -> dict[str, Any]:
    """Return a trade as a row of trades and historicalTrades."""
    spec = listing.spec
    worth = text_of(listing.turnover(trade.size, trade.price), 1e-8)
    return {
        "id": trade.number, "price": text_of(trade.price, spec.tick),
        "qty": text_of(trade.size, spec.lot), "time": trade.time_ms,
        "baseQty" if listing.kind == "coinm" else "quoteQty": worth,
        "isBuyerMaker": trade.side == SELL,
        **({"isBestMatch": True} if listing.kind == "spot" else {}),
    }  # fmt: skip


# -- bars --------------------------------------------------------------------------------------
def bar_lines(listing: Listing, rows: Any, timeframe: Timeframe) -> list[str]:
    """Return bars as the archive writes them, times in ms: the text of every interface.

    The takers' part is made up: eleven twentieths of the volume, in whole lots, at the bar's price.
    """
    spec, volume = listing.spec, rows["volume"]
    price = np.where(volume > 0, rows["bar_wap"], 1.0)
    taken = np.rint(volume / spec.lot).astype(np.int64) * TAKEN // TAKEN_OF * spec.lot
    opens = rows["time"].astype(np.int64)
    columns = [
        opens * 1000, *(rows[name] for name in ("open", "high", "low", "close")), volume,
        _next_opens(opens, timeframe) * 1000 - 1, listing.turnover(volume, price), rows["count"],
        taken, listing.turnover(taken, price),
    ]  # fmt: skip
    tick, lot = f"%.{decimals_of(spec.tick)}f", f"%.{decimals_of(spec.lot)}f"
    form = f"%d,{tick},{tick},{tick},{tick},{lot},%d,%.8f,%d,{lot},%.8f,0"
    return [form % row for row in zip(*(column.tolist() for column in columns), strict=True)]


def _next_opens(opens: Any, timeframe: Timeframe) -> Any:
    if timeframe.unit != "M":
        return opens + timeframe.seconds
    return np.array([timeframe.next(int(open_s)) for open_s in opens], np.int64)


def kline_event(
    listing: Listing, line: str, timeframe: Timeframe, time_ms: int, *, closed: bool
) -> dict[str, Any]:
    """Return a bar as the ``kline`` streams have it."""
    row = line.split(",")
    return {
        "e": "kline", "E": time_ms, "s": listing.wire, "k": {
            "t": int(row[0]), "T": int(row[6]), "s": listing.wire, "i": str(timeframe),
            "f": -1, "L": -1, "o": row[1], "c": row[4], "h": row[2], "l": row[3], "v": row[5],
            "n": int(row[8]), "x": closed, "q": row[7], "V": row[9], "Q": row[10], "B": "0",
        },
    }  # fmt: skip


# -- the rolling day ---------------------------------------------------------------------------
_COMMON_DAY = {
    "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "c": "lastPrice",
    "Q": "lastQty", "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume",
    "O": "openTime", "C": "closeTime", "F": "firstId", "L": "lastId", "n": "count",
}  # fmt: skip
_SPOT_DAY = {"x": "prevClosePrice", "b": "bidPrice", "B": "bidQty", "a": "askPrice", "A": "askQty"}
_MINI_DAY = {"c": "lastPrice", "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume"}


def day_ticker(listing: Listing, now_s: int) -> dict[str, Any]:
    """Return a market's rolling 24 hours as REST has them."""
    spec, market, day = listing.spec, listing.market, listing.market.day(now_s)
    last, wap = market.last, day.wap or market.last
    trades = market.trades
    body = {
        "symbol": listing.wire, "priceChange": f"{last - day.open:.8f}",
        "priceChangePercent": f"{(last / day.open - 1) * 100:.3f}",
        "weightedAvgPrice": text_of(wap, spec.tick), "lastPrice": text_of(last, spec.tick),
        "lastQty": text_of(trades[-1].size if trades else 0.0, spec.lot),
        "openPrice": text_of(day.open, spec.tick), "highPrice": text_of(day.high, spec.tick),
        "lowPrice": text_of(day.low, spec.tick), "volume": text_of(day.volume, spec.lot),
        "openTime": day.open_s * 1000, "closeTime": now_s * 1000,
        "firstId": trades[0].number if trades else 1,
        "lastId": trades[-1].number if trades else 1, "count": day.trades,
    }  # fmt: skip
    body[_worth_key(listing)] = text_of(listing.turnover(day.volume, wap), 1e-8)
    if listing.kind == "coinm":
        body["pair"] = listing.pair
    if listing.kind == "spot":
        bid, bid_size, ask, ask_size = _top(listing)
        body |= {"prevClosePrice": text_of(day.open, spec.tick), "bidPrice": bid,
                 "bidQty": bid_size, "askPrice": ask, "askQty": ask_size}  # fmt: skip
    return body


def _worth_key(listing: Listing) -> str:
    return "baseVolume" if listing.kind == "coinm" else "quoteVolume"


def day_ticker_event(listing: Listing, time_ms: int) -> dict[str, Any]:
    """Return the same as the ``ticker`` stream has it."""
    keys = _COMMON_DAY | (_SPOT_DAY if listing.kind == "spot" else {})
    return _day_event("24hrTicker", keys, listing, time_ms)


def mini_ticker_event(listing: Listing, time_ms: int) -> dict[str, Any]:
    """Return the short form, as the ``miniTicker`` stream has it."""
    return _day_event("24hrMiniTicker", _MINI_DAY, listing, time_ms)


def _day_event(name: str, keys: dict[str, str], listing: Listing, time_ms: int) -> dict[str, Any]:
    body = day_ticker(listing, time_ms // 1000)
    event = {"e": name, "E": time_ms, "s": listing.wire} | {k: body[v] for k, v in keys.items()}
    return event | {"q": body[_worth_key(listing)]} | _pair_of(listing)


# -- marks and funding -------------------------------------------------------------------------
def funding_rate(listing: Listing, funding_s: int) -> str:
    """Return the rate of a funding time: about a basis point, a function of that time."""
    wave = math.sin(funding_s / FUNDING_S * 0.7 + len(listing.wire))
    return f"{0.0001 + 0.00008 * wave:.8f}"


def funding_times(listing: Listing, start_s: int, stop_s: int) -> range:
    """Return the times in [start_s, stop_s) at which a perpetual was funded."""
    first = -(-max(start_s, listing.listed_s) // FUNDING_S) * FUNDING_S
    return range(first, 0 if listing.delivery_ms else stop_s, FUNDING_S)


def _next_funding_s(time_ms: int) -> int:
    return (time_ms // 1000 // FUNDING_S + 1) * FUNDING_S


def mark_event(listing: Listing, time_ms: int) -> dict[str, Any]:
    """Return what the ``markPrice`` streams have; a dated future has no funding."""
    index, due_s = _premium(listing, time_ms)
    price = text_of(listing.market.last, listing.spec.tick)
    return {
        "e": "markPriceUpdate", "E": time_ms, "s": listing.wire, "p": price, "i": index,
        "P": price, "r": funding_rate(listing, due_s) if due_s else "", "T": due_s * 1000,
    }  # fmt: skip


def premium_index(listing: Listing, time_ms: int) -> dict[str, Any]:
    """Return a row of premiumIndex."""
    index, due_s = _premium(listing, time_ms)
    price = text_of(listing.market.last, listing.spec.tick)
    body = {
        "symbol": listing.wire, "markPrice": price, "indexPrice": index,
        "estimatedSettlePrice": price,
        "lastFundingRate": funding_rate(listing, due_s - FUNDING_S) if due_s else "",
        "interestRate": "0.00010000" if due_s else "", "nextFundingTime": due_s * 1000,
        "time": time_ms,
    }  # fmt: skip
    return body | ({"pair": listing.pair} if listing.kind == "coinm" else {})


def _premium(listing: Listing, time_ms: int) -> tuple[str, int]:
    """Return the index price, and when funding is due (0: never)."""
    index = text_of(listing.market.last * 1.0001, listing.spec.tick)
    return index, 0 if listing.delivery_ms else _next_funding_s(time_ms)
