"""``DataSourceManager``: history by the names of seed 001."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from piker.config import data_dir
from piker.dsm import bars, frames
from piker.dsm.calls import ask_of, check_served, funding_ask_of
from piker.dsm.enums import ChartType, DataProvider, DataSource, Interval, MarketType, member_of
from piker.dsm.errors import Unsupported
from piker.dsm.logs import FOLLOW, logger
from piker.dsm.settings import DataSourceConfig
from piker.dsm.times import Moment, time_range

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from piker.data.history.manager import Progress

__all__ = ["DataSourceManager"]


class DataSourceManager:
    """History of one provider's markets of one type. Any number of threads may use it.

    ``create`` is the usual way to one; all of them share the process's store and its one background
    thread, so that a manager costs nothing and ``close`` gives up nothing but itself.
    """

    DEFAULT_MARKET_TYPE: ClassVar[MarketType] = MarketType.SPOT
    VISION_DATA_DELAY_HOURS: ClassVar[int] = 48  # the seed's figure; files are asked for when due
    REST_CHUNK_SIZE: ClassVar[int] = 1000
    REST_MAX_CHUNKS: ClassVar[int] = 1000
    OUTPUT_DTYPES: ClassVar[dict[str, str]] = dict(frames.DTYPES)
    FUNDING_RATE_DTYPES: ClassVar[dict[str, str]] = dict(frames.FUNDING_DTYPES)

    def __init__(
        self,
        provider: DataProvider = DataProvider.BINANCE,
        market_type: MarketType = MarketType.SPOT,
        chart_type: ChartType = ChartType.KLINES,
        use_cache: bool = True,
        cache_dir: Path | str | None = None,
        retry_count: int = 3,
        log_level: str = FOLLOW,
        suppress_http_debug: bool = True,
        quiet_mode: bool = False,
        **options: Any,
    ) -> None:
        """Make a manager; ``options`` are further fields of ``DataSourceConfig``."""
        self._settings = DataSourceConfig(
            market_type, provider, chart_type, cache_dir, use_cache, retry_count, log_level,
            suppress_http_debug, quiet_mode, **options,
        )  # fmt: skip
        check_served(self._settings)
        self._closed = False
        self._report: dict[str, Any] | None = None

    @classmethod
    def create(
        cls,
        provider: DataProvider | None = None,
        market_type: MarketType | None = None,
        **kwargs: Any,
    ) -> DataSourceManager:
        """Return a manager; ``kwargs`` are the fields of :class:`DataSourceConfig`.

        Raises ``Unsupported`` (a ``ValueError``) without a provider, or for one that is not served;
        ``TypeError`` for values of another kind.
        """
        if provider is None:
            raise Unsupported("provider is required.", remedy="Use DataProvider.BINANCE.")
        chosen = cls.DEFAULT_MARKET_TYPE if market_type is None else market_type
        settings = DataSourceConfig.create(provider, chosen, **kwargs)
        return cls(**{name: getattr(settings, name) for name in settings.__struct_fields__})

    # -- the call ------------------------------------------------------------------------------
    def get_data(
        self,
        symbol: str,
        start_time: Moment,
        end_time: Moment,
        interval: Interval | str = Interval.MINUTE_1,
        chart_type: ChartType | None = None,
        include_source_info: bool = True,
        enforce_source: DataSource = DataSource.AUTO,
        auto_reindex: bool = True,
        return_polars: bool = False,
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> pd.DataFrame | pl.DataFrame:
        """Return the bars that open in [start_time, end_time), closed ones only.

        With ``auto_reindex`` both bounds are floored to the interval and every bar of the grid has
        a row, NaN where there is none; without, bounds are exact and rows are those that exist.
        The frame is pandas', indexed by ``open_time``, with ``attrs["report"]`` and
        ``attrs["units"]``; or polars'. ``on_progress`` is called from another thread.

        Blocks; Ctrl-C cancels, and what was fetched is kept. Raises ``RangeError``, ``SymbolError``
        and ``Unsupported`` (each a ``ValueError``), ``SymbolNotFound``, ``NoBars``, and
        ``FetchFailed``, whose ``partial`` is a frame of what was obtained.
        """
        if self._closed:
            raise Unsupported("this manager is closed.", remedy="Make another one.")
        chart = check_served(self._settings, chart_type)
        log = self._logger(symbol)
        if chart is ChartType.FUNDING_RATE:
            from piker.dsm.funding import get_fundings

            wanted = funding_ask_of(
                self._settings, symbol, start_time, end_time, enforce_source, polars=return_polars
            )
            answer = get_fundings(self._settings, wanted, log)
        else:
            ask = ask_of(
                self._settings, symbol, start_time, end_time, interval, enforce_source,
                gridded=auto_reindex, polars=return_polars, with_source=include_source_info,
            )  # fmt: skip
            answer = bars.get_bars(self._settings, ask, log, on_progress)
        self._report = answer.report
        return answer.frame

    @classmethod
    def calculate_time_range(
        cls,
        start_time: Moment | None = None,
        end_time: Moment | None = None,
        days: float = 3,
        interval: Interval | str = Interval.MINUTE_1,
    ) -> tuple[datetime, datetime]:
        """Return (start, end) in UTC, floored to the interval.

        As given; ``days`` before the end or after the start where only that is given; else the last
        ``days``.
        """
        chosen = member_of(Interval, interval, "interval")
        return time_range(chosen.timeframe, start_time, end_time, days)

    # -- the rest ------------------------------------------------------------------------------
    @property
    def provider(self) -> DataProvider:
        """Return whose markets these are."""
        return self._settings.provider

    @property
    def market_type(self) -> MarketType:
        """Return which of its markets."""
        return self._settings.market_type

    @property
    def chart_type(self) -> ChartType:
        """Return what is asked for unless a call says something else."""
        return self._settings.chart_type

    @property
    def use_cache(self) -> bool:
        """Tell whether the store is read and filled."""
        return self._settings.use_cache

    @property
    def cache_dir(self) -> Path:
        """Return the store's directory."""
        return Path(self._settings.cache_dir or data_dir() / "store")

    @property
    def config(self) -> DataSourceConfig:
        """Return the settings in force."""
        return self._settings

    @property
    def last_report(self) -> dict[str, Any] | None:
        """Return the report of the last call that returned: polars frames carry none."""
        return self._report

    def reconfigure_logging(
        self,
        log_level: str | None = None,
        suppress_http_debug: bool | None = None,
        quiet_mode: bool | None = None,
    ) -> None:
        """Change what this manager writes; None leaves it as it is."""
        given = {
            "log_level": log_level, "suppress_http_debug": suppress_http_debug,
            "quiet_mode": quiet_mode,
        }  # fmt: skip
        changed = {name: value for name, value in given.items() if value is not None}
        self._settings = msgspec.structs.replace(self._settings, **changed)

    def close(self) -> None:
        """Use this manager no more. The store and the thread are the process's, and stay."""
        self._closed = True

    def __enter__(self) -> DataSourceManager:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Return provider, market and directory."""
        return (
            f"<DataSourceManager {self.provider.name} {self.market_type.name} at {self.cache_dir}>"
        )

    def _logger(self, symbol: object) -> Any:
        level = "CRITICAL" if self._settings.quiet_mode else self._settings.log_level
        return logger.at_level(level).bind(trace=logger.generate_trace_id())
