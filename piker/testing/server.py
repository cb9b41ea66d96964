"""HTTP/1.1 and websocket on one port, with control over every byte: what loopback venues run on.

h11 parses requests; websocket frames from clients are parsed by wsproto, frames to clients are
written as bytes, because a venue sends the same frame to many. A client that does not read is
closed when its queue is full, as venues do. What may go wrong is the gate's to say.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import msgspec
import trio
from trio_typing import TaskStatus
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from piker.testing.gate import Gate
from piker.testing.injection import Cut, Item, Late, Pause, Slow, frame_of
from piker.testing.requests import Reply, Request

__all__ = ["MAX_QUEUE", "Client", "Host", "serve"]

MAX_QUEUE = 16 * 2**20  # bytes waiting for one websocket client
MAX_BODY = 2**20  # bytes of a request
READ = 65_536
FLUSH_S = 1.0  # what is queued may take this long to leave once a client has said goodbye
SLOW_S = 0.05  # how finely a slow connection is written
_CONTINUE = h11.InformationalResponse(status_code=100, headers=[])
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 4.2.2


class Client:
    """One websocket connection: queue frames with ``send``; ``streams`` is the venue's to use."""

    def __init__(self, stream: trio.SocketStream, request: Request, gate: Gate) -> None:
        self.request = request
        self.streams: set[str] = set()
        self.closed = False
        self.muted = False
        self.answered_at = trio.current_time()  # its last sign of life: a pong, or the handshake
        self.sent = 0  # frames that were queued
        self._stream = stream
        self._gate = gate
        self._faults = gate.joined(self)
        self._injector = gate.injector
        self._queue: list[Item] = []
        self._plain = True  # nothing but bytes is in the queue
        self._ending = False
        self._waiting = 0
        self._wake = trio.Event()
        self._scope = trio.CancelScope()

    def send(self, text: bytes, name: str = "") -> None:
        """Queue a text frame; a client too far behind is cut off.

        ``name`` is the stream's, for faults that match it.
        """
        self.send_frame(frame_of(text), name)

    def send_frame(self, frame: bytes, name: str = "") -> None:
        """Queue a text frame that is encoded already; see :func:`frame_of`."""
        if self.closed or self.muted:
            return
        if self._injector.on_frames:
            items = self._faults.through(frame, name, trio.current_time())
            if items is None:
                self.mute()
                return
            self._plain = False
            self._queue += items
        else:
            self._queue.append(frame)
        self._queued(len(frame))

    def send_control(self, frame: bytes) -> None:
        """Queue a ping, pong or close frame: no fault concerns it but half-open."""
        if not (self.closed or self.muted):
            self._queue.append(frame)
            self._queued(len(frame))

    def _queued(self, size: int) -> None:
        self._waiting += size
        self.sent += 1
        self._wake.set()
        if self._waiting > MAX_QUEUE:
            self._gate.drop(self)

    def mute(self) -> None:
        """Send nothing from now on, and let the connection stay open."""
        self.muted = True

    def cut(self) -> None:
        """Close the connection without a word, as a dead network would."""
        self.closed = True
        self._scope.cancel()

    # -- the server's side ---------------------------------------------------------------------
    async def converse(self, host: Host, trailing: bytes) -> None:
        """Read and write until the connection ends, whoever ends it."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery)
                await self._read(host, trailing)
                self._ending = True
                self._wake.set()
                nursery.cancel_scope.deadline = trio.current_time() + FLUSH_S

    async def _write(self, nursery: trio.Nursery) -> None:
        """Write what is queued until the connection ends."""
        counters = self._gate.counters
        try:
            while self._queue or not self._ending:
                await self._wake.wait()
                self._wake = trio.Event()
                items, self._queue, self._waiting = self._queue, [], 0
                plain, self._plain = self._plain, True
                if plain and items:
                    data = b"".join(items)  # type: ignore[arg-type]  # they are bytes
                    counters.frames += len(items)
                    counters.bytes += len(data)
                    await self._stream.send_all(data)
                else:
                    await self._write_items(items, nursery)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.cut()

    async def _send_late(self, item: Late) -> None:
        await trio.sleep(item.by_s)
        self._queue.append(item.frame)
        self._queued(len(item.frame))

    async def _write_items(self, items: list[Item], nursery: trio.Nursery) -> None:
        """Write what faults made of frames."""
        for item in items:
            if isinstance(item, Pause):
                await trio.sleep_until(item.until)
                continue
            if isinstance(item, Late):
                nursery.start_soon(self._send_late, item)
                continue
            if isinstance(item, Cut):
                self._gate.drop(self)
                return
            frame = item.frame if isinstance(item, Slow) else item
            self._gate.counters.frames += 1
            self._gate.counters.bytes += len(frame)
            rate = item.bytes_per_s if isinstance(item, Slow) else 0.0
            await _send(self._stream, frame, rate)

    async def _read(self, host: Host, data: bytes) -> None:
        """Take what the client says, until it ends the connection."""
        wire = Connection(ConnectionType.SERVER)
        parts: list[str] = []
        while True:
            if data:
                wire.receive_data(data)
            for event in wire.events():
                if self.closed:
                    return
                if isinstance(event, TextMessage):
                    parts.append(event.data)
                    if event.message_finished and self._gate.hears(self):
                        self._say(host, "".join(parts))
                        parts.clear()
                elif isinstance(event, Ping):
                    if self._gate.hears(self):
                        self.send_control(wire.send(event.response()))
                elif isinstance(event, Pong):
                    self.answered_at = trio.current_time()
                    self._gate.hears(self)
                elif isinstance(event, CloseConnection) and not self.muted:
                    self.send_control(wire.send(event.response()))
                    return
            data = await self._stream.receive_some(READ)
            if not data:
                return

    def _say(self, host: Host, message: str) -> None:
        try:
            host.text(self, message)
        except Exception as error:  # one client's message must not end the venue for everybody
            self._gate.failed(self.request.path, error)
            self._gate.drop(self)


class Host(Protocol):
    """A venue, as the server sees it."""

    async def http(self, request: Request) -> Reply:
        """Answer a request."""
        ...

    def refused(self, request: Request) -> Reply | None:
        """Return why a websocket is refused, or None to take it."""
        ...

    def connected(self, client: Client) -> None:
        """Take a websocket in; its handshake has been answered."""
        ...

    def text(self, client: Client, message: str) -> None:
        """Do what a client's message says."""
        ...

    def gone(self, client: Client) -> None:
        """Forget a websocket."""
        ...


