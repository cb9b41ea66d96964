"""REST of the loopback Binance: public market data of its three markets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from piker.clock import wall_ns
from piker.ohlcv import Timeframe
from piker.testing import binance_wire as wire
from piker.testing.bar_flaws import flawed_rows
from piker.testing.bar_table import rows_of
from piker.testing.binance_account_limits import order_limits
from piker.testing.binance_bars import newest_bars, oldest_bars
from piker.testing.binance_limits import WEIGHT_LIMITS, kind_of
from piker.testing.binance_market import Listing
from piker.testing.engine import BUY, SELL
from piker.testing.requests import Reply, Request
from piker.testing.synthetic import Trade

__all__ = ["INTERVALS", "answer"]

INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d",
             "1w", "1M")  # fmt: skip
MAX_TRADES = 1000  # of one answer
MAX_KLINES = {"spot": 1000, "usdm": 1500, "coinm": 1500}
MAX_DEPTH = {"spot": 5000, "usdm": 1000, "coinm": 1000}
FUTURES_DEPTHS = (5, 10, 20, 50, 100, 500, 1000)
MAX_FUNDING = 1000
MAX_MS = 10**15
WINDOW_S = 200 * 86_400  # of COIN-M's bars in one answer
_SYMBOLS = r'^\[("[A-Z0-9-_.]{1,20}")(,"[A-Z0-9-_.]{1,20}")*\]$'
Listings = Mapping[tuple[str, str], Listing]
_encode = msgspec.json.encode


class _Refused(Exception):
    """The venue's own code and words."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status
        self.body = _encode({"code": code, "msg": text})


class _Ask:
    """One request: its market kind, its parameters, the listings, and what is wrong with bars."""

    def __init__(
        self,
        kind: str,
        params: dict[str, str],
        listings: Listings,
        flaws: frozenset[str] = frozenset(),
    ) -> None:
        self.kind = kind
        self.params = params
        self.listings = listings
        self.flaws = flaws
        self.now_ms = wall_ns() // 1_000_000
        self.now_s = self.now_ms // 1000

    def listing(self) -> Listing:
        """Return the one that must be named."""
        return self._named(self.word("symbol"))

    def listed(self) -> list[Listing]:
        """Return those of ``symbol``, ``symbols`` or (futures) ``pair``; all without one."""
        if "symbol" in self.params and "symbols" in self.params:
            raise _Refused(-1128, "Combination of optional parameters invalid.")
        if "symbol" in self.params:
            return [self.listing()]
        if "symbols" in self.params and self.kind == "spot":
            return [self._named(name) for name in self._names(self.params["symbols"])]
        mine = [x for x in self.listings.values() if x.kind == self.kind]
        pair = self.params.get("pair")
        return [x for x in mine if pair in (None, x.pair)]

    def _names(self, text: str) -> list[str]:
        try:
            return msgspec.json.decode(text, type=list[str])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _illegal(
                "symbols", r"^\[(\"[A-Z0-9-_.]{1,20}\")(,\"[A-Z0-9-_.]{1,20}\")*\]$"
            ) from None

    def _named(self, name: str) -> Listing:
        found = self.listings.get((self.kind, name))
        if found is None:
            raise _Refused(-1121, "Invalid symbol.")
        return found

    def word(self, name: str) -> str:
        """Return a parameter that must be there."""
        if not self.params.get(name):
            text = f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
            raise _Refused(-1102, text)
        return self.params[name]

    def whole(self, name: str, default: int, top: int = MAX_MS) -> int:
        """Return a whole number, at most ``top``."""
        text = self.params.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII):
            raise _illegal(name, "^[0-9]{1,20}$")
        return min(int(text), top)

    def limit(self, default: int, top: int) -> int:
        """Return ``limit``."""
        limit = self.whole("limit", default, top)
        if not limit:
            raise _Refused(-1130, "Data sent for parameter 'limit' is not valid.")
        return limit

    def timeframe(self) -> Timeframe:
        """Return ``interval``."""
        interval = self.word("interval")
        if interval not in INTERVALS or (interval == "1s" and self.kind != "spot"):
            raise _Refused(-1120, "Invalid interval.")
        return self.listing().grid(interval)


def _illegal(name: str, pattern: str) -> _Refused:
    text = f"Illegal characters found in parameter '{name}'; legal range is '{pattern}'."
    return _Refused(-1100, text)


