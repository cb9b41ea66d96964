"""Recorded sessions through real servers: what a client receives is what was recorded.

The Binance sessions are read by our own backend, Kraken's first protocol by a plain client. Then
the round: a feed is recorded by a process of its own, replayed, and received again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
from trio_websocket import open_websocket_url

from piker.brokers import binance, kraken
from piker.brokers.binance import api as binance_api
from piker.brokers.binance import depth as binance_depth
from piker.brokers.binance import schema
from piker.brokers.binance.decode import Decoder
from piker.brokers.book import OrderBook
from piker.brokers.kraken import api as kraken_api
from piker.brokers.kraken.decode import Decoder as KrakenDecoder
from piker.brokers.limits import Limit, venue_budget
from piker.brokers.quality import QualityLog, venue_quality
from piker.brokers.sequence import book_crc32
from piker.clock import NS, wall_ns
from piker.data.sampling import BarBuilder
from piker.market import MktPair
from piker.ohlcv import ClosedBar
from piker.testing.capture import Capture, In, Out, Rest, payload, read_capture
from piker.testing.captures_foreign import read_any
from piker.testing.loopback import open_loopback, point_backend_at
from piker.testing.replay import ReplayVenue, Times, make_replay
from piker.ticks import QUOTE, TRADE, Outage, Resync, TickBatch, TickRow

pytestmark = pytest.mark.slow

SOON_S = 30.0  # nothing here takes longer unless it is broken
SESSIONS = {"spot": "BINANCE", "coinm": "BINANCE_DELIVERY"}


@pytest.fixture
def dirs(piker_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return private directories; Kraken's listings and limits are nobody else's."""
    monkeypatch.setattr(kraken_api, "_cache", {})
    monkeypatch.setattr(kraken_api, "LIMITS", (Limit("public", 1e6, 1),))
    venue_budget("kraken").set_limits([Limit("public", 1e6, 1)])
    return piker_dirs


@asynccontextmanager
async def replaying(
    name: str, capture: Capture, *, speed: float = 0.0, at: Times = "recorded", hold: bool = True
) -> AsyncIterator[ReplayVenue]:
    """Serve a replay and point the backend at it."""
    venue = make_replay(name, capture, speed=speed, at=at, hold=hold)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(venue.run, "127.0.0.1", 0)
        point_backend_at(name, port)
        venue_quality(name).counts.clear()
        with trio.fail_after(SOON_S):
            yield venue
        nursery.cancel_scope.cancel()


async def until(done: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own."""
    while not done():
        await trio.sleep(0.01)


class Heard:
    """What ``stream_quotes`` sent."""

    def __init__(self) -> None:
        self.rows: list[TickRow] = []
        self.others: list[Any] = []

    async def listen(self, receive: Any) -> None:
        """Take everything, for ever."""
        async for item in receive:
            if isinstance(item, TickBatch):
                self.rows += item.rows
            else:
                self.others.append(item)

    def rows_of(self, symbol: str) -> list[tuple[Any, ...]]:
        """Return a symbol's rows as they came."""
        return [plain(row) for row in self.rows if row[0] == symbol]


def plain(row: TickRow) -> tuple[Any, ...]:
    """Return a row without the time where the venue sends none and that of receipt stands in."""
    return (*row[:2], *row[3:]) if row[1] == QUOTE else row


@asynccontextmanager
async def streaming(backend: Any, symbols: list[str]) -> AsyncIterator[Heard]:
    """Run ``stream_quotes`` for the block."""
    send, receive = trio.open_memory_channel[Any](1000)
    heard = Heard()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(backend.stream_quotes, send, symbols, None, trio.Event()))
        nursery.start_soon(heard.listen, receive)
        yield heard
        nursery.cancel_scope.cancel()


def frames_of(capture: Capture) -> list[bytes]:
    """Return the frames of a capture, in order."""
    return [payload(record) for record in capture.records if isinstance(record, In)]


# -- Binance ---------------------------------------------------------------------------------------
def markets_of(capture: Capture, venue: str) -> dict[str, MktPair]:
    """Return the recorded listings of which frames were recorded, by wire symbol."""
    body = next(
        payload(r) for r in capture.records if isinstance(r, Rest) and "exchangeInfo" in r.path
    )
    info = msgspec.json.decode(body, type=schema.ExchangeInfo)
    made = (binance_api.market_of(binance_api.KINDS[venue], s) for s in binance_api.listings(info))
    found = {market.bs_mktid: market for market in made if market is not None}
    streamed = {json.loads(frame)["data"]["s"] for frame in frames_of(capture)}
    return {wire: found[wire] for wire in sorted(streamed)}


