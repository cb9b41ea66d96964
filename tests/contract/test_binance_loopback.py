"""The Binance backend against the loopback venue: all three markets, over real sockets."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pendulum
import pytest
import trio
from trio_websocket import open_websocket_url
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage

from piker.brokers import binance
from piker.brokers.binance import repair
from piker.brokers.binance.decode import MissedTrades
from piker.brokers.binance.depth import open_book
from piker.brokers.rest import open_rest
from piker.errors import DataUnavailable, NoData, Rejected, SymbolNotFound
from piker.ohlcv import ClosedBar
from piker.testing import binance as venue_module
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
        assert venue.gate.stats()["violations"] == {}  # whatever was asked, within the limits
        assert venue.gate.counters.errors == 0


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
        gap = MissedTrades("btcusdt.spot", trades[3][8], 50, trades[2][2])
        assert await repair.fetch_missed(gap, market) == trades[3:53]
        monkeypatch.setattr(repair, "MAX_REPAIR", 20)
        assert await repair.fetch_missed(gap, market) == trades[33:53]


# -- what others use of it -----------------------------------------------------------------------
async def test_a_quarterly_future_streams_when_it_is_asked_for(piker_dirs: Path) -> None:
    """Both kinds have two of them, with their delivery; they have trades, marks and no funding."""
    async with loopback() as venue:
        dated = [x for x in venue.listings.values() if x.delivery_ms and x.spec.base == "BTC"]
        assert [(x.kind, x.contract) for x in dated] == [
            ("usdm", "CURRENT_QUARTER"), ("coinm", "CURRENT_QUARTER"),
            ("usdm", "NEXT_QUARTER"), ("coinm", "NEXT_QUARTER"),
        ]  # fmt: skip
        kinds = {"usdm": "usdtm", "coinm": "coinm"}
        names = [f"{x.pair.lower()}.{kinds[x.kind]}.{x.wire[-6:]}" for x in dated]
        assert (await binance.get_mkt_info(names[0])).bs_mktid == dated[0].wire
        async with binance.open_history_client(names[1]) as (get_ohlc, _):
            rows, _, _ = await get_ohlc(60.0)
            inside = (rows["bar_wap"] >= rows["low"]) & (rows["bar_wap"] <= rows["high"])
            traded = rows["volume"] > 0  # the newest has perhaps not been yet
            assert inside[traded].all()
            assert traded[:-1].all()
            assert (rows["bar_wap"][~traded] == 0).all()
            assert (rows["bar_wap"][rows["high"] > rows["low"]] > rows["low"].min()).any()
        async with streaming(*names) as (_, receive, _live):
            wanted = {(n, kind) for n in names for kind in (TRADE, QUOTE, int(TickType.MARK))}
            items = await collect(receive, lambda got: wanted <= {r[:2] for r in rows_of(got)})
            assert int(TickType.FUNDING) not in {row[1] for row in rows_of(items)}


class Listener:
    """A plain websocket client."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    async def say(self, method: str, *params: Any) -> Any:
        """Send a command; return its answer, whatever comes before it."""
        await self.socket.send_message(json.dumps({"method": method, "params": params, "id": 7}))
        return await self.until(lambda said: said.get("id") == 7)

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """Return the first message that is wanted."""
        with trio.fail_after(20):
            while True:
                said = json.loads(await self.socket.get_message())
                if isinstance(said, dict) and wanted(said):
                    return said


@asynccontextmanager
async def listening(path: str, *, limits: bool = True) -> AsyncIterator[tuple[Any, Listener, Any]]:
    """Serve a venue; yield it, a websocket at ``path``, and a REST client."""
    async with open_loopback("binance", symbols=2, rate=100, limits=limits) as (venue, port):
        async with open_rest("test.loopback", f"http://127.0.0.1:{port}") as rest:
            async with open_websocket_url(f"ws://127.0.0.1:{port}{path}") as socket:
                yield venue, Listener(socket), rest


