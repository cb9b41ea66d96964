"""Public REST of the loopback Kraken. Errors are 200s too, in the venue's own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from piker.clock import NS, wall_ns
from piker.ohlcv import Timeframe
from piker.testing import kraken_wire as wire
from piker.testing.engine import BUY, SELL
from piker.testing.kraken_wire import Listing
from piker.testing.requests import Reply, Request

__all__ = ["MINUTES", "answer"]

MINUTES = (1, 5, 15, 30, 60, 240, 1440, 10_080, 21_600)
ROWS = 720  # bars of an answer, whatever was asked
PAGE = 1000  # trades of an answer
DEPTH = 500  # levels of an answer
PREFIX = "/0/public/"
UNKNOWN_PAIR, INVALID = "EQuery:Unknown asset pair", "EGeneral:Invalid arguments"
_encode = msgspec.json.encode


class _Refused(Exception):
    """The venue's own words."""


class _Ask:
    """One request: its parameters, the listings, and the venue's state."""

    def __init__(self, params: dict[str, str], listings: Sequence[Listing], system: str) -> None:
        self.params = params
        self.listings = listings
        self.system = system
        self.now_s = wall_ns() // NS

    def pairs(self) -> dict[str, Listing]:
        """Return the listings of ``pair`` by the keys of the answer; all where it is absent.

        The key is the pair's id, but a websocket v2 name (BTC/USD) is answered under itself.
        """
        asked = self.params.get("pair")
        if not asked:
            return {x.pair_id: x for x in self.listings}
        names = {name: x for x in self.listings for name in (x.pair_id, x.altname, x.wsname)}
        wires = {x.wire: x for x in self.listings}
        found: dict[str, Listing] = {}
        for name in asked.split(","):
            if name not in wires and name not in names:
                raise _Refused(UNKNOWN_PAIR)
            listing = wires.get(name) or names[name]
            found[name if name in wires else listing.pair_id] = listing
        return found

    def pair(self) -> tuple[str, Listing]:
        """Return the one that must be named."""
        if not self.params.get("pair"):
            raise _Refused(INVALID)
        return next(iter(self.pairs().items()))

    def whole(self, name: str, default: int) -> int:
        """Return a whole number."""
        text = self.params.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal()) or len(text) > 20:
            raise _Refused(f"{INVALID}:{name}")
        return int(text)


def answer(request: Request, listings: Sequence[Listing], system: str) -> Reply:
    """Answer a request."""
    name = request.path.removeprefix(PREFIX)
    make = _ANSWERS.get(name) if name != request.path else None
    if make is None:
        return Reply(body=_encode({"error": ["EGeneral:Unknown method"]}))
    params = dict(request.params)
    if request.method == "POST":  # public calls may be posted, too
        params |= _form(request.body)
    try:
        return Reply(body=_encode({"error": [], "result": make(_Ask(params, listings, system))}))
    except _Refused as refused:
        return Reply(body=_encode({"error": [str(refused)]}))


def _form(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode()))
    except (UnicodeDecodeError, ValueError):
        return {}


# -- the venue ---------------------------------------------------------------------------------
def _time(ask: _Ask) -> Any:
    return {"unixtime": ask.now_s, "rfc1123": formatdate(ask.now_s, usegmt=True)}


def _status(ask: _Ask) -> Any:
    return {"status": ask.system, "timestamp": wire.stamp(ask.now_s * NS)[:19] + "Z"}


def _assets(ask: _Ask) -> Any:
    every = {name: row for x in ask.listings for name, row in wire.assets(x).items()}
    asked = ask.params.get("asset")
    if not asked:
        return every
    ids = {row["altname"]: name for name, row in every.items()} | {name: name for name in every}
    names = asked.split(",")
    if not all(name in ids for name in names):
        raise _Refused("EQuery:Unknown asset")
    return {ids[name]: every[ids[name]] for name in names}


def _asset_pairs(ask: _Ask) -> Any:
    return {key: wire.asset_pair(x) for key, x in ask.pairs().items()}


# -- one market --------------------------------------------------------------------------------
def _ticker(ask: _Ask) -> Any:
    return {key: wire.rest_ticker(x) for key, x in ask.pairs().items()}


def _depth(ask: _Ask) -> Any:
    key, listing = ask.pair()
    limit = min(ask.whole("count", 100), DEPTH)
    sides = {
        name: [[*listing.level(*level), ask.now_s] for level in listing.depth(side, limit)]
        for name, side in (("asks", SELL), ("bids", BUY))
    }
    return {key: sides}


def _ohlc(ask: _Ask) -> Any:
    key, listing = ask.pair()
    minutes, since = ask.whole("interval", 1), ask.whole("since", 0)
    if minutes not in MINUTES:
        raise _Refused(INVALID)
    begin = Timeframe(f"{minutes}m").floor(ask.now_s) - (ROWS - 1) * minutes * 60
    rows = [r for r in listing.bars(minutes, begin, ask.now_s) if int(r["time"]) > since]
    last = int(rows[-2]["time"]) if len(rows) > 1 else since
    return {key: [wire.ohlc_row(listing, row) for row in rows], "last": last}


def _trades(ask: _Ask) -> Any:
    key, listing = ask.pair()
    count = max(1, min(ask.whole("count", PAGE), PAGE))
    since = ask.whole("since", -1)
    tape = listing.tape
    found = tape.newest(count) if since < 0 else tape.after(since, count)
    last = found[-1].ns if found else max(since, 0)
    return {key: [wire.trade_row(listing, fill) for fill in found], "last": str(last)}


def _spread(ask: _Ask) -> Any:
    key, listing = ask.pair()
    since = ask.whole("since", 0)
    rows = [list(row) for row in listing.spreads if row[0] >= since]
    return {key: rows, "last": rows[-1][0] if rows else since}


_ANSWERS: dict[str, Callable[[_Ask], Any]] = {
    "Time": _time, "SystemStatus": _status, "Assets": _assets, "AssetPairs": _asset_pairs,
    "Ticker": _ticker, "Depth": _depth, "OHLC": _ohlc, "Trades": _trades, "Spread": _spread,
}  # fmt: skip