def decoded(capture: Capture, markets: dict[str, MktPair]) -> tuple[list[TickRow], list[Any]]:
    """Return the rows and closed bars of the file itself."""
    decoder = Decoder(
        {wire: market.mktid for wire, market in markets.items()},
        QualityLog("file"),
        {m.mktid: float(m.contract_size) for m in markets.values() if m.inverse},
    )
    frames = [frame for frame in frames_of(capture) if b"@depth" not in frame[:60]]
    return decoder.decode(frames, 1), decoder.take_outband()


class Tops:
    """The best levels of live books, by market and update id."""

    def __init__(self) -> None:
        self.books: dict[tuple[str, int], tuple[str, ...]] = {}
        self.lives: list[Any] = []

    async def open(self, symbol: str) -> None:
        """Open a book and follow it, for ever."""
        async with binance_depth.open_book(symbol) as live:
            self.lives.append(live)
            await self.follow(live)

    async def follow(self, live: Any) -> None:
        """Note the top at every wake-up, for ever."""
        while True:
            await live.wait_update()
            book = live.book
            if book.best_bid and book.best_ask:
                key = (live.market.bs_mktid, live.keeper.update_id)
                self.books[key] = (*book.best_bid, *book.best_ask)


def tops_of(capture: Capture) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return what the venue's own bookTicker says."""
    events = (json.loads(f)["data"] for f in frames_of(capture) if b"@bookTicker" in f[:60])
    return {(e["s"], e["u"]): (e["b"], e["B"], e["a"], e["A"]) for e in events}


@pytest.mark.parametrize("venue", ["spot", "coinm"])
async def test_rows_are_the_files_when_a_session_is_replayed(
    dirs: Path, shared: Path, venue: str
) -> None:
    """Every row and closed bar, in order, as fast as they are read; nothing is counted as bad."""
    capture = read_any(shared / "venues/binance/cryptofeed" / SESSIONS[venue])
    markets = markets_of(capture, venue)
    wanted, bars = decoded(capture, markets)
    async with replaying("binance", capture) as replay:
        async with streaming(binance, [m.mktid for m in markets.values()]) as heard:
            await until(lambda: len(replay.by_stream) >= 3 * len(markets))
            replay.start()
            await replay.ended.wait()
            await until(lambda: len(heard.rows) >= len(wanted))
    assert len(wanted) >= (80 if venue == "spot" else 2000)
    for market in markets.values():
        mine = [plain(row) for row in wanted if row[0] == market.mktid]
        assert heard.rows_of(market.mktid) == mine
    assert [bar for bar in heard.others if isinstance(bar, ClosedBar)] == bars
    assert not [item for item in heard.others if isinstance(item, Outage | Resync)]
    assert not venue_quality("binance").counts
    check_bars(heard.rows, capture, markets)


