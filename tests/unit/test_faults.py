"""Fault plans, what they do to frames and requests, and the limits of loopback venues."""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from piker.brokers._frames import Splitter
from piker.clock import VirtualClock, use_clock
from piker.errors import ConfigError
from piker.testing.binance_limits import BinanceLimits, weight_of
from piker.testing.faults import Fault, faults_of_json, load_faults
from piker.testing.gate import Gate
from piker.testing.injection import (
    CUT,
    FrameFaults,
    Injector,
    Pause,
    Slow,
    frame_of,
    garbled,
    text_in,
)
from piker.testing.kraken_limits import KrakenLimits
from piker.testing.requests import Reply, Request
from piker.testing.server import Client, serve


# -- plans -------------------------------------------------------------------------------------
def test_a_plan_is_read_when_it_is_a_toml_file(tmp_path: Path) -> None:
    """Every field, and the defaults: where a fault is on follows from what it is."""
    file = tmp_path / "plan.toml"
    file.write_text(
        '[[fault]]\nwhat = "drop"\nmatch = "@aggTrade"\nafter_s = 1\nfor_s = 2.5\nevery = 3\n'
        'probability = 0.5\ncount = 7\n\n[[fault]]\nwhat = "status"\nstatus = 429\n'
        'retry_after_s = 2\n\n[[fault]]\nwhat = "garble"\non = "http"\npart = "number"\n'
    )
    drop, status, garble = load_faults(file)
    assert drop == Fault(
        what="drop", match="@aggTrade", after_s=1, for_s=2.5, every=3, probability=0.5, count=7
    )
    assert (drop.on, status.on, garble.on) == ("ws", "http", "http")
    assert faults_of_json(msgspec.json.encode([drop, status, garble])) == (drop, status, garble)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[fault]]\nwhat = "dropp"\n', ":2: fault 1: what: 'dropp' is none. Did you mean 'drop'?"),
        ('[[fault]]\nwhat = "drop"\n[[fault]]\nwhat = "delay"\ndelays = 3\n',
         ":5: fault 2: unknown key 'delays'. Did you mean 'delay_s'?"),
        ('[[fault]]\nwhat = "delay"\n', ":1: fault 1: delay needs delay_s."),
        ('[[fault]]\nwhat = "drop"\n\nstatus = 500\n',
         ":4: fault 1: status belongs to status and unanswered, not to drop."),
        ('[[fault]]\nwhat = "drop"\nevery = "x"\n', ":3: fault 1: every: Expected `int`"),
        ('[[fault]]\nwhat = "drop"\nmatch = "("\n', ":3: fault 1: match: '(' is no pattern"),
        ('[[fault]]\nwhat = "drop"\non = "http"\n', ":3: fault 1: drop is never on http."),
        ('[[fault]]\nwhat = "drop"\nprobability = 2.0\n', ":3: fault 1: probability: 2 is not"),
        ('fualt = 3\n', ":1: unknown key 'fualt'. Did you mean 'fault'?"),
        ("[[fault]\n", ": not TOML:"),
        ("fault = 3\n", ": fault is no list of tables."),
    ],
)  # fmt: skip
def test_a_sentence_says_what_is_wrong_when_a_plan_is(tmp_path: Path, text: str, said: str) -> None:
    """File, line, key, and the nearest word."""
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_faults(file)
    assert f"{file}{said}" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Fault.__struct_fields__, "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON | st.binary(max_size=40))
