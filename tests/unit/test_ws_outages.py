"""Outages short and long, on memory streams and a clock that jumps: hours pass in a second."""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wsserver import Peer, Script, TrioClock, Venue, frame, in_memory

from piker import clock
from piker.brokers.limits import CONNECT, Budget, Limit
from piker.brokers.ws import Backoff, Frames, Link, Ws, open_ws
from piker.errors import Transient
from piker.ticks import Outage, Resync

BACKOFF = Backoff(floor_s=0.5, cap_s=60, healthy_s=30)


@pytest.fixture
def jumping_clock() -> MockClock:
    """Return the clock that pytest-trio runs this test on: it jumps when nobody has work."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def piker_on_trio_time() -> Iterator[None]:
    """Let piker.clock, which budgets read, jump along."""
    with clock.use_clock(TrioClock()):
        yield


@asynccontextmanager
async def stream_of(script: Script, **options: Any) -> AsyncIterator[tuple[Ws, Venue]]:
    """Open a stream to a venue on memory streams; see that nothing is left afterwards."""
    options.setdefault("backoff", BACKOFF)
    options.setdefault("budget", Budget("test"))
    async with in_memory(script) as venue:
        before = trio.lowlevel.current_statistics().tasks_living
        async with open_ws(venue.url, venue="test", connect=venue.connect, **options) as ws:
            yield ws, venue
        await venue.emptied()
        assert trio.lowlevel.current_statistics().tasks_living == before


async def subscribe(link: Link) -> None:
    """Subscribe to two streams."""
    await link.send("subscribe a")
    await link.send("subscribe b")


def gaps(times: list[float]) -> list[float]:
    """Return the seconds between successive times."""
    return [late - early for early, late in pairwise(times)]


@pytest.mark.slow
async def test_thousand_short_outages_lose_no_subscription_and_leak_nothing(
    jumping_clock: MockClock,
) -> None:
    """A thousand losses of many sorts: subscribed once each, one Outage, one Resync, no leak."""
    rng = random.Random(7)
    subscriptions: list[list[str]] = []
    lost_at: list[float] = []

    async def script(peer: Peer) -> None:
        try:
            kind = rng.randrange(10)
            if kind == 0:
                return  # hangs up at once
            if kind == 1:
                await peer.request()
                await peer.stream.send_all(b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
                return
            await peer.handshake()
            subscriptions.append([await peer.text(), await peer.text()])
            await peer.send(b"tick %d" % peer.number)
            await trio.sleep(rng.random() * 3)
            if kind == 2:
                await peer.stream.send_all(frame(b"\x03\xe8", first=0x88))
                await peer.receive()
            elif kind == 3:
                await peer.stream.send_all(rng.randbytes(50))
                await peer.idle()
            elif kind == 4:
                await peer.play_dead()  # half open
            elif kind == 5:
                await peer.stream.send_all(b"\x81\x7e\x01")
        finally:
            lost_at.append(trio.current_time())

    async with stream_of(script, on_connect=subscribe) as (ws, venue):
        resyncs = ticks = 0
        tasks: list[int] = []
        previous: object = None
        while ws.counters.losses + ws.counters.failures < 1000:
            item = await ws.__anext__()
            if isinstance(item, Resync):
                assert item.reason == "reconnect"
                assert isinstance(previous, Outage)
                resyncs += 1
            elif isinstance(item, Outage):
                assert not isinstance(previous, Outage)
            else:
                ticks += len(item.frames)
            previous = item
            tasks.append(trio.lowlevel.current_statistics().tasks_living)
            assert len(ws._early) <= 1
        counters = ws.counters
        assert venue.accepted == len(venue.accepted_at) >= 1000
        assert all(one == ["subscribe a", "subscribe b"] for one in subscriptions)
        assert len(subscriptions) in (counters.connects, counters.connects - 1)  # the last, perhaps
        assert resyncs in (counters.connects - 1, counters.connects - 2)
        assert min(gaps(venue.accepted_at)) >= BACKOFF.floor_s
        assert min(tasks[-100:]) <= max(tasks[:100])  # one kept of each would be hundreds


async def test_hour_long_outage_is_waited_out_with_bounded_back_off(
    jumping_clock: MockClock,
) -> None:
    """Connections refused for an hour: waits grow to the cap, and the stream is back within it."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        assert [await peer.text(), await peer.text()] == ["subscribe a", "subscribe b"]
        await peer.send(b"tick")
        await peer.idle()

    attempts: list[float] = []
    async with stream_of(script, on_connect=subscribe) as (ws, venue):
        assert (await ws.__anext__()).frames == [b"tick"]  # type: ignore[union-attr]
        await trio.sleep(100)
        plain = venue.connect

        async def counted(host: str, port: int, tls: object) -> Any:
            attempts.append(trio.current_time())
            return await plain(host, port, tls)

        ws._options.connect = counted
        venue.down = True
        down_at = trio.current_time()
        ws.reset("the cable is cut")
        assert await ws.__anext__() == Outage("the cable is cut")
        await trio.sleep_until(down_at + 3600)
        assert ws.state in ("waiting", "connecting")
        assert ws.attempts > 50
        venue.down = False
        up_at = trio.current_time()
        assert await ws.__anext__() == Resync("reconnect", detail="the cable is cut")
        assert isinstance(await ws.__anext__(), Frames)
        assert trio.current_time() - up_at <= BACKOFF.cap_s
        waits = gaps([down_at, *attempts])
        assert min(waits) >= BACKOFF.floor_s
        assert max(waits) <= BACKOFF.cap_s + 0.001
        assert max(waits) > BACKOFF.cap_s / 2
        assert waits[0] <= 2 * BACKOFF.floor_s


