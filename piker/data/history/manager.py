"""One call for history: what the store has, and what it has not from archive and REST.

    manager = HistoryManager(load_backend("binance"), Store())
    history = await manager.get("btcusdt.spot", "1m", start_s, end_s)
    history.polars(), history.report

Whatever is fetched is stored before it is returned, so that a call that is cancelled or killed
goes on where it was. Half-open ranges of open times; closed bars only.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa
import trio

from piker import clock
from piker.brokers.archive import ChecksumPolicy
from piker.brokers.spec import Backend
from piker.data.history import frame
from piker.data.history.missing import explain
from piker.data.history.plan import Step, Unit, needed, plan
from piker.data.history.quality import FileDefect, Report, iso
from piker.data.history.sources import ArchiveSource, Fetched, Source, open_sources
from piker.data.ranges import Range, intersect, union
from piker.data.store import maintenance
from piker.data.store.segment import rows_of
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store, Stored
from piker.errors import (
    BrokerError,
    DataQuality,
    DataUnavailable,
    HistoryError,
    NoData,
    RangeError,
    StoreError,
    Transient,
)
from piker.log import get_logger
from piker.ohlcv import Timeframe

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["SOURCES", "History", "HistoryManager", "Progress", "aligned"]

log = get_logger("history")

SOURCES = ("archive", "rest")  # the order in which they are asked
GIVE_UP = 4  # units that a source could not give in a row: it is not asked for more in that call
OWN_GRID = ("3d",)  # bars that each market counts from a day of its own
RECENT_S = 7 * 86_400  # of younger ranges nobody asks whether the market was listed by then
MAX_PASSES = 12  # plans of one call: each failure of a source makes another one


class Progress(NamedTuple):
    """How far a call is: bars that are settled (there, or known to be missing) of all."""

    done: int
    total: int
    source: str


class History(msgspec.Struct, frozen=True):
    """Bars of one range and what is known about them. ``table`` is of the store's ``SCHEMA``."""

    series: Series
    table: pa.Table
    report: Report

    def polars(self) -> pl.DataFrame:
        """Return a polars frame; columns are the store's memory, not copies."""
        return frame.to_polars(self.table)

    def pandas(self) -> pd.DataFrame:
        """Return a pandas frame indexed by ``open_time``."""
        return frame.to_pandas(self.table)

    def rows(self) -> Rows:
        """Return ``KLINE_DTYPE`` rows, a copy."""
        return rows_of(self.table)[0]


class _Attempt(msgspec.Struct):
    """What one call has learnt of the sources so far."""

    series: Series
    request: Range
    now_s: int
    report: Report
    store: Store
    failed: dict[str, list[Range]]
    excuses: list[tuple[Range, str, str]]  # range, why, detail
    progress: Callable[[Progress], None] | None
    in_a_row: Counter[str] = msgspec.field(default_factory=Counter)  # failures, by source
    broken: StoreError | None = None  # what ended the call: the store can not be written