def test_a_request_is_refused_or_understood_whatever_it_holds(body: Any) -> None:
    """ConfigError or faults, never anything else."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.suppress(ConfigError):
        assert all(isinstance(fault, Fault) for fault in faults_of_json(raw))


# -- frames ------------------------------------------------------------------------------------
FRAMES = [frame_of(b'{"stream":"btcusdt@aggTrade","data":{"a":%d,"p":"60.5"}}' % n)
          for n in range(1, 41)]  # fmt: skip


def passed(*faults: Fault, connection: int = 1, seed: int = 1, frames: Any = FRAMES) -> list[Any]:
    """Return what comes out for frames that go in at 0.0, 0.1, 0.2 ..."""
    injector = Injector(seed)
    injector.add(faults, 0.0)
    through = FrameFaults(injector, connection)
    out: list[Any] = []
    for at, frame in enumerate(frames):
        items = through.through(frame, "btcusdt@aggTrade", at / 10)
        out += ["mute"] if items is None else items
    return out


def test_every_nth_frame_is_taken_when_it_matches() -> None:
    """``every``, ``count``, ``match`` on the text and on the name, and the time of it."""
    assert passed(Fault(what="drop", every=10)) == [
        frame for at, frame in enumerate(FRAMES) if at % 10 != 9
    ]
    assert passed(Fault(what="drop", count=3)) == FRAMES[3:]
    assert passed(Fault(what="drop", match='"a":7,')) == FRAMES[:6] + FRAMES[7:]
    assert passed(Fault(what="drop", match="^btcusdt@agg")) == []
    assert passed(Fault(what="drop", match="ethusdt")) == FRAMES
    assert passed(Fault(what="drop", after_s=1, for_s=1)) == FRAMES[:10] + FRAMES[20:]


def test_each_kind_does_what_its_name_says_when_it_hits() -> None:
    """Twice in a row, after the next one, later, slower, cut, silent."""
    one, two, three = FRAMES[:3]

    def of(what: Any, **more: Any) -> list[Any]:
        return passed(Fault(what=what, every=2, count=1, **more), frames=FRAMES[:3])

    assert of("duplicate") == [one, two, two, three]
    assert of("reorder") == [one, three, two]
    assert of("delay", delay_s=5) == [one, Pause(0.1 + 5), two, three]
    assert of("slow", bytes_per_s=9) == [one, Slow(two, 9), three]
    assert of("close", match=".") == [one, CUT, three]
    assert of("half-open", match=".") == [one, "mute", three]
    assert passed(Fault(what="duplicate", count=1), Fault(what="drop", count=1),
                  frames=FRAMES[:2]) == [two]  # fmt: skip


def test_the_same_frames_are_hit_when_seed_and_connection_are_the_same() -> None:
    """The dice are the plan's: another connection or seed throws others."""
    plan = [Fault(what="drop", probability=0.3), Fault(what="garble", probability=0.3)]
    assert passed(*plan) == passed(*plan)
    assert passed(*plan) != passed(*plan, connection=2)
    assert passed(*plan) != passed(*plan, seed=2)


def _is_sound(text: bytes) -> bool:
    """Return whether every value is a number, or a string that holds one."""
    try:
        return all(math.isfinite(float(v)) for v in msgspec.json.decode(text).values())
    except (msgspec.DecodeError, ValueError):
        return False


NUMBERED = st.dictionaries(
    st.text("abcdefg", max_size=5),
    st.integers(0, 10**15) | st.decimals(0, 10**9, places=4).map(str),
    min_size=1, max_size=5,
)  # fmt: skip


@given(NUMBERED, st.integers(0, 999))
def test_nothing_can_be_read_wrongly_when_text_is_garbled(body: Any, seed: int) -> None:
    """JSON that no decoder takes, or a number that is none; a frame stays a frame."""
    text = json.dumps(body).encode()
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(garbled(text, "json", random.Random(seed)))
    broken = garbled(text, "number", random.Random(seed))
    assert not _is_sound(broken)
    frame = frame_of(broken)
    assert Splitter().feed(frame) == ([broken], b"")
    assert text_in(frame) == broken


def test_the_header_is_no_frames_when_it_is_garbled() -> None:
    """The client's splitter refuses it, as RFC 6455 says."""
    (broken,) = passed(Fault(what="garble", part="header"), frames=FRAMES[:1])
    splitter = Splitter()
    assert splitter.feed(broken) == ([], b"")
    assert splitter.error is not None


