"""Recordings that others made, read as captures of ours.

Two shapes beside our own are known:

- cryptofeed's (https://github.com/bmoscon/cryptofeed): one session in several files, ``NAME.0``
  and ``NAME.http.N.0`` with REST answers, ``NAME.ws.N.0`` with one websocket each. Any of the
  files stands for the whole session. Frames are kept byte for byte;
- a JSON object ``{"init": [...], "updates": [...]}`` of Kraken messages, as python-kraken-sdk
  keeps them. It is indented: blanks between tokens are taken out, digits stay as they are. It has
  no times of receipt: those of the venue inside of the messages serve.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from piker.clock import NS
from piker.errors import ConfigError
from piker.testing.capture import (
    FORMAT_VERSION,
    Capture,
    Close,
    Header,
    In,
    Open,
    Out,
    Record,
    Rest,
    check_url,
    is_capture,
    read_bytes,
    read_capture,
    text_fields,
)

__all__ = ["read_any"]

_PART = re.compile(r"(?P<name>[A-Za-z0-9_]+)\.(?:0|http\.\d+\.\d+|ws\.\d+\.\d+)(?:\.gz)?")
_MOMENT = rb"(\d{1,10}(?:\.\d{1,9})?)"
_REST = re.compile(rb"(https?://\S+) -> " + _MOMENT + rb": ")
_OPEN = re.compile(rb"(wss?://\S+) <-> " + _MOMENT + rb"$")
_OUT = re.compile(rb"(wss?://\S+) <- " + _MOMENT + rb": ")
_IN = re.compile(_MOMENT + rb": ")
_IGNORED = b"configuration: "
_PROVIDERS = ("binance", "kraken")
_BLANKS = re.compile(rb'("(?:[^"\\]|\\.)*")|\s+')
_STAMP = re.compile(rb'"(\d{10}\.\d{6})"')
_KRAKEN_URL = "wss://ws.kraken.com"
_EPOCH_NS = NS  # messages before the first that says a time


def read_any(path: Path) -> Capture:
    """Read a capture of any known shape.

    Raises ``ConfigError`` with file, line and what is wrong; nothing is half read.
    """
    if not path.exists():  # a session may be named without the ending of one of its files
        parts = _session(path.parent, path.name)
        if parts:
            return _cryptofeed(path.parent / path.name, parts)
    data, _ = read_bytes(path)
    first = data.split(b"\n", 1)[0]
    if is_capture(data):
        return read_capture(path)
    if (found := _PART.fullmatch(path.name)) and _is_line(first):
        return _cryptofeed(path.with_name(found["name"]), _session(path.parent, found["name"]))
    if data.lstrip().startswith(b"{") and b'"init"' in data and b'"updates"' in data:
        return _kraken_sdk(path, data)
    raise ConfigError(
        f"{path}:1: neither a capture of piker nor a recording of a known shape.",
        remedy="docs/reference/capture-format.md lists what is read.",
    )


# -- cryptofeed ----------------------------------------------------------------------------------
def _session(folder: Path, name: str) -> list[Path]:
    """Return the files of a session, REST first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if (m := _PART.fullmatch(p.name)) and m["name"] == name]
    return sorted(found, key=lambda p: (".ws." in p.name, p.name))


def _is_line(line: bytes) -> bool:
    return line.startswith(_IGNORED) or any(form.match(line) for form in (_REST, _OPEN, _OUT, _IN))


def _cryptofeed(name: Path, parts: list[Path]) -> Capture:
    records: list[Record] = []
    connections = 0
    for part in parts:
        reader = _PartReader(part, connections)
        data, _ = read_bytes(part)
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line and not line.startswith(_IGNORED):
                reader.take(number, line)
        connections = reader.connection
        records += reader.records
    records.sort(key=lambda record: record.t)  # stable: the order within a file stays
    places = {
        r.url if isinstance(r, Open) else r.base for r in records if isinstance(r, Open | Rest)
    }
    return _capture(str(name), places, records)


