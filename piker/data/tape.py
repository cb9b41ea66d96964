"""The writer's side of one market: its tick ring and bars, and the loop that fills them.

:class:`Tape` owns one market's segments. :class:`Tapes` takes batches of every market of a
provider, validates each tick once, and writes each touched market once per batch. This is the
hot path of datad: what it costs is measured by benchmarks/ingest.py.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable

from piker.clock import NS
from piker.data.backfill import bars_of
from piker.data.sampling import BarBuilder, BarWrite
from piker.data.shm import ShmArray, TickRing
from piker.ohlcv import ClosedBar
from piker.ticks import ASK, BID, QUOTE, TICK_FORMAT, TRADE, TickBatch, TickType

__all__ = ["MAX_AHEAD_NS", "MAX_VALUE", "RejectHook", "Tape", "Tapes", "why_refused"]

MAX_VALUE = 1e15  # no price or size of any venue comes near; 1e308 in a frame is garbage
MAX_AHEAD_NS = 60 * NS  # a tick from further in the future than a bad clock explains is garbage
LAG_RELAX_NS = 1_000_000  # per batch: a clock step of 1 s is forgotten in 1,000 batches
WAY_NS = 250_000_000  # a tick's way to us, at most: it was sent that long before it is here
DOUBTED_ROWS = 10_000  # how far back rows are doubted: three hours of seconds, a week of minutes
_MAX_LAG_US = 2**31 - 1
_SAMPLED = (1, 60)  # seconds; the two arrays of architecture.md section 4
_FIRST_AFTER_RESYNC = 1
_SIGNED = frozenset({int(TickType.FUNDING)})  # a rate may be negative

#: Called with (kind, symbol) for every tick that is refused.
RejectHook = Callable[[str, str], None]

_pack = struct.Struct(TICK_FORMAT).pack


class Tape:
    """One market's ring, 1 s and 1 m arrays, and the trades of the second in progress."""

    __slots__ = (
        "bars",
        "builders",
        "count",
        "first",
        "flags",
        "high",
        "inverse",
        "last",
        "low",
        "next_index",
        "parts",
        "ring",
        "second",
        "symbol",
        "touched",
        "turnover",
        "volume",
    )

    def __init__(
        self, symbol: str, ring: TickRing, bars: tuple[ShmArray, ...], *, inverse: bool = False
    ) -> None:
        self.symbol = symbol
        self.inverse = inverse
        self.ring = ring
        self.bars = bars
        self.builders = tuple(BarBuilder(period, inverse=inverse) for period in _SAMPLED)
        self.parts: list[bytes] = []
        self.next_index = ring.last_index
        self.flags = 0
        self.touched = False
        self.second = -1
        self.count = 0
        self.first = self.high = self.low = self.last = 0.0
        self.volume = self.turnover = 0.0

    def fold(self) -> None:
        """Give the trades of the second in progress to both builders."""
        for builder in self.builders:
            builder.fold(
                self.second, self.first, self.high, self.low, self.last,
                self.volume, self.turnover, self.count,
            )  # fmt: skip
        self.count = 0

    def flush(self) -> None:
        """Write everything since the last flush: ticks first, then bars."""
        self.touched = False
        parts = self.parts
        if parts:
            self.ring.extend_packed(parts[0] if len(parts) == 1 else b"".join(parts))
            parts.clear()
        if self.count:  # quotes alone change no bar
            self.fold()
            self.write_bars()

    def write_bars(self) -> None:
        """Write what the builders changed."""
        for builder, array in zip(self.builders, self.bars, strict=True):
            write = builder.take()
            if write is not None:
                _write(array, write)

    def seed(self, price: float, time_s: int) -> None:
        """Begin bars at a last price known from a snapshot."""
        for builder in self.builders:
            builder.seed(price, time_s)

    def recover(self) -> None:
        """Give up what could not be written, and go on from what was."""
        self.parts.clear()
        self.touched = False
        self.count = 0
        self.next_index = self.ring.last_index

    def interrupt(self) -> None:
        """Mark bars incomplete from the last tick on: the upstream is gone."""
        for builder in self.builders:
            builder.interrupt()
        newest = self.ring.array[-1:]["time_ns"]
        self.doubt(int(newest[0]) if len(newest) else 0)

    def restore(self, from_ns: int) -> None:
        """Mark the next tick as the first after a Resync; bars after ``from_ns`` are complete."""
        self.flags = _FIRST_AFTER_RESYNC
        self.whole_from(from_ns)

    def whole_from(self, from_ns: int) -> None:
        """Say since when nothing is missed, by the venue's time."""
        for builder in self.builders:
            builder.restore(from_ns / NS)

    def doubt(self, since_ns: int) -> None:
        """Mark bars as incomplete in which trades may be missing; 0: the ones in progress only."""
        for builder, array in zip(self.builders, self.bars, strict=True):
            since_s = since_ns / NS if since_ns else math.inf
            builder.doubt(since_s)
            rows = array.array[-DOUBTED_ROWS:]
            older = (rows["time"] + array.period_s > since_s) & (rows["time"] < builder.kept_from)
            for bar in bars_of(rows[older & (rows["count"] >= 0)]):
                array.revise_bar(bar._replace(trades=-(bar.trades + 1)))
        self.write_bars()


