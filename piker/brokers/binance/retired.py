"""Markets that Binance lists no more: found by the files that its archive keeps of them.

exchangeInfo forgets a market that was delisted, and a dated future that has expired; their files
stay. The index of the archive's bucket (S3's listing) says that there are some, and of which months
and days. Nothing else is known of such a market: its ticks and lots are 0, its status ``delisted``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from html import unescape
from pathlib import Path

import msgspec

from piker.brokers.archive import ArchiveFile, ChecksumPolicy
from piker.brokers.binance import archive
from piker.brokers.binance.api import KINDS, PROVIDER, get_mkt_info
from piker.brokers.binance.archive_files import Shelf, period_of
from piker.brokers.rest import RestClient, open_rest
from piker.clock import monotonic_ns, wall_s
from piker.config import data_dir, load_brokers
from piker.errors import BrokerError, ConfigError, NoData, PikerError, SymbolNotFound, Transient
from piker.log import get_logger
from piker.market import Asset, AssetType, MktPair, parse_fqme
from piker.ohlcv import Timeframe

__all__ = [
    "INDEX_URL",
    "Retired",
    "expect_retired",
    "fetch_first_file",
    "find_retired",
    "open_archive_client",
]

#: The bucket behind the archive's own host, which has files but no lists of them.
INDEX_URL = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"
MAX_PAGES = 8  # of 1000 names: ten years of days, each with its CHECKSUM
MAX_KNOWN = 1024  # markets that are remembered; a person looks at a few
KNOWN_NS = 3600 * 10**9  # for how long: files come and go by the day
FIRST_FILES = 3  # that are looked at for the first bar; the first may be empty or broken
CONTRACT_USD = {"btc": 100}  # of COIN-M's contracts; 10 of all others (its documents)
#: What spot's pairs were quoted in, the longer first: the venue does not write where a name parts.
QUOTES = (
    "fdusd", "usdt", "busd", "usdc", "tusd", "usds", "usdp", "aeur", "bidr", "idrt", "doge", "btc",
    "eth", "bnb", "pax", "xrp", "trx", "eur", "gbp", "aud", "brl", "try", "rub", "uah", "ngn",
    "zar", "dai", "vai", "dot", "pln", "ron", "ars", "jpy", "mxn", "czk", "cop", "usd",
)  # fmt: skip
_KEY = re.compile(r"<Key>([^<]{1,300})</Key>")
_MORE = re.compile(r"<IsTruncated>\s*true\s*</IsTruncated>")
_DAY_S = 86_400
_known: dict[tuple[str, str], tuple[int, Retired | None]] = {}  # by place and market id

log = get_logger("binance.retired")


class Retired(msgspec.Struct, frozen=True):
    """A market of the past. Its files are about [``start_s``, ``end_s``)."""

    market: MktPair
    start_s: int
    end_s: int


# -- finding ---------------------------------------------------------------------------------------
async def find_retired(fqme: str) -> Retired | None:
    """Return the market of an address that the archive has files of; None where it has none.

    Asks the index once an hour for each address. Blocks for it; raises ``Transient`` when it can
    not be asked: then nobody knows.
    """
    mktid = fqme.lower().removesuffix(f".{PROVIDER}")
    market = _market_of(mktid if "." in mktid else f"{mktid}.spot")
    if market is None:
        return None
    place = index_url(market.address.venue)
    known = _known.get((place, market.mktid))
    if known is not None and monotonic_ns() - known[0] < KNOWN_NS:
        return known[1]
    try:
        span = await _span(place, market)
    except Transient:
        raise
    except BrokerError as error:  # a refusal that passes, or one by something in between
        raise Transient(f"binance archive: its index: {error.message}") from error
    found = None if span is None else Retired(market, *span)
    while len(_known) >= MAX_KNOWN:
        del _known[next(iter(_known))]
    _known[place, market.mktid] = (monotonic_ns(), found)
    return found


async def expect_retired(fqme: str, error: SymbolNotFound) -> Retired:
    """Return the retired market; ``error``, that it is not listed, where there is none.

    Where that can not be asked the error says so, and names the same neighbours.
    """
    try:
        retired = await find_retired(fqme)
    except Transient as passing:
        raise SymbolNotFound(
            f"binance lists no market {fqme!r}; whether it once did could not be asked: "
            f"{passing.message}",
            remedy=error.remedy,
        ) from passing
    if retired is None:
        raise error
    return retired


def index_url(venue: str) -> str:
    """Return the index's address: ``archive_index`` of brokers.toml where it is set there.

    Where the archive is replaced by another, that one is asked.
    """
    table = load_brokers().get(PROVIDER)
    chosen = table.urls.get("archive_index") if table else None
    if chosen:
        return chosen.rstrip("/")
    files = archive.archive_url(KINDS[venue])
    return INDEX_URL if files == archive.ARCHIVE_URL else files


def _market_of(mktid: str) -> MktPair | None:
    """Return the market that an id means, with all that its name says of it; None for no id."""
    try:
        address = parse_fqme(f"{mktid}.{PROVIDER}")
    except ConfigError:
        return None
    venue, expiry, pair = address.venue, address.expiry, address.pair
    dated = len(expiry) == 6
    fits = {"spot": not expiry, "usdtm": dated or expiry == "perp",
            "coinm": (dated or expiry == "perp") and pair.endswith("usd")}  # fmt: skip
    if not fits.get(venue) or address.right:
        return None
    symbol = pair.upper() + (f"_{expiry.upper()}" if dated or venue == "coinm" else "")
    base, quote = _assets(pair)
    atype = {"": AssetType.CRYPTO, "perp": AssetType.PERPETUAL}.get(expiry, AssetType.FUTURE)
    contract = CONTRACT_USD.get(base, 10) if venue == "coinm" else 1
    return MktPair(
        fqme=str(address), bs_mktid=symbol, dst=Asset(base, AssetType.CRYPTO),
        src=Asset(quote, AssetType.CRYPTO), price_tick=Decimal(0), size_tick=Decimal(0),
        atype=atype, contract_size=Decimal(contract), inverse=venue == "coinm", status="delisted",
    )  # fmt: skip


def _assets(pair: str) -> tuple[str, str]:
    """Return what a pair's name is made of; of one with an unknown end, all of it and nothing."""
    quote = next((one for one in QUOTES if pair.endswith(one) and pair != one), "")
    return pair.removesuffix(quote) if quote else pair, quote


