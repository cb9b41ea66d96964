"""Kraken's public websockets over a recording: v2 at ``/v2``, v1 elsewhere.

A v2 stream is named ``channel:option|symbol`` as in ``book:10|BTC/USD``; frames do not say the
depth of a book, so what was subscribed on the recorded connection tells. A ticker's trigger makes
no stream of its own: whichever was recorded is sent. A v1 stream is named by the tail of its
arrays: ``v1:book-10|XBT/USD``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import msgspec

from piker.clock import NS, wall_ns
from piker.testing.capture import Capture
from piker.testing.dialect import Moment, Said
from piker.testing.kraken_wire import stamp
from piker.testing.recording import Place, Recording
from piker.testing.replay_kraken_late import late_v1, late_v2
from piker.testing.replay_kraken_rest import KrakenAnswers
from piker.testing.replay_times import Shift, move_ints, move_stamps
from piker.testing.requests import Reply, Request

__all__ = ["KrakenDialect"]

_OPTION = {"ohlc": "interval", "book": "depth"}
_ECHOED = {**_OPTION, "ticker": "event_trigger"}
_DEFAULT: dict[str, Any] = {"ohlc": 1, "book": 10}
_SECONDS = re.compile(rb'"(\d{10})\.\d{1,9}"')  # of v1, text in arrays
_V1 = "v1:"
_INSTRUMENTS = "instrument:|"  # of all symbols; granted whether or not it was recorded
_encode = msgspec.json.encode


class _Item(msgspec.Struct, frozen=True):
    symbol: str = ""
    interval: int = 1


class _Frame(msgspec.Struct, frozen=True):
    channel: str
    data: list[_Item] = []


class _Subscription(msgspec.Struct, frozen=True):
    channel: str = ""
    symbol: list[str] = []
    depth: int = 10
    interval: int = 1
    event_trigger: str = "trades"
    snapshot: bool | None = None

    @property
    def option(self) -> str:
        """Return what tells streams of one channel and symbol apart."""
        return _option_of(self.channel, self)


class _Granted(msgspec.Struct, frozen=True):
    """An answer that grants one subscription; a symbol each."""

    method: str
    result: dict[str, Any]
    success: bool


class _OldGranted(msgspec.Struct, frozen=True):
    """The same of v1."""

    status: str
    pair: str
    channelName: str
    channelID: int


class _Ask(msgspec.Struct, frozen=True):
    method: str
    params: _Subscription = _Subscription()
    req_id: int | None = None


class _OldSubscription(msgspec.Struct, frozen=True):
    name: str
    depth: int = 10
    interval: int = 1

    @property
    def channel(self) -> str:
        """Return the name that frames of it end with."""
        if self.name == "book":
            return f"book-{self.depth}"
        return f"ohlc-{self.interval}" if self.name == "ohlc" else self.name


class _OldAsk(msgspec.Struct, frozen=True):
    event: str
    pair: list[str] = []
    subscription: _OldSubscription | None = None
    reqid: int | None = None


_frame = msgspec.json.Decoder(_Frame)
_ask = msgspec.json.Decoder(_Ask)
_old_ask = msgspec.json.Decoder(_OldAsk)
_granted = msgspec.json.Decoder(_Granted)
_old_granted = msgspec.json.Decoder(_OldGranted)


def _option_of(channel: str, source: Any) -> str:  # Any: a request's parameters
    name = _OPTION.get(channel)
    return str(getattr(source, name)) if name else ""


class KrakenDialect:
    """The dialect; made of a capture."""

    def __init__(self, capture: Capture) -> None:
        self._options: dict[int, dict[tuple[str, str], str]] = defaultdict(dict)  # by place
        self._numbers: dict[str, int] = {}  # v1 stream -> channelID
        self._status = {"v1": b"", "v2": b""}
        self._quiet: set[str] = set()  # streams that the venue granted; a quiet one had no frame
        self.recording = Recording(capture, self._stream_of)
        self._rest = KrakenAnswers(self.recording)

    # -- streams -------------------------------------------------------------------------------
    def _stream_of(self, frame: bytes, place: Place) -> str:
        if frame.startswith(b"["):
            return self._old_stream_of(frame)
        if b'"systemStatus"' in frame[:200]:
            self._status["v1"] = self._status["v1"] or frame
        try:
            found = _frame.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if frame.startswith(b'{"channel":"instrument"'):
                return _INSTRUMENTS
            self._note_grant(frame)
            return ""
        if found.channel == "status":
            self._status["v2"] = self._status["v2"] or frame
        if found.channel in ("status", "heartbeat"):
            return ""
        item = found.data[0] if found.data else _Item()
        return f"{found.channel}:{self._option(found.channel, item, place)}|{item.symbol}"

    def _note_grant(self, frame: bytes) -> None:
        """Take note of a subscription that the venue granted."""
        try:
            if b'"subscriptionStatus"' in frame:
                old = _old_granted.decode(frame)
                stream = f"{_V1}{old.channelName}|{old.pair}"
                self._numbers.setdefault(stream, old.channelID)
                if old.status == "subscribed":
                    self._quiet.add(stream)
                return
            new = _granted.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if new.success and new.method == "subscribe":
            channel = str(new.result.get("channel", ""))
            name = _OPTION.get(channel, "")
            option = new.result.get(name, _DEFAULT.get(channel, ""))
            self._quiet.add(f"{channel}:{option}|{new.result.get('symbol', '')}")

    def _option(self, channel: str, item: _Item, place: Place) -> str:
        if channel == "ohlc":
            return str(item.interval)
        options = self._options[place.number]
        for message in place.said:
            try:
                ask = _ask.decode(message)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if ask.method == "subscribe":
                for symbol in ask.params.symbol:
                    options[ask.params.channel, symbol] = ask.params.option
        place.said.clear()
        return options.get((channel, item.symbol), str(_DEFAULT.get(channel, "")))

    def _old_stream_of(self, frame: bytes) -> str:
        try:
            parts = msgspec.json.decode(frame, type=list[msgspec.Raw])
            number = msgspec.json.decode(parts[0], type=int)
            channel, pair = (msgspec.json.decode(part, type=str) for part in parts[-2:])
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError, ValueError):
            return ""
        stream = f"{_V1}{channel}|{pair}"
        self._numbers.setdefault(stream, number)
        return stream

    def is_bars(self, stream: str) -> bool:
        """Tell whether a stream carries bars."""
        return stream.startswith(("ohlc:", "v1:ohlc"))

    def is_beat(self, frame: bytes) -> bool:
        """Tell a heartbeat."""
        return len(frame) < 64 and b'"heartbeat"' in frame

    def _known(self, stream: str) -> str:
        """Return why a stream can not be had, in the venue's words where it has some."""
        if stream == _INSTRUMENTS or stream in self.recording.by_stream or stream in self._quiet:
            return ""
        channel, _, symbol = stream.removeprefix(_V1).partition("|")
        same = [s for s in self.recording.by_stream if s.endswith(f"|{symbol}")]
        if not same:
            return f"Currency pair not supported {symbol}"
        return f"Subscription {channel} not in this capture; {', '.join(sorted(same))} are"

    # -- connections ---------------------------------------------------------------------------
    def refusal(self, status: int) -> bytes:
        """Return the body that goes with a status."""
        error = "EAPI:Rate limit exceeded" if status in (418, 429) else "EService:Unavailable"
        return _encode({"error": [error]})

    def refused(self, request: Request) -> Reply | None:
        """Refuse v2 where only v1 was recorded, and v1 where only v2 was."""
        old = any(stream.startswith(_V1) for stream in self.recording.by_stream)
        new = any(not stream.startswith(_V1) for stream in self.recording.by_stream)
        return None if (new if _is_new(request) else old) else Reply(404, b"")

    def greeting(self, request: Request) -> list[bytes]:
        """Return the recorded status of the system, or one that says that all is well."""
        if not _is_new(request):
            status = {"connectionID": 1, "event": "systemStatus", "status": "online",
                      "version": "1.9.1"}  # fmt: skip
            return [self._status["v1"] or _encode(status)]
        data = {"api_version": "v2", "connection_id": 1, "system": "online", "version": "2.0.10"}
        status = {"channel": "status", "type": "update", "data": [data]}
        return [self._status["v2"] or _encode(status)]

    def asked_by_url(self, request: Request) -> list[str]:
        """Return nothing: subscriptions are messages."""
        return []

    def message(self, request: Request, streams: set[str], text: str) -> Said:
        """Return what a request means: one answer for each symbol."""
        return self._new(text, streams) if _is_new(request) else self._old(text, streams)

    def _new(self, text: str, streams: set[str]) -> Said:
        try:
            ask = _ask.decode(text)
        except msgspec.DecodeError:
            return Said([_answer(None, error="Malformed request")])
        if ask.method == "ping":
            return Said([_answer(ask.req_id, method="pong")])
        if ask.method not in ("subscribe", "unsubscribe"):
            error = "Unsupported method"
            return Said([_answer(ask.req_id, method=ask.method, success=False, error=error)])
        said = Said([], [], [], [])
        wanted, params = ask.method == "subscribe", ask.params
        for symbol in params.symbol or ([""] if params.channel == "instrument" else []):
            stream = f"{params.channel}:{params.option}|{symbol}"
            error = self._known(stream)
            if not error and (stream in streams) == wanted:
                error = "Already subscribed" if wanted else "Subscription Not Found"
            named = {"symbol": symbol} if symbol else {}
            if error:
                said.answers.append(
                    _answer(ask.req_id, method=ask.method, success=False, error=error, **named)
                )
                continue
            (said.subscribe if wanted else said.unsubscribe).append(stream)
            if params.snapshot is False:
                said.bare.append(stream)
            result: dict[str, Any] = {"channel": params.channel, **named}
            if name := _ECHOED.get(params.channel):
                result[name] = getattr(params, name)
            if wanted:
                result["snapshot"] = params.snapshot is not False
            said.answers.append(_answer(ask.req_id, method=ask.method, success=True, result=result))
        return said

    def _old(self, text: str, streams: set[str]) -> Said:
        try:
            ask = _old_ask.decode(text)
        except msgspec.DecodeError:
            return Said([_encode({"errorMessage": "Malformed request", "event": "error"})])
        number = {} if ask.reqid is None else {"reqid": ask.reqid}
        if ask.event == "ping":
            return Said([_encode({"event": "pong", **number})])
        if ask.event not in ("subscribe", "unsubscribe") or ask.subscription is None:
            return Said(
                [_encode({"errorMessage": "Unsupported event", "event": "error", **number})]
            )
        said = Said([], [], [], [])
        channel = ask.subscription.channel
        for pair in ask.pair:
            stream = f"{_V1}{channel}|{pair}"
            told = {"event": "subscriptionStatus", "pair": pair, **number,
                    "subscription": {"name": ask.subscription.name}}  # fmt: skip
            if error := self._known(stream):
                said.answers.append(_encode({"errorMessage": error, "status": "error", **told}))
                continue
            told |= {"channelID": self._numbers[stream], "channelName": channel}
            if channel.startswith("book-"):
                told["subscription"] = {"depth": ask.subscription.depth, "name": "book"}
            wanted = ask.event == "subscribe"
            (said.subscribe if wanted else said.unsubscribe).append(stream)
            told["status"] = "subscribed" if wanted else "unsubscribed"
            said.answers.append(_encode(told))
        return said

    # -- frames --------------------------------------------------------------------------------
    def form(self, request: Request) -> str:
        """Return the one form there is."""
        return ""

    def formed(self, frame: bytes, stream: str, form: str) -> bytes:
        """Return the frame."""
        return frame

    def moved(self, frame: bytes, shift: Shift) -> bytes:
        """Return a frame with its times moved; checksums do not cover them."""
        if frame.startswith(b"["):
            return move_ints(_SECONDS, frame, shift, NS)
        return move_stamps(frame, shift)

    def late(self, stream: str, moment: Moment) -> list[bytes]:
        """Return the snapshot that a subscription begins with, as things stand."""
        frames = [frame for _, frame in self.recording.sent(stream, moment.position)]
        if not frames:
            return []
        return late_v1(stream, frames) if stream.startswith(_V1) else late_v2(stream, frames)

    # -- REST ----------------------------------------------------------------------------------
    def rest(self, request: Request, moment: Moment) -> Reply:
        """Answer a request."""
        return self._rest.answer(request, moment)


def _is_new(request: Request) -> bool:
    return request.path.rstrip("/") == "/v2"


def _answer(number: int | None, **body: Any) -> bytes:
    now = stamp(wall_ns())
    named = {} if number is None else {"req_id": number}
    return _encode({**body, "time_in": now, "time_out": now, **named})