@pytest.mark.slow
async def test_week_long_outage_overflows_nothing(jumping_clock: MockClock) -> None:
    """After ten thousand failures in a row the next wait is still one between floor and cap."""
    async with stream_of(Peer.idle_after_handshake) as (ws, venue):
        await trio.sleep(1)
        venue.down = True
        ws.reset("down")
        await trio.sleep(7 * 86400)
        assert ws.attempts > 10_000
        venue.down = False
        with trio.fail_after(61):
            assert isinstance(await ws.__anext__(), Outage)  # one, after all those failures
            assert isinstance(await ws.__anext__(), Resync)
    assert BACKOFF.floor_s <= BACKOFF.wait_s(10**9) <= BACKOFF.cap_s


async def test_back_off_starts_over_only_after_a_healthy_time(jumping_clock: MockClock) -> None:
    """A venue that accepts and hangs up is an outage too: no hammering at its door."""
    lifetimes = [0.0] * 12 + [40.0] + [0.0]

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await trio.sleep(lifetimes[min(peer.number - 1, 13)])

    async with stream_of(script) as (ws, venue):
        seen: list[int] = []
        while venue.accepted < 14:
            await ws.__anext__()
            seen.append(ws.attempts)
        assert max(seen) == 12
        assert seen[-1] == 1
        assert min(gaps(venue.accepted_at)) >= BACKOFF.floor_s


async def test_handshake_429_waits_what_the_venue_says(jumping_clock: MockClock) -> None:
    """Retry-After at the handshake is more than a floor and less than a hint."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.stream.send_all(
                b"HTTP/1.1 429 x\r\nRetry-After: 300\r\nContent-Length: 0\r\n\r\n"
            )
            return
        await peer.idle_after_handshake()

    async with stream_of(script) as (ws, venue):
        while ws.state != "live":
            await trio.sleep(1)
        assert gaps(venue.accepted_at)[0] >= 300
        assert "429" in ws.last_error


async def test_half_open_connection_is_noticed_and_an_answering_one_is_kept(
    jumping_clock: MockClock,
) -> None:
    """Silence that answers pings is a quiet market; silence that does not is a dead one."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        if peer.number == 1:
            with trio.move_on_after(3600):
                await peer.idle()
        await peer.play_dead()

    async with stream_of(script, ping_every_s=15, idle_timeout_s=45) as (ws, _):
        begun = trio.current_time()
        item = await ws.__anext__()
        assert isinstance(item, Outage)
        assert "nothing received" in item.reason
        assert 3600 <= trio.current_time() - begun <= 3600 + 45 + 15 + 15 + 2