def answer(request: Request, listings: Listings) -> Reply:
    """Answer a request; errors have the venue's own codes."""
    kind, path = kind_of(request.path)
    make = _ANSWERS.get(path)
    if not kind or make is None or (path in _FUTURES and kind == "spot"):
        return Reply(404, b'{"code":-1,"msg":"Not found"}')
    if request.method != "GET":
        return Reply(405, b'{"code":-1,"msg":"Method not allowed"}', {"Allow": "GET"})
    try:
        flaws = frozenset(fault.what for fault in request.flaws)
        return Reply(body=_encode(make(_Ask(kind, request.params, listings, flaws))))
    except _Refused as refused:
        return Reply(refused.status, refused.body)


# -- the venue ---------------------------------------------------------------------------------
def _ping(ask: _Ask) -> Any:
    return {}


def _time(ask: _Ask) -> Any:
    return {"serverTime": ask.now_ms}


def _exchange_info(ask: _Ask) -> Any:
    limits: list[dict[str, Any]] = [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
         "limit": WEIGHT_LIMITS[ask.kind]},
    ]  # fmt: skip
    if ask.kind == "spot":
        limits.append({"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5,
                       "limit": 300_000})  # fmt: skip
    limits += order_limits(ask.kind)
    found = ask.listed() if ask.kind == "spot" else _Ask(ask.kind, {}, ask.listings).listed()
    body = {"timezone": "UTC", "serverTime": ask.now_ms, "rateLimits": limits,
            "exchangeFilters": [], "symbols": [wire.symbol_of(x) for x in found]}  # fmt: skip
    if ask.kind != "usdm":
        return body
    assets = [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}]
    return body | {"futuresType": "U_MARGINED", "assets": assets}


