"""History for scripts and notebooks: one synchronous call, no daemon (the names of seed 001).

    from piker.dsm import DataProvider, DataSourceManager, Interval, MarketType

    with DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT) as manager:
        frame = manager.get_data("BTCUSDT", start_time, end_time, Interval.HOUR_1)

docs/guides/history.md is the guide. Each name is loaded when it is first used, so that importing
the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piker.dsm.enums import ChartType, DataProvider, DataSource, Interval, MarketType
    from piker.dsm.fetch import fetch_market_data
    from piker.dsm.logs import logger
    from piker.dsm.manager import DataSourceManager
    from piker.dsm.settings import DataSourceConfig

__all__ = [
    "ChartType",
    "DataProvider",
    "DataSource",
    "DataSourceConfig",
    "DataSourceManager",
    "Interval",
    "MarketType",
    "fetch_market_data",
    "logger",
]

_HOMES = {
    "ChartType": "enums", "DataProvider": "enums", "DataSource": "enums", "Interval": "enums",
    "MarketType": "enums", "DataSourceConfig": "settings", "DataSourceManager": "manager",
    "fetch_market_data": "fetch", "logger": "logs",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    """Name what is public, for completion in notebooks."""
    return sorted({*globals(), *__all__})
