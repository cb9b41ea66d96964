"""Frames of websocket v2 to tick rows: pure, and the fast part of the backend.

All frames that one wake brought are joined into one JSON list and decoded in one call, told
apart by their ``channel``; when that fails they are taken one by one, so that a bad frame costs
only itself. The order of the frames is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from piker.brokers.kraken import schema
from piker.brokers.quality import QualityLog
from piker.ohlcv import ClosedBar
from piker.ticks import QUOTE, TRADE, Resync, TickRow

__all__ = ["HALTED", "Decoder", "MarketStatus", "MissedTrades", "time_ns"]

HALTED = frozenset({"cancel_only", "delisted", "maintenance", "work_in_progress"})  # no matching

MAX_UNKNOWN = 64  # kinds of unknown messages that are counted apart
MAX_RETIRED = 4096  # wire symbols no longer wanted whose late frames are no fault
MAX_SECONDS = 4096  # parsed seconds that are remembered: over an hour of them
MAX_STALE = 1000  # repeated trade ids in a row before the venue is believed to count anew
MAX_GAP = 10_000_000  # trades: Kraken's busiest market makes fewer in three months
MIN_NS, MAX_NS = 946_684_800 * 10**9, 4_102_444_800 * 10**9  # 2000 to 2100: Kraken's are between
_BAR_S = 60  # the ohlc channel is subscribed with interval 1

_ONE = msgspec.json.Decoder(schema.Frame)
_MANY = msgspec.json.Decoder(list[schema.Frame])
_seconds: dict[str, int] = {}


class MissedTrades(msgspec.Struct, frozen=True):
    """A hole in the trade ids: ``first`` to ``last`` are missing, after a trade of ``after_ns``."""

    symbol: str
    first: int
    last: int
    after_ns: int

    @property
    def count(self) -> int:
        """Return how many trades are missing."""
        return self.last - self.first + 1

    @property
    def resync(self) -> Resync:
        """Return what consumers are told."""
        return Resync("sequence-gap", self.symbol, self.count, since_ns=self.after_ns)


class MarketStatus(msgspec.Struct, frozen=True):
    """The venue changed a market's status: ``online``, ``post_only``, ``maintenance``, ..."""

    symbol: str
    status: str


Outband = ClosedBar | MarketStatus | MissedTrades


def time_ns(text: str) -> int:
    """Return ``2023-10-06T17:35:55.440295Z`` in nanoseconds; raise ``ValueError`` if it is none."""
    head = text[:19]
    second = _seconds.get(head)
    if second is None:
        second = int(datetime.fromisoformat(head + "+00:00").timestamp())
        if len(_seconds) >= MAX_SECONDS:
            _seconds.clear()
        _seconds[head] = second
    fraction = text[20:-1]
    if text[-1] != "Z" or (fraction and not fraction.isdecimal()):
        raise ValueError(f"not a time: {text!r}")
    found = second * 1_000_000_000 + (int(f"{fraction:0<9.9}") if fraction else 0)
    if not MIN_NS <= found < MAX_NS:
        raise ValueError(f"not a time of this market: {text!r}")
    return found


