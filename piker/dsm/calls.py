"""One call of a manager, checked: what is asked for, of whom, in which form. Pure."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import msgspec

from piker.dsm.enums import ChartType, DataSource, Interval, MarketType, member_of
from piker.dsm.errors import Unsupported
from piker.dsm.forks import polars_is_lost
from piker.dsm.settings import DataSourceConfig
from piker.dsm.symbols import Named, named
from piker.dsm.times import Moment, Span, instant, span_of
from piker.errors import RangeError

__all__ = ["PROVIDER", "Ask", "FundingAsk", "ask_of", "check_served", "funding_ask_of"]

PROVIDER = "binance"  # the backend that serves all of it
MAX_BARS = 50_000_000  # 4.5 GB as a frame; a year and a half of 1 s
_YES = ("1", "true", "yes", "on")
_ARCHIVE_AND_REST = {DataSource.VISION: "archive", DataSource.REST: "rest"}


class Ask(msgspec.Struct, frozen=True):
    """A call for bars. ``sources`` are asked in order for what the store does not have."""

    name: Named
    interval: Interval
    span: Span
    sources: tuple[str, ...]
    use_store: bool
    gridded: bool
    polars: bool
    with_source: bool
    coin: bool  # volumes are in contracts


class FundingAsk(msgspec.Struct, frozen=True):
    """A call for the fundings in [start, end)."""

    name: Named
    start: datetime
    end: datetime
    sources: tuple[str, ...]
    use_store: bool
    polars: bool


def ask_of(
    settings: DataSourceConfig, symbol: str, start: Moment, end: Moment, interval: Any,
    enforce: Any, *, gridded: bool, polars: bool, with_source: bool,
) -> Ask:  # fmt: skip
    """Return what a call for bars means; raise what is wrong with it."""
    chosen = member_of(Interval, interval, "interval")
    market = settings.market_type
    name = named(symbol, market)
    if chosen is Interval.SECOND_1 and market is not MarketType.SPOT:
        shown = ", ".join(str(one) for one in Interval if one is not Interval.SECOND_1)
        raise Unsupported(f"{market.name} has no bars of 1s.", remedy=f"It has {shown}.")
    first, last = instant(start, "start_time"), instant(end, "end_time")
    span = span_of(chosen.timeframe, first, last, floored=gridded)
    if (span.end - span.start) // chosen.to_seconds() > MAX_BARS:
        raise RangeError(
            f"the range has more than {MAX_BARS:,} bars.", remedy="Ask for parts of it."
        )
    sources, use_store = _sources(settings, enforce)
    return Ask(
        name, chosen, span, sources, use_store, gridded, _is_polars(polars), with_source,
        market is MarketType.FUTURES_COIN,
    )  # fmt: skip


def funding_ask_of(
    settings: DataSourceConfig, symbol: str, start: Moment, end: Moment, enforce: Any, *,
    polars: bool,
) -> FundingAsk:  # fmt: skip
    """Return what a call for fundings means; raise what is wrong with it."""
    name = named(symbol, settings.market_type)
    first, last = instant(start, "start_time"), instant(end, "end_time")
    span_of(Interval.SECOND_1.timeframe, first, last, floored=False)  # its checks
    sources, use_store = _sources(settings, enforce)
    return FundingAsk(name, first, last, sources, use_store, _is_polars(polars))


def check_served(settings: DataSourceConfig, chart_type: Any = None) -> ChartType:
    """Return the chart type of a call; raise ``Unsupported`` for what nobody here serves."""
    chart = settings.chart_type if chart_type is None else chart_type
    chart = member_of(ChartType, chart, "chart type")
    if settings.provider.name.lower() != PROVIDER:
        raise Unsupported(
            f"the provider {settings.provider.name} is not served.",
            remedy="Use DataProvider.BINANCE.",
        )
    if settings.market_type is MarketType.OPTIONS:
        raise Unsupported(
            "options are not served.", remedy="Use SPOT, FUTURES_USDT or FUTURES_COIN."
        )
    if not chart.is_supported_by_provider(settings.provider):
        raise Unsupported(
            f"BINANCE has no {chart.name}.", remedy="Use ChartType.KLINES or FUNDING_RATE."
        )
    if not chart.is_supported_by_market(settings.market_type):
        names = ", ".join(one.name for one in chart.supported_markets)
        raise Unsupported(
            f"{settings.market_type.name} has no {chart.name}.", remedy=f"Use one of {names}."
        )
    return chart


def _sources(settings: DataSourceConfig, enforce: Any) -> tuple[tuple[str, ...], bool]:
    """Return whom to ask, and whether the store takes part."""
    asked = member_of(DataSource, enforce, "source")
    source = settings.enforce_source if asked is DataSource.AUTO else asked
    if source is DataSource.CACHE:
        if not settings.use_cache:
            raise Unsupported(
                "the cache is asked for, and use_cache is False.", remedy="Leave one of them out."
            )
        return (), True
    if source is DataSource.VISION and polars_is_lost():
        raise _forked("the archive can not be read")
    if source is not DataSource.AUTO:
        return (_ARCHIVE_AND_REST[source],), False
    order = [one for one in settings.fcp_priority if one is not DataSource.CACHE]
    if not settings.vision_enabled or polars_is_lost():
        order = [one for one in order if one is not DataSource.VISION]
    use_store = settings.use_cache and DataSource.CACHE in settings.fcp_priority
    return tuple(_ARCHIVE_AND_REST[one] for one in order), use_store


def _is_polars(asked: bool) -> bool:
    """Tell whether the frame is to be polars'."""
    word = os.environ.get("DSM_USE_POLARS_OUTPUT", "").strip().lower()
    if not asked and word not in _YES:
        return False
    if polars_is_lost():
        raise _forked("polars frames can not be made")
    return True


def _forked(what: str) -> Unsupported:
    return Unsupported(
        f"{what} in a process that was forked from one that had used polars.",
        remedy="Start it with multiprocessing's spawn or forkserver.",
    )