@pytest.mark.slow
async def test_connection_is_rotated_before_a_day_is_over(jumping_clock: MockClock) -> None:
    """Three days: every connection younger than 24 h, always one open, a Resync at each change."""
    open_at_once: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.idle)
            while True:
                await peer.send(b"tick")
                open_at_once.append(len(venue.open))
                await trio.sleep(60)

    async with stream_of(script) as (ws, venue):
        reasons: list[str] = []
        with trio.move_on_after(3 * 86400):
            async for item in ws:
                if isinstance(item, Resync):
                    reasons.append(item.reason)
        assert reasons == ["venue"] * ws.counters.rotations
        assert ws.counters.rotations == 3
        assert ws.counters.losses == 0
        assert max(gaps(venue.accepted_at)) < 86400
        assert set(open_at_once) <= {1, 2}


async def test_sends_keep_the_venue_s_pace(jumping_clock: MockClock) -> None:
    """Evenly: a burst at the end of a second and one at the start of the next would be too many."""
    times: list[float] = []
    texts: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        while True:
            texts.append(await peer.text())
            times.append(trio.current_time())

    async with stream_of(script, sends_per_s=5) as (ws, _):
        while ws.state != "live":
            await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            for n in range(53):
                nursery.start_soon(ws.send, str(n))
                await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        await ws.send("x", timeout_s=0.1)
        with pytest.raises(Transient):
            await ws.send("x", timeout_s=0.1)
    assert texts[:53] == [str(n) for n in range(53)]
    assert all(times[n + 1] - times[n] >= 0.2 - 1e-9 for n in range(52))


async def test_handshakes_are_counted_by_the_venue_s_budget(
    jumping_clock: MockClock, piker_on_trio_time: None
) -> None:
    """300 attempts in 5 minutes and address: ten streams of one venue share them."""
    budget = Budget("test", [Limit("c", 10, 300, "rolling", "requests", (CONNECT,), margin=0.0)])

    async def script(peer: Peer) -> None:
        await peer.handshake()

    async with in_memory(script) as venue:
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                async with open_ws(
                    venue.url, venue="t", connect=venue.connect, budget=budget, backoff=BACKOFF
                ):
                    await trio.sleep_forever()

            for _ in range(10):
                nursery.start_soon(one)
            await trio.sleep(3000)
            nursery.cancel_scope.cancel()
        times = venue.accepted_at
        assert len(times) >= 50
        assert all(times[n + 10] - times[n] >= 299.9 for n in range(len(times) - 10))


@pytest.mark.slow
async def test_cancellation_at_any_moment_leaves_nothing(jumping_clock: MockClock) -> None:
    """Cut at two hundred moments of connecting, subscribing, living, rotating and waiting."""

    async def script(peer: Peer) -> None:
        await trio.sleep(0.3)
        await peer.handshake()
        await peer.text()
        await peer.send(b"tick")
        with trio.move_on_after(2):
            await peer.idle()

    for moment in range(200):
        async with in_memory(script) as venue:
            before = trio.lowlevel.current_statistics().tasks_living
            with trio.move_on_after(moment * 0.03):
                async with open_ws(
                    venue.url,
                    venue="t",
                    connect=venue.connect,
                    budget=Budget("t"),
                    backoff=Backoff(floor_s=0.1, cap_s=0.5),
                    on_connect=subscribe,
                    rotate_after_s=1,
                ) as ws:
                    async for _ in ws:
                        pass
            await venue.emptied()
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == before
    gc.collect()