class Decoder:
    """Decodes one connection's frames; ``markets`` maps the wire's symbol to our market id."""

    def __init__(self, markets: dict[str, str], quality: QualityLog) -> None:
        self.markets = markets
        self.quality = quality
        self.outband: list[Outband] = []  # closed bars and gaps, in order; the caller takes them
        self.unknown: Counter[str] = Counter()
        self.duplicates = 0
        self.system = ""  # what the venue last said of its state
        self.refusals: list[str] = []  # answers to requests that failed
        self._last: dict[str, tuple[int, int]] = {}  # wire symbol -> (id, time) of its last trade
        self._stale: Counter[str] = Counter()
        self._bars: dict[str, tuple[int, schema.Ohlc]] = {}  # wire symbol -> its newest bar
        self._retired: set[str] = set()

    def decode(self, frames: list[bytes], recv_ns: int) -> list[TickRow]:
        """Return the tick rows of frames, in order; what is bad is counted and left out."""
        rows: list[TickRow] = []
        for message in self._typed(frames):
            kind = message.__class__
            if kind is schema.TickerFrame:
                self._quotes(message.data, recv_ns, rows)
            elif kind is schema.TradeFrame:
                self._trades(message, rows)
            elif kind is schema.OhlcFrame:
                self._ohlc(message)
            elif kind is schema.Instruments:
                self._statuses(message.data.pairs)
            elif kind is schema.Status:
                self.system = message.data[0].system if message.data else self.system
        return rows

    def take_outband(self) -> list[Outband]:
        """Return and forget the closed bars and gaps found so far."""
        taken, self.outband = self.outband, []
        return taken

    def remove(self, names: Iterable[str]) -> None:
        """Forget wire symbols; frames of them that are still under way are no fault."""
        for name in names:
            for table in (self.markets, self._last, self._stale, self._bars):
                table.pop(name, None)
            if len(self._retired) < MAX_RETIRED:
                self._retired.add(name)

    def _statuses(self, pairs: list[schema.Instrument]) -> None:
        """Note changes of our markets; everybody else's come along, and are no fault."""
        for pair in pairs:
            symbol = self.markets.get(pair.symbol)
            if symbol is not None and pair.status:
                self.outband.append(MarketStatus(symbol, pair.status))

    # -- frames --------------------------------------------------------------------------------
    def _typed(self, frames: list[bytes]) -> list[Any]:
        """Decode all frames at once, or one by one without the bad ones."""
        try:
            found: list[Any] = _MANY.decode(b"[" + b",".join(frames) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = []
        if len(found) == len(frames):
            return found
        return [message for frame in frames if (message := self._one(frame)) is not None]

    def _one(self, frame: bytes) -> Any:
        try:
            return _ONE.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            self._control(frame, err)
            return None

    def _control(self, frame: bytes, err: Exception) -> None:
        """Take note of a frame without a known channel: an answer, a new kind, or a bad one."""
        try:
            body = msgspec.json.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            body = None
        if not isinstance(body, dict) or str(body.get("channel")) in _CHANNELS:
            self.quality.count("malformed", f"{err}: {frame[:80].decode(errors='replace')}")
            return
        if body.get("success") is False or "error" in body:
            said = str(body.get("error", "")) or "refused"
            self.quality.count("venue-error", frame[:200].decode(errors="replace"))
            if len(self.refusals) < MAX_UNKNOWN:
                self.refusals.append(f"{said} ({body.get('symbol', 'request')})"[:200])
            return
        kind = str(body.get("channel") or body.get("method") or "unnamed")[:40]
        if kind in self.unknown or len(self.unknown) < MAX_UNKNOWN:
            self.unknown[kind] += 1

    def _stranger(self, name: str) -> None:
        if name not in self._retired:
            self.quality.count("wrong-symbol", name)

    # -- ticks ---------------------------------------------------------------------------------
    def _quotes(self, data: list[schema.Ticker], recv_ns: int, rows: list[TickRow]) -> None:
        for top in data:
            symbol = self.markets.get(top.symbol)
            if symbol is None:
                self._stranger(top.symbol)
                continue
            bid, ask = top.bid, top.ask
            if bid >= ask:
                self.quality.count("crossed-book", f"{top.symbol} {bid} {ask}")
                continue
            try:
                at = time_ns(top.timestamp) if top.timestamp else recv_ns
            except ValueError as err:
                self.quality.count("bad-time", str(err))
                continue
            rows.append((symbol, QUOTE, at, bid, top.bid_qty, ask, top.ask_qty, 0, -1))

    def _trades(self, frame: schema.TradeFrame, rows: list[TickRow]) -> None:
        """Take new trades. The first snapshot only says where the ids stand: it is the past."""
        markets, last = self.markets, self._last
        fresh = _fresh(frame, last)
        for trade in frame.data:
            wire = trade.symbol
            symbol = markets.get(wire)
            if symbol is None:
                self._stranger(wire)
                continue
            try:
                at = time_ns(trade.timestamp)
            except (ValueError, IndexError) as err:
                self.quality.count("bad-time", str(err))
                continue
            number = trade.trade_id
            known = last.get(wire)
            if known is None or number == known[0] + 1:
                self._stale.pop(wire, None)
            elif not self._is_new(wire, symbol, number, known):
                continue
            last[wire] = (number, at)
            if wire in fresh:
                continue
            side = 1 if trade.side == "buy" else -1
            rows.append((symbol, TRADE, at, trade.price, trade.qty, 0.0, 0.0, side, number))

    def _is_new(self, wire: str, symbol: str, number: int, known: tuple[int, int]) -> bool:
        """Count a repetition, or note a gap; return whether the trade is new."""
        if number > known[0] + MAX_GAP:
            self.quality.count("bad-id", f"{symbol}: {known[0]} then {number}")
            return False
        if number > known[0]:
            self._stale.pop(wire, None)
            self.outband.append(MissedTrades(symbol, known[0] + 1, number - 1, known[1]))
            return True
        self.duplicates += 1
        self._stale[wire] += 1
        if self._stale[wire] < MAX_STALE:
            return False
        del self._stale[wire]
        self.quality.count("ids-restarted", f"{symbol}: {known[0]} then {number}")
        return True

    # -- bars ----------------------------------------------------------------------------------
    def _ohlc(self, frame: schema.OhlcFrame) -> None:
        """Keep the newest bar of each market; a later one makes it final.

        Of a first snapshot only the newest counts; one after an outage also closes what closed
        meanwhile.
        """
        fresh = (
            {b.symbol for b in frame.data} - self._bars.keys() if frame.type == "snapshot" else ()
        )
        for bar in frame.data:
            symbol = self.markets.get(bar.symbol)
            if symbol is None or bar.interval * 60 != _BAR_S:
                self._stranger(bar.symbol)
                continue
            try:
                begin = time_ns(bar.interval_begin) // 1_000_000_000
            except (ValueError, IndexError) as err:
                self.quality.count("bad-time", str(err))
                continue
            if begin % _BAR_S or not _is_bar(bar):
                self.quality.count("bad-bar", f"{bar.symbol} {bar.interval_begin}")
                continue
            pending = self._bars.get(bar.symbol)
            if pending is not None and begin < pending[0]:
                continue
            self._bars[bar.symbol] = (begin, bar)
            if pending is not None and begin > pending[0] and bar.symbol not in fresh:
                self.outband.append(_closed(symbol, *pending))


def _is_bar(bar: schema.Ohlc) -> bool:
    return bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high


def _fresh(
    frame: schema.TradeFrame | schema.OhlcFrame, known: Mapping[str, object]
) -> frozenset[str]:
    """Return the symbols of a snapshot of which nothing was known before it."""
    if frame.type != "snapshot":
        return frozenset()
    return frozenset(item.symbol for item in frame.data if item.symbol not in known)


def _closed(symbol: str, begin: int, bar: schema.Ohlc) -> ClosedBar:
    wap = bar.vwap if bar.volume > 0 else 0.0
    return ClosedBar(
        symbol, _BAR_S, begin, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades, wap
    )


_CHANNELS = frozenset({"ticker", "trade", "ohlc", "book", "instrument", "heartbeat", "status"})
