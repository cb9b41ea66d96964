"""What an answer cost on the wire: the bytes that REST calls of a block of code brought.

::

    with count_bytes() as moved:
        await get_ohlc(...)
    moved.bytes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Moved", "count_bytes", "note_bytes"]


class Moved:
    """A count that goes on while its block is open, in the block's task and those it starts."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0

    def take(self) -> int:
        """Return what was counted since the last time."""
        found, self.bytes = self.bytes, 0
        return found


_counts: ContextVar[tuple[Moved, ...]] = ContextVar("piker_moved", default=())


@contextmanager
def count_bytes() -> Iterator[Moved]:
    """Count the bodies of REST answers as they came: compressed, of failed attempts too."""
    moved = Moved()
    token = _counts.set((*_counts.get(), moved))
    try:
        yield moved
    finally:
        _counts.reset(token)


def note_bytes(size: int) -> None:
    """Add to every count that is open around the caller. Called by the toolkit alone."""
    for moved in _counts.get():
        moved.bytes += size
