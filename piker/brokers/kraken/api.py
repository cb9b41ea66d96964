"""Kraken's public REST interface: markets, prices, bars, trades, time."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import msgspec
import trio

from piker.brokers.kraken import schema
from piker.brokers.limits import CONNECT, Limit, venue_budget
from piker.brokers.rest import RestClient, open_rest
from piker.clock import NS, monotonic_ns, wall_ns
from piker.config import load_brokers, nearest
from piker.errors import DataQuality, PikerError, Rejected, SymbolNotFound, Transient
from piker.market import Asset, AssetType, MktPair, parse_fqme

__all__ = [
    "PROVIDER",
    "Listing",
    "fetch_exact_trades",
    "fetch_ohlc",
    "fetch_tickers",
    "fetch_time",
    "fetch_trades",
    "find_listing",
    "get_mkt_info",
    "get_server_time",
    "list_markets",
    "load_listings",
    "open_client",
    "search_symbols",
    "url",
]

PROVIDER = "kraken"
VENUE = "spot"
URLS = {"spot_http": "https://api.kraken.com", "spot_ws": "wss://ws.kraken.com"}
LISTINGS_TTL_NS = 3600 * NS  # listings change a few times a day
LIMITS = (
    # About one public call a second, address and pair. Three may come at once: one of them is left
    # for calls that the network brings closer together than they were sent.
    Limit("public", 2, 2, "decay", "requests", ("data",), 0.0),
    # Connection attempts to the websocket hosts (Kraken's guide, "websocket rate limits").
    Limit("handshakes", 150, 600, "rolling", "requests", (CONNECT,)),
)
_NAMES = {"XBT": "BTC", "XDG": "DOGE"}  # REST's old names -> websocket v2's
_FIAT = frozenset({"USD", "EUR", "GBP", "CAD", "JPY", "AUD", "CHF", "AED", "MXN", "ARS"})
_PASSING = (
    "EService:", "EGeneral:Too many", "EGeneral:Internal", "EGeneral:Temporary lockout"
)  # fmt: skip
_LIMITED, _LIMITED_S = "EAPI:Rate limit", 1.0  # one call a second: others of our address make some


class Listing(msgspec.Struct, frozen=True):
    """A market with its names at the venue."""

    market: MktPair
    pair_id: str  # key of REST's answers: XXBTZUSD
    altname: str  # what REST is asked for: XBTUSD
    wire: str  # websocket v2: BTC/USD
    price_digits: int  # of the book's checksum
    size_digits: int

    @property
    def alias(self) -> str:
        """Return the market id with today's names: ``btcusd.spot``."""
        return f"{self.wire.replace('/', '').lower()}.{VENUE}"


def url(key: str) -> str:
    """Return a base URL (``spot_http``, ``spot_ws``), from brokers.toml where it is replaced."""
    table = load_brokers().get(PROVIDER)
    return ((table.urls.get(key) if table else None) or URLS[key]).rstrip("/")


@asynccontextmanager
async def open_client() -> AsyncIterator[RestClient]:
    """Open a REST client; all of them share the process's budget."""
    budget = venue_budget(PROVIDER)
    if not budget.limits:
        budget.set_limits(LIMITS)
    async with open_rest(PROVIDER, url("spot_http"), budget=budget, classify=_classify) as client:
        yield client


