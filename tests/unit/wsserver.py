"""A websocket server for tests, speaking bytes: real loopback sockets or memory streams."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import memory_stream_pair

from piker import clock

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
EPOCH_NS = 1_700_000_000 * clock.NS
Script = Callable[["Peer"], Awaitable[None]]


class TrioClock:
    """piker's clock on trio's time, so that a MockClock moves both."""

    def wall_ns(self) -> int:
        """Return a wall time that trio's clock moves."""
        return EPOCH_NS + round(trio.current_time() * clock.NS)

    def monotonic_ns(self) -> int:
        """Return trio's time."""
        return round(trio.current_time() * clock.NS)


def frame(payload: bytes, *, first: int = 0x81) -> bytes:
    """Return an unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


class Peer:
    """The venue's end of one connection."""

    def __init__(self, stream: Any, number: int) -> None:
        self.stream = stream
        self.number = number  # of this connection, from 1
        self.path = ""
        self.received: list[tuple[int, bytes]] = []  # (opcode, payload) of every frame
        self._buffer = b""

    async def handshake(self, *, extra: bytes = b"") -> None:
        """Accept; ``extra`` is sent in the same write as the answer."""
        await self.request()
        digest = hashlib.sha1(self._key + GUID).digest()
        await self.stream.send_all(
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n" + extra
        )

    async def request(self) -> None:
        """Read the handshake's request."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.path = lines[0].split(b" ")[1].decode()
        headers = {k.lower(): v.strip() for k, _, v in (x.partition(b":") for x in lines[1:])}
        self._key = headers[b"sec-websocket-key"]

    async def _more(self) -> None:
        chunk = await self.stream.receive_some(65536)
        if not chunk:
            raise trio.BrokenResourceError("the client is gone")
        self._buffer += bytes(chunk)

    async def send(self, *payloads: bytes) -> None:
        """Send text messages in one write."""
        await self.stream.send_all(b"".join(map(frame, payloads)))

    async def receive(self) -> tuple[int, bytes]:
        """Return (opcode, payload) of the client's next frame."""
        while True:
            parsed = self._parse()
            if parsed is not None:
                self.received.append(parsed)
                return parsed
            await self._more()

    def _parse(self) -> tuple[int, bytes] | None:
        data = self._buffer
        if len(data) < 2:
            return None
        length, start = data[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + 4 + length:
            return None
        assert data[1] & 0x80, "a client masks"
        mask, end = data[start : start + 4], start + 4 + length
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[start + 4 : end]))
        self._buffer = data[end:]
        return data[0] & 0x0F, payload

    async def text(self) -> str:
        """Return the client's next text message; answer pings on the way."""
        while True:
            opcode, payload = await self.receive()
            if opcode == 1:
                return payload.decode()
            if opcode == 9:
                await self.stream.send_all(frame(payload, first=0x8A))
            if opcode == 8:
                await self.stream.send_all(frame(payload, first=0x88))
                raise trio.BrokenResourceError("the client closed")

    async def idle_after_handshake(self) -> None:
        """Accept, then answer pings until the client goes."""
        await self.handshake()
        await self.idle()

    async def play_dead(self) -> None:
        """Take what comes and say nothing."""
        while await self.stream.receive_some(65536):
            pass

    async def idle(self) -> None:
        """Answer pings until the client goes."""
        while True:
            await self.text()


class Venue:
    """Runs a script for every connection; ``script`` may be changed at any time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.open: set[Peer] = set()
        self.accepted = 0
        self.accepted_at: list[float] = []
        self.down = False  # refuse connections (memory streams only)
        self.url = "ws://venue.test/ws"
        self.nursery: Any = None

    async def serve(self, stream: Any) -> None:
        """Run the script on one connection."""
        self.accepted += 1
        self.accepted_at.append(trio.current_time())
        peer = Peer(stream, self.accepted)
        self.open.add(peer)
        try:
            await self.script(peer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open.discard(peer)
            await trio.aclose_forcefully(stream)

    async def connect(self, host: str, port: int, tls: object) -> Any:
        """Open a memory stream to the venue, as `connect` of open_ws."""
        await trio.lowlevel.checkpoint()
        if self.down:
            raise OSError("connection refused")
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.serve, theirs)
        return ours

    async def emptied(self) -> None:
        """Wait until no connection is open."""
        with trio.fail_after(5):
            while self.open:
                await trio.sleep(0.001)  # a checkpoint would not let a mocked clock jump


@asynccontextmanager
async def in_memory(script: Script) -> AsyncIterator[Venue]:
    """Serve on memory streams; for a mocked clock."""
    async with trio.open_nursery() as nursery:
        venue = Venue(script)
        venue.nursery = nursery
        yield venue
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def on_loopback(
    script: Script, *, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Venue]:
    """Serve on a real socket, with TLS where a context is given."""
    async with trio.open_nursery() as nursery:
        venue = Venue(script)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        venue.url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/ws"
        if ssl_context is not None:
            venue.url = venue.url.replace("ws:", "wss:")
            listeners = [trio.SSLListener(one, ssl_context) for one in listeners]
        nursery.start_soon(trio.serve_listeners, venue.serve, listeners)
        yield venue
        nursery.cancel_scope.cancel()
