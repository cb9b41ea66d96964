"""What the predecessor of piker.dsm did wrong, one named test for each fault.

The venue is a real server on this machine; values are compared with what it serves over REST.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from dsm_loopback import Loopback, closed_stores, serve

from piker.clock import NS, VirtualClock, use_clock
from piker.data.store.segment import rows_of
from piker.data.store.series import Series
from piker.dsm import (
    ChartType,
    DataProvider,
    DataSource,
    DataSourceManager,
    Interval,
    MarketType,
    fetch_market_data,
)
from piker.dsm.errors import FetchFailed, NoBars, SymbolError, Unsupported
from piker.dsm.shelf import store_at
from piker.errors import RangeError

MAY = datetime(2024, 5, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
VALUES = ["open", "high", "low", "close", "volume", "quote_asset_volume", "count",
          "taker_buy_volume", "taker_buy_quote_volume"]  # fmt: skip
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def venue(piker_dirs: Path) -> Iterator[Loopback]:
    """Serve a venue without limits; its own code must not have failed."""
    with serve() as found:
        yield found
        assert found.errors() == 0


@pytest.fixture
def manager(venue: Loopback) -> DataSourceManager:
    """Return a manager of spot markets."""
    return DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)


def get(
    manager: DataSourceManager, symbol: str = "BTCUSDT", start: datetime = MAY,
    end: datetime = MAY + DAY, interval: Interval = Interval.HOUR_1, **more: Any,
) -> pd.DataFrame:  # fmt: skip
    """Ask for a day of hours unless told otherwise."""
    return manager.get_data(symbol, start, end, interval, **more)


def oracle(manager: DataSourceManager, *args: Any, **kwargs: Any) -> pd.DataFrame:
    """Return what the venue itself says, past every store and file."""
    return get(manager, *args, enforce_source=DataSource.REST, **kwargs)


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Compare every value, not who served it."""
    pd.testing.assert_frame_equal(found[VALUES], expected[VALUES])
    assert (found["close_time"] == expected["close_time"]).all()


def store(manager: DataSourceManager) -> Any:
    """Return the store of a manager."""
    return store_at(manager.cache_dir)


def sources(frame: pd.DataFrame) -> dict[str, int]:
    """Return how many bars each source served."""
    counts = frame["_data_source"].value_counts()
    return {str(name): int(count) for name, count in counts.items() if count}


