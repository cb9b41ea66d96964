"""Shared-memory arrays: bars and ticks that any process of this user reads without locks.

One writer per segment, any number of readers. Rows carry monotonic numbers; row ``i`` lives in
slot ``i % capacity``, and the data are mapped twice so that any window is one contiguous view.
Closed rows never change but by a counted revision; the open row is read under a sequence lock.
The layout for readers in other languages is docs/internals/shm.md.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from piker.clock import monotonic_ns
from piker.config import runtime_dir
from piker.data._segment import CHUNK, KIND_BARS, KIND_TICKS, Segment, Spec, State, Word
from piker.data.sampling import Bar
from piker.errors import PeerLost, ShmError
from piker.ohlcv import OHLC_DTYPE
from piker.ticks import TICK_DTYPE

__all__ = [
    "Cursor",
    "ShmArray",
    "Taken",
    "TickRing",
    "Token",
    "attach_token",
    "leftovers",
    "reap",
    "segment_path",
]

STALE_NS = 1_000_000_000  # a writer beats several times a second; a second of silence is a loss
READ_TRIES = 1000  # a writer holds the sequence lock for microseconds; this many meetings is a bug
_BAR = struct.Struct("<qqdddddqd")
_SEQ, _FIRST, _LAST, _SETTLED = Word.SEQ, Word.FIRST, Word.LAST, Word.SETTLED  # hot: plain globals
_pack_bar = _BAR.pack_into
assert _BAR.size == OHLC_DTYPE.itemsize == 72
_SUFFIXES = {1: "1s", 60: "1m"}

Rows = np.ndarray[Any, np.dtype[Any]]


class Token(msgspec.Struct, frozen=True):
    """What another process needs to attach: it travels over IPC."""

    path: str
    kind: int
    generation: int


class Taken(NamedTuple):
    """What a cursor found: new rows, oldest first, and how many were lost before them."""

    rows: Rows
    missed: int


def segment_path(provider: str, symbol: str, what: str) -> Path:
    """Return where a market's segment is; ``what`` is ``1s``, ``1m`` or ``ticks``."""
    return runtime_dir() / "shm" / provider / f"{symbol}.{what}.seg"


