"""What a stored series is of: the identity that stands in every path and in every file."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from piker.errors import ConfigError
from piker.ohlcv import Timeframe

__all__ = ["Series", "folder_of"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")  # a provider or market id; never a path


def folder_of(provider: str, market: str, interval: str) -> str:
    """Return where the files of a series of these names are, below the store."""
    return f"{provider}/{market}/{interval.replace('M', 'mo')}"


class Series(msgspec.Struct, frozen=True):
    """Bars of one market and timeframe; ``market`` is an fqme without its provider."""

    provider: str
    market: str
    interval: str  # "1m"; "1M" is a month
    origin_s: int | None = None  # the open of one of its bars, where the grid is the market's own

    def __post_init__(self) -> None:
        """Refuse names that are none, before they become paths."""
        for name in (self.provider, self.market):
            if not _NAME.fullmatch(name) or ".." in name:
                raise ConfigError(f"{name!r} can not be the name of a market or provider.")
        try:
            Timeframe(self.interval, origin_s=self.origin_s)
        except ValueError as err:
            raise ConfigError(f"{err}.") from err

    @classmethod
    def of(cls, fqme: str, interval: str) -> Series:
        """Return the series of ``btcusdt.spot.binance``."""
        market, _, provider = fqme.lower().rpartition(".")
        return cls(provider, market, interval)

    @property
    def timeframe(self) -> Timeframe:
        """Return the bars' length."""
        return Timeframe(self.interval, origin_s=self.origin_s)

    @property
    def fqme(self) -> str:
        """Return the market's full address."""
        return f"{self.market}.{self.provider}"

    @property
    def folder(self) -> Path:
        """Return where its files are, below the store. A month is ``1mo``: disks may fold case."""
        return Path(folder_of(self.provider, self.market, self.interval))

    def __str__(self) -> str:
        """Return ``btcusdt.spot.binance/1m``."""
        return f"{self.fqme}/{self.interval}"
