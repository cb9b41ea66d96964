"""Has anything been lost? The venues' own rules, as pure checks.

Nothing here does I/O. A backend shows every event to its checker and does what it is told:
apply it, drop it, fetch a snapshot, or tell its consumers that ticks were missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Generic, TypeVar
from zlib import crc32

import msgspec

__all__ = [
    "MAX_BUFFERED",
    "Action",
    "DepthSync",
    "Gap",
    "IdCheck",
    "Step",
    "book_crc32",
    "crc_digits",
]

MAX_BUFFERED = 1000  # diffs held while a snapshot is under way: 100 s at Binance's 10 a second
MAX_SNAPSHOTS = 8  # snapshots in a row that did not fit before the stream itself is distrusted

E = TypeVar("E")


class Action(Enum):
    """What the caller is to do."""

    APPLY = "apply"  # put the step's events into the book, in order
    DROP = "drop"  # old news: do nothing
    WAIT = "wait"  # kept until the snapshot is there
    SNAPSHOT = "snapshot"  # fetch a snapshot and show it to `snapshot()`
    RESYNC = "resync"  # the book is wrong: clear it, tell consumers, fetch a snapshot
    RECONNECT = "reconnect"  # no snapshot ever fits: ask for a fresh connection


class Step(msgspec.Struct, Generic[E], frozen=True):
    """What to do, with which events, and why."""

    action: Action
    events: tuple[E, ...] = ()
    missed: int = 0  # update ids between the last applied event and this one, -1 if not known
    detail: str = ""


class DepthSync(Generic[E]):
    """Binance's book synchronisation (its documents: "How to manage a local order book").

    Diffs are buffered until a snapshot is there; a snapshot older than the first of them is
    asked for again; diffs it already holds are dropped; from the first that overlaps it on, each
    must continue the one before: ``U == u + 1`` on spot, ``pu == u`` on futures. ``E`` is the
    caller's event, carried along untouched.

    After ``SNAPSHOT`` or ``RESYNC`` the caller fetches one snapshot and calls
    :meth:`snapshot`; until then neither is said again.
    """

    def __init__(self, *, futures: bool = False) -> None:
        self.futures = futures
        self.synced = False
        self.last_id = -1  # u of the last applied event, or of the snapshot
        self._buffer: deque[tuple[int, int, int, E]] = deque()  # (first, last, previous, event)
        self._asked = False
        self._first_after_snapshot = False
        self._snapshots = 0  # in a row that did not fit

    def event(self, first: int, last: int, event: E, *, previous: int = -1) -> Step[E]:
        """Show a diff with its U, u (and pu on futures) and do as the step says."""
        if not self.synced:
            return self._buffered((first, last, previous, event))
        if self._is_old(last):
            return Step(Action.DROP)
        if self._continues(first, last, previous):
            self.last_id = last
            self._first_after_snapshot = False
            self._snapshots = 0
            return Step(Action.APPLY, (event,))
        gap = first - self.last_id - 1 if not self.futures else -1
        detail = f"{self.last_id} was followed by {previous if self.futures else first}"
        self.reset()
        self._buffer.append((first, last, previous, event))
        self._asked = True
        return Step(Action.RESYNC, missed=gap if gap > 0 else -1, detail=detail)

    def snapshot(self, last_update_id: int) -> Step[E]:
        """Show a snapshot's lastUpdateId.

        ``APPLY``: load the snapshot, then apply the events (perhaps none). ``SNAPSHOT``: it is
        too old, fetch another. ``RECONNECT``: ``MAX_SNAPSHOTS`` in a row did not fit.
        """
        self._asked = False
        if self._buffer and last_update_id < self._oldest_usable():
            return self._again(f"snapshot {last_update_id} ends before the first diff")
        self.synced, self.last_id, self._first_after_snapshot = True, last_update_id, True
        events: list[E] = []
        buffered, self._buffer = self._buffer, deque()
        while buffered:
            first, last, previous, event = buffered.popleft()
            if self._is_old(last):
                continue
            if not self._continues(first, last, previous):
                self.reset()
                self._buffer = buffered
                self._buffer.appendleft((first, last, previous, event))
                return self._again(f"a gap among the diffs before {first}")
            self.last_id, self._first_after_snapshot = last, False
            events.append(event)
        if events:
            self._snapshots = 0
        return Step(Action.APPLY, tuple(events))

    def failed(self) -> Step[E]:
        """Say that the snapshot could not be fetched: ask again (the caller waits before)."""
        self._asked = True
        return Step(Action.SNAPSHOT, detail="the snapshot could not be fetched")

    def reset(self) -> None:
        """Forget everything but the count of misfits: for a new connection."""
        self.synced, self.last_id, self._asked = False, -1, False
        self._first_after_snapshot = False
        self._buffer.clear()

    # -- rules ------------------------------------------------------------------------------
    def _is_old(self, last: int) -> bool:
        if self.futures and self._first_after_snapshot:
            return last < self.last_id  # 3.4: drop u < lastUpdateId
        return last <= self.last_id  # 2.3: drop u <= lastUpdateId; later, a repetition

    def _continues(self, first: int, last: int, previous: int) -> bool:
        if self._first_after_snapshot:
            if self.futures:
                return _floor(first, previous) <= self.last_id <= last
            return first <= self.last_id + 1 <= last
        return previous == self.last_id if self.futures else first == self.last_id + 1

    def _oldest_usable(self) -> int:
        """Return the least lastUpdateId that joins the first diff without a hole."""
        first, _, previous, _ = self._buffer[0]
        return _floor(first, previous) if self.futures else first - 1

    def _buffered(self, entry: tuple[int, int, int, E]) -> Step[E]:
        if len(self._buffer) >= MAX_BUFFERED:
            self._buffer.popleft()  # the snapshot will be newer than this
        self._buffer.append(entry)
        if self._asked:
            return Step(Action.WAIT)
        self._asked = True
        return Step(Action.SNAPSHOT, detail="first diff")

    def _again(self, detail: str) -> Step[E]:
        self._snapshots += 1
        self._asked = True
        if self._snapshots >= MAX_SNAPSHOTS:
            self._snapshots = 0
            self.reset()
            return Step(Action.RECONNECT, detail=detail)
        return Step(Action.SNAPSHOT, detail=detail)


def _floor(first: int, previous: int) -> int:
    """Return the least snapshot id that a futures diff may follow.

    The venue's text says U <= lastUpdateId. Its ids have holes, though: a snapshot that holds the
    diff before this one (pu) is no less complete, and waiting for a better one can take for ever
    on a quiet market.
    """
    return previous if previous >= 0 else first


class Gap(msgspec.Struct, frozen=True):
    """What an id says: is it ``new``, and how many ids before it never came."""

    new: bool
    missed: int = 0


_NEXT, _SEEN = Gap(True), Gap(False)  # the two common answers, made once


class IdCheck:
    """Trade ids that count up by one: sees holes and repetitions, for one symbol.

    ``dense=False`` takes ids that only have to grow. Late ids (after a reordering) are
    repetitions to it unless they were missed before: up to ``memory`` missed ids are
    remembered, and one of them that arrives after all is new and lowers ``missed``.
    """

    def __init__(self, *, dense: bool = True, memory: int = 256) -> None:
        self.last = -1
        self.last_ms = 0  # its caller's note of when that was
        self.missed = 0  # in all, less those that came late
        self.repeated = 0
        self._dense = dense
        self._memory = memory
        self._holes: deque[int] = deque(maxlen=memory)

    def check(self, number: int) -> Gap:
        """Judge the id of the next event."""
        if number > self.last:
            if self._dense and number != self.last + 1 and self.last >= 0:
                return self._ahead(number)
            self.last = number
            return _NEXT
        if number in self._holes:
            self._holes.remove(number)
            self.missed -= 1
            return _NEXT
        self.repeated += 1
        return _SEEN

    def _ahead(self, number: int) -> Gap:
        missed = number - self.last - 1
        self._holes.extend(range(max(self.last + 1, number - self._memory), number))
        self.missed += missed
        self.last = number
        return Gap(True, missed)

    def reset(self) -> None:
        """Forget the last id: for a new session of the venue."""
        self.last = -1
        self._holes.clear()


def crc_digits(text: str) -> str:
    """Return a venue's decimal as its checksum takes it: no point, no leading zeros."""
    return text.replace(".", "").lstrip("0")


def book_crc32(asks: Iterable[tuple[str, str]], bids: Iterable[tuple[str, str]]) -> int:
    """Return Kraken's checksum of a book ("Book checksum" in its documents).

    ``asks`` and ``bids`` are (price, size) as text in exactly the venue's digits, best first;
    the first ten of each count, asks before bids.
    """
    parts: list[str] = []
    for side in (asks, bids):
        for number, (price, size) in enumerate(side):
            if number == 10:
                break
            parts.append(crc_digits(price) + crc_digits(size))
    return crc32("".join(parts).encode())