# -- bars --------------------------------------------------------------------------------------
def _klines(ask: _Ask) -> Any:
    listing, timeframe = ask.listing(), ask.timeframe()
    limit = ask.limit(500, MAX_KLINES[ask.kind])
    stop_s = ask.whole("endTime", MAX_MS) // 1000 + 1
    start_s = -(-ask.whole("startTime", 0) // 1000)
    find = oldest_bars if "startTime" in ask.params else newest_bars
    if ask.kind == "coinm":
        start_s, stop_s = _window(ask, start_s, min(stop_s, ask.now_s + 1))
        find = newest_bars
    lines = find(listing, timeframe, limit, start_s, stop_s, now_s=ask.now_s)
    if ask.flaws:
        rows = [line.split(",") for line in lines]
        lines = [",".join(row) for row in flawed_rows(rows, ask.flaws, timeframe)]
    return rows_of(lines)


def _window(ask: _Ask, start_s: int, stop_s: int) -> tuple[int, int]:
    """Return COIN-M's range of 200 days: from the start given, else up to the end."""
    begins, ends = "startTime" in ask.params, "endTime" in ask.params
    if begins and ends and stop_s - 1 - start_s > WINDOW_S:
        hours = WINDOW_S // 3600
        raise _Refused(
            -1127,
            f"Lookup interval is too big. More than {hours} hours between startTime and endTime.",
        )
    if begins and not ends:
        return start_s, min(stop_s, start_s + WINDOW_S + 1)
    return (start_s if begins else max(0, stop_s - 1 - WINDOW_S)), stop_s


def _average(ask: _Ask) -> Any:
    listing = ask.listing()
    price = wire.text_of(listing.market.last, listing.spec.tick)
    return {"mins": 5, "price": price, "closeTime": ask.now_ms}


# -- the book ----------------------------------------------------------------------------------
def _depth(ask: _Ask) -> Any:
    listing = ask.listing()
    limit = ask.limit(100 if ask.kind == "spot" else 500, MAX_DEPTH[ask.kind])
    if ask.kind != "spot" and limit not in FUTURES_DEPTHS:
        raise _Refused(-4021, f"{limit} is not valid depth limit.")
    engine = listing.market.engine
    body: dict[str, Any] = {"lastUpdateId": listing.market.update_id}
    if ask.kind != "spot":
        body |= {"E": ask.now_ms, "T": ask.now_ms}
    if ask.kind == "coinm":
        body |= {"symbol": listing.wire, "pair": listing.pair}
    for name, side in (("bids", BUY), ("asks", SELL)):
        body[name] = wire.levels_of(listing, side, engine.depth(side, limit))
    return body


# -- trades ------------------------------------------------------------------------------------
def _aggregated(ask: _Ask) -> Any:
    listing, limit = ask.listing(), ask.limit(500, MAX_TRADES)
    found = listing.market.trades
    timed = "startTime" in ask.params or "endTime" in ask.params
    if "fromId" in ask.params:
        first = ask.whole("fromId", 0)
        chosen = [trade for trade in found if trade.number >= first][:limit]
    elif timed:
        begin, end = ask.whole("startTime", 0), ask.whole("endTime", MAX_MS)
        within = [trade for trade in found if begin <= trade.time_ms <= end]
        chosen = within[:limit] if "startTime" in ask.params else within[-limit:]
    else:
        chosen = found[-limit:]
    more = {"M": True} if ask.kind == "spot" else {}
    return [wire.agg_trade_row(listing, trade) | more for trade in chosen]


def _trades(ask: _Ask) -> Any:
    listing, limit = ask.listing(), ask.limit(500, MAX_TRADES)
    return _trade_rows(listing, listing.market.trades[-limit:])


def _historical(ask: _Ask) -> Any:
    listing, limit = ask.listing(), ask.limit(500, MAX_TRADES)
    found = listing.market.trades
    if "fromId" not in ask.params:
        return _trade_rows(listing, found[-limit:])
    first = ask.whole("fromId", 0)
    return _trade_rows(listing, [trade for trade in found if trade.number >= first][:limit])


def _trade_rows(listing: Listing, trades: list[Trade]) -> Any:
    return [wire.trade_row(listing, trade) for trade in trades]


# -- tickers -----------------------------------------------------------------------------------
def _shaped(ask: _Ask, rows: list[Any]) -> Any:
    """Return one row for one symbol; COIN-M answers with a list whatever was asked."""
    return rows[0] if "symbol" in ask.params and ask.kind != "coinm" else rows


def _price(ask: _Ask) -> Any:
    rows: list[dict[str, Any]] = []
    for listing in ask.listed():
        price = wire.text_of(listing.market.last, listing.spec.tick)
        row: dict[str, Any] = {"symbol": listing.wire, "price": price}
        if ask.kind != "spot":
            row["time"] = ask.now_ms
        if ask.kind == "coinm":
            row["ps"] = listing.pair
        rows.append(row)
    return _shaped(ask, rows)


def _top(ask: _Ask) -> Any:
    return _shaped(ask, [wire.book_ticker(listing, ask.now_ms) for listing in ask.listed()])


def _day(ask: _Ask) -> Any:
    rows = [wire.day_ticker(listing, ask.now_s) for listing in ask.listed()]
    if ask.kind == "spot" and ask.params.get("type", "FULL") == "MINI":
        rows = [{key: row[key] for key in _MINI} for row in rows]
    return _shaped(ask, rows)


_MINI = ("symbol", "openPrice", "highPrice", "lowPrice", "lastPrice", "volume", "quoteVolume",
         "openTime", "closeTime", "firstId", "lastId", "count")  # fmt: skip


# -- futures -----------------------------------------------------------------------------------
def _premium(ask: _Ask) -> Any:
    return _shaped(ask, [wire.premium_index(listing, ask.now_ms) for listing in ask.listed()])


def _funding(ask: _Ask) -> Any:
    """Return past fundings, oldest first; of perpetuals only."""
    limit = ask.limit(100, MAX_FUNDING)
    named = "symbol" in ask.params
    found = [ask.listing()] if named or ask.kind == "coinm" else ask.listed()
    period = wire.FUNDING_S
    last_s = min(ask.now_s, ask.whole("endTime", MAX_MS) // 1000) // period * period
    first_s = last_s - (limit - 1) * period
    if "startTime" in ask.params:
        first_s = -(-ask.whole("startTime", 0) // (period * 1000)) * period
        last_s = min(last_s, first_s + (limit - 1) * period)
    rows: list[dict[str, Any]] = []
    for listing in found:
        if listing.delivery_ms or last_s < first_s:
            continue
        for at_s in wire.funding_times(listing, first_s, last_s + 1):
            mark = float(listing.market.path([at_s])[0])
            rows.append({
                "symbol": listing.wire, "fundingTime": at_s * 1000,
                "fundingRate": wire.funding_rate(listing, at_s),
                "markPrice": wire.text_of(mark, listing.spec.tick),
            })  # fmt: skip
    return sorted(rows, key=lambda row: row["fundingTime"])[-limit:]


_ANSWERS: dict[str, Callable[[_Ask], Any]] = {
    "ping": _ping, "time": _time, "exchangeInfo": _exchange_info, "klines": _klines,
    "uiKlines": _klines, "avgPrice": _average, "depth": _depth, "aggTrades": _aggregated,
    "trades": _trades, "historicalTrades": _historical, "ticker/price": _price,
    "ticker/bookTicker": _top, "ticker/24hr": _day, "premiumIndex": _premium,
    "fundingRate": _funding,
}  # fmt: skip
_FUTURES = frozenset({"premiumIndex", "fundingRate"})
