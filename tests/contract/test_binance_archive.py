"""Binance's archive client and REST history against the loopback venue: one market, two sources.

The venue serves the same bars through both; what the client makes of them must be equal to the
last bit, and whatever is done to a file must be told, never believed.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pendulum
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from piker.brokers import rest as rest_module
from piker.brokers.archive import ArchiveClient, ArchiveFile, ChecksumPolicy
from piker.brokers.binance import history
from piker.brokers.binance.api import KINDS
from piker.brokers.binance.archive import BinanceArchive, archive_url, open_archive_client
from piker.brokers.binance.bars import AGG_TRADE_DTYPE, FUNDING_DTYPE, INTERVALS
from piker.brokers.binance.history import (
    COINM_WINDOW_MS,
    fetch_first_open,
    fetch_funding_rates,
    open_history_client,
)
from piker.clock import wall_s
from piker.config import config_dir
from piker.errors import DataQuality, DataUnavailable, NoData, SymbolNotFound
from piker.ohlcv import KLINE_DTYPE, Timeframe
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at

SYMBOLS = ("btcusdt.spot", "btcusdt.usdtm.perp", "btcusd.coinm.perp")
DAY_S = 86_400
MAY_3 = 1_714_694_400  # 2024-05-03, a Friday
MAY_1 = MAY_3 - 2 * DAY_S
JUNE_1 = MAY_1 + 31 * DAY_S


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "RETRY_BASE_S", 0.001)


@asynccontextmanager
async def loopback(*faults: Fault, limits: bool = True, **more: Any) -> AsyncIterator[Any]:
    """Serve a venue that hardly trades, and point the backend at it."""
    async with open_loopback(
        "binance", symbols=1, rate=1, faults=faults, limits=limits, **more
    ) as (venue, port):
        point_backend_at("binance", port)
        yield venue
        assert venue.gate.stats()["violations"] == {}
        assert venue.gate.counters.errors == 0


def one(archive: BinanceArchive, interval: str = "1m", start_s: int = MAY_3) -> ArchiveFile:
    """Return one day's file."""
    (file,) = archive.files(Timeframe(interval), start_s, start_s + DAY_S, now_s=int(wall_s()))
    return file


async def by_rest(symbol: str, interval: str, start_s: int, end_s: int) -> Any:
    """Return bars of REST, page by page, the newest first."""
    pages: list[Any] = []
    async with open_history_client(symbol) as (get_ohlc, _):
        while start_s < end_s:
            try:
                rows, first, last = await get_ohlc(
                    Timeframe(interval).seconds,
                    end_dt=pendulum.from_timestamp(end_s),
                    start_dt=pendulum.from_timestamp(start_s),
                )
            except NoData:
                break
            assert rows.dtype == KLINE_DTYPE
            assert (first.timestamp(), last.timestamp()) == (rows["time"][0], rows["time"][-1])
            pages.insert(0, rows)
            end_s = int(rows["time"][0])
    return np.concatenate(pages) if pages else np.zeros(0, KLINE_DTYPE)


# -- the archive -----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_a_day_is_the_same_when_archive_and_rest_give_it(
    piker_dirs: Path, symbol: str
) -> None:
    """Every field of every minute, before and after the archive's change to microseconds."""
    async with loopback(), open_archive_client(symbol) as archive:
        client: ArchiveClient = archive  # it is one, by its types
        for start_s in (MAY_3, 1_748_736_000):  # 2024-05-03, 2025-06-01
            answer = await client.fetch(one(archive, start_s=start_s))
            assert answer.defects == ()
            assert answer.verified
            assert answer.rows.dtype == KLINE_DTYPE
            wanted = await by_rest(symbol, "1m", start_s, start_s + DAY_S)
            assert answer.rows.tobytes() == wanted.tobytes()
            assert len(answer.rows) == 1440


def own_grid(interval: str, rows: Any) -> Timeframe:
    """Return the bars of a market: three-day ones are on a grid of their own."""
    origin_s = int(rows["time"][0]) if interval == "3d" else None
    return Timeframe(interval, origin_s=origin_s)


@pytest.mark.slow
@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_every_interval_is_the_same_when_archive_and_rest_give_it(
    piker_dirs: Path, symbol: str
) -> None:
    """A month of all that is not too long to be asked for over REST; 3d, 1w and 1M among them."""
    async with loopback(), open_archive_client(symbol) as archive:
        for interval in INTERVALS[3:]:
            (file,) = archive.files(Timeframe(interval), MAY_1, JUNE_1, now_s=int(wall_s()))
            answer = await archive.fetch(file)
            assert answer.defects == ()
            wanted = await by_rest(symbol, interval, MAY_1, JUNE_1)
            assert answer.rows.tobytes() == wanted.tobytes()
            assert len(wanted) == own_grid(interval, wanted).count_between(MAY_1, JUNE_1)


