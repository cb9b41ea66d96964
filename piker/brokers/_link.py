"""One websocket connection of the venue toolkit, from connect to close.

trio-websocket does the handshake, answers pings, masks what we send and closes properly. The
stream it reads from is ours: :class:`_Tap` takes the data frames out of the bytes with
:class:`~piker.brokers._frames.Splitter` and lets only the handshake and the control frames
through, so that a busy venue never meets trio-websocket's frame parser (docs/internals/
venue-toolkit.md). Only public names of trio-websocket are used.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from piker import clock
from piker.brokers._frames import MAX_MESSAGE, Splitter
from piker.brokers.tap import current_tap
from piker.errors import ConfigError, PikerError, Transient
from piker.log import get_logger

__all__ = ["CLOSE_S", "Connect", "Link", "LinkOptions", "connect_tcp"]

log = get_logger("ws")

CHUNK = 128 * 1024  # bytes read per wake: 9% faster than 64 KiB; 256 gains little more
CLOSE_S = 1.0  # a close handshake may take this long, then the socket is cut
CLOSE_CANCELLED_S = 0.1  # the same when we are being cancelled: the close frame is sent, no more
SEND_S = 5.0  # one frame must leave the machine in this time, or the connection is given up
MAX_HEAD = 64 * 1024  # bytes of a handshake answer's head

#: Opens the byte stream of a connection; tests put memory streams in its place.
Connect = Callable[[str, int, ssl.SSLContext | None], Awaitable[Any]]  # Any: a trio Stream
Deliver = Callable[[list[bytes], int], Awaitable[None]]


class LinkOptions:
    """What every connection of one :func:`piker.brokers.ws.open_ws` has in common."""

    def __init__(
        self,
        *,
        venue: str,
        connect: Connect,
        ssl_context: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 10.0,
        ping_every_s: float = 15.0,
        idle_timeout_s: float = 45.0,
        max_frame: int = MAX_MESSAGE,
        sends_per_s: float = 4.0,
    ) -> None:
        self.venue = venue
        self.connect = connect
        self.ssl_context = ssl_context
        self.headers = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        self.connect_timeout_s = connect_timeout_s
        self.ping_every_s = ping_every_s
        self.idle_timeout_s = idle_timeout_s
        self.max_frame = max_frame
        self.sends_per_s = sends_per_s


async def connect_tcp(host: str, port: int, ssl_context: ssl.SSLContext | None) -> Any:
    """Open a TCP connection, with TLS where a context is given."""
    if ssl_context is None:
        return await trio.open_tcp_stream(host, port)
    stream = await trio.open_ssl_over_tcp_stream(
        host, port, ssl_context=ssl_context, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


class _Tap(trio.abc.Stream):
    """The stream under trio-websocket: keeps data frames for us, passes the rest on."""

    def __init__(self, stream: Any, splitter: Splitter, deliver: Deliver) -> None:
        self._stream = stream  # Any: a trio Stream
        self._splitter = splitter
        self._deliver = deliver
        self._head = bytearray()
        self._framing = False
        self._bad = False  # the venue broke the protocol: nothing more is read
        self._ahead = b""  # frames that came in the same read as the handshake's end
        self.head = b""  # the handshake's answer, as far as it came
        self.ended = trio.Event()  # no more bytes will be read
        self.on_end: Callable[[str], None] = lambda reason: None
        self.after_send: Callable[[], None] = lambda: None
        self.last_read = trio.current_time()
        self.bytes = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return handshake bytes or control frames; data frames are delivered on the way."""
        try:
            return await (self._frames() if self._framing else self._handshake())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(f"connection lost: {error}".rstrip(": "))
            raise

    def _end(self, reason: str) -> None:
        self.ended.set()
        self.on_end(reason)

    async def _handshake(self) -> bytes:
        data = bytes(await self._stream.receive_some(CHUNK))
        if not data:
            self._end("closed during the handshake")
            return b""
        before = len(self._head)
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            self.head = bytes(self._head)
            if len(self._head) > MAX_HEAD:
                self._end("an endless handshake answer")
                return b""
            return data
        self.head = bytes(self._head[: end + 4])
        if self.status != 101:
            self.on_end(f"handshake refused with status {self.status}")
            return data
        self._framing = True
        cut = end + 4 - before
        self._ahead = data[cut:]
        self._head.clear()
        return data[:cut]

    async def _frames(self) -> bytes:
        while True:
            chunk, self._ahead = self._ahead, b""
            if not chunk and not self._bad:
                chunk = bytes(await self._stream.receive_some(CHUNK))
            if not chunk:
                self._end("closed without a close frame")
                return b""
            self.bytes += len(chunk)
            self.last_read = trio.current_time()
            recv_ns = clock.wall_ns()
            messages, control = self._splitter.feed(chunk)
            if messages:
                await self._deliver(messages, recv_ns)
                self.last_read = trio.current_time()  # the consumer's delay is not the venue's
            if self._splitter.error is not None:
                self._bad = True
                self.on_end(f"bad frame: {self._splitter.error}")
                # trio-websocket answers this, which tells the venue, and is done
                return control + _close_frame(self._splitter.error.code)
            if self._splitter.closed is not None:
                code, reason = self._splitter.closed
                self.on_end(f"closed by the venue: {code} {reason}".rstrip())
            if control:
                return control

    @property
    def status(self) -> int:
        """Return the status of the handshake's answer, 0 before one came."""
        parts = self.head.split(b" ", 2)
        return int(parts[1]) if len(parts) > 1 and parts[1][:3].isdigit() else 0

    @property
    def retry_after_s(self) -> float | None:
        """Return the Retry-After of the handshake's answer."""
        for line in self.head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"retry-after" and value.strip().isdigit():
                return float(value)
        return None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` within ``SEND_S``; a slower venue counts as a broken connection."""
        whole = False
        try:
            with trio.move_on_after(SEND_S):
                await self._stream.send_all(data)
                whole = True
        finally:
            if not whole:  # half a frame may have left: what follows would be garbage
                self.on_end("sending cut short")
        if not whole:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("sending stuck")
        self.after_send()

    async def wait_send_all_might_not_block(self) -> None:
        """Block until ``send_all`` might not."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream underneath."""
        self._end("closed")
        await self._stream.aclose()


def _close_frame(code: int) -> bytes:
    return bytes((0x88, 2)) + code.to_bytes(2, "big")


class Link:
    """One connection. ``lost`` is set, once, when it is of no more use; ``reason`` says why."""

    def __init__(self, options: LinkOptions, deliver: Callable[[Link, list[bytes], int], Any]):
        self.options = options
        self.lost = trio.Event()
        self.reason = ""
        self.opened_at = trio.current_time()
        self.opened_ns = clock.wall_ns()
        self.stalled = False  # the consumer is behind: bytes wait on purpose
        self.first_frame = trio.Event()
        self._deliver = deliver
        self._tap: _Tap | None = None
        self._wiretap = current_tap()  # whoever records, if anybody does
        self._number = -1  # of this connection, at the recorder
        self._connection: Any = None  # a trio_websocket.WebSocketConnection
        self._opened = False
        self._turn = trio.StrictFIFOLock()
        self._sent_at = -math.inf

    # -- state ----------------------------------------------------------------------------
    def fail(self, reason: str) -> None:
        """Give the connection up. Idempotent: the first reason stands. Never blocks."""
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
            if self._wiretap is not None and self._number >= 0:
                self._wiretap.closed(self._number, reason)

    @property
    def age_s(self) -> float:
        """Return the seconds since it was opened."""
        return float(trio.current_time() - self.opened_at)

    # -- sending --------------------------------------------------------------------------
    async def send(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Send one text message, no faster than the venue takes them.

        Blocks for its turn and the venue's messages per second, ``timeout_s`` at most. Raises
        ``Transient`` when the connection is lost or that time is over. Once a frame has begun to
        leave, cancellation waits for it (``SEND_S`` at most): half a frame ruins a connection.
        """
        with trio.move_on_after(timeout_s) as scope:
            async with self._turn:
                await self._pace()
                await self._send(text)
        if scope.cancelled_caught:
            raise Transient(f"{self.options.venue}: nothing could be sent for {timeout_s:g} s")

    async def _pace(self) -> None:
        """Keep sends apart: bursts a second apart can meet in one second of the venue's."""
        await trio.sleep_until(self._sent_at + 1 / self.options.sends_per_s)

    async def _send(self, text: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.lost.is_set():
            raise Transient(f"{self.options.venue}: websocket lost: {self.reason}")
        self._sent_at = trio.current_time()
        if self._wiretap is not None:
            self._wiretap.sent(self._number, text)
        try:
            with trio.CancelScope(shield=True):  # bounded by SEND_S in the tap
                await self._connection.send_message(text)
        except ConnectionClosed as error:
            self.fail("closed while sending")
            raise Transient(f"{self.options.venue}: websocket lost: {self.reason}") from error

    # -- life -----------------------------------------------------------------------------
    async def run(self, url: str, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Open the connection, report it as started, and hold it until it is lost.

        Raises ``Transient`` when no connection can be made in time, whatever the reason, and
        ``ConfigError`` for a URL that is none; nothing once it was started. Cancellation closes
        the connection within ``CLOSE_CANCELLED_S``, anything else within ``CLOSE_S``.
        """
        failure: BaseException | None = None
        try:
            await self._run(url, task_status)
        except* Exception as group:  # what the network and its libraries raise, many at once
            failure = _leaf(group)
        finally:
            self.fail("closed")
        if isinstance(failure, PikerError):
            raise failure
        if failure is not None and not self._opened:
            raise self._refused(failure) from failure
        if failure is not None:
            log.error("ws.crashed", venue=self.options.venue, error=repr(failure))

    async def _run(self, url: str, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            try:
                with trio.fail_after(self.options.connect_timeout_s):
                    await self._connect(url, nursery)
                nursery.start_soon(self._keep_alive)
                self._opened = True
                task_status.started(self)
                await self.lost.wait()
            finally:
                cancelled = trio.current_effective_deadline() == -math.inf
                await self._close(cancelled=cancelled)
                nursery.cancel_scope.cancel()

    async def _receive(self, messages: list[bytes], recv_ns: int) -> None:
        self.first_frame.set()
        if not self.lost.is_set():
            if self._wiretap is not None:
                self._wiretap.received(self._number, messages, recv_ns)
            await self._deliver(self, messages, recv_ns)

    async def _connect(self, url: str, nursery: Any) -> None:
        host, port, host_header, resource, tls = _parts(url, self.options.ssl_context)
        stream = await self.options.connect(host, port, tls)
        if self._wiretap is not None:
            self._number = self._wiretap.opened(self.options.venue, url)
        self._tap = _Tap(stream, Splitter(self.options.max_frame), self._receive)
        with trio.CancelScope() as scope:
            self._tap.on_end = partial(self._give_up, scope)
            self._connection = await wrap_client_stream(
                nursery, self._tap, host_header, resource, extra_headers=self.options.headers
            )
        if self._connection is None:
            raise self._refused(None)
        self._tap.on_end = self.fail
        self.opened_at, self.opened_ns = trio.current_time(), clock.wall_ns()

    def _give_up(self, connecting: Any, reason: str) -> None:
        self.fail(reason)
        connecting.cancel()

    def _refused(self, error: BaseException | None) -> Transient:
        if self._tap is not None and self._tap.status not in (0, 101):
            return Transient(
                f"{self.options.venue}: websocket handshake refused, HTTP {self._tap.status}",
                retry_after=self._tap.retry_after_s,
            )
        why = f"{type(error).__name__} {error}" if error is not None else self.reason
        return Transient(f"{self.options.venue}: no websocket connection: {why}".rstrip())

    async def _keep_alive(self) -> None:
        """Ping in quiet times, and give up when nothing at all comes back."""
        tap, options = self._tap, self.options
        assert tap is not None
        first_look_s = min(options.ping_every_s, options.idle_timeout_s)
        while True:
            quiet_s = 0.0 if self.stalled else trio.current_time() - tap.last_read
            if quiet_s < first_look_s:
                await trio.sleep(max(first_look_s - quiet_s, 0.001))  # never a rounding error
                continue
            if quiet_s >= options.idle_timeout_s:
                self.fail(f"nothing received for {quiet_s:.0f} s")
                return
            try:
                with trio.move_on_after(max(options.idle_timeout_s - quiet_s, 0.001)):
                    await self._connection.ping()
            except ConnectionClosed:
                self.fail("closed while pinging")
                return

    async def _close(self, *, cancelled: bool) -> None:
        """Close properly if that is quick, else cut the socket."""
        if self._tap is None:
            return
        within_s = CLOSE_CANCELLED_S if cancelled else CLOSE_S
        try:
            deadline = trio.current_time() + within_s
            with trio.CancelScope(deadline=deadline, shield=cancelled) as scope:
                if cancelled:
                    self._tap.after_send = scope.cancel  # nobody is left to read the answer
                if self._connection is not None:
                    await self._connection.aclose(code=1000)
                    if not cancelled:
                        await self._tap.ended.wait()
        finally:
            await trio.aclose_forcefully(self._tap)


def _leaf(error: BaseException) -> BaseException:
    """Return the first error inside a group of them; one of ours before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(one) for one in error.exceptions]
    return next((one for one in leaves if isinstance(one, PikerError)), leaves[0])


def _parts(
    url: str, ssl_context: ssl.SSLContext | None
) -> tuple[str, int, str, str, ssl.SSLContext | None]:
    """Return (host, port, Host header, resource, TLS context) of a websocket URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigError(
            f"{url!r} is not a websocket URL", remedy="It begins with ws:// or wss://."
        )
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    bare = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host_header = bare if port in (80, 443) else f"{bare}:{port}"
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = (ssl_context or ssl.create_default_context()) if secure else None
    return parts.hostname, port, host_header, resource, context
