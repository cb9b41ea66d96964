"""piker.dsm as programs use it: callers of every kind, forms of frames, sources, the store.

Against a real server on this machine; nothing is replaced but the venue's address.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import trio
from dsm_loopback import Loopback, closed_stores, serve

from piker.clock import NS, VirtualClock, use_clock
from piker.dsm import (
    ChartType,
    DataProvider,
    DataSource,
    DataSourceManager,
    Interval,
    MarketType,
    fetch_market_data,
    logger,
)
from piker.dsm.errors import FetchFailed, NoBars, Unsupported
from piker.dsm.frames import DTYPES, FUNDING_DTYPES
from piker.errors import Bug, SymbolNotFound
from piker.testing.recorded_bars import lay_out_recorded_bars

MAY = datetime(2024, 5, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SOON_S = 60  # a program that takes longer hangs
COLUMNS = [name for name in DTYPES if name != "open_time"]


@pytest.fixture
def venue(piker_dirs: Path) -> Iterator[Loopback]:
    """Serve a venue without limits."""
    with serve() as found:
        yield found
        assert found.errors() == 0


@pytest.fixture
def manager(venue: Loopback) -> DataSourceManager:
    """Return a manager of spot markets."""
    return DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)


def day(manager: DataSourceManager, **more: Any) -> Any:
    """Ask for a day of hours."""
    return manager.get_data("BTCUSDT", MAY, MAY + DAY, Interval.HOUR_1, **more)


def program(text: str, **env: str) -> subprocess.Popen[str]:
    """Start a program in the directories of this test."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + text], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, **env},
    )  # fmt: skip


PRELUDE = """
import sys, threading
from datetime import datetime, timedelta, timezone
from piker.dsm import *
MAY = datetime(2024, 5, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)
def day(n=1, **more):
    return manager.get_data("BTCUSDT", MAY, MAY + n * DAY, Interval.HOUR_1, **more)
def threads():
    return sorted(thread.name for thread in threading.enumerate())
"""


def finished(text: str, **env: str) -> str:
    """Run a program to its good end; return what it printed."""
    process = program(text, **env)
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out


# -- callers -------------------------------------------------------------------------------------
def test_call_works_when_the_caller_is_inside_an_event_loop(
    manager: DataSourceManager,
) -> None:
    """asyncio's, as in a notebook, and trio's: the caller waits, its loop knows nothing of it."""

    async def from_asyncio() -> pd.DataFrame:
        return day(manager)

    async def from_trio() -> pd.DataFrame:
        return manager.get_data("ETHUSDT", MAY, MAY + DAY, Interval.HOUR_1)

    assert len(asyncio.run(from_asyncio())) == 24
    assert len(trio.run(from_trio)) == 24


