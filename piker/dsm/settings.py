"""How a manager is to work, as seed 001 has it: checked once, never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from piker.dsm.enums import ChartType, DataProvider, DataSource, MarketType
from piker.dsm.errors import Unsupported
from piker.dsm.logs import FOLLOW, level_of

__all__ = ["DataSourceConfig"]

_PRIORITY = (DataSource.CACHE, DataSource.VISION, DataSource.REST)


class DataSourceConfig(msgspec.Struct, frozen=True):
    """What ``DataSourceManager.create`` takes besides provider and market.

    ``cache_dir`` is the store's own directory (piker's unless given). ``retry_count``: each request
    is sent again up to three times in any case; every further four are one more round for all that
    failed. ``log_level`` is of this manager's lines alone; left out, they follow ``logger``.
    ``vision_enabled`` and ``fcp_priority`` say which sources ``AUTO`` uses, in which order: the
    cache, where it is among them, is always first. ``http_timeout`` is accepted and not used: each
    request has a deadline already. Raises ``TypeError`` and ``Unsupported`` (a ``ValueError``).
    """

    market_type: MarketType
    provider: DataProvider
    chart_type: ChartType = ChartType.KLINES
    cache_dir: Path | str | None = None
    use_cache: bool = True
    retry_count: int = 5
    log_level: str = FOLLOW
    suppress_http_debug: bool = True
    quiet_mode: bool = False
    http_timeout: float = 30.0
    vision_enabled: bool = True
    fcp_priority: tuple[DataSource, ...] = _PRIORITY
    enforce_source: DataSource = DataSource.AUTO

    def __post_init__(self) -> None:
        """Refuse what makes no sense, and bring what does into one form."""
        for name, kind in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be a {kind.__name__}, not {getattr(self, name)!r}")
        if isinstance(self.cache_dir, str):
            msgspec.structs.force_setattr(self, "cache_dir", Path(self.cache_dir).expanduser())
        if isinstance(self.retry_count, bool) or not isinstance(self.retry_count, int):
            raise TypeError(f"retry_count must be a whole number, not {self.retry_count!r}")
        if self.retry_count < 0 or self.http_timeout <= 0:
            raise Unsupported("retry_count must not be below zero, http_timeout above it.")
        if self.log_level is not FOLLOW:
            msgspec.structs.force_setattr(self, "log_level", level_of(self.log_level))
        order = tuple(dict.fromkeys(self.fcp_priority))
        if not order or not all(one in _PRIORITY for one in order):
            raise Unsupported("fcp_priority must name sources: CACHE, VISION, REST.")
        msgspec.structs.force_setattr(self, "fcp_priority", order)

    @classmethod
    def create(
        cls, provider: DataProvider, market_type: MarketType, **options: Any
    ) -> DataSourceConfig:
        """Return a configuration of these two and any further fields."""
        return cls(market_type=market_type, provider=provider, **options)


_KINDS = {
    "market_type": MarketType, "provider": DataProvider, "chart_type": ChartType,
    "enforce_source": DataSource,
}  # fmt: skip
