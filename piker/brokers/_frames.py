"""Split a websocket's bytes into messages, many at a time (RFC 6455, the client's side).

A venue's burst arrives as hundreds of small frames in one read. Here one pass over the buffer
makes one list of payloads; nothing is copied but the payloads, no object is made per frame but
theirs. Control frames are not for us: they are handed back as they came, for trio-websocket to
answer. Text is not checked to be UTF-8: the JSON decoder that comes next does that.
"""

from __future__ import annotations

from piker.errors import BrokerError

__all__ = ["MAX_MESSAGE", "FrameError", "Splitter"]

MAX_MESSAGE = 16 * 2**20  # bytes; the largest recorded snapshot frame has 1.9 MB
MAX_FRAGMENTS = 4096  # frames of one message; nobody sends data that finely

_WHOLE = (0x81, 0x82)  # first byte of a text or binary message in one frame
_CLOSE = 0x8
_PADDED = "a length that is not in its shortest form"
_DATA_OPCODES = (0x0, 0x1, 0x2)
_CONTROL_OPCODES = (0x8, 0x9, 0xA)


class FrameError(BrokerError):
    """The bytes are not what RFC 6455 allows a server to send; ``code`` is the close code."""

    def __init__(self, message: str, *, code: int = 1002) -> None:
        super().__init__(message)
        self.code = code


class Splitter:
    """Turns chunks of bytes into messages; one per connection, in the order of the bytes.

    Holds at most ``max_message`` bytes of a message that is not complete, and the frame heads
    of ``MAX_FRAGMENTS`` fragments.
    """

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self.closed: tuple[int, str] | None = None  # (code, reason) once a close frame came
        self.error: FrameError | None = None  # what the venue did wrong
        self._rest: list[bytes] = []  # the beginning of a frame, in chunks
        self._rest_size = 0
        self._need = 2  # bytes that must be there before a look is worth while
        self._fragments: list[bytes] | None = None
        self._fragments_size = 0

    def feed(self, chunk: bytes) -> tuple[list[bytes], bytes]:
        """Return the messages that ``chunk`` completes, and its control frames as they came.

        Never raises. After a close frame (``closed``) the rest of the bytes is dropped, as it is
        after a masked, reserved, over-long or misplaced frame (``error``); what came before it is
        returned.
        """
        if self.closed is not None or self.error is not None:
            return [], b""
        size = self._rest_size + len(chunk)
        if self._rest:
            self._rest.append(chunk)
            self._rest_size = size
            if size < self._need:
                return [], b""
            chunk = b"".join(self._rest)
            self._rest = []
        messages: list[bytes] = []
        controls: list[bytes] = []
        used = len(chunk)
        try:
            used = self._split(chunk, messages, controls)
        except FrameError as error:
            self.error = error
        self._rest_size = len(chunk) - used
        if self._rest_size:
            self._rest = [chunk[used:]]
        return messages, b"".join(controls)

    def _split(self, data: bytes, messages: list[bytes], controls: list[bytes]) -> int:
        """Take every complete frame from ``data``; return how many bytes they were."""
        position, size, limit = 0, len(data), self.max_message
        append = messages.append
        self._need = 2
        while size - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length == 126 and size - position >= 4:  # the usual size: no call for it
                start = position + 4
                length = data[position + 2] << 8 | data[position + 3]
                if length < 126:
                    raise FrameError(_PADDED)
            elif length >= 126:
                start, length = self._long(data, position, length)
                if start == 0:  # the head itself is not complete
                    break
            if length > limit:
                raise FrameError(f"a frame of {length} bytes, {limit} are allowed", code=1009)
            end = start + length
            if end > size:
                self._need = end - position
                break
            if first in _WHOLE and self._fragments is None:
                append(data[start:end])
            else:
                self._rare(first, data[position:end], data[start:end], messages, controls)
                if self.closed is not None:
                    return size
            position = end
        return position

    def _long(self, data: bytes, position: int, length: int) -> tuple[int, int]:
        """Return (payload's start, length) of an extended length; start 0 if bytes are missing."""
        if length > 127:
            raise FrameError("a masked frame from a server")
        width = 2 if length == 126 else 8
        start = position + 2 + width
        if len(data) < start:
            self._need = 2 + width
            return 0, 0
        extended = int.from_bytes(data[position + 2 : start], "big")
        if extended < (126 if width == 2 else 65536):
            raise FrameError(_PADDED)
        if extended >> 63:
            raise FrameError("a 64-bit length with its highest bit set")
        return start, extended

    def _rare(
        self, first: int, frame: bytes, payload: bytes, messages: list[bytes], controls: list[bytes]
    ) -> None:
        """Handle control frames and fragments."""
        opcode, final = first & 0x0F, first & 0x80
        if first & 0x70:
            raise FrameError("a reserved bit is set: no extension was agreed on")
        if opcode in _CONTROL_OPCODES:
            if not final or len(payload) > 125:
                raise FrameError("a control frame that is fragmented or too long")
            if opcode == _CLOSE:
                self.closed = _close_reason(payload)
            controls.append(frame)
        elif opcode in _DATA_OPCODES:
            self._fragment(opcode, bool(final), payload, messages)
        else:
            raise FrameError(f"unknown opcode {opcode}")

    def _fragment(self, opcode: int, final: bool, payload: bytes, messages: list[bytes]) -> None:
        if (opcode == 0) != (self._fragments is not None):
            raise FrameError("a fragment out of place")
        if self._fragments is None:
            self._fragments, self._fragments_size = [], 0
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > self.max_message or len(self._fragments) > MAX_FRAGMENTS:
            raise FrameError("a message of too many bytes or fragments", code=1009)
        if final:
            messages.append(b"".join(self._fragments))
            self._fragments = None


def _close_reason(payload: bytes) -> tuple[int, str]:
    """Return (code, reason) of a close frame's payload; 1005 stands for none."""
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise FrameError("a close frame with half a code")
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")
