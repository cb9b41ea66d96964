"""Binance's public REST interface: markets, prices, bars, time."""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import msgspec
import trio

from piker.brokers.binance import schema
from piker.brokers.limits import CONNECT, Budget, Limit, venue_budget
from piker.brokers.quality import venue_quality
from piker.brokers.rest import RestClient, open_rest
from piker.clock import monotonic_ns
from piker.config import load_brokers, nearest
from piker.errors import BrokerError, PikerError, Rejected, SymbolNotFound, Transient
from piker.market import Asset, AssetType, MktPair, parse_fqme

__all__ = [
    "FUNDING",
    "KINDS",
    "Kind",
    "budget_of",
    "get_mkt_info",
    "get_server_time",
    "list_markets",
    "load_markets",
    "open_client",
    "search_symbols",
    "url",
]

PROVIDER = "binance"
#: Connection attempts per address (stated for spot, taken for all).
HANDSHAKES = Limit("handshakes", 300, 300, "rolling", "requests", (CONNECT,))
FUNDING = "funding"  # the kind of a request for funding rates, which futures count apart
#: Requests for funding rates per address (the futures' documents).
FUNDINGS = Limit("fundings", 500, 300, "fixed", "requests", (FUNDING,))
MARKETS_TTL_NS = 3600 * 10**9  # listings change a few times a day
_NO_MATCH = 5
_weights: dict[str, int] = {}  # by kind: the request weight a minute that it says last
_listing = msgspec.json.Decoder(schema.Symbol)
_INTERVALS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}


class Kind(msgspec.Struct, frozen=True):
    """One of Binance's three markets: where it is, and its paths."""

    name: str  # "spot", "usdm", "coinm": the prefix of its URL keys
    venue: str  # the fqme's venue
    http: str
    ws: str
    prefix: str
    max_klines: int


KINDS = {
    "spot": Kind("spot", "spot", "https://api.binance.com", "wss://stream.binance.com:9443",
                 "/api/v3", 1000),
    "usdtm": Kind("usdm", "usdtm", "https://fapi.binance.com", "wss://fstream.binance.com",
                  "/fapi/v1", 1500),
    "coinm": Kind("coinm", "coinm", "https://dapi.binance.com", "wss://dstream.binance.com",
                  "/dapi/v1", 1500),
}  # fmt: skip


def url(kind: Kind, what: str) -> str:
    """Return a base URL (``http`` or ``ws``), from brokers.toml where it is replaced there."""
    table = load_brokers().get(PROVIDER)
    chosen = table.urls.get(f"{kind.name}_{what}") if table else None
    return (chosen or str(getattr(kind, what))).rstrip("/")


def budget_of(name: str) -> Budget:
    """Return what a market's REST requests are counted by, by its kind's name.

    USD-M and COIN-M have ONE request weight per address since 2026-06-30 (the derivatives' change
    log of 2026-06-10), and so one wish for silence. Handshakes are counted by each for itself.
    """
    return venue_budget(f"{PROVIDER}.{'spot' if name == 'spot' else 'futures'}")


@asynccontextmanager
async def open_client(kind: Kind) -> AsyncIterator[RestClient]:
    """Open a REST client of one market; all of them share the process's budget."""
    async with open_rest(
        f"{PROVIDER}.{kind.name}", url(kind, "http"), classify=_classify, usage=_usage,
        budget=budget_of(kind.name),
    ) as client:  # fmt: skip
        yield client


def _classify(status: int, headers: Mapping[str, str], body: bytes) -> PikerError | None:
    """Map a refused request by the venue's own code."""
    if status < 400:
        return None
    try:
        said = msgspec.json.decode(body, type=schema.ErrorBody)
    except msgspec.DecodeError:
        return None
    if said.code == -1121:
        return SymbolNotFound(f"binance: {said.msg}")
    if said.code in (-1003, -1008, -1021) or status >= 500:  # the server's error is no refusal
        return Transient(f"binance: {said.msg} ({said.code})")
    return (
        Rejected(f"binance: {said.msg} ({said.code})", code=str(said.code)) if said.code else None
    )