def _write(array: ShmArray, write: BarWrite) -> None:
    array.write_bars(write.rows, replaces_last=write.replaces_last)
    for bar in write.revised:
        array.revise_bar(bar)


class Tapes:
    """All markets of one provider: validation, dispatch and the venue's clock."""

    def __init__(self, reject: RejectHook) -> None:
        self.by_symbol: dict[str, Tape] = {}
        self.ticks = 0
        self.lag_ns: int | None = None  # least receipt lag seen: venue clock = ours - this
        self._reject = reject
        self._live: dict[str, int] = {}  # markets that flow, by our clock since when

    def add(self, tape: Tape) -> None:
        """Take a market in."""
        self.by_symbol[tape.symbol] = tape

    def remove(self, symbol: str) -> Tape | None:
        """Take a market out; its segments stay its caller's."""
        self._live.pop(symbol, None)
        return self.by_symbol.pop(symbol, None)

    def apply(self, batch: TickBatch) -> None:
        """Validate a batch, write every touched market once.

        Impossible ticks are reported to the reject hook (kind, symbol) and go no further.
        """
        touched = self._stage(batch)
        for tape in touched:
            tape.flush()

    def _stage(self, batch: TickBatch) -> list[Tape]:
        """Pack the valid ticks and sum the trades of each market; the innermost loop of piker."""
        tapes, reject, pack, top = self.by_symbol, self._reject, _pack, MAX_VALUE
        recv_ns = batch.recv_ns
        horizon = recv_ns + MAX_AHEAD_NS
        touched: list[Tape] = []
        traded_ns = 0  # the venue's time of the last good trade
        for symbol, kind, time_ns, price, size, price2, size2, side, venue_id in batch.rows:
            try:
                tape = tapes[symbol]
            except KeyError:
                reject("wrong-symbol", symbol)
                continue
            if kind == TRADE:
                # Comparisons with NaN are false, so NaN fails them all.
                if not (0.0 < price < top and 0.0 < size < top and 0 < time_ns < horizon):
                    reject(why_refused(kind, time_ns, price, size, price2, size2, recv_ns), symbol)
                    continue
                traded_ns = time_ns
                second = time_ns // NS
                if tape.count and second == tape.second:
                    if price > tape.high:
                        tape.high = price
                    elif price < tape.low:
                        tape.low = price
                    tape.last = price
                    tape.volume += size
                    tape.turnover += size / price if tape.inverse else price * size
                    tape.count += 1
                else:
                    if tape.count:
                        tape.fold()
                    tape.second = second
                    tape.first = tape.high = tape.low = tape.last = price
                    tape.turnover = size / price if tape.inverse else price * size
                    tape.volume, tape.count = size, 1
            elif (
                kind == QUOTE
                and 0.0 < price <= price2 < top
                and 0.0 <= size < top
                and 0.0 <= size2 < top
                and 0 < time_ns < horizon
            ):
                pass  # the usual quote, checked without a call
            elif why := why_refused(kind, time_ns, price, size, price2, size2, recv_ns):
                reject(why, symbol)
                continue
            lag = (recv_ns - time_ns) // 1000
            if not -_MAX_LAG_US < lag < _MAX_LAG_US:
                lag = _MAX_LAG_US if lag > 0 else -_MAX_LAG_US
            tape.parts.append(
                pack(
                    tape.next_index, time_ns, price, size, price2, size2, venue_id,
                    lag, kind, side, tape.flags,
                )
            )  # fmt: skip
            tape.next_index += 1
            tape.flags = 0
            if not tape.touched:
                tape.touched = True
                touched.append(tape)
        self.ticks += len(batch.rows)
        if traded_ns:
            self._observe(recv_ns - traded_ns)
        return touched

    def correct(self, bar: ClosedBar) -> None:
        """Check a market's bars against the venue's own closed bar."""
        tape = self.by_symbol.get(bar.symbol)
        if tape is None:
            self._reject("wrong-symbol", bar.symbol)
            return
        values = (bar.open, bar.high, bar.low, bar.close)
        sane = all(0.0 < value < MAX_VALUE for value in values) and 0.0 <= bar.volume < MAX_VALUE
        ordered = bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high
        if not sane or not ordered or bar.count < 0:
            self._reject("impossible-bar", bar.symbol)
            return
        for builder, array in zip(tape.builders, tape.bars, strict=True):
            if builder.period_s == bar.timeframe_s:
                builder.correct(bar)
                write = builder.take()
                if write is not None:
                    _write(array, write)

    def advance(self, now_ns: int, grace_ns: int) -> None:
        """Close the bars that have ended by the venue's clock, ``grace_ns`` after their end."""
        venue_now_s = (now_ns - (self.lag_ns or 0) - grace_ns) / NS
        for tape in self.by_symbol.values():
            for builder, array in zip(tape.builders, tape.bars, strict=True):
                if 0 <= builder.time <= venue_now_s - builder.period_s:
                    builder.advance(venue_now_s)
                    write = builder.take()
                    if write is not None:
                        _write(array, write)

    def interrupt(self, symbols: Iterable[str] = ()) -> None:
        """Mark the named markets (or all) as cut off."""
        for tape in self._named(symbols):
            tape.interrupt()

    def restore(self, symbols: Iterable[str] = (), *, now_ns: int, since_ns: int = 0) -> None:
        """Mark the named markets (or all) as live again, now; trades since may be missing.

        ``since_ns`` is the venue's time from which on, 0 where that is not known.
        """
        for tape in self._named(symbols):
            self._live[tape.symbol] = now_ns
            tape.doubt(since_ns)
            tape.restore(self._venue_ns(now_ns))

    def resumed(self, symbol: str, now_ns: int) -> None:
        """Say that a live market's bars were continued from what its venue has: from now on."""
        self.by_symbol[symbol].whole_from(self._venue_ns(now_ns))

    def _venue_ns(self, now_ns: int) -> int:
        """Return the venue's time, late rather than early."""
        return now_ns - (self.lag_ns or 0) + WAY_NS

    def _named(self, symbols: Iterable[str]) -> list[Tape]:
        names = list(symbols) or list(self.by_symbol)
        return [self.by_symbol[name] for name in names if name in self.by_symbol]

    def _observe(self, lag_ns: int) -> None:
        """Follow the least lag of receipt; it may grow slowly, so that a stepped clock is met."""
        if self.lag_ns is None:
            self.lag_ns = lag_ns
            for symbol, live_ns in self._live.items():  # what its clock says is known only now
                self.by_symbol[symbol].whole_from(self._venue_ns(live_ns))
        elif lag_ns < self.lag_ns:
            self.lag_ns = lag_ns
        else:
            self.lag_ns += min(lag_ns - self.lag_ns, LAG_RELAX_NS)


def why_refused(
    kind: int, time_ns: int, price: float, size: float, price2: float, size2: float, recv_ns: int
) -> str:
    """Return the rule that a tick breaks, or an empty string. Pure."""
    horizon = recv_ns + MAX_AHEAD_NS
    if not 0 < time_ns < horizon:
        return "future-time" if time_ns >= horizon else "bad-time"
    if price != price or size != size or price2 != price2 or size2 != size2:
        return "nan"
    if size < 0.0 or size2 < 0.0:
        return "negative-size"
    if not (price < MAX_VALUE and size < MAX_VALUE and price2 < MAX_VALUE and size2 < MAX_VALUE):
        return "huge-value"
    if kind == QUOTE:
        if price < 0.0 or price2 < 0.0:
            return "negative-price"
        return "crossed-book" if price > price2 > 0.0 else ""
    if kind in _SIGNED:
        return "" if price > -MAX_VALUE else "huge-value"
    if price > 0.0:
        return "zero-size" if kind == TRADE and size <= 0.0 else ""
    return "" if kind in (BID, ASK) and price == 0.0 == size else "negative-price"
