"""A venue's stream outlives its connections, and says when continuity was lost."""

from __future__ import annotations

import os
import random
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket
from wsserver import Peer, Script, Venue, frame, on_loopback

from piker.brokers import ws as ws_module
from piker.brokers.limits import Budget
from piker.brokers.ws import Backoff, Frames, Link, Ws, open_ws
from piker.errors import ConfigError, Rejected, Transient
from piker.ticks import Outage, Resync

QUICK = Backoff(floor_s=0.001, cap_s=0.01, healthy_s=30)


@asynccontextmanager
async def stream_of(script: Script, **options: Any) -> AsyncIterator[tuple[Ws, Venue]]:
    """Open a stream to a scripted loopback venue; see that no connection is left."""
    options.setdefault("backoff", QUICK)
    options.setdefault("budget", Budget("test"))
    with trio.fail_after(20):
        async with on_loopback(script) as venue:
            async with open_ws(options.pop("url", venue.url), venue="test", **options) as ws:
                yield ws, venue
            await venue.emptied()


async def read(ws: Ws, count: int) -> list[bytes | Outage | Resync]:
    """Return the next ``count`` messages, Outages and Resyncs, flat."""
    items: list[bytes | Outage | Resync] = []
    while len(items) < count:
        item = await ws.__anext__()
        items += item.frames if isinstance(item, Frames) else [item]
    return items


async def subscribe(link: Link) -> None:
    """Subscribe to two streams, in two messages."""
    await link.send("subscribe a")
    await link.send("subscribe b")


async def subscribed(peer: Peer) -> None:
    """Accept and insist on exactly the two subscriptions."""
    await peer.handshake()
    assert [await peer.text(), await peer.text()] == ["subscribe a", "subscribe b"]


async def test_frames_of_one_read_come_together_with_their_time() -> None:
    """A burst is one item; order and bytes are the venue's; control frames are not among them."""

    async def script(peer: Peer) -> None:
        await peer.handshake(extra=frame(b"with the handshake"))
        await peer.stream.send_all(
            frame(b"1") + frame(b"hi", first=0x89) + frame(b"x" * 70_000) + frame(b"", first=0x82)
        )
        await peer.idle()

    async with stream_of(script) as (ws, _):
        assert await read(ws, 4) == [b"with the handshake", b"1", b"x" * 70_000, b""]
        assert ws.state == "live"
        assert ws.connected_since is not None
        assert ws.counters.frames == 4


async def test_pings_are_answered_with_their_payload_and_close_with_its_code() -> None:
    """What trio-websocket is kept for."""
    seen: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        for payload in (b"", b"payload", b"p" * 125):
            await peer.stream.send_all(frame(payload, first=0x89))
            seen.append(await peer.receive())
        await peer.stream.send_all(frame(b"\x03\xe9bye", first=0x88))
        seen.append(await peer.receive())
        await peer.send(b"data after close is no data")

    async with stream_of(script) as (ws, _):
        outage, resync = await read(ws, 2)
        assert outage == Outage("closed by the venue: 1001 bye")
        assert resync == Resync("reconnect", detail="closed by the venue: 1001 bye")
    assert seen[:4] == [(10, b""), (10, b"payload"), (10, b"p" * 125), (8, b"\x03\xe9bye")]


async def test_resync_comes_first_after_each_reconnect_and_never_before() -> None:
    """Frames of the lost connection, then Outage, Resync, and frames of the new one."""

    async def script(peer: Peer) -> None:
        await subscribed(peer)
        await peer.send(b"hello from %d" % peer.number, b"end")

    async with stream_of(script, on_connect=subscribe, sends_per_s=1000) as (ws, _):
        items = await read(ws, 14)
    flat = [item if isinstance(item, bytes) else item.reason for item in items]
    assert flat[:10] == [
        *(b"hello from 1", b"end", "closed without a close frame", "reconnect"),
        *(b"hello from 2", b"end", "closed without a close frame", "reconnect"),
        *(b"hello from 3", b"end"),
    ]
    assert ws.counters.losses >= 3


