"""Frames of the combined streams to tick rows: pure, and the fast part of the backend.

All frames of a kind that one wake brought are joined into one JSON list and decoded in one call;
when that fails they are taken one by one, so that a bad frame costs only itself. The order of the
frames is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from piker.brokers.binance import schema
from piker.brokers.quality import QualityLog
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, Resync, TickRow, TickType

__all__ = ["Decoder"]

MAX_UNKNOWN = 64  # kinds of unknown messages that are counted apart
_PREFIX = b'{"stream":"'
_AT = len(_PREFIX)
_PERIODS = {"1s": 1, "1m": 60}
_MARK, _INDEX, _FUNDING = int(TickType.MARK), int(TickType.INDEX), int(TickType.FUNDING)

Outband = ClosedBar | Resync

_FRAMES: dict[str, Any] = {
    "aggTrade": schema.AggTradeFrame,
    "bookTicker": schema.BookTickerFrame,
    "kline": schema.KlineFrame,
    "markPrice": schema.MarkPriceFrame,
}
_ONE = {kind: msgspec.json.Decoder(type_, strict=False) for kind, type_ in _FRAMES.items()}
_MANY = {kind: msgspec.json.Decoder(list[type_], strict=False) for kind, type_ in _FRAMES.items()}  # type: ignore[valid-type]


class Decoder:
    """Decodes one connection's frames; ``markets`` maps the wire's symbol to our market id."""

    def __init__(self, markets: dict[str, str], quality: QualityLog) -> None:
        self.markets = markets
        self.quality = quality
        self.outband: list[Outband] = []  # closed bars and gaps, in order; the caller takes them
        self.unknown: Counter[str] = Counter()
        self.duplicates = 0
        self.shutdown = False  # the venue says that it will hang up
        self._last_id: dict[str, int] = {}

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        """Return the tick rows of frames, in order; what is bad is counted and left out."""
        kinds: list[str] = []
        groups: dict[str, list[bytes]] = {}
        for frame in frames:
            kind = _kind_of(frame)
            if kind not in _ONE:
                self._control(kind, frame)
                continue
            kinds.append(kind)
            group = groups.get(kind)
            if group is None:
                groups[kind] = [frame]
            else:
                group.append(frame)
        rows: list[TickRow] = []
        if len(groups) == 1:
            (kind,) = groups
            self._rows(kind, self._typed(kind, groups[kind]), recv_ns, rows)
            return rows
        typed = {kind: iter(self._typed(kind, group)) for kind, group in groups.items()}
        run: list[Any] = []
        previous = ""
        for kind in kinds:
            if kind != previous and run:
                self._rows(previous, run, recv_ns, rows)
                run = []
            run.append(next(typed[kind]))
            previous = kind
        if run:
            self._rows(previous, run, recv_ns, rows)
        return rows

    def take_outband(self) -> list[Outband]:
        """Return and forget the closed bars and gaps found so far."""
        taken, self.outband = self.outband, []
        return taken

    def reset(self) -> None:
        """Forget trade ids: a new session of the venue."""
        self._last_id.clear()

    # -- inside --------------------------------------------------------------------------------
    def _typed(self, kind: str, group: list[bytes]) -> list[Any]:
        """Decode a group at once, or one by one with None for each bad frame."""
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

    def _quotes(self, found: Iterable[Any], recv_ns: int, rows: list[TickRow]) -> None:
        markets = self.markets
        for frame in found:
            if frame is None:
                continue
            data = frame.data
            symbol = markets.get(data.s)
            if symbol is None:
                self.quality.count("wrong-symbol", data.s)
                continue
            time_ns = data.T * 1_000_000 or recv_ns
            rows.append((symbol, QUOTE, time_ns, data.b, data.B, data.a, data.A, 0, data.u))

    def _trades(self, found: Iterable[Any], rows: list[TickRow]) -> None:
        markets, last_ids = self.markets, self._last_id
        for frame in found:
            if frame is None:
                continue
            data = frame.data
            symbol = markets.get(data.s)
            if symbol is None:
                self.quality.count("wrong-symbol", data.s)
                continue
            number = data.a
            expected = last_ids.get(symbol, number - 1) + 1
            if number != expected and not self._in_sequence(symbol, number, expected):
                continue
            last_ids[symbol] = number
            side = -1 if data.m else 1
            rows.append((symbol, TRADE, data.T * 1_000_000, data.p, data.q, 0.0, 0.0, side, number))

    def _in_sequence(self, symbol: str, number: int, expected: int) -> bool:
        """Count a repetition, or report a gap; return whether the trade is new."""
        if number < expected:
            self.duplicates += 1
            return False
        self.outband.append(Resync("sequence-gap", symbol, number - expected))
        return True

    def _klines(self, found: Iterable[Any]) -> None:
        for frame in found:
            if frame is None or not frame.data.k.x:
                continue
            data, bar = frame.data, frame.data.k
            symbol, period = self.markets.get(data.s), _PERIODS.get(bar.i)
            if symbol is None or period is None:
                self.quality.count("wrong-symbol", f"{data.s} {bar.i}")
                continue
            wap = bar.q / bar.v if bar.v > 0 else 0.0
            self.outband.append(
                ClosedBar(
                    symbol, period, bar.t // 1000, bar.o, bar.h, bar.l, bar.c, bar.v, bar.n, wap
                )
            )

    def _marks(self, found: Iterable[Any], rows: list[TickRow]) -> None:
        for frame in found:
            if frame is None:
                continue
            data = frame.data
            symbol = self.markets.get(data.s)
            if symbol is None:
                self.quality.count("wrong-symbol", data.s)
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
            self.quality.count("malformed", f"funding rate {data.r!r}")
            return
        left_s = max(0.0, data.T / 1000 - data.E / 1000)
        rows.append((symbol, _FUNDING, time_ns, rate, left_s, 0.0, 0.0, 0, -1))

    def _control(self, kind: str, frame: bytes) -> None:
        """Take note of what is no market data: answers, errors, notices, unknown kinds."""
        if kind == "serverShutdown" or b'"serverShutdown"' in frame[:80]:
            self.shutdown = True
            return
        if not kind:
            try:
                body = msgspec.json.decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError) as err:
                self.quality.count("malformed", str(err))
                return
            if isinstance(body, dict) and ("error" in body or "code" in body):
                self.quality.count("venue-error", frame[:200].decode(errors="replace"))
                return
            kind = "answer" if isinstance(body, dict) and "result" in body else "unnamed"
        if kind in self.unknown or len(self.unknown) < MAX_UNKNOWN:
            self.unknown[kind] += 1


def _kind_of(frame: bytes) -> str:
    """Return the kind of a combined-stream frame from its name, empty where it has none.

    ``{"stream":"btcusdt@kline_1m","data":...`` is a kline; all-market streams begin with ``!``.
    """
    if not frame.startswith(_PREFIX):
        return ""
    end = frame.find(b'"', _AT)
    name = frame[_AT:end].partition(b"@")[2] or frame[_AT:end]
    return _KINDS.get(name) or name.partition(b"@")[0].partition(b"_")[0].decode(errors="replace")


_KINDS = {
    b"aggTrade": "aggTrade", b"bookTicker": "bookTicker", b"kline_1s": "kline",
    b"kline_1m": "kline", b"markPrice": "markPrice", b"markPrice@1s": "markPrice",
}  # fmt: skip
