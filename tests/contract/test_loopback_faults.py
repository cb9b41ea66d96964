"""The real backends against loopback venues that go wrong: each kind of fault, and its promise.

Whatever the venue does, no row that a backend delivers may be wrong: prices and sizes are possible,
a trade is the venue's own, none comes twice. A loss is told, and what was lost comes later.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from piker.brokers import binance, hub, kraken
from piker.brokers.kraken import api
from piker.brokers.limits import Limit, venue_budget
from piker.brokers.quality import venue_quality
from piker.brokers.rest import RestClient, open_rest
from piker.brokers.ws import open_ws
from piker.errors import DataQuality, Transient
from piker.testing.faults import Fault
from piker.testing.loopback import open_loopback, point_backend_at
from piker.ticks import QUOTE, TRADE, Outage, Resync, TickBatch, TickRow

pytestmark = pytest.mark.slow

SOON_S = 30  # nothing here takes longer unless it is broken
BACKENDS = {"binance": (binance, "btcusdt.spot"), "kraken": (kraken, "xbtusd.spot")}
TRADES = {"binance": "@aggTrade", "kraken": '"channel":"trade","type":"update"'}


class Session:
    """A venue, and a running ``stream_quotes`` of one of its markets."""

    def __init__(self, name: str, venue: Any, items: Any) -> None:
        self.name = name
        self.venue = venue
        self.items = items
        self.rows: list[TickRow] = []
        self.others: list[Any] = []

    async def until(self, done: Callable[[], bool]) -> None:
        """Take items until ``done()``."""
        with trio.fail_after(SOON_S):
            while not done():
                item = await self.items.receive()
                if isinstance(item, TickBatch):
                    self.rows += item.rows
                    self.check(item.rows)
                else:
                    self.others.append(item)

    async def more(self, trades: int) -> None:
        """Take items until there are so many more trades."""
        enough = len(self.ids()) + trades
        await self.until(lambda: len(self.ids()) >= enough)

    def ids(self) -> list[int]:
        """Return the ids of the trades that came, as they came."""
        return [row[8] for row in self.rows if row[1] == TRADE]

    def told(self, kind: type, reason: str = "") -> bool:
        """Return whether an Outage or Resync came."""
        return any(type(x) is kind and reason in (x.reason, "") for x in self.others)

    def whole(self) -> bool:
        """Return whether every trade between the first and the last has come."""
        ids = self.ids()
        return max(ids) - min(ids) + 1 == len(ids)

    def check(self, rows: list[TickRow]) -> None:
        """Compare rows with what is possible, and trades with what the venue traded."""
        listings = self.venue.listings
        market = (listings if self.name == "kraken" else list(listings.values()))[0].market
        traded = {trade.number: trade for trade in market.trades}
        for row in rows:
            assert row[2] > 1.6e18
            assert all(map(math.isfinite, row[3:7]))
            if row[1] == TRADE and row[8] in traded:
                trade = traded[row[8]]
                assert row[3] == pytest.approx(trade.price, abs=market.spec.tick / 2)
                assert row[4] == pytest.approx(trade.size, abs=market.spec.lot / 2)
                assert row[7] == trade.side
            elif row[1] == QUOTE:
                assert 0 < row[3] < row[5] < 2 * row[3]
        assert len(set(self.ids())) == len(self.ids())


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a backend; what it keeps of other venues is put away, so are Kraken's slow limits."""
    monkeypatch.setattr(api, "_cache", {})
    monkeypatch.setattr(api, "LIMITS", (Limit("public", 1e6, 1),))
    venue_budget("kraken").set_limits([Limit("public", 1e6, 1)])
    return str(request.param)


@asynccontextmanager
async def session(name: str, *faults: Fault, rate: float = 150) -> AsyncIterator[Session]:
    """Serve a venue with these faults, and stream one of its markets."""
    backend, symbol = BACKENDS[name]
    send, receive = trio.open_memory_channel[Any](1000)
    async with open_loopback(name, symbols=1, rate=rate, faults=faults, limits=False) as (
        venue, port
    ):  # fmt: skip
        point_backend_at(name, port)
        async with trio.open_nursery() as nursery:
            live = trio.Event()
            with trio.fail_after(SOON_S):
                await nursery.start(partial(backend.stream_quotes, send, [symbol], None, live))
            yield Session(name, venue, receive)
            nursery.cancel_scope.cancel()


def hits(venue: Any, what: str) -> int:
    """Return how often a kind of fault hit."""
    return int(venue.gate.stats()["faults"].get(what, 0))


