"""``fetch_market_data``: one function for one range."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from piker.clock import NS, monotonic_ns
from piker.dsm.enums import ChartType, DataProvider, DataSource, Interval, MarketType, member_of
from piker.dsm.manager import DataSourceManager
from piker.dsm.times import Moment, instant, time_range

if TYPE_CHECKING:
    from piker.data.history.manager import Progress

__all__ = ["fetch_market_data"]


def fetch_market_data(
    provider: DataProvider,
    market_type: MarketType,
    chart_type: ChartType,
    symbol: str,
    interval: Interval | str,
    start_time: Moment | None = None,
    end_time: Moment | None = None,
    days: float = 3,
    use_cache: bool = True,
    enforce_source: DataSource | str = "AUTO",
    max_retries: int = 3,
    return_polars: bool = False,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> tuple[Any, float, int]:
    """Return (frame, seconds it took, rows in it).

    Start and end as given, else ``days`` before the end, after the start or before now.
    ``options`` are further fields of ``DataSourceConfig``, as ``cache_dir``. Raises what
    :meth:`DataSourceManager.get_data` raises.
    """
    chosen = member_of(Interval, interval, "interval")
    if start_time is None or end_time is None:
        begin, stop = time_range(chosen.timeframe, start_time, end_time, days)
    else:
        begin, stop = instant(start_time, "start_time"), instant(end_time, "end_time")
    begun_ns = monotonic_ns()
    source = enforce_source
    if isinstance(source, str):
        source = DataSource.from_string(source)
    with DataSourceManager.create(
        provider, market_type, chart_type=chart_type, use_cache=use_cache,
        retry_count=max_retries, **options,
    ) as manager:  # fmt: skip
        frame = manager.get_data(
            symbol, begin, stop, chosen, enforce_source=source, return_polars=return_polars,
            on_progress=on_progress,
        )  # fmt: skip
    return frame, (monotonic_ns() - begun_ns) / NS, len(frame)