@pytest.mark.parametrize(
    ("path", "name"),
    [("/stream", "btcusdt"), ("/public/stream", "btcusdt"), ("/coinm/stream", "btcusd_perp")],
)
async def test_partial_depth_is_the_book_when_it_is_streamed(path: str, name: str) -> None:
    """Five, ten or twenty levels, best first; the book at that id where the diffs say so."""
    names = [f"{name}@depth5", f"{name}@depth20@100ms", f"{name}@depth@100ms"]
    async with listening(path) as (_, client, _rest):
        await client.say("SUBSCRIBE", *names)
        for stream, levels in ((names[0], 5), (names[1], 20)):
            data = (await client.until(lambda said: said.get("stream") == stream))["data"]  # noqa: B023
            bids, asks = (data.get(a) or data[b] for a, b in (("bids", "b"), ("asks", "a")))
            assert len(bids) == len(asks) == levels
            prices = [float(row[0]) for row in [*reversed(asks), *bids]]
            assert prices == sorted(prices, reverse=True)


async def test_only_its_own_streams_come_when_a_path_is_for_some() -> None:
    """USD-M serves tops on one path and trades on another; spot and the rest have one."""
    async with listening("/public/stream") as (venue, client, _):
        await client.say("SUBSCRIBE", "btcusdt@aggTrade", "btcusdt@bookTicker")
        assert (await client.say("LIST_SUBSCRIPTIONS"))["result"] == [
            "btcusdt@aggTrade", "btcusdt@bookTicker",
        ]  # fmt: skip
        seen = set()
        for _ in range(50):
            seen.add((await client.until(lambda said: "stream" in said))["stream"])
        assert seen == {"btcusdt@bookTicker"}
        await client.say("UNSUBSCRIBE", "btcusdt@aggTrade", "btcusdt@bookTicker")
        assert not any(market.streams for market in venue.streams.markets.values())


async def test_streams_of_all_markets_come_when_they_are_asked_for() -> None:
    """An array of every market of the kind, once a second."""
    async with listening("/usdm/stream") as (venue, client, _):
        names = ["!miniTicker@arr", "!ticker@arr", "!markPrice@arr@1s"]
        await client.say("SUBSCRIBE", *names)
        listed = {x.wire for x in venue.listings.values() if x.kind == "usdm"}
        for name in names:
            said = await client.until(lambda said: said.get("stream") == name)  # noqa: B023
            assert {row["s"] for row in said["data"]} == listed
        await client.say("SUBSCRIBE", "!bookTicker")
        first = await client.until(lambda said: said.get("stream") == "!bookTicker")
        assert first["data"]["s"] in listed


async def test_one_some_or_all_are_answered_when_tickers_are_asked_for() -> None:
    """An object for one; a list for some and all, and for COIN-M whatever was asked."""
    async with listening("/ws") as (venue, _, rest):
        for path in ("ticker/price", "ticker/bookTicker", "ticker/24hr"):
            one = await rest.get_json(f"/api/v3/{path}", {"symbol": "BTCUSDT"}, type=dict)
            assert one["symbol"] == "BTCUSDT"
            some = await rest.get_json(f"/api/v3/{path}", {"symbols": '["ETHUSDT"]'}, type=list)
            assert [row["symbol"] for row in some] == ["ETHUSDT"]
            for prefix, kind in (("api/v3", "spot"), ("fapi/v1", "usdm"), ("dapi/v1", "coinm")):
                rows = await rest.get_json(f"/{prefix}/{path}", type=list)
                assert {x["symbol"] for x in rows} == {w for k, w in venue.listings if k == kind}
            perp = await rest.get_json(f"/fapi/v1/{path}", {"symbol": "BTCUSDT"}, type=dict)
            assert perp["symbol"] == "BTCUSDT"
            coin = await rest.get_json(f"/dapi/v1/{path}", {"symbol": "BTCUSD_PERP"}, type=list)
            assert [row["symbol"] for row in coin] == ["BTCUSD_PERP"]
        used = await rest.get("/api/v3/ping")
        assert int(used.headers["x-mbx-used-weight-1m"]) >= 1 + 3 * (2 + 2 + 4)


async def test_fundings_are_in_order_when_their_past_is_asked_for() -> None:
    """Eight hours apart, oldest first, in the range; the next one is the mark's."""
    async with listening("/ws") as (_, _client, rest):
        period = 8 * 3600 * 1000
        params = {"symbol": "BTCUSDT", "limit": 5}
        rows = await rest.get_json("/fapi/v1/fundingRate", params, type=list)
        times = [row["fundingTime"] for row in rows]
        assert np.diff(times).tolist() == [period] * 4
        since = await rest.get_json(
            "/fapi/v1/fundingRate", params | {"startTime": times[1] + 1}, type=list
        )
        assert [row["fundingTime"] for row in since] == times[2:]
        mark = await rest.get_json("/fapi/v1/premiumIndex", {"symbol": "BTCUSDT"}, type=dict)
        assert mark["nextFundingTime"] == times[-1] + period
        assert mark["lastFundingRate"] == rows[-1]["fundingRate"]


