"""The loopback Binance's bulk archive, as data.binance.vision serves it: zips with a CHECKSUM each.

Files are made when they are asked for, off the venue's own thread where they lie in the past, and
kept within a bound. A file is there from a stated time on, and the same bytes for ever.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from xml.sax.saxutils import escape

import msgspec
import trio

from piker.clock import wall_ns
from piker.ohlcv import Timeframe
from piker.testing.bar_flaws import flawed_rows
from piker.testing.binance_archive_csv import agg_trade_chunks, funding_chunks, kline_chunks
from piker.testing.binance_archive_index import index
from piker.testing.binance_archive_zip import ZipMaker, zip_bomb
from piker.testing.binance_market import Listing
from piker.testing.faults import FILE_FLAWS, Fault
from piker.testing.requests import Reply, Request

__all__ = ["LATE_S", "Archive", "Wanted", "wanted"]

LATE_S = 7200.0  # a day's file is there at 02:00 of the next day: our choice, the venue says "next"
CACHE_BYTES = 256 << 20  # of zips that are kept; a year of one market's minutes is 20 MB
MAKERS = 2  # files that are made at the same time
DAY_S = 86_400
_KINDS = {"spot": "spot", "futures/um": "usdm", "futures/cm": "coinm"}
_DAILY = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")
_MONTHLY = (*_DAILY, "3d", "1w", "1mo")
_PATH = re.compile(
    r"/data/(spot|futures/um|futures/cm)/(daily|monthly)/(klines|aggTrades|fundingRate)"
    r"/([A-Z0-9_.]{1,30})(?:/(\w{2,3}))?/\4-(\w+)-(\d{4}-\d{2}(?:-\d{2})?)\.zip(\.CHECKSUM)?",
    re.ASCII,
)


class Wanted(msgspec.Struct, frozen=True):
    """What a path of the archive asks for. ``path`` is the zip's, ``timeframe`` that of bars."""

    path: str
    kind: str
    data: str
    symbol: str
    start_s: int
    end_s: int
    timeframe: Timeframe | None
    monthly: bool
    checksum: bool

    @property
    def stem(self) -> str:
        """Return the file's name without its ending."""
        return self.path.rpartition("/")[2].removesuffix(".zip")

    @property
    def last_s(self) -> int:
        """Return when its last row is final: a bar may end later than the period."""
        return self.end_s if self.timeframe is None else self.timeframe.next(self.end_s - 1)

    def there_from_s(self, late_s: float) -> float:
        """Return when the file appears: a month's on the next one's first Monday."""
        end_s = self.end_s
        if self.monthly:
            after = datetime.fromtimestamp(end_s, UTC)
            end_s += (7 - after.weekday()) % 7 * DAY_S
        return max(end_s, self.last_s) + late_s