# -- the gate ----------------------------------------------------------------------------------
class Echo:
    """A venue that says back what it hears."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    async def http(self, request: Request) -> Reply:
        """Answer with the query; fail when asked to."""
        return Reply(body=msgspec.json.encode(int(request.params["n"])))

    def refused(self, request: Request) -> Reply | None:
        """Take everybody."""
        return None

    def connected(self, client: Client) -> None:
        """Take a websocket in."""
        self.clients.append(client)

    def text(self, client: Client, message: str) -> None:
        """Say it back, in JSON."""
        client.send(msgspec.json.encode(int(message)))

    def gone(self, client: Client) -> None:
        """Forget a websocket."""
        self.clients.remove(client)


@asynccontextmanager
async def echo(*faults: Fault, limits: Any = None) -> AsyncIterator[tuple[Gate, int]]:
    """Serve it."""
    gate = Gate(faults=faults, limits=limits)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve, Echo(), gate)
        with trio.fail_after(10):
            yield gate, port
        nursery.cancel_scope.cancel()


async def ask(port: int, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    """Make one request on a connection of its own; (0, b"") where it is cut."""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    return await raw(port, head.encode() + body)


async def raw(port: int, data: bytes) -> tuple[int, bytes]:
    """Send bytes; return status and body of what comes back."""
    answer = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            await stream.send_all(data)
            async for part in stream:
                answer += part
        except trio.BrokenResourceError:
            pass
    head, _, rest = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), rest) if answer else (0, b"")


async def test_faults_come_and_go_when_the_venue_is_told_so() -> None:
    """POST adds, GET lists with hits, DELETE ends; stats count on."""
    async with echo() as (_, port):
        plan = b'[{"what":"status","status":503,"match":"n=7"},{"what":"close"}]'
        status, said = await ask(port, "/_piker/faults", "POST", plan)
        assert (status, len(json.loads(said))) == (200, 2)
        assert (await ask(port, "/x?n=7"))[0] == 503
        assert await ask(port, "/x?n=8") == (200, b"8")
        listed = json.loads((await ask(port, "/_piker/faults"))[1])
        assert [(one["number"], one["what"], one["hits"]) for one in listed] == [
            (1, "status", 1), (2, "close", 0),
        ]  # fmt: skip
        assert await ask(port, "/_piker/faults", "DELETE") == (200, b'{"cleared":2}')
        assert await ask(port, "/x?n=7") == (200, b"7")
        stats = json.loads((await ask(port, "/_piker/stats"))[1])
        assert stats["faults"] == {"status": 1}
        assert stats["requests"] == {"/x": 3}
        assert stats["accepted"] == 7


async def test_the_venue_lives_on_when_requests_are_bad() -> None:
    """400 and a sentence for a bad plan, 404, 405, 500; garbage is answered and costs itself."""
    async with echo() as (gate, port):
        status, said = await ask(port, "/_piker/faults", "POST", b'[{"what":"close","fro_s":1}]')
        assert (status, "for_s" in said.decode()) == (400, True)
        assert (await ask(port, "/_piker/faults", "POST", b""))[0] == 400
        assert (await ask(port, "/_piker/faults", "PATCH"))[0] == 405
        assert (await ask(port, "/_piker/fault"))[0] == 404
        assert (await ask(port, "/x?n=seven"))[0] == 500
        assert (await raw(port, b"nonsense\r\n\r\n"))[0] == 400
        assert (await ask(port, "/x?n=1", "POST", b"x" * (2**20 + 1)))[0] in (0, 413)
        assert await raw(port, b"GET /x HTTP/1.1\r\nContent-Length: x\r\n\r\n") != (0, b"")
        assert await ask(port, "/x?n=1") == (200, b"1")
        assert gate.counters.errors == 1


async def test_the_venue_lives_on_when_clients_send_rubbish() -> None:
    """Random bytes before, inside and after a handshake; the client is cut, others are served."""
    dice = random.Random(3)
    head = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with echo() as (gate, port):
        for number in range(150):
            data = bytearray(head if number % 3 else b"") + dice.randbytes(dice.randrange(1, 300))
            for _ in range(number % 4):
                data[dice.randrange(len(data))] = dice.randrange(256)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(data)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
        assert await ask(port, "/x?n=1") == (200, b"1")
        while gate.clients:
            await trio.lowlevel.checkpoint()


async def test_each_kind_does_what_its_name_says_when_it_is_on_http() -> None:
    """Cut, refused at the door, garbled, slow: one request each."""
    async with echo(Fault(what="close", on="http", count=1)) as (gate, port):
        assert await ask(port, "/x?n=1") == (0, b"")
        gate.add_faults([Fault(what="refuse", on="http", count=1)])
        assert await ask(port, "/x?n=2") == (0, b"")
        assert gate.counters.refused == 1
        gate.add_faults([Fault(what="garble", on="http", count=1)])
        assert await ask(port, "/x?n=3") == (200, b"\x01")
        gate.add_faults([Fault(what="slow", on="http", bytes_per_s=2000, count=1)])
        assert await ask(port, "/x?n=4") == (200, b"4")
        assert dict(gate.injector.hits) == {"close": 1, "refuse": 1, "garble": 1, "slow": 1}


async def test_faults_begin_in_time_when_they_are_for_later(autojump_clock: Any) -> None:
    """``after_s`` counts from the start; cleared ones never begin."""
    cut: list[float] = []

    class Fake:
        request = Request("GET", "/", {}, {}, target="/")

        def cut(self) -> None:
            cut.append(trio.current_time())

        def mute(self) -> None:
            raise AssertionError

    gate = Gate(faults=[Fault(what="close", after_s=5), Fault(what="refuse", after_s=7, for_s=1)])
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(gate.run)
        gate.joined(Fake())
        await trio.sleep(6)
        gate.joined(Fake())
        await trio.sleep(1.5)
        assert [round(at - began) for at in cut] == [5, 7]
        assert gate.handshake(Fake.request) is not None
        await trio.sleep(1)
        assert gate.handshake(Fake.request) is None
        gate.add_faults([Fault(what="close", after_s=5)])
        gate.injector.clear()
        await trio.sleep(10)
        assert len(cut) == 2
        nursery.cancel_scope.cancel()


# -- limits ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "path", "params", "weight"),
    [
        ("spot", "depth", {}, 5), ("spot", "depth", {"limit": "101"}, 25),
        ("spot", "depth", {"limit": "1000"}, 50), ("spot", "depth", {"limit": "5000"}, 250),
        ("spot", "exchangeInfo", {}, 20), ("spot", "klines", {"limit": "1000"}, 2),
        ("spot", "ticker/24hr", {"symbol": "X"}, 2), ("spot", "ticker/24hr", {}, 80),
        ("spot", "ticker/24hr", {"symbols": ",".join("X" * 21)}, 40),
        ("spot", "ticker/bookTicker", {}, 4), ("spot", "aggTrades", {}, 4),
        ("usdm", "klines", {"limit": "99"}, 1), ("usdm", "klines", {}, 5),
        ("usdm", "klines", {"limit": "1500"}, 10), ("usdm", "depth", {"limit": "50"}, 2),
        ("usdm", "depth", {"limit": "1000"}, 20), ("usdm", "aggTrades", {}, 20),
        ("coinm", "premiumIndex", {}, 10), ("usdm", "premiumIndex", {}, 1),
        ("usdm", "depth", {"limit": "rubbish"}, 10), ("spot", "what/ever", {}, 1),
    ],
)  # fmt: skip
def test_a_request_weighs_what_the_venue_says_when_it_is_counted(
    kind: str, path: str, params: dict[str, str], weight: int
) -> None:
    """By endpoint, limit and number of symbols."""
    assert weight_of(kind, path, params) == weight


def klines(kind: str = "fapi/v1", peer: str = "127.0.0.1") -> Request:
    """Return a request of weight 10 (futures) or 2 (spot)."""
    return Request("GET", f"/{kind}/klines", {"limit": "1500"}, {}, peer=peer)


def test_a_client_is_refused_then_banned_when_it_does_not_stop() -> None:
    """429 with the minute's rest, 418 for two minutes, four the next time; others are served."""
    with use_clock(VirtualClock(60 * 10**9)) as clock:
        assert isinstance(clock, VirtualClock)
        limits = BinanceLimits()
        clock.advance(15)
        assert [limits.request(klines()) for _ in range(240)] == [None] * 240
        assert limits.headers(klines()) == {"X-MBX-USED-WEIGHT-1M": "2400"}
        for ban_s in (120, 240):
            while (reply := limits.request(klines())) is not None and reply.status == 429:
                assert reply.headers["Retry-After"] == f"{60 - clock.wall_ns() // 10**9 % 60}"
            assert reply is not None
            assert (reply.status, reply.headers["Retry-After"]) == (418, str(ban_s))
            assert limits.request(klines("api/v3")) is None
            assert limits.request(klines(peer="127.0.0.2")) is None
            clock.advance(ban_s - 1)
            again = limits.request(klines())
            assert again is not None
            assert (again.status, again.headers["Retry-After"]) == (418, "1")
            clock.advance(1)
            while limits.request(klines()) is None:
                pass
        assert limits.violations["banned"] == 2


