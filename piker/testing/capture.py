"""Captures: what crossed the wire to a venue, one JSON record a line.

The format is described in docs/reference/capture-format.md. The first line is a :class:`Header`,
each further one a record of what was heard, said or answered, with the wall time in ns. Lines are
only ever appended: a crash leaves at most one torn line at the end, which :func:`read_capture`
reports and drops. ``.gz`` files are read and written.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, TypedDict
from urllib.parse import urlsplit

import msgspec

from piker.errors import ConfigError, PikerError

__all__ = [
    "FORMAT_VERSION",
    "Capture",
    "CaptureWriter",
    "Close",
    "Content",
    "Header",
    "In",
    "Open",
    "Out",
    "Quoted",
    "Record",
    "Rest",
    "check_url",
    "is_capture",
    "payload",
    "read_bytes",
    "read_capture",
    "text_fields",
]

FORMAT_VERSION = 1
MAX_BYTES = 2**30  # of one capture, decompressed: a reader holds it in memory
READ = 2**20
_MAGIC = b'"piker-capture"'  # near the beginning of the first line
_MAGIC_WITHIN = 64

Ns = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]


class _Line(msgspec.Struct, frozen=True, tag_field="k", omit_defaults=True, kw_only=True):
    """What every line has: its kind under ``k``, which stands first."""


class Header(_Line, tag="piker-capture", frozen=True, kw_only=True, omit_defaults=True):
    """The first line."""

    version: int
    provider: str
    t: Ns  # when it began
    piker: str = ""  # the version that wrote it
    symbols: tuple[str, ...] = ()  # market ids
    note: str = ""


class Rest(_Line, tag="rest", frozen=True, kw_only=True, omit_defaults=True):
    """A REST answer. ``base`` is scheme and host; ``query`` as it was sent, without secrets."""

    t: Ns
    venue: str = ""  # the toolkit's name of the client: binance.spot
    method: str = "GET"
    base: str = ""
    path: str
    query: str = ""
    status: Status = 200
    headers: dict[str, str] = {}
    text: str = ""
    b64: str = ""
    redacted: int = 0


class Open(_Line, tag="open", frozen=True, kw_only=True, omit_defaults=True):
    """A websocket's handshake begins; its frames carry the number ``c``."""

    t: Ns
    c: Number
    venue: str = ""
    url: str


class Close(_Line, tag="close", frozen=True, kw_only=True, omit_defaults=True):
    """A websocket is of no more use."""

    t: Ns
    c: Number
    reason: str = ""


class In(_Line, tag="in", frozen=True, kw_only=True, omit_defaults=True):
    """A frame that was received; ``b64`` instead of ``text`` where it is no UTF-8."""

    t: Ns
    c: Number
    text: str = ""
    b64: str = ""
    redacted: int = 0  # secrets that were masked: this frame is not byte for byte the venue's


class Out(_Line, tag="out", frozen=True, kw_only=True, omit_defaults=True):
    """A frame that was sent."""

    t: Ns
    c: Number
    text: str = ""
    b64: str = ""
    redacted: int = 0


class Quoted(_Line, tag="quote", frozen=True, kw_only=True, omit_defaults=True):
    """What a backend that does not use the venue toolkit sent, as tick rows or as an event."""

    t: Ns
    rows: list[tuple[str, int, int, float, float, float, float, int, int]] = []
    event: dict[str, Any] = {}  # Any: a Resync, Outage or ClosedBar as JSON


Record = Rest | Open | Close | In | Out | Quoted

_encode = msgspec.json.Encoder().encode
_header = msgspec.json.Decoder(Header)
_record = msgspec.json.Decoder(Record)


class Capture(msgspec.Struct, frozen=True):
    """A capture in memory. ``torn`` says what of a last line was dropped, if anything was."""

    source: str
    header: Header
    records: list[Record]
    torn: str = ""


class Content(TypedDict, total=False):
    """The fields of a record that hold its bytes: one of the two."""

    text: str
    b64: str


def text_fields(raw: bytes) -> Content:
    """Return bytes as the fields of a record that give exactly these bytes back."""
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(raw).decode()}


def payload(record: In | Out | Rest) -> bytes:
    """Return a record's bytes. Raises ``ValueError`` for base64 that is none."""
    if not record.b64:
        return record.text.encode()
    try:
        return base64.b64decode(record.b64, validate=True)
    except binascii.Error as error:
        raise ValueError(f"b64 is not base64: {error}") from None


def check_url(url: str) -> None:
    """Raise ``ValueError`` for what can not be taken apart as a URL."""
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"{url[:80]!r} is no URL: {error}") from None


