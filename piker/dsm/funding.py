"""Funding rates for one call: what was asked for before from disk, the rest from the venue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from piker import log as piker_log
from piker.clock import NS, monotonic_ns, wall_ns
from piker.data.history.quality import iso
from piker.data.ranges import Range
from piker.dsm.bars import Answer
from piker.dsm.calls import FundingAsk
from piker.dsm.errors import FetchFailed, NoBars
from piker.dsm.funding_store import RATE_DTYPE, FundingStore
from piker.dsm.logs import DsmLogger
from piker.dsm.settings import DataSourceConfig
from piker.dsm.shelf import store_at
from piker.errors import BrokerError, NoData

__all__ = ["get_fundings"]

BEFORE_MS = 24 * 3600 * 1000  # looked at before the range: the funding before tells the interval
LONGEST_H = 24  # a longer distance is a pause, not an interval; venues have 1, 2, 4 and 8 hours
SETTLE_MS = 60_000  # a funding younger than this may not be in the venue's answer yet
_HOUR_MS = 3600 * 1000

Rows = np.ndarray[Any, np.dtype[Any]]


def get_fundings(settings: DataSourceConfig, ask: FundingAsk, log: DsmLogger) -> Answer:
    """Return the fundings of a call: ``symbol``, ``funding_time``, ``funding_rate``, ``interval``.

    Blocks. ``interval`` is the time since the funding before, as in ``8h``; missing where there is
    none. Raises ``NoBars`` where there is no funding, ``FetchFailed`` where some could not be had.
    """
    begun_ns = monotonic_ns()
    start_ms, end_ms = _ms(ask.start), _ms(ask.end)
    store = FundingStore(store_at(settings.cache_dir).root) if ask.use_store else None
    market, wanted = ask.name.market, Range(max(0, start_ms - BEFORE_MS), end_ms)
    missing = store.missing(market, *wanted) if store is not None else (wanted,)
    fresh: list[Rows] = []
    problem: BrokerError | None = None
    if missing and ask.sources:
        write = partial(log.piker_line, network=not settings.suppress_http_debug)
        problem = _fetch_all(ask, missing, store, fresh, write)
    kept = store.read(market, *wanted) if store is not None else _joined(fresh)
    rows, hours = kept[kept["time_ms"] >= start_ms], _hours(kept)[kept["time_ms"] >= start_ms]
    report = {
        "series": f"{market}.binance/funding", "rows": len(rows),
        "start": iso(start_ms // 1000), "end": iso(end_ms // 1000),
        "complete": problem is None and (not missing or bool(ask.sources)),
        "fetched": int(sum(len(part) for part in fresh)),
        "elapsed_s": round((monotonic_ns() - begun_ns) / NS, 6),
    }  # fmt: skip
    frame = _frame(ask, rows, hours, report)
    line = f"{report['series']}: {len(rows)} fundings in {report['elapsed_s']:.3f} s"
    log.piker_line("INFO", "history", line)
    if problem is not None:
        raise FetchFailed(problem.message, partial=frame, remedy=problem.remedy) from problem
    if not len(rows):
        said = f"{report['series']}: there is no funding from {report['start']} to {report['end']}"
        raise NoBars(f"{said}{'' if ask.sources else ' in the cache'}.", partial=frame)
    return Answer(frame, report)


def _ms(moment: datetime) -> int:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return -((epoch - moment) // (datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC) - epoch))


def _joined(parts: list[Rows]) -> Rows:
    rows = np.concatenate(parts) if parts else np.zeros(0, RATE_DTYPE)
    _, first = np.unique(rows["time_ms"], return_index=True)
    found: Rows = rows[first]
    return found


def _hours(rows: Rows) -> Rows:
    """Return the hours since the funding before each, 0 where they are not known."""
    gaps = np.zeros(len(rows), "i8")
    gaps[1:] = np.round(np.diff(rows["time_ms"]) / _HOUR_MS)
    gaps[(gaps < 1) | (gaps > LONGEST_H)] = 0
    hours: Rows = np.where(rows["interval_h"] > 0, rows["interval_h"], gaps)
    return hours


# -- fetching --------------------------------------------------------------------------------------
def _fetch_all(
    ask: FundingAsk, missing: tuple[Range, ...], store: FundingStore | None, fresh: list[Rows],
    write: Callable[[str, str, str], None],
) -> BrokerError | None:  # fmt: skip
    """Fetch and keep what is missing, range by range; return what stopped it."""
    from piker.dsm import runner

    # REST answers a year at once; the archive is asked only where it is the one that is wanted.
    get = _from_archive if ask.sources == ("archive",) else _from_rest
    for span in missing:
        now_ms = wall_ns() // 1_000_000
        try:
            rows = runner.run(partial(_quietly, write, get, ask.name.market, span))
        except BrokerError as err:
            return err
        fresh.append(rows)
        final = min(span.end, now_ms - SETTLE_MS)
        if store is not None and final > span.start:
            settled = rows[rows["time_ms"] < final]
            store.write(ask.name.market, settled, span.start, final)
    return None


async def _quietly(write: Callable[[str, str, str], None], get: Any, *args: Any) -> Rows:
    with piker_log.redirected(write):
        found: Rows = await get(*args)
    return found


async def _from_rest(market: str, span: Range) -> Rows:
    from piker.brokers.binance.history import fetch_funding_rates

    found = await fetch_funding_rates(market, _moment(span.start), _moment(span.end))
    return _sound(found, span)


async def _from_archive(market: str, span: Range) -> Rows:
    from piker.brokers.binance.archive import open_archive_client

    parts = []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_archive_client(market))
        now_s = wall_ns() // NS
        for file in client.funding_files(span.start // 1000, -(-span.end // 1000), now_s=now_s):
            try:
                answer = await client.fetch_funding(file)
            except NoData:
                continue
            parts.append(_sound(answer.rows, span))
    return _joined(parts)


def _moment(time_ms: int) -> datetime:
    seconds, ms = divmod(time_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)


def _sound(found: Rows, span: Range) -> Rows:
    """Return rows of the span, ascending, as ``RATE_DTYPE``."""
    rows = np.zeros(len(found), RATE_DTYPE)
    for name in RATE_DTYPE.names or ():
        rows[name] = found[name]
    inside = (rows["time_ms"] >= span.start) & (rows["time_ms"] < span.end)
    return _joined([rows[inside]])


# -- the frame -------------------------------------------------------------------------------------
def _frame(ask: FundingAsk, rows: Rows, hours: Rows, report: dict[str, Any]) -> Any:
    times = (rows["time_ms"] * 1_000_000).view("M8[ns]")
    intervals = [f"{hour}h" if hour else None for hour in hours.tolist()]
    if ask.polars:
        import polars as pl

        return pl.DataFrame({
            "symbol": pl.Series([ask.name.symbol] * len(rows), dtype=pl.String),
            "funding_time": pl.Series(times).dt.replace_time_zone("UTC"),
            "funding_rate": rows["rate"].copy(),
            "interval": pl.Series(intervals, dtype=pl.String),
        })  # fmt: skip
    import pandas as pd

    frame = pd.DataFrame({
        "symbol": pd.Series([ask.name.symbol] * len(rows), dtype="str"),
        "funding_time": pd.DatetimeIndex(times).tz_localize("UTC"),
        "funding_rate": rows["rate"].copy(),
        "interval": pd.Series(intervals, dtype="str"),
    })  # fmt: skip
    frame.attrs["report"] = report
    return frame
