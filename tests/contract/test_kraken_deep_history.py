"""Kraken's deep history against the loopback Kraken, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pendulum
import pytest
import trio
import trio.lowlevel

from piker.brokers.kraken import api, history, trade_history
from piker.brokers.kraken.history import open_history_client
from piker.brokers.limits import Limit, venue_budget
from piker.clock import NS, wall_ns
from piker.errors import DataQuality, DataUnavailable, NoData, Transient
from piker.ohlcv import KLINE_DTYPE, Timeframe
from piker.testing import kraken_rest
from piker.testing.faults import Fault
from piker.testing.kraken import KrakenVenue
from piker.testing.kraken_past import PAST_DAYS
from piker.testing.loopback import open_loopback, point_backend_at

SYMBOL = "xbtusd.spot"
SOON_S = 60  # nothing here takes longer unless it is broken
EXACT = ("time", "open", "high", "low", "close", "count")
SHORT = 149  # trades of a page where many ends are wanted; no multiple of the pattern of fills
ROUNDED = ("volume", "bar_wap")  # the venue writes them with so many decimals


@pytest.fixture
def dirs(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return private directories; listings are nobody else's, and limits are off."""
    monkeypatch.setattr(api, "_cache", {})
    monkeypatch.setattr(api, "LIMITS", (Limit("public", 1e6, 1),))
    venue_budget("kraken").set_limits([Limit("public", 1e6, 1)])
    return piker_dirs


@asynccontextmanager
async def history_of(
    dirs: Path, *faults: Fault, symbol: str = SYMBOL, rate: float = 1.0, symbols: int = 1
) -> AsyncIterator[tuple[Any, KrakenVenue]]:
    """Serve the venue and open the history of one of its markets."""
    with trio.fail_after(SOON_S):
        async with open_loopback(
            "kraken", symbols=symbols, rate=rate, faults=faults, limits=False
        ) as (venue, port):  # fmt: skip
            point_backend_at("kraken", port)
            async with open_history_client(symbol) as (get_ohlc, _):
                assert isinstance(venue, KrakenVenue)
                yield get_ohlc, venue


@pytest.fixture
def trades_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every bar built from trades, also those that OHLC serves."""
    monkeypatch.setattr(history, "_may_serve", lambda frame, end_s: False)


async def backwards(get_ohlc: Any, timeframe: float, start: Any, end: Any) -> np.ndarray[Any, Any]:
    """Return [start, end), asked for as a caller does: from the end, frame by frame."""
    parts = []
    while start < end:
        rows, first, last = await get_ohlc(timeframe, end_dt=end, start_dt=start)
        assert start <= first <= last < end
        parts.insert(0, rows)
        end = first
    return np.concatenate(parts)


def check_equal(made: np.ndarray[Any, Any], told: np.ndarray[Any, Any]) -> None:
    """Compare bars of trades with the venue's own, value by value."""
    for name in EXACT:
        assert (made[name] == told[name]).all(), name
    for name in ROUNDED:
        np.testing.assert_allclose(made[name], told[name], rtol=1e-9, atol=0)