class _Shared:
    """What both kinds of segment have."""

    __slots__ = ("_bytes", "_capacity", "_guard", "_most", "_real_to", "_segment", "_words")

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._words = segment.words
        self._bytes = segment.bytes
        self._capacity = segment.spec.capacity
        self._guard = segment.spec.guard
        self._most = self._guard * segment.spec.row_size  # bytes that may appear at once
        self._real_to = 0  # appended rows below this number have their pages

    @property
    def token(self) -> Token:
        """Return the handle by which another process attaches."""
        spec = self._segment.spec
        return Token(str(self._segment.path), spec.kind, self.generation)

    @property
    def symbol(self) -> str:
        """Return the market id that the rows are of."""
        return self._segment.spec.symbol

    @property
    def generation(self) -> int:
        """Return how many writers there have been; it changes when one was replaced."""
        return self._words[Word.GENERATION]

    @property
    def first_index(self) -> int:
        """Return the number of the oldest row that is safe to read."""
        oldest = self._words[_LAST] - self._capacity + self._guard
        return max(self._words[_FIRST], oldest)

    @property
    def last_index(self) -> int:
        """Return one past the number of the newest row."""
        return self._words[_LAST]

    @property
    def state(self) -> str:
        """Return ``live``, ``reconnecting`` or ``closed``, as the writer last said it."""
        word = self._words[Word.STATE]
        return State.NAMES[word] if word < len(State.NAMES) else "closed"

    @property
    def owner_pid(self) -> int:
        """Return the writer's pid."""
        return self._words[Word.OWNER_PID]

    def stale_for_s(self) -> float:
        """Return how many seconds ago the writer gave its last sign of life."""
        return max(0.0, (monotonic_ns() - self._words[Word.HEARTBEAT]) / 1e9)

    def is_live(self) -> bool:
        """Tell whether the writer is there and its upstream flows."""
        fresh = monotonic_ns() - self._words[Word.HEARTBEAT] < STALE_NS
        return fresh and self._words[Word.STATE] == State.LIVE

    def __len__(self) -> int:
        """Return how many rows can be read."""
        return max(0, self.last_index - self.first_index)

    # -- the writer's ------------------------------------------------------------------------
    def beat(self) -> None:
        """Say that the writer lives."""
        self._segment.beat()

    def set_state(self, state: int) -> None:
        """Say whether the upstream flows (a ``State`` value)."""
        self._words[Word.STATE] = state

    def _reserve(self, start: int, stop: int) -> None:
        """Make the pages of appended rows real, a chunk ahead; a full lap makes all of them."""
        ahead = max(stop - start, CHUNK // self._segment.spec.row_size)
        self._segment.reserve(start, min(ahead, self._capacity))
        self._real_to = start + ahead

    def close(self, *, unlink: bool = False) -> None:
        """Let go; a writer that will not come back unlinks. Mapped views stay valid."""
        self._segment.close(unlink=unlink)

    def _wait_even(self, spins: int) -> int:
        """Return the sequence number once it is even; raise ``PeerLost`` if it never will be."""
        deadline = 0
        while (seq := self._words[_SEQ]) & 1:
            now = monotonic_ns()
            deadline = deadline or now + STALE_NS
            if now > deadline or (spins > 50 and not self._segment.writer_alive()):
                raise PeerLost(
                    f"the writer of {self._segment.path.name} died or froze in mid-row.",
                    remedy="pikerd restarts it; read again in a second.",
                )
            spins += 1
            time.sleep(0)
        return seq


class ShmArray(_Shared):
    """Bars of one market and timeframe, equidistant in time, rolling for ever.

    Seed 002's array. :attr:`array` is the live view without a copy; :meth:`read` a copy that is
    guaranteed to be whole.
    """

    __slots__ = ("period_s",)

    def __init__(self, segment: Segment) -> None:
        super().__init__(segment)
        self.period_s = segment.spec.period_s

    @classmethod
    def open_writer(
        cls, provider: str, symbol: str, *, period_s: int, rows: int, path: Path | None = None
    ) -> tuple[ShmArray, bool]:
        """Adopt or make the array and become its writer; return (array, adopted)."""
        spec = Spec.of(
            KIND_BARS, OHLC_DTYPE, rows=rows, period_s=period_s, symbol=symbol, provider=provider
        )
        what = _SUFFIXES.get(period_s, f"{period_s}s")
        segment, adopted = Segment.open_writer(path or segment_path(provider, symbol, what), spec)
        if not adopted:
            # Room below for history: row numbers start one capacity up and never go negative.
            for word in (_FIRST, _LAST, _SETTLED):
                segment.words[word] = spec.capacity
        return cls(segment), adopted

    # -- reading -----------------------------------------------------------------------------
    @property
    def array(self) -> Rows:
        """Return the view of all readable rows: live, without a copy or a lock.

        The newest row may change while you look at it; take :meth:`read` where that matters.
        """
        first, last = self.first_index, self.last_index
        slot = first % self._capacity
        return self._segment.rows[slot : slot + max(0, last - first)]

    def last(self, length: int = 1) -> Rows:
        """Return a view of the newest rows (predecessor's name)."""
        return self.array[-length:]

    @property
    def index(self) -> int:
        """Return the slot that the next row will take (predecessor's name)."""
        return self.last_index % self._capacity

    def read(self, start: int | None = None, stop: int | None = None) -> Rows:
        """Return a whole copy of rows ``[start, stop)`` by row number; default everything.

        Rows that were overwritten or do not exist yet are left out: look at ``index`` of what
        you get. Blocks for microseconds; raises ``PeerLost`` when the writer died in mid-row.
        """
        margin = 0
        for attempt in range(READ_TRIES):
            found = self._try_read(start, stop, attempt, margin)
            if isinstance(found, np.ndarray):
                return found
            if found:  # a fast writer takes the oldest rows: keep further away from it
                margin = min(margin + self._guard // 4, self._capacity // 4)
        raise PeerLost(f"{self._segment.path.name} changed under {READ_TRIES} attempts to read it.")

    def _try_read(
        self, start: int | None, stop: int | None, attempt: int, margin: int
    ) -> Rows | bool:
        """Return the rows, or whether it was their oldest that the writer took meanwhile."""
        words, rows, capacity = self._words, self._segment.rows, self._capacity
        self._wait_even(attempt)
        revision, settled = words[Word.REVISION], words[_SETTLED]
        low = max(self.first_index, start if start is not None else 0)
        if margin:
            low = max(low, words[_LAST] - capacity + self._guard + margin)
        high = min(words[_LAST], stop if stop is not None else 1 << 62)
        if high <= low:
            return rows[:0].copy()
        still = min(high, max(low, settled))  # rows below it change by a revision only
        found = np.empty(high - low, rows.dtype)
        found[: still - low] = rows[low % capacity : low % capacity + still - low]
        seq = self._wait_even(attempt)
        high = min(high, words[_LAST])
        if high < still:
            return False  # a restarted writer gave rows up
        found[still - low : high - low] = rows[still % capacity : still % capacity + high - still]
        oldest = words[_LAST] - capacity + self._guard
        if oldest > low:
            return True
        if words[_SEQ] != seq or words[Word.REVISION] != revision:
            return False
        return found[: high - low]

    # -- writing -----------------------------------------------------------------------------
    def write_bars(self, bars: Sequence[Bar], *, replaces_last: bool) -> None:
        """Append bars; with ``replaces_last`` the first of them takes the open row's place."""
        limit = self._guard
        for begin in range(0, len(bars), limit):
            self._write_some(bars[begin : begin + limit], replaces_last and begin == 0)

    def _write_some(self, bars: Sequence[Bar], replaces_last: bool) -> None:
        words, raw = self._words, self._segment.bytes
        start = words[_LAST] - replaces_last
        stop = start + len(bars)
        if stop > self._real_to:
            self._reserve(start, stop)
        offset = (start % self._capacity) * 72
        seq = words[_SEQ]
        words[_SEQ] = seq + 1
        if start < words[_SETTLED]:  # the open row was given up when a killed writer was replaced
            words[_SETTLED] = start  # so that this row is given up, too, should we die in it
            words[Word.REVISION] += 1
        for index, bar in enumerate(bars, start):
            _pack_bar(raw, offset, index, *bar)
            offset += 72
        words[_LAST] = stop
        words[_SETTLED] = stop - 1
        words[_SEQ] = seq + 2

    def revise_bar(self, bar: Bar) -> bool:
        """Rewrite the row of the bar's time; return False when it is not there."""
        words = self._words
        last = words[_LAST]
        if last == words[_FIRST]:
            return False
        slot = (last - 1) % self._capacity
        newest = int(self._segment.rows["time"][slot])
        index = last - 1 - (newest - bar.time) // self.period_s
        if not self.first_index <= index < last or (newest - bar.time) % self.period_s:
            return False
        offset, raw = (index % self._capacity) * _BAR.size, self._segment.bytes
        words[_SEQ] += 1
        self._segment.undo[:] = raw[offset : offset + _BAR.size]
        words[Word.REVISED] = index + 1
        _pack_bar(raw, offset, index, *bar)
        words[Word.REVISION] += 1
        words[Word.REVISED] = 0
        words[_SEQ] += 1
        return True

    @property
    def room(self) -> int:
        """Return how many rows fit below the first one."""
        words = self._words
        return max(0, self._capacity - self._guard - (words[_LAST] - words[_FIRST]))

    def push(self, data: Rows, *, prepend: bool = False) -> int:
        """Append rows, or put history before the first one; return how many were written.

        ``index`` of the rows is ignored and set. Prepending keeps the newest rows of ``data``
        that there is room for.
        """
        words, limit = self._words, self._guard
        if prepend:
            data = data[max(0, len(data) - self.room) :]
            for end in range(len(data), 0, -limit):
                part = data[max(0, end - limit) : end]
                self._store(part, words[_FIRST] - len(part))
                words[_FIRST] -= len(part)
            return len(data)
        data = data[max(0, len(data) - (self._capacity - limit)) :]
        for begin in range(0, len(data), limit):
            part = data[begin : begin + limit]
            self._store(part, words[_LAST])
        return len(data)

    def _store(self, part: Rows, start: int) -> None:
        words, segment = self._words, self._segment
        segment.reserve(start, len(part))  # below or above: prepends do not run ahead
        slot = start % self._capacity
        words[_SEQ] += 1
        view = segment.rows[slot : slot + len(part)]
        for name in OHLC_DTYPE.names or ():
            if name != "index":
                view[name] = part[name]
        view["index"] = np.arange(start, start + len(part))
        if start >= words[_LAST]:
            words[_LAST] = start + len(part)
            words[_SETTLED] = words[_LAST] - 1
        words[_SEQ] += 1

    def reset(self) -> None:
        """Drop all rows; numbers go on, so that no reader takes new rows for old ones."""
        words = self._words
        words[_SEQ] += 1
        words[_LAST] += self._capacity
        words[_FIRST] = words[_SETTLED] = words[_LAST]
        words[Word.REVISION] += 1
        words[_SEQ] += 1


class TickRing(_Shared):
    """Ticks of one market, append-only: a row is whole before ``last_index`` passes it."""

    __slots__ = ()

    @classmethod
    def open_writer(
        cls, provider: str, symbol: str, *, rows: int, path: Path | None = None
    ) -> tuple[TickRing, bool]:
        """Adopt or make the ring and become its writer; return (ring, adopted)."""
        spec = Spec.of(
            KIND_TICKS, TICK_DTYPE, rows=rows, period_s=0, symbol=symbol, provider=provider
        )
        segment, adopted = Segment.open_writer(
            path or segment_path(provider, symbol, "ticks"), spec
        )
        return cls(segment), adopted

    def extend_packed(self, packed: bytes) -> None:
        """Append rows packed with ``TICK_FORMAT``, their ``index`` set by the caller."""
        words, size = self._words, len(packed)
        start = words[_LAST]
        stop = start + size // 64
        if stop > self._real_to or size > self._most:
            self._extend_slowly(packed)
            return
        offset = start % self._capacity * 64
        self._bytes[offset : offset + size] = packed
        words[_LAST] = stop

    def _extend_slowly(self, packed: bytes) -> None:
        """Append rows that need new pages, or are more than readers may be surprised by."""
        most = self._most
        for begin in range(0, len(packed), most):
            part = packed[begin : begin + most]
            start = self._words[_LAST]
            self._reserve(start, start + len(part) // 64)
            self.extend_packed(part)

    @property
    def array(self) -> Rows:
        """Return the view of all readable ticks, without a copy."""
        first, last = self.first_index, self.last_index
        slot = first % self._capacity
        return self._segment.rows[slot : slot + max(0, last - first)]

    def cursor(self, *, newest: bool = True) -> Cursor:
        """Return a reader that starts at the newest tick, or at the oldest."""
        return Cursor(self, self.last_index if newest else self.first_index)


class Cursor:
    """Follows a ring and knows exactly what it missed."""

    __slots__ = (
        "_bytes",
        "_capacity",
        "_far",
        "_guard",
        "_near",
        "_ring",
        "_words",
        "missed",
        "position",
    )

    def __init__(self, ring: TickRing, position: int) -> None:
        self._ring = ring
        self._words = ring._words
        self._bytes = ring._segment.bytes
        self._capacity = ring._capacity
        self._guard = ring._guard
        self._far = ring._capacity - ring._guard  # rows behind the newest that are still safe
        self._near = self._far // 2
        self.position = position  # number of the next row to read
        self.missed = 0  # rows lost in all

    def pending(self) -> int:
        """Return how many rows have been written since the last take."""
        return self._words[_LAST] - self.position

    def take(self, limit: int = 65_536) -> Taken:
        """Return up to ``limit`` new rows as a copy, oldest first. Never blocks."""
        packed, missed = self.take_packed(limit)
        return Taken(np.frombuffer(packed, TICK_DTYPE), missed)

    def take_packed(self, limit: int = 65_536) -> tuple[bytearray, int]:
        """Return (up to ``limit`` new rows as they lie in memory, rows missed before them).

        ``TICK_FORMAT`` unpacks them: for a few rows at a time that is faster than numpy.
        """
        words, data, capacity = self._words, self._bytes, self._capacity
        low, last = self.position, words[_LAST]
        count = last - low
        if count <= self._near and count <= limit:  # the usual case: far from being lapped
            offset = low % capacity * 64
            packed = bytearray(data[offset : offset + count * 64])
            if words[_LAST] - low <= self._far:
                self.position = last
                return packed, 0
        guard = self._guard
        missed = margin = 0
        while True:
            last = words[_LAST]
            low = self.position
            safe = last - capacity + guard
            if low < safe:
                low = min(last, safe + margin)
                missed += low - self.position
                self.position = low
            high = min(last, low + limit)
            offset = (low % capacity) * 64
            packed = bytearray(data[offset : offset + (high - low) * 64])
            if words[_LAST] - capacity + guard <= low:
                break  # nothing of it was overwritten while it was copied
            margin += guard  # a fast writer: keep further away from what it takes next
        self.position = high
        self.missed += missed
        return packed, missed


def attach_token(token: Token) -> ShmArray | TickRing:
    """Map what a token names, read-only."""
    segment = Segment.open_reader(Path(token.path))
    if segment.spec.kind == KIND_BARS:
        return ShmArray(segment)
    if segment.spec.kind == KIND_TICKS:
        return TickRing(segment)
    raise ShmError(f"{token.path} is of kind {segment.spec.kind}, which this piker does not know.")


# -- what is left behind -----------------------------------------------------------------------
def leftovers(directory: Path | None = None) -> list[Path]:
    """Return segment files that no process writes: of killed daemons, or set aside."""
    root = directory or runtime_dir() / "shm"
    found = []
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        try:
            segment = Segment.open_reader(path)
        except ShmError:
            found.append(path)  # a draft, a quarantined file, or no segment at all
            continue
        if not segment.writer_alive():
            found.append(path)
        segment.close()
    return found


def reap(directory: Path | None = None) -> int:
    """Remove what ``leftovers`` finds; return how many files went."""
    gone = 0
    for path in leftovers(directory):
        path.unlink(missing_ok=True)
        gone += 1
    return gone
