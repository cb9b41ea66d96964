"""Where bars come from besides the store: a venue's archive and its REST interface, as one kind.

A source offers units of a range without asking anybody, and fetches one unit at a time. What it
answers says for which range it speaks, and whether a bar that is not there is known not to exist.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pendulum

from piker.brokers.archive import ArchiveAnswer, ArchiveClient, ArchiveFile, ChecksumPolicy, Defect
from piker.brokers.spec import Backend
from piker.brokers.traffic import Moved, count_bytes
from piker.data.history.compose import Composer, finer_of
from piker.data.history.plan import Unit
from piker.data.history.quality import iso
from piker.data.history.sound import sound
from piker.data.ranges import Range, subtract
from piker.data.store.manifest import Origin
from piker.data.store.merge import missing_runs
from piker.data.store.series import Series
from piker.errors import (
    BrokerError,
    DataQuality,
    DataUnavailable,
    NoData,
    NotOffered,
    SymbolNotFound,
    Transient,
)
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = [
    "AbsentSource",
    "ArchiveSource",
    "ComposedSource",
    "Fetched",
    "RestSource",
    "Source",
    "open_sources",
]

PAGE_ROWS = 1000  # bars of a REST unit where a backend does not say how many it serves
MAX_PAGES = 64  # answers that one unit may take: half an hour of Kraken's trades
HARMLESS = ("duplicate", "unsorted", "out-of-range")  # defects that cost no bar of the range
SETTLE_S = 60  # a bar that closed less than this ago may not be in the venue's answers yet

_NONE = np.zeros(0, KLINE_DTYPE)

Rows = np.ndarray[Any, np.dtype[Any]]


class Fetched(msgspec.Struct, frozen=True):
    """What a source answered: rows, and the range for which they are all that it has.

    ``final`` tells whether a bar of the range that is not among them does not exist, because
    ``why``.
    """

    rows: Rows
    start_s: int
    end_s: int
    final: bool
    why: str = ""
    defects: tuple[Defect, ...] = ()
    origin: Origin | None = None
    place: str = ""  # the file, or the page
    bytes: int = 0


#: Takes what was fetched: it is stored when this returns.
Keep = Callable[[Fetched], Awaitable[None]]


class Source(Protocol):
    """One place that bars come from."""

    name: str
    parallel: int  # units that may be fetched at once

    def units(self, wanted: Range, now_s: int) -> list[Unit]:
        """Return the units that hold what this source may have of a range. Pure."""
        ...

    async def fetch(self, unit: Unit, now_s: int, keep: Keep) -> None:
        """Ask for one unit, give each answer to ``keep``; raises what the toolkit raises."""
        ...


# -- the archive -----------------------------------------------------------------------------------
class ArchiveSource:
    """A venue's bulk files."""

    name = "archive"
    parallel = 6

    def __init__(self, series: Series, client: ArchiveClient) -> None:
        self._series = series
        self._client = client

    def units(self, wanted: Range, now_s: int) -> list[Unit]:
        """Return a unit for each file."""
        files = self._client.files(self._series.timeframe, *wanted, now_s=now_s)
        return [Unit(file.start_s, file.end_s, file) for file in files]

    async def fetch(self, unit: Unit, now_s: int, keep: Keep) -> None:
        """Fetch a file: all of it, whatever is wanted of it."""
        file: ArchiveFile = unit.payload
        try:
            answer = await self._client.fetch(file)
        except (NoData, DataQuality):
            days = self._client.days_of(file, now_s=now_s)
            if not days:
                raise
            for day in days:  # a month that is missing or broken is had day by day
                await self._fetch_one(day, now_s, keep)
            return
        await self._keep(file, answer, now_s, keep)

    async def _fetch_one(self, file: ArchiveFile, now_s: int, keep: Keep) -> None:
        try:
            answer = await self._client.fetch(file)
        except NoData:
            return
        await self._keep(file, answer, now_s, keep)

    async def _keep(self, file: ArchiveFile, answer: ArchiveAnswer, now_s: int, keep: Keep) -> None:
        origin = Origin(
            file.path, self.name, file.start_s, file.end_s, answer.sha256, answer.etag,
            answer.verified,
        )  # fmt: skip
        end = min(file.end_s, self._series.timeframe.floor(now_s))
        rows, off_grid = self._on_grid(answer.rows[: np.searchsorted(answer.rows["time"], end)])
        await keep(
            Fetched(
                rows, file.start_s, end, False, "not in the archive's file",
                (*answer.defects, *off_grid), origin, file.path, answer.size,
            )
        )  # fmt: skip

    def _on_grid(self, rows: Rows) -> tuple[Rows, list[Defect]]:
        """Leave out bars of another phase than the market's: a file knows nothing of that."""
        if self._series.origin_s is None:
            return rows, []
        good = self._series.timeframe.on_grid(rows["time"])
        if good.all():
            return rows, []
        off = rows[~good]
        return rows[good], [Defect("off-grid", len(off), iso(int(off["time"][0])))]

    def file_of(self, origin: Origin) -> ArchiveFile:
        """Return the file that bars came from."""
        return ArchiveFile(
            origin.path, "klines", self._series.interval, origin.start_s, origin.end_s
        )

    async def changed(self, origin: Origin) -> bool:
        """Ask whether the venue has another file in the place of one that bars came from."""
        return await self._client.changed(self.file_of(origin), origin.etag)


