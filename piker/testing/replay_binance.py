"""Binance's protocol over a recording: streams, commands and times. REST is in a module beside.

A stream is named ``kind|name``, as in ``spot|btcusdt@depth@100ms``. Combined frames say their name;
raw ones are named by their event, and by what was subscribed where that leaves a choice. A client
gets the form that its own path asks for, whichever was recorded.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from piker.testing.capture import Capture
from piker.testing.dialect import Moment, Said
from piker.testing.recording import Place, Recording
from piker.testing.replay_binance_rest import BinanceAnswers
from piker.testing.replay_times import Shift, move_ints
from piker.testing.requests import Reply, Request

__all__ = ["BinanceDialect", "kind_of_url"]

MS_NS = 1_000_000
_HEAD = b'{"stream":"'
_DATA = b'","data":'
_TIMES = re.compile(rb'"(?:E|T|O|C)":(\d{13})(?!\d)')
_OPENS = re.compile(rb'"t":(\d{13})(?!\d)')  # of bars; of a trade it is the id
_BARS = b'"e":"kline"'
_KINDS = (("fstream", "usdm"), ("dstream", "coinm"))
_PATHS = (("/coinm/", "coinm"), ("/public/", "usdm"), ("/market/", "usdm"), ("/usdm/", "usdm"))
_OF_EVENT = {
    "aggTrade": "aggTrade", "trade": "trade", "bookTicker": "bookTicker", "24hrTicker": "ticker",
    "24hrMiniTicker": "miniTicker", "forceOrder": "forceOrder",
}  # fmt: skip
_CHOICES = {
    "depthUpdate": ("depth@100ms", "depth"),
    "markPriceUpdate": ("markPrice@1s", "markPrice"),
}
_ARRAYS = {
    "24hrTicker": "!ticker@arr", "24hrMiniTicker": "!miniTicker@arr",
    "markPriceUpdate": "!markPrice@arr",
}  # fmt: skip
_encode = msgspec.json.encode


class _Raw(msgspec.Struct, frozen=True):
    """What names the stream of a raw event."""

    s: str = ""
    e: str = ""
    u: int = -1
    b: Any = None
    k: dict[str, Any] = {}


class _Command(msgspec.Struct, frozen=True):
    method: str
    id: int | str | None = None
    params: list[str] | None = None


_raw = msgspec.json.Decoder(_Raw)
_raws = msgspec.json.Decoder(list[_Raw])
_command = msgspec.json.Decoder(_Command)


def kind_of_url(url: str) -> str:
    """Return ``spot``, ``usdm`` or ``coinm``, by the host's name or the path's beginning."""
    parts = urlsplit(url)
    return next(
        (kind for path, kind in _PATHS if parts.path.startswith(path)),
        next((kind for word, kind in _KINDS if word in (parts.hostname or "")), "spot"),
    )


def names_in(path: str, query: str) -> list[str]:
    """Return the streams that a websocket's URL names."""
    names = parse_qs(query).get("streams", [""])[0].split("/")
    if "/ws/" in path:
        names = path.partition("/ws/")[2].split("/")
    return [name for name in names if name]