BAD_FRAMES = {
    "masked": bytes((0x81, 0x82)) + b"abcdef",
    "reserved-bit": frame(b"x", first=0xC1),
    "unknown-opcode": frame(b"x", first=0x83),
    "long-ping": frame(b"x" * 126, first=0x89),
    "oversized": bytes((0x81, 127)) + (2**40).to_bytes(8, "big"),
    "lone-continuation": frame(b"x", first=0x80),
    "binary": b"\xf3" + random.Random(4).randbytes(4095),
}


@pytest.mark.parametrize("garbage", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_garbage_costs_the_connection_and_nothing_else(garbage: bytes) -> None:
    """The venue breaks the protocol: it is told so, the connection is replaced."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.send(b"good")
        if peer.number == 1:
            await peer.stream.send_all(garbage)
        await peer.idle()

    async with stream_of(script, max_frame=1 << 20) as (ws, venue):
        first, outage, resync, second = await read(ws, 4)
        assert (first, second) == (b"good", b"good")
        assert isinstance(outage, Outage)
        assert isinstance(resync, Resync)
        assert venue.accepted == 2


async def test_bad_frame_is_answered_with_its_close_code() -> None:
    """1002 for broken protocol, as RFC 6455 asks."""
    seen: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        if peer.number == 1:
            await peer.stream.send_all(BAD_FRAMES["masked"])
            seen.append(await peer.receive())
        await peer.idle()

    async with stream_of(script) as (ws, _):
        assert isinstance((await read(ws, 2))[1], Resync)
    assert seen[0][0] == 8
    assert seen[0][1][:2] == (1002).to_bytes(2, "big")


async def hang_up(peer: Peer) -> None:
    """Close before answering."""


async def no_answer(peer: Peer) -> None:
    """Read the request and say nothing."""
    await peer.request()
    await peer.idle()


def answering(answer: bytes) -> Script:
    """Return a script that answers the handshake so and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.stream.send_all(answer)

    return script


HANDSHAKES = {
    "hang-up": hang_up,
    "silence": no_answer,
    "503": answering(b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"),
    "403-body": answering(b"HTTP/1.1 403 x\r\n\r\n<html>go away"),
    "200": answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "redirect": answering(b"HTTP/1.1 301 x\r\nLocation: ws://127.0.0.1:1/\r\n\r\n"),
    "not-http": answering(b"\x16\x03\x01\x02\x00\x01\x00"),
    "endless": answering(b"HTTP/1.1 101 x\r\nX: " + b"y" * 100_000),
    "wrong-key": answering(
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAA\r\n\r\n"
    ),
    "compression-forced": answering(
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    ),
}


@pytest.mark.parametrize("bad", HANDSHAKES.values(), ids=HANDSHAKES.keys())
async def test_failed_handshake_is_tried_again_until_it_works(bad: Script) -> None:
    """Whatever is wrong while connecting, the stream is there afterwards, without a Resync."""

    async def script(peer: Peer) -> None:
        if peer.number <= 2:
            await bad(peer)
            return
        await peer.handshake()
        await peer.send(b"at last")
        await peer.idle()

    async with stream_of(script, connect_timeout_s=0.2) as (ws, venue):
        assert await read(ws, 1) == [b"at last"]
        assert ws.counters.failures == 2
        assert ws.attempts == 2
        assert venue.accepted == 3


async def test_no_listener_and_no_such_host_are_outages_like_others() -> None:
    """DNS and refused connections: keep trying, say why."""
    for url in ("ws://127.0.0.1:1/", "ws://no-such-host.invalid/"):
        async with open_ws(url, venue="t", backoff=QUICK, budget=Budget("t")) as ws:
            with trio.fail_after(20):
                while ws.counters.failures < 2:
                    await trio.sleep(0.001)
            assert "no websocket connection" in ws.last_error
            with pytest.raises(Transient):
                await ws.send("x")


async def test_tls_failure_is_an_outage() -> None:
    """A plain server behind wss://: Transient inside, the stream waits."""

    async def script(peer: Peer) -> None:
        await peer.stream.send_all(b"this is not TLS at all")

    async with on_loopback(script) as venue:
        url = venue.url.replace("ws://", "wss://")
        async with open_ws(url, venue="t", backoff=QUICK, budget=Budget("t")) as ws:
            with trio.fail_after(20):
                while ws.counters.failures < 2:
                    await trio.sleep(0.001)


@pytest.mark.slow
async def test_frames_come_through_tls(tmp_path: Path) -> None:
    """The same stream over wss://, with a certificate that is trusted."""
    key, cert = tmp_path / "k.pem", tmp_path / "c.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    await trio.run_process(command.split(), stderr=subprocess.DEVNULL)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(cert, key)

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.send(b"x" * 100_000, b"y")
        if peer.number == 2:
            await peer.idle()

    async with on_loopback(script, ssl_context=server_side) as venue:
        trusting = ssl.create_default_context(cafile=str(cert))
        async with open_ws(
            venue.url, venue="t", backoff=QUICK, budget=Budget("t"), ssl_context=trusting
        ) as ws:
            with trio.fail_after(20):
                items = await read(ws, 6)
            assert items[:2] == items[4:] == [b"x" * 100_000, b"y"]
            assert isinstance(items[3], Resync)


async def test_another_implementation_of_the_server_is_understood() -> None:
    """trio-websocket's own server: fragments, binary, our text, pings both ways, its close."""
    heard: list[object] = []

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        server = await request.accept()
        await server.send_message("text \u5e01")
        await server.send_message(b"binary")
        heard.append(await server.get_message())
        with trio.fail_after(5):
            await server.ping(b"are you there")
        await server.aclose(1001, "shutdown")

    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        url = f"ws://127.0.0.1:{server.port}/x"
        async with open_ws(url, venue="t", backoff=QUICK, budget=Budget("t")) as ws:
            with trio.fail_after(20):
                assert await read(ws, 2) == ["text \u5e01".encode(), b"binary"]
                await ws.send("from us")
                assert await read(ws, 2) == [
                    Outage("closed by the venue: 1001 shutdown"),
                    Resync("reconnect", detail="closed by the venue: 1001 shutdown"),
                ]
        nursery.cancel_scope.cancel()
    assert heard == ["from us"]


async def test_bad_url_is_told_to_the_consumer() -> None:
    """No retry mends a URL."""
    async with open_ws("http://x", venue="t", budget=Budget("t")) as ws:
        with pytest.raises(ConfigError):
            await ws.__anext__()


async def test_refusal_of_the_owner_is_told_to_the_consumer() -> None:
    """A wrong key is no outage: on_connect's error ends the iteration."""

    async def refuse(link: Link) -> None:
        raise Rejected("wrong key")

    async with stream_of(Peer.handshake, on_connect=refuse) as (ws, _):
        with pytest.raises(Rejected, match="wrong key"):
            await ws.__anext__()


async def test_url_may_be_fetched_for_each_connection() -> None:
    """Venues that hand out tokens: one per connection; a failed fetch is an outage."""
    asked = 0
    paths: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        paths.append(peer.path)
        await peer.send(b"x")

    async with on_loopback(script) as venue:

        async def url() -> str:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise Transient("no token now")
            return f"{venue.url}?token={asked}"

        async with open_ws(url, venue="t", backoff=QUICK, budget=Budget("t")) as ws:
            with trio.fail_after(20):
                await read(ws, 3)
    assert paths[:2] == ["/ws?token=1", "/ws?token=3"]


async def test_reset_makes_a_new_connection_and_says_why() -> None:
    """A consumer that found a gap asks for a fresh start."""

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.send(b"%d" % peer.number)
        await peer.idle()

    async with stream_of(script) as (ws, _):
        assert await read(ws, 1) == [b"1"]
        ws.reset("sequence gap")
        assert await read(ws, 3) == [
            Outage("sequence gap"),
            Resync("reconnect", detail="sequence gap"),
            b"2",
        ]


async def test_rotation_hears_the_new_connection_before_it_closes_the_old() -> None:
    """Make before break: no frame is missed, the Resync stands where the new one begins."""
    first_may_end = trio.Event()
    both_open: list[int] = []

    async def script(peer: Peer) -> None:
        await subscribed(peer)
        await peer.send(b"ack")
        if peer.number == 1:
            await peer.send(b"old 1")
            await first_may_end.wait()
            await peer.send(b"old 2")
        else:
            first_may_end.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            both_open.append(len(venue.open))
            await peer.send(b"new 1")
        await peer.idle()

    async with stream_of(
        script, on_connect=subscribe, sends_per_s=1000, is_live=lambda f: f != b"ack"
    ) as (ws, venue):
        assert await read(ws, 2) == [b"ack", b"old 1"]
        ws.rotate("serverShutdown")
        items = await read(ws, 4)
        assert items == [b"old 2", Resync("venue", detail="serverShutdown"), b"ack", b"new 1"]
        assert both_open == [2]
        assert ws.counters.rotations == 1
        assert ws.counters.losses == 0


async def test_failed_rotation_leaves_the_old_connection_alone() -> None:
    """The venue takes no second connection for a while: nothing is lost, and it is tried again."""

    async def script(peer: Peer) -> None:
        if peer.number in (2, 3):
            return
        await peer.handshake()
        await peer.send(b"%d" % peer.number)
        await peer.idle()

    async with stream_of(script) as (ws, _):
        assert await read(ws, 1) == [b"1"]
        ws.rotate()
        assert await read(ws, 2) == [Resync("venue", detail="rotation"), b"4"]
        assert (ws.counters.rotations, ws.counters.losses) == (1, 0)


@pytest.mark.slow
async def test_slow_consumer_holds_up_the_venue_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is read ahead is bounded; then TCP does its work."""
    monkeypatch.setattr(ws_module, "PENDING_BYTES", 100_000)
    count = 40_000

    async def script(peer: Peer) -> None:
        await peer.handshake()
        for start in range(0, count, 100):
            await peer.send(*(b"%064d" % n for n in range(start, start + 100)))
        await peer.idle()

    async with stream_of(script, idle_timeout_s=0.3, ping_every_s=0.05) as (ws, _):
        while not ws.counters.stalls:
            await trio.sleep(0.01)
        await trio.sleep(0.6)  # longer than the idle time-out: being behind is not being dead
        assert ws._pending < 400_000
        assert await read(ws, count) == [b"%064d" % n for n in range(count)]
        assert ws.counters.losses == 0


async def test_send_that_can_not_be_sent_is_transient_and_bounded() -> None:
    """A queue that does not move in time is an error, not a wait for ever."""
    async with stream_of(Peer.idle_after_handshake, sends_per_s=1) as (ws, _):
        while ws.state != "live":
            await trio.sleep(0.001)
        await ws.send("1")
        with pytest.raises(Transient):
            await ws.send("2", timeout_s=0.01)


async def test_leaving_closes_with_a_close_frame() -> None:
    """The venue is told that we go."""
    seen: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.handshake()
        await peer.send(b"x")
        seen.append((await peer.receive())[0])

    async with stream_of(script) as (ws, _):
        await read(ws, 1)
    assert seen == [8]


@pytest.mark.slow
async def test_hundred_connections_leave_no_descriptor_and_no_task() -> None:
    """Losses of several sorts; as many sockets and tasks after as before."""

    async def script(peer: Peer) -> None:
        kind = peer.number % 5
        if kind == 0:
            return
        await peer.handshake()
        await peer.send(b"x")
        if kind == 1:
            await peer.stream.send_all(BAD_FRAMES["masked"])
        elif kind == 2:
            await peer.stream.send_all(frame(b"\x03\xe8", first=0x88))
        elif kind == 3:
            await peer.stream.send_all(b"\x81\x05tor")

    before = len(os.listdir("/proc/self/fd"))
    async with stream_of(script) as (ws, venue):
        await read(ws, 10)
        with trio.fail_after(20):
            while venue.accepted < 100:
                await read(ws, 1)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