def _usage(headers: Mapping[str, str]) -> Mapping[str, float]:
    used = headers.get("x-mbx-used-weight-1m", "")
    return {"REQUEST_WEIGHT": float(used)} if used.isdigit() else {}


# -- markets -----------------------------------------------------------------------------------
_cache: dict[str, tuple[int, dict[str, MktPair]]] = {}  # by URL: a test moves the venue
_locks: trio.lowlevel.RunVar[dict[str, trio.Lock]] = trio.lowlevel.RunVar("binance.markets")


async def load_markets(kind: Kind) -> dict[str, MktPair]:
    """Return a kind's listings by market id, cached for an hour; an outage keeps old ones."""
    place = url(kind, "http") + kind.prefix
    async with _lock(place):
        cached = _cache.get(place)
        if cached and monotonic_ns() - cached[0] < MARKETS_TTL_NS:
            return cached[1]
        try:
            async with open_client(kind) as client:
                info = await client.get_json(
                    f"{kind.prefix}/exchangeInfo", type=schema.ExchangeInfo, weight=20
                )
        except Transient:
            if cached:
                return cached[1]
            raise
        _set_limits(kind, info)
        markets = {m.mktid: m for symbol in listings(info) if (m := market_of(kind, symbol))}
        _cache[place] = (monotonic_ns(), markets)
        return markets


def _lock(place: str) -> trio.Lock:
    """Return this event loop's lock of a listing: locks can not be shared between two."""
    try:
        locks = _locks.get()
    except LookupError:
        _locks.set(locks := {})
    return locks.setdefault(place, trio.Lock())