def test_calls_do_not_disturb_each_other_when_threads_make_them(
    manager: DataSourceManager,
) -> None:
    """One background thread serves all; each gets its own market's bars."""
    names = ["BTCUSDT", "ETHUSDT", "SOLUSDT"] * 3
    found: dict[int, pd.DataFrame] = {}

    def work(at: int) -> None:
        found[at] = manager.get_data(names[at], MAY, MAY + 2 * DAY, Interval.HOUR_1)

    workers = [threading.Thread(target=work, args=(at,)) for at in range(len(names))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for at in range(len(names)):
        assert (found[at]["close"] == found[at % 3]["close"]).all()
    assert len({frame["close"].iloc[0] for frame in found.values()}) == 3


@pytest.mark.slow
def test_no_thread_is_started_when_all_of_it_is_stored(venue: Loopback) -> None:
    """Nor is trio loaded, or the network stack: reading is reading."""
    finished("day()")
    out = finished(
        "print(len(day()), len(day(return_polars=True)), threads())\n"
        "print([name for name in ('trio', 'asks', 'piker.brokers.binance', 'pendulum')"
        " if name in sys.modules])"
    )
    assert out.splitlines() == ["24 24 ['MainThread']", "[]"]


@pytest.mark.slow
def test_program_ends_by_itself_when_the_thread_was_started(venue: Loopback) -> None:
    """The thread never keeps a program alive, and no word is said about it."""
    process = program("day()\nassert 'piker-dsm' in threads()\nprint('done')")
    out, err = process.communicate(timeout=SOON_S)
    assert (process.returncode, out, err) == (0, "done\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(("source", "served"), [("VISION", "REST"), ("REST", "VISION")])
def test_child_works_when_it_was_forked_after_a_call(
    venue: Loopback, source: str, served: str
) -> None:
    """It has a thread and databases of its own; parent and child go on, and the store is sound.

    Forking loses polars' threads: where the parent had read the archive, the child takes REST.
    """
    out = finished(
        "import os, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        f"day(enforce_source=DataSource.{source}), day(1, enforce_source=DataSource.REST)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    print(len(day()), len(day(3)), sorted(set(day(4)['_data_source'])), threads()[1:])\n"
        "    try:\n"
        "        print(len(day(1, return_polars=True)))\n"
        "    except ValueError as err:\n"
        "        print(err)\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "print(code, len(day(5)), sorted(set(day(4)['_data_source'])))"
    )
    child, polars, parent = out.splitlines()
    assert child.startswith(f"24 72 ['CACHE', '{served}']")
    assert "piker-dsm" in child
    assert polars == "24" if source == "REST" else "spawn" in polars
    assert parent == "0 120 ['CACHE']"
    assert closed_stores(Path(os.environ["PIKER_DATA_DIR"]) / "store") == []


@pytest.mark.slow
@pytest.mark.parametrize("source", ["VISION", "REST"])
def test_call_is_cancelled_when_the_person_presses_ctrl_c(venue: Loopback, source: str) -> None:
    """KeyboardInterrupt comes out of the call, and the thread serves the next one."""
    path = "/data/" if source == "VISION" else "/klines"
    venue.fault("half-open", on="http", match=path)
    process = program(
        "try:\n"
        "    print('begun', flush=True)\n"
        f"    day(enforce_source=DataSource.{source})\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    print(len(day()))\n"
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        wait_until(lambda: any(path in one for one in venue.paths()))
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        venue.heal()
        assert process.stdout.readline() == "24\n"
        assert process.wait(SOON_S) == 0
    finally:
        process.kill()
        process.communicate()


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for another process, whose state no event tells."""
    pause = threading.Event()
    for _ in range(600):
        if holds():
            return
        pause.wait(0.05)
    raise AssertionError("it never came to that")


def test_callback_is_refused_when_it_asks_for_history_itself(manager: DataSourceManager) -> None:
    """It runs on the thread that its call would wait for."""
    seen: list[object] = []

    def on_progress(far: Any) -> None:
        seen.append(far)
        manager.get_data("SOLUSDT", MAY, MAY + DAY, Interval.HOUR_1)

    with pytest.raises(Bug, match="callback"):
        day(manager, on_progress=on_progress)
    assert seen
    assert len(day(manager)) == 24


def test_progress_is_told_when_something_is_fetched(manager: DataSourceManager) -> None:
    """Bars that are settled of all, until all of them are."""
    seen: list[Any] = []
    manager.get_data("BTCUSDT", MAY, MAY + 5 * DAY, Interval.HOUR_1, on_progress=seen.append)
    assert [far.done for far in seen] == sorted(far.done for far in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].source) == (120, 120, "archive")


# -- frames --------------------------------------------------------------------------------------
def test_frame_is_what_the_seed_says_when_it_is_of_pandas(manager: DataSourceManager) -> None:
    """Index, columns, dtypes, times, and who served what."""
    frame = day(manager)
    assert frame.index.name == "open_time"
    assert str(frame.index.dtype) == DTYPES["open_time"]
    assert list(frame.columns) == COLUMNS
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        name: DTYPES[name] for name in COLUMNS
    }
    assert DataSourceManager.OUTPUT_DTYPES == DTYPES
    assert (frame["close_time"] - frame.index == HOUR - timedelta(milliseconds=1)).all()
    assert (frame["_data_source"] == "VISION").all()
    assert list(frame["_data_source"].cat.categories) == ["CACHE", "VISION", "REST"]
    assert (day(manager)["_data_source"] == "CACHE").all()
    bare = day(manager, include_source_info=False)
    assert list(bare.columns) == COLUMNS[:-1]
    frame.loc[frame.index[0], "close"] = 1.0  # it is the caller's own
    assert day(manager)["close"].iloc[0] != 1.0


def test_frame_is_the_same_when_it_is_of_polars(manager: DataSourceManager) -> None:
    """The same columns behind open_time, the same values."""
    pandas, polars = day(manager), day(manager, return_polars=True)
    assert polars.columns == ["open_time", *COLUMNS]
    assert polars["open_time"].dtype == pl.Datetime("ns", "UTC")
    assert polars["close_time"].dtype == pl.Datetime("ns", "UTC")
    assert polars["count"].dtype == pl.Int64
    assert polars["_data_source"].dtype == pl.Enum(["CACHE", "VISION", "REST"])
    for name in COLUMNS[:-1]:
        assert polars[name].to_list() == pandas[name].to_list()
    assert "_data_source" not in day(manager, return_polars=True, include_source_info=False).columns
    assert manager.last_report is not None
    assert manager.last_report["rows"] == 24


@pytest.mark.parametrize("word", ["true", "1", "YES"])
def test_frames_are_of_polars_when_the_environment_says_so(
    manager: DataSourceManager, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """``DSM_USE_POLARS_OUTPUT``; any other word means no."""
    monkeypatch.setenv("DSM_USE_POLARS_OUTPUT", "no")
    assert isinstance(day(manager), pd.DataFrame)
    monkeypatch.setenv("DSM_USE_POLARS_OUTPUT", word)
    assert isinstance(day(manager), pl.DataFrame)


@pytest.mark.slow
def test_pandas_is_not_loaded_when_polars_is_asked_for(venue: Loopback) -> None:
    """No copy through pandas, and none of its second of import."""
    finished("day()")
    text = "assert len(day(return_polars=True)) == 24\nprint('pandas' in sys.modules)"
    assert finished(text) == "False\n"


def test_columns_are_the_stores_memory_when_they_are_of_polars(manager: DataSourceManager) -> None:
    """Two frames of one range share their pages; so nothing was copied."""
    day(manager)
    one, two = (day(manager, return_polars=True) for _ in range(2))
    for name in ("open_time", "close", "count"):
        first, second = (frame[name].to_physical().to_numpy() for frame in (one, two))
        assert first.__array_interface__["data"] == second.__array_interface__["data"]


@pytest.mark.parametrize("polars", [False, True])
def test_grid_is_full_when_bars_are_missing(manager: DataSourceManager, polars: bool) -> None:
    """NaN, no trades, no source, and a close_time all the same; or no row at all."""
    day(manager)
    span = {"start_time": MAY - DAY, "end_time": MAY + 2 * DAY, "interval": Interval.HOUR_1}
    form = {"enforce_source": DataSource.CACHE, "return_polars": polars}
    full = manager.get_data("BTCUSDT", **span, **form)
    assert len(full) == 72
    absent = np.isnan(full["close"].to_numpy())
    assert absent.tolist() == [True] * 24 + [False] * 24 + [True] * 24
    assert set(full["count"].to_numpy()[absent].tolist()) == {0}
    assert sum(one is None or one != one for one in list(full["_data_source"])) == 48
    times = full["open_time"] if polars else full.index
    assert [one.hour for one in list(times)] == list(range(24)) * 3
    lags = [close - begin for close, begin in zip(full["close_time"], times, strict=True)]
    assert {lag.total_seconds() for lag in lags} == {3599.999}
    there = manager.get_data("BTCUSDT", **span, **form, auto_reindex=False)
    assert len(there) == 24


def test_report_and_units_travel_with_the_frame_when_it_is_copied(
    manager: DataSourceManager,
) -> None:
    """Through pickles, copies and operations; small enough for pandas to copy each time."""
    frame = day(manager)
    report = frame.attrs["report"]
    assert (report["rows"], report["expected"], report["complete"]) == (24, 24, True)
    assert report["served"] == {"CACHE": 0, "VISION": 24, "REST": 0}
    assert report["requests"] >= 1
    assert report["bytes"] > 0
    assert frame.attrs["units"]["volume"] == "base asset"
    for other in (pickle.loads(pickle.dumps(frame)), copy.deepcopy(frame), frame.iloc[:3]):
        assert other.attrs == frame.attrs
    assert len(pickle.dumps(frame.attrs)) < 4096


def test_units_are_named_when_volumes_are_contracts(venue: Loopback) -> None:
    """COIN-M calls its columns as the others are called, and means other things."""
    manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.FUTURES_COIN)
    frame = manager.get_data("BTCUSD", MAY, MAY + DAY, Interval.HOUR_1)
    units = frame.attrs["units"]
    assert (units["volume"], units["quote_asset_volume"]) == ("contracts", "base asset")
    assert frame.attrs["report"]["series"] == "btcusd.coinm.perp.binance/1h"
    assert (frame["volume"] == frame["volume"].round()).all()
    coins = frame["quote_asset_volume"] * frame["close"]
    assert ((coins / frame["volume"]).round(-1) == 100).all()  # a contract is 100 USD


# -- values --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("market", "symbol", "folder"),
    [
        (MarketType.SPOT, "BTCUSDT", "spot"),
        (MarketType.FUTURES_USDT, "BTCUSDT", "um"),
        (MarketType.FUTURES_COIN, "BTCUSD_PERP", "cm"),
    ],
)
def test_values_equal_recorded_ones_to_the_last_digit_whoever_serves_them(
    shared: Path, piker_dirs: Path, market: MarketType, symbol: str, folder: str
) -> None:
    """Archive, REST, both, and the store, in three markets."""
    lay_out_recorded_bars(shared / "venues", piker_dirs / "bars")
    (path,) = (piker_dirs / "bars" / folder).glob(f"{symbol}-1h*.csv")
    lines = [line.split(",") for line in path.read_text().splitlines() if line[:1].isdigit()]
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    week = (symbol, begin, begin + 7 * DAY, Interval.HOUR_1)
    with serve(bars=piker_dirs / "bars") as venue:
        manager = DataSourceManager.create(DataProvider.BINANCE, market)
        manager.get_data(symbol, begin + DAY, begin + 2 * DAY, Interval.HOUR_1,
                         enforce_source=DataSource.AUTO)  # fmt: skip
        venue.fault("missing-day", match="2024-01-04")
        frames = [
            manager.get_data(*week),  # mixed
            manager.get_data(*week),
            manager.get_data(*week, enforce_source=DataSource.REST),
        ]
        venue.heal()
        frames.append(manager.get_data(*week, enforce_source=DataSource.VISION))
    assert set(frames[0]["_data_source"]) == {"CACHE", "VISION", "REST"}
    for frame in frames:
        assert len(frame) == len(lines) == 168
        for at, name in enumerate(COLUMNS[:5], start=1):
            assert frame[name].tolist() == [float(line[at]) for line in lines]
        for at, name in enumerate(COLUMNS[6:10], start=7):
            assert frame[name].tolist() == [float(line[at]) for line in lines]
        assert (frame.index.asi8 // 10**6).tolist() == [int(line[0]) for line in lines]


# -- sources and the store -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "served"),
    [
        ({"enforce_source": DataSource.VISION}, "VISION"),
        ({"enforce_source": DataSource.REST}, "REST"),
        ({"use_cache": False}, "VISION"),
        ({"use_cache": False, "vision_enabled": False}, "REST"),
        ({"fcp_priority": (DataSource.REST, DataSource.VISION)}, "REST"),
    ],
    ids=str,
)
def test_store_takes_no_part_when_a_source_is_forced(
    venue: Loopback, options: dict[str, Any], served: str
) -> None:
    """Neither read nor filled, whichever way that is said."""
    manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT, **options)
    for _ in range(2):
        before = venue.requests()
        assert set(day(manager)["_data_source"]) == {served}
        assert venue.requests() > before
    assert not list(manager.cache_dir.rglob("*.arrow"))


def test_order_of_sources_is_the_one_asked_for_when_the_cache_is_in_it(venue: Loopback) -> None:
    """REST before the archive, and the store fills."""
    order = (DataSource.CACHE, DataSource.REST, DataSource.VISION)
    manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT, fcp_priority=order)
    assert set(day(manager)["_data_source"]) == {"REST"}
    assert set(day(manager)["_data_source"]) == {"CACHE"}


def test_cache_and_no_cache_are_refused_when_both_are_asked_for(manager: DataSourceManager) -> None:
    """As a sentence, before anything is done."""
    other = DataSourceManager(use_cache=False)
    with pytest.raises(Unsupported, match="use_cache"):
        day(other, enforce_source=DataSource.CACHE)


def test_directory_is_the_one_given_when_one_is_given(venue: Loopback, tmp_path: Path) -> None:
    """And when it was deleted meanwhile it is made anew."""
    import shutil

    place = tmp_path / "mine"
    manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT, cache_dir=place)
    assert manager.cache_dir == place
    for _ in range(2):
        assert set(day(manager)["_data_source"]) == {"VISION"}
        assert set(day(manager)["_data_source"]) == {"CACHE"}
        shutil.rmtree(place)


def test_newest_bar_is_left_out_until_it_has_closed_when_the_range_ends_now(
    piker_dirs: Path,
) -> None:
    """And what has not closed is said, not fetched."""
    now = MAY + timedelta(minutes=30, seconds=10)
    with use_clock(VirtualClock(int(now.timestamp()) * NS)), serve() as venue:
        manager = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)
        before = venue.requests()
        with pytest.raises(NoBars, match="not-closed"):
            manager.get_data("BTCUSDT", MAY, now, Interval.HOUR_1)
        assert venue.requests() == before
        frame = manager.get_data("BTCUSDT", MAY - DAY, MAY + 2 * HOUR, Interval.HOUR_1)
        assert len(frame) == 26
        assert frame["close"].notna().sum() == 24
        assert [one["why"] for one in frame.attrs["report"]["missing"]] == ["not-closed"]
        again = manager.get_data("BTCUSDT", MAY - DAY, MAY + 2 * HOUR, Interval.HOUR_1)
        assert set(again["_data_source"].dropna()) == {"CACHE"}


def test_range_before_the_listing_is_said_to_be_when_asked_for(manager: DataSourceManager) -> None:
    """An error that stays one from the store alone; partly before is a frame with a reason."""
    begin = datetime(2017, 1, 1, tzinfo=UTC)
    for _ in range(2):
        with pytest.raises(NoBars, match=r"not-listed|no bars before.*later range"):
            manager.get_data("BTCUSDT", begin, begin + DAY, Interval.HOUR_1)
    first = datetime(2017, 8, 17, tzinfo=UTC)
    frame = manager.get_data("BTCUSDT", first - DAY, first + DAY, Interval.HOUR_1)
    assert frame["close"].notna().tolist() == [False] * 28 + [True] * 20


def test_market_is_named_with_its_neighbours_when_it_is_not_there(
    manager: DataSourceManager,
) -> None:
    """By the venue's own list."""
    with pytest.raises(SymbolNotFound, match="btcusdt"):
        manager.get_data("BTCUSDX", MAY, MAY + DAY, Interval.HOUR_1)


@pytest.mark.slow
def test_further_rounds_are_made_when_more_retries_are_asked_for(venue: Loopback) -> None:
    """Four attempts each: the third of three rounds outlasts the outage."""
    venue.fault("status", status=503, match="/klines", count=9)
    options = {"vision_enabled": False, "use_cache": True}
    patient = DataSourceManager.create(
        DataProvider.BINANCE, MarketType.SPOT, retry_count=8, **options
    )
    assert set(day(patient)["_data_source"]) == {"REST"}


# -- funding -------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["AUTO", "REST", "VISION"])
def test_fundings_are_the_same_when_sources_differ(venue: Loopback, source: str) -> None:
    """Four columns, a time each eight hours, and nothing of the network when they are cached."""
    args = (DataProvider.BINANCE, MarketType.FUTURES_USDT, ChartType.FUNDING_RATE, "BTCUSDT", "1h")
    span = {"start_time": MAY, "end_time": MAY + 3 * DAY}
    frame, _, count = fetch_market_data(*args, **span, enforce_source=source)
    assert count == 9
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == FUNDING_DTYPES
    assert frame["funding_time"].tolist() == [MAY + at * 8 * HOUR for at in range(9)]
    assert set(frame["interval"]) == {"8h"}
    polars, _, _ = fetch_market_data(*args, **span, enforce_source=source, return_polars=True)
    assert polars.columns == list(FUNDING_DTYPES)
    assert polars["funding_rate"].to_list() == frame["funding_rate"].tolist()
    if source == "AUTO":
        before = venue.requests()
        offline, _, _ = fetch_market_data(*args, **span, enforce_source="CACHE")
        pd.testing.assert_frame_equal(offline, frame)
        assert venue.requests() == before
    else:
        with pytest.raises(NoBars, match="in the cache"):
            fetch_market_data(*args, **span, enforce_source="CACHE")


@pytest.mark.slow
def test_cached_fundings_travel_with_the_error_when_the_venue_fails(venue: Loopback) -> None:
    """And the file that keeps them is replaced when it is damaged."""
    manager = DataSourceManager.create(
        DataProvider.BINANCE, MarketType.FUTURES_COIN, chart_type=ChartType.FUNDING_RATE
    )
    assert len(manager.get_data("BTCUSD", MAY, MAY + DAY)) == 3
    venue.fault("status", status=503, match="/fundingRate")
    with pytest.raises(FetchFailed) as caught:
        manager.get_data("BTCUSD", MAY, MAY + 2 * DAY)
    assert caught.value.partial["symbol"].tolist() == ["BTCUSD_PERP"] * 3
    venue.heal()
    path = manager.cache_dir / "funding.db"
    path.write_bytes(b"rubbish" * 1000)
    assert len(manager.get_data("BTCUSD", MAY, MAY + 2 * DAY)) == 6
    assert path.with_name("funding.db.bad").exists()


# -- log -----------------------------------------------------------------------------------------
def test_lines_of_one_manager_are_written_when_its_level_says_so(
    venue: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not those of another; piker's own lines obey the same level."""
    assert logger.level == "ERROR"
    loud = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT, log_level="INFO")
    quiet = DataSourceManager.create(DataProvider.BINANCE, MarketType.SPOT)
    venue.fault("bad-checksum", match="SOLUSDT")
    quiet.get_data("SOLUSDT", MAY, MAY + DAY, Interval.HOUR_1)
    assert capsys.readouterr().err == ""
    loud.get_data("SOLUSDT", MAY, MAY + 2 * DAY, Interval.HOUR_1)
    said = capsys.readouterr().err
    assert "48 of 48 bars" in said
    assert "history.failed" in said
    assert "trace=" in said
    loud.reconfigure_logging(quiet_mode=True)
    loud.get_data("SOLUSDT", MAY, MAY + 3 * DAY, Interval.HOUR_1)
    assert capsys.readouterr().err == ""
