"""Frames of the combined streams to tick rows: pure, and the fast part of the backend.

All frames of a kind that one wake brought are joined into one JSON list and decoded in one call;
when that fails they are taken one by one, so that a bad frame costs only itself. The order of the
frames is kept.

What leaves here is possible: numbers are finite, prices positive, sizes not negative, a bid below
its ask (a side that is empty is 0 x 0, as the venue writes it), ids fit the tick ring. The rest is
counted by kind in the provider's quality log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import msgspec

from piker.brokers.binance import schema
from piker.brokers.quality import QualityLog
from piker.brokers.sequence import IdCheck
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, Resync, TickRow, TickType

__all__ = ["Decoder", "MissedTrades", "Outband", "is_trade"]

MAX_UNKNOWN = 64  # kinds of unknown messages that are counted apart
MAX_VALUE = 1e15  # a price or size of more is no market's; the data floor has the same limit
MAX_BACK = 100_000  # ids: a repetition is seconds old; further back the venue has started anew
MAX_AHEAD = 1_000_000_000  # ids: no market prints that many trades during an outage
MAX_STREAMS = 4096  # names whose kind is remembered: four connections full of them
MAX_RETIRED = 10_000  # wire symbols that were once asked for; Binance lists some 3,000
_PREFIX = b'{"stream":"'
_AT = len(_PREFIX)
_PERIODS = {"1s": 1, "1m": 60}
_MARK, _INDEX, _FUNDING = int(TickType.MARK), int(TickType.INDEX), int(TickType.FUNDING)


class MissedTrades(msgspec.Struct, frozen=True, tag="missed"):
    """Trades whose ids were jumped over: ``count`` from ``first_id`` on, after one of ``after_ns``.

    They count as seen: should one of them come late over the stream it is dropped, because
    whoever is told of a gap fetches it, and nothing may be delivered twice.
    """

    symbol: str
    first_id: int
    count: int
    after_ns: int

    @property
    def resync(self) -> Resync:
        """Return what consumers are told."""
        return Resync("sequence-gap", self.symbol, self.count, since_ns=self.after_ns)


Outband = ClosedBar | MissedTrades

_FRAMES: dict[str, Any] = {
    "aggTrade": schema.Frame[schema.AggTrade],
    "bookTicker": schema.Frame[schema.BookTicker],
    "kline": schema.Frame[schema.Kline],
    "markPrice": schema.Frame[schema.MarkPrice],
}
_ONE = {kind: msgspec.json.Decoder(type_, strict=False) for kind, type_ in _FRAMES.items()}
_MANY = {kind: msgspec.json.Decoder(list[type_], strict=False) for kind, type_ in _FRAMES.items()}  # type: ignore[valid-type]


class Decoder:
    """Decodes one connection's frames; ``markets`` maps the wire's symbol to our market id."""

    def __init__(
        self,
        markets: dict[str, str],
        quality: QualityLog,
        contract_sizes: dict[str, float] | None = None,
    ) -> None:
        self.markets = markets
        self.quality = quality
        self.contract_sizes = contract_sizes or {}  # of inverse markets, by market id
        self.outband: list[Outband] = []  # closed bars and gaps, in order; the caller takes them
        self.unknown: Counter[str] = Counter()
        self.shutdown = False  # the venue says that it will hang up
        self._ids: dict[str, IdCheck] = {}
        self._streams: dict[bytes, str] = {}  # the kind of each stream by its name
        self._retired: set[str] = set()

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        """Return the tick rows of frames, in order; what is bad is counted and left out."""
        kinds: list[str] = []
        kept, known = frames, self._streams
        for number, frame in enumerate(frames):
            kind = known.get(frame[_AT : frame.find(b'"', _AT)], "")
            if not kind:
                kind = self._learn(frame)
            if kind not in _ONE:
                if kept is frames:
                    kept = frames[:number]
                kind, frame = self._control(kind, frame)
                if not kind:
                    continue
            if kept is not frames:
                kept.append(frame)
            kinds.append(kind)
        rows: list[TickRow] = []
        if not kinds:
            return rows
        first = kinds[0]
        if kinds.count(first) == len(kinds):
            self._rows(first, self._typed(first, kept), recv_ns, rows)
        else:
            self._mixed(kinds, kept, recv_ns, rows)
        return rows

    def _mixed(
        self, kinds: list[str], frames: list[bytes], recv_ns: int, rows: list[TickRow]
    ) -> None:
        """Decode each kind at once, then make rows in the frames' order."""
        groups: dict[str, list[bytes]] = {kind: [] for kind in set(kinds)}
        for kind, frame in zip(kinds, frames, strict=True):
            groups[kind].append(frame)
        typed = {kind: iter(self._typed(kind, group)) for kind, group in groups.items()}
        for kind, run in groupby(kinds):
            found = typed[kind]
            self._rows(kind, [next(found) for _ in run], recv_ns, rows)

    def take_outband(self) -> list[Outband]:
        """Return and forget the closed bars and gaps found so far."""
        taken, self.outband = self.outband, []
        return taken

    @property
    def duplicates(self) -> int:
        """Return how many trades came a second time and were dropped."""
        return sum(ids.repeated for ids in self._ids.values())

    def add(self, markets: dict[str, str]) -> None:
        """Expect more markets (wire symbol to market id)."""
        self.markets.update(markets)

    def remove(self, names: Iterable[str]) -> None:
        """Forget wire symbols; frames of them that are still under way are no fault."""
        for name in names:
            symbol = self.markets.pop(name, None)
            if symbol is not None:
                self._ids.pop(symbol, None)
                if len(self._retired) < MAX_RETIRED:
                    self._retired.add(name)

    # -- inside --------------------------------------------------------------------------------
    def _learn(self, frame: bytes) -> str:
        """Return a frame's kind, and remember it by the stream's name where it is a common one."""
        kind = _kind_of(frame)
        if kind in _ONE and len(self._streams) < MAX_STREAMS:
            self._streams[frame[_AT : frame.find(b'"', _AT)]] = kind
        return kind

    def _typed(self, kind: str, group: list[bytes]) -> list[Any]:
        """Decode a group at once, or one by one with None for each bad frame."""
        if len(group) == 1:
            return [self._one(kind, group[0])]
        try:
            found: list[Any] = _MANY[kind].decode(b"[" + b",".join(group) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = []
        if len(found) == len(group):
            return found
        return [self._one(kind, frame) for frame in group]

    def _one(self, kind: str, frame: bytes) -> Any:
        try:
            return _ONE[kind].decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            self.quality.count("malformed", f"{kind}: {err}")
            return None

    def _rows(self, kind: str, found: Iterable[Any], recv_ns: int, rows: list[TickRow]) -> None:
        if kind == "bookTicker":
            self._quotes(found, recv_ns, rows)
        elif kind == "aggTrade":
            self._trades(found, rows)
        elif kind == "kline":
            self._klines(found)
        else:
            self._marks(found, rows)

    def _stranger(self, name: str) -> None:
        if name not in self._retired:
            self.quality.count("wrong-symbol", name)

    def _quotes(self, found: Iterable[Any], recv_ns: int, rows: list[TickRow]) -> None:
        markets = self.markets
        for frame in found:
            if frame is None:
                continue
            data = frame.data
            symbol = markets.get(data.s)
            if symbol is None:
                self._stranger(data.s)
                continue
            bid, ask, bid_size, ask_size = data.b, data.a, data.B, data.A
            if not (
                0.0 < bid < ask < MAX_VALUE
                and 0.0 <= bid_size < MAX_VALUE
                and 0.0 <= ask_size < MAX_VALUE
            ) and not self._one_sided(data):
                continue
            time_ns = data.T * 1_000_000 or recv_ns
            rows.append((symbol, QUOTE, time_ns, bid, bid_size, ask, ask_size, 0, data.u))

    def _one_sided(self, data: Any) -> bool:
        """Tell whether a quote lacks a side, as a thin market's may; else count what is wrong."""
        numbers = (data.b, data.B, data.a, data.A)
        if not all(abs(number) < MAX_VALUE for number in numbers):
            kind = "nan" if any(number != number for number in numbers) else "huge-value"
        elif min(numbers) < 0.0:
            kind = "negative-size" if min(data.B, data.A) < 0.0 else "negative-price"
        elif data.b == 0.0 == data.B or data.a == 0.0 == data.A:
            return True
        else:
            kind = "crossed-book" if data.a > 0.0 else "negative-price"
        self.quality.count(kind, f"{data.s} {data.b} x {data.B} / {data.a} x {data.A}")
        return False

    def _trades(self, found: Iterable[Any], rows: list[TickRow]) -> None:
        markets, known = self.markets, self._ids
        for frame in found:
            if frame is None:
                continue
            data = frame.data
            symbol = markets.get(data.s)
            if symbol is None:
                self._stranger(data.s)
                continue
            price, size, number = data.p, data.q, data.a
            if not (0.0 < price < MAX_VALUE and 0.0 < size < MAX_VALUE and data.T > 0):
                self._bad_trade(data)
                continue
            ids = known.get(symbol)
            if ids is not None and number == ids.last + 1:
                ids.last = number
                ids.last_ms = data.T
            elif not self._is_new(symbol, number, data.T):
                continue
            side = -1 if data.m else 1
            rows.append((symbol, TRADE, data.T * 1_000_000, price, size, 0.0, 0.0, side, number))

    def _bad_trade(self, data: Any) -> None:
        price, size = data.p, data.q
        if price != price or size != size:
            kind = "nan"
        elif size <= 0.0:
            kind = "negative-size" if size < 0.0 else "zero-size"
        elif price <= 0.0:
            kind = "negative-price"
        else:
            kind = "bad-time" if data.T <= 0 else "huge-value"
        self.quality.count(kind, f"{data.s} trade {price} x {size}")

    def _is_new(self, symbol: str, number: int, time_ms: int) -> bool:
        """Judge an id that does not follow the one before: a first, a repetition or a gap."""
        ids = self._ids.setdefault(symbol, IdCheck(memory=0))
        before, before_ms = ids.last, ids.last_ms
        if before >= 0 and number > before + MAX_AHEAD:
            self.quality.count("bad-id", f"{symbol} trade {number} after {before}")
            return False
        if number < before - MAX_BACK:
            self.quality.count("id-restart", f"{symbol} trade {number} after {before}")
            ids.reset()
        gap = ids.check(number)
        if gap.missed:
            after_ns = before_ms * 1_000_000
            self.outband.append(MissedTrades(symbol, before + 1, gap.missed, after_ns))
        if gap.new:
            ids.last_ms = time_ms
        return gap.new

    def _klines(self, found: Iterable[Any]) -> None:
        for frame in found:
            if frame is None or not frame.data.k.x:
                continue
            data, bar = frame.data, frame.data.k
            symbol, period = self.markets.get(data.s), _PERIODS.get(bar.i)
            if symbol is None or period is None:
                self._stranger(f"{data.s} {bar.i}" if symbol else data.s)
            elif not _is_bar(bar, period):
                self.quality.count("bad-bar", f"{data.s} {bar}")
            else:
                contract = self.contract_sizes.get(symbol, 0.0)
                self.outband.append(_closed(symbol, period, bar, contract))

    def _marks(self, found: Iterable[Any], rows: list[TickRow]) -> None:
        for frame in found:
            if frame is None:
                continue
            data = frame.data
            symbol = self.markets.get(data.s)
            if symbol is None:
                self._stranger(data.s)
                continue
            if not (0.0 < data.p < MAX_VALUE and 0.0 <= data.i < MAX_VALUE and data.E > 0):
                self.quality.count("bad-mark", f"{data.s} mark {data.p} index {data.i}")
                continue
            time_ns = data.E * 1_000_000
            rows.append((symbol, _MARK, time_ns, data.p, 0.0, 0.0, 0.0, 0, -1))
            if data.i > 0:
                rows.append((symbol, _INDEX, time_ns, data.i, 0.0, 0.0, 0.0, 0, -1))
            if data.r:
                self._funding(symbol, data, time_ns, rows)

    def _funding(self, symbol: str, data: Any, time_ns: int, rows: list[TickRow]) -> None:
        try:
            rate = float(data.r)
        except ValueError:
            rate = float("nan")
        if not -1.0 < rate < 1.0:
            self.quality.count("bad-funding", f"{data.s} funding rate {data.r!r}")
            return
        left_s = max(0.0, data.T / 1000 - data.E / 1000)
        rows.append((symbol, _FUNDING, time_ns, rate, left_s, 0.0, 0.0, 0, -1))

    def _control(self, kind: str, frame: bytes) -> tuple[str, bytes]:
        """Take note of what is no market data: answers, errors, notices, unknown kinds.

        Market data in an envelope whose keys stand in another order is returned rewritten.
        """
        if not kind:
            try:
                body = msgspec.json.decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError) as err:
                self.quality.count("malformed", str(err))
                return "", b""
            if not isinstance(body, dict):
                kind = "unnamed"
            elif isinstance(body.get("stream"), str) and "data" in body:
                frame = _PREFIX + msgspec.json.encode(body["stream"])[1:]
                frame += b',"data":' + msgspec.json.encode(body["data"]) + b"}"
                kind = _kind_of(frame)
                if kind in _ONE:
                    return kind, frame
            elif body.get("e") == "serverShutdown":
                kind = "serverShutdown"
            elif "error" in body or "code" in body:
                self.quality.count("venue-error", frame[:200].decode(errors="replace"))
                return "", b""
            else:
                kind = "answer" if "result" in body else "unnamed"
        if kind.endswith("serverShutdown"):
            self.shutdown = True
        elif kind in self.unknown or len(self.unknown) < MAX_UNKNOWN:
            self.unknown[kind] += 1
        return "", b""