class Wire:
    """A connection, as limits see it."""

    def __init__(self, path: str) -> None:
        self.request = Request("GET", path, {}, {}, peer="127.0.0.1")

    def cut(self) -> None:
        """Nothing is there to cut."""

    def mute(self) -> None:
        """Nothing is there to mute."""


@pytest.mark.parametrize(("path", "allowed"), [("/stream", 5), ("/market/stream", 10)])
def test_a_connection_ends_when_it_says_too_much(path: str, allowed: int) -> None:
    """So many in any second; what came while the venue could not read is not held against it."""
    with use_clock(VirtualClock()) as clock:
        assert isinstance(clock, VirtualClock)
        limits, wire = BinanceLimits(), Wire(path)
        for _ in range(3):
            assert all(limits.message(wire, 0.0) for _ in range(allowed))
            clock.advance(1.001)
        assert all(limits.message(wire, 1.0) for _ in range(2 * allowed))
        assert not limits.message(wire, 0.0)
        assert limits.violations == {"messages": 1}


def test_a_handshake_is_refused_when_there_were_too_many() -> None:
    """300 in five minutes at Binance, 150 in ten at Kraken, by address."""
    for limits, path, most, window_s in (
        (BinanceLimits(), "/stream", 300, 300), (KrakenLimits(), "/v2", 150, 600),
    ):  # fmt: skip
        with use_clock(VirtualClock(10**18)) as clock:
            assert isinstance(clock, VirtualClock)
            request = Request("GET", path, {}, {}, peer="127.0.0.1")
            assert [limits.handshake(request) for _ in range(most)] == [None] * most
            reply = limits.handshake(request)
            assert reply is not None
            assert (reply.status, reply.headers["Retry-After"]) == (429, str(window_s))
            other = Request("GET", path, {}, {}, peer="127.0.0.9")
            assert limits.handshake(other) is None
            clock.advance(window_s + 1)
            assert limits.handshake(request) is None


def test_kraken_says_so_in_a_200_when_it_is_asked_too_often() -> None:
    """Three at once, then one a second, for each pair apart."""
    with use_clock(VirtualClock(10**18)) as clock:
        assert isinstance(clock, VirtualClock)
        limits = KrakenLimits()

        def call(pair: str) -> Reply | None:
            params = {"pair": pair}
            return limits.request(Request("GET", "/0/public/OHLC", params, {}, peer="127.0.0.1"))

        assert [call("XBTUSD") for _ in range(3)] == [None] * 3
        assert call("ETHUSD") is None
        assert call("XBTUSD") == Reply(200, b'{"error":["EAPI:Rate limit exceeded"]}')
        clock.advance(1.001)
        assert call("XBTUSD") is None
        assert call("XBTUSD") is not None
        assert limits.violations == {"public": 2}