# -- REST ----------------------------------------------------------------------------------------
class RestSource:
    """A backend's history client, as seed 002 says: any backend has one."""

    name = "rest"

    def __init__(
        self, series: Series, get_ohlc: Any, config: dict[str, int], page: int,
        *, offered: bool = True,
    ) -> None:  # fmt: skip
        self._series = series
        self._offered = offered  # whether the backend says that it has bars of this length
        self._timeframe = series.timeframe
        self._get_ohlc = get_ohlc
        self._page = page
        self.parallel = max(1, min(8, int(config.get("erlangs", 1))))

    def units(self, wanted: Range, now_s: int) -> list[Unit]:
        """Cut a range into pages, the newest first: that is what people look at."""
        return _pages(self._timeframe, wanted, now_s, self._page)

    async def fetch(self, unit: Unit, now_s: int, keep: Keep) -> None:
        """Ask page by page, backwards, until the unit is answered.

        Bars that are missing within an answer are asked for once more: that the venue has none
        is believed when two answers agree. Raises ``Transient`` after ``MAX_PAGES`` answers, each
        of which brought a bar at least.
        """
        with count_bytes() as moved:
            try:
                await self._walk(unit, now_s, partial(_weigh, moved, keep))
            except BrokerError:
                await keep(Fetched(_NONE, unit.start, unit.start, False, bytes=moved.take()))
                raise

    async def _walk(self, unit: Unit, now_s: int, keep: Keep) -> None:
        end = unit.end
        for _ in range(MAX_PAGES):
            answer = await self._ask(unit.start, end, now_s)
            await keep(answer)
            if not answer.final:
                await self._second_word(answer, now_s, keep)
            if answer.start_s <= unit.start:
                return
            end = answer.start_s
        raise Transient(
            f"{self._series}: {MAX_PAGES} answers brought what opens from {iso(end)} on; "
            "asking again brings more."
        )

    async def _second_word(self, first: Fetched, now_s: int, keep: Keep) -> None:
        span = Range(first.start_s, first.end_s)
        holes = missing_runs(self._timeframe, first.rows["time"], span) if span[0] < span[1] else []
        if not holes:
            return
        if refused := [one for one in first.defects if one.kind not in HARMLESS]:
            said = ", ".join(f"{one.count} {one.kind}" for one in refused)
            raise DataQuality(f"{self._series}: bars were refused ({said}).", kind="refused")
        start, end = holes[0].start, holes[-1].end
        second = await self._ask(start, end, now_s)
        had = np.setdiff1d(second.rows["time"], first.rows["time"])
        if len(had):
            await keep(second)
            left = subtract(holes, [(int(t), self._timeframe.next(int(t))) for t in had])
            if left:
                raise DataQuality(
                    f"{self._series}: two answers differ in which bars there are.",
                    kind="contradiction",
                )
            return
        for hole in holes:
            until = min(hole.end, second.end_s)
            await keep(Fetched(_NONE, hole.start, until, True, "the venue has no bar there"))

    async def _ask(self, start_s: int, end_s: int, now_s: int) -> Fetched:
        timeframe = self._timeframe
        settled = timeframe.floor(now_s - SETTLE_S)
        try:
            frame, _, _ = await self._get_ohlc(
                float(timeframe.seconds),
                end_dt=pendulum.from_timestamp(end_s),
                start_dt=pendulum.from_timestamp(start_s),
            )
        except NoData:
            return Fetched(_NONE, start_s, max(start_s, min(end_s, settled)), False)
        except SymbolNotFound as err:  # listed, as one that is traded no more
            raise NotOffered(err.message) from err
        except DataUnavailable as err:
            if isinstance(err, NotOffered) or not self._offered:
                raise  # bars may exist: nothing is remembered of them
            return Fetched(_NONE, start_s, end_s, True, err.message)
        rows, defects = sound(frame, timeframe, Range(start_s, end_s))
        if not len(rows):
            raise DataQuality(
                f"{self._series}: no bar of the answer is one of the range.", kind="bad-answer"
            )
        # It speaks from its first bar on: it may be the newest part of what was asked for.
        begin = int(rows["time"][0])
        end = min(end_s, max(timeframe.next(int(rows["time"][-1])), settled))
        return Fetched(rows, begin, end, False, "", defects, place=f"page of {iso(begin)}")


