"""The Binance backend against the loopback venue: all three markets, over real sockets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pendulum
import pytest
import trio

from piker.brokers import binance
from piker.brokers.binance import repair
from piker.brokers.binance.decode import MissedTrades
from piker.brokers.binance.depth import open_book
from piker.errors import DataUnavailable, NoData, SymbolNotFound
from piker.ohlcv import ClosedBar
from piker.testing.conformance import check_provider
from piker.testing.loopback import open_loopback, point_backend_at
from piker.ticks import QUOTE, TRADE, Outage, Resync, TickBatch, TickType

pytestmark = pytest.mark.slow

SYMBOLS = ("btcusdt.spot", "btcusdt.usdtm.perp", "btcusd.coinm.perp")


@asynccontextmanager
async def loopback(rate: float = 200.0) -> AsyncIterator[Any]:
    """Serve a venue and point the backend at it."""
    async with open_loopback("binance", symbols=2, rate=rate) as (venue, port):
        point_backend_at("binance", port)
        yield venue


@asynccontextmanager
async def streaming(*symbols: str) -> AsyncIterator[tuple[Any, Any, trio.Event]]:
    """Run stream_quotes for the block; yield (started value, channel, feed_is_live)."""
    send, receive = trio.open_memory_channel[Any](256)
    live = trio.Event()
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            started = await nursery.start(
                partial(binance.stream_quotes, send, list(symbols), None, live)
            )
        yield started, receive, live
        nursery.cancel_scope.cancel()


async def collect(receive: Any, enough: Callable[[list[Any]], bool]) -> list[Any]:
    """Return items up to when there are enough of them."""
    items: list[Any] = []
    with trio.fail_after(20):
        while not enough(items):
            items.append(await receive.receive())
    return items


def rows_of(items: list[Any]) -> list[Any]:
    """Return the tick rows."""
    return [row for item in items if isinstance(item, TickBatch) for row in item.rows]


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_every_rule_holds_when_the_kit_checks_a_market(piker_dirs: Path, symbol: str) -> None:
    """The conformance kit, with connections that break."""
    async with loopback() as venue:

        async def cut() -> None:
            for client in list(venue.clients):
                client.cut()

        results = [r async for r in check_provider("binance", symbol=symbol, break_hook=cut)]
        assert [r for r in results if r.status != "pass"] == []
        assert len(results) == 9


async def test_all_kinds_are_told_when_three_markets_are_streamed(piker_dirs: Path) -> None:
    """Trades and quotes of each, marks of the futures; first quotes and metadata at the start."""
    async with loopback(), streaming(*SYMBOLS) as (started, receive, live):
        init, quotes = started
        assert set(init) == set(quotes) == set(SYMBOLS)
        assert all(init[symbol]["mkt_info"].mktid == symbol for symbol in SYMBOLS)
        assert all(quotes[symbol]["last"] > 0 for symbol in SYMBOLS)
        wanted = {(symbol, kind) for symbol in SYMBOLS for kind in (TRADE, QUOTE)}
        wanted |= {(symbol, int(TickType.MARK)) for symbol in SYMBOLS[1:]}
        items = await collect(receive, lambda got: wanted <= {r[:2] for r in rows_of(got)})
        assert live.is_set()
        assert not [item for item in items if isinstance(item, Outage | Resync)]


async def test_bars_of_the_trades_equal_the_venues_when_a_second_closes(piker_dirs: Path) -> None:
    """One-second bars made from the aggTrades, against the kline the venue closes."""
    async with loopback(), streaming("btcusdt.spot") as (_, receive, _live):
        items = await collect(
            receive, lambda got: sum(isinstance(item, ClosedBar) for item in got) >= 4
        )
        trades = defaultdict(list)
        for row in rows_of(items):
            if row[1] == TRADE:
                trades[row[2] // 10**9].append(row)
        bars = [item for item in items if isinstance(item, ClosedBar) and item.timeframe_s == 1]
        compared = 0
        for bar in bars[1:]:  # the first second was joined in its middle
            rows = trades[bar.time_s]
            if not rows:
                assert bar.volume == 0
                continue
            prices, sizes = np.array([r[3] for r in rows]), np.array([r[4] for r in rows])
            assert (bar.open, bar.close) == (prices[0], prices[-1])
            assert (bar.high, bar.low) == (prices.max(), prices.min())
            assert bar.volume == pytest.approx(sizes.sum())
            assert bar.bar_wap == pytest.approx((prices * sizes).sum() / sizes.sum())
            assert bar.count == len(rows)
            compared += 1
        assert compared


async def test_trades_are_fetched_when_an_outage_hid_them(piker_dirs: Path) -> None:
    """After a loss: Outage, Resync, the gap, and then every id there is, none twice."""
    async with loopback() as venue, streaming("btcusdt.spot") as (_, receive, _live):
        before = await collect(receive, lambda got: len(rows_of(got)) > 20)
        for client in list(venue.clients):
            client.cut()

        def repaired(got: list[Any]) -> bool:
            ids = sorted(r[8] for r in rows_of(before + got) if r[1] == TRADE)
            gaps = [i for i in got if isinstance(i, Resync) and i.reason == "sequence-gap"]
            return bool(gaps) and ids == list(range(ids[0], ids[0] + len(ids)))

        after = await collect(receive, repaired)
        kinds = [type(item) for item in after if not isinstance(item, TickBatch | ClosedBar)]
        assert kinds[-2:] == [Resync, Resync]
        gap = next(i for i in after if isinstance(i, Resync) and i.reason == "sequence-gap")
        assert gap.missed > 0


async def test_only_one_connection_is_made_when_two_feeds_share_a_venue(piker_dirs: Path) -> None:
    """Each sees its own symbols; nothing is open when both have left."""
    async with loopback() as venue:
        async with streaming("btcusdt.spot") as (_, one, _a):
            async with streaming("ethusdt.spot", "btcusdt.spot") as (_, two, _b):
                seen = rows_of(
                    await collect(two, lambda got: len({r[0] for r in rows_of(got)}) == 2)
                )
                assert {row[0] for row in seen} == {"ethusdt.spot", "btcusdt.spot"}
                mine = rows_of(await collect(one, lambda got: len(rows_of(got)) > 20))
                assert {row[0] for row in mine} == {"btcusdt.spot"}
                assert len(venue.clients) == 1
        with trio.fail_after(5):
            while venue.clients:
                await trio.sleep(0.01)


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_ranges_are_half_open_when_history_is_asked_for(
    piker_dirs: Path, symbol: str
) -> None:
    """[start, end) on open time; the open bar only at the very end; long ranges end right."""
    async with loopback(), binance.open_history_client(symbol) as (get_ohlc, _):
        newest, first, last = await get_ohlc(60.0)
        assert (np.diff(newest["time"]) == 60).all()
        assert (first.timestamp(), last.timestamp()) == (newest["time"][0], newest["time"][-1])
        edge = pendulum.from_timestamp(int(newest["time"][-10]))
        part, _, _ = await get_ohlc(60.0, end_dt=edge, start_dt=edge.subtract(minutes=5))
        assert part["time"].tolist() == newest["time"][-15:-10].tolist()
        long, _, _ = await get_ohlc(60.0, end_dt=edge, start_dt=edge.subtract(days=300))
        assert long["time"][-1] == newest["time"][-11]
        assert len(long) >= 1000
        ahead, _, _ = await get_ohlc(60.0, end_dt=pendulum.now("UTC").add(days=1))
        assert ahead["time"][-1] < newest["time"][-1] + 60
        assert ahead["time"][-1] + 60 <= pendulum.now("UTC").timestamp()


async def test_the_right_error_is_raised_when_history_is_not_there(piker_dirs: Path) -> None:
    """No such timeframe, an empty range, no such market."""
    async with loopback():
        async with binance.open_history_client("btcusdt.usdtm.perp") as (get_ohlc, _):
            for timeframe in (1.0, 7.0, 60.5):
                with pytest.raises(DataUnavailable):
                    await get_ohlc(timeframe)
            now = pendulum.now("UTC")
            with pytest.raises(NoData):
                await get_ohlc(60.0, end_dt=now, start_dt=now.add(hours=1))
        with pytest.raises(SymbolNotFound, match="btcusdt"):
            await binance.get_mkt_info("btcusdx.spot.binance")
        with pytest.raises(SymbolNotFound):
            await binance.get_mkt_info("btcusdt.nowhere.binance")


async def test_a_market_has_one_address_when_it_is_asked_for_in_several_ways(
    piker_dirs: Path,
) -> None:
    """Long and short forms, any case; a search that is near finds it too."""
    async with loopback():
        for asked in ("btcusdt", "BTCUSDT.binance", "btcusdt.spot", "btcusdt.spot.binance"):
            assert (await binance.get_mkt_info(asked)).fqme == "btcusdt.spot.binance"
        perp = await binance.get_mkt_info("btcusdt.usdtm.perp.binance")
        assert perp.bs_mktid == "BTCUSDT"
        found = await binance.search_symbols("btcusd", 10)
        assert {m.mktid for m in found} >= set(SYMBOLS)
        assert (await binance.search_symbols("btcust", 5))[0].mktid.startswith("btcus")
        assert await binance.get_server_time() > 10**18


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_a_book_is_in_step_when_its_connection_breaks(piker_dirs: Path, symbol: str) -> None:
    """Synchronised, kept, lost, synchronised again; never crossed."""
    async with loopback() as venue, streaming(symbol), open_book(symbol) as live:
        for _ in range(2):
            with trio.fail_after(20):
                for _ in range(5):
                    await live.wait_update()
                    assert live.synced
                    assert not live.book.crossed()
                    assert live.book.best_bid
                    assert live.book.best_ask
            for client in list(venue.clients):
                client.cut()
            with trio.fail_after(20):
                while live.synced:
                    await trio.lowlevel.checkpoint()  # it may be in step again very soon


async def test_a_gaps_trades_are_what_the_venue_has_when_they_are_fetched(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page after page, no more than the gap; the newest of it when it is beyond the bound."""
    monkeypatch.setattr(repair, "PAGE", 7)
    async with loopback(), streaming("btcusdt.spot") as (_, receive, _live):
        seen = rows_of(await collect(receive, lambda got: len(rows_of(got)) > 300))
        trades = [row for row in seen if row[1] == TRADE]
        market = await binance.get_mkt_info("btcusdt.spot")
        gap = MissedTrades("btcusdt.spot", trades[3][8], 50)
        assert await repair.fetch_missed(gap, market) == trades[3:53]
        monkeypatch.setattr(repair, "MAX_REPAIR", 20)
        assert await repair.fetch_missed(gap, market) == trades[33:53]