async def serve(
    host: Host,
    gate: Gate,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a venue until cancelled; the started value is the port."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            if gate.accepts():
                await _converse(stream, host, gate)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone
        except* RemoteProtocolError:
            pass  # what it sent is no websocket frame
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host=address)
        nursery.start_soon(gate.run)
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(handle, listeners, handler_nursery=nursery)


async def _converse(stream: trio.SocketStream, host: Host, gate: Gate) -> None:
    """Answer requests on a connection until it is upgraded or closed."""
    wire = h11.Connection(h11.SERVER)
    peer = str(stream.socket.getpeername()[0])
    while True:
        try:
            request = await _read_request(stream, wire, peer)
        except h11.RemoteProtocolError as error:
            sentence = f'{{"error":"This is no HTTP/1.1 request: {error}."}}'.encode()
            await _answer(stream, wire, Reply(error.error_status_hint, sentence))
            return
        if request is None:
            return
        if request.headers.get("upgrade", "").lower() == "websocket":
            reply = gate.handshake(request) or host.refused(request)
            if reply is None:
                trailing, _ = wire.trailing_data
                await _upgrade(stream, request, bytes(trailing), host, gate)
                return
        else:
            reply = await gate.answer(request, host.http)
        if reply.fate == "hang":
            while await stream.receive_some(READ):
                pass
        if reply.fate in ("close", "hang"):
            return
        bare = request.method == "HEAD" or reply.status == 304
        await _answer(stream, wire, _without_body(reply) if bare else reply)
        if reply.fate == "half":
            return
        if wire.our_state is h11.MUST_CLOSE:
            return
        wire.start_next_cycle()


async def _read_request(
    stream: trio.SocketStream, wire: h11.Connection, peer: str
) -> Request | None:
    """Return the next request, or None where the connection ends instead."""
    head: h11.Request | None = None
    body = b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            if wire.they_are_waiting_for_100_continue:
                await stream.send_all(
                    wire.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            wire.receive_data(await stream.receive_some(READ))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("a body too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return _request_of(head, body, peer)
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None if head is None else _request_of(head, body, peer)


def _request_of(head: h11.Request, body: bytes, peer: str) -> Request:
    target = head.target.decode("latin-1")
    try:
        parts = urlsplit(target)
        params = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as error:
        raise h11.RemoteProtocolError(f"its target is no URL: {error}") from error
    return Request(
        method=head.method.decode(),
        path=unquote(parts.path),
        params=params,
        headers={k.decode().lower(): v.decode("latin-1") for k, v in head.headers},
        body=body,
        peer=peer,
        target=target,
    )


def _without_body(reply: Reply) -> Reply:
    """Return an answer that HTTP allows no body: the same headers, its length among them."""
    headers = {"Content-Length": str(len(reply.body)), **reply.headers}
    return msgspec.structs.replace(reply, body=b"", headers=headers)


async def _answer(stream: trio.SocketStream, wire: h11.Connection, reply: Reply) -> None:
    if wire.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(reply.body)),
        **reply.headers,
    }
    response = h11.Response(status_code=reply.status, headers=list(headers.items()))
    out = wire.send(response) or b""
    out += wire.send(h11.Data(data=reply.body)) or b""
    out += wire.send(h11.EndOfMessage()) or b""
    if reply.fate == "half":
        out = out[: len(out) - (len(reply.body) + 1) // 2]
    await _send(stream, out, reply.bytes_per_s)


async def _send(stream: trio.SocketStream, data: bytes, bytes_per_s: float) -> None:
    """Write, at a rate where one is given."""
    if not bytes_per_s:
        await stream.send_all(data)
        return
    size = max(1, round(bytes_per_s * SLOW_S))
    for at in range(0, len(data), size):
        part = data[at : at + size]
        await stream.send_all(part)
        await trio.sleep(len(part) / bytes_per_s)


async def _upgrade(
    stream: trio.SocketStream, request: Request, trailing: bytes, host: Host, gate: Gate
) -> None:
    key = request.headers.get("sec-websocket-key", "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    client = Client(stream, request, gate)
    try:
        host.connected(client)
        await client.converse(host, trailing)
    finally:
        client.closed = True
        gate.left(client)
        host.gone(client)