def check_bars(rows: list[TickRow], capture: Capture, markets: dict[str, MktPair]) -> None:
    """Compare 1 s and 1 m bars of received trades with numpy's of the file's aggTrades."""
    compared = 0
    for wire, market in markets.items():
        events = [
            data
            for data in (
                json.loads(f)["data"] for f in frames_of(capture) if b"@aggTrade" in f[:60]
            )
            if data["s"] == wire
        ]
        trades = [row for row in rows if row[0] == market.mktid and row[1] == TRADE]
        for period_s in (1, 60) if events else ():
            builder = BarBuilder(period_s)
            for _, _, time_ns, price, size, *_ in trades:
                builder.fold(time_ns // NS, price, price, price, price, size, price * size, 1)
            written = builder.take()
            assert written is not None
            made = [bar for bar in written.rows if bar.volume]
            got = [(b.time, b.open, b.high, b.low, b.close, b.volume) for b in made]
            assert got == numpy_bars(events, period_s)
            compared += len(made)
    assert compared >= 4


def numpy_bars(events: list[dict[str, Any]], period_s: int) -> list[tuple[float, ...]]:
    """Return (time, open, high, low, close, volume) of aggTrades, by numpy alone."""
    times = np.array([event["T"] for event in events]) // (period_s * 1000) * period_s
    prices = np.array([event["p"] for event in events], "f8")
    sizes = np.array([event["q"] for event in events], "f8")
    starts, first = np.unique(times, return_index=True)
    last = np.append(first[1:], len(times)) - 1
    columns = (
        starts,
        prices[first],
        np.maximum.reduceat(prices, first),
        np.minimum.reduceat(prices, first),
        prices[last],
        np.add.reduceat(sizes, first),
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("venue", ["spot", "coinm"])
async def test_books_are_the_venues_when_a_session_is_replayed(
    dirs: Path, shared: Path, venue: str
) -> None:
    """Live books of every market; their tops equal the bookTicker's at each id that both name."""
    capture = read_any(shared / "venues/binance/cryptofeed" / SESSIONS[venue])
    markets = markets_of(capture, venue)
    tops = Tops()
    async with replaying("binance", capture, speed=4) as replay:
        async with trio.open_nursery() as nursery:
            for market in markets.values():
                nursery.start_soon(tops.open, market.mktid)
            await until(lambda: len(replay.by_stream) >= len(markets))
            replay.start()
            await replay.ended.wait()
            assert len(tops.lives) == len(markets)
            await until(lambda: all(live.synced for live in tops.lives))
            assert not any(live.keeper.resyncs for live in tops.lives)
            nursery.cancel_scope.cancel()
    theirs = tops_of(capture)
    both = tops.books.keys() & theirs.keys()
    assert len(both) > (20 if venue == "spot" else 100)
    assert {key: tops.books[key] for key in both} == {key: theirs[key] for key in both}
    assert not venue_quality("binance").counts


async def test_a_book_comes_into_step_when_it_is_opened_in_the_middle(
    dirs: Path, shared: Path
) -> None:
    """The snapshot is that of the moment: long after the recorded one, and again after a cut."""
    capture = read_any(shared / "venues/binance/cryptofeed/BINANCE_DELIVERY")
    symbol = "bchusd.coinm.perp"
    tops = Tops()
    async with replaying("binance", capture, speed=4, hold=False) as replay:
        async with streaming(binance, [symbol]):
            await until(lambda: replay.position > len(replay.recording.events) // 3)
            async with binance_depth.open_book(symbol) as live, trio.open_nursery() as nursery:
                nursery.start_soon(tops.follow, live)
                await until(lambda: live.synced)
                replay.cut()
                await until(lambda: not live.synced)
                await until(lambda: live.synced)
                await replay.ended.wait()
                nursery.cancel_scope.cancel()
    theirs = tops_of(capture)
    both = tops.books.keys() & theirs.keys()
    assert both
    assert {key: tops.books[key] for key in both} == {key: theirs[key] for key in both}


@pytest.mark.parametrize("speed", [1.0, 10.0, 0.0])
async def test_rows_are_of_now_when_times_are_moved(dirs: Path, shared: Path, speed: float) -> None:
    """Within the minute that whole minutes leave; ids and prices untouched."""
    capture = read_any(shared / "venues/binance/cryptofeed/BINANCE_DELIVERY")
    markets = markets_of(capture, "coinm")
    wanted, _ = decoded(capture, markets)
    seen = 200 if speed == 1 else len(wanted)
    async with replaying("binance", capture, speed=speed, at="now") as replay:
        async with streaming(binance, [m.mktid for m in markets.values()]) as heard:
            await until(lambda: len(replay.by_stream) >= 3 * len(markets))
            replay.start()
            await until(lambda: len(heard.rows) >= seen)
            rows, now_ns = heard.rows[:seen], wall_ns()
        symbol = "bchusd.coinm.perp"
        async with binance.open_history_client(symbol) as (get_ohlc, _):
            bars, _, _ = await get_ohlc(60.0)
    ages = [now_ns - row[2] for row in rows]
    assert min(ages) > (-60 * NS if speed else -NS)
    assert max(ages) < 125 * NS
    assert sorted(row[3:] for row in rows) == sorted(row[3:] for row in wanted[:seen])
    assert not (bars["time"] % 60).any()
    assert abs(now_ns // NS - bars["time"][-1]) < 180


# -- Kraken v1, a plain client ---------------------------------------------------------------------
async def plainly(replay: ReplayVenue, port: int, asks: list[dict[str, Any]]) -> list[bytes]:
    """Subscribe with a client that knows nothing of us; return what it received in all."""
    found: list[bytes] = []
    async with open_websocket_url(f"ws://127.0.0.1:{port}/") as ws:
        for ask in asks:
            await ws.send_message(json.dumps(ask))
        await until(lambda: len(replay.by_stream) >= sum(len(ask["pair"]) for ask in asks))
        replay.start()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def stop() -> None:
                    await replay.ended.wait()
                    scope.cancel()

                nursery.start_soon(stop)
                while True:
                    found.append((await ws.get_message()).encode())
    return found


@asynccontextmanager
async def served(capture: Capture) -> AsyncIterator[tuple[ReplayVenue, int]]:
    """Serve a Kraken replay on its own; yield it with its port."""
    venue = make_replay("kraken", capture, speed=0, at="recorded", hold=True)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(venue.run, "127.0.0.1", 0)
        with trio.fail_after(SOON_S):
            yield venue, port
        nursery.cancel_scope.cancel()


async def test_frames_are_byte_for_byte_when_kraken_is_replayed(shared: Path) -> None:
    """Trades and tickers of ten pairs, in the order in which they were recorded."""
    capture = read_any(shared / "venues/kraken/cryptofeed/KRAKEN.ws.48.0")
    wanted = [frame for frame in frames_of(capture) if frame.startswith(b"[")]
    pairs = next(r.text for r in capture.records if isinstance(r, Out))
    asks = [
        {"event": "subscribe", "pair": json.loads(pairs)["pair"], "subscription": {"name": name}}
        for name in ("trade", "ticker")
    ]
    async with served(capture) as (replay, port):
        found = await plainly(replay, port, asks)
    assert [frame for frame in found if frame.startswith(b"[")] == wanted
    assert len(wanted) == 26
    assert any(b"systemStatus" in frame for frame in found[:1])
    told = [json.loads(frame) for frame in found if b"subscriptionStatus" in frame]
    assert [one["status"] for one in told] == ["subscribed"] * 20
    assert len({one["channelID"] for one in told}) == 20


async def test_checksums_hold_on_what_is_received_when_kraken_is_replayed(shared: Path) -> None:
    """All 979 of a recorded book."""
    capture = read_any(shared / "venues/kraken/python-kraken-sdk/orderbook-v1.json")
    wanted = [frame for frame in frames_of(capture) if frame.startswith(b"[")]
    ask = {"event": "subscribe", "pair": ["XBT/USD"], "subscription": {"name": "book", "depth": 10}}
    async with served(capture) as (replay, port):
        found = await plainly(replay, port, [ask])
    frames = [frame for frame in found if frame.startswith(b"[")]
    assert frames == wanted
    book, checked = OrderBook(), 0
    for frame in frames:
        for part in json.loads(frame)[1:-2]:
            if "as" in part:
                book.load(part["bs"], part["as"])
                continue
            book.apply(part.get("b", ()), part.get("a", ()))
            book.truncate(10)
            if "c" in part:
                assert book_crc32(book.asks.levels(10), book.bids.levels(10)) == int(part["c"])
                checked += 1
    assert checked == 979
    assert any(b"heartbeat" in frame for frame in found)


# -- the round -------------------------------------------------------------------------------------
ROUND = {
    "binance": (binance, ["btcusdt.spot", "ethusdt.spot"]),
    "kraken": (kraken, ["xbtusd.spot", "ethusd.spot"]),
}


def piker(*arguments: str) -> subprocess.Popen[str]:
    """Start a command of ours."""
    command = [sys.executable, "-m", "piker.cli", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


async def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, output and errors of a process that ends by itself."""
    try:
        with trio.fail_after(SOON_S):
            out, err = await trio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, out, err


def rows_in(name: str, capture: Capture, symbols: list[str]) -> list[TickRow]:
    """Return the rows of a capture's own frames, decoded without any server."""
    if name == "binance":
        wires = {symbol.partition(".")[0].upper(): symbol for symbol in symbols}
        decoder: Any = Decoder(wires, QualityLog("file"))
    else:
        names = {"xbtusd.spot": "BTC/USD", "ethusd.spot": "ETH/USD"}
        decoder = KrakenDecoder({names[symbol]: symbol for symbol in symbols}, QualityLog("file"))
    skip = (b"@depth", b'"book"')
    frames = [f for f in frames_of(capture) if not any(word in f[:80] for word in skip)]
    return list(decoder.decode(frames, 1))


@pytest.mark.parametrize("name", ROUND)
async def test_rows_are_those_of_the_recording_when_it_is_replayed(dirs: Path, name: str) -> None:
    """piker record as a process, five seconds; its rows, the file's and the replay's are one."""
    backend, symbols = ROUND[name]
    path = dirs / "capture.jsonl.gz"
    async with open_loopback(name, symbols=2, rate=40, limits=False) as (_, port):
        point_backend_at(name, port)
        fqmes = [f"{symbol}.{name}" for symbol in symbols]
        code, out, err = await finished(
            piker("record", *fqmes, "--out", str(path), "--seconds", "5", "--json")
        )
    assert (code, err) == (0, "")
    told = json.loads(out)
    capture = read_capture(path)
    assert capture.torn == ""
    assert told["frames"] == len(frames_of(capture)) > 100
    wanted = rows_in(name, capture, symbols)
    # At the end some frames are in the file that the backend had no time to decode.
    assert len(wanted) - 100 < told["rows"] <= len(wanted)
    assert len(wanted) > 50
    async with replaying(name, capture) as replay:
        async with streaming(backend, symbols) as heard:
            streams = [s for s in replay.recording.by_stream if not is_book(s)]
            await until(lambda: all(replay.by_stream.get(stream) for stream in streams))
            replay.start()
            await replay.ended.wait()
            await until(lambda: len(heard.rows) >= len(wanted))
        for symbol in symbols:
            assert heard.rows_of(symbol) == [plain(row) for row in wanted if row[0] == symbol]
        assert not venue_quality(name).counts
        async with backend.open_history_client(symbols[0]) as (get_ohlc, _):
            bars, _, _ = await get_ohlc(60.0)
        assert len(bars) > 100


def is_book(stream: str) -> bool:
    """Tell the streams of books."""
    return "@depth" in stream or stream.startswith("book:")


@pytest.mark.parametrize("name", ROUND)
async def test_books_of_the_recording_are_verified_when_it_is_replayed(
    dirs: Path, name: str
) -> None:
    """Opened in the middle: in step, never crossed, and so to the end."""
    backend, symbols = ROUND[name]
    path = dirs / "capture.jsonl"
    async with open_loopback(name, symbols=2, rate=40, limits=False) as (_, port):
        point_backend_at(name, port)
        process = piker("record", f"{symbols[0]}.{name}", "--out", str(path))
        await until(lambda: path.exists() and path.stat().st_size > 550_000)
        process.send_signal(signal.SIGTERM)
        code, out, err = await finished(process)
    assert (code, err) == (0, "")
    assert "frames" in out
    open_book = binance_depth.open_book if name == "binance" else kraken.open_book
    capture = read_capture(path)
    updates: dict[bool, int] = defaultdict(int)
    async with replaying(name, capture, speed=1, at="now", hold=False) as replay:
        async with streaming(backend, symbols[:1]) as heard:
            await until(lambda: bool(heard.rows))
            async with open_book(symbols[0]) as live:
                with trio.move_on_after(SOON_S):
                    while replay.state != "ended" and updates[True] < 20:
                        await live.wait_update()
                        updates[live.synced] += 1
                        assert not live.book.crossed()
                assert live.synced
    assert updates[True] >= 5
    assert not updates[False]
    assert not venue_quality(name).counts


async def test_a_backend_with_a_wire_of_its_own_is_recorded_by_its_quotes(
    dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module by dotted path; a second recording over the first is refused."""
    here = Path(__file__).resolve().parents[1] / "system"
    monkeypatch.setenv("PYTHONPATH", str(here))
    (dirs / "config" / "conf.toml").write_text('[brokers]\nmodules = ["stranger_backend"]\n')
    path = dirs / "capture.jsonl"
    arguments = ("record", "xyz.stranger_backend", "--out", str(path), "--seconds", "1", "--json")
    code, out, err = await finished(piker(*arguments))
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["quotes"] > 0
    assert told["frames"] == 0
    capture = read_capture(path)
    assert len(capture.records) == told["quotes"]
    code, _, err = await finished(piker(*arguments))
    assert code == 2
    assert "exists" in err
    code, _, err = await finished(piker("venue", "binance", "--replay", str(path)))
    assert code == 2
    assert "stranger_backend" in err


async def test_a_replay_ends_by_itself_when_it_is_told_to(dirs: Path, shared: Path) -> None:
    """The command, as fast as it goes: its first line, its statistics, its end."""
    path = shared / "venues/kraken/python-kraken-sdk/orderbook-v1.json"
    process = piker("venue", "kraken", "--replay", str(path), "--speed", "0", "--exit-at-end")
    try:
        assert process.stdout is not None
        line = json.loads(
            await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        )
        with trio.fail_after(SOON_S):
            async with open_websocket_url(line["ws"]) as ws:
                ask = {"event": "subscribe", "pair": ["XBT/USD"],
                       "subscription": {"name": "book", "depth": 10}}  # fmt: skip
                await ws.send_message(json.dumps(ask))
                count = 0
                while count < 980:
                    count += (await ws.get_message()).startswith("[")
    finally:
        code, _, err = await finished(process)
    assert (code, err) == (0, "")
