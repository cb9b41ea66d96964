"""A recorded Binance book, rolled forward: what a depth snapshot says in the middle of a replay.

The newest recorded snapshot that is not newer than the diffs sent so far is taken, and these are
applied to it. Where every snapshot is still to come, the first one is the answer: a client drops
the diffs before it, as it does at the venue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from piker.brokers.book import OrderBook

__all__ = ["Snapshot", "depth_at"]

_encode = msgspec.json.encode


Level = Annotated[list[str], msgspec.Meta(min_length=2)]


class _Body(msgspec.Struct, frozen=True):
    lastUpdateId: int
    bids: list[Level]
    asks: list[Level]


class _Diff(msgspec.Struct, frozen=True):
    U: int
    u: int
    b: list[Level]
    a: list[Level]
    pu: int = -1
    E: int = 0
    T: int = 0


class Snapshot(msgspec.Struct):
    """A book: as recorded while ``book`` is None, rolled forward otherwise."""

    recorded: bytes
    last_id: int
    bids: list[Level]
    asks: list[Level]
    book: OrderBook | None = None
    extra: dict[str, Any] = {}  # fields beside the levels: times and names of futures

    @classmethod
    def of(cls, body: bytes) -> Snapshot | None:
        """Return a recorded answer as a snapshot; None where it is none."""
        try:
            found = msgspec.json.decode(body, type=_Body)
            extra = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        for name in ("lastUpdateId", "bids", "asks"):
            extra.pop(name)
        return cls(body, found.lastUpdateId, found.bids, found.asks, None, extra)

    def roll(self, diff: _Diff) -> None:
        """Apply a diff."""
        if self.book is None:
            self.book = OrderBook()
            self.book.load(self.bids, self.asks)
        self.book.apply(diff.b, diff.a)
        self.last_id = diff.u
        for name in ("E", "T"):
            if name in self.extra:
                self.extra[name] = getattr(diff, name)

    def body(self, limit: int) -> bytes:
        """Return it as the venue answers, at most ``limit`` levels a side."""
        if self.book is None:
            if max(len(self.bids), len(self.asks)) <= limit:
                return self.recorded
            bids, asks = self.bids[:limit], self.asks[:limit]
        else:
            bids = [list(level) for level in self.book.bids.levels(limit)]
            asks = [list(level) for level in self.book.asks.levels(limit)]
        return _encode({"lastUpdateId": self.last_id, **self.extra, "bids": bids, "asks": asks})


def depth_at(
    snapshots: Iterable[Snapshot | None], events: Iterable[dict[str, Any]], *, futures: bool
) -> Snapshot | None:
    """Return the book after these diffs; None where there is no snapshot.

    Diffs that have a hole between them end the rolling: the next snapshot counts from there on,
    or the last recorded one where none follows. Raises ``DataQuality`` for an impossible level.
    """
    known = sorted((s for s in snapshots if s is not None), key=lambda s: (s.last_id, len(s.bids)))
    if not known:
        return None
    diffs = [diff for event in events if (diff := _diff_of(event)) is not None]
    newest = diffs[-1].u if diffs else -1
    past = [snapshot for snapshot in known if snapshot.last_id <= newest]
    if not past:
        return known[0]
    chosen = past[-1]
    previous = -1
    for diff in diffs:
        if diff.u <= chosen.last_id:
            previous = diff.u
            continue
        follows = diff.pu == previous if futures and previous >= 0 else chosen.last_id + 1 >= diff.U
        if not follows and not (futures and diff.U <= chosen.last_id <= diff.u):
            later = [snapshot for snapshot in known if snapshot.last_id > newest]
            return later[0] if later else known[-1]
        chosen.roll(diff)
        previous = diff.u
    return chosen


def _diff_of(event: dict[str, Any]) -> _Diff | None:
    try:
        return msgspec.convert(event, _Diff)
    except msgspec.ValidationError:
        return None