@pytest.mark.slow
async def test_seconds_are_the_same_when_archive_and_rest_give_them(piker_dirs: Path) -> None:
    """A day of them from the archive, of which REST gives an hour."""
    async with loopback(), open_archive_client("btcusdt.spot") as archive:
        answer = await archive.fetch(one(archive, "1s"))
        assert (len(answer.rows), answer.defects) == (DAY_S, ())
        wanted = await by_rest("btcusdt.spot", "1s", MAY_3 + 3600, MAY_3 + 7200)
        assert answer.rows[3600:7200].tobytes() == wanted.tobytes()


async def test_an_answer_says_where_it_came_from_when_a_file_is_fetched(piker_dirs: Path) -> None:
    """Bytes, digest, ETag, time: enough to see later whether the file was replaced."""
    async with loopback(), open_archive_client("btcusdt") as archive:
        file = one(archive, "1h")
        answer = await archive.fetch(file)
        assert answer.file == file
        assert len(answer.sha256) == 64
        assert answer.size > 500
        assert answer.modified.endswith("GMT")
        assert not await archive.changed(file, answer.etag)
        assert await archive.changed(file, '"another"')
        with pytest.raises(NoData):
            await archive.changed(one(archive, "1h", 1_500_163_200 - DAY_S), answer.etag)


async def test_there_is_no_data_when_the_day_is_missing(piker_dirs: Path) -> None:
    """A 404 that becomes a file later: nothing of the refusal is kept."""
    fault = Fault(what="missing-day", count=1, match="2024-05-03")
    async with loopback(fault), open_archive_client("btcusdt") as archive:
        with pytest.raises(NoData, match="2024-05-03"):
            await archive.fetch(one(archive))
        assert len((await archive.fetch(one(archive))).rows) == 1440


@pytest.mark.parametrize(
    ("what", "rows", "defects"),
    [
        ("duplicate-rows", 1440, {"duplicate": 144}),
        ("off-grid", 1439, {"off-grid": 1}),
        ("missing-rows", 1296, {}),
        ("unsorted", 1440, {"unsorted": 720}),
        ("future-bar", 1440, {"out-of-range": 1}),
        ("unit-switch", 1440, {}),
        ("impossible-bar", 1439, {"impossible-bar": 1}),
    ],
)
@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_bad_rows_are_told_when_zip_and_checksum_agree(
    piker_dirs: Path, what: Any, rows: int, defects: dict[str, int], symbol: str
) -> None:
    """What is left is sound and equal to the sound file's rows of those times."""
    async with loopback(Fault(what=what, count=1)), open_archive_client(symbol) as archive:
        answer = await archive.fetch(one(archive))
        assert {defect.kind: defect.count for defect in answer.defects} == defects
        assert len(answer.rows) == rows
        wanted = await by_rest(symbol, "1m", MAY_3, MAY_3 + DAY_S)
        kept = wanted[np.isin(wanted["time"], answer.rows["time"])]
        assert answer.rows.tobytes() == kept.tobytes()


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("bad-checksum", "bad-checksum"),
        ("no-checksum", "bad-checksum"),
        ("truncated-zip", "bad-checksum"),
        ("wrong-symbol", "wrong-symbol"),
        ("zip-path", "bad-zip"),
        ("two-members", "bad-zip"),
        ("zip-bomb", "bad-zip"),
        ("empty-csv", "bad-csv"),
    ],
)
async def test_a_file_is_refused_when_it_can_not_be_trusted(
    piker_dirs: Path, what: Any, kind: str
) -> None:
    """Typed by what is wrong with it, with its name; the next file is read as if nothing were."""
    fault = Fault(what=what, match="2024-05-03")
    async with loopback(fault), open_archive_client("btcusdt") as archive:
        with pytest.raises(DataQuality, match="2024-05-03") as caught:
            await archive.fetch(one(archive))
        assert caught.value.kind == kind
        assert len((await archive.fetch(one(archive, start_s=MAY_3 + DAY_S))).rows) == 1440


async def test_a_hidden_bomb_is_refused_when_it_goes_off(piker_dirs: Path) -> None:
    """2 GiB behind a modest header: what it declares is inflated, no more."""
    fault = Fault(what="zip-bomb", part="hidden")
    async with loopback(fault), open_archive_client("btcusdt") as archive:
        with pytest.raises(DataQuality) as caught:
            await archive.fetch(one(archive))
        assert caught.value.kind == "bad-zip"