def _pages(timeframe: Timeframe, wanted: Range, now_s: int, page: int) -> list[Unit]:
    """Return the closed bars of a range as units of so many bars, the newest first."""
    grid = timeframe.grid(wanted.start, min(wanted.end, timeframe.floor(now_s)))
    units = []
    for high in range(len(grid), 0, -page):
        low = max(0, high - page)
        units.append(Unit(int(grid[low]), timeframe.next(int(grid[high - 1]))))
    return units


async def _weigh(moved: Moved, keep: Keep, fetched: Fetched) -> None:
    """Pass an answer on with the bytes that were moved for it."""
    await keep(msgspec.structs.replace(fetched, bytes=moved.take()))


class ComposedSource:
    """Bars that a venue lacks, composed of the shorter ones that it has.

    Each long bar is given as soon as it is whole, so that what was fetched for it stays. That one
    does not exist is said when none of its short ones does.
    """

    name = "rest"

    def __init__(self, series: Series, finer: Series, source: RestSource, page: int) -> None:
        self._timeframe, self._finer = series.timeframe, finer.timeframe
        self._source = source
        self._page = max(1, page * self._finer.seconds // self._timeframe.seconds)
        self.parallel = source.parallel

    def units(self, wanted: Range, now_s: int) -> list[Unit]:
        """Cut a range into as many bars as an answer of short ones makes, the newest first."""
        return _pages(self._timeframe, wanted, now_s, self._page)

    async def fetch(self, unit: Unit, now_s: int, keep: Keep) -> None:
        """Fetch the short bars of a unit; raises what their source raises."""
        within = Range(unit.start, unit.end)
        composer = Composer(self._timeframe, self._finer, within)
        whys: list[str] = []

        async def take(short: Fetched) -> None:
            spent = Fetched(
                _NONE, short.start_s, short.start_s, False, "", short.defects,
                place=short.place, bytes=short.bytes,
            )  # fmt: skip
            await keep(spent)
            absent = [(short.start_s, short.end_s)] if short.final else []
            whys.extend([short.why] if short.final else [])
            for bar in composer.add(short.rows, absent):
                gone = not len(bar.rows)
                why = whys[-1] if gone and whys else ""
                await keep(Fetched(bar.rows, bar.start_s, bar.end_s, gone, why))

        for part in self._source.units(within, now_s):
            await self._source.fetch(part, now_s, take)


class AbsentSource:
    """In place of a REST interface that knows a market no more, to say so of what is missing."""

    name = "rest"
    parallel = 1

    def __init__(self, why: str) -> None:
        self._why = why

    def units(self, wanted: Range, now_s: int) -> list[Unit]:
        """Return the range: what nobody else has."""
        return [Unit(*wanted)]

    async def fetch(self, unit: Unit, now_s: int, keep: Keep) -> None:
        """Say why there is nothing, without a request: a hole that the next call asks for again."""
        await keep(Fetched(_NONE, unit.start, unit.end, False, self._why))


# -- opening -------------------------------------------------------------------------------------
@asynccontextmanager
async def open_sources(
    backend: Backend,
    series: Series,
    names: tuple[str, ...],
    *,
    checksum: ChecksumPolicy = "strict",
    quarantine: Path | None = None,
) -> AsyncIterator[dict[str, Source]]:
    """Open the named sources that a backend has, in the order of ``names``.

    A market that only its archive knows has an ``AbsentSource`` for REST; ``SymbolNotFound`` is
    raised when nobody knows it.
    """
    found: dict[str, Source] = {}
    unknown: SymbolNotFound | None = None
    async with AsyncExitStack() as stack:
        for name in names:
            if name == "archive" and backend.open_archive_client is not None:
                archive = await stack.enter_async_context(
                    backend.open_archive_client(
                        series.market, checksum=checksum, quarantine=quarantine
                    )
                )
                found[name] = ArchiveSource(series, archive)
            elif name == "rest":
                try:
                    get_ohlc, config = await stack.enter_async_context(
                        backend.open_history_client(series.market)
                    )
                except SymbolNotFound as err:
                    unknown = err
                    why = f"{series.fqme} is listed no more: its archive is all there is"
                    found[name] = AbsentSource(why)
                    continue
                found[name] = _rest_source(backend, series, get_ohlc, config)
        if unknown is not None and "archive" not in found:
            raise unknown
        yield found


def _rest_source(
    backend: Backend, series: Series, get_ohlc: Any, config: dict[str, int]
) -> RestSource | ComposedSource:
    """Return the source of a series: the venue's own bars, or what can be composed of them."""
    page = backend.capabilities.history_rows or PAGE_ROWS
    native = backend.capabilities.history_native
    finer = None if series.interval in native else finer_of(series.timeframe, native)
    if finer is None:
        offered = series.interval in backend.capabilities.history
        return RestSource(series, get_ohlc, config, page, offered=offered)
    short = Series(series.provider, series.market, str(finer))
    return ComposedSource(series, short, RestSource(short, get_ohlc, config, page), page)