class HistoryManager:
    """History of one backend's markets, from its store, archive and REST interface."""

    def __init__(
        self,
        backend: Backend,
        store: Store | None = None,
        *,
        checksum: ChecksumPolicy = "strict",
        quarantine: Path | None = None,
    ) -> None:
        self.backend = backend
        self.store = store or Store()
        self._checksum = checksum
        self._quarantine = quarantine or self.store.root / "quarantine"

    # -- the call ----------------------------------------------------------------------------
    async def get(
        self,
        market: str,
        interval: str,
        start_s: int,
        end_s: int,
        *,
        sources: Sequence[str] = SOURCES,
        use_store: bool = True,
        recheck: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> History:
        """Return the closed bars that open in [start_s, end_s).

        ``sources`` are asked, in this order, for what the store does not have; none of them means
        offline. Without ``use_store`` nothing is read from or kept in the store. ``recheck`` asks
        the archive whether files that bars came from were replaced, and takes the new ones.

        Raises ``RangeError`` for a range that makes no sense, ``SymbolNotFound``, ``StoreError``,
        and ``HistoryError``, which carries what was obtained, when bars that may exist could not
        be had. Cancellation keeps what was stored.
        """
        aligned(Series(self.backend.name, market, interval).timeframe, start_s, end_s)
        series = await self._series(market, interval, start_s, online=bool(sources))
        request = aligned(series.timeframe, start_s, end_s)
        begun_ns, now_s = clock.monotonic_ns(), clock.wall_ns() // clock.NS
        report = Report(series, *request)
        report.expected = series.timeframe.count_between(*request)
        closed = Range(request.start, min(request.end, series.timeframe.floor(now_s)))
        if use_store:
            stored = await self._fill(series, closed, now_s, report, sources, recheck, progress)
        else:
            with tempfile.TemporaryDirectory(prefix="piker-history-") as folder:
                apart = HistoryManager(
                    self.backend, Store(Path(folder)), checksum=self._checksum,
                    quarantine=self._quarantine,
                )  # fmt: skip
                try:
                    stored = await apart._fill(
                        series, closed, now_s, report, sources, recheck, progress
                    )
                finally:
                    apart.store.close()
        report.rows = stored.table.num_rows
        report.fetched = [
            (*span, name)
            for name in report.sources
            for span in union(part[:2] for part in report.fetched if part[2] == name)
        ]
        report.elapsed_s = (clock.monotonic_ns() - begun_ns) / clock.NS
        history = History(series, stored.table, report)
        reasons = {one.why for one in report.missing}
        if not report.rows and reasons == {"not-listed"}:
            raise DataUnavailable(
                f"{series}: there are no bars before {iso(stored.coverage.listed_s or 0)}.",
                remedy="Ask for a later range.",
            )
        if any(one.why in ("failed", "refused") for one in report.missing):
            raise HistoryError(report.sentence(), partial=history, remedy="Ask again later.")
        return history

    # -- the series --------------------------------------------------------------------------
    def _known(self, market: str, interval: str) -> Series:
        """Return the series on the grid that is known of it."""
        series = Series(self.backend.name, market, interval)
        number = self.store.manifest.find(series)
        if number is None or interval not in OWN_GRID:
            return series
        return msgspec.structs.replace(series, origin_s=self.store.manifest.listing(number)[1])

    async def _series(self, market: str, interval: str, start_s: int, *, online: bool) -> Series:
        """Return the series; ask once when its history begins, and on which grid its bars open."""
        series = await trio.to_thread.run_sync(self._known, market, interval)
        number = self.store.manifest.find(series)
        known = number is not None and self.store.manifest.listing(number)[0] is not None
        recent = start_s > clock.wall_s() - RECENT_S and interval not in OWN_GRID
        if known or recent or not online or self.backend.fetch_first_open is None:
            return series
        own = interval if interval in OWN_GRID else "1d"
        try:
            first: int = await self.backend.fetch_first_open(market, own)
        except BrokerError as err:
            log.info("history.listing", series=series, why=str(err))
            return series
        origin = first if interval in OWN_GRID else None
        series = msgspec.structs.replace(series, origin_s=origin)
        listed = series.timeframe.floor(first)
        await trio.to_thread.run_sync(self._keep_listing, series, listed, origin)
        return series

    def _keep_listing(self, series: Series, listed_s: int, origin_s: int | None) -> None:
        manifest = self.store.manifest
        with manifest.commit():
            manifest.set_listing(manifest.add(series), listed_s, origin_s)

    def stored(self, market: str, interval: str, start_s: int, end_s: int) -> History | None:
        """Return the range if the store has all of it, else None. Blocks, for a millisecond."""
        series = self._known(market, interval)
        request = aligned(series.timeframe, start_s, end_s)
        stored = self.store.read(series, *request)
        if stored.damaged or needed(request, stored.coverage):
            return None
        report = Report(series, *request, rows=stored.table.num_rows, stored=stored.table.num_rows)
        report.expected = series.timeframe.count_between(*request)
        report.missing = explain(series, request, request, stored, [], offline=False)
        return History(series, stored.table, report)

    async def _fill(
        self, series: Series, request: Range, now_s: int, report: Report,
        sources: Sequence[str], recheck: bool, progress: Callable[[Progress], None] | None,
    ) -> Stored:  # fmt: skip
        whole = Range(report.start_s, report.end_s)
        if request.start >= request.end:
            stored = await trio.to_thread.run_sync(self.store.read, series, *whole)
            report.missing = explain(series, whole, request, stored, [], offline=not sources)
            return stored
        attempt = _Attempt(series, request, now_s, report, self.store, {}, [], progress)
        stored = await trio.to_thread.run_sync(self.store.read, series, *request)
        report.damaged += stored.damaged
        report.stored = stored.table.num_rows
        if sources and (recheck or needed(request, stored.coverage)):
            await self._ask(attempt, tuple(sources), recheck)
            await trio.to_thread.run_sync(maintenance.compact, self.store, series)
            stored = await trio.to_thread.run_sync(self.store.read, series, *request)
            report.damaged += stored.damaged
        report.missing = explain(
            series, whole, request, stored, attempt.excuses, offline=not sources
        )
        return stored

    # -- fetching ----------------------------------------------------------------------------
    async def _ask(self, attempt: _Attempt, sources: tuple[str, ...], recheck: bool) -> None:
        try:
            async with open_sources(
                self.backend, attempt.series, sources, checksum=self._checksum,
                quarantine=self._quarantine,
            ) as opened:  # fmt: skip
                await self._skip_known_files(attempt, opened, recheck)
                await self._fetch_all(attempt, opened)
        except BrokerError as err:  # the venue can not even be asked what it lists
            attempt.excuses.append((attempt.request, "failed", err.message))
        if attempt.broken is not None:
            raise attempt.broken

    async def _skip_known_files(
        self, attempt: _Attempt, opened: dict[str, Source], recheck: bool
    ) -> None:
        """Do not ask the archive again for files that are stored, unless they were replaced."""
        archive = opened.get("archive")
        number = self.store.manifest.find(attempt.series)
        if not isinstance(archive, ArchiveSource) or number is None:
            return
        known = attempt.failed.setdefault("archive", [])
        for origin in self.store.manifest.origins(number, *attempt.request):
            covered = self.store.coverage(attempt.series, origin.start_s, origin.end_s).covered
            span = Range(origin.start_s, origin.end_s)
            try:
                changed = recheck and await archive.changed(origin)
            except BrokerError as err:
                attempt.excuses.append((span, "failed", err.message))
                continue
            if changed:
                attempt.report.replaced += 1
                unit = Unit(*span, archive.file_of(origin))
                await self._one(attempt, archive, Step("archive", unit, (span,)))
            known += intersect(covered, [span])

    async def _fetch_all(self, attempt: _Attempt, opened: dict[str, Source]) -> None:
        limits = {name: trio.CapacityLimiter(source.parallel) for name, source in opened.items()}
        for _ in range(MAX_PASSES):
            coverage = await trio.to_thread.run_sync(
                self.store.coverage, attempt.series, *attempt.request
            )
            wanted = needed(attempt.request, coverage)
            offers = {
                name: partial(source.units, now_s=attempt.now_s) for name, source in opened.items()
            }
            steps = plan(wanted, offers, attempt.failed).steps
            if not steps:
                return
            async with trio.open_nursery() as nursery:
                for step in steps:
                    nursery.start_soon(self._limited, attempt, opened, limits, step)
            if attempt.broken is not None:
                return

    async def _limited(
        self, attempt: _Attempt, opened: dict[str, Source],
        limits: dict[str, trio.CapacityLimiter], step: Step,
    ) -> None:  # fmt: skip
        async with limits[step.source]:
            if attempt.broken is not None:
                return
            if attempt.in_a_row[step.source] >= GIVE_UP:
                attempt.failed.setdefault(step.source, []).extend(step.wanted)
                why = f"{step.source}: given up after {GIVE_UP} failures in a row"
                attempt.excuses[:0] = [(part, "failed", why) for part in step.wanted]
                return
            await self._one(attempt, opened[step.source], step)

    async def _one(self, attempt: _Attempt, source: Source, step: Step) -> None:
        """Fetch one unit and store it; what fails is kept as an excuse and goes to the next."""
        entry = attempt.report.source(source.name)
        failed = attempt.failed.setdefault(source.name, [])
        begun_ns = clock.monotonic_ns()
        entry.requests += 1

        async def keep(fetched: Fetched) -> None:
            await trio.to_thread.run_sync(self._keep, attempt, source.name, fetched)
            entry.rows += len(fetched.rows)
            entry.bytes += fetched.bytes

        try:
            await source.fetch(step.unit, attempt.now_s, keep)
            attempt.in_a_row[source.name] = 0
        except NoData:
            pass  # the next source may have it
        except StoreError as err:
            attempt.broken = err
        except BrokerError as err:
            entry.failures += 1
            attempt.in_a_row[source.name] += isinstance(err, Transient)
            log.info("history.failed", series=attempt.series, source=source.name, why=err.message)
            why = "refused" if isinstance(err, DataQuality) else "failed"
            final = isinstance(err, DataUnavailable)
            attempt.excuses += [
                (part, "not-offered" if final else why, f"{source.name}: {err.message}")
                for part in step.wanted
            ]
        except Exception as err:  # a backend's own fault ends its unit, not the call
            entry.failures += 1
            said = f"{source.name}: the backend failed: {type(err).__name__}: {err}"
            log.error("history.backend", series=attempt.series, error=said)
            attempt.excuses += [(part, "failed", said) for part in step.wanted]
        failed += step.wanted  # once is enough, whatever it brought: what is left is not there
        entry.busy_s += (clock.monotonic_ns() - begun_ns) / clock.NS
        if attempt.progress is not None:
            attempt.progress(self._how_far(attempt, source.name))

    def _keep(self, attempt: _Attempt, name: str, fetched: Fetched) -> None:
        """Store an answer. Blocks."""
        report = attempt.report
        report.defects += [FileDefect(name, fetched.place, one) for one in fetched.defects]
        if fetched.start_s >= fetched.end_s:
            return
        report.corrections += self.store.write(
            attempt.series, fetched.rows, fetched.start_s, fetched.end_s, source=name,
            confirmed=fetched.final, why=fetched.why, origin=fetched.origin,
        )  # fmt: skip
        report.fetched.append((fetched.start_s, fetched.end_s, name))

    def _how_far(self, attempt: _Attempt, source: str) -> Progress:
        coverage = self.store.coverage(attempt.series, *attempt.request)
        timeframe = attempt.series.timeframe
        left = needed(attempt.request, coverage)
        total = timeframe.count_between(*attempt.request)
        return Progress(total - sum(timeframe.count_between(*span) for span in left), total, source)


def aligned(timeframe: Timeframe, start_s: int, end_s: int) -> Range:
    """Return the range from the first bar that opens in [start_s, end_s) to the end of the last.

    Raises ``RangeError`` when the end is not after the start.
    """
    if start_s >= end_s:
        raise RangeError(
            "the range is empty: its start is not before its end.",
            remedy="Give a start and a later end; the end itself is not part of the range.",
        )
    first = timeframe.floor(start_s)
    last = timeframe.floor(end_s)
    return Range(
        first if first == start_s else timeframe.next(start_s),
        last if last == end_s else timeframe.next(end_s),
    )
