"""Where bars come from besides the store: a venue's archive and its REST interface, as one kind.

A source offers units of a range without asking anybody, and fetches one unit at a time. What it
answers says for which range it speaks, and whether a bar that is not there is known not to exist.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pendulum

from piker.brokers.archive import ArchiveAnswer, ArchiveClient, ArchiveFile, ChecksumPolicy, Defect
from piker.brokers.spec import Backend
from piker.data.history.plan import Unit
from piker.data.history.quality import iso
from piker.data.ranges import Range, subtract
from piker.data.store.manifest import Origin
from piker.data.store.merge import missing_runs
from piker.data.store.series import Series
from piker.errors import DataQuality, DataUnavailable, NoData
from piker.ohlcv import KLINE_DTYPE, Timeframe

__all__ = ["ArchiveSource", "Fetched", "RestSource", "Source", "open_sources", "sound"]

PAGE_ROWS = 1000  # bars of a REST unit where a backend does not say how many it serves
MAX_PAGES = 64  # answers that one unit may take: a backend that never advances is stopped
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
        rows = answer.rows[answer.rows["time"] < end]
        await keep(
            Fetched(
                rows, file.start_s, end, False, "not in the archive's file", answer.defects,
                origin, file.path, answer.size,
            )
        )  # fmt: skip

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

    def __init__(self, series: Series, get_ohlc: Any, config: dict[str, int], page: int) -> None:
        self._series = series
        self._timeframe = series.timeframe
        self._get_ohlc = get_ohlc
        self._page = page
        self.parallel = max(1, min(8, int(config.get("erlangs", 1))))

    def units(self, wanted: Range, now_s: int) -> list[Unit]:
        """Cut a range into pages, the newest first: that is what people look at."""
        grid = self._timeframe.grid(wanted.start, min(wanted.end, self._timeframe.floor(now_s)))
        units = []
        for high in range(len(grid), 0, -self._page):
            low = max(0, high - self._page)
            units.append(Unit(int(grid[low]), self._timeframe.next(int(grid[high - 1]))))
        return units

    async def fetch(self, unit: Unit, now_s: int, keep: Keep) -> None:
        """Ask page by page, backwards, until the unit is answered.

        Bars that are missing within an answer are asked for once more: that the venue has none
        is believed when two answers agree.
        """
        end = unit.end
        for _ in range(MAX_PAGES):
            answer = await self._ask(unit.start, end, now_s)
            await keep(answer)
            if not answer.final:
                await self._second_word(answer, now_s, keep)
            if answer.start_s <= unit.start:
                return
            end = answer.start_s
        raise DataQuality(
            f"{self._series}: {MAX_PAGES} answers did not cover one page.", kind="no-progress"
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
        except DataUnavailable as err:
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


def sound(frame: Rows, timeframe: Timeframe, within: Range) -> tuple[Rows, tuple[Defect, ...]]:
    """Return the bars of a frame that can be, as ``KLINE_DTYPE``, and what was wrong with others.

    Ascending, unique, on the grid, within the range; of bars of one time that differ none is
    trusted. Fields that the frame does not have are NaN, ``count`` -1.
    """
    rows = np.zeros(len(frame), KLINE_DTYPE)
    given = frame.dtype.names or ()
    for name in KLINE_DTYPE.names or ():
        if name in given:
            rows[name] = frame[name]
        elif name == "count":
            rows[name] = -1
        elif name != "index":
            rows[name] = np.nan
    if "turnover" not in given and "bar_wap" in given:
        rows["turnover"] = rows["bar_wap"] * rows["volume"]
    rows["index"] = 0
    defects: list[Defect] = []

    def drop(bad: Any, kind: str) -> None:
        nonlocal rows
        count = int(bad.sum())
        if count:
            defects.append(Defect(kind, count, str(rows[np.argmax(bad)])[:120]))
            rows = rows[~bad]

    drop(~timeframe.on_grid(rows["time"]), "off-grid")
    drop((rows["time"] < within.start) | (rows["time"] >= within.end), "out-of-range")
    drop(~possible(rows), "impossible-bar")
    if (np.diff(rows["time"]) < 0).any():
        defects.append(Defect("unsorted", int((np.diff(rows["time"]) < 0).sum())))
        rows = rows[np.argsort(rows["time"], kind="stable")]
    same = (
        np.append(False, rows["time"][1:] == rows["time"][:-1]) if len(rows) else np.zeros(0, bool)
    )
    if same.any():
        rows, found = _unique(rows, same)
        defects += found
    return rows, tuple(defects)


def possible(rows: Rows) -> Any:
    """Tell for each bar whether a market could have had it."""
    low, high = rows["low"], rows["high"]
    good = (low > 0) & (high < np.inf) & (low <= high)
    for name in ("open", "close"):
        good &= (rows[name] >= low) & (rows[name] <= high)
    return good & (rows["volume"] >= 0) & (rows["volume"] < np.inf)


def _unique(rows: Rows, same: Any) -> tuple[Rows, list[Defect]]:
    """Leave out repeated bars; where they differ, all of that time."""
    times = np.unique(rows["time"][same])
    quarrel = [int(time) for time in times if len(np.unique(rows[rows["time"] == time])) > 1]
    kept = rows[~same & ~np.isin(rows["time"], quarrel)]
    defects = [Defect("duplicate", int(same.sum()), str(int(times[0])))]
    if quarrel:
        defects.append(Defect("contradiction", len(quarrel), str(quarrel[0])))
    return kept, defects


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
    """Open the named sources that a backend has, in the order of ``names``."""
    found: dict[str, Source] = {}
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
                get_ohlc, config = await stack.enter_async_context(
                    backend.open_history_client(series.market)
                )
                page = backend.capabilities.history_rows or PAGE_ROWS
                found[name] = RestSource(series, get_ohlc, config, page)
        yield found