# -- frames ------------------------------------------------------------------------------------
async def test_lost_trades_are_told_and_fetched_when_frames_are_dropped(
    piker_dirs: Path, name: str
) -> None:
    """Every trade there is comes, some of them late; each hole was told of."""
    async with session(name, Fault(what="drop", match=TRADES[name], every=10, count=5)) as feed:
        await feed.until(lambda: hits(feed.venue, "drop") == 5 and len(feed.ids()) > 80)
        await feed.until(feed.whole)
        assert feed.told(Resync, "sequence-gap")
        assert not feed.told(Outage)


async def test_nothing_comes_twice_when_frames_are_duplicated(piker_dirs: Path, name: str) -> None:
    """A repeated trade is dropped; nothing is told, because nothing was lost."""
    async with session(name, Fault(what="duplicate", every=2)) as feed:
        await feed.more(100)
        await feed.until(lambda: hits(feed.venue, "duplicate") > 20)
        assert feed.whole()
        assert not feed.told(Outage)
        assert not feed.told(Resync)


async def test_every_trade_comes_once_when_frames_are_reordered(
    piker_dirs: Path, name: str
) -> None:
    """A trade that was overtaken is taken for lost, told, and fetched; never delivered twice."""
    async with session(name, Fault(what="reorder", match=TRADES[name], every=8, count=5)) as feed:
        await feed.until(lambda: hits(feed.venue, "reorder") == 5)
        await feed.more(20)
        await feed.until(feed.whole)
        assert not feed.told(Outage)


async def test_every_trade_comes_in_order_when_frames_are_delayed(
    piker_dirs: Path, name: str
) -> None:
    """A delay is no loss."""
    async with session(name, Fault(what="delay", delay_s=0.2, every=25)) as feed:
        await feed.more(100)
        await feed.until(lambda: hits(feed.venue, "delay") > 3)
        assert feed.ids() == sorted(feed.ids())
        assert feed.whole()
        assert not feed.told(Outage)
        assert not feed.told(Resync)


@pytest.mark.parametrize("part", ["json", "number"])
async def test_bad_frames_are_counted_and_kept_out_when_text_is_garbled(
    piker_dirs: Path, name: str, part: Any
) -> None:
    """A frame that can not be read costs itself alone: it is counted, its trades are fetched."""
    before = venue_quality(name).total
    async with session(name, Fault(what="garble", part=part, every=6, count=30)) as feed:
        await feed.until(lambda: hits(feed.venue, "garble") == 30)
        await feed.more(20)
        await feed.until(feed.whole)
        counted = venue_quality(name).total - before
        # A field that is not read may hold anything; a name that is broken is of an unknown kind.
        assert (20 if part == "json" else 10) <= counted <= 30
        assert not feed.told(Outage)


async def test_the_connection_is_made_anew_when_a_frame_header_is_garbled(
    piker_dirs: Path, name: str
) -> None:
    """What is no websocket frame ends the connection, and that is told."""
    broken = Fault(what="garble", part="header", every=20, count=1)
    async with session(name, broken) as feed:
        await back_in_step(feed)
        assert hits(feed.venue, "garble") == 1


async def back_in_step(feed: Session) -> None:
    """Wait for the loss, the return, and every trade that was missed meanwhile."""
    await feed.until(lambda: feed.told(Outage))
    await feed.until(lambda: feed.told(Resync, "reconnect"))
    await feed.more(20)
    await feed.until(feed.whole)


# -- connections -------------------------------------------------------------------------------
async def test_the_feed_is_back_in_step_when_the_connection_is_closed(
    piker_dirs: Path, name: str
) -> None:
    """Outage, Resync, and no trade missing; also for a venue that lets nobody in at first."""
    async with session(name) as feed:
        await feed.more(20)
        feed.venue.gate.add_faults([Fault(what="close", for_s=1)])
        await back_in_step(feed)
        assert feed.venue.gate.counters.cut == 1
        assert feed.venue.gate.counters.upgraded == 2


async def test_the_feed_is_back_in_step_when_connections_are_refused(
    piker_dirs: Path, name: str
) -> None:
    """Handshakes answered with 503, and TCP connections that are closed at once."""
    async with session(name) as feed:
        await feed.more(20)
        feed.venue.gate.add_faults([
            Fault(what="refuse", for_s=1.5),
            Fault(what="refuse", on="http", for_s=0.5),
        ])  # fmt: skip
        await back_in_step(feed)
        assert hits(feed.venue, "refuse") >= 1
        assert feed.venue.gate.counters.refused == hits(feed.venue, "refuse")


async def test_the_handshake_waits_when_the_venue_says_for_how_long(
    piker_dirs: Path, name: str
) -> None:
    """429 with Retry-After at the handshake: one attempt, and the next one after that time."""
    async with session(name) as feed:
        await feed.more(20)
        wait = Fault(what="status", on="ws", status=429, retry_after_s=2, for_s=2)
        feed.venue.gate.add_faults([wait, Fault(what="close")])
        await back_in_step(feed)
        assert hits(feed.venue, "status") == 1