def wanted(path: str) -> Wanted | None:
    """Return what a path asks for; None where the archive never has such a file."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    market, period, data, symbol, interval, what, when, checksum = match.groups()
    kind, monthly = _KINDS[market], period == "monthly"
    if what != (interval if data == "klines" else data) or (data != "klines" and interval):
        return None
    seconds = ("1s",) if kind == "spot" else ()
    if data == "klines" and interval not in seconds + (_MONTHLY if monthly else _DAILY):
        return None
    if data == "fundingRate" and (not monthly or kind == "spot"):
        return None
    span = _span(when, monthly)
    if span is None:
        return None
    return Wanted(
        path.removesuffix(".CHECKSUM"), kind, data, symbol, *span,
        Timeframe(interval.replace("mo", "M")) if interval else None, monthly, bool(checksum),
    )  # fmt: skip


def _span(text: str, monthly: bool) -> tuple[int, int] | None:
    """Return the seconds [start, end) of a day or a month."""
    form = "%Y-%m" if monthly else "%Y-%m-%d"
    try:
        begin = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
    if begin.strftime(form) != text or not 1970 <= begin.year < 2100:
        return None
    end = begin + timedelta(days=32 if monthly else 1)
    end = end.replace(day=1) if monthly else end
    return int(begin.timestamp()), int(end.timestamp())


class _File(msgspec.Struct, frozen=True):
    """A zip with what is told of it."""

    body: bytes
    sha256: str
    etag: str


class Archive:
    """The files of one venue. ``late_s``: how long after the end of a period they appear."""

    def __init__(
        self, listings: Mapping[tuple[str, str], Listing], *, late_s: float = LATE_S
    ) -> None:
        self.late_s = late_s
        self._listings = listings
        self._kept: OrderedDict[tuple[str, ...], _File] = OrderedDict()
        self._kept_bytes = 0
        self._making: dict[tuple[str, ...], trio.Event] = {}
        self._limiter = trio.CapacityLimiter(MAKERS)

    def index(self, request: Request) -> Reply:
        """Answer a request for the names of files (piker/testing/binance_archive_index.py)."""
        return index(request.params, self._listings, wall_ns() / 1e9 - self.late_s)

    async def answer(self, request: Request) -> Reply:
        """Answer a request below ``/data/``; what is not there is 404 in S3's words."""
        if request.method not in ("GET", "HEAD"):
            return _refused(405, "MethodNotAllowed", "The method is not allowed.", request.path)
        want = wanted(request.path)
        flaws: dict[str, Fault] = {fault.what: fault for fault in request.flaws}
        listing = self._listings.get((want.kind, want.symbol)) if want is not None else None
        if want is None or listing is None or flaws.keys() & {"missing-day", "no-checksum"}:
            return _missing(request.path)
        if want.timeframe is not None:
            want = msgspec.structs.replace(want, timeframe=listing.grid(str(want.timeframe)))
        there_s = want.there_from_s(self.late_s)
        if wall_ns() < there_s * 1e9:
            return _missing(request.path)
        file = await self._file(want, listing, [f for f in request.flaws if f.what in FILE_FLAWS])
        if file is None:
            return _missing(request.path)
        if want.checksum or "truncated-zip" in flaws:
            body = _checksum(file, want, flaws) if want.checksum else _half(file.body)
            file = _File(body, "", _etag(body))
        return _reply(request, file, want.checksum, there_s)

    async def _file(self, want: Wanted, listing: Listing, flaws: list[Fault]) -> _File | None:
        """Return a file, made when it is not kept; who asks meanwhile waits for it."""
        until = str(listing.ended_s)  # a market that is delisted has another file from then on
        key = (want.path, until, *sorted(f"{fault.what} {fault.part}" for fault in flaws))
        while key in self._making:
            await self._making[key].wait()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._making[key] = trio.Event()
        try:
            body = await self._made(want, listing, flaws)
        finally:
            self._making.pop(key).set()
        if body is None:
            return None
        file = _File(body, hashlib.sha256(body).hexdigest(), _etag(body))
        self._keep(key, file)
        return file

    def _keep(self, key: tuple[str, ...], file: _File) -> None:
        self._kept[key] = file
        self._kept_bytes += len(file.body)
        while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.body)

    async def _made(self, want: Wanted, listing: Listing, flaws: list[Fault]) -> bytes | None:
        """Make a zip, a piece at a time; None where it would hold nothing."""
        name, whats = want.stem, {str(fault.what): fault for fault in flaws}
        if "wrong-symbol" in whats and want.timeframe is not None:
            listing, symbol = self._another(listing, want.timeframe)
            name = name.replace(want.symbol, symbol, 1)
        chunks = _chunks(want, listing)
        if whats:
            chunks = _flawed(want, chunks, whats)
        maker = ZipMaker(f"{name}.csv", want.end_s, whats)
        sizes = []

        def step() -> bool:
            chunk = next(chunks, None)
            if chunk is not None:
                maker.write(chunk)
                sizes.append(len(chunk))
            return chunk is not None

        # What the flow still adds to is read on the venue's own thread alone.
        still = listing.given is not None or listing.ended_s > 0
        settled = still or want.last_s <= listing.market.start_s
        while await trio.to_thread.run_sync(step, limiter=self._limiter) if settled else step():
            await trio.lowlevel.checkpoint()
        body = maker.close()
        bomb = whats.get("zip-bomb")
        if sizes and bomb is not None:
            return zip_bomb(f"{name}.csv", bomb, honest_size=sum(sizes))
        return body if sizes else None

    def _another(self, listing: Listing, timeframe: Timeframe) -> tuple[Listing, str]:
        """Return another market that has such bars, with its name; an invented one if none has."""
        for other in self._listings.values():
            has = other.given is None or str(timeframe) in other.given
            if other.kind == listing.kind and other is not listing and has:
                return other, other.wire
        return listing, f"X{listing.wire}"


def _chunks(want: Wanted, listing: Listing) -> Iterator[bytes]:
    if want.timeframe is not None:
        return kline_chunks(listing, want.timeframe, want.start_s, want.end_s)
    end_s = min(want.end_s, listing.ended_s or want.end_s)
    if want.data == "fundingRate":
        return funding_chunks(listing, want.start_s, end_s)
    if listing.given is not None or want.end_s > listing.market.start_s:
        return iter(())  # only the synthetic past has them
    return agg_trade_chunks(listing, want.start_s, end_s)


def _flawed(want: Wanted, chunks: Iterator[bytes], whats: Mapping[str, Fault]) -> Iterator[bytes]:
    """Yield the whole file at once, with its rows made wrong."""
    lines = b"".join(chunks).decode().splitlines()
    if not lines:
        return
    head = 0 if lines[0][0].isdigit() else 1
    rows = flawed_rows([line.split(",") for line in lines[head:]], whats, want.timeframe)
    yield "".join(
        f"{line}\n" for line in [*lines[:head], *(",".join(row) for row in rows)]
    ).encode()


def _checksum(file: _File, want: Wanted, flaws: Mapping[str, Fault]) -> bytes:
    told = file.sha256
    if "bad-checksum" in flaws:
        told = hashlib.sha256(told.encode()).hexdigest()
    return f"{told}  {want.stem}.zip\n".encode()


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _reply(request: Request, file: _File, checksum: bool, there_s: float) -> Reply:
    headers = {"ETag": file.etag, "Last-Modified": formatdate(there_s, usegmt=True)}
    known = [tag.strip().removeprefix("W/") for tag in
             request.headers.get("if-none-match", "").split(",")]  # fmt: skip
    if file.etag in known or "*" in known:
        return Reply(304, b"", headers)
    kind = "binary/octet-stream" if checksum else "application/zip"
    return Reply(200, file.body, {"Content-Type": kind, **headers})


def _missing(path: str) -> Reply:
    return _refused(404, "NoSuchKey", "The specified key does not exist.", path)


def _refused(status: int, code: str, text: str, path: str) -> Reply:
    key = escape(path.removeprefix("/"))
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{text}</Message><Key>{key}</Key>"
        "<RequestId>0</RequestId><HostId>loopback</HostId></Error>"
    )
    return Reply(status, body.encode(), {"Content-Type": "application/xml"})
