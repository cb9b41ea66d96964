"""Binance's bodies: how listings, tickers and bars of a synthetic market look on the wire."""

from __future__ import annotations

from typing import Any

from piker.ohlcv import Timeframe
from piker.testing.synthetic import MarketSpec, SyntheticMarket

__all__ = [
    "book_ticker",
    "day_ticker",
    "day_ticker_event",
    "kline_row",
    "mini_ticker_event",
    "symbol_of",
    "text_of",
]

DAY_S = 86_400


def symbol_of(kind: str, wire: str, spec: MarketSpec) -> dict[str, Any]:
    """Return a listing as exchangeInfo has it."""
    tick, lot = text_of(spec.tick, 1e-8), text_of(spec.lot, 1e-8)
    rules = [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "90000.00", "stepSize": lot},
        {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
         "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5},
    ]  # fmt: skip
    common: dict[str, Any] = {
        "symbol": wire, "baseAsset": spec.base, "quoteAsset": spec.quote,
        "baseAssetPrecision": 8, "quotePrecision": 8, "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"], "filters": rules,
    }  # fmt: skip
    if kind == "spot":
        return common | {
            "status": "TRADING", "isSpotTradingAllowed": True, "isMarginTradingAllowed": False,
            "permissions": [], "permissionSets": [["SPOT"]], "icebergAllowed": True,
            "ocoAllowed": True, "quoteOrderQtyMarketAllowed": True, "allowTrailingStop": True,
            "cancelReplaceAllowed": True, "baseCommissionPrecision": 8,
            "quoteCommissionPrecision": 8, "defaultSelfTradePreventionMode": "NONE",
            "allowedSelfTradePreventionModes": ["NONE"],
        }  # fmt: skip
    status = "status" if kind == "usdm" else "contractStatus"
    inverse = kind == "coinm"
    return common | {
        status: "TRADING", "pair": wire.partition("_")[0], "contractType": "PERPETUAL",
        "deliveryDate": 4_133_404_800_000, "onboardDate": 1_569_398_400_000,
        "marginAsset": spec.base if inverse else "USDT", "quoteAsset": "USD" if inverse else "USDT",
        "pricePrecision": 8, "quantityPrecision": 8, "underlyingType": "COIN",
        "contractSize": 100 if inverse else 1, "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }  # fmt: skip


def book_ticker(wire: str, market: SyntheticMarket) -> dict[str, Any]:
    """Return a market's top of book as REST has it."""
    spec, top = market.spec, market.engine.top()
    return {
        "symbol": wire,
        "bidPrice": text_of(top.bid * spec.tick, spec.tick),
        "bidQty": text_of(top.bid_size * spec.lot, spec.lot),
        "askPrice": text_of(top.ask * spec.tick, spec.tick),
        "askQty": text_of(top.ask_size * spec.lot, spec.lot),
    }


def kline_row(row: Any, timeframe: Timeframe, spec: MarketSpec) -> list[Any]:
    """Return a bar as a row of klines."""
    volume, open_s = float(row["volume"]), int(row["time"])
    prices = [text_of(float(row[name]), spec.tick) for name in ("open", "high", "low", "close")]
    turnover = text_of(volume * float(row["bar_wap"]), 1e-8)
    return [
        open_s * 1000, *prices, text_of(volume, spec.lot), timeframe.next(open_s) * 1000 - 1,
        turnover, int(row["count"]), "0", "0", "0",
    ]  # fmt: skip


_decimals: dict[float, int] = {}


def text_of(value: float, step: float) -> str:
    """Return a number with eight decimals, or as many as its step has."""
    digits = _decimals.get(step)
    if digits is None:
        digits = _decimals[step] = max(0, len(f"{step:.10f}".rstrip("0").partition(".")[2]))
    return f"{value:.{max(digits, 2)}f}"


def day_ticker(wire: str, market: SyntheticMarket, now_s: int) -> dict[str, Any]:
    """Return a market's rolling 24 hours as REST has them."""
    spec = market.spec
    bars = market.bars(Timeframe("15m"), now_s - DAY_S, now_s + 1, now_s)
    opened, last = float(bars["open"][0]), market.last
    volume = float(bars["volume"].sum())
    turnover = float((bars["volume"] * bars["bar_wap"]).sum())
    top = book_ticker(wire, market)
    first = market.trades[0].number if market.trades else 1
    return {
        "symbol": wire, "priceChange": f"{last - opened:.8f}",
        "priceChangePercent": f"{(last / opened - 1) * 100:.3f}",
        "weightedAvgPrice": text_of(turnover / volume if volume else last, spec.tick),
        "prevClosePrice": text_of(opened, spec.tick), "lastPrice": text_of(last, spec.tick),
        "lastQty": text_of(market.trades[-1].size if market.trades else 0.0, spec.lot),
        **{name: top[name] for name in ("bidPrice", "bidQty", "askPrice", "askQty")},
        "openPrice": text_of(opened, spec.tick),
        "highPrice": text_of(max(float(bars["high"].max()), last), spec.tick),
        "lowPrice": text_of(min(float(bars["low"].min()), last), spec.tick),
        "volume": text_of(volume, spec.lot), "quoteVolume": text_of(turnover, 1e-8),
        "openTime": (now_s - DAY_S) * 1000, "closeTime": now_s * 1000, "firstId": first,
        "lastId": market.trades[-1].number if market.trades else first,
        "count": int(bars["count"].sum()),
    }  # fmt: skip


def day_ticker_event(wire: str, market: SyntheticMarket, time_ms: int) -> dict[str, Any]:
    """Return the same as the ``ticker`` stream has it."""
    body = day_ticker(wire, market, time_ms // 1000)
    keys = {
        "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice",
        "x": "prevClosePrice", "c": "lastPrice", "Q": "lastQty", "b": "bidPrice", "B": "bidQty",
        "a": "askPrice", "A": "askQty", "o": "openPrice", "h": "highPrice", "l": "lowPrice",
        "v": "volume", "q": "quoteVolume", "O": "openTime", "C": "closeTime", "F": "firstId",
        "L": "lastId", "n": "count",
    }  # fmt: skip
    return {"e": "24hrTicker", "E": time_ms, "s": wire} | {k: body[v] for k, v in keys.items()}


def mini_ticker_event(wire: str, market: SyntheticMarket, time_ms: int) -> dict[str, Any]:
    """Return the short form, as the ``miniTicker`` stream has it."""
    body = day_ticker(wire, market, time_ms // 1000)
    keys = {
        "c": "lastPrice", "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume",
        "q": "quoteVolume",
    }  # fmt: skip
    return {"e": "24hrMiniTicker", "E": time_ms, "s": wire} | {k: body[v] for k, v in keys.items()}
