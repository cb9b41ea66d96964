"""HTTP/1.1 and websocket on one port, with control over every byte: what loopback venues run on.

h11 parses requests; websocket frames from clients are parsed by wsproto, frames to clients are
written as bytes, because a venue sends the same frame to many. A client that does not read is
closed when its queue is full, as venues do.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import msgspec
import trio
from trio_typing import TaskStatus
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

__all__ = ["MAX_QUEUE", "Client", "Reply", "Request", "serve"]

MAX_QUEUE = 16 * 2**20  # bytes waiting for one websocket client
MAX_BODY = 2**20  # bytes of a request
READ = 65_536
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 4.2.2


class Request(msgspec.Struct, frozen=True):
    """A parsed HTTP request."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


class Reply(msgspec.Struct, frozen=True):
    """An answer; ``body`` is JSON text."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = {}


class Client:
    """One websocket connection: queue frames with ``send``; ``streams`` is the venue's to use."""

    def __init__(self, stream: trio.SocketStream, request: Request) -> None:
        self.request = request
        self.streams: set[str] = set()
        self.closed = False
        self.sent = 0
        self._stream = stream
        self._queue: list[bytes] = []
        self._waiting = 0
        self._wake = trio.Event()

    def send(self, text: bytes) -> None:
        """Queue a text frame; a client too far behind is cut off."""
        self.send_raw(frame_of(text))

    def send_raw(self, frame: bytes) -> None:
        """Queue bytes of a frame, whatever they are."""
        if self.closed:
            return
        self._queue.append(frame)
        self._waiting += len(frame)
        self.sent += 1
        self._wake.set()
        if self._waiting > MAX_QUEUE:
            self.cut()

    def cut(self) -> None:
        """Close the connection without a word, as a dead network would."""
        self.closed = True
        self._wake.set()

    async def write(self) -> None:
        """Write what is queued until the connection ends."""
        while not self.closed:
            await self._wake.wait()
            self._wake = trio.Event()
            frames, self._queue, self._waiting = self._queue, [], 0
            if frames:
                await self._stream.send_all(b"".join(frames))
        await trio.aclose_forcefully(self._stream)


Handler = Callable[[Request], Awaitable[Reply]]
OnText = Callable[[Client, str], None]


async def serve(
    *,
    http: Handler,
    connected: Callable[[Client], Reply | None],
    text: OnText,
    gone: Callable[[Client], None],
    host: str = "127.0.0.1",
    port: int = 0,
    task_status: TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; the started value is the port.

    ``connected`` may refuse a websocket with a Reply; ``text`` takes its messages.
    """

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await _converse(stream, http, connected, text, gone)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host=host)
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(handle, listeners, handler_nursery=nursery)


async def _converse(
    stream: trio.SocketStream, http: Handler, connected: Any, text: OnText, gone: Any
) -> None:
    """Answer requests on a connection until it is upgraded or closed."""
    wire = h11.Connection(h11.SERVER)
    while True:
        request = await _read_request(stream, wire)
        if request is None:
            return
        if request.headers.get("upgrade", "").lower() == "websocket":
            client = Client(stream, request)
            refusal = connected(client)
            if refusal is None:
                trailing, _ = wire.trailing_data
                await _upgrade(client, stream, request, bytes(trailing), text, gone)
                return
            reply = refusal
        else:
            reply = await http(request)
        await _answer(stream, wire, reply)
        if wire.our_state is h11.MUST_CLOSE:
            return
        wire.start_next_cycle()


async def _read_request(stream: trio.SocketStream, wire: h11.Connection) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await stream.receive_some(READ))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > MAX_BODY:
                return None
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return _request_of(head, body)
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None if head is None else _request_of(head, body)


def _request_of(head: h11.Request, body: bytes) -> Request:
    parts = urlsplit(head.target.decode("latin-1"))
    return Request(
        method=head.method.decode(),
        path=unquote(parts.path),
        params=dict(parse_qsl(parts.query, keep_blank_values=True)),
        headers={k.decode().lower(): v.decode("latin-1") for k, v in head.headers},
        body=body,
    )


async def _answer(stream: trio.SocketStream, wire: h11.Connection, reply: Reply) -> None:
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(reply.body)),
        **reply.headers,
    }
    response = h11.Response(status_code=reply.status, headers=list(headers.items()))
    out = wire.send(response) or b""
    out += wire.send(h11.Data(data=reply.body)) or b""
    out += wire.send(h11.EndOfMessage()) or b""
    await stream.send_all(out)


async def _upgrade(
    client: Client,
    stream: trio.SocketStream,
    request: Request,
    trailing: bytes,
    text: OnText,
    gone: Any,
) -> None:
    key = request.headers.get("sec-websocket-key", "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, client, nursery)
            await _read_frames(client, stream, trailing, text)
            client.cut()
    finally:
        client.closed = True
        gone(client)


async def _write(client: Client, nursery: trio.Nursery) -> None:
    try:
        await client.write()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        client.closed = True
    nursery.cancel_scope.cancel()


async def _read_frames(
    client: Client, stream: trio.SocketStream, data: bytes, text: OnText
) -> None:
    wire = Connection(ConnectionType.SERVER)
    parts: list[str] = []
    while True:
        if data:
            wire.receive_data(data)
        for event in wire.events():
            if isinstance(event, TextMessage):
                parts.append(event.data)
                if event.message_finished:
                    text(client, "".join(parts))
                    parts.clear()
            elif isinstance(event, Ping):
                client.send_raw(wire.send(event.response()))
            elif isinstance(event, CloseConnection):
                client.send_raw(wire.send(event.response()))
                return
            else:
                assert isinstance(event, BytesMessage | Pong)
        data = await stream.receive_some(READ)
        if not data:
            return


def frame_of(text: bytes) -> bytes:
    """Return a text frame as a server sends it: unmasked, in one piece."""
    size = len(text)
    if size < 126:
        return b"\x81" + bytes([size]) + text
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text