class _PartReader:
    """Reads the lines of one file; ``connection`` counts the websockets of the session."""

    def __init__(self, path: Path, connection: int) -> None:
        self.path = path
        self.connection = connection
        self.records: list[Record] = []
        self._first = connection
        self._t = 0

    def take(self, number: int, line: bytes) -> None:
        """Read one line; raise ``ConfigError`` for what is none."""
        if found := _REST.match(line):
            self._rest(number, found[1], self._ns(found[2]), line[found.end() :])
        elif found := _OPEN.match(line):
            t, url = self._ns(found[2]), found[1].decode("utf-8", "replace")
            try:
                check_url(url)
            except ValueError as error:
                raise self._wrong(number, str(error)) from None
            if self.connection > self._first:
                self.records.append(Close(t=t, c=self.connection, reason="opened again"))
            self.connection += 1
            self.records.append(Open(t=t, c=self.connection, url=url))
        elif self.connection == self._first:
            raise self._wrong(number, "a frame before its connection was opened")
        elif found := _OUT.match(line):
            fields = text_fields(line[found.end() :])
            self.records.append(Out(t=self._ns(found[2]), c=self.connection, **fields))
        elif found := _IN.match(line):
            fields = text_fields(line[found.end() :])
            self.records.append(In(t=self._ns(found[1]), c=self.connection, **fields))
        else:
            raise self._wrong(number, f"no line of a recording: {line[:60]!r}")

    def _rest(self, number: int, url: bytes, t: int, body: bytes) -> None:
        try:
            parts = urlsplit(url.decode())
        except ValueError as error:
            raise self._wrong(number, f"no URL: {error}") from None
        base = f"{parts.scheme}://{parts.netloc}"
        self.records.append(
            Rest(t=t, base=base, path=parts.path, query=parts.query, **text_fields(body))
        )

    def _ns(self, moment: bytes) -> int:
        """Return a moment in ns; within a file time does not go back."""
        self._t = max(self._t, int(Decimal(moment.decode()) * NS))
        return self._t

    def _wrong(self, number: int, what: str) -> ConfigError:
        return ConfigError(f"{self.path}:{number}: {what}.", remedy="Mend or remove that line.")


# -- python-kraken-sdk ---------------------------------------------------------------------------
class _Messages(msgspec.Struct, frozen=True):
    updates: list[msgspec.Raw]
    init: list[msgspec.Raw] | msgspec.Raw


def _kraken_sdk(path: Path, data: bytes) -> Capture:
    try:
        compact = _BLANKS.sub(lambda m: m[1] or b"", data)
        messages = msgspec.json.decode(compact, type=_Messages)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not messages of Kraken: {error}.") from None
    init = messages.init if isinstance(messages.init, list) else [messages.init]
    frames = [bytes(message) for message in (*init, *messages.updates)]
    second = any(b'"channel"' in frame[:200] for frame in frames[:10])
    url = f"{_KRAKEN_URL}/v2" if second else _KRAKEN_URL
    records: list[Record] = []
    t = _EPOCH_NS
    for frame in frames:
        t = max([t, *(int(Decimal(m.decode()) * NS) for m in _STAMP.findall(frame))])
        records.append(In(t=t, c=1, **text_fields(frame)))
    begin = next((r.t for r in records if r.t > _EPOCH_NS), _EPOCH_NS)
    records = [msgspec.structs.replace(r, t=max(r.t, begin)) for r in records]
    return _capture(str(path), {url}, [Open(t=begin, c=1, url=url), *records])


def _capture(source: str, places: set[str], records: list[Record]) -> Capture:
    """Return a capture whose provider is told by where it was recorded."""
    provider = next((p for p in _PROVIDERS if any(p in place for place in places)), "")
    if not provider or not records:
        raise ConfigError(
            f"{source}: recorded at no venue that is known here ({', '.join(_PROVIDERS)})."
        )
    header = Header(version=FORMAT_VERSION, provider=provider, t=records[0].t, note="foreign")
    return Capture(source, header, records)