VALUES = ["", "0", "-1", "7", "1e9", "9" * 25, "BTCUSDT", "btcusdt", '["BTCUSDT"',
          '["BTCUSDT"]', "[1]", "null", "1m", "1M", "1s", "99m", "\u0663", "a b", "%",
          "1795246080000"]  # fmt: skip
PATHS = ["klines", "depth", "aggTrades", "trades", "historicalTrades", "ticker/price",
         "ticker/24hr", "ticker/bookTicker", "premiumIndex", "fundingRate", "exchangeInfo",
         "avgPrice", "nothing"]  # fmt: skip


async def test_the_venue_has_words_for_it_when_parameters_are_bad() -> None:
    """A thousand requests with what nobody should send: 200, 4xx with a code; never a 500."""
    dice = random.Random(5)
    names = ["symbol", "symbols", "limit", "fromId", "startTime", "endTime", "interval", "type"]
    async with listening("/ws", limits=False) as (venue, _, rest):
        seen = Counter()
        for _ in range(1000):
            kind = dice.choice(["api/v3", "fapi/v1", "dapi/v1"])
            params = {name: dice.choice(VALUES) for name in dice.sample(names, 3)}
            params |= {"symbol": "BTCUSDT"} if dice.random() < 0.5 else {}
            try:
                await rest.get(f"/{kind}/{dice.choice(PATHS)}", params)
                seen["200"] += 1
            except Rejected as error:
                seen[error.code] += 1
        assert venue.gate.counters.errors == 0
        assert set(seen) == {"200", "400", "404"}
        assert seen["200"] > 50


async def test_the_venue_has_words_for_it_when_a_command_is_bad() -> None:
    """Every malformed message is answered; the connection and the others live on."""
    async with listening("/ws", limits=False) as (venue, client, _):
        for text in ("", "x", "[]", "{}", '{"method":3}', '{"method":"FLY","id":1}', "[" * 5000,
                     '{"method":"SUBSCRIBE","params":"btcusdt@trade"}',
                     '{"method":"SET_PROPERTY","params":[]}'):  # fmt: skip
            await client.socket.send_message(text)
            assert "error" in await client.until(lambda said: "error" in said)
        await client.say("SUBSCRIBE", 3, None, "@", "!", "btcusdt@", "nothing@aggTrade", "btcusdt")
        assert (await client.say("GET_PROPERTY", "combined"))["result"] is False
        await client.say("SET_PROPERTY", "combined", True)
        await client.say("SUBSCRIBE", "btcusdt@aggTrade")
        await client.until(lambda said: said.get("stream") == "btcusdt@aggTrade")
        assert venue.gate.counters.errors == 0


async def until_cut(port: int, path: str, *texts: str) -> None:
    """Open a websocket that answers nothing, say something, and wait for its end."""
    wire = Connection(ConnectionType.CLIENT)
    head = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(head.encode())
            for text in texts:
                await stream.send_all(wire.send(TextMessage(data=text)))
            while await stream.receive_some():
                pass


async def test_the_connection_ends_when_its_limits_are_passed() -> None:
    """More messages a second than allowed, more streams than allowed: cut, and counted."""
    async with listening("/ws") as (venue, _, _rest):
        await until_cut(venue.port, "/ws", *['{"method":"LIST_SUBSCRIPTIONS"}'] * 100)
        assert venue.gate.stats()["violations"] == {"messages": 1}
        many = [f"x{number}usd_perp@trade" for number in range(201)]
        ask = json.dumps({"method": "SUBSCRIBE", "params": many})
        await until_cut(venue.port, "/coinm/ws", ask)
        assert venue.gate.stats()["violations"] == {"messages": 1, "streams": 1}
        assert venue.gate.counters.cut == 2


async def test_a_client_is_cut_off_when_it_answers_no_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The venue pings; who is silent for too long is gone, who answers stays."""
    monkeypatch.setattr(venue_module, "PING_S", 0.2)
    monkeypatch.setattr(venue_module, "PONG_S", 0.5)
    async with listening("/ws") as (venue, _, _rest):  # trio-websocket answers by itself
        await until_cut(venue.port, "/ws")
        assert venue.gate.counters.cut == 1
        assert len(venue.clients) == 1