@pytest.mark.parametrize("seconds", [60.0, 900.0])
@pytest.mark.slow
async def test_bars_of_trades_equal_the_venues_when_both_exist(
    dirs: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """All of the newest 720 bars of OHLC, but for the one in progress, built again from trades."""
    async with history_of(dirs, rate=20) as (get_ohlc, _):
        told, start, end = await get_ohlc(seconds)
        assert len(told) == 720
        monkeypatch.setattr(history, "_may_serve", lambda frame, end_s: False)
        made = await backwards(get_ohlc, seconds, start, end)
        assert len(made) == 719
        check_equal(made, told[:-1])
        quiet = made[made["count"] == 0]
        assert seconds == 900 or len(quiet) > 10
        assert (quiet["bar_wap"] == 0).all()
        assert made["count"].sum() > 3000


@pytest.mark.slow
async def test_pages_join_without_seam_when_a_range_needs_many_calls(
    dirs: Path, monkeypatch: pytest.MonkeyPatch, trades_only: None
) -> None:
    """Calls of two pages each bring what one call brings; fills of one order straddle pages."""
    async with history_of(dirs) as (get_ohlc, venue):
        whole, start, end = await get_ohlc(60.0, end_dt=_ago(0), start_dt=_ago(30))
        assert len(whole) == 1800
        monkeypatch.setattr(trade_history, "MAX_PAGES", 2)
        calls: list[int] = []

        async def counted(*args: Any, **kwargs: Any) -> Any:
            before = _asked(venue)
            answer = await get_ohlc(*args, **kwargs)
            calls.append(_asked(venue) - before)
            return answer

        parts = await backwards(counted, 60.0, start, end.add(minutes=1))
        assert (parts == whole).all()
        assert len(calls) > 5
        assert max(calls) <= 2 + 2 * trade_history.PROBES
        assert sum(calls) < 8 * len(calls)
        monkeypatch.setattr(kraken_rest, "PAGE", SHORT)
        assert _straddled(venue, int(start.timestamp()) * NS)
        monkeypatch.setattr(trade_history, "MAX_PAGES", 30)
        short, _, _ = await get_ohlc(60.0, end_dt=end.add(minutes=1), start_dt=start)
        assert (short == whole).all()


def _asked(venue: KrakenVenue) -> int:
    """Return how many pages of trades were asked for so far."""
    return venue.gate.counters.requests["/0/public/Trades"]


def _ago(hours: float) -> Any:
    """Return a moment on a minute, some hours ago."""
    return pendulum.from_timestamp(wall_ns() // NS // 60 * 60 - round(hours * 3600))


def _straddled(venue: KrakenVenue, since: int) -> bool:
    """Tell whether some page ends within the fills of one order: else the test proves little."""
    tape = venue.listings[0].tape
    found = 0
    while len(page := tape.after(since, SHORT)) == SHORT and tape.after(page[-1].ns, 1):
        since = page[-1].ns
        found += tape.after(since, 1)[0].number > page[-1].number + 1
    return found > 0


@pytest.mark.parametrize("name", ["1s", "3m", "2h", "8h", "1d", "3d", "1w"])
@pytest.mark.slow
async def test_other_lengths_are_sums_of_minutes_when_the_venue_lacks_them(
    dirs: Path, trades_only: None, name: str
) -> None:
    """Longer bars are what their minutes are together, shorter ones together make the minute."""
    frame = Timeframe(name)
    async with history_of(dirs) as (get_ohlc, _):
        stop = frame.floor(wall_ns() // NS // 60 * 60)
        span = max(2 * frame.seconds, 7200) if frame.seconds < 86_400 else frame.seconds
        end, start = pendulum.from_timestamp(stop), pendulum.from_timestamp(stop - span)
        bars = await backwards(get_ohlc, float(frame.seconds), start, end)
        minutes = await backwards(get_ohlc, 60.0, start, end)
        assert bars.dtype == KLINE_DTYPE
        assert bars["time"].tolist() == frame.grid(stop - span, stop).tolist()
        coarse, fine = (bars, minutes) if frame.seconds > 60 else (minutes, bars)
        assert coarse["count"].sum() == fine["count"].sum() > 100
        for field in ("volume", "turnover", "taker_volume", "taker_turnover"):
            assert coarse[field].sum() == pytest.approx(fine[field].sum(), rel=1e-12)
        bar = coarse[coarse["count"] > 0][-1]  # a minute may pass without a trade
        part = fine[(fine["time"] >= bar["time"]) & (fine["count"] > 0)]
        assert (bar["open"], bar["close"]) == (part["open"][0], part["close"][-1])
        assert (bar["high"], bar["low"]) == (part["high"].max(), part["low"].min())
        assert (bars["taker_volume"] <= bars["volume"]).all()
        assert 0 < bars["taker_volume"].sum() < bars["volume"].sum()


@pytest.mark.slow
async def test_history_ends_at_the_first_trade_when_asked_for_more(
    dirs: Path, trades_only: None
) -> None:
    """A range from before the listing begins with its bar; before that there never was one."""
    async with history_of(dirs) as (get_ohlc, venue):
        first = venue.listings[0].tape.after(0, 1)[0]
        listed_s = first.ns // NS // 3600 * 3600
        listed = pendulum.from_timestamp(listed_s)
        rows, start, _ = await get_ohlc(3600.0, listed.add(hours=5), listed.subtract(days=3))
        assert (start, len(rows)) == (listed, 5)
        assert rows["open"][0] == pytest.approx(first.price * 0.1)
        for begin in (listed.subtract(days=3), None):
            with pytest.raises(DataUnavailable, match="had not been traded"):
                await get_ohlc(3600.0, listed, begin)


async def test_open_bar_is_left_out_when_an_end_is_given(dirs: Path, trades_only: None) -> None:
    """With an end the last bar is over by the venue's clock; without, it is the one in progress."""
    async with history_of(dirs, rate=200) as (get_ohlc, _):
        now_s = wall_ns() // NS
        rows, _, last = await get_ohlc(60.0, start_dt=_ago(15))
        assert last.timestamp() in (now_s // 60 * 60, now_s // 60 * 60 + 60)
        assert len(rows) in (901, 902)
        rows, _, last = await get_ohlc(60.0, end_dt=_ago(-24), start_dt=_ago(1))
        assert last.timestamp() + 60 <= wall_ns() // NS
        assert len(rows) in (60, 61)
        for begin, end in ((_ago(-1), None), (_ago(-1), _ago(-2)), (_ago(2), _ago(2))):
            with pytest.raises(NoData):
                await get_ohlc(60.0, end_dt=end, start_dt=begin)


@pytest.mark.parametrize("name", ["1s", "1m", "1d"])
async def test_newest_bars_cost_one_page_when_it_holds_some(
    dirs: Path, trades_only: None, name: str
) -> None:
    """Without bounds the newest page is enough, and its first bar, of which trades lack, is not
    there; a length that is longer than a page is looked for."""
    async with history_of(dirs, rate=0.01) as (get_ohlc, venue):
        rows, start, end = await get_ohlc(name)
        assert _asked(venue) == 1 or name == "1d"
        if len(rows) == 1:  # early in a day: there is nothing before the bar in progress
            with pytest.raises(NoData):
                await get_ohlc(name, end_dt=end, start_dt=start)
            return
        again, _, _ = await get_ohlc(name, end_dt=end, start_dt=start)
        assert (again == rows[:-1]).all()
        assert rows["count"].sum() > 900


@pytest.mark.slow
async def test_live_trades_become_the_same_bars_when_they_are_past(
    dirs: Path, trades_only: None
) -> None:
    """Seconds that were traded live are, out of Trades, what the matching engine did in them."""
    async with history_of(dirs, rate=100) as (get_ohlc, venue):
        market = venue.listings[0].market
        while len(market.trades) < 250:
            await trio.sleep(0.1)
        start_s, stop_s = market.start_s + 1, wall_ns() // NS
        rows, _, _ = await get_ohlc(1.0, end_dt=_ago(-1))
        rows = rows[(rows["time"] >= start_s) & (rows["time"] < stop_s)]
        told = market.bars(Timeframe("1s"), start_s, stop_s, stop_s)
        assert len(rows) == len(told) > 1
        for name in ("time", "count", "volume"):
            assert rows[name] == pytest.approx(told[name])
        traded = told["count"] > 0
        for name in ("open", "high", "low", "close"):
            assert rows[name][traded] == pytest.approx(told[name][traded])


@pytest.mark.slow
async def test_nothing_is_left_when_a_walk_is_cancelled(dirs: Path, trades_only: None) -> None:
    """A call that is cancelled between pages changes nothing of the next one's answer."""
    async with history_of(dirs) as (get_ohlc, venue):
        whole, start, end = await get_ohlc(60.0, end_dt=_ago(0), start_dt=_ago(30))
        for pages in (1, 3, 6):
            before = _asked(venue)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get_ohlc, 60.0, end.add(minutes=1), start)
                while _asked(venue) - before < pages:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        again, _, _ = await get_ohlc(60.0, end_dt=end.add(minutes=1), start_dt=start)
        assert (again == whole).all()


@pytest.mark.slow
async def test_a_page_that_lost_trades_is_asked_for_again(
    dirs: Path, monkeypatch: pytest.MonkeyPatch, trades_only: None
) -> None:
    """A hole in the ids costs a page more, and no bar; one that stays is the venue's, and told."""
    async with history_of(dirs) as (get_ohlc, venue):
        tape = venue.listings[0].tape
        whole, start, end = await get_ohlc(60.0, end_dt=_ago(0), start_dt=_ago(24))
        after, lost = tape.after, [0]

        def lossy(since_ns: int, count: int) -> Any:
            found = after(since_ns, count)
            if lost[0] < 2 and len(found) > 600:
                lost[0] += 1
                return found[:300] + found[310:]
            return found

        monkeypatch.setattr(tape, "after", lossy)
        again, _, _ = await get_ohlc(60.0, end_dt=end.add(minutes=1), start_dt=start)
        assert lost[0] == 2
        assert (again == whole).all()
        gone = tape.after(int(start.timestamp()) * NS, 500)[-1].number
        before = trade_history.quality.counts["trade-ids-hole"]
        monkeypatch.setattr(
            tape, "after", lambda since, count: [x for x in after(since, count) if x.number != gone]
        )
        short, _, _ = await get_ohlc(60.0, end_dt=end.add(minutes=1), start_dt=start)
        assert short["count"].sum() == whole["count"].sum() - 1
        assert trade_history.quality.counts["trade-ids-hole"] > before


async def test_ids_that_make_no_sense_are_refused(
    dirs: Path, monkeypatch: pytest.MonkeyPatch, trades_only: None
) -> None:
    """Pages that never bring what their ids promise, or run backwards: an error, and no bar."""
    async with history_of(dirs) as (get_ohlc, venue):
        tape = venue.listings[0].tape
        after = tape.after
        end = _ago(24)
        begin_ns = int(_ago(25).timestamp()) * NS
        monkeypatch.setattr(
            tape, "after", lambda since, count: after(min(since, begin_ns), min(count, 10))
        )
        with pytest.raises(DataQuality, match="not to be had"):
            await get_ohlc(60.0, end_dt=end, start_dt=_ago(25))
        flip = 10**9

        def backward(since_ns: int, count: int) -> Any:
            return [fill._replace(number=flip - fill.number) for fill in after(since_ns, count)]

        monkeypatch.setattr(tape, "after", backward)
        async with open_history_client(SYMBOL) as (fresh, _):
            with pytest.raises(DataQuality, match="trade"):
                await fresh(60.0, end_dt=end, start_dt=_ago(25))


@pytest.mark.slow
async def test_limits_are_kept_when_history_is_deep(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The venue's own limit is on and never broken: pages wait their turn."""
    monkeypatch.setattr(api, "_cache", {})
    venue_budget("kraken").set_limits(api.LIMITS)
    with trio.fail_after(SOON_S):
        async with open_loopback("kraken", symbols=1, rate=1.0) as (venue, port):
            point_backend_at("kraken", port)
            async with open_history_client(SYMBOL) as (get_ohlc, _):
                rows, _, _ = await get_ohlc(60.0, end_dt=_ago(20), start_dt=_ago(24))
            assert len(rows) == 240
            assert venue.gate.stats()["violations"] == {}


@pytest.mark.slow
async def test_outage_is_told_as_such_when_pages_fail(dirs: Path, trades_only: None) -> None:
    """What the venue does not answer is Transient, and works again afterwards."""
    async with history_of(dirs) as (get_ohlc, venue):
        venue.gate.add_faults([Fault(what="status", match="Trades", status=503, count=4)])
        with pytest.raises(Transient):
            await get_ohlc(60.0, end_dt=_ago(20), start_dt=_ago(24))
        rows, _, _ = await get_ohlc(60.0, end_dt=_ago(20), start_dt=_ago(24))
        assert len(rows) == 240
        assert PAST_DAYS >= 30


@pytest.mark.slow
async def test_threads_get_the_listings_when_each_runs_a_loop_of_its_own(dirs: Path) -> None:
    """Four loops at once, each waiting for its answer while the others ask."""
    fault = Fault(what="delay", on="http", match="AssetPairs", delay_s=0.2)
    with trio.fail_after(SOON_S):
        async with open_loopback("kraken", symbols=2, faults=[fault]) as (_, port):
            point_backend_at("kraken", port)
            found: list[list[str]] = []

            async def one() -> None:
                markets = await trio.to_thread.run_sync(trio.run, _market_ids)
                found.append(markets)

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(one)
            assert len(found) == 4
            assert all(SYMBOL in markets for markets in found)


async def _market_ids() -> list[str]:
    """Return the ids of the listings, twice asked for at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.load_listings)
        nursery.start_soon(api.load_listings)
    return list(await api.load_listings())
