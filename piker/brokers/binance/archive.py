"""Binance's bulk archive (https://data.binance.vision): years of bars in a few files.

::

    async with open_archive_client("btcusdt.spot") as archive:
        for file in archive.files(Timeframe("1m"), start_s, end_s, now_s=now_s):
            answer = await archive.fetch(file)

Plain files behind plain URLs: there is no weight to respect, only the number of downloads at once
is bounded, for the whole process. That a file is this market's is known by its path and by the
name of the file inside; its prices can not prove it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import trio

from piker.brokers.archive import (
    ArchiveAnswer,
    ArchiveFile,
    ChecksumPolicy,
    Defect,
)
from piker.brokers.binance.api import KINDS, PROVIDER, Kind, get_mkt_info, url
from piker.brokers.binance.archive_csv import AggTradeReader, FundingReader, KlineReader
from piker.brokers.binance.archive_files import Shelf
from piker.brokers.binance.bars import Rows
from piker.brokers.download import Fetched, Text, fetch_verified, has_changed, text_of
from piker.brokers.rest import RestClient, open_rest
from piker.clock import wall_s
from piker.config import data_dir, load_brokers
from piker.errors import Bug, DataQuality
from piker.market import MktPair
from piker.ohlcv import Timeframe

__all__ = ["ARCHIVE_URL", "BinanceArchive", "archive_url", "open_archive_client"]

ARCHIVE_URL = "https://data.binance.vision"
MAX_FETCHES = 6  # downloads at once in this process; the same number a browser opens to one host
MAX_PARSERS = 2  # files parsed at once; each takes a core
MAX_ZIP = 512 * 2**20  # bytes of a file; a month of 1 s made of noise has 130 MB (measured)
MAX_CSV = 2 * 2**30  # bytes inside; that month (2.7 M rows) has 400 MB

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")

_fetching: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("binance.fetching")
_parsing: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("binance.parsing")


_Read = tuple[Rows, list[Defect]]


class _Steps(Protocol):
    def step(self) -> bool:
        """Read a piece; False when there is none left."""
        ...


class BinanceArchive:
    """One market's archive: an :class:`~piker.brokers.archive.ArchiveClient`, and more.

    Made by :func:`open_archive_client`; any number of tasks may use it.
    """

    def __init__(
        self,
        client: RestClient,
        market: MktPair,
        *,
        checksum: ChecksumPolicy,
        quarantine: Path | None,
    ) -> None:
        self._client = client
        self._market = market
        self._policy = checksum
        self._quarantine = quarantine
        self._shelf = Shelf(market.address.venue, market.bs_mktid)

    # -- what there is ---------------------------------------------------------------------
    def files(self, frame: Timeframe, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files with bars that open in [start_s, end_s). Pure; see :class:`Shelf`."""
        return self._shelf.klines(frame, start_s, end_s, now_s=now_s)

    def days_of(self, file: ArchiveFile, *, now_s: int) -> list[ArchiveFile]:
        """Return the daily files in place of a monthly one that is missing or broken. Pure."""
        return self._shelf.days_of(file, now_s=now_s)

    def trade_files(self, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files (days) with aggregate trades of [start_s, end_s). Pure."""
        return self._shelf.trades(start_s, end_s, now_s=now_s)

    def funding_files(self, start_s: int, end_s: int, *, now_s: int) -> list[ArchiveFile]:
        """Return the files (months) with funding rates of [start_s, end_s). Pure."""
        return self._shelf.fundings(start_s, end_s, now_s=now_s)

    # -- reading ---------------------------------------------------------------------------
    async def fetch(self, file: ArchiveFile) -> ArchiveAnswer:
        """Fetch, verify and read a file of klines; ``rows`` is ``KLINE_DTYPE``, NaN nowhere.

        Volume of COIN-M is in contracts, turnover in coins. A bar that had not closed when the
        file was made is left out (``out-of-range``). Raises what
        :meth:`~piker.brokers.archive.ArchiveClient.fetch` says.
        """
        _check(file, "klines")
        fetched = await self._get(file)
        reader = KlineReader(_text(fetched, file), file, self._market)
        closed_s = _made_s(fetched.modified)
        rows, defects = await _run(file, reader, lambda: reader.finish(closed_s=closed_s))
        return _answer(file, fetched, rows, defects)

    async def fetch_agg_trades(self, file: ArchiveFile) -> ArchiveAnswer:
        """Fetch, verify and read a file of aggregate trades; ``rows`` is ``AGG_TRADE_DTYPE``."""
        _check(file, "aggTrades")
        fetched = await self._get(file)
        reader = AggTradeReader(_text(fetched, file), file)
        rows, defects = await _run(file, reader, reader.finish)
        return _answer(file, fetched, rows, defects)

    async def fetch_funding(self, file: ArchiveFile) -> ArchiveAnswer:
        """Fetch, verify and read a file of funding rates; ``rows`` is ``FUNDING_DTYPE``."""
        _check(file, "fundingRate")
        fetched = await self._get(file)
        reader = FundingReader(_text(fetched, file), file)
        rows, defects = await _run(file, reader, reader.finish)
        return _answer(file, fetched, rows, defects)

    async def changed(self, file: ArchiveFile, etag: str) -> bool:
        """Ask whether the venue has put another file in its place; ``NoData`` when it is gone."""
        async with _limiter(_fetching, MAX_FETCHES):
            return await has_changed(self._client, file, etag)

    async def _get(self, file: ArchiveFile) -> Fetched:
        async with _limiter(_fetching, MAX_FETCHES):
            return await fetch_verified(
                self._client, file, policy=self._policy, quarantine=self._quarantine
            )


def _limiter(place: trio.lowlevel.RunVar[trio.CapacityLimiter], most: int) -> trio.CapacityLimiter:
    """Return the one limiter of this event loop."""
    try:
        return place.get()
    except LookupError:
        place.set(trio.CapacityLimiter(most))
        return place.get()


def _check(file: ArchiveFile, kind: str) -> None:
    if file.kind != kind:
        raise Bug(f"{file.path} has {file.kind}, not {kind}")


def _text(fetched: Fetched, file: ArchiveFile) -> Text:
    try:
        return text_of(fetched.body, file.name.removesuffix(".zip") + ".csv", max_bytes=MAX_CSV)
    except DataQuality as error:
        raise _named(file, error) from error


async def _run(file: ArchiveFile, reader: _Steps, finish: Callable[[], _Read]) -> _Read:
    """Read a file in threads, piece by piece: the event loop goes on, and can cancel between."""
    try:
        async with _limiter(_parsing, MAX_PARSERS):
            while await trio.to_thread.run_sync(reader.step):
                pass
            found: _Read = await trio.to_thread.run_sync(finish)
            return found
    except DataQuality as error:
        raise _named(file, error) from error


def _named(file: ArchiveFile, error: DataQuality) -> DataQuality:
    return DataQuality(f"binance archive: {file.name}: {error.message}.", kind=error.kind)


def _made_s(modified: str) -> int:
    """Return until when a file can know: when it was made, or now where it does not say."""
    now_s = int(wall_s())
    try:
        made = parsedate_to_datetime(modified)
    except ValueError:
        return now_s
    return min(now_s, int(made.replace(tzinfo=made.tzinfo or UTC).timestamp()))


def _answer(
    file: ArchiveFile, fetched: Fetched, rows: Rows, defects: list[Defect]
) -> ArchiveAnswer:
    return ArchiveAnswer(
        file,
        rows,
        (*fetched.defects, *defects),
        fetched.sha256,
        len(fetched.body),
        fetched.etag,
        fetched.modified,
        fetched.verified,
    )


def archive_url(kind: Kind) -> str:
    """Return the archive's address: ``archive_http`` of brokers.toml where it is replaced there.

    Where a market itself is replaced by one on this machine, and the archive is not, that one is
    asked for its files too: a stand-in's bars are never mixed with the real venue's.
    """
    table = load_brokers().get(PROVIDER)
    chosen = table.urls.get("archive_http") if table else None
    if chosen:
        return chosen.rstrip("/")
    market = url(kind, "http")
    return market if urlsplit(market).hostname in _THIS_MACHINE else ARCHIVE_URL


@asynccontextmanager
async def open_archive_client(
    symbol: str, *, checksum: ChecksumPolicy = "strict", quarantine: Path | None = None
) -> AsyncIterator[BinanceArchive]:
    """Open the archive of one market, of any of the three kinds; sockets close with the block.

    ``checksum`` says what becomes of files whose checksum does not agree; ``quarantine`` is the
    folder for those that are kept aside (the data directory's ``quarantine/binance`` unless
    given). ``archive_http`` of brokers.toml replaces the archive's address. Raises
    ``SymbolNotFound``, ``DataUnavailable`` for a market that the archive can not name.
    """
    market = await get_mkt_info(symbol)
    if checksum == "quarantine" and quarantine is None:
        quarantine = data_dir() / "quarantine" / PROVIDER
    async with open_rest(
        f"{PROVIDER}.archive",
        archive_url(KINDS[market.address.venue]),
        headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        connections=MAX_FETCHES,
        max_body=MAX_ZIP,
    ) as client:
        yield BinanceArchive(client, market, checksum=checksum, quarantine=quarantine)