async def _span(place: str, market: MktPair) -> tuple[int, int] | None:
    """Return from when to when the archive has days of a market."""
    try:
        shelf = Shelf(market.address.venue, market.bs_mktid)
    except PikerError:
        return None  # no file can have such a name
    frame, now_s = Timeframe("1d"), int(wall_s())
    day = shelf.klines(frame, 0, now_s, now_s=now_s)[-1]  # any daily file: what is before its name
    folder = day.path.rpartition("/")[0].replace("/monthly/", "/daily/")
    monthly = folder.replace("/daily/", "/monthly/")
    months = await _periods(place, f"{monthly}/", "")
    # The last months have days before they have files of their own; days of earlier ones are there
    # twice, and would be pages of names.
    after = f"{folder}/{market.bs_mktid}-1d-{months[-1][2]}" if months else ""
    days = await _periods(place, f"{folder}/", after)
    periods = [*months, *days]
    if not periods:
        return None
    return min(one[0] for one in periods), max(one[1] for one in (days or months))


async def _periods(place: str, prefix: str, marker: str) -> list[tuple[int, int, str]]:
    """Return the periods of the files below a prefix, ascending, with their words."""
    found = []
    async with open_rest(f"{PROVIDER}.archive", place, headers={"Accept": "*/*"}) as client:
        for _ in range(MAX_PAGES):
            params = {"delimiter": "/", "prefix": prefix, "marker": marker or None}
            answer = await client.request("GET", "/", params=params, accept=(403, 404))
            text = answer.body.decode("utf-8", "replace") if answer.status == 200 else ""
            keys = [unescape(key) for key in _KEY.findall(text)]
            for key in keys:
                name = key.removeprefix(prefix)
                if key != name and name.endswith(".zip") and "/" not in name:
                    found.append(_period(key))
            if not keys or not _MORE.search(text):
                break
            marker = keys[-1]
    return sorted(one for one in found if one is not None)