class BinanceDialect:
    """The dialect; made of a capture."""

    def __init__(self, capture: Capture) -> None:
        self._said: dict[int, set[str]] = {}  # names that were subscribed, by place
        self.recording = Recording(capture, self._stream_of)
        self._rest = BinanceAnswers(self.recording)

    # -- streams -------------------------------------------------------------------------------
    def _stream_of(self, frame: bytes, place: Place) -> str:
        kind = kind_of_url(place.url)
        if frame.startswith(_HEAD):
            end = frame.find(_DATA, len(_HEAD), len(_HEAD) + 200)
            return f"{kind}|{frame[len(_HEAD) : end].decode('utf-8', 'replace')}" if end > 0 else ""
        name = self._name_of(frame, place)
        return f"{kind}|{name}" if name else ""

    def _name_of(self, frame: bytes, place: Place) -> str:
        """Return the stream's name of a raw event, empty where it is none."""
        try:
            if frame.startswith(b"["):
                events = _raws.decode(frame)
                return _ARRAYS.get(events[0].e, "") if events else ""
            event = _raw.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        symbol = event.s.lower()
        if event.e in _CHOICES:
            options = [f"{symbol}@{word}" for word in _CHOICES[event.e]]
            return next((name for name in options if name in self._names(place)), options[0])
        if event.e == "kline":
            return f"{symbol}@kline_{event.k.get('i', '')}"
        if event.e in _OF_EVENT and symbol:
            return f"{symbol}@{_OF_EVENT[event.e]}"
        return f"{symbol}@bookTicker" if symbol and event.u >= 0 and event.b is not None else ""

    def _names(self, place: Place) -> set[str]:
        """Return what was subscribed on a recorded connection."""
        names = self._said.get(place.number)
        if names is None or place.said:
            parts = urlsplit(place.url)
            names = self._said.setdefault(place.number, set(names_in(parts.path, parts.query)))
            for message in place.said:
                try:
                    names.update(_command.decode(message).params or ())
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
            place.said.clear()
        return names

    def is_bars(self, stream: str) -> bool:
        """Tell whether a stream carries bars."""
        return "@kline_" in stream or "@continuousKline_" in stream

    def is_beat(self, frame: bytes) -> bool:
        """Tell a heartbeat; Binance's are control frames, which are not recorded."""
        return False

    # -- connections ---------------------------------------------------------------------------
    def refusal(self, status: int) -> bytes:
        """Return the body that goes with a status."""
        return _encode({"code": -1003 if status in (418, 429) else -1000, "msg": "Refused."})

    def refused(self, request: Request) -> Reply | None:
        """Refuse nothing."""
        return None

    def greeting(self, request: Request) -> list[bytes]:
        """Say nothing first."""
        return []

    def asked_by_url(self, request: Request) -> list[str]:
        """Return the streams of a connection's URL."""
        kind = kind_of_url(request.path)
        names = names_in(request.path, request.target.partition("?")[2])
        return [f"{kind}|{name}" for name in names]

    def message(self, request: Request, streams: set[str], text: str) -> Said:
        """Return what a command means. Any name can be subscribed, as at the venue."""
        try:
            command = _command.decode(text)
        except msgspec.DecodeError:
            invalid = {"code": 2, "msg": "Invalid request: invalid JSON"}
            return Said([_encode({"error": invalid})])
        kind = kind_of_url(request.path)
        names = [f"{kind}|{name}" for name in command.params or ()]
        result: Any = None
        said = Said([])
        if command.method == "SUBSCRIBE":
            said.subscribe = names
        elif command.method == "UNSUBSCRIBE":
            said.unsubscribe = names
        elif command.method == "LIST_SUBSCRIPTIONS":
            result = sorted(name.partition("|")[2] for name in streams)
        elif command.method == "GET_PROPERTY":
            result = request.path.endswith("/stream")
        elif command.method != "SET_PROPERTY":
            error = {"code": 1, "msg": f"Invalid request: unknown method {command.method[:40]}"}
            return Said([_encode({"error": error, "id": command.id})])
        said.answers.append(_encode({"result": result, "id": command.id}))
        return said

    def late(self, stream: str, moment: Moment) -> list[bytes]:
        """Send nothing: the streams have no snapshots, those of the book are REST's."""
        return []

    # -- frames --------------------------------------------------------------------------------
    def form(self, request: Request) -> str:
        """Return ``combined`` or ``raw``."""
        return "combined" if request.path.endswith("/stream") else "raw"

    def formed(self, frame: bytes, stream: str, form: str) -> bytes:
        """Return a frame with its envelope, or without it."""
        if frame.startswith(_HEAD):
            start = frame.find(_DATA)
            if form == "combined" or start < 0:
                return frame
            return frame[start + len(_DATA) :].removesuffix(b"}")
        if form == "raw":
            return frame
        return _HEAD + stream.partition("|")[2].encode() + _DATA + frame + b"}"

    def moved(self, frame: bytes, shift: Shift) -> bytes:
        """Return a frame with its times moved."""
        frame = move_ints(_TIMES, frame, shift, MS_NS)
        return move_ints(_OPENS, frame, shift, MS_NS) if _BARS in frame[:200] else frame

    # -- REST ----------------------------------------------------------------------------------
    def rest(self, request: Request, moment: Moment) -> Reply:
        """Answer a request."""
        return self._rest.answer(request, moment)