def _classify(status: int, headers: Mapping[str, str], body: bytes) -> PikerError | None:
    """Find the error in an answer: Kraken sends 200 whatever happened."""
    if body.startswith(b'{"error":[]'):
        return None
    try:
        said = msgspec.json.decode(body, type=schema.ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # the caller's decoding says what is wrong with it
    errors = [text for text in said if text.startswith("E")]
    return _error_of(errors[0]) if errors else None


def _error_of(text: str) -> PikerError:
    message = f"kraken: {text[:200]}"
    if text.startswith("EQuery:Unknown asset pair"):
        return SymbolNotFound(message)
    if text.startswith(("EService:Throttled", "EService: Throttled")):
        return Transient(message, retry_after=_throttled_s(text))
    if text.startswith(_LIMITED):
        return Transient(message, retry_after=_LIMITED_S)
    if text.startswith(_PASSING):
        return Transient(message)
    category, _, rest = text.partition(":")
    return Rejected(message, code=f"{category}:{rest.partition(':')[0]}")


def _throttled_s(text: str) -> float | None:
    """Return the wait of ``EService: Throttled: <unix time>``."""
    until = text.rpartition(":")[2].strip()
    return max(0.0, int(until) - wall_ns() / NS) if until.isdecimal() else None


# -- markets -------------------------------------------------------------------------------------
_cache: dict[str, tuple[int, dict[str, Listing]]] = {}  # by URL: a test moves the venue
_lock: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("kraken.listings")


async def load_listings() -> dict[str, Listing]:
    """Return the listings by market id, cached for an hour; an outage keeps old ones."""
    place = url("spot_http")
    async with _turn():
        cached = _cache.get(place)
        if cached and monotonic_ns() - cached[0] < LISTINGS_TTL_NS:
            return cached[1]
        try:
            async with open_client() as client:
                said = await client.get_json(
                    "/0/public/AssetPairs", type=schema.Reply[dict[str, schema.Pair]]
                )
        except Transient:
            if cached:
                return cached[1]
            raise
        listings = listings_of(said.result)
        _cache[place] = (monotonic_ns(), listings)
        return listings


def _turn() -> trio.Lock:
    """Return this event loop's lock: one can not be shared by two, which threads may run."""
    try:
        return _lock.get()
    except LookupError:
        _lock.set(trio.Lock())
        return _lock.get()


def listings_of(pairs: Mapping[str, schema.Pair]) -> dict[str, Listing]:
    """Return listings by market id; dark-pool rows and names outside the grammar are left out."""
    found: dict[str, Listing] = {}
    for pair_id, pair in pairs.items():
        listing = None if pair_id.endswith(".d") else _listing_of(pair_id, pair)
        if listing is not None:
            found.setdefault(listing.market.mktid, listing)
    return found


def _listing_of(pair_id: str, pair: schema.Pair) -> Listing | None:
    base, _, quote = pair.wsname.partition("/")
    if not base or not quote:
        return None
    base, quote = _NAMES.get(base, base), _NAMES.get(quote, quote)
    atype = AssetType.FIAT if base in _FIAT else AssetType.CRYPTO
    if pair.aclass_base == "tokenized_asset":
        atype = AssetType.STOCK
    try:
        market = MktPair(
            fqme=str(parse_fqme(f"{pair.altname}.{VENUE}.{PROVIDER}")),
            bs_mktid=pair.altname,
            dst=Asset(base.lower(), atype),
            src=Asset(quote.lower(), AssetType.FIAT if quote in _FIAT else AssetType.CRYPTO),
            price_tick=Decimal(pair.tick_size or Decimal(1).scaleb(-pair.pair_decimals)),
            size_tick=Decimal(1).scaleb(-pair.lot_decimals),
            atype=atype,
            min_size=Decimal(pair.ordermin),
            min_notional=Decimal(pair.costmin),
            status=pair.status,
        )
    except (PikerError, ArithmeticError):
        return None  # a row that can not be addressed or read: one market less, not none
    return Listing(
        market, pair_id, pair.altname, f"{base}/{quote}", pair.pair_decimals, pair.lot_decimals
    )


async def find_listing(fqme: str) -> Listing:
    """Return the listing of an address: short or long, with XBT or BTC, in any case.

    Raises ``SymbolNotFound`` with the nearest names.
    """
    mktid = fqme.lower().removesuffix(f".{PROVIDER}")
    if "." not in mktid:
        mktid += f".{VENUE}"
    listings = await load_listings()
    found = listings.get(mktid) or next((x for x in listings.values() if x.alias == mktid), None)
    if found is None:
        raise SymbolNotFound(
            f"kraken has no market {fqme!r}.",
            remedy=nearest(f"{mktid}.{PROVIDER}", (x.market.fqme for x in listings.values())),
        )
    return found


async def get_mkt_info(fqme: str) -> MktPair:
    """Return a market by its address: ``xbtusd``, ``btcusd.spot``, ``xbtusd.spot.kraken``."""
    return (await find_listing(fqme)).market


async def list_markets() -> list[MktPair]:
    """Return every market there is: the whole answer, or the error that kept it from us."""
    return [listing.market for listing in (await load_listings()).values()]


async def search_symbols(pattern: str, limit: int = 20) -> list[MktPair]:
    """Return markets that match by either name: whole ones, beginnings, parts, near misses."""
    names: dict[str, Listing] = {}
    for mktid, listing in (await load_listings()).items():
        names.setdefault(listing.alias, listing)
        names[mktid] = listing
    wanted = pattern.lower()
    hits: Iterable[str] = sorted(
        (name for name in names if wanted in name),
        key=lambda name: (_score(wanted, name), len(name), name),
    )
    if not hits:
        hits = difflib.get_close_matches(wanted, names, n=limit, cutoff=0.6)
    unique = {names[name].market.fqme: names[name].market for name in hits}
    return list(unique.values())[:limit]


def _score(wanted: str, name: str) -> int:
    if name.split(".", maxsplit=1)[0] == wanted:
        return 0
    return 1 if name.startswith(wanted) else 2


# -- data ----------------------------------------------------------------------------------------
async def fetch_tickers(
    client: RestClient, listings: Iterable[Listing]
) -> dict[str, schema.RestTicker]:
    """Return tickers by REST name (altname), of all listings in one request."""
    ids = {listing.pair_id: listing.altname for listing in listings}
    said = await client.get_json(
        "/0/public/Ticker", {"pair": ",".join(ids.values())},
        type=schema.Reply[dict[str, schema.RestTicker]], strict=False,
    )  # fmt: skip
    return {ids.get(key, key): ticker for key, ticker in said.result.items()}


async def fetch_ohlc(
    client: RestClient, listing: Listing, minutes: int
) -> tuple[list[schema.OhlcRow], int]:
    """Return the newest 720 bars, and the open time (s) of the last of them that is final."""
    rows, last = await _rows(
        client, "/0/public/OHLC", {"pair": listing.altname, "interval": minutes}, schema.OhlcRow
    )
    return rows, int(last)


async def fetch_trades(
    client: RestClient, listing: Listing, since_ns: int
) -> tuple[list[schema.RestTrade], int]:
    """Return up to 1000 trades after ``since_ns``, and where to go on (ns)."""
    rows, last = await _rows(
        client, "/0/public/Trades", {"pair": listing.altname, "since": since_ns}, schema.RestTrade
    )
    return rows, int(last)


async def fetch_exact_trades(
    client: RestClient, listing: Listing, since_ns: int | None
) -> tuple[list[schema.ExactTrade], int]:
    """Return up to 1000 trades after ``since_ns``, or the newest, and the last one's time (ns).

    That time has digits which the floats of the rows have lost.
    """
    params: dict[str, Any] = {"pair": listing.altname}
    if since_ns is not None:
        params["since"] = since_ns
    rows, last = await _rows(client, "/0/public/Trades", params, schema.ExactTrade)
    return rows, int(last)


async def _rows(
    client: RestClient, path: str, params: dict[str, Any], row: Any
) -> tuple[list[Any], str]:
    """Return the rows under whatever name the venue gave them, and ``last``."""
    said = await client.get_json(path, params, type=schema.Reply[dict[str, msgspec.Raw]])
    parts = dict(said.result)
    last = bytes(parts.pop("last", msgspec.Raw(b"0"))).decode().strip('"')
    raw = next(iter(parts.values()), msgspec.Raw(b"[]"))
    try:
        rows: list[Any] = msgspec.json.decode(raw, type=list[row], strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise DataQuality(f"kraken: GET {path}: {err}") from err
    if not last.isdecimal():
        raise DataQuality(f"kraken: GET {path}: last is {last[:40]!r}")
    return rows, last


async def fetch_time(client: RestClient) -> int:
    """Return the venue's clock in whole seconds UTC."""
    said = await client.get_json("/0/public/Time", type=schema.Reply[schema.ServerTime])
    return said.result.unixtime


async def get_server_time() -> int:
    """Return the venue's clock in nanoseconds UTC; it says whole seconds."""
    async with open_client() as client:
        return await fetch_time(client) * NS
