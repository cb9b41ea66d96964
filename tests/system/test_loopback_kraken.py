"""The Kraken backend against the loopback Kraken, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket_url

from piker.brokers.kraken import api, open_book, open_history_client, stream_quotes
from piker.brokers.limits import Limit, venue_budget
from piker.brokers.rest import RestClient, open_rest
from piker.clock import NS, wall_ns
from piker.errors import DataUnavailable, NoData, Rejected, SymbolNotFound
from piker.market import MktPair
from piker.ohlcv import ClosedBar
from piker.testing import conformance
from piker.testing.faults import Fault
from piker.testing.kraken import KrakenVenue
from piker.testing.kraken_past import PAST_DAYS
from piker.testing.loopback import open_loopback
from piker.ticks import QUOTE, TRADE, Outage, Resync, TickBatch, TickRow

SYMBOL = "xbtusd.spot"
SOON_S = 20  # nothing here takes longer unless it is broken


@asynccontextmanager
async def venue_of(
    dirs: Path,
    *,
    symbols: int = 3,
    rate: float = 100,
    within_s: float = SOON_S,
    limits: bool = False,
) -> AsyncIterator[KrakenVenue]:
    """Serve the venue, and point the backend at it; without limits, because ours are off, too."""
    venue = KrakenVenue(symbols=symbols, rate=rate, seed=1, limits=limits)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(venue.run, "127.0.0.1", 0)
        assert port == venue.port
        (dirs / "config" / "brokers.toml").write_text(
            f'[kraken.urls]\nspot_http = "http://127.0.0.1:{port}"\n'
            f'spot_ws = "ws://127.0.0.1:{port}"\n'
        )
        with trio.fail_after(within_s):
            yield venue
            assert venue.gate.stats()["violations"] == {}
            assert venue.gate.counters.errors == 0
        nursery.cancel_scope.cancel()


def lose(venue: KrakenVenue, channel: str, frames: int) -> None:
    """Send the next frames of a channel to nobody."""
    lost = Fault(what="drop", match=f'"channel":"{channel}","type":"update"', count=frames)
    venue.gate.add_faults([lost])


@pytest.fixture
def dirs(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return private directories; the venue's listings and limits are nobody else's."""
    monkeypatch.setattr(api, "_cache", {})
    monkeypatch.setattr(api, "LIMITS", (Limit("public", 1e6, 1),))
    venue_budget("kraken").set_limits([Limit("public", 1e6, 1)])
    return piker_dirs


class Stream:
    """A running ``stream_quotes``."""

    def __init__(self, started: Any, live: trio.Event, items: Any) -> None:
        self.init, self.first = started
        self.live = live
        self.items = items
        self.rows: list[TickRow] = []
        self.others: list[Any] = []

    async def until(self, done: Any) -> None:
        """Take items until ``done()``."""
        while not done():
            item = await self.items.receive()
            if isinstance(item, TickBatch):
                self.rows += item.rows
            else:
                self.others.append(item)

    def ids(self, symbol: str = SYMBOL) -> list[int]:
        """Return the trade ids that came, as they came."""
        return [row[8] for row in self.rows if row[1] == TRADE and row[0] == symbol]


@asynccontextmanager
async def stream_of(*symbols: str) -> AsyncIterator[Stream]:
    """Run ``stream_quotes`` for the block."""
    send, receive = trio.open_memory_channel[Any](1000)
    live = trio.Event()
    async with trio.open_nursery() as nursery:
        started = await nursery.start(stream_quotes, send, list(symbols), None, live)
        yield Stream(started, live, receive)
        nursery.cancel_scope.cancel()


