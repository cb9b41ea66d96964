"""HTTP as the venue toolkit uses it: asks, bounded. Everything that knows asks is here.

asks (https://github.com/theelous3/asks) keeps the pool and speaks the protocol. What it lacks is
added: a bound on the body, sockets that are not trusted for ever, and word of whether a request
got as far as a socket, which decides whether its outcome is known.
"""

from __future__ import annotations

import select
import ssl
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import asks
import msgspec
import trio
from anyio import aclose_forcefully
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from piker.brokers.traffic import note_bytes
from piker.errors import Bug, DataQuality

# asks' anyio uses trio.MultiError, which trio 0.23 warns about at every use.
warnings.filterwarnings("ignore", message=".*MultiError.*")

__all__ = ["CLOSE_S", "IDLE_S", "Http", "Params", "Response", "encode_params"]

IDLE_S = 20.0  # a pooled socket unused for longer is not trusted: servers drop them at 30 s and up
CLOSE_S = 1.0  # the time closing the pool may take

Value = str | int | Decimal | bool | None
Params = Mapping[str, Value] | str

#: Set once the request of this task has its socket: from then on the venue may have heard it.
_reached: ContextVar[trio.Event] = ContextVar("piker_rest_reached")


class Response(msgspec.Struct, frozen=True):
    """An answer with its names of headers in lower case and its body decompressed."""

    status: int
    headers: dict[str, str]
    body: bytes


def encode_params(params: Params | None) -> str:
    """Return the query of ``params``: exact, stable, in the order given; "" for none.

    Everything but RFC 3986's unreserved characters is percent-encoded in capital hex, as UTF-8,
    so the text that is signed is the text that is sent. None values are left out, booleans are
    ``true``/``false``, Decimals are written out in full. A str is taken as already encoded. A
    float raises ``Bug``: it does not have the digits that were meant.
    """
    if params is None:
        return ""
    if isinstance(params, str):
        return params
    pairs = [
        f"{_escape(name)}={_escape(_text(name, value))}"
        for name, value in params.items()
        if value is not None
    ]
    return "&".join(pairs)


def _escape(text: str) -> str:
    return quote(text, safe="")


def _text(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (str, int)):
        return str(value)
    raise Bug(f"parameter {name} is a {type(value).__name__}: pass a str, int, bool or Decimal")


class _Session(asks.Session):  # type: ignore[misc]  # asks ships no types
    """asks' session, which forgets sockets that idled and closes those that come back late."""

    def __init__(self, **options: Any) -> None:  # Any: handed to asks as they are
        super().__init__(**options)
        self._closed = False

    async def _open_connection_http(self, location: tuple[str, int]) -> Any:
        # anyio's connect_tcp loses its socket when it is cancelled just after it has connected.
        from anyio._backends._trio import SocketStream  # what it returns; it has no public name

        stream = await trio.open_tcp_stream(*location)
        sock: Any = SocketStream(stream.socket)
        sock._active = True
        return sock

    async def _open_connection_https(self, location: tuple[str, int]) -> Any:
        plain = await self._open_connection_http(location)
        try:
            sock: Any = await TLSStream.wrap(
                plain, server_side=False, hostname=location[0], ssl_context=self.ssl_context,
                standard_compatible=False,
            )  # fmt: skip
        except BaseException:
            await aclose_forcefully(plain)
            raise
        sock._active = True
        return sock

    async def _grab_connection(self, url: str) -> Any:
        oldest = trio.current_time() - IDLE_S
        for sock in [s for s in self._conn_pool if s.idle_since < oldest or _ended(s)]:
            self._conn_pool.remove(sock)
            await sock.aclose()
        sock = await super()._grab_connection(url)
        sock.idle_since = trio.current_time()
        _reached.get().set()
        return sock

    async def return_to_pool(self, sock: Any) -> None:
        sock.idle_since = trio.current_time()
        if self._closed:
            await sock.aclose()
        else:
            await super().return_to_pool(sock)

    async def close(self) -> None:
        self._closed = True
        await super().close()


def _ended(sock: Any) -> bool:  # Any: anyio's stream, of which only the socket is looked at
    """Tell whether an idle socket has something to read: its end, or what nobody asked for."""
    poll = select.poll()
    poll.register(sock.extra(SocketAttribute.raw_socket), select.POLLIN)
    return bool(poll.poll(0))


class _Body:
    """Gathers a body, bounded; says after each part that it came."""

    def __init__(self, cap: int, progress: Callable[[], None] | None) -> None:
        self._cap = cap
        self._progress = progress
        self._chunks: list[bytes] = []
        self._size = 0

    async def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        note_bytes(len(chunk))
        if self._size > self._cap:
            raise DataQuality(f"a body of more than {self._cap} bytes", kind="oversize")
        self._chunks.append(bytes(chunk))
        if self._progress is not None:
            self._progress()

    def finish(self, encoding: str) -> bytes:
        """Return the body without its content encoding; raise ``DataQuality`` if it is broken."""
        raw = b"".join(self._chunks)
        if encoding.lower() in ("", "identity") or not raw:
            return raw
        if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
            raise DataQuality(f"content encoding {encoding!r} was not asked for")
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            body = inflate.decompress(raw, self._cap + 1)
        except zlib.error as error:
            raise DataQuality(f"a body that does not decompress: {error}") from error
        if len(body) > self._cap:
            raise DataQuality(f"a body of more than {self._cap} bytes", kind="oversize")
        if not inflate.eof:
            raise DataQuality("a compressed body that ends too early")
        return body


class Http:
    """A pool of connections to one host."""

    def __init__(
        self, *, connections: int, ssl_context: ssl.SSLContext | None, max_body: int
    ) -> None:
        self._session = _Session(connections=connections, ssl_context=ssl_context)
        self._max_body = max_body

    @property
    def idle_sockets(self) -> int:
        """Return how many sockets wait in the pool."""
        return len(self._session._conn_pool)

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        reached: trio.Event,
        progress: Callable[[], None] | None = None,
    ) -> Response:
        """Send one request, once, and return its answer, whatever its status.

        Follows no redirect. Sets ``reached`` as soon as the request has a socket; calls
        ``progress`` after each part of the body. Raises
        ``DataQuality`` for a body too large or wrongly compressed, and whatever asks, h11, anyio
        and the system raise. Has no deadline of its own; cancellation closes the socket.
        """
        _reached.set(reached)
        reader = _Body(self._max_body, progress)
        answer = await self._session.request(
            method,
            url,
            headers=dict(headers),
            data=body,
            callback=reader.feed,
            retries=0,  # asks would send a changing call twice
            follow_redirects=False,
            connection_timeout=float("inf"),  # the caller's deadline covers it
        )
        names = answer.headers.items()
        lower = {name.lower(): value for name, value in names if isinstance(value, str)}
        return Response(answer.status_code, lower, reader.finish(lower.get("content-encoding", "")))

    async def aclose(self) -> None:
        """Close every socket, those still in use when they come back; takes ``CLOSE_S`` at most."""
        with trio.move_on_after(CLOSE_S) as closing:
            closing.shield = True
            await self._session.close()