def _period(key: str) -> tuple[int, int, str] | None:
    file = ArchiveFile(key, "klines", "1d", 0, 0)
    stamp = re.search(r"-1d-([\d-]+)\.zip$", key, re.ASCII)
    try:
        return (*period_of(file), stamp[1]) if stamp else None
    except (PikerError, ValueError):
        return None  # a name that is no day or month


# -- reading ---------------------------------------------------------------------------------------
class _PastArchive(archive.BinanceArchive):
    """The archive of a market of the past: it is asked for nothing outside of its life."""

    def __init__(
        self, client: RestClient, retired: Retired, *, checksum: ChecksumPolicy,
        quarantine: Path | None,
    ) -> None:  # fmt: skip
        super().__init__(client, retired.market, checksum=checksum, quarantine=quarantine)
        self._life = retired

    def files(self, frame: Timeframe, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files with bars that open in [start_s, end_s), of the market's life."""
        first, last = max(start_s, self._life.start_s), min(end_s, self._life.end_s)
        return super().files(frame, first, last, now_s=now_s) if first < last else []


@asynccontextmanager
async def open_archive_client(
    symbol: str, *, checksum: ChecksumPolicy = "strict", quarantine: Path | None = None
) -> AsyncIterator[archive.BinanceArchive]:
    """Open the archive of a market, listed or not; see :func:`.archive.open_archive_client`.

    Raises ``SymbolNotFound`` for one that is not listed and of which there are no files.
    """
    try:
        await get_mkt_info(symbol)
    except SymbolNotFound as error:
        retired = await expect_retired(symbol, error)
        async with _open_past(retired, checksum=checksum, quarantine=quarantine) as past:
            yield past
        return
    async with archive.open_archive_client(
        symbol, checksum=checksum, quarantine=quarantine
    ) as found:
        yield found


@asynccontextmanager
async def _open_past(
    retired: Retired, *, checksum: ChecksumPolicy, quarantine: Path | None
) -> AsyncIterator[archive.BinanceArchive]:
    if checksum == "quarantine" and quarantine is None:
        quarantine = data_dir() / "quarantine" / PROVIDER
    async with open_rest(
        f"{PROVIDER}.archive",
        archive.archive_url(KINDS[retired.market.address.venue]),
        headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        connections=archive.MAX_FETCHES,
        max_body=archive.MAX_ZIP,
    ) as client:
        yield _PastArchive(client, retired, checksum=checksum, quarantine=quarantine)


async def fetch_first_file(retired: Retired, interval: str) -> int:
    """Return the open time (seconds) of the first bar that the archive has of a retired market.

    Of three-day bars the phase is not known before: a month's file is read whole. Raises
    ``NoData`` where the first files hold no bar.
    """
    frame, now_s = Timeframe(interval), int(wall_s())
    async with _open_past(retired, checksum="strict", quarantine=None) as past:
        files = past.files(frame, retired.start_s, retired.end_s, now_s=now_s)
        for file in files[:FIRST_FILES]:
            start_s, end_s = period_of(file)
            whole = msgspec.structs.replace(file, start_s=start_s, end_s=end_s)
            try:
                answer = await past.fetch(whole)
            except BrokerError as error:
                log.info("retired.first", file=file.path, why=error.message)
                continue
            if len(answer.rows):
                return int(answer.rows["time"][0])
    raise NoData(f"{retired.market.fqme}: its first files hold no bar.", frame_size=1)