async def test_stream_starts_with_quotes_and_goes_live(dirs: Path) -> None:
    """Markets and first quotes at once, then trades and tops of each symbol asked for."""
    async with venue_of(dirs):
        async with stream_of(SYMBOL, "ethusd.spot") as stream:
            market = stream.init[SYMBOL]["mkt_info"]
            assert isinstance(market, MktPair)
            assert market.fqme == "xbtusd.spot.kraken"
            assert stream.first[SYMBOL]["last"] > 0
            assert [t["type"] for t in stream.first[SYMBOL]["ticks"]] == ["last", "bid", "ask"]
            await stream.until(
                lambda: (
                    {(row[0], row[1]) for row in stream.rows}
                    >= {(s, kind) for s in (SYMBOL, "ethusd.spot") for kind in (TRADE, QUOTE)}
                )
            )
            assert stream.live.is_set()
            assert {row[0] for row in stream.rows} == {SYMBOL, "ethusd.spot"}
            assert all(abs(row[2] - wall_ns()) < 60 * NS for row in stream.rows)


@pytest.mark.slow
async def test_halt_is_told_when_the_venue_changes_a_market(dirs: Path) -> None:
    """An Outage for that market alone, a Resync when it goes on; statuses that match do nothing."""
    async with venue_of(dirs) as venue, stream_of(SYMBOL, "ethusd.spot") as stream:
        await stream.until(lambda: len(stream.rows) > 20)
        for status in ("post_only", "maintenance", "cancel_only", "online"):
            venue.set_status("BTC/USD", status)
        await stream.until(lambda: len(stream.others) >= 2)
        assert stream.others == [
            Outage("the venue says: maintenance", SYMBOL),
            Resync("venue", SYMBOL, detail="the venue says: online"),
        ]
        venue.set_status("ETH/USD", "delisted")
    async with venue_of(dirs) as venue:
        venue.set_status("BTC/USD", "maintenance")
        async with stream_of(SYMBOL) as stream:
            await stream.until(lambda: bool(stream.others))
            assert stream.others == [Outage("the venue says: maintenance", SYMBOL)]


@pytest.mark.slow
async def test_every_trade_comes_through_a_cut_once(dirs: Path) -> None:
    """The snapshot after the reconnect brings what was missed; the loss is told first."""
    async with venue_of(dirs) as venue, stream_of(SYMBOL) as stream:
        await stream.until(lambda: len(stream.ids()) >= 5)
        venue.cut(refuse_s=0.2)
        await stream.until(lambda: any(isinstance(x, Resync) for x in stream.others))
        seen = len(stream.ids())
        # More than the snapshot's 50 may have been missed: then the rest comes over REST, later.
        await stream.until(lambda: len(stream.ids()) >= seen + 20 and _whole(stream.ids()))
        assert any(isinstance(x, Outage) and x.symbol == SYMBOL for x in stream.others)
        assert len(set(stream.ids())) == len(stream.ids())