def is_trade(data: Any) -> bool:
    """Tell whether a trade's price, size and time are possible."""
    return bool(0.0 < data.p < MAX_VALUE and 0.0 < data.q < MAX_VALUE and data.T > 0)


def _is_bar(bar: Any, period: int) -> bool:
    """Tell whether a kline is one: aligned, ordered, finite."""
    return bool(
        bar.t % (period * 1000) == 0
        and 0.0 < bar.l <= bar.o <= bar.h < MAX_VALUE
        and bar.l <= bar.c <= bar.h
        and 0.0 <= bar.v < MAX_VALUE
        and 0.0 <= bar.q < MAX_VALUE
        and bar.n >= 0
    )


def _closed(symbol: str, period: int, bar: Any, contract: float) -> ClosedBar:
    """Return a kline as a bar; an inverse market's ``v`` is contracts and its ``q`` coins.

    The venue rounds ``q``: the mean price of a tiny volume is held between low and high.
    """
    wap = 0.0
    if bar.v > 0 and bar.q > 0:
        mean = bar.v * contract / bar.q if contract else bar.q / bar.v
        wap = min(max(mean, bar.l), bar.h)
    return ClosedBar(symbol, period, bar.t // 1000, bar.o, bar.h, bar.l, bar.c, bar.v, bar.n, wap)


def _kind_of(frame: bytes) -> str:
    """Return the kind of a combined-stream frame from its name, empty where it has none.

    ``{"stream":"btcusdt@kline_1m","data":...`` is a kline; all-market streams begin with ``!``.
    """
    if not frame.startswith(_PREFIX):
        return ""
    end = frame.find(b'"', _AT)
    at = frame.find(b"@", _AT, end)
    name = frame[at + 1 : end] if at >= 0 else frame[_AT:end]
    return _KINDS.get(name) or name.partition(b"@")[0].partition(b"_")[0].decode(errors="replace")


_KINDS = {
    b"aggTrade": "aggTrade", b"bookTicker": "bookTicker", b"kline_1s": "kline",
    b"kline_1m": "kline", b"markPrice": "markPrice", b"markPrice@1s": "markPrice",
}  # fmt: skip
