"""One call for history: what the store has, and what it has not from archive and REST.

    manager = HistoryManager(load_backend("binance"), Store())
    history = await manager.get("btcusdt.spot", "1m", start_s, end_s)
    history.polars(), history.report

Whatever is fetched is stored before it is returned, so that a call that is cancelled or killed
goes on where it was. Half-open ranges of open times; closed bars only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import trio

from piker import clock
from piker.brokers.archive import ChecksumPolicy
from piker.brokers.spec import Backend
from piker.data.history import frame
from piker.data.history.fill import Fill, Progress
from piker.data.history.missing import explain
from piker.data.history.plan import needed
from piker.data.history.quality import Report, iso
from piker.data.ranges import Range, union
from piker.data.store import maintenance
from piker.data.store.segment import rows_of
from piker.data.store.series import Series
from piker.data.store.store import Rows, Store, Stored
from piker.errors import (
    BrokerError,
    DataUnavailable,
    HistoryError,
    RangeError,
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
        fill = Fill(self.backend, self.store, series, request, now_s, report, progress)
        stored = await trio.to_thread.run_sync(self.store.read, series, *request)
        report.damaged += stored.damaged
        report.stored = stored.table.num_rows
        if sources and (recheck or needed(request, stored.coverage)):
            await fill.ask(
                tuple(sources), recheck=recheck, checksum=self._checksum,
                quarantine=self._quarantine,
            )  # fmt: skip
            await trio.to_thread.run_sync(maintenance.compact, self.store, series)
            stored = await trio.to_thread.run_sync(self.store.read, series, *request)
            report.damaged += stored.damaged
        report.missing = explain(series, whole, request, stored, fill.excuses, offline=not sources)
        return stored


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