async def test_lost_trade_frames_are_fetched_again(dirs: Path) -> None:
    """A hole in the ids is told, then filled over REST with the venue's times."""
    async with venue_of(dirs) as venue, stream_of(SYMBOL) as stream:
        await stream.until(lambda: len(stream.ids()) >= 5)
        lose(venue, "trade", 3)
        await stream.until(lambda: any(isinstance(x, Resync) for x in stream.others))
        (gap,) = (x for x in stream.others if isinstance(x, Resync))
        assert (gap.reason, gap.symbol) == ("sequence-gap", SYMBOL)
        assert gap.missed >= 3
        await stream.until(lambda: _whole(stream.ids()))
        late = {row[8]: row for row in stream.rows if row[1] == TRADE}
        listing = venue.listings[0]
        for trade in listing.market.trades:
            if trade.number in late:
                row = late[trade.number]
                assert (row[3], row[7]) == (float(listing.price(trade.price)), trade.side)
                assert abs(row[2] // 1_000_000 - trade.time_ms) <= 1


def _whole(ids: list[int]) -> bool:
    return max(ids) - min(ids) + 1 == len(ids)


@pytest.mark.slow
async def test_feeds_of_the_same_venue_share_a_connection(dirs: Path) -> None:
    """The second feed brings its own symbols over the first one's socket."""
    async with venue_of(dirs) as venue, stream_of(SYMBOL) as one:
        await one.until(lambda: one.rows)
        async with stream_of("ethusd.spot") as two:
            await two.until(lambda: two.rows)
            assert {row[0] for row in two.rows} == {"ethusd.spot"}
        await one.until(lambda: len(one.rows) > 50)
        assert {row[0] for row in one.rows} == {SYMBOL}
        assert venue.connects == 1


@pytest.mark.slow
async def test_book_is_the_venues_at_every_step_and_heals(dirs: Path) -> None:
    """Checksums hold while the market moves; a lost update costs a new snapshot, not the truth."""
    async with venue_of(dirs) as venue, open_book(SYMBOL) as live:
        while live.checked < 30:
            await live.wait_update()
            bid, ask = live.book.bids.best_price, live.book.asks.best_price
            assert bid is not None
            assert ask is not None
            assert bid < ask
        assert live.resyncs == 0
        while live.resyncs == 0:
            lose(venue, "book", 1)  # one may not matter: the next may change the same level again
            await live.wait_update()
        lost_at = live.checked
        while live.checked < lost_at + 10:
            await live.wait_update()
        assert live.synced
        assert venue.connects == 1
        venue.cut()
        while live.resyncs == 1:
            await live.wait_update()
        while not live.synced:
            await live.wait_update()


@pytest.mark.parametrize(
    ("seconds", "count"), [(60, 720), (3600, 720), (86_400, PAST_DAYS + 1)]
)  # fmt: skip
@pytest.mark.slow
async def test_history_is_the_newest_bars(dirs: Path, seconds: int, count: int) -> None:
    """720 of them or all, equidistant, the last one in progress; an average lies within its bar."""
    async with venue_of(dirs, symbols=1, rate=5), open_history_client(SYMBOL) as (get_ohlc, config):
        rows, start, end = await get_ohlc(float(seconds))
        assert config == {"erlangs": 3, "rate": 3}
        assert len(rows) == count
        assert (rows["time"][1:] - rows["time"][:-1] == seconds).all()
        assert rows["time"][-1] == wall_ns() // NS // seconds * seconds
        assert (int(start.timestamp()), int(end.timestamp())) == (rows["time"][0], rows["time"][-1])
        traded = rows[rows["volume"] > 0]
        assert len(traded)
        tick = 0.1  # the venue cuts the average, which may put it a tick below the low
        assert (traded["bar_wap"] >= traded["low"] - tick).all()
        assert (traded["bar_wap"] <= traded["high"]).all()


async def test_history_in_a_range(dirs: Path) -> None:
    """Half open, without the unfinished bar; before the newest 720 they are made of trades."""
    async with venue_of(dirs, symbols=1, rate=5), open_history_client(SYMBOL) as (get_ohlc, _):
        newest, start, end = await get_ohlc(60.0)
        part, first, last = await get_ohlc(60.0, end_dt=end, start_dt=start.add(minutes=700))
        assert (first, last) == (start.add(minutes=700), end.subtract(minutes=1))
        assert len(part) == 19
        future, _, _ = await get_ohlc(60.0, end_dt=end.add(days=1))
        assert future["time"][-1] < newest["time"][-1] + 60
        older, _, before = await get_ohlc(60.0, end_dt=start, start_dt=start.subtract(hours=1))
        assert (len(older), before) == (60, start.subtract(minutes=1))
        with pytest.raises(NoData):
            await get_ohlc(60.0, start_dt=end.add(days=1))
        for seconds in (7.0, 0.5, 172_800.0, float("nan")):
            with pytest.raises(DataUnavailable):
                await get_ohlc(seconds)


async def test_markets_by_any_of_their_names(dirs: Path) -> None:
    """Short or long, old name or new, any case; near names are offered."""
    async with venue_of(dirs, symbols=4):
        for name in ("xbtusd", "XBTUSD.spot", "btcusd.spot", "btcusd", "xbtusd.spot.kraken"):
            assert (await api.get_mkt_info(name)).fqme == "xbtusd.spot.kraken"
        assert (await api.get_mkt_info("dogeusd.kraken")).fqme == "xdgusd.spot.kraken"
        with pytest.raises(SymbolNotFound, match="ethusd"):
            await api.get_mkt_info("ethusdd.spot")
        assert [m.mktid for m in await api.search_symbols("btc")] == ["xbtusd.spot"]
        assert [m.mktid for m in await api.search_symbols("xbt")] == ["xbtusd.spot"]
        assert len(await api.search_symbols("usd", 3)) == 3
        assert next(m.mktid for m in await api.search_symbols("etusd")) == "ethusd.spot"
        assert abs(await api.get_server_time() - wall_ns()) < 2 * NS


async def test_errors_of_the_venue_are_typed(dirs: Path) -> None:
    """A refused argument is Rejected with the venue's code."""
    async with venue_of(dirs, symbols=1), api.open_client() as client:
        listing = await api.find_listing("xbtusd")
        with pytest.raises(Rejected) as caught:
            await api.fetch_ohlc(client, listing, 7)
        assert caught.value.code == "EGeneral:Invalid arguments"


@pytest.mark.full
async def test_closed_bars_are_the_venues(dirs: Path) -> None:
    """A minute passes; the bar that closed is the one REST serves."""
    async with venue_of(dirs, symbols=1, rate=20, within_s=150):
        async with stream_of(SYMBOL) as stream:
            await stream.until(lambda: sum(isinstance(x, ClosedBar) for x in stream.others) >= 2)
        bar = next(x for x in reversed(stream.others) if isinstance(x, ClosedBar))
        async with open_history_client(SYMBOL) as (get_ohlc, _):
            rows, _, _ = await get_ohlc(60.0)
        (row,) = rows[rows["time"] == bar.time_s]
        assert (bar.open, bar.high, bar.low) == (row["open"], row["high"], row["low"])
        assert (bar.close, bar.count) == (row["close"], row["count"])
        assert bar.bar_wap == row["bar_wap"]


@pytest.mark.slow
async def test_kraken_passes_every_rule_on_its_loopback_venue(
    dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conformance kit finds nothing to say."""
    monkeypatch.setattr(conformance, "WATCH_S", 0.5)
    monkeypatch.setattr(conformance, "STALL_S", 0.5)
    async with venue_of(dirs) as venue:

        async def cut() -> None:
            venue.cut(refuse_s=0.3)

        found = [
            result
            async for result in conformance.check_provider("kraken", symbol=SYMBOL, break_hook=cut)
        ]
    assert [result for result in found if result.status != "pass"] == []


@pytest.mark.slow
async def test_no_limit_is_passed_when_the_venue_keeps_its_own(
    piker_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feeds, history and a search at once, with gaps to fill: the backend waits its turn."""
    monkeypatch.setattr(api, "_cache", {})
    venue_budget("kraken").set_limits(api.LIMITS)
    async with venue_of(piker_dirs, limits=True, within_s=60) as venue:
        async with stream_of(SYMBOL, "ethusd.spot") as stream:
            await stream.until(lambda: len(stream.ids()) > 20)
            lose(venue, "trade", 5)
            async with trio.open_nursery() as nursery:
                for symbol in (SYMBOL, "ethusd.spot"):
                    for seconds in (60.0, 300.0):
                        nursery.start_soon(_history, symbol, seconds)
            venue.cut()
            await stream.until(lambda: any(isinstance(x, Outage) for x in stream.others))
            seen = len(stream.ids())
            await stream.until(lambda: len(stream.ids()) > seen + 20 and _whole(stream.ids()))


async def _history(symbol: str, seconds: float) -> None:
    async with open_history_client(symbol) as (get_ohlc, _):
        rows, _, _ = await get_ohlc(seconds)
        assert len(rows) == 720


@asynccontextmanager
async def raw_venue(*, limits: bool = False) -> AsyncIterator[tuple[KrakenVenue, RestClient]]:
    """Serve a venue; yield it with a plain REST client."""
    async with open_loopback("kraken", symbols=2, rate=100, limits=limits) as (venue, port):
        async with open_rest("test.kraken", f"http://127.0.0.1:{port}") as rest:
            with trio.fail_after(SOON_S):
                yield venue, rest


async def test_every_public_call_is_answered_in_the_venues_words() -> None:
    """Results under the venue's keys; errors as text in a 200."""
    async with raw_venue() as (venue, rest):

        async def call(name: str, **params: Any) -> Any:
            return await rest.get_json(f"/0/public/{name}", params, type=dict)

        keys = {
            "Time": "unixtime", "SystemStatus": "status", "Assets": "XXBT",
            "AssetPairs": "XXBTZUSD", "Ticker": "XXBTZUSD",
        }  # fmt: skip
        for name, key in keys.items():
            said = await call(name)
            assert said["error"] == []
            assert key in said["result"]
        while not venue.listings[0].spreads:
            await trio.sleep(0.01)
        for name in ("Depth", "Trades", "OHLC", "Spread"):
            said = await call(name, pair="XBTUSD")
            assert said["result"]["XXBTZUSD"], name
        ticker = (await call("Ticker", pair="XBTUSD"))["result"]["XXBTZUSD"]
        assert float(ticker["l"][0]) <= float(ticker["c"][0]) <= float(ticker["h"][0])
        assert float(ticker["v"][0]) > 0
        assert list((await call("Assets", asset="XBT"))["result"]) == ["XXBT"]
        for name, params, words in (
            ("Ticker", {"pair": "NOUSD"}, "EQuery:Unknown asset pair"),
            ("Assets", {"asset": "NO"}, "EQuery:Unknown asset"),
            ("OHLC", {"pair": "XBTUSD", "interval": 7}, "EGeneral:Invalid arguments"),
            ("OHLC", {}, "EGeneral:Invalid arguments"),
            ("Depth", {"pair": "XBTUSD", "count": "many"}, "EGeneral:Invalid arguments:count"),
            ("Levels", {}, "EGeneral:Unknown method"),
        ):
            assert await call(name, **params) == {"error": [words]}
        assert venue.gate.counters.errors == 0


async def test_a_call_is_refused_in_a_200_when_there_were_too_many() -> None:
    """Three of a pair at once; the fourth is one too many."""
    async with raw_venue(limits=True) as (venue, rest):
        said = []
        for _ in range(4):
            answer = await rest.get("/0/public/Ticker", {"pair": "XBTUSD"})
            said.append(b"EAPI:Rate limit exceeded" in answer.body)
        assert said == [False, False, False, True]
        assert venue.gate.stats()["violations"] == {"public": 1}


async def test_websocket_requests_are_answered_when_they_are_bad() -> None:
    """Each with success false and words; the connection lives on."""
    async with raw_venue() as (venue, _):
        async with open_websocket_url(f"ws://127.0.0.1:{venue.port}/v2") as socket:

            async def ask(text: str) -> Any:
                await socket.send_message(text)
                while "method" not in (said := json.loads(await socket.get_message())):
                    if "error" in said:
                        break
                return said

            first = json.loads(await socket.get_message())
            assert first["channel"] == "status"
            assert first["data"][0]["system"] == "online"
            book = '{"method":"subscribe","params":{"channel":"book","symbol":["BTC/USD"]%s}}'
            for text in ("x", "[]", "3", "[" * 5000, '{"method":[]}', '{"method":"buy"}',
                         '{"method":"subscribe","params":3}', book % ',"depth":11',
                         '{"method":"subscribe","params":{"channel":"book"}}',
                         '{"method":"subscribe","params":{"channel":["book"]}}',
                         '{"method":"subscribe","params":{"channel":"book","symbol":"BTC/USD"}}',
                         '{"method":"subscribe","params":{"channel":"book","symbol":[["x"]]}}',
                         book.replace("subscribe", "unsubscribe") % ""):  # fmt: skip
                said = await ask(text)
                assert said["success"] is False
                assert said["error"]
            assert (await ask('{"method":"ping","req_id":9}'))["req_id"] == 9
            assert (await ask(book % ""))["success"] is True
            assert (await ask(book % ""))["error"] == "Already subscribed"
            subscribe = '{"method":"subscribe","params":{"channel":"instrument"}}'
            assert (await ask(subscribe))["success"] is True
            while (said := json.loads(await socket.get_message())).get("channel") != "instrument":
                pass
            assert {pair["symbol"] for pair in said["data"]["pairs"]} == {"BTC/USD", "ETH/USD"}
            assert {asset["id"] for asset in said["data"]["assets"]} == {"BTC", "ETH", "USD"}
            assert venue.gate.counters.errors == 0
