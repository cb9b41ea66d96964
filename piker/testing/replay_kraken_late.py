"""What one who subscribes to Kraken in the middle of a replay is sent first. Pure.

Books are rolled forward from the last recorded snapshot, in the venue's own digits, with the
checksum of the newest update; trades are the newest fifty, bars the newest sixty.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

__all__ = ["late_v1", "late_v2"]

TRADES, BARS = 50, 60  # of a snapshot


class _Level(msgspec.Struct, frozen=True):
    price: msgspec.Raw
    qty: msgspec.Raw


class _Book(msgspec.Struct, frozen=True):
    symbol: str
    bids: list[_Level] = []
    asks: list[_Level] = []
    checksum: int = 0
    timestamp: str = ""


class _BookFrame(msgspec.Struct, frozen=True):
    type: str
    data: list[_Book]


class _Frame(msgspec.Struct, frozen=True):
    channel: str
    type: str
    data: list[msgspec.Raw]


class _Bar(msgspec.Struct, frozen=True):
    interval_begin: str


_book_frame = msgspec.json.Decoder(_BookFrame)
_frame = msgspec.json.Decoder(_Frame)
_bar = msgspec.json.Decoder(_Bar)


class _Side:
    """Levels by price, as they were written; ``rows`` are best first."""

    def __init__(self, depth: int, *, bids: bool) -> None:
        self._depth = depth
        self._bids = bids
        self._rows: dict[float, Any] = {}

    def clear(self) -> None:
        self._rows.clear()

    def set(self, price: float, size: float, row: Any) -> None:
        if size == 0:
            self._rows.pop(price, None)
        else:
            self._rows[price] = row

    def cut(self) -> None:
        """Forget what better levels pushed out."""
        if len(self._rows) > self._depth:
            self._rows = dict(sorted(self._rows.items(), reverse=self._bids)[: self._depth])

    @property
    def rows(self) -> list[Any]:
        return [row for _, row in sorted(self._rows.items(), reverse=self._bids)]


def _depth_of(text: str) -> int:
    return int(text) if text.isdecimal() else 10


# -- v2 ------------------------------------------------------------------------------------------
def late_v2(stream: str, frames: list[bytes]) -> list[bytes]:
    """Return the snapshot of a stream of which ``frames`` were sent so far."""
    channel, _, rest = stream.partition(":")
    if channel == "book":
        return _late_book(_depth_of(rest.partition("|")[0]), frames)
    if channel == "trade":
        return _snapshot(channel, _newest_items(frames, TRADES))
    if channel == "ohlc":
        return _snapshot(channel, _newest_bars(frames))
    if channel == "instrument":
        return [frame for frame in frames if b'"type":"snapshot"' in frame[:60]][-1:]
    return _snapshot(channel, _newest_items(frames[-1:], 1))


def _late_book(depth: int, frames: list[bytes]) -> list[bytes]:
    bids, asks = _Side(depth, bids=True), _Side(depth, bids=False)
    newest: _Book | None = None
    for frame in frames:
        try:
            found = _book_frame.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        for book in found.data:
            newest = book
            for side, levels in ((bids, book.bids), (asks, book.asks)):
                if found.type == "snapshot":
                    side.clear()
                for level in levels:
                    side.set(_number(level.price), _number(level.qty), level)
                side.cut()
    if newest is None:
        return []
    whole = msgspec.structs.replace(newest, bids=bids.rows, asks=asks.rows)
    return [msgspec.json.encode({"channel": "book", "type": "snapshot", "data": [whole]})]


def _number(raw: msgspec.Raw) -> float:
    try:
        return float(bytes(raw))
    except ValueError:
        return 0.0


def _snapshot(channel: str, items: list[msgspec.Raw]) -> list[bytes]:
    if not items:
        return []
    return [msgspec.json.encode({"channel": channel, "type": "snapshot", "data": items})]


def _items(frames: Iterable[bytes]) -> Iterable[msgspec.Raw]:
    for frame in frames:
        try:
            yield from _frame.decode(frame).data
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


def _newest_items(frames: list[bytes], count: int) -> list[msgspec.Raw]:
    return list(_items(frames[-count:]))[-count:]  # every frame holds one or more


def _newest_bars(frames: list[bytes]) -> list[msgspec.Raw]:
    bars: dict[str, msgspec.Raw] = {}
    for item in _items(frames):
        try:
            bars[_bar.decode(item).interval_begin] = item
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return [bar for _, bar in sorted(bars.items())][-BARS:]


# -- v1 ------------------------------------------------------------------------------------------
def late_v1(stream: str, frames: list[bytes]) -> list[bytes]:
    """Return the snapshot of a v1 book; other v1 channels begin with their next frame."""
    channel = stream.partition(":")[2].partition("|")[0]
    if not channel.startswith("book-"):
        return []
    depth = _depth_of(channel.partition("-")[2])
    sides = {"b": _Side(depth, bids=True), "a": _Side(depth, bids=False)}
    last: list[Any] = []
    for frame in frames:
        try:
            message = msgspec.json.decode(frame, type=list[Any])
            _apply_v1(message, sides)
            last = message
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError, IndexError):
            continue
    if not last:
        return []
    book = {"as": sides["a"].rows, "bs": sides["b"].rows}
    return [msgspec.json.encode([last[0], book, *last[-2:]])]


def _apply_v1(message: list[Any], sides: dict[str, _Side]) -> None:
    for part in message[1:-2]:
        if not isinstance(part, dict):
            raise TypeError("a part of a book is no object")
        for key, levels in part.items():
            side = sides.get(key[:1])
            if side is None or key == "c":
                continue
            if key.endswith("s"):
                side.clear()
            for level in levels:
                side.set(float(level[0]), float(level[1]), level[:3])
            side.cut()
