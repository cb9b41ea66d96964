"""A dialog's own connection: framed messages both ways, and nothing between them and the socket.

tractor's runtime carries requests, and begins, cancels and ends dialogs. What a dialog says goes by
a connection of its own to the same port, proved like any other (:mod:`piker.service.auth`) and
announced by the id that the dialog's first answer gave: an order is acknowledged in two thirds of
the time that it takes by the runtime (docs/adr/0009). A frame is its size, four bytes in little
endian, and that many of msgpack.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import msgspec
import trio

from piker.errors import Transient
from piker.log import get_logger

__all__ = ["MAX_FRAME", "Expected", "Wire", "hand_over"]

MAX_FRAME = 32 * 1024 * 1024  # bytes; the largest message we send is a symbol list of some MB
READ = 64 * 1024  # bytes; more come with the next look at the socket, after others had their turn
BUFFER = 256 * 1024  # bytes that the kernel may hold for a slow reader, so that it is noticed
COME_S = 5.0  # how long a caller may take to connect: a local one needs a millisecond
LEAVE_S = 0.5  # how long a caller may take to read what was said last
_SIZE = struct.Struct("<I")
log = get_logger("rpc")
T = TypeVar("T")


def _as_it_is(value: Any) -> Any:
    return value


class Wire:
    """One end of a connection. Any number of tasks may send; one receives.

    Sending waits while the other end does not read. Cancelled, a message may have been sent, but
    never a part of it. Both raise ``trio.BrokenResourceError`` when the other end is gone, and
    ``trio.ClosedResourceError`` after :meth:`close`.
    """

    def __init__(self, stream: trio.SocketStream, type: Any = Any) -> None:
        """Take over a proved stream; messages are converted to ``type`` as they are decoded."""
        self.closed = trio.Event()
        self.is_gone = False  # the other end
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._decoder = msgspec.msgpack.Decoder(type)
        self._encoder = msgspec.msgpack.Encoder()
        self._in = bytearray()
        self._at = 0  # of ``_in``: where the next frame begins
        self._out = bytearray()  # what the socket did not take at once
        self._turn = trio.StrictFIFOLock()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)

    async def send(self, value: Any) -> None:
        """Send a message."""
        await self._put(self._frame(value))

    async def relay(
        self, source: trio.MemoryReceiveChannel[T], encode: Callable[[T], Any] = _as_it_is
    ) -> None:
        """Send what comes by a channel, until that ends: what waits together goes together."""
        async for message in source:
            frames = self._frame(encode(message))
            while len(frames) < READ:
                try:
                    frames += self._frame(encode(source.receive_nowait()))
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            await self._put(frames)

    async def receive(self) -> Any:
        """Return the next message; ``trio.EndOfChannel`` when the other end sends no more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while (body := self._next()) is None:
            if self.closed.is_set():
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._fd)
            try:
                data = os.read(self._fd, READ)
            except BlockingIOError:
                continue
            except OSError as err:
                self.is_gone = True
                raise trio.BrokenResourceError from err
            if not data:
                self.is_gone = True
                if self._in:
                    raise trio.BrokenResourceError("the connection ended inside a message")
                raise trio.EndOfChannel
            self._in += data
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as err:  # or ValidationError, which is one
            self._refuse(f"a message could not be decoded: {err}")

    def __aiter__(self) -> Wire:
        """Iterate over messages until the other end sends no more, or is gone."""
        return self

    async def __anext__(self) -> Any:
        """Return the next message."""
        try:
            return await self.receive()
        except (trio.EndOfChannel, trio.BrokenResourceError):
            raise StopAsyncIteration from None

    async def end(self) -> None:
        """Send no more, and close once the other end has read it all, within half a second."""
        with trio.CancelScope(deadline=trio.current_time() + LEAVE_S, shield=True):
            try:
                await self._flush()
                await self._stream.send_eof()
                async for _ in self:
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        self.close()

    def close(self) -> None:
        """End it at once; whoever waits at it is told."""
        if not self.closed.is_set():
            self.closed.set()
            self._stream.socket.close()

    # -- inside --------------------------------------------------------------------------------
    def _frame(self, value: Any) -> bytes:
        body = self._encoder.encode(value)
        return _SIZE.pack(len(body)) + body

    async def _put(self, frames: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._out:
            await self._flush()
        self._out += frames[self._write(frames) :]
        if self._out:
            await self._flush()

    def _refuse(self, why: str) -> NoReturn:
        """End a connection that is no use any more, and nothing else."""
        log.warning("rpc.frame-refused", reason=why)
        self.is_gone = True
        self.close()
        raise trio.BrokenResourceError(why)

    def _write(self, data: bytes | bytearray) -> int:
        """Give the socket what it takes now; return how many bytes that were."""
        if self.closed.is_set():
            raise trio.ClosedResourceError
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as err:
            self.is_gone = True
            raise trio.BrokenResourceError from err

    async def _flush(self) -> None:
        async with self._turn:
            while self._out:
                del self._out[: self._write(self._out)]
                if self._out:
                    await trio.lowlevel.wait_writable(self._fd)

    def _next(self) -> bytearray | None:
        """Return the next whole frame's body, or None when it has not come yet."""
        have = len(self._in) - self._at
        if have >= _SIZE.size:
            (size,) = _SIZE.unpack_from(self._in, self._at)
            if size > MAX_FRAME:
                self._refuse(f"a message of {size} bytes is over the limit, {MAX_FRAME}")
            if have >= _SIZE.size + size:
                begin = self._at + _SIZE.size
                self._at = begin + size
                return self._in[begin : self._at]
        del self._in[: self._at]
        self._at = 0
        return None


class Expected:
    """A connection that a dialog's caller is told to make: ``id`` is what it comes with.

    It may come while the block is entered, once.
    """

    def __init__(self, type: Any = Any) -> None:
        self.id = secrets.token_bytes(16)
        self._type = type
        self._wire: Wire | None = None
        self._here = trio.Event()

    def __enter__(self) -> Expected:
        """Expect it."""
        _expected[self.id] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        """Expect it no more; one that came in vain is closed."""
        _expected.pop(self.id, None)
        if err is not None and self._wire is not None:
            self._wire.close()

    async def come(self) -> Wire:
        """Wait for it; raise ``Transient`` when nobody comes."""
        with trio.move_on_after(COME_S):
            await self._here.wait()
        if self._wire is None:
            raise Transient("the caller of a dialog did not connect to it.")
        return self._wire

    def take(self, stream: trio.SocketStream) -> Wire:
        """Have it: it is here."""
        self._wire = Wire(stream, self._type)
        self._here.set()
        return self._wire


_expected: dict[bytes, Expected] = {}  # of this process, by id


async def hand_over(id: bytes, stream: trio.SocketStream) -> None:
    """Give a proved connection to the dialog that expects it; return when it is done with."""
    expected = _expected.pop(id, None)
    if expected is None:
        log.warning("rpc.refused", reason="a connection for a dialog that there is not")
        return
    wire = expected.take(stream)
    try:
        await wire.closed.wait()
    finally:
        wire.close()