@pytest.mark.parametrize("policy", ["warn", "quarantine"])
async def test_the_policy_is_followed_when_a_checksum_is_wrong(
    piker_dirs: Path, policy: ChecksumPolicy
) -> None:
    """Read with a word of warning, or refused and kept in the data directory."""
    fault = Fault(what="bad-checksum", match="2024-05-03")
    async with loopback(fault), open_archive_client("btcusdt", checksum=policy) as archive:
        if policy == "warn":
            answer = await archive.fetch(one(archive))
            assert [defect.kind for defect in answer.defects] == ["bad-checksum"]
            assert not answer.verified
            assert len(answer.rows) == 1440
            return
        with pytest.raises(DataQuality):
            await archive.fetch(one(archive))
    (kept,) = (piker_dirs / "data" / "quarantine" / "binance").iterdir()
    assert kept.name == "data_spot_daily_klines_BTCUSDT_1m_BTCUSDT-1m-2024-05-03.zip"


async def test_files_come_whole_when_the_server_fails_in_between(piker_dirs: Path) -> None:
    """503, cut connections, garbled bytes that the checksum finds: in the end the day is right."""
    async with loopback() as venue, open_archive_client("btcusdt") as archive:
        wanted = await archive.fetch(one(archive))
        for fault in (
            Fault(what="status", status=503, match="^/data/", count=2),
            Fault(what="close", on="http", match="^/data/", count=2),
        ):
            venue.gate.add_faults([fault])
            answer = await archive.fetch(one(archive))
            assert answer.rows.tobytes() == wanted.rows.tobytes()
        venue.gate.add_faults([Fault(what="garble", on="http", match=r"zip$", count=1)])
        with pytest.raises(DataQuality) as caught:
            await archive.fetch(one(archive))
        assert caught.value.kind in ("bad-checksum", "oversize", "malformed")


async def test_nothing_is_left_when_fetches_are_cancelled(piker_dirs: Path) -> None:
    """Thirty at once, cancelled in the middle of a slow answer; the client goes on."""
    slow = Fault(what="slow", on="http", match="^/data/", bytes_per_s=2000, count=6)
    async with loopback(slow), open_archive_client("btcusdt") as archive:
        files = archive.files(Timeframe("1m"), MAY_1, MAY_1 + 30 * DAY_S, now_s=int(wall_s()))
        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(archive.fetch, file)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len((await archive.fetch(files[0])).rows) == 1440


async def test_trades_and_fundings_are_read_when_the_archive_has_them(piker_dirs: Path) -> None:
    """Aggregate trades of a day, funding rates of a month: those of REST."""
    async with loopback(), open_archive_client("btcusdt.usdtm.perp") as archive:
        (file,) = archive.trade_files(MAY_3, MAY_3 + DAY_S, now_s=int(wall_s()))
        trades = await archive.fetch_agg_trades(file)
        assert trades.rows.dtype == AGG_TRADE_DTYPE
        assert trades.defects == ()
        assert len(trades.rows) > 100
        assert (np.diff(trades.rows["id"]) > 0).all()
        assert set(np.unique(trades.rows["side"])) == {-1, 1}
        (file,) = archive.funding_files(MAY_1, JUNE_1, now_s=int(wall_s()))
        fundings = await archive.fetch_funding(file)
        assert fundings.rows.dtype == FUNDING_DTYPE
        assert fundings.defects == ()
        wanted = await fetch_funding_rates("btcusdt.usdtm.perp", moment(MAY_1), moment(JUNE_1))
        assert len(wanted) == 93
        assert fundings.rows["time_ms"].tolist() == wanted["time_ms"].tolist()
        assert fundings.rows["rate"].tolist() == wanted["rate"].tolist()
        assert set(fundings.rows["interval_h"]) == {8}


async def test_a_stand_in_is_asked_for_its_own_files_when_none_is_named(piker_dirs: Path) -> None:
    """A market on this machine never gets the real venue's bars; else the key decides."""
    file = config_dir() / "brokers.toml"
    kind = KINDS["spot"]
    for text, wanted in (
        ("", "https://data.binance.vision"),
        ('spot_http = "http://127.0.0.1:8000/"', "http://127.0.0.1:8000"),
        ('usdm_http = "http://127.0.0.1:8000"', "https://data.binance.vision"),
        ('spot_http = "https://data-api.binance.vision"', "https://data.binance.vision"),
        ('spot_http = "http://127.0.0.1:1"\narchive_http = "http://files/"', "http://files"),
    ):
        file.write_text(f"[binance.urls]\n{text}\n")
        assert archive_url(kind) == wanted


