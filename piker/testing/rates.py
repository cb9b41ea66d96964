"""Counters of a venue's rate limits, as the venue keeps them: by client address.

Time is :mod:`piker.clock`'s. Every table is bounded: addresses of a loopback venue are few.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from piker.clock import monotonic_ns, wall_ns

__all__ = ["NS", "Level", "Rolling", "Window"]

NS = 1e9
T = TypeVar("T")
MAX_KEYS = 10_000  # addresses, or addresses with pairs; beyond that the oldest is forgotten


class Window:
    """Counts in windows that begin on multiples of their length, as an exchange's minute does."""

    def __init__(self, window_s: int) -> None:
        self.window_s = window_s
        self._counts: dict[str, tuple[int, float]] = {}  # key -> (window's number, count)

    def add(self, key: str, weight: float) -> float:
        """Count, and return the window's count with it."""
        number = wall_ns() // (self.window_s * 10**9)
        before, count = self._counts.pop(key, (number, 0.0))
        count = count + weight if before == number else weight
        _room(self._counts)
        self._counts[key] = (number, count)
        return count

    def count(self, key: str) -> float:
        """Return the count of the window in progress."""
        number, count = self._counts.get(key, (-1, 0.0))
        return count if number == wall_ns() // (self.window_s * 10**9) else 0.0

    def left_s(self) -> float:
        """Return how long the window in progress lasts yet."""
        return self.window_s - wall_ns() / NS % self.window_s

    def counts(self) -> dict[str, float]:
        """Return the counts of the window in progress."""
        return {key: self.count(key) for key in self._counts}


class Rolling:
    """Allows so many in any stretch of so many seconds."""

    def __init__(self, capacity: int, window_s: float) -> None:
        self.capacity = capacity
        self.window_s = window_s
        self._times: dict[str, deque[float]] = {}

    def take(self, key: str) -> float:
        """Count one; return 0, or the seconds until there is room for it (it is not counted)."""
        now = monotonic_ns() / NS
        times = self._times.get(key)
        if times is None:
            _room(self._times)
            times = self._times[key] = deque()
        while times and times[0] <= now - self.window_s:
            times.popleft()
        if len(times) >= self.capacity:
            return times[0] + self.window_s - now
        times.append(now)
        return 0.0


class Level:
    """A level that every call raises by one, up to ``capacity``, and that falls all the time."""

    def __init__(self, capacity: float, fall_per_s: float) -> None:
        self.capacity = capacity
        self.fall_per_s = fall_per_s
        self._levels: dict[str, tuple[float, float]] = {}  # key -> (level, as of)

    def take(self, key: str) -> bool:
        """Count one call; return whether there was room. A call that is refused counts nothing."""
        level = self.now(key) + 1
        if level > self.capacity:
            return False
        self._levels.pop(key, None)
        _room(self._levels)
        self._levels[key] = (level, monotonic_ns() / NS)
        return True

    def now(self, key: str) -> float:
        """Return the level as it stands."""
        level, as_of = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (monotonic_ns() / NS - as_of) * self.fall_per_s)

    def levels(self) -> dict[str, float]:
        """Return the levels that are not zero."""
        return {key: level for key in self._levels if (level := self.now(key))}


def _room(table: dict[str, T]) -> None:
    while len(table) >= MAX_KEYS:
        del table[next(iter(table))]