# -- writing -------------------------------------------------------------------------------------
class CaptureWriter:
    """A capture being written: blocking calls, for a thread. Use as a context manager.

    Raises ``ConfigError`` when the file exists and ``force`` is not set, or can not be made;
    ``PikerError`` when nothing more can be written (a full disk): what was written stays valid.
    """

    def __init__(self, path: Path, header: Header, *, force: bool = False) -> None:
        self.path = path
        self.bytes = 0  # written, before compression
        self._file = _create(path, force=force)
        self._zip = zlib.compressobj(wbits=31) if path.suffix == ".gz" else None
        self._failed = False  # half a line may stand at the end: nothing may follow it
        self.write([header])

    def __enter__(self) -> CaptureWriter:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def write(self, records: Iterable[Header | Record]) -> None:
        """Append records and hand them to the system. Does nothing once a write has failed."""
        if self._failed:
            return
        block = b"".join(_encode(record) + b"\n" for record in records)
        out = block
        if self._zip is not None:
            out = self._zip.compress(block) + self._zip.flush(zlib.Z_SYNC_FLUSH)
        self._write(out)
        self.bytes += len(block)

    def close(self) -> None:
        """Finish the file. Idempotent."""
        if self._zip is not None and not self._failed:
            tail, self._zip = self._zip.flush(), None
            self._write(tail)
        self._file.close()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._failed = True
            self._file.close()
            raise PikerError(
                f"{self.path}: the capture can not be written on: {error.strerror or error}.",
                remedy="What was written is valid; make room and record again.",
            ) from error


def _create(path: Path, *, force: bool) -> FileIO:
    try:
        return path.open("wb" if force else "xb", buffering=0)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists.", remedy="Choose another file, or replace it with --force."
        ) from None
    except OSError as error:
        raise ConfigError(f"can not write {path}: {error.strerror}.") from error


# -- reading -------------------------------------------------------------------------------------
def read_capture(path: Path) -> Capture:
    """Read and check a whole capture.

    Raises ``ConfigError`` with file, line and what is wrong there. A last line that was not
    finished is dropped and told in ``torn``.
    """
    data, cut = read_bytes(path)
    if not is_capture(data):
        raise ConfigError(
            f"{path}:1: not a capture: its first line is no piker-capture header.",
            remedy="Captures are made by: piker record FQME --out FILE",
        )
    lines = data.split(b"\n")
    last = lines.pop()
    header = _parse_header(path, lines[0] if lines else last)
    records: list[Record] = []
    opened: set[int] = set()
    for number, line in enumerate(lines[1:], start=2):
        records.append(_parse(path, number, line, opened))
    torn = cut
    if last and lines:
        try:
            records.append(_parse(path, len(lines) + 1, last, opened))
        except ConfigError:
            torn = torn or f"line {len(lines) + 1} was not finished, and is left out"
    return Capture(str(path), header, records, torn)


def is_capture(data: bytes) -> bool:
    """Tell whether a file's content begins as a capture of ours does."""
    return data.startswith(b"{") and _MAGIC in data[:_MAGIC_WITHIN]


def read_bytes(path: Path) -> tuple[bytes, str]:
    """Return a file's content, decompressed where its name ends in ``.gz``, and what is torn off.

    Raises ``ConfigError`` where it can not be read or is too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES} bytes.")
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can not read {path}: {error.strerror}.") from error
    return _inflate(path, raw) if path.suffix == ".gz" else (raw, "")


def _inflate(path: Path, raw: bytes) -> tuple[bytes, str]:
    """Decompress as far as it goes: a crash leaves a stream without its end."""
    parts: list[bytes] = []
    size = 0
    while raw:
        stream = zlib.decompressobj(wbits=31)
        try:
            for at in range(0, len(raw), READ):
                parts.append(stream.decompress(raw[at : at + READ], MAX_BYTES - size + 1))
                size += len(parts[-1])
                if size > MAX_BYTES:
                    raise ConfigError(f"{path} holds more than {MAX_BYTES} bytes.")
                if stream.eof:
                    raw = stream.unused_data + raw[at + READ :]
                    break
            else:
                return b"".join(parts), "the compressed file was not finished"
        except zlib.error as error:
            line = 1 + sum(part.count(b"\n") for part in parts)
            raise ConfigError(
                f"{path}:{line}: the compressed file is damaged here: {error}.",
                remedy="Fetch or record it again.",
            ) from None
    return b"".join(parts), ""


def _parse_header(path: Path, line: bytes) -> Header:
    try:
        header = _header.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}:1: not a capture's header: {error}.") from None
    if header.version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}:1: a capture of format {header.version}; this piker reads {FORMAT_VERSION}.",
            remedy="Read it with the piker that wrote it.",
        )
    return header


def _parse(path: Path, number: int, line: bytes, opened: set[int]) -> Record:
    try:
        record: Record = _record.decode(line)
        if isinstance(record, In | Out | Rest):
            payload(record)
        elif isinstance(record, Open):
            check_url(record.url)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f"{path}:{number}: {error}.", remedy="Mend or remove that line."
        ) from None
    if isinstance(record, Open):
        opened.add(record.c)
    elif isinstance(record, In | Out | Close) and record.c not in opened:
        raise ConfigError(
            f"{path}:{number}: a record of connection {record.c}, which was never opened.",
            remedy="Mend or remove that line.",
        )
    return record
