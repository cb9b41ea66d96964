"""The enumerations of seed 001: providers, markets, intervals, charts, sources."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from piker.config import nearest
from piker.dsm.errors import Unsupported

if TYPE_CHECKING:
    from piker.ohlcv import Timeframe

__all__ = [
    "ChartType",
    "DataProvider",
    "DataSource",
    "FileType",
    "Interval",
    "MarketType",
    "member_of",
]

E = TypeVar("E", bound=Enum)


def member_of(kind: type[E], given: object, what: str) -> E:
    """Return the member that ``given`` is, or is the name or value of; raise ``Unsupported``."""
    if isinstance(given, kind):
        return given
    for member in kind:
        if isinstance(given, str) and given in (member.name, member.name.lower(), member.value):
            return member
    words = [member.value if isinstance(member.value, str) else member.name for member in kind]
    raise Unsupported(f"{given!r} is no {what}.", remedy=nearest(str(given), words))


def _named(kind: type[E], given: str, words: dict[str, E], what: str) -> E:
    """Return the member of a word that people use for it."""
    found = words.get(str(given).strip().lower())
    return found if found is not None else _refuse(given, words, what)


def _refuse(given: object, words: dict[str, E], what: str) -> E:
    raise Unsupported(f"{given!r} is no {what}.", remedy=nearest(str(given), words))


class DataProvider(Enum):
    """Where data comes from. Only ``BINANCE`` is served."""

    BINANCE = auto()
    TRADESTATION = auto()
    OKX = auto()

    @classmethod
    def from_string(cls, text: str) -> DataProvider:
        """Return the provider of a name, in any case; ``Unsupported`` (a ``ValueError``) else."""
        return _named(cls, text, {one.name.lower(): one for one in cls}, "provider")


class MarketType(Enum):
    """Which of a provider's markets. ``FUTURES`` is the old name of ``FUTURES_USDT``."""

    SPOT = auto()
    FUTURES_USDT = auto()
    FUTURES_COIN = auto()
    FUTURES = auto()
    OPTIONS = auto()

    @property
    def is_futures(self) -> bool:
        """Tell whether it is a futures market."""
        return self in (MarketType.FUTURES_USDT, MarketType.FUTURES_COIN, MarketType.FUTURES)

    @property
    def vision_api_path(self) -> str:
        """Return its folder in Binance's archive."""
        return _FOLDERS[self]

    @classmethod
    def from_string(cls, text: str) -> MarketType:
        """Return the market of a word: spot, futures, um, cm, futures_coin, options, eapi, ..."""
        return _named(cls, text, _MARKETS, "market type")


_FOLDERS = {
    MarketType.SPOT: "spot", MarketType.FUTURES_USDT: "futures/um",
    MarketType.FUTURES_COIN: "futures/cm", MarketType.FUTURES: "futures/um",
    MarketType.OPTIONS: "options",
}  # fmt: skip
_MARKETS = {
    "spot": MarketType.SPOT, "futures": MarketType.FUTURES,
    "futures_usdt": MarketType.FUTURES_USDT, "um": MarketType.FUTURES_USDT,
    "futures_coin": MarketType.FUTURES_COIN, "cm": MarketType.FUTURES_COIN,
    "options": MarketType.OPTIONS, "eapi": MarketType.OPTIONS,
}  # fmt: skip


class ChartType(Enum):
    """What of a market: its bars, or its funding rates. The OKX kinds are not served."""

    KLINES = "klines"
    FUNDING_RATE = "fundingRate"
    OKX_CANDLES = "market/candles"
    OKX_HISTORY_CANDLES = "market/history-candles"

    @property
    def endpoint(self) -> str:
        """Return its name in a REST interface."""
        return self.value

    @property
    def vision_api_path(self) -> str:
        """Return its folder in Binance's archive; empty where the archive has none."""
        return self.value if self in (ChartType.KLINES, ChartType.FUNDING_RATE) else ""

    @property
    def supported_markets(self) -> list[MarketType]:
        """Return the market types that have it."""
        futures = [MarketType.FUTURES_USDT, MarketType.FUTURES_COIN, MarketType.FUTURES]
        if self is ChartType.FUNDING_RATE:
            return futures
        return [MarketType.SPOT, *futures, *([MarketType.OPTIONS] * (self is ChartType.KLINES))]

    @property
    def supported_providers(self) -> list[DataProvider]:
        """Return the providers that have it."""
        if self in (ChartType.KLINES, ChartType.FUNDING_RATE):
            return [DataProvider.BINANCE]
        return [DataProvider.OKX]

    def is_supported_by_market(self, market_type: MarketType) -> bool:
        """Tell whether a market type has it."""
        return market_type in self.supported_markets

    def is_supported_by_provider(self, provider: DataProvider) -> bool:
        """Tell whether a provider has it."""
        return provider in self.supported_providers

    @classmethod
    def from_string(cls, text: str) -> ChartType:
        """Return the chart type of its value or name, in any case."""
        words = {one.value.lower(): one for one in cls} | {one.name.lower(): one for one in cls}
        return _named(cls, text, words, "chart type")


class Interval(Enum):
    """A bar's length. Weeks begin on Monday, months on the first, UTC."""

    SECOND_1 = "1s"
    MINUTE_1 = "1m"
    MINUTE_3 = "3m"
    MINUTE_5 = "5m"
    MINUTE_15 = "15m"
    MINUTE_30 = "30m"
    HOUR_1 = "1h"
    HOUR_2 = "2h"
    HOUR_4 = "4h"
    HOUR_6 = "6h"
    HOUR_8 = "8h"
    HOUR_12 = "12h"
    DAY_1 = "1d"
    DAY_3 = "3d"
    WEEK_1 = "1w"
    MONTH_1 = "1M"

    def __str__(self) -> str:
        """Return the value, as in ``1m``."""
        return str(self.value)

    def to_seconds(self) -> int:
        """Return the length in seconds; of a month 30 days, whatever the month."""
        return self.timeframe.seconds

    @property
    def timeframe(self) -> Timeframe:
        """Return the calendar-correct timeframe."""
        from piker.ohlcv import Timeframe  # here: it loads numpy

        return Timeframe(self.value)

    @classmethod
    def get_default(cls) -> Interval:
        """Return the shortest one."""
        return cls.SECOND_1

    @classmethod
    def from_string(cls, text: str) -> Interval:
        """Return the interval of a value (``1m`` and ``1M`` differ) or of a member's name."""
        return member_of(cls, text, "interval")


class DataSource(Enum):
    """Who is asked: everybody in turn, or one alone."""

    AUTO = auto()
    REST = auto()
    VISION = auto()
    CACHE = auto()

    @classmethod
    def from_string(cls, text: str) -> DataSource:
        """Return the source of a name, in any case."""
        return _named(cls, text, {one.name.lower(): one for one in cls}, "source")


class FileType(Enum):
    """What a file is."""

    DATA = auto()
    CHECKSUM = auto()
    CACHE = auto()
    METADATA = auto()