def listings(info: schema.ExchangeInfo) -> list[schema.Symbol]:
    """Return the listings that can be read; the others are counted as bad data."""
    found = []
    for raw in info.symbols:
        try:
            found.append(_listing.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            venue_quality(PROVIDER).count("bad-listing", f"{error}: {bytes(raw)[:80]!r}")
    return found


def market_of(kind: Kind, symbol: schema.Symbol) -> MktPair | None:
    """Return a listing as a market; None for one that has no address (a pending contract)."""
    pair, _, suffix = symbol.symbol.lower().partition("_")
    if kind.venue == "spot":
        mktid, atype = f"{symbol.symbol.lower()}.spot", AssetType.CRYPTO
    elif suffix.isdigit() and len(suffix) == 6:
        mktid, atype = f"{pair}.{kind.venue}.{suffix}", AssetType.FUTURE
    elif "PERPETUAL" in symbol.contract_type:
        mktid, atype = f"{pair}.{kind.venue}.perp", AssetType.PERPETUAL
    else:
        return None
    rules = {rule.filter_type: rule for rule in symbol.filters}
    price, lot = rules.get("PRICE_FILTER"), rules.get("LOT_SIZE")
    least = rules.get("NOTIONAL") or rules.get("MIN_NOTIONAL")
    status = symbol.status or symbol.contract_status
    try:
        return MktPair(
            fqme=str(parse_fqme(f"{mktid}.{PROVIDER}")),
            bs_mktid=symbol.symbol,
            dst=Asset(symbol.base_asset.lower(), AssetType.CRYPTO),
            src=Asset(symbol.quote_asset.lower(), AssetType.CRYPTO),
            price_tick=Decimal(price.tick_size if price else "0"),
            size_tick=Decimal(lot.step_size if lot else "0"),
            atype=atype,
            contract_size=Decimal(str(symbol.contract_size)),
            inverse=kind.venue == "coinm",
            min_size=Decimal(lot.min_qty if lot else "0"),
            min_notional=Decimal(
                (least.min_notional if least.min_notional != "0" else least.notional)
                if least
                else "0"
            ),
            status="online" if status == "TRADING" else status.lower(),
        )
    except (PikerError, ArithmeticError):
        return None  # a name outside the grammar: not tradable here rather than fatal for all


def _set_limits(kind: Kind, info: schema.ExchangeInfo) -> None:
    """Keep what the venue says, and the bounds that it does not list there."""
    venue_budget(f"{PROVIDER}.{kind.name}").set_limits([HANDSHAKES])
    budget = budget_of(kind.name)
    limits = [] if kind.venue == "spot" else [FUNDINGS]
    for said in info.rate_limits:
        window_s = _INTERVALS.get(said.interval, 0) * said.interval_num
        if window_s <= 0 or said.limit <= 0:
            continue
        if said.rate_limit_type == "REQUEST_WEIGHT":
            limits.append(Limit("REQUEST_WEIGHT", _least(budget, kind, said.limit), window_s))
        elif said.rate_limit_type == "RAW_REQUESTS":
            limits.append(Limit("RAW_REQUESTS", said.limit, window_s, counts="requests"))
    budget.set_limits(limits)


def _least(budget: Budget, kind: Kind, weight: int) -> float:
    """Return the request weight that is kept: where two kinds share one, the lower that they say.

    The kinds' lists are read one after the other, and either may still tell its own of old.
    """
    _weights[kind.name] = weight
    shared = [one for name, one in _weights.items() if budget_of(name) is budget]
    return min(shared)


async def get_mkt_info(fqme: str) -> MktPair:
    """Return a market by its address, with or without provider, short or long.

    ``btcusdt`` and ``btcusdt.binance`` mean spot. Raises ``SymbolNotFound`` with the nearest names.
    """
    mktid = fqme.lower().removesuffix(f".{PROVIDER}")
    if "." not in mktid:
        mktid += ".spot"
    kind = KINDS.get(mktid.split(".")[1])
    if kind is None:
        raise SymbolNotFound(
            f"binance has no venue {mktid.split('.')[1]!r}.",
            remedy=nearest(mktid.split(".")[1], KINDS),
        )
    markets = await load_markets(kind)
    found = markets.get(mktid)
    if found is None:
        raise SymbolNotFound(
            f"binance has no market {fqme!r}.",
            remedy=nearest(f"{mktid}.{PROVIDER}", (m.fqme for m in markets.values())),
        )
    return found


async def list_markets() -> list[MktPair]:
    """Return every market of the three kinds; raise the first error where one can not be had."""
    return [market for kind in KINDS.values() for market in (await load_markets(kind)).values()]


async def search_symbols(pattern: str, limit: int = 20) -> list[MktPair]:
    """Return the markets that match best: exact, beginning, part, all words, letters in order.

    Where none does, those with near names. A market kind that can not be reached is left out,
    unless none can.
    """
    markets: dict[str, MktPair] = {}
    errors: list[BrokerError] = []

    async def load(kind: Kind) -> None:
        try:
            markets.update(await load_markets(kind))
        except BrokerError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for kind in KINDS.values():
            nursery.start_soon(load, kind)
    if errors and not markets:
        raise errors[0]
    wanted = pattern.lower().strip().removesuffix(f".{PROVIDER}")
    ranked = ((rank(wanted, mktid), len(mktid), mktid) for mktid in markets)
    names = [name for _, _, name in sorted(entry for entry in ranked if entry[0] < _NO_MATCH)]
    if not names:
        pairs = {mktid: mktid.partition(".")[0] for mktid in markets}
        near = difflib.get_close_matches(wanted, set(pairs.values()), n=limit, cutoff=0.6)
        names = sorted((m for m in markets if pairs[m] in near), key=lambda m: near.index(pairs[m]))
    return [markets[name] for name in names[:limit]]


def rank(wanted: str, mktid: str) -> int:
    """Return how well a market id fits what was typed: 0 best, ``_NO_MATCH`` not at all. Pure."""
    if wanted in (mktid, mktid.partition(".")[0]):
        return 0
    if mktid.startswith(wanted):
        return 1
    if wanted in mktid:
        return 2
    words = re.split(r"[\s./_-]+", wanted)
    if all(word in mktid for word in words):
        return 3
    rest = iter(mktid)
    if len(wanted) > 2 and all(letter in rest for letter in "".join(words)):
        return 4
    return _NO_MATCH


async def get_server_time() -> int:
    """Return the venue's clock in nanoseconds UTC."""
    async with open_client(KINDS["spot"]) as client:
        said: Any = await client.get_json("/api/v3/time", type=schema.ServerTime)
        return int(said.server_time) * 1_000_000