async def test_a_silent_connection_is_given_up_when_it_is_half_open(
    piker_dirs: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes, not even a pong: after the idle time (here a second) there is another."""
    quick = partial(open_ws, ping_every_s=0.3, idle_timeout_s=1.0)
    monkeypatch.setattr(hub, "open_ws", quick)
    async with session(name) as feed:
        await feed.more(20)
        feed.venue.gate.add_faults([Fault(what="half-open", count=1)])
        await back_in_step(feed)
        assert feed.venue.gate.counters.cut == 0
        (gone,) = {x.reason for x in feed.others if isinstance(x, Outage)}
        assert gone.startswith("nothing received for")


@pytest.mark.full
async def test_a_silent_connection_is_given_up_at_the_real_pace(
    piker_dirs: Path, name: str
) -> None:
    """The same with the times that backends really use: 45 s without a byte."""
    async with session(name, rate=5) as feed:
        await feed.more(5)
        feed.venue.gate.add_faults([Fault(what="half-open", count=1)])
        with trio.fail_after(90):
            while not (feed.told(Outage) and feed.told(Resync, "reconnect")):
                item = await feed.items.receive()
                feed.others += [] if isinstance(item, TickBatch) else [item]


async def test_every_trade_comes_when_the_connection_is_slow(piker_dirs: Path, name: str) -> None:
    """A slow venue is late, that is all; when it is quick again everything has come."""
    slow = Fault(what="slow", bytes_per_s=20_000, for_s=2)
    async with session(name, slow) as feed:
        await feed.until(lambda: hits(feed.venue, "slow") > 50)
        await feed.more(200)
        assert feed.whole()
        assert not feed.told(Outage)


async def test_rows_are_right_when_everything_goes_wrong_at_once(
    piker_dirs: Path, name: str
) -> None:
    """Faults of every kind by chance; when they end the feed is in step."""
    chances = {
        "drop": {}, "duplicate": {}, "reorder": {}, "delay": {"delay_s": 0.05},
        "garble": {}, "slow": {"bytes_per_s": 50_000},
    }  # fmt: skip
    plan = [Fault(what=what, probability=0.05, **more) for what, more in chances.items()]  # type: ignore[arg-type]
    plan.append(Fault(what="close", match=".", probability=0.004, count=2))
    async with session(name, *plan) as feed:
        await feed.until(lambda: hits(feed.venue, "close") == 2)
        await feed.until(lambda: feed.told(Resync, "reconnect"))
        feed.venue.gate.injector.clear()
        await feed.more(100)
        await feed.until(feed.whole)


# -- REST --------------------------------------------------------------------------------------
BUDGETS = {"binance": "binance.spot", "kraken": "kraken"}
PATHS = {"binance": "/api/v3/klines", "kraken": "/0/public/OHLC"}


@asynccontextmanager
async def history(name: str, *faults: Fault) -> AsyncIterator[tuple[Any, Any]]:
    """Serve a venue with these faults; yield it and its backend's ``get_ohlc``."""
    backend, symbol = BACKENDS[name]
    async with open_loopback(name, symbols=1, rate=10, limits=False) as (venue, port):
        point_backend_at(name, port)
        async with backend.open_history_client(symbol) as (get_ohlc, _):
            venue.gate.add_faults(faults)
            with trio.fail_after(SOON_S):
                yield venue, get_ohlc


@pytest.mark.parametrize("status", [429, 418])
async def test_no_request_is_sent_when_the_venue_wants_a_pause(
    piker_dirs: Path, name: str, status: int
) -> None:
    """Retry-After is waited out by everybody, then the call succeeds."""
    wait_s = 2
    budget = venue_budget(BUDGETS[name])
    pause = Fault(what="status", status=status, retry_after_s=wait_s, for_s=wait_s - 0.5)
    async with history(name, pause) as (venue, get_ohlc):
        answers = []

        async def ask() -> None:
            answers.append(await get_ohlc(60.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not budget.penalty_s:  # the answer is in
                await trio.lowlevel.checkpoint()
            nursery.start_soon(ask)  # one that was not told itself
        assert len(answers) == 2
        assert hits(venue, "status") == 1
        assert venue.gate.counters.requests[PATHS[name]] == 3


async def test_a_long_ban_is_the_callers_when_it_can_not_be_sat_out(
    piker_dirs: Path, name: str
) -> None:
    """Minutes are not waited inside a call: Transient says how long; nothing else is asked."""
    ban = Fault(what="status", status=418, retry_after_s=300)
    budget = venue_budget(BUDGETS[name])
    try:
        async with history(name, ban) as (venue, get_ohlc):
            with pytest.raises(Transient) as caught:
                await get_ohlc(60.0)
            assert caught.value.retry_after is not None
            assert 290 < caught.value.retry_after <= 300
            assert hits(venue, "status") == 1
            assert budget.penalty_s > 290
    finally:
        budget.blocked_until = -math.inf  # the budget is the process's: other tests need it


@pytest.mark.parametrize(
    "fault",
    [
        Fault(what="status", status=502, count=2),
        Fault(what="close", on="http", count=2),
        Fault(what="refuse", on="http", for_s=0.2),
        Fault(what="delay", on="http", delay_s=0.3, count=1),
        Fault(what="slow", on="http", bytes_per_s=200_000, count=1),
    ],
    ids=lambda fault: f"{fault.what}{fault.status or ''}",
)
async def test_the_call_succeeds_when_the_fault_passes(
    piker_dirs: Path, name: str, fault: Fault
) -> None:
    """Errors of the server, lost and refused connections are tried again; late is not lost."""
    async with history(name, fault) as (venue, get_ohlc):
        rows, _, _ = await get_ohlc(60.0)
        assert len(rows) > 500
        assert venue.gate.counters.requests[PATHS[name]] >= 1


async def test_the_call_succeeds_when_a_server_error_has_a_code(piker_dirs: Path) -> None:
    """An error of the server stays one, whatever its body says; Kraken's is the table's case."""
    async with history("binance", Fault(what="status", status=500, count=2)) as (_, get_ohlc):
        rows, _, _ = await get_ohlc(60.0)
        assert len(rows) > 500


async def test_a_broken_body_is_bad_data_when_the_answer_is_garbled(
    piker_dirs: Path, name: str
) -> None:
    """It is not asked for again: the venue did answer."""
    async with history(name, Fault(what="garble", on="http")) as (venue, get_ohlc):
        with pytest.raises(DataQuality):
            await get_ohlc(60.0)
        assert hits(venue, "garble") == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(what="slow", on="http", bytes_per_s=100),
        Fault(what="half-open", on="http"),
        Fault(what="delay", on="http", delay_s=60),
    ],
    ids=lambda fault: fault.what,
)
async def test_the_call_times_out_when_the_answer_never_ends(
    piker_dirs: Path, name: str, fault: Fault
) -> None:
    """A body that drips, and none at all: Transient at the deadline."""
    async with open_loopback(name, symbols=1, faults=[fault], limits=False) as (venue, port):
        async with open_rest("test.faults", f"http://127.0.0.1:{port}") as client:
            with pytest.raises(Transient, match=r"no answer within 0\.3 s"):
                await _impatient(client, PATHS[name])
        assert hits(venue, fault.what) >= 1


async def _impatient(client: RestClient, path: str) -> None:
    params = {"symbol": "BTCUSDT", "pair": "XBTUSD", "interval": "1m" if "v3" in path else "1"}
    await client.request("GET", path, params=params, deadline_s=0.3, idempotent=None)


# -- the command -------------------------------------------------------------------------------
def venue_command(*arguments: str) -> list[str]:
    """Return the command that runs a venue."""
    return [sys.executable, "-m", "piker.cli", "venue", *arguments]


async def test_a_plan_is_in_force_when_the_command_was_given_one(tmp_path: Path) -> None:
    """The JSON line says where; the plan holds, and more can be added while it runs."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\nwhat = "status"\nstatus = 503\nmatch = "/time"\ncount = 1\n')
    command = venue_command("binance", "--symbols", "1", "--faults", str(plan))
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE,
                                              check=False))  # fmt: skip
        try:
            with trio.fail_after(SOON_S):
                line = b""
                while not line.endswith(b"\n"):
                    line += await process.stdout.receive_some()
                urls = json.loads(line)
                async with open_rest("test.command", urls["http"]) as client:
                    assert (await client.get("/api/v3/time")).status == 200
                    assert client.retries == 1
                    said = await client.request(
                        "POST", "/_piker/faults", body=b'{"what":"close","for_s":1}'
                    )
                    assert json.loads(said.body)[0]["active"] is True
                async with open_rest("test.command", urls["control"]) as client:
                    stats = await client.get_json("/stats", type=dict)
                    assert stats["faults"] == {"status": 1}
                    assert stats["violations"] == {}
        finally:
            process.terminate()


def test_nothing_is_started_when_a_plan_is_wrong(tmp_path: Path) -> None:
    """Exit code 2, and a sentence with file, line, and the nearest word."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\nwhat = "droop"\n')
    done = subprocess.run(
        venue_command("kraken", "--faults", str(plan)), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{plan}:2: fault 1: what: 'droop' is none. Did you mean 'drop'" in done.stderr