# -- identity ------------------------------------------------------------------------------------
@pytest.mark.slow
def test_fault_01_every_bar_is_of_its_own_market_when_several_are_asked_for(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """One client for all symbols gave Bitcoin's bars as everybody's."""
    bitcoin = get(manager)
    for symbol in ("ETHUSDT", "SOLUSDT"):
        for interval in (Interval.HOUR_1, Interval.MINUTE_5):
            found = get(manager, symbol, interval=interval, enforce_source=DataSource.VISION)
            assert_same(found, oracle(manager, symbol, interval=interval))
            assert_same(get(manager, symbol, interval=interval), found)
        assert not (get(manager, symbol)["close"] == bitcoin["close"]).any()


def test_fault_01_file_of_another_market_is_refused_when_it_stands_in_its_place(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """A file under the right name that is another market's never becomes a bar."""
    venue.fault("wrong-symbol", match="ETHUSDT")
    found = get(manager, "ETHUSDT")
    assert_same(found, oracle(manager, "ETHUSDT"))
    assert sources(found) == {"REST": 24}


def test_fault_02_files_of_one_or_two_rows_are_read_when_bars_are_long(
    manager: DataSourceManager,
) -> None:
    """A reader that looked at three lines first failed on days and half days."""
    for interval, count in ((Interval.DAY_1, 3), (Interval.HOUR_12, 6)):
        span = {"end": MAY + 3 * DAY, "interval": interval}
        found = get(manager, enforce_source=DataSource.VISION, **span)
        assert len(found) == count
        assert_same(found, oracle(manager, **span))


# -- the store -----------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty", "gone"])
def test_fault_03_damaged_file_is_replaced_when_it_is_met(
    manager: DataSourceManager, damage: str
) -> None:
    """A broken cache file ended every call from then on."""
    whole = get(manager)
    (path,) = manager.cache_dir.glob("binance/btcusdt.spot/1h/*.arrow")
    data = path.read_bytes()
    path.unlink()  # what is mapped keeps its pages: a changed file is another one
    if damage != "gone":
        at = data.index(np.float64(whole["close"].iloc[5]).tobytes())
        changed = {
            "truncated": data[: len(data) // 2], "empty": b"",
            "overwritten": data[:at] + bytes(8) + data[at + 8 :],
        }  # fmt: skip
        path.write_bytes(changed[damage])
    found = get(manager)
    assert_same(found, whole)
    assert found.attrs["report"]["damaged"] == 1
    assert sources(found) == {"VISION": 24}
    assert sources(get(manager)) == {"CACHE": 24}
    assert closed_stores(manager.cache_dir) == []


def _fill(directories: dict[str, str], start: datetime, symbol: str, market: str) -> int:
    import os

    os.environ.update(directories)
    with DataSourceManager.create(DataProvider.BINANCE, MarketType[market]) as manager:
        frame = manager.get_data(symbol, start, start + 2 * DAY, Interval.MINUTE_1)
    return int(frame["close"].notna().sum())


@pytest.mark.slow
def test_fault_04_store_is_whole_when_processes_fill_it_at_the_same_time(
    manager: DataSourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers without a lock left files that nobody could read."""
    import os

    from piker.config import DIRECTORY_VARS

    directories = {name: os.environ[name] for name in DIRECTORY_VARS}
    jobs = [(directories, MAY + part * DAY, "BTCUSDT", "SPOT") for part in (0, 1, 0, 1)]
    with SPAWN.Pool(4) as pool:
        counts = pool.starmap(_fill, jobs)
    assert counts == [2880] * 4
    span = {"end": MAY + 3 * DAY, "interval": Interval.MINUTE_1}
    found = get(manager, enforce_source=DataSource.CACHE, **span)
    assert_same(found, oracle(manager, **span))
    assert closed_stores(manager.cache_dir) == []


@pytest.mark.slow
def test_fault_05_nothing_is_lost_when_managers_download_at_the_same_time(
    venue: Loopback,
) -> None:
    """A scratch file of one name for all lost whole days without a word."""
    kinds = [MarketType.SPOT, MarketType.FUTURES_USDT] * 4
    found: list[pd.DataFrame | None] = [None] * len(kinds)

    def work(at: int) -> None:
        with DataSourceManager.create(
            DataProvider.BINANCE, kinds[at], enforce_source=DataSource.VISION
        ) as manager:
            found[at] = get(manager, end=MAY + 3 * DAY)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(kinds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, frame in enumerate(found):
        assert frame is not None
        assert len(frame) == 72
        assert frame.notna().all(axis=None)
        assert_same(frame, found[at % 2])  # type: ignore[arg-type]
    files = [path for path in venue.paths() if path.endswith(".zip")]
    assert len(files) == 6  # three days of each market


def test_fault_06_morning_stays_when_noon_is_added(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """A later save of a day's file replaced what was in it."""
    venue.fault("missing-day")
    get(manager, end=MAY + 6 * HOUR)
    found = get(manager, end=MAY + 12 * HOUR)
    assert sources(found) == {"CACHE": 6, "REST": 6}
    offline = get(manager, end=MAY + 12 * HOUR, enforce_source=DataSource.CACHE)
    assert_same(offline, oracle(manager, end=MAY + 12 * HOUR))
    assert sources(offline) == {"CACHE": 12}


def test_fault_07_open_bar_is_neither_returned_nor_stored_when_it_is_the_newest(
    piker_dirs: Path,
) -> None:
    """A bar in the making was kept as final, and served as such for ever."""
    noon = MAY + 12 * HOUR + timedelta(minutes=34, seconds=30)
    clock = VirtualClock(int(noon.timestamp()) * NS)
    with use_clock(clock), serve() as venue:
        manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)
        found = get(manager, end=noon, auto_reindex=False)
        assert found.index[-1] == pd.Timestamp(MAY + 11 * HOUR)
        series = Series("binance", "btcusdt.spot", "1h")
        table = store(manager).read(series, 0, 2**40).table
        times = rows_of(table)[0]["time"]
        assert int(times[-1]) + 3600 <= int(noon.timestamp())
        clock.advance(3600)
        later = get(manager, end=noon + HOUR, auto_reindex=False)
        assert sources(later)["REST"] >= 1
        assert_same(later, oracle(manager, end=noon + HOUR, auto_reindex=False))
        assert venue.errors() == 0


@pytest.mark.parametrize("hour", [0, 23, 24, 47])
def test_fault_08_single_bar_is_found_missing_when_it_is_at_midnight(
    manager: DataSourceManager, venue: Loopback, hour: int
) -> None:
    """Gaps of one bar beside midnight were under a doubled threshold."""
    venue.fault("missing-day")
    whole = oracle(manager, end=MAY + 2 * DAY)
    put_all_but(manager, whole, hour)
    found = get(manager, end=MAY + 2 * DAY)
    assert_same(found, whole)
    assert found["_data_source"].iloc[hour] == "REST"
    assert sources(found) == {"CACHE": 47, "REST": 1}


def put_all_but(manager: DataSourceManager, whole: pd.DataFrame, absent: int) -> None:
    """Store bars of an import, one of them missing and not said to be so by any venue."""
    from piker.ohlcv import KLINE_DTYPE

    rows = np.zeros(len(whole), KLINE_DTYPE)
    rows["time"] = whole.index.asi8 // NS
    names = {"turnover": "quote_asset_volume", "taker_volume": "taker_buy_volume",
             "taker_turnover": "taker_buy_quote_volume"}  # fmt: skip
    for name in KLINE_DTYPE.names or ():
        if name not in ("index", "time", "bar_wap"):
            rows[name] = whole[names.get(name, name)]
    start, end = int(rows["time"][0]), int(rows["time"][-1]) + 3600
    series = Series("binance", "btcusdt.spot", "1h")
    store(manager).write(series, np.delete(rows, absent), start, end, source="import")


# -- calendar ------------------------------------------------------------------------------------
def test_fault_09_weeks_begin_on_monday_and_months_on_the_first_when_asked_for(
    manager: DataSourceManager,
) -> None:
    """Weeks on a Sunday's grid were all NaN; months had thirty days."""
    begin, end = datetime(2023, 12, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC)
    weeks = get(manager, start=begin, end=end, interval=Interval.WEEK_1)
    assert set(weeks.index.day_of_week) == {0}
    assert weeks["close"].notna().all()
    assert (weeks["close_time"].dt.day_of_week == 6).all()
    months = get(manager, start=begin, end=end, interval=Interval.MONTH_1)
    assert list(months.index.month) == [12, 1, 2, 3, 4, 5]
    assert set(months.index.day) == {1}
    assert months["close"].notna().all()
    ends = months["close_time"] + pd.Timedelta(milliseconds=1)
    assert list(ends[:-1]) == list(months.index[1:])
    assert_same(months, oracle(manager, start=begin, end=end, interval=Interval.MONTH_1))


# -- sources -------------------------------------------------------------------------------------
def test_fault_10_network_is_left_alone_when_the_cache_is_forced(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """The offline mode asked the venue."""
    get(manager)
    before = venue.requests()
    offline: dict[str, Any] = {"enforce_source": DataSource.CACHE}
    assert sources(get(manager, **offline)) == {"CACHE": 24}
    partly = get(manager, end=MAY + 2 * DAY, **offline)
    assert partly["close"].notna().sum() == 24
    assert partly.attrs["report"]["missing"][0]["why"] == "offline"
    with pytest.raises(NoBars, match="offline"):
        get(manager, "ETHUSDT", **offline)
    with pytest.raises(NoBars):
        get(manager, "NEVERHEARD", **offline)
    assert venue.requests() == before


@pytest.mark.parametrize("polars", [False, True])
def test_fault_11_rest_of_the_range_is_fetched_when_some_of_it_is_cached(
    manager: DataSourceManager, polars: bool
) -> None:
    """Without reindexing, any cached row was taken for all of them: 24 of 72."""
    get(manager, start=MAY + DAY, end=MAY + 2 * DAY)
    found = get(manager, end=MAY + 3 * DAY, auto_reindex=False, return_polars=polars)
    assert len(found) == 72
    served = list(found["_data_source"])
    assert [served.count(name) for name in ("CACHE", "VISION")] == [24, 48]


@pytest.mark.parametrize("polars", [False, True])
@pytest.mark.parametrize("reindex", [False, True])
def test_fault_12_rows_are_the_same_when_fresh_and_when_cached(
    manager: DataSourceManager, reindex: bool, polars: bool
) -> None:
    """The end was inclusive when fetched and exclusive when cached: 49 rows, then 48."""
    bounds = {"start": MAY + HOUR / 2, "end": MAY + 2 * DAY + HOUR / 2}
    form = {"auto_reindex": reindex, "return_polars": polars}
    fresh, cached = get(manager, **bounds, **form), get(manager, **bounds, **form)
    assert len(fresh) == len(cached) == 48
    first = fresh["open_time"][0] if polars else fresh.index[0]
    assert first == MAY + (HOUR * (not reindex))


def test_fault_13_file_is_not_used_when_its_checksum_is_wrong(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """Data whose checksum did not agree was used, and kept."""
    venue.fault("bad-checksum")
    with pytest.raises(FetchFailed, match="CHECKSUM") as caught:
        get(manager, enforce_source=DataSource.VISION)
    assert len(caught.value.partial) == 0
    found = get(manager)
    assert sources(found) == {"REST": 24}
    assert_same(found, oracle(manager))
    codes = store(manager).rows(Series("binance", "btcusdt.spot", "1h"), 0, 2**40)[1]
    assert len(set(codes.tolist())) == 1


@pytest.mark.slow
def test_fault_14_request_is_repeated_when_the_connection_was_lost(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """What was called a retry never happened."""
    venue.fault("close", on="http", match="/data/", count=2)
    found = get(manager, enforce_source=DataSource.VISION)
    assert sources(found) == {"VISION": 24}


@pytest.mark.slow
@pytest.mark.parametrize("polars", [False, True])
def test_fault_15_what_was_obtained_travels_with_the_error_when_a_source_fails(
    manager: DataSourceManager, venue: Loopback, polars: bool
) -> None:
    """A failing REST interface threw away what cache and archive had given."""
    get(manager)
    venue.fault("missing-day")
    venue.fault("status", status=503, match="/klines")
    with pytest.raises(FetchFailed, match="24 of 48") as caught:
        get(manager, end=MAY + 2 * DAY, return_polars=polars)
    assert isinstance(caught.value, RuntimeError)
    partial = caught.value.partial
    assert isinstance(partial, pl.DataFrame if polars else pd.DataFrame)
    assert len(partial) == 48
    closes = partial["close"].to_numpy()
    assert np.isfinite(closes[:24]).all()
    assert np.isnan(closes[24:]).all()
    venue.heal()
    assert_same(get(manager, end=MAY + 2 * DAY), oracle(manager, end=MAY + 2 * DAY))


@pytest.mark.parametrize(
    "symbol",
    [
        "../../x",
        "..",
        "/etc/passwd",
        "BTC/USDT",
        "btcusdt\x00",
        "a" * 200,
        "BTC USDT",
        "ＢＴＣ",
        "",
    ],
)
def test_fault_16_symbol_is_refused_when_it_could_be_a_path(
    manager: DataSourceManager, symbol: str, tmp_path: Path
) -> None:
    """A symbol with dots and slashes left its directory."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SymbolError):
        get(manager, symbol)
    assert sorted(tmp_path.rglob("*")) == before


# -- funding -------------------------------------------------------------------------------------
def test_fault_17_fundings_are_those_of_the_range_when_another_was_cached_before(
    venue: Loopback,
) -> None:
    """One key for every date gave the first request's rows to the second: 7 of 28."""
    manager = DataSourceManager.create(
        DataProvider.BINANCE, MarketType.FUTURES_USDT, chart_type=ChartType.FUNDING_RATE
    )
    short = manager.get_data("BTCUSDT", MAY, MAY + 2 * DAY)
    long = manager.get_data("BTCUSDT", MAY, MAY + 9 * DAY)
    other = manager.get_data("ETHUSDT", MAY, MAY + 9 * DAY)
    assert (len(short), len(long), len(other)) == (6, 27, 27)
    assert list(long["symbol"].unique()) == ["BTCUSDT"]
    assert list(other["symbol"].unique()) == ["ETHUSDT"]
    fresh = manager.get_data("BTCUSDT", MAY, MAY + 9 * DAY, enforce_source=DataSource.REST)
    pd.testing.assert_frame_equal(long, fresh)
    before = venue.requests()
    pd.testing.assert_frame_equal(long, manager.get_data("BTCUSDT", MAY, MAY + 9 * DAY))
    assert venue.requests() == before


# -- form ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("polars", [False, True])
def test_fault_18_dtypes_are_the_same_when_sources_differ_or_mix(
    manager: DataSourceManager, polars: bool
) -> None:
    """close_time was of four units, and count became a float with the first gap."""
    form = {"return_polars": polars}
    found = [get(manager, start=MAY + DAY, end=MAY + 2 * DAY, **form)]
    found += [get(manager, start=MAY + DAY, end=MAY + 2 * DAY, **form)]
    found += [get(manager, enforce_source=DataSource.REST, **form)]
    found += [get(manager, end=MAY + 3 * DAY, **form)]  # mixed
    found += [get(manager, start=MAY - DAY, enforce_source=DataSource.CACHE, **form)]  # with gaps
    with pytest.raises(NoBars) as empty:
        get(manager, "ETHUSDT", enforce_source=DataSource.CACHE, **form)
    found += [empty.value.partial]
    assert all(list(one.columns) == list(found[0].columns) for one in found)
    assert all(list(one.dtypes) == list(found[0].dtypes) for one in found)
    names = found[0].columns
    assert not {"ignore", "original_timestamp", "__index_level_0__"} & set(names)


@pytest.mark.parametrize("interval", ["2m", "", "1x", None, 60, "minute"])
def test_fault_19_error_is_a_value_error_when_the_interval_is_junk(
    manager: DataSourceManager, venue: Loopback, interval: Any
) -> None:
    """Junk ended the process, or was taken for a second."""
    before = venue.requests()
    with pytest.raises(Unsupported, match="is no interval") as caught:
        get(manager, interval=interval)
    assert isinstance(caught.value, ValueError)
    assert venue.requests() == before


def test_fault_19_no_time_is_invented_when_rows_have_none(manager: DataSourceManager) -> None:
    """Where nothing is known there is an error, and never a made-up index."""
    with pytest.raises(NoBars) as caught:
        get(manager, "ETHUSDT", enforce_source=DataSource.CACHE)
    assert len(caught.value.partial) == 0
    assert str(caught.value.partial.index.dtype) == "datetime64[ns, UTC]"


def test_fault_20_nothing_is_replaced_by_a_default_when_it_is_not_known(
    manager: DataSourceManager, venue: Loopback
) -> None:
    """Unknown intervals became minutes, unknown markets spot, missing zones the machine's."""
    before = venue.requests()
    naive = MAY.replace(tzinfo=None)
    with pytest.raises(RangeError, match="no time zone"):
        get(manager, start=naive)
    with pytest.raises(RangeError, match="must be before"):
        get(manager, end=MAY)
    future = manager.get_data
    far = datetime(2190, 1, 1, tzinfo=UTC)
    with pytest.raises(RangeError, match="not begun"):
        future("BTCUSDT", far, far + DAY)
    with pytest.raises(Unsupported, match="1s"):
        fetch_market_data(
            DataProvider.BINANCE, MarketType.FUTURES_USDT, ChartType.KLINES, "BTCUSDT", "1s",
            MAY, MAY + HOUR,
        )  # fmt: skip
    with pytest.raises(SymbolError, match="BTCUSD_PERP"):
        DataSourceManager.create(DataProvider.BINANCE, MarketType.FUTURES_COIN).get_data(
            "BTCUSDT", MAY, MAY + DAY
        )
    for provider in (DataProvider.OKX, DataProvider.TRADESTATION, None):
        with pytest.raises(Unsupported, match="BINANCE"):
            DataSourceManager.create(provider, MarketType.SPOT)
    with pytest.raises(Unsupported, match="SPOT has no FUNDING_RATE"):
        DataSourceManager.create(
            DataProvider.BINANCE, MarketType.SPOT, chart_type=ChartType.FUNDING_RATE
        )
    assert venue.requests() == before
