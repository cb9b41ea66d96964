"""The names of seed 001: enumerations, symbols, settings, and an import that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import piker.dsm
from piker.data.store.series import Series
from piker.dsm import (
    ChartType,
    DataProvider,
    DataSource,
    DataSourceConfig,
    DataSourceManager,
    Interval,
    MarketType,
)
from piker.dsm.errors import FetchFailed, NoBars, SymbolError, Unsupported
from piker.dsm.symbols import named
from piker.errors import PikerError

SERVED = (MarketType.SPOT, MarketType.FUTURES_USDT, MarketType.FUTURES_COIN, MarketType.FUTURES)
HEAVY = ["pandas", "polars", "numpy", "pyarrow", "trio", "loguru", "pendulum"]


def test_public_names_are_those_of_the_seed_when_listed() -> None:
    """Eight of the package and the logger."""
    assert set(piker.dsm.__all__) == {
        "ChartType", "DataProvider", "DataSource", "DataSourceConfig", "DataSourceManager",
        "Interval", "MarketType", "fetch_market_data", "logger",
    }  # fmt: skip
    assert all(getattr(piker.dsm, name) is not None for name in piker.dsm.__all__)
    assert set(piker.dsm.__all__) <= set(dir(piker.dsm))
    with pytest.raises(AttributeError, match="nothing"):
        _ = piker.dsm.nothing


@pytest.mark.slow
def test_nothing_heavy_is_loaded_when_only_imported() -> None:
    """Not by the package, nor by its enumerations."""
    code = (
        "import sys, piker.dsm\n"
        "from piker.dsm import DataProvider, MarketType, Interval, ChartType, DataSource, logger\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- enumerations --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "text", "member"),
    [
        (DataProvider, "binance", DataProvider.BINANCE),
        (DataProvider, "OKX", DataProvider.OKX),
        (MarketType, "um", MarketType.FUTURES_USDT),
        (MarketType, "futures_coin", MarketType.FUTURES_COIN),
        (MarketType, "eapi", MarketType.OPTIONS),
        (MarketType, "futures", MarketType.FUTURES),
        (ChartType, "fundingRate", ChartType.FUNDING_RATE),
        (ChartType, "klines", ChartType.KLINES),
        (ChartType, "FUNDING_RATE", ChartType.FUNDING_RATE),
        (Interval, "1m", Interval.MINUTE_1),
        (Interval, "1M", Interval.MONTH_1),
        (Interval, "HOUR_4", Interval.HOUR_4),
        (DataSource, "cache", DataSource.CACHE),
    ],
)
def test_member_is_found_when_a_word_names_it(kind: Any, text: str, member: object) -> None:
    """Words that people use for it, in any case but for minutes and months."""
    assert kind.from_string(text) is member


@pytest.mark.parametrize("kind", [DataProvider, MarketType, ChartType, Interval, DataSource])
def test_word_is_refused_with_the_valid_ones_when_it_names_nothing(kind: Any) -> None:
    """As a ValueError, which is what callers catch."""
    with pytest.raises(ValueError, match=r"Valid|Did you mean"):
        kind.from_string("rubbish!")


def test_intervals_are_sixteen_when_counted() -> None:
    """With their lengths; a month counts thirty days, and the calendar knows better."""
    assert len(Interval) == 16
    assert [str(one) for one in Interval][:3] == ["1s", "1m", "3m"]
    assert Interval.get_default() is Interval.SECOND_1
    assert Interval.HOUR_1.to_seconds() == 3600
    assert Interval.WEEK_1.to_seconds() == 604_800
    assert Interval.MONTH_1.to_seconds() == 30 * 86_400


def test_markets_and_charts_say_what_they_have_when_asked() -> None:
    """Folders of the archive, and which chart is of which market."""
    folders = {market.name: market.vision_api_path for market in MarketType}
    assert folders == {
        "SPOT": "spot", "FUTURES_USDT": "futures/um", "FUTURES_COIN": "futures/cm",
        "FUTURES": "futures/um", "OPTIONS": "options",
    }  # fmt: skip
    assert [one.name for one in MarketType if one.is_futures] == [
        "FUTURES_USDT", "FUTURES_COIN", "FUTURES",
    ]  # fmt: skip
    assert ChartType.KLINES.endpoint == "klines"
    assert ChartType.FUNDING_RATE.vision_api_path == "fundingRate"
    assert not ChartType.FUNDING_RATE.is_supported_by_market(MarketType.SPOT)
    assert ChartType.OKX_CANDLES.supported_providers == [DataProvider.OKX]
    assert not ChartType.OKX_CANDLES.is_supported_by_provider(DataProvider.BINANCE)


# -- symbols -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("symbol", "market_type", "symbol_there", "market"),
    [
        ("btcusdt", MarketType.SPOT, "BTCUSDT", "btcusdt.spot"),
        (" EthBtc ", MarketType.SPOT, "ETHBTC", "ethbtc.spot"),
        ("BTCUSDT", MarketType.FUTURES_USDT, "BTCUSDT", "btcusdt.usdtm.perp"),
        ("1000SHIBUSDT", MarketType.FUTURES, "1000SHIBUSDT", "1000shibusdt.usdtm.perp"),
        ("BTCUSDT_240329", MarketType.FUTURES_USDT, "BTCUSDT_240329", "btcusdt.usdtm.240329"),
        ("BTCUSD_PERP", MarketType.FUTURES_COIN, "BTCUSD_PERP", "btcusd.coinm.perp"),
        ("btcusd", MarketType.FUTURES_COIN, "BTCUSD_PERP", "btcusd.coinm.perp"),
        ("BTCUSD_240329", MarketType.FUTURES_COIN, "BTCUSD_240329", "btcusd.coinm.240329"),
    ],
)
def test_symbol_becomes_a_market_when_it_fits(
    symbol: str, market_type: MarketType, symbol_there: str, market: str
) -> None:
    """In the venue's form and in piker's."""
    assert named(symbol, market_type) == (symbol_there, market)


@pytest.mark.parametrize(
    ("symbol", "market_type", "instead"),
    [
        ("BTCUSD_PERP", MarketType.SPOT, "BTCUSDT"),
        ("BTCUSDT_240329", MarketType.SPOT, "BTCUSDT"),
        ("BTCUSD_PERP", MarketType.FUTURES_USDT, "BTCUSDT"),
        ("BTCUSD_240329", MarketType.FUTURES_USDT, "BTCUSDT_240329"),
        ("BTCUSDT", MarketType.FUTURES_COIN, "BTCUSD_PERP"),
        ("ETHUSDC", MarketType.FUTURES_COIN, "ETHUSD_PERP"),
        ("BTCUSDT_240329", MarketType.FUTURES_COIN, "BTCUSD_240329"),
    ],
)
def test_nearest_symbol_is_named_when_one_does_not_fit_its_market(
    symbol: str, market_type: MarketType, instead: str
) -> None:
    """And that one fits."""
    with pytest.raises(SymbolError, match=f"'{instead}'"):
        named(symbol, market_type)
    assert named(instead, market_type)


@given(st.text(max_size=40), st.sampled_from(SERVED))
def test_symbol_is_a_market_or_refused_when_it_is_any_text(
    text: str, market_type: MarketType
) -> None:
    """Nothing that passes could be a path, and what passes is a series of the store."""
    try:
        found = named(text, market_type)
    except SymbolError:
        return
    series = Series("binance", found.market, "1m")
    assert ".." not in found.market
    assert series.folder.parts == ("binance", found.market, "1m")


# -- settings ------------------------------------------------------------------------------------
def test_configuration_has_the_defaults_of_the_seed_when_only_required_is_given() -> None:
    """And can not be changed."""
    found = DataSourceConfig.create(DataProvider.BINANCE, MarketType.SPOT)
    assert found.chart_type is ChartType.KLINES
    assert found.cache_dir is None
    assert (found.use_cache, found.retry_count, found.log_level) == (True, 5, "WARNING")
    assert (found.suppress_http_debug, found.quiet_mode) == (True, False)
    assert found.fcp_priority == (DataSource.CACHE, DataSource.VISION, DataSource.REST)
    with pytest.raises(AttributeError):
        found.use_cache = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"market_type": "spot"}, TypeError),
        ({"provider": "binance"}, TypeError),
        ({"chart_type": "klines"}, TypeError),
        ({"retry_count": -1}, ValueError),
        ({"retry_count": 1.5}, TypeError),
        ({"log_level": "LOUD"}, ValueError),
        ({"fcp_priority": ()}, ValueError),
        ({"fcp_priority": (DataSource.AUTO,)}, ValueError),
        ({"http_timeout": 0}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_configuration_is_refused_when_a_value_makes_no_sense(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    """By its kind as TypeError, by its value as ValueError."""
    right = {"market_type": MarketType.SPOT, "provider": DataProvider.BINANCE}
    with pytest.raises(error):
        DataSourceConfig(**(right | wrong))


def test_configuration_takes_one_form_when_others_are_given() -> None:
    """A directory as text, a level in small letters."""
    found = DataSourceConfig(
        MarketType.SPOT, DataProvider.BINANCE, cache_dir="~/x", log_level="debug"
    )
    assert found.cache_dir == Path.home() / "x"
    assert found.log_level == "DEBUG"


def test_manager_takes_every_field_when_created(tmp_path: Path) -> None:
    """``create`` and the constructor have the same words."""
    manager = DataSourceManager.create(
        DataProvider.BINANCE, MarketType.FUTURES_USDT, enforce_source=DataSource.VISION,
        cache_dir=tmp_path / "x", retry_count=0, vision_enabled=True,
    )  # fmt: skip
    assert manager.market_type is MarketType.FUTURES_USDT
    assert manager.cache_dir == tmp_path / "x"
    assert manager.config.enforce_source is DataSource.VISION
    assert DataSourceManager().market_type is MarketType.SPOT
    assert DataSourceManager.create(DataProvider.BINANCE).market_type is MarketType.SPOT
    assert "FUTURES_USDT" in repr(manager)
    assert not (tmp_path / "x").exists()


def test_closed_manager_is_refused_when_it_is_asked() -> None:
    """By a sentence."""
    with DataSourceManager.create(DataProvider.BINANCE) as manager:
        pass
    with pytest.raises(Unsupported, match="closed"):
        manager.get_data("BTCUSDT", "2024-01-01", "2024-01-02")


def test_errors_are_of_the_old_kinds_too_when_caught() -> None:
    """ValueError for what is wrong with a call, RuntimeError for data that was not had."""
    assert issubclass(Unsupported, ValueError)
    assert issubclass(SymbolError, ValueError)
    assert issubclass(FetchFailed, RuntimeError)
    assert issubclass(NoBars, RuntimeError)
    assert all(issubclass(one, PikerError) for one in (Unsupported, SymbolError, NoBars))
    assert NoBars("x", partial=[1]).partial == [1]