async def test_a_market_is_not_found_when_it_does_not_exist(piker_dirs: Path) -> None:
    """Before any file is asked for, with the nearest name."""
    async with loopback():
        with pytest.raises(SymbolNotFound, match="btcusdt"):
            async with open_archive_client("btcusdx.spot"):
                pass


# -- REST ------------------------------------------------------------------------------------------
def moment(time_s: float) -> datetime:
    """Return a time in UTC."""
    return datetime.fromtimestamp(time_s, UTC)


@pytest.mark.slow
@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_pages_make_the_long_answer_when_windows_are_any(
    piker_dirs: Path, symbol: str
) -> None:
    """Ranges of any bounds, in windows of any width: the one long answer, cut to the range."""
    async with loopback(limits=False), open_history_client(symbol) as (get_ohlc, _):
        wholes = {}
        for interval in ("1m", "4h", "1d", "3d", "1w", "1M"):
            span = min(1000 * Timeframe(interval).seconds, COINM_WINDOW_MS // 1000 - DAY_S)
            wholes[interval] = await by_rest(symbol, interval, MAY_3 - span, MAY_3)

        async def check(interval: str, start: float, length: float, width: float) -> None:
            whole = wholes[interval]
            first, last = int(whole["time"][0]), MAY_3
            start_s = first + start * (last - first)
            end_s = start_s + length * (last - start_s)
            step_s = max(width * (end_s - start_s), (end_s - start_s) / 7, 0.001)
            pages = []
            at = start_s
            while at < end_s:
                stop = min(at + step_s, end_s)
                try:
                    rows, *_ = await get_ohlc(interval, start_dt=moment(at), end_dt=moment(stop))
                    pages.append(rows)
                except NoData:
                    pass
                at = stop
            got = np.concatenate(pages) if pages else np.zeros(0, KLINE_DTYPE)
            low, high = _us(moment(start_s)), _us(moment(end_s))
            times_us = whole["time"] * 10**6
            wanted = whole[(times_us >= low) & (times_us < high)]
            assert got.tobytes() == wanted.tobytes()

        portal = trio.lowlevel.current_trio_token()

        @settings(max_examples=60, deadline=None)
        @given(st.sampled_from(list(wholes)), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
        def run(interval: str, start: float, length: float, width: float) -> None:
            trio.from_thread.run(check, interval, start, length, width, trio_token=portal)

        await trio.to_thread.run_sync(run)


def _us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_ranges_end_before_the_bar_that_opens_there_when_bounds_are_on_the_grid(
    piker_dirs: Path, symbol: str
) -> None:
    """[start, end): one minute, none, and what a millisecond more or less does."""
    async with loopback(), open_history_client(symbol) as (get_ohlc, _):
        for start, end, times in (
            (0, 60, [0]),
            (0, 60.001, [0, 60]),
            (0.001, 60, []),
            (0.001, 60.001, [60]),
            (-0.001, 59.999, [0]),
            (59.999, 180, [60, 120]),
        ):
            span = {"start_dt": moment(MAY_3 + start), "end_dt": moment(MAY_3 + end)}
            if not times:
                with pytest.raises(NoData):
                    await get_ohlc(60, **span)
                continue
            rows, *_ = await get_ohlc(60, **span)
            assert (rows["time"] - MAY_3).tolist() == times


@pytest.mark.slow
@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_every_interval_is_answered_when_its_newest_bars_are_asked_for(
    piker_dirs: Path, symbol: str
) -> None:
    """All sixteen, in seconds and by name; the open bar is the last, seconds are spot's alone."""
    async with loopback(), open_history_client(symbol) as (get_ohlc, _):
        for interval in INTERVALS:
            frame = Timeframe(interval)
            if interval == "1s" and "spot" not in symbol:
                with pytest.raises(DataUnavailable):
                    await get_ohlc(frame.seconds)
                continue
            rows, *_ = await get_ohlc(float(frame.seconds))
            assert rows["time"][-1] >= own_grid(interval, rows).floor(int(wall_s()) - 60)
            assert (np.diff(rows["time"]) > 0).all()
            named, *_ = await get_ohlc(interval, end_dt=moment(MAY_3))
            assert named["time"][-1] < MAY_3
            last = int(named["time"][-1])
            assert own_grid(interval, named).next(last) >= MAY_3
        for wrong in (7.0, 0.0, -60.0, math.nan, math.inf, 90.0, "7m", ""):
            with pytest.raises(DataUnavailable):
                await get_ohlc(wrong)


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_the_open_bar_is_left_out_when_an_end_is_given(piker_dirs: Path, symbol: str) -> None:
    """Also where the end lies in the future."""
    async with loopback(), open_history_client(symbol) as (get_ohlc, _):
        now = wall_s()
        for end in (now, now + 60, now + 400 * DAY_S):
            rows, *_ = await get_ohlc(3600, start_dt=moment(now - 5 * 3600), end_dt=moment(end))
            assert int(rows["time"][-1]) + 3600 <= wall_s()
            assert len(rows) in (4, 5)
        with pytest.raises(NoData):
            await get_ohlc(3600, start_dt=moment(now + 7200), end_dt=moment(now + 9000))
        with pytest.raises(NoData):
            await get_ohlc(3600, start_dt=moment(now), end_dt=moment(now - 9000))


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_the_newest_part_is_given_when_a_range_is_longer_than_an_answer(
    piker_dirs: Path, symbol: str
) -> None:
    """Full answers that end where they were asked to; COIN-M's 200 days are kept."""
    async with loopback(), open_history_client(symbol) as (get_ohlc, _):
        most = 1000 if "spot" in symbol else 1500
        rows, *_ = await get_ohlc(60, start_dt=moment(0), end_dt=moment(MAY_3))
        assert (len(rows), rows["time"][-1]) == (most, MAY_3 - 60)
        rows, *_ = await get_ohlc(DAY_S, start_dt=moment(MAY_3 - 900 * DAY_S), end_dt=moment(MAY_3))
        assert (len(rows), rows["time"][-1]) == (200 if "coinm" in symbol else 900, MAY_3 - DAY_S)


@pytest.mark.parametrize(
    "what", ["duplicate-rows", "missing-rows", "off-grid", "future-bar", "impossible-bar"]
)
async def test_bad_bars_are_seen_in_a_range_and_left_out_of_the_newest_when_rest_has_them(
    piker_dirs: Path, what: Any
) -> None:
    """A range is given as the venue gave it; an array gets none but sound bars, ascending."""
    async with loopback() as venue, open_history_client("btcusdt") as (get_ohlc, _):
        sound, *_ = await get_ohlc(60, start_dt=moment(MAY_3), end_dt=moment(MAY_3 + 6000))
        venue.gate.add_faults([Fault(what=what, match="/klines", count=2)])
        rows, *_ = await get_ohlc(60, start_dt=moment(MAY_3), end_dt=moment(MAY_3 + 6000))
        assert what == "future-bar" or rows.tobytes() != sound.tobytes()  # it has not closed
        newest, *_ = await get_ohlc(60)
        assert (np.diff(newest["time"]) > 0).all()
        assert (newest["time"] % 60 == 0).all()
        assert (newest["low"] <= newest["high"]).all()


# -- fundings and the first bar --------------------------------------------------------------------
@pytest.mark.parametrize("symbol", SYMBOLS[1:])
async def test_fundings_are_complete_when_they_take_many_pages(
    piker_dirs: Path, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open, ascending, none twice; bounds on a funding are in at the start, out at the end."""
    monkeypatch.setattr(history, "FUNDING_PAGE", 10)
    async with loopback():
        rows = await fetch_funding_rates(symbol, moment(MAY_1), moment(JUNE_1))
        assert rows.dtype == FUNDING_DTYPE
        assert rows["time_ms"].tolist() == [s * 1000 for s in range(MAY_1, JUNE_1, 28_800)]
        part = await fetch_funding_rates(symbol, moment(MAY_1 + 28_800), moment(MAY_1 + 57_600))
        assert part.tobytes() == rows[1:2].tobytes()
        none = await fetch_funding_rates(symbol, moment(MAY_1 + 1), moment(MAY_1 + 2))
        assert len(none) == 0


async def test_fundings_are_refused_when_the_market_is_spot(piker_dirs: Path) -> None:
    """There are none, and never will be."""
    async with loopback():
        with pytest.raises(DataUnavailable):
            await fetch_funding_rates("btcusdt.spot", moment(MAY_1), moment(JUNE_1))


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_the_first_bar_is_found_when_it_is_asked_for(piker_dirs: Path, symbol: str) -> None:
    """The oldest that the venue has: there is none before it."""
    async with loopback(), open_history_client(symbol) as (get_ohlc, _):
        for interval in ("1d", "3d", "1w", "1M"):
            first_s = await fetch_first_open(symbol, interval)
            frame = Timeframe(interval, origin_s=first_s if interval == "3d" else None)
            assert frame.floor(first_s) == first_s
            rows, *_ = await get_ohlc(interval, end_dt=moment(first_s + 1))
            assert rows["time"].tolist()[-1:] == [first_s]
        with pytest.raises(DataUnavailable):
            await fetch_first_open(symbol, "1m")
